"""How much draws vary, where some of what is random in them is which member of an ensemble it is.

A few members are a sample of the members there could be, so that what they disagree about is divided by M - ddof, as
`MemberRewards` has it. Draws that pick members say what the M members at hand disagree about (ddof 0). By the law of
total variance the missing share is ddof / (M - ddof) times the variance of the averages over the draws of each member.
Of a function of several ensembles each has its own share, and what they do together keeps ddof 0; of a sum that is all.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from prudent.rewards._protocol import RewardPosterior

__all__ = ["DrawSpread", "Picked", "sample_picked"]


@dataclass(frozen=True)
class Picked:
    """Which member of an ensemble each draw has.

    Attributes:
        which: [S] int64, the member of each draw.
        count: M, the number of members.
        ddof: 0 or 1, of the variance between them.
    """

    which: Tensor
    count: int
    ddof: int


@dataclass(frozen=True)
class DrawSpread:
    """Variances and covariances over S draws.

    Attributes:
        ddof: what is subtracted from the number of draws: 0 where they are all there are, 1 where they are a sample.
        picked: the ensembles that the draws pick members of.

    Example:
        >>> import torch
        >>> spread = DrawSpread(0, (Picked(torch.arange(2), 2, 1),))
        >>> spread.variance(torch.tensor([[1.0], [3.0]])).tolist()
        [2.0]
    """

    ddof: int
    picked: tuple[Picked, ...] = ()

    def variance(self, draws: Tensor) -> Tensor:
        """Variance [...] over the first axis of draws [S, ...]."""
        deviation = draws - draws.mean(0)
        variance = deviation.square().sum(0) / (len(draws) - self.ddof)
        for means in self._missing(deviation):
            variance = variance + means.square().sum(0)
        return variance

    def covariance(self, draws: Tensor) -> Tensor:
        """Covariance matrix [n, n] of draws [S, n], positive semi-definite."""
        deviation = draws - draws.mean(0)
        covariance = deviation.T @ deviation / (len(draws) - self.ddof)
        for means in self._missing(deviation):
            covariance = covariance + means.T @ means
        return covariance

    def _missing(self, deviation: Tensor) -> list[Tensor]:
        """For each ensemble [M, ...]: its averages, scaled so that their squares add up to what is missing."""
        out = []
        for one in self.picked:
            if one.ddof:
                which = one.which.to(deviation.device)
                size = torch.bincount(which, minlength=one.count).clamp(min=1).to(deviation)
                total = deviation.new_zeros(one.count, *deviation.shape[1:]).index_add_(0, which, deviation)
                scale = (one.ddof / (one.count - one.ddof) / (len(deviation) * size)).sqrt()
                out.append(total * scale.reshape(-1, *[1] * (deviation.dim() - 1)))
        return out


@runtime_checkable
class _Picking(Protocol):
    def _sample_picked(
        self, num_samples: int, generator: Generator, include_noise: bool
    ) -> tuple[Tensor, tuple[Picked, ...]]: ...


def sample_picked(
    posterior: RewardPosterior, num_samples: int, generator: Generator, include_noise: bool
) -> tuple[Tensor, tuple[Picked, ...]]:
    """Joint draws [S, N], as `sample` makes them, and the members that they have."""
    if isinstance(posterior, _Picking):
        return posterior._sample_picked(num_samples, generator, include_noise)
    return posterior.sample(num_samples, generator, include_noise=include_noise), ()
