"""Bounds on rewards judged by preferences: RewardUQ's ranking score and bound calibration error.

Both ask about the interval mean +/- half_width of a difference of rewards, not about a distribution, so that methods
whose bounds have no distribution behind them can be compared too. Two half-widths are in use, for a number of standard
deviations c:

- c * (std_chosen + std_rejected), the paper's own: the two rewards' intervals are disjoint exactly where this interval
  of their difference leaves out zero. It ignores that the rewards correlate, and grows with what a prompt adds to both.
- c * std of the difference, from `contrast`, which does not.

References:
    Yang et al., RewardUQ: A Unified Evaluation Framework for Uncertainty-Aware Reward Models,
    https://arxiv.org/abs/2602.24040, 2026.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RankingRates", "bound_calibration_error", "ranking_rates", "ranking_score"]


@dataclass(frozen=True)
class RankingRates:
    """Shares of pairs by whether they are ranked as labelled and whether the interval leaves out zero; they sum to 1.

    Attributes:
        confident_true: ranked as labelled, for sure.
        confident_false: ranked against the label, for sure.
        unconfident_true: ranked as labelled, but the interval holds zero.
        unconfident_false: ranked against the label, but the interval holds zero.
    """

    confident_true: float
    confident_false: float
    unconfident_true: float
    unconfident_false: float

    def score(self, balance: float = 0.2) -> float:
        """The ranking score; see `ranking_score`.

        Args:
            balance: in [0, 1].

        Raises:
            ValueError: balance is outside [0, 1].

        Example:
            >>> round(RankingRates(0.6, 0.1, 0.2, 0.1).score(0.2), 4)
            0.4365
        """
        if not 0 <= balance <= 1:
            raise ValueError(f"balance must lie in [0, 1], got {balance}")
        true = self.confident_true + self.unconfident_true
        false = self.confident_false + self.unconfident_false
        gain = _ratio(self.confident_true, true + balance * false)
        return gain - _ratio(self.confident_false, false + balance * true)


def ranking_rates(mean: Tensor, half_width: Tensor, label: Tensor | None = None) -> RankingRates:
    """How often pairs are ranked rightly and wrongly, surely and not.

    Args:
        mean: [P] posterior mean of r_chosen - r_rejected, logits.
        half_width: [P] half the length of the interval around it, >= 0; the module says which are in use.
        label: [P] probability that the chosen one is preferred, in [0, 1]; ones by default. A soft label p counts as p
            pairs won and 1 - p lost.

    Returns:
        The four rates. A difference of exactly zero is never sure, and half true.

    Raises:
        ValueError: no pairs, shapes do not agree, a value is not a number, a half-width is negative, or a label is
            outside [0, 1].

    Example:
        >>> import torch
        >>> rates = ranking_rates(torch.tensor([3.0, 1.0, -1.0, -3.0]), torch.full((4,), 2.0))
        >>> rates.confident_true, rates.unconfident_false
        (0.25, 0.25)
    """
    m, h, won = _checked(mean, half_width, label)
    sign = torch.sign(m)
    sure = m.abs() > h
    true = 0.5 * (1 + sign * (2 * won - 1))
    count = len(m)
    return RankingRates(
        confident_true=float(true[sure].sum()) / count,
        confident_false=float((1 - true)[sure].sum()) / count,
        unconfident_true=float(true[~sure].sum()) / count,
        unconfident_false=float((1 - true)[~sure].sum()) / count,
    )


def ranking_score(mean: Tensor, half_width: Tensor, label: Tensor | None = None, *, balance: float = 0.2) -> float:
    """RewardUQ's ranking score: confident true rankings count for, confident false ones against.

    RS = CT / (T + a F) - CF / (F + a T) with a = `balance`, T and F the rates of pairs ranked as labelled and against,
    CT and CF those of them where the interval leaves out zero. With a = 0 it compares the share of the true rankings
    that are sure with the share of the false ones that are, whatever the accuracy; with a = 1 it is CT - CF. The paper
    reports a = 0.2.

    Args:
        mean: [P] posterior mean of r_chosen - r_rejected, logits.
        half_width: [P] half the length of the interval around it, >= 0.
        label: [P] probability that the chosen one is preferred, in [0, 1]; ones by default.
        balance: a, in [0, 1].

    Returns:
        The score in [-1, 1]: 1 where all pairs are ranked rightly and surely, 0 where none is sure.

    Raises:
        ValueError: as for `ranking_rates`, or balance is outside [0, 1].

    Example:
        >>> import torch
        >>> mean = torch.tensor([3.0, 3.0, 1.0, -1.0])
        >>> round(ranking_score(mean, torch.full((4,), 2.0)), 4)  # CT = 1/2, T = 3/4, F = 1/4, CF = 0
        0.625
    """
    return ranking_rates(mean, half_width, label).score(balance)


def bound_calibration_error(
    mean: Tensor, half_width: Tensor, label: Tensor | None = None, *, num_bins: int = 20
) -> float:
    """RewardUQ's expected bound calibration error (EBCE): how far preferences fall below the lower bound.

    sigma(mean - half_width) claims to be at most the probability of the preference. Every pair enters both ways round
    (chosen against rejected, with its label, and rejected against chosen, with the complement), so that lower and
    upper bounds have the same error. Over bins of equal width in [0, 1],

        EBCE = sum_b n_b / n * max(0, lower_b - frequency_b)

    with lower_b the mean lower bound of bin b and frequency_b the mean label in it (the paper's code has 20 bins). Only
    bounds that promise too much count: endless intervals have error 0, and a ranking score of 0.

    Args:
        mean: [P] posterior mean of r_chosen - r_rejected, logits.
        half_width: [P] half the length of the interval around it, >= 0; zeros give one side of the calibration error.
        label: [P] probability that the chosen one is preferred, in [0, 1]; ones by default.
        num_bins: bins of equal width, closed below.

    Returns:
        The error, in [0, 1].

    Raises:
        ValueError: as for `ranking_rates`, or num_bins below 1.

    Example:
        >>> import torch
        >>> mean = torch.full((4,), 2.0)  # claims 0.88, holds half of the time
        >>> label = torch.tensor([1.0, 0.0, 1.0, 0.0])
        >>> round(bound_calibration_error(mean, torch.zeros(4), label), 4)  # one of the two sides claims too much
        0.1904
        >>> bound_calibration_error(mean, torch.full((4,), 2.0), label)  # at least 0.5, and so it is
        0.0
    """
    m, h, won = _checked(mean, half_width, label)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    lower = torch.sigmoid(torch.cat([m - h, -m - h]))
    holds = torch.cat([won, 1 - won])
    place = (lower * num_bins).long().clamp(max=num_bins - 1)
    # n_b * (lower_b - frequency_b) is a sum over the bin
    excess = lower.new_zeros(num_bins).index_add_(0, place, lower - holds)
    return float(excess.clamp(min=0).sum()) / len(lower)


def _checked(mean: Tensor, half_width: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs in float64, or a ValueError that says what is wrong with them."""
    m, h = mean.double(), half_width.double()
    won = torch.ones_like(m) if label is None else label.double()
    if m.dim() != 1:
        raise ValueError(f"mean must be a vector [P], got shape {list(mean.shape)}")
    if len(m) == 0:
        raise ValueError("there are no pairs to measure")
    for name, values in (("half_width", h), ("label", won)):
        if values.shape != m.shape:
            raise ValueError(f"{name} must have shape {list(m.shape)}, got {list(values.shape)}")
    unknown = m.isnan() | h.isnan()
    if bool(unknown.any()):
        raise ValueError(f"pair {int(unknown.nonzero()[0])} has no interval (NaN); leave it out first")
    if bool((h < 0).any()):
        raise ValueError(
            f"half_width must not be negative, got {float(h[h < 0][0])} in pair {int((h < 0).nonzero()[0])}"
        )
    if not bool(((won >= 0) & (won <= 1)).all()):
        raise ValueError("label must lie in [0, 1]")
    return m, h, won


def _ratio(part: float, whole: float) -> float:
    """Nothing out of nothing is nothing."""
    return part / whole if whole > 0 else 0.0
