"""Rewards as ranks among the reference responses of the prompt."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prudent.rewards import GroupIndex, RewardPosterior, TransformedRewards
from prudent.utility._affine import affine
from prudent.utility._statistic import (
    as_state,
    ascending_rows,
    by_prompt,
    mean_tensors,
    place_of,
    positive_spread,
    scored_rows,
    shift_from,
    take,
)
from prudent.utility._transform import PromptFeatures, Scale, TransformState

__all__ = ["QuantileRank"]

_MOST_LEVELS = 256


@dataclass(frozen=True)
class QuantileRank:
    """The share of the prompt's reference responses that a reward is above, whatever its units.

    The mean of the references is subtracted as `Center("mean")` does it, so that the posterior is that of the contrast
    with them; how they are spread about their mean is taken as known, at the posterior means.

    Attributes:
        fit: "empirical", linear between the sorted references: 0 at and below the smallest, 1 at and above the largest,
            j / (R - 1) at the j-th of R counted from 0, the inverse of the empirical quantile; the middle of what equal
            references span; of a single reference 0, 1/2 or 1. Responses above all references are not told apart; the
            other fit does: "normal", Phi((r - mean) / std), ddof 1.

    Raises:
        ValueError: another `fit`.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> rewards = GaussianRewards(torch.tensor([1.0, 3.0, 5.0, 2.0]), torch.zeros(4))
        >>> transform = QuantileRank()
        >>> [round(value, 4) for value in transform.apply(rewards, transform.init(rewards[:3])).mean.tolist()]
        [0.0, 0.5, 1.0, 0.25]
    """

    fit: Literal["empirical", "normal"] = "empirical"
    name: ClassVar[str] = "quantile_rank"
    takes: ClassVar[tuple[Scale, ...]] = ("reward", "centered", "number")
    needs_references: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.fit not in ("empirical", "normal"):
            raise ValueError(f"quantile_rank: fit must be empirical or normal, got {self.fit!r}")

    def gives(self, scale: Scale) -> Scale:
        """The probability of being above a reference response drawn at random."""
        return "probability"

    def init(self, references: RewardPosterior, features: PromptFeatures | None = None) -> TransformState:
        """Remember how the references of each prompt are spread.

        Of more than 256 references to a prompt, 256 of their quantiles stand for them: ranks are then right to 1/255.

        Raises:
            DataError: no reference is scored; with a normal fit, those of a prompt do not differ.
        """
        scored = scored_rows(references, self.name)
        index = by_prompt(scored, pooled=False)
        tensors = mean_tensors(scored, index)
        if self.fit == "normal":
            tensors["std"] = positive_spread(scored, index, "quantile_rank(fit=normal)", "write fit=empirical")
        else:
            tensors["levels"] = _sorted_levels(scored.mean.double() - tensors["reference"][index.position], index)
        return as_state(tensors, index, False, scored)

    def apply(
        self, posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None = None
    ) -> RewardPosterior:
        """Ranks in [0, 1] of N responses; for errors see `Center.apply`."""
        place = place_of(posterior, state, self.name)
        centered = affine(posterior, shift_from(posterior, state, place))
        if self.fit == "normal":
            std = take(state, "std", place)
            return TransformedRewards(centered, normal_rank, parameters=(std,), increasing=True)
        levels = take(state, "levels", place, posterior.mean.dtype)
        return TransformedRewards(centered, empirical_rank, parameters=(levels,), increasing=True)


def normal_rank(draws: Tensor, std: Tensor) -> Tensor:
    """Phi(draws / std), draws [S, N] and std [N]."""
    share: Tensor = torch.special.ndtr(draws / std.to(draws))
    return share


def empirical_rank(draws: Tensor, levels: Tensor) -> Tensor:
    """The share of the references below draws [S, N], linear between `levels` [N, R]: ascending, then +inf."""
    values, levels = draws.T.contiguous(), levels.to(draws).contiguous()
    count = levels.isfinite().sum(1, keepdim=True)
    below = torch.searchsorted(levels, values)
    within = torch.searchsorted(levels, values, right=True)
    # between level j - 1 and level j, where j levels are below it
    lower = levels.gather(1, (below - 1).clamp(min=0))
    upper = levels.gather(1, torch.minimum(below, (count - 1).clamp(min=0)))
    gap = upper - lower
    between = below - 1 + (values - lower) / torch.where(gap > 0, gap, 1.0)
    rank = torch.where(below == within, between, 0.5 * (below + within - 1)) / (count - 1).clamp(min=1)
    single = torch.where(below < within, 0.5, (below > 0).to(draws.dtype))
    rank = torch.where(count == 1, single, rank.clamp(0, 1))
    return torch.where(values.isnan() | (count == 0), torch.nan, rank).T


def _sorted_levels(values: Tensor, index: GroupIndex) -> Tensor:
    """Values [R] of each prompt ascending, or quantiles of many, as [B, Q] with the largest Q, +inf beyond the last."""
    ascending = values[ascending_rows(values, index)]
    kept = index.counts.clamp(max=_MOST_LEVELS)
    levels = values.new_full((len(index.ids), int(kept.max())), math.inf)
    start = index.counts.cumsum(0) - index.counts
    row = torch.repeat_interleave(torch.arange(len(kept), device=values.device), kept)
    column = torch.arange(len(row), device=values.device) - (kept.cumsum(0) - kept)[row]
    place = column * ((index.counts - 1).double() / (kept - 1).clamp(min=1))[row]
    low = place.floor().long()
    high = torch.minimum(low + 1, index.counts[row] - 1)
    levels[row, column] = torch.lerp(ascending[start[row] + low], ascending[start[row] + high], place - low)
    return levels
