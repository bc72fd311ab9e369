"""How strongly an ensemble prefers the chosen response of each pair to the rejected one (arXiv 2401.06080).

Heads that were trained on a pair have learned its label, flipped or not, so they must not judge it. Pairs are cut into
folds by prompt, and each fold is judged by heads that saw the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prudent.data import prompt_groups
from prudent.errors import DataError
from prudent.models import Message
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._heads_fit import fit_heads
from prudent.posteriors._scorer import ModelScorer

__all__ = ["PairStrength", "cross_fitted_strength", "folds_by_prompt", "prompt_ids", "strength_of_scorer"]


@dataclass(frozen=True)
class PairStrength:
    """Preference strength of P pairs: r(chosen) - r(rejected), and nothing else taken off.

    Attributes:
        mean: `[P]` float64 mean over members.
        std: `[P]` float64 population standard deviation (ddof 0) over members, with their own variances where they have
            any; the posterior's for a single model; None where nothing is known of it.
        num_members: M; 0 for a single model.
    """

    mean: Tensor
    std: Tensor | None
    num_members: int


def prompt_ids(prompts: Sequence[Sequence[Message]], rows: Sequence[int]) -> Tensor:
    """`[P]` a number for each prompt, equal where prompts are as `prudent.data.prompt_groups` has it.

    Args:
        prompts: of P pairs, as `load_preferences` gives them.
        rows: `[P]` where they stand, for messages.

    Raises:
        DataError: a pair has no prompt.

    Example:
        >>> ask = [{"role": "user", "content": "Name a color."}]
        >>> prompt_ids([ask, [{"role": "user", "content": "Name a river."}], ask], [0, 1, 2])
        tensor([0, 1, 0])
    """
    missing = [row for row, prompt in zip(rows, prompts, strict=True) if not prompt]
    if missing:
        raise DataError(
            f"{len(missing):,} pairs have no prompt (row {missing[0]} first), and folds are made by prompt; give"
            " prompts, or judge by a reward model that has not seen these pairs, without cross-fitting (--no-cross-fit)"
        )
    return torch.tensor(prompt_groups(prompts))


def folds_by_prompt(prompt: Tensor, num_folds: int, *, seed: int = 0) -> Tensor:
    """`[P]` fold of each pair in 0..num_folds-1: all pairs of a prompt in one, and folds of about the same size.

    Args:
        prompt: `[P]` number of each pair's prompt.
        num_folds: at least 2.
        seed: of the order in which prompts are dealt out; those with most pairs go first.

    Raises:
        DataError: fewer prompts than folds.
        ValueError: fewer than two folds.

    Example:
        >>> folds_by_prompt(torch.tensor([0, 0, 1, 2, 2]), 3).unique().tolist()
        [0, 1, 2]
    """
    if num_folds < 2:
        raise ValueError(f"num_folds is {num_folds}; cross-fitting needs at least 2")
    numbers, place, counts = torch.unique(prompt, return_inverse=True, return_counts=True)
    if len(numbers) < num_folds:
        raise DataError(
            f"the {len(prompt):,} pairs have {len(numbers)} distinct prompts, fewer than the {num_folds} folds; lower "
            "num_folds (--num-folds), or give more pairs"
        )
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    order = order[counts[order].argsort(descending=True, stable=True)]
    sizes = [0] * num_folds
    fold = torch.empty(len(numbers), dtype=torch.int64)
    for number in order.tolist():
        smallest = sizes.index(min(sizes))
        fold[number] = smallest
        sizes[smallest] += int(counts[number])
    return fold[place]


def cross_fitted_strength(
    features: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    prompt: Tensor,
    *,
    label: Tensor | None = None,
    margin: Tensor | None = None,
    num_folds: int = 5,
    num_members: int = 10,
    seed: int = 0,
) -> PairStrength:
    """Strengths by M heads on frozen features, each pair judged by heads that saw no pair of its prompt.

    Args:
        features: `[n, H]` of the texts.
        chosen: `[P]` place of each pair's chosen text among them.
        rejected: `[P]` place of the rejected one.
        prompt: `[P]` number of its prompt.
        label: `[P]` probability that chosen is better; ones by default.
        margin: `[P]` reward margins; zeros by default.
        num_folds: at least 2.
        num_members: M of each fold's heads, at least 2; see `fit_heads`.
        seed: of folds and heads.

    Raises:
        DataError: fewer prompts than folds.
        PosteriorError: one member, or features that are not finite or equal in every pair.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> features = torch.randn(120, 3, generator=g)
        >>> better, worse = torch.arange(60), torch.arange(60, 120)
        >>> swap = features[better, 0] < features[worse, 0]
        >>> chosen, rejected = torch.where(swap, worse, better), torch.where(swap, better, worse)
        >>> found = cross_fitted_strength(features, chosen, rejected, torch.arange(60))
        >>> bool((found.mean > 0).float().mean() > 0.9)
        True
    """
    fold = folds_by_prompt(prompt, num_folds, seed=seed)
    mean = torch.empty(len(chosen), dtype=torch.float64)
    std = torch.empty_like(mean)
    for number in range(num_folds):
        seen, own = fold != number, fold == number
        heads = fit_heads(
            features[chosen[seen]],
            features[rejected[seen]],
            label=None if label is None else label[seen],
            margin=None if margin is None else margin[seen],
            group=prompt[seen],
            num_members=num_members,
            seed=seed + number,
        )
        members = heads.members_of(features[chosen[own]]).double() - heads.members_of(features[rejected[own]]).double()
        mean[own], std[own] = members.mean(1), members.std(1, correction=0)
    return PairStrength(mean, std, num_members)


def strength_of_scorer(
    scorer: ModelScorer | EnsembleScorer,
    pairs: Any,
    *,
    tokens_per_batch: int | None = None,
    advance: Callable[[int], None] = lambda amount: None,
) -> PairStrength:
    """Strengths by a reward model or an ensemble as it is.

    Args:
        scorer: from `load_scorer`.
        pairs: that it encoded.
        tokens_per_batch: padded tokens of a batch.
        advance: called with the number of pairs done.

    Raises:
        PosteriorError: a reward is not finite; the row is named.
    """
    if isinstance(scorer, EnsembleScorer):
        found = scorer.member_contrasts(pairs, tokens_per_batch=tokens_per_batch, advance=advance)
        means = torch.stack([one.mean for one in found], 1)
        within = torch.stack([one.variance for one in found], 1).mean(1)
        return PairStrength(means.mean(1), (means.var(1, correction=0) + within).sqrt(), len(found))
    one = scorer.contrasts(pairs, tokens_per_batch=tokens_per_batch, advance=advance)
    if not scorer.has_variance:
        return PairStrength(one.mean, None, 0)
    members = scorer.num_members
    population = (members - 1) / members if members else 1.0
    return PairStrength(one.mean, (population * one.variance).sqrt(), members)
