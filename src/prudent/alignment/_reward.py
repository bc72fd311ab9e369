"""A reward callable for trainers of policies: texts in, one value per completion out, with what is known of it."""

import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from prudent.alignment._memory import is_out_of_memory
from prudent.alignment._reward_columns import RewardColumn
from prudent.alignment._reward_measures import RewardMeasures, measures_of, numbers
from prudent.alignment._reward_texts import check_texts, one_sided_templates, plain_text, stray_tokens
from prudent.errors import DataError, ModelError
from prudent.models import Message, require_there
from prudent.scoring import UtilityModel
from prudent.utility import ONLY, Utility, parse_utility

__all__ = ["PrudentReward"]


class PrudentReward:
    """A reward model with a utility, as TRL's GRPO, RLOO and online DPO trainers take reward functions.

    One value per completion: what the completion is worth under the utility, so that the policy is not paid for what
    the reward model does not know. A model without a posterior and the utility `mean` give its plain reward. Through
    the trainer's `log_metric` it logs the mean before the utility's last rule (`reward_mean`), its std (`reward_std`),
    the std of the contrast with the prompt's other completions, each reward by its name, and the shares of completions
    below the prompt's reference, empty, and cut; through `log_extra`, mean and std of each completion for the table of
    samples.

    It reads text: the policy may have another tokenizer and another chat template than the reward model. It can be
    pickled, since it holds paths and loads the model where it is first called. Within a process the last batch is
    remembered, so that `variance_column` and `sign_column` cost no second reading. A rule that draws (`thompson`) draws
    the same at every call, so that the policy follows one reward function out of the posterior; one that compares
    responses (`prob_best`) compares those of a call.

    Args:
        model: folder or hub name of a reward model or an ensemble, or several by the names in the utility. A posterior
            beside a model is used.
        utility: as text, as an expression, or the folder of a saved one, which knows the references of its prompts.
        references: a scored file with reference responses to every prompt, which are read again at every call; see
            `UtilityModel`. A saved utility that was fitted on responses with their factor gives the same without.
        empty: what an empty completion is worth: "score", what the model says of an empty text; "none", not
            applicable. By default it is scored: a policy that learns to say nothing would otherwise get no signal
            against it.
        truncation_penalty: what a completion that was cut at the length limit loses; >= 0, in the utility's unit. It
            needs the tokens of completions at every call, which TRL's trainers give.
        max_completion_length: the trainer's limit in tokens, by which completions that were cut are known.
        eos_token_id: ids of the policy that end a text: a completion of full length that holds one was not cut.
            Without them every completion of full length counts as cut.
        dtype: of the reward model's weights, as in `RewardModel.from_pretrained`.
        tokens_per_batch: padded tokens that the reward model reads at once; lower it where memory runs out.
        name: under which trainers log it.

    Raises:
        UtilityError: the text is not a utility.
        DataError: it reads a reward that there is no model of, or there is no such file of references.
        ModelError: a path where there is no model; what else may be wrong with one shows at the first call, or in
            `load`.
        ValueError: an option out of range.

    Example:
        >>> reward = PrudentReward("rm-posterior", "lcb_std(1)")
        >>> trainer = RLOOTrainer("my-policy", reward_funcs=reward, train_dataset=prompts)  # doctest: +SKIP
        >>> reward(prompts=["Name a fruit."], completions=["An apple."])  # doctest: +SKIP
        [-0.71]
    """

    def __init__(
        self,
        model: str | Path | Mapping[str, str | Path],
        utility: str | Path | Utility = "mean",
        *,
        references: str | Path | None = None,
        empty: Literal["score", "none"] = "score",
        truncation_penalty: float = 0.0,
        max_completion_length: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        dtype: torch.dtype | str | None = None,
        tokens_per_batch: int | None = None,
        name: str = "prudent",
    ) -> None:
        if empty not in ("score", "none"):
            raise ValueError(f"empty must be 'score' or 'none', got {empty!r}")
        if not 0 <= truncation_penalty < float("inf"):
            raise ValueError(f"truncation_penalty must be finite and at least 0, got {truncation_penalty}")
        if truncation_penalty and max_completion_length is None:
            raise ValueError("a truncation_penalty needs max_completion_length, by which cut completions are known")
        for option, value in (("max_completion_length", max_completion_length), ("tokens_per_batch", tokens_per_batch)):
            if value is not None and value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        if isinstance(utility, Utility):
            utility = str(utility)
        if not os.path.exists(utility):
            _check_names(parse_utility(str(utility)), model)
        for one in model.values() if isinstance(model, Mapping) else [model]:
            require_there(one)
        if references is not None and not os.path.exists(references):
            raise DataError(f"there is no {references}; give the output of `prudent score`")
        self._model = (
            {key: _lasting(one) for key, one in model.items()} if isinstance(model, Mapping) else _lasting(model)
        )
        self._utility = _lasting(utility)
        self._references = None if references is None else _lasting(references)
        self._empty = empty
        self._truncation_penalty = truncation_penalty
        self._max_completion_length = max_completion_length
        self._eos_token_ids = frozenset([eos_token_id] if isinstance(eos_token_id, int) else eos_token_id or ())
        self._dtype = dtype
        self._tokens_per_batch = tokens_per_batch
        self._needs_embeddings = False
        self._told: set[str] = set()
        self.__name__ = name
        self._forget()

    def _forget(self) -> None:
        """Be as if never called: what is left can be pickled."""
        self._lock = threading.Lock()
        self._worth: UtilityModel | None = None
        self._last: tuple[Any, RewardMeasures] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_worth", "_last")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"PrudentReward({self._model!r}, {self._utility!r}, name={self.__name__!r})"

    @property
    def model(self) -> str | dict[str, str]:
        """Folder or hub name of the reward model, or several by name."""
        return self._model

    @property
    def utility(self) -> str:
        """The utility as text, or its folder."""
        return self._utility

    def load(self) -> UtilityModel:
        """Load the model now, rather than at the first call; whatever is wrong with it or the utility shows here.

        Torch's random numbers are those after it that they were before.

        Raises:
            PrudentError: as `UtilityModel`.
        """
        if self._worth is None:
            # Adapters are drawn before they are loaded. Were the trainer's own draws to move with that, a run that is
            # resumed, which restores them and loads later, would write other completions.
            with torch.random.fork_rng(range(torch.cuda.device_count())):
                self._worth = UtilityModel(
                    self._model,
                    self._utility,
                    references=self._references,
                    dtype=self._dtype,
                    tokens_per_batch=self._tokens_per_batch,
                    factor=True,
                    embeddings=self._needs_embeddings,
                )
        return self._worth

    def __call__(
        self,
        prompts: Sequence[str | Sequence[Message]],
        completions: Sequence[str | Sequence[Message]],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """What each completion is worth; None where that is not applicable (see `RewardMeasures.is_applicable`).

        Args:
            prompts: of each completion, a text or messages.
            completions: texts, or messages that answer.
            completion_ids: tokens of each, by which completions that were cut are known.
            log_metric: called with a name and a number.
            log_extra: called with a name and a list of a number or None for each completion.
            columns: of the data set, and what else a trainer gives; not read.

        Raises:
            ValueError: not as many prompts as completions, or a penalty of those that were cut and no tokens.
            DataError: a text is none, or a completion's reward is not a number.
            ModelError: the model cannot be loaded, or memory ran out.
        """
        found = self.measure(prompts, completions, completion_ids)
        if log_metric is not None:
            for metric, average in found.metrics.items():
                log_metric(f"{self.__name__}/{metric}", average)
        if log_extra is not None:
            log_extra(f"{self.__name__}_reward_mean", numbers(found.mean))
            log_extra(f"{self.__name__}_reward_std", numbers(found.std))
        return numbers(found.value)

    def measure(
        self,
        prompts: Sequence[str | Sequence[Message]],
        completions: Sequence[str | Sequence[Message]],
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> RewardMeasures:
        """What is known of the completions' rewards; of the same batch again, what was found before.

        Args:
            prompts: as for a call.
            completions: as for a call.
            completion_ids: as for a call.

        Raises:
            ValueError: as for a call.
            PrudentError: as for a call.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"there are {len(prompts)} prompts and {len(completions)} completions")
        if completion_ids is not None and len(completion_ids) != len(completions):
            raise ValueError(f"there are {len(completions)} completions and the tokens of {len(completion_ids)}")
        if completion_ids is None and self._truncation_penalty:
            raise ValueError(
                "there is a truncation_penalty and no completion_ids, by which completions that were cut are known; "
                "give them, or leave the penalty out"
            )
        is_truncated = self._is_truncated(completion_ids)
        cut = None if is_truncated is None else is_truncated.tolist()
        batch = json.dumps([list(prompts), list(completions), cut], default=str)
        # tensors made in a trainer's inference mode are of no use to posteriors that need gradients
        with self._lock, torch.inference_mode(False):
            if self._last is None or self._last[0] != batch:
                self._last = (batch, self._measured(prompts, completions, is_truncated))
            return self._last[1]

    def variance_column(self, of: Literal["reward", "contrast"] = "reward") -> RewardColumn:
        """A reward function that gives the variance, for a reward weight of 0, from the same scoring call.

        Args:
            of: the completion's own ("reward"), or that of its contrast with the prompt's other completions: all of the
                call, also where a data set has the prompt twice and the trainer compares each half apart.
        """
        if of not in ("reward", "contrast"):
            raise ValueError(f"of must be 'reward' or 'contrast', got {of!r}")
        return RewardColumn(self, "variance" if of == "reward" else "contrast_variance", "variance")

    def sign_column(self, kind: Literal["sign", "signcert"] = "sign") -> RewardColumn:
        """A reward function that gives `sign_weights` or `signcert_weights`, for a reward weight of 0, likewise.

        Weights of `signcert` are relative to the completions of one call. A prompt that a call has twice is one prompt.
        """
        if kind not in ("sign", "signcert"):
            raise ValueError(f"kind must be 'sign' or 'signcert', got {kind!r}")
        if kind == "signcert" and not self._needs_embeddings:
            self._needs_embeddings = True
            self._forget()
        return RewardColumn(self, kind, "sign_weight")

    def _is_truncated(self, completion_ids: Sequence[Sequence[int]] | None) -> torch.Tensor | None:
        limit = self._max_completion_length
        if completion_ids is None or limit is None:
            return None
        cut = [len(ids) >= limit and self._eos_token_ids.isdisjoint(ids) for ids in completion_ids]
        return torch.tensor(cut, dtype=torch.bool)

    def _measured(
        self,
        prompts: Sequence[str | Sequence[Message]],
        completions: Sequence[str | Sequence[Message]],
        is_truncated: torch.Tensor | None,
    ) -> RewardMeasures:
        check_texts(prompts, completions)
        worth = self.load()
        texts = [plain_text(prompt) for prompt in prompts]
        number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        said = [plain_text(completion) for completion in completions]
        known = worth.knows(prompts)
        self._tell(worth, prompts, said, known)
        is_empty = torch.tensor([not text.strip() for text in said], dtype=torch.bool)
        is_applicable = torch.tensor(known, dtype=torch.bool)
        if self._empty == "none":
            is_applicable &= ~is_empty
        rows = is_applicable.nonzero().flatten().tolist()
        try:
            scores = worth([prompts[row] for row in rows], [completions[row] for row in rows])
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            tokens = "" if self._tokens_per_batch is None else f" (it is {self._tokens_per_batch})"
            raise ModelError(
                f"memory ran out while {len(rows)} completions were scored: lower tokens_per_batch of the reward"
                f"{tokens}, or load the reward model in dtype='bfloat16'"
            ) from error
        wrong = (~scores.value.isfinite()).nonzero().flatten().tolist()
        if wrong:
            row = rows[wrong[0]]
            raise DataError(
                f"the reward of completion {row}, {said[row][:60]!r}, to the prompt {texts[row][:60]!r} is not a "
                f"number ({len(wrong)} of {len(rows)}): the model overflows or is damaged; load it in dtype='float32', "
                "or look at its weights"
            )
        return measures_of(
            worth,
            scores,
            group=torch.tensor([number_of[text] for text in texts], dtype=torch.int64),
            is_applicable=is_applicable,
            is_empty=is_empty,
            is_truncated=is_truncated,
            truncation_penalty=self._truncation_penalty,
        )

    def _tell(self, worth: UtilityModel, prompts: Sequence[Any], said: Sequence[str], known: Sequence[bool]) -> None:
        """Warn, once each, of signs that policy, reward model and references do not speak of the same texts."""
        signs = [*stray_tokens(worth, prompts, said), *one_sided_templates(worth, prompts)]
        if known and not any(known):
            message = (
                f"no prompt of a batch has references, which {worth.utility} needs: its completions get None and give "
                "no signal; give references of the prompts that are trained on"
            )
            signs.append(("references", message))
        for kind, message in signs:
            if kind not in self._told:
                self._told.add(kind)
                warnings.warn(message, stacklevel=4)


def _check_names(utility: Utility, model: str | Path | Mapping[str, str | Path]) -> None:
    """Refuse a utility that reads what there is no model of, such as a misspelt step or folder."""
    known = tuple(model) if isinstance(model, Mapping) else (ONLY,)
    missing = [name for name in utility.reward_names if name not in known and not (name == ONLY and len(known) == 1)]
    if missing:
        raise DataError(
            f"the utility {str(utility)!r} reads a reward {missing[0]!r}, and the models are {', '.join(known)}: name "
            "a model so, or correct the utility (there is no folder of that name either)"
        )


def _lasting(place: str | Path) -> str:
    """A path that means the same in another folder; names that are no paths here stay as they are."""
    return os.path.abspath(place) if os.path.exists(place) else str(place)
