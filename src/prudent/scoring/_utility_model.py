"""What responses are worth, from their texts: models and a utility in one callable."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.models import Message, as_messages, as_response, render_plain
from prudent.posteriors import EnsembleScorer, ModelScorer, load_scorers
from prudent.rewards import RewardPosterior
from prudent.scoring._learned_steps import transforms_of
from prudent.scoring._prompt_features import prompt_features
from prudent.scoring._saved_utility import SavedUtility, prompt_keys
from prudent.scoring._scored import ScoredPool, read_scored
from prudent.scoring._shard_scorer import ShardScorer, model_name, score_shard
from prudent.scoring._shards import Slice
from prudent.scoring._utilities import Model, fit_utility, prompts_of, saved_utility, with_canned
from prudent.utility import (
    ONLY,
    Center,
    FittedUtility,
    PromptFeatures,
    RewardSet,
    TracedStep,
    TransformState,
    Utility,
    parse_utility,
)

__all__ = ["UtilityModel", "UtilityScores"]


@dataclass(frozen=True)
class UtilityScores:
    """What N responses are worth, and how that came about.

    Attributes:
        value: [N]; NaN where a response is not scored.
        steps: what every step of the utility gave, the value last.
        rewards: of the responses, by the names of their models; equal prompts have one number in their `group`. None
            where there are no responses.
        reference_mean: [N] average reward of the prompt's references that were read along, by the name of the model;
            NaN where there were none.
        embedding: [N, D] features of each response, where they were asked for.
        fitted: the utility for these prompts; None where there are no responses.
    """

    value: Tensor
    steps: tuple[TracedStep, ...]
    rewards: RewardSet | None = None
    reference_mean: Mapping[str, Tensor] = field(default_factory=dict)
    embedding: Tensor | None = None
    fitted: FittedUtility | None = None

    @property
    def components(self) -> dict[str, Tensor]:
        """[N] means by the step, as it is written, for logs."""
        return {step.source: step.mean for step in self.steps}

    @cached_property
    def posterior(self) -> RewardPosterior:
        """The joint posterior that the utility's rules judge; see `FittedUtility.joint`.

        To compare responses it needs their covariance: `UtilityModel(..., factor=True)`.

        Raises:
            ValueError: there are no responses.
            UnsupportedError: parts of the utility that end in rules do not go together without them.
        """
        if self.fitted is None or self.rewards is None:
            raise ValueError("there are no responses, and so no posterior over their rewards")
        return self.fitted.joint(self.rewards)


class UtilityModel:
    """Reward models and a utility: prompts and responses in, values out.

    What the utility subtracts comes from what it learned of the prompts, found by their text; from all prompts
    (`of=all`); from features of the prompt (`of=learned`), which are read then; or from a canned response, which is
    read along with the others, so that the variance is that of the contrast with it. With the reference of a prompt
    the variance of a Gaussian is that of the contrast with it where the utility was fitted on responses scored with
    `--factor`, to the precision of what is stored. Otherwise it is the reward's own, since a contrast needs both sides:
    values of rules that read it then differ from those that `select` gives the same responses, where the variance of
    the contrast with the average of the prompt's reference set is stored. Give `references` for the values that
    `select` gives.

    Args:
        model: the model of the only reward, or models by the names in the utility; a posterior beside a model is used.
        utility: saved (a folder, its YAML file, or what `fit_utility` gave), as text, or as an expression. One that is
            not saved needs no references, or a canned one, or `references`.
        references: a scored file with the texts of reference responses to every prompt that will come, such as
            `score` wrote of samples of the base policy; those it marks are read again beside each response. A utility
            that is not saved is fitted on it.
        max_length: tokens a text may have, for models loaded here.
        dtype: of the weights of models loaded here.
        tokens_per_batch: padded tokens of a batch.
        factor: keep the covariance of the responses, so that the scores' `posterior` can compare them; otherwise it is
            kept where the utility needs it.
        embeddings: keep features of the responses, for `UtilityScores.embedding`; of one model alone.

    Raises:
        UtilityError: the text is not a utility.
        DataError: a reward has no model, or another one than the utility was fitted for; references are needed.
        ModelError: a model cannot be loaded.
        PosteriorError: a posterior does not belong to its model.

    Example:
        >>> worth = UtilityModel({"helpful": "rm-a", "harmless": "rm-b"}, "utility")  # doctest: +SKIP
        >>> worth(["Name a fruit."], ["An apple."]).value  # doctest: +SKIP
        tensor([-0.71])
    """

    def __init__(
        self,
        model: Model | Mapping[str, Model],
        utility: str | Path | Utility | SavedUtility,
        *,
        references: str | Path | ScoredPool | None = None,
        max_length: int | None = None,
        dtype: torch.dtype | str | None = None,
        tokens_per_batch: int | None = None,
        factor: bool = False,
        embeddings: bool = False,
    ) -> None:
        if isinstance(references, str | Path):
            references = read_scored(references)
        self._saved = _ready(utility, references)
        self._reference_texts = None if references is None else _reference_texts(references)
        models = model if isinstance(model, Mapping) else {ONLY: model}
        self._scorers = load_scorers(models, max_length=max_length, dtype=dtype)
        self._tokens_per_batch = tokens_per_batch
        self._embeddings = embeddings
        expression = self._saved.utility
        rewards = {name: self._resolved(name) for name in expression.reward_names}
        if embeddings and len(set(rewards.values())) > 1:
            raise DataError(f"features are those of one model, and {expression} reads {', '.join(rewards)}")
        for name, resolved in rewards.items():
            if name in expression.needs_variance_of and not self._scorers[resolved].has_variance:
                raise DataError(f"the model of {name!r} has no posterior, which {expression} needs; fit one first")
            self._saved.check_basis(name, self._scorers[resolved].basis_id, model_name(self._scorers[resolved]))
        centers = [(node, step) for node, step in transforms_of(expression) if isinstance(step, Center)]
        canned = {rewards[node.reward_names[0]]: step.canned for node, step in centers if step.canned is not None}
        self._learned = {rewards[name] for node, step in centers if step.of == "learned" for name in node.reward_names}
        factor = (
            factor
            or expression.depends_on_pool
            or expression.draws
            or any("factor" in {**state.per_prompt, **state.shared} for state in self._saved.fitted.states.values())
        )
        self._shards = {
            name: ShardScorer(
                self._scorers[name],
                canned.get(name),
                factor=factor and self._scorers[name].has_variance,
                tokens_per_batch=tokens_per_batch,
                strict=False,
                embeddings=embeddings,
            )
            for name in dict.fromkeys(rewards.values())
        }

    @property
    def utility(self) -> Utility:
        """What it says."""
        return self._saved.utility

    @property
    def scorers(self) -> Mapping[str, ModelScorer | EnsembleScorer]:
        """The models that the utility reads, by name."""
        return {name: self._scorers[name] for name in self._shards}

    def knows(self, prompts: Sequence[str | Sequence[Message]]) -> list[bool]:
        """Of each prompt whether all that the utility needs of its reference responses is known."""
        texts = [render_plain(as_messages(prompt)) for prompt in prompts]
        distinct = list(dict.fromkeys(texts))
        lacking = {text for _, some in self._lacking(distinct) for text in some}
        if self._reference_texts is not None:
            lacking |= set(distinct) - set(self._reference_texts)
        return [text not in lacking for text in texts]

    def __call__(
        self,
        prompts: Sequence[str | Sequence[Message]],
        responses: Sequence[str | Sequence[Message]],
        generator: Generator | None = None,
    ) -> UtilityScores:
        """What N responses are worth.

        Args:
            prompts: of each response, a text or messages; equal ones are one prompt.
            responses: texts, or messages.
            generator: source of randomness for rules that draw; seed 0 by default.

        Raises:
            ValueError: not as many prompts as responses.
            DataError: nothing is known of a prompt's references.
        """
        if len(prompts) != len(responses):
            raise ValueError(f"there are {len(prompts)} prompts and {len(responses)} responses")
        if not prompts:
            return UtilityScores(torch.empty(0), ())
        texts = [render_plain(as_messages(prompt)) for prompt in prompts]
        distinct = list(dict.fromkeys(texts))
        self._check_known(distinct)
        pool, rows = self._scored(prompts, responses, texts, distinct)
        rewards = replace(pool.reward_set()[rows], features=self._features(distinct))
        ids = torch.arange(len(distinct))
        fitted = with_canned(self._saved.under(ids, distinct), rewards)
        steps = fitted.trace(rewards, generator)
        by_name = {name: pool.reward(name) for name in pool.reward_names}
        return UtilityScores(
            steps[-1].mean,
            steps,
            rewards,
            {name: one.column("reward_reference")[rows] for name, one in by_name.items()},
            pool.embedding()[rows] if self._embeddings else None,
            fitted,
        )

    def _lacking(self, texts: Sequence[str]) -> Iterator[tuple[Utility, list[str]]]:
        """Steps that need references that they have not learned, with the prompts of which they do."""
        keys = prompt_keys(texts)
        for node, step in transforms_of(self.utility):
            is_own = isinstance(step, Center) and (step.canned is not None or step.of == "learned")
            state = self._saved.fitted.states[str(node)]
            if is_own or not state.per_prompt:
                continue
            unknown = torch.nonzero(~torch.isin(keys, state.prompts)).flatten().tolist()
            if unknown:
                yield node, [texts[place] for place in unknown]

    def _check_known(self, texts: Sequence[str]) -> None:
        """Refuse prompts of which a step needs references that it has not learned, before anything is read."""
        for node, unknown in self._lacking(texts):
            raise DataError(
                f"`{node}` has no reference responses to the prompt {unknown[0][:60]!r} "
                f"({len(unknown)} such prompts): fit the utility on some, or take one that needs none of this "
                "prompt (of=all, of=learned)"
            )

    def _resolved(self, name: str) -> str:
        """The model that a reward in the utility means."""
        if name in self._scorers:
            return name
        if name == ONLY and len(self._scorers) == 1:
            return next(iter(self._scorers))
        if list(self._scorers) == [ONLY]:
            raise DataError(f"the model has no name, and {self._saved.utility} reads {name!r}: give models by name")
        raise DataError(f"there is no model for the reward {name!r}; there is {', '.join(self._scorers)}")

    def _scored(
        self,
        prompts: Sequence[str | Sequence[Message]],
        responses: Sequence[str | Sequence[Message]],
        texts: Sequence[str],
        distinct: Sequence[str],
    ) -> tuple[ScoredPool, Tensor]:
        """What a scored file of the responses, with their references, would hold, and the row of each response."""
        places: dict[str, list[int]] = {text: [] for text in distinct}
        for place, text in enumerate(texts):
            places[text].append(place)
        shard, is_reference, row_of = [], [], [0] * len(texts)
        size = 0
        for number, text in enumerate(distinct):
            references = self._references_of(text)
            own = [render_plain(as_response(responses[place])) for place in places[text]]
            for where, place in enumerate(places[text], size + len(references)):
                row_of[place] = where
            row: dict[str, Any] = {"prompt": prompts[places[text][0]], "responses": [*references, *own]}
            total = len(row["responses"])
            shard.append(Slice(number, row, 0, total))
            is_reference.append(np.arange(total) < len(references))
            size += total
        table = score_shard(shard, self._shards, {}, is_reference, lambda amount: None)
        return ScoredPool(table, "the responses"), torch.tensor(row_of)

    def _features(self, distinct: Sequence[str]) -> dict[str, PromptFeatures]:
        """Of the prompts, by the models from whose features a step learned its references."""
        ids = torch.arange(len(distinct))
        return {
            name: PromptFeatures(
                ids, prompt_features(self._scorers[name], distinct, tokens_per_batch=self._tokens_per_batch)
            )
            for name in self._learned
        }

    def _references_of(self, text: str) -> list[str]:
        if self._reference_texts is None:
            return []
        if text not in self._reference_texts:
            raise DataError(
                f"the references have no responses to the prompt {text[:60]!r}: score some, or leave the references "
                "out, with a utility that needs none of this prompt (of=all, of=learned)"
            )
        return self._reference_texts[text]


def _ready(utility: str | Path | Utility | SavedUtility, references: ScoredPool | None) -> SavedUtility:
    """The utility with what it must know, but for canned references."""
    saved = saved_utility(utility)
    if saved is not None:
        return saved
    assert isinstance(utility, str | Utility)
    expression = parse_utility(utility)
    if references is not None:
        return fit_utility(references, expression, progress=False)
    for node, step in transforms_of(expression):
        if step.needs_references and not (isinstance(step, Center) and step.canned is not None):
            raise DataError(
                f"`{node}` needs reference responses: fit the utility with `prudent utility` and give its folder, give "
                "references, or center on a canned response (canned=) or a number (at=)"
            )
    return SavedUtility(
        FittedUtility(expression, {str(node): TransformState() for node, _ in transforms_of(expression)})
    )


def _reference_texts(pool: ScoredPool) -> dict[str, list[str]]:
    """The marked reference responses of each prompt, by the prompt's text."""
    table = pool.table
    lacking = [name for name in ("response", "is_reference") if name not in table.column_names]
    if lacking:
        raise DataError(f"{pool.source} has no column {lacking[0]}, so its references cannot be read; score it again")
    found: dict[str, list[str]] = {}
    ids, texts = prompts_of(pool)
    text_of = dict(zip(ids.tolist(), texts, strict=True))
    marked = table.filter(table["is_reference"])
    for prompt, response in zip(marked["prompt_id"].to_pylist(), marked["response"].to_pylist(), strict=True):
        found.setdefault(text_of[prompt], []).append(response)
    return found
