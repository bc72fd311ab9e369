"""Best-of-n curves by drawing subsets, for utilities that look at the other candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from prudent.rewards import RewardPosterior, index_groups
from prudent.selection._best import best_of_n
from prudent.selection._scored import NanPolicy, PoolUtility, check_n_values, scored_rows
from prudent.utility import RewardSet

__all__ = ["ResampledCurve", "resampled_curve"]


Rewards = TypeVar("Rewards", RewardPosterior, RewardSet)


@dataclass(frozen=True)
class ResampledCurve:
    """A best-of-n curve estimated from drawn subsets.

    Attributes:
        mean: [B, L] or [B, L, V] float64, average value of the pick; NaN where a prompt has fewer than n candidates.
        standard_error: float64 of the same shape, Monte Carlo standard error of `mean` (not the spread between
            prompts). Exactly zero says that every subset led to the same value.
        num_resamples: subsets drawn per prompt and n.
    """

    mean: Tensor
    standard_error: Tensor
    num_resamples: int


def resampled_curve(
    utility: PoolUtility[Rewards],
    rewards: Rewards,
    value: Tensor,
    n_values: Sequence[int] | Tensor,
    num_resamples: int = 64,
    generator: Generator | None = None,
    *,
    nan: NanPolicy = "error",
    advance: Callable[[int], None] | None = None,
) -> ResampledCurve:
    """Expected value of the best of n, from subsets drawn without replacement on which it is evaluated afresh.

    Works for every utility; needed by those whose `depends_on_pool` is True. Cost: L x num_resamples evaluations of it,
    and one more on all responses to see which of them have a value.

    Args:
        utility: maps the rewards of a subset to values: a risk rule, or a fitted utility.
        rewards: of the N responses, a posterior or a set of several.
        value: [N] or [N, V] what is reported of the pick: gold reward, proxy reward, length, ... (V at once, all of the
            same picks from the same subsets).
        n_values: the L numbers of candidates, each at least 1.
        num_resamples: R >= 2 subsets for each prompt and n.
        generator: source of the subsets, of the utility's own draws and of tie-breaking; seed 0 by default.
        nan: "error" to refuse NaN in the utility or in value, "exclude" to leave such candidates out.
        advance: called with the number of subsets done, L x num_resamples in all, as `progress_bar` gives it.

    Returns:
        Means and Monte Carlo standard errors, prompts in ascending order of their ids.

    Raises:
        DataError: NaN while nan is "error".
        ValueError: shapes do not agree, an n is below 1, or num_resamples is below 2.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> from prudent.utility import ProbBest
        >>> pool = MemberRewards(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]]))
        >>> curve = resampled_curve(ProbBest(), pool, torch.tensor([0.0, 1.0, 1.0]), [2, 3], num_resamples=8)
        >>> curve.mean.tolist(), curve.standard_error.tolist()
        ([[1.0, 1.0]], [[0.0, 0.0]])
    """
    if num_resamples < 2:
        raise ValueError(f"num_resamples must be at least 2 to state an error, got {num_resamples}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    n = check_n_values(n_values)
    if value.dim() not in (1, 2):
        raise ValueError(f"value must have shape [N] or [N, V], got {list(value.shape)}")
    index = index_groups(rewards.group)
    # draws of its own, so that the subsets do not depend on whether the utility draws
    known = utility(rewards, torch.Generator(generator.device).manual_seed(0))
    keep = scored_rows(known, rewards.group, nan, value)
    counts = index.sum(keep.long())
    shape = (len(index.ids), len(n), *value.shape[1:])
    mean = torch.full(shape, torch.nan, dtype=torch.float64, device=value.device)
    error = mean.clone()
    for column, size in enumerate(n.tolist()):
        enough = counts >= size
        usable = (keep & enough[index.position]).nonzero()[:, 0]
        picked = []
        for _ in range(num_resamples if len(usable) else 0):
            rows = _subset(usable, index.position, size, generator)
            picked.append(value[_pick(utility, rewards, rows, generator)].double())
            if advance is not None:
                advance(1)
        if picked:
            values = torch.stack(picked)
            mean[enough, column] = values.mean(0)
            error[enough, column] = values.std(0) / num_resamples**0.5
        elif advance is not None:
            advance(num_resamples)
    return ResampledCurve(mean, error, num_resamples)


def _subset(usable: Tensor, position: Tensor, size: int, generator: Generator) -> Tensor:
    """`size` random rows of each prompt among the rows `usable`, prompt after prompt."""
    shuffled = usable[torch.randperm(len(usable), generator=generator, device=generator.device).to(usable.device)]
    shuffled = shuffled[torch.argsort(position[shuffled], stable=True)]
    _, counts = torch.unique_consecutive(position[shuffled], return_counts=True)
    start = torch.repeat_interleave(torch.cumsum(counts, 0) - counts, counts)
    return shuffled[torch.arange(len(shuffled), device=start.device) - start < size]


def _pick(utility: PoolUtility[Rewards], rewards: Rewards, rows: Tensor, generator: Generator) -> Tensor:
    """Row picked in each prompt when only `rows` are present."""
    subset = rewards[rows]
    return rows[best_of_n(utility(subset, generator), subset.group, generator=generator).index]
