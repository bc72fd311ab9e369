"""(r - shift) * scale of a posterior of any kind, where the shift may itself be a reward that is not known for sure."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.rewards import GaussianRewards, MemberRewards, RewardPosterior, TransformedRewards

__all__ = ["Shift", "affine", "shifted"]

_ROWS = 4096


@dataclass(frozen=True)
class Shift:
    """What is subtracted from each of N rewards: a number, or a reward with doubts that correlate with theirs.

    Attributes:
        mean: [N] float64.
        members: [N, M] what each member of an ensemble subtracts from its own rewards; None: `mean` from all.
        factor: [B, K] factor rows of what is subtracted, in the basis of the posterior; None: it is taken as known.
        place: [N] the row in `factor` of what is subtracted from each.
    """

    mean: Tensor
    members: Tensor | None = None
    factor: Tensor | None = None
    place: Tensor | None = None


def affine(posterior: RewardPosterior, shift: Shift | None = None, scale: Tensor | float = 1.0) -> RewardPosterior:
    """The posterior of (r - shift) * scale.

    Gaussians stay Gaussian and members stay members; anything else becomes a `TransformedRewards` of it. With a factor
    on both sides the variance is that of the contrast, the row norms of the difference; where either lacks one, the
    shift counts as known and the variance is only scaled. The aleatoric noise is scaled; that of what is subtracted is
    not added.

    Args:
        posterior: of N rewards, NaN where not scored.
        shift: what is subtracted; nothing by default.
        scale: [N] or one number, positive.

    Returns:
        A posterior over the same responses, in the floating type of the one given.
    """
    scale = torch.as_tensor(scale, dtype=torch.float64, device=posterior.group.device).expand(len(posterior))
    if shift is None:
        shift = Shift(torch.zeros_like(scale))
    if isinstance(posterior, GaussianRewards):
        variance, factor = _spread(posterior.variance, posterior.factor, shift, scale)
        return GaussianRewards(
            ((posterior.mean - shift.mean) * scale).to(posterior.mean),
            variance,
            posterior.group,
            factor,
            _times(posterior.noise, scale.square()),
            posterior.text_id,
            posterior.basis_id,
        )
    if isinstance(posterior, MemberRewards):
        subtracted = shift.mean[:, None] if shift.members is None else shift.members
        within, factor = posterior.within_variance, posterior.within_factor
        if within is not None:
            within, factor = _spread(within, factor, shift, scale)
        return MemberRewards(
            ((posterior.members - subtracted) * scale[:, None]).to(posterior.members),
            posterior.group,
            posterior.ddof,
            posterior.basis_id,
            within_variance=within,
            within_factor=factor,
            noise=_times(posterior.noise, scale.square()),
            text_id=posterior.text_id,
        )
    return TransformedRewards(posterior, shift_and_scale, parameters=(shift.mean, scale), increasing=True)


def shifted(posterior: RewardPosterior, by: Tensor) -> RewardPosterior:
    """The posterior of r + by, of the same kind.

    Args:
        posterior: of N rewards.
        by: [N] what is added to each, known for sure.

    Example:
        >>> shifted(GaussianRewards(torch.tensor([1.0, 2.0]), torch.ones(2)), torch.tensor([0.5, -1.0])).mean.tolist()
        [1.5, 1.0]
    """
    return affine(posterior, Shift(-by.double()))


def shift_and_scale(draws: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(draws - shift) * scale, in the type of the draws [S, N]."""
    return ((draws - shift) * scale).to(draws)


def _spread(variance: Tensor, factor: Tensor | None, shift: Shift, scale: Tensor) -> tuple[Tensor, Tensor | None]:
    """Variance and factor of the scaled difference, in the type of the variance."""
    known = _times(variance, scale.square())
    if factor is None:
        return known, None
    out = factor.new_empty(factor.shape, dtype=variance.dtype)
    squares = torch.empty_like(variance)
    scale = scale.to(variance.dtype)[:, None]
    # copies of a wide factor are held for some rows at a time
    for start in range(0, len(factor), _ROWS):
        rows = slice(start, start + _ROWS)
        out[rows] = factor[rows]
        if shift.factor is not None and shift.place is not None:
            out[rows] -= shift.factor[shift.place[rows]].to(out)
        out[rows] *= scale[rows]
        squares[rows] = out[rows].square().sum(1)
    return known if shift.factor is None else squares, out


def _times(values: Tensor, scale: Tensor) -> Tensor:
    return (values * scale).to(values)
