"""The reward callable in the forms of trainers other than TRL, each with the signature that its trainer calls."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from prudent.alignment._reward import PrudentReward
from prudent.alignment._reward_measures import RewardMeasures
from prudent.alignment._reward_texts import SPECIAL_TOKENS
from prudent.errors import DataError
from prudent.models import Message
from prudent.utility import Utility

__all__ = ["OpenRLHFReward", "VerlReward"]

_OF_TOKENS = ("truncation_penalty", "max_completion_length", "eos_token_id")
_MARK = re.compile(r"\s*<[^<>\s]+>\s*")
_LEAST_OF_PROMPT = 16
"""Characters of a prompt that was cut from the left by which it is still told in a query."""


class _Exported:
    """What both forms share: a reward that must be known for every completion, since there is no None for them.

    Args:
        model: as for `PrudentReward`.
        utility: likewise.
        options: others of `PrudentReward`.

    Raises:
        ValueError: an option that these trainers have no use for, or one out of range.
    """

    def __init__(
        self, model: str | Path | Mapping[str, str | Path], utility: str | Path | Utility = "mean", **options: Any
    ) -> None:
        unused = [name for name in _OF_TOKENS if options.get(name)]
        if unused:
            raise ValueError(
                f"{unused[0]} is of no use here: this trainer gives texts and no tokens, so that completions which "
                "were cut are not known; have the trainer itself penalize them"
            )
        if options.get("empty") == "none":
            raise ValueError("empty='none' is of no use here: this trainer needs a number for every completion")
        self.reward = PrudentReward(model, utility, **options)
        self.__name__ = self.reward.__name__

    def _measured(self, prompts: Sequence[Any], completions: Sequence[str]) -> tuple[RewardMeasures, dict[str, Tensor]]:
        """What is known, and the numbers to log, [N] each, under names that are the same at every call."""
        found = self.reward.measure(prompts, completions)
        unknown = (~found.is_applicable).nonzero().flatten().tolist()
        if unknown:
            raise DataError(
                f"the prompt {str(prompts[unknown[0]])[:60]!r} has no reference responses, which the utility "
                f"{self.reward.utility} needs: take one that needs none of this prompt (of=all, of=learned)"
            )
        logged = {"reward_mean": found.mean, "empty": found.is_empty.double()}
        if found.posterior is not None:
            logged |= {"reward_std": found.std, "reward_lcb": found.mean - found.std}
        return found, logged


class OpenRLHFReward(_Exported):
    """A `reward_func` for OpenRLHF: `--reward.remote_url my_reward.py`.

    `rewards` are the values of the utility; `scores` are the same between 0 and 1, for dynamic filtering: a probability
    as it is, else the sigmoid of the value. `extra_logs` hold the mean, std and their difference (`reward_lcb`), and
    whether the response is empty.

    OpenRLHF gives prompt and response in one text, with special tokens: the response is what follows the prompt, less
    the special tokens at its end. Prompts come rendered by the policy's chat template. A reward model with a template
    of its own needs them as they were: put them in the label, as {"prompt": TEXT OR MESSAGES}.

    Args:
        model: as for `PrudentReward`.
        utility: likewise.
        end_of_text: the policy's token that ends a text, where it is none of the usual (`</s>`, `<eos>`, `<|...|>`).
        options: others of `PrudentReward`, but those about empty completions and ones that were cut: there is no None
            for the former, and no tokens to know the latter by.

    Raises:
        ValueError: one of those options, or another out of range.

    Example:
        >>> reward_func = OpenRLHFReward("rm-posterior", "lcb_std(1)")
        >>> reward_func(["Name a fruit. Apple.</s>"], ["Name a fruit."], [""])["rewards"]  # doctest: +SKIP
        tensor([-0.7100])
    """

    def __init__(
        self,
        model: str | Path | Mapping[str, str | Path],
        utility: str | Path | Utility = "mean",
        *,
        end_of_text: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, utility, **options)
        tokens = SPECIAL_TOKENS.pattern if not end_of_text else f"{SPECIAL_TOKENS.pattern}|{re.escape(end_of_text)}"
        self._end = re.compile(rf"(?:(?:{tokens})\s*)+$")

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **kwargs: Any
    ) -> dict[str, Any]:
        """`rewards` [N], `scores` [N] and `extra_logs` with [N] by name, all float32.

        Args:
            queries: prompt and response of each, with special tokens.
            prompts: of each, as the policy read them.
            labels: of each; a mapping may hold the `prompt` as the reward model is to read it.
            kwargs: what else a version of OpenRLHF gives; not read.

        Raises:
            ValueError: the lists are of different lengths.
            DataError: a query does not hold its prompt, or a prompt has no references that the utility needs.
            PrudentError: as `PrudentReward`.
        """
        if not len(queries) == len(prompts) == len(labels):
            raise ValueError(f"there are {len(queries)} queries, {len(prompts)} prompts and {len(labels)} labels")
        responses = [self._response(query, prompt) for query, prompt in zip(queries, prompts, strict=True)]
        own = [label.get("prompt") if isinstance(label, Mapping) else None for label in labels]
        read = [prompt if one is None else one for one, prompt in zip(own, prompts, strict=True)]
        found, logged = self._measured(read, responses)
        scale = self.reward.load().utility.scale
        in_unit = {"probability": found.value, "log_probability": found.value.exp()}
        return {
            "rewards": found.value.float(),
            "scores": in_unit.get(scale, found.value.sigmoid()).float(),
            "extra_logs": {name: values.float() for name, values in logged.items()},
        }

    def _response(self, query: str, prompt: str) -> str:
        # at the start, or after special tokens there, which may hold the text of a short prompt themselves
        start = 0
        while not query.startswith(prompt, start) and (mark := _MARK.match(query, start)):
            start = mark.end()
        if not query.startswith(prompt, start):
            start = query.find(prompt)
        if start >= 0:
            return self._end.sub("", query[start + len(prompt) :])
        # a prompt that was too long was cut from its left
        for size in range(len(prompt) - 1, _LEAST_OF_PROMPT - 1, -1):
            if query.startswith(prompt[-size:]):
                return self._end.sub("", query[size:])
        raise DataError(
            f"the query {query[:60]!r} does not hold its prompt {prompt[:60]!r}, so its response is not known: the "
            "policy's tokenizer gives another text back than it was given; put the prompt through it first"
        )


class VerlReward(_Exported):
    """A `compute_score` for verl: `custom_reward_function.path=my_reward.py`.

    Gives a dictionary with the value of the utility as `score`, and beside it, always under the same names, the mean,
    the std and their difference (`reward_lcb`), and whether the response is empty.

    verl does not pass the prompt. The data must have it in `extra_info`, as {"prompt": TEXT OR MESSAGES}.

    Args:
        model: as for `PrudentReward`.
        utility: likewise.
        options: as for `OpenRLHFReward`.

    Raises:
        ValueError: likewise.

    Example:
        >>> compute_score = VerlReward("rm-posterior", "lcb_std(1)")
        >>> compute_score("fruit", "Apple.", None, {"prompt": "Name a fruit."})["score"]  # doctest: +SKIP
        -0.71
    """

    def __call__(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """The `score` of one response, with more numbers to log.

        Args:
            data_source: not read.
            solution_str: the response.
            ground_truth: not read.
            extra_info: holds the `prompt`.
            kwargs: what else verl or its configuration gives; not read.

        Raises:
            DataError: there is no prompt, or it has no references that the utility needs.
            PrudentError: as `PrudentReward`.
        """
        found, logged = self._measured([_prompt_of(extra_info)], [solution_str])
        return {"score": float(found.value[0]), **{name: float(values[0]) for name, values in logged.items()}}


def _prompt_of(extra_info: Mapping[str, Any] | None) -> str | list[Message]:
    prompt = None if extra_info is None else extra_info.get("prompt")
    if prompt is None:
        there = "is not there" if extra_info is None else f"has {', '.join(map(str, extra_info)) or 'nothing'}"
        raise DataError(
            "verl passes no prompt to a reward function, and a reward model reads one: put it in the data as "
            f'extra_info = {{"prompt": ...}}, a text or messages (extra_info {there})'
        )
    # Parquet files give arrays of messages
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
