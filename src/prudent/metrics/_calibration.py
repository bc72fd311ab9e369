"""Do things happen as often as predicted.

Preference pairs are usually written with the chosen response first, so P(chosen) against "chosen won" has no losses
in it. Calibration is therefore measured on the *confidence* max(p, 1 - p) in the response that the model prefers,
against how often that response is the labelled one. This is the same as entering every pair both ways round.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Binning", "ReliabilityBin", "expected_calibration_error", "reliability", "wilson_interval"]

Binning = Literal["equal_count", "equal_width"]
"""Bins that hold about equally many pairs (adaptive, the default), or that divide [0.5, 1] evenly."""


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram.

    Attributes:
        low: lowest confidence of the bin (its edge for equal widths, its lowest member for equal counts).
        high: highest confidence of the bin.
        confidence: mean confidence of its pairs, in [0.5, 1].
        frequency: share of them in which the preferred response is the labelled one.
        count: pairs in the bin.
        frequency_low: lower end of the 95 % Wilson interval of the frequency.
        frequency_high: upper end.
    """

    low: float
    high: float
    confidence: float
    frequency: float
    count: int
    frequency_low: float
    frequency_high: float


def reliability(
    probability: Tensor, label: Tensor | None = None, *, num_bins: int = 10, binning: Binning = "equal_count"
) -> list[ReliabilityBin]:
    """Table of confidence against frequency.

    Args:
        probability: [P] predicted P(chosen is preferred), in [0, 1].
        label: [P] probability that the chosen one is preferred, in [0, 1]; ones by default.
        num_bins: how many bins; fewer come back where there are fewer pairs or bins are empty.
        binning: "equal_count" or "equal_width". Equal confidences always share a bin, so bins of equal count are as
            equal as ties allow; confidences are equal when they agree in float32.

    Returns:
        The bins that hold pairs, by ascending confidence. The order of the pairs does not matter.

    Raises:
        ValueError: shapes do not agree, values outside [0, 1], or num_bins below 1.

    Example:
        >>> import torch
        >>> for row in reliability(torch.tensor([0.9, 0.2, 0.6, 0.7]), num_bins=2):
        ...     print(row.count, round(row.confidence, 2), row.frequency)
        2 0.65 1.0
        2 0.85 0.5
    """
    p = probability.double()
    won = torch.ones_like(p) if label is None else label.double()
    if p.dim() != 1 or won.shape != p.shape:
        raise ValueError(f"probability and label must be equal vectors, got {list(p.shape)} and {list(won.shape)}")
    if not bool(((p >= 0) & (p <= 1) & (won >= 0) & (won <= 1)).all()):
        raise ValueError("probability and label must lie in [0, 1]")
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    confidence = torch.maximum(p, 1 - p)
    hit = torch.where(p > 0.5, won, 1 - won)
    hit[p == 0.5] = 0.5  # no response is preferred: right half of the time
    if binning == "equal_count":
        # Float32 makes equal what differs by rounding only: 1 - p of a pair that is entered the other way round. Each
        # distinct confidence goes whole to the bin in which the middle of its ranks lies.
        _, distinct, count = torch.unique(confidence.float(), return_inverse=True, return_counts=True)
        twice_middle = 2 * count.cumsum(0) - count
        place = (twice_middle * num_bins // (2 * max(1, len(p))))[distinct]
        parts = [(place == number).nonzero()[:, 0] for number in torch.unique(place).tolist()]
        edges = [(confidence[rows].min().item(), confidence[rows].max().item()) for rows in parts]
    elif binning == "equal_width":
        place = ((confidence - 0.5) * (2 * num_bins)).long().clamp(max=num_bins - 1)
        filled = torch.unique(place).tolist()
        parts = [(place == number).nonzero()[:, 0] for number in filled]
        edges = [(0.5 + 0.5 * number / num_bins, 0.5 + 0.5 * (number + 1) / num_bins) for number in filled]
    else:
        raise ValueError(f"binning must be 'equal_count' or 'equal_width', got {binning!r}")
    table = []
    for rows, (low, high) in zip(parts, edges, strict=True):
        frequency = hit[rows].mean().item()
        interval = wilson_interval(frequency, len(rows))
        table.append(ReliabilityBin(low, high, confidence[rows].mean().item(), frequency, len(rows), *interval))
    return table


def expected_calibration_error(
    probability: Tensor, label: Tensor | None = None, *, num_bins: int = 10, binning: Binning = "equal_count"
) -> float:
    """Average over pairs of |frequency - confidence| of their bin.

    Biased upwards when bins hold few pairs: a perfect model with n pairs a bin still shows about 0.8 sqrt(p (1 - p) /
    n).

    Args:
        probability: [P] predicted P(chosen is preferred), in [0, 1].
        label: [P] probability that the chosen one is preferred, in [0, 1]; ones by default.
        num_bins: how many bins.
        binning: "equal_count" (adaptive, the default) or "equal_width".

    Returns:
        The error, in [0, 1]; NaN without pairs.

    Raises:
        ValueError: as for `reliability`.

    Example:
        >>> import torch
        >>> round(expected_calibration_error(torch.tensor([0.9, 0.9, 0.9, 0.1]), num_bins=1), 4)
        0.15
    """
    table = reliability(probability, label, num_bins=num_bins, binning=binning)
    if not table:
        return math.nan
    total = sum(row.count * abs(row.frequency - row.confidence) for row in table)
    return total / sum(row.count for row in table)


def wilson_interval(frequency: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion.

    Args:
        frequency: share of the trials, in [0, 1].
        count: how many trials, at least 1.

    Returns:
        Lower and upper end, in [0, 1].

    Example:
        >>> [round(end, 4) for end in wilson_interval(0.5, 100)]
        [0.4038, 0.5962]
    """
    z = 1.959963984540054
    scale = 1 + z * z / count
    middle = (frequency + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(frequency * (1 - frequency) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
