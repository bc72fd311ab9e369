"""What is gained by answering only where one is sure: selective risk against coverage."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["RiskCoverage", "area_under_risk_coverage", "risk_coverage"]


@dataclass(frozen=True)
class RiskCoverage:
    """Selective risk at every coverage that P rows allow.

    Attributes:
        coverage: [P] float64, 1/P, 2/P, ..., 1: the share of rows kept, most confident first.
        risk: [P] float64, mean error of the rows kept.
    """

    coverage: Tensor
    risk: Tensor

    @classmethod
    def of_ties(cls, count: Tensor, error: Tensor) -> Self:
        """The curve of rows that are known by their ties, which spares resamples of them the sorting.

        Args:
            count: [U] how many rows have each confidence, surest first; 0 is allowed.
            error: [U] sum of their errors.
        """
        count, error = count.long(), error.double()
        average = torch.where(count > 0, error / count, 0.0)
        kept = torch.arange(1, int(count.sum()) + 1, dtype=torch.float64, device=error.device)
        return cls(kept / len(kept), average.repeat_interleave(count).cumsum(0) / kept)

    def at(self, coverage: Tensor) -> Tensor:
        """Selective risk at any coverage; the row that is kept in part counts by its share.

        Args:
            coverage: [C] shares of rows to keep, in (0, 1].

        Returns:
            float64 [C].

        Raises:
            ValueError: a coverage outside (0, 1].
        """
        wanted = coverage.double()
        if not bool(((wanted > 0) & (wanted <= 1)).all()):
            raise ValueError("coverage must lie in (0, 1]")
        size = len(self.risk)
        kept = wanted * size
        whole = (kept + 1e-9).floor().clamp(max=size)  # 0.35 * 20 is a little less than 7
        total = torch.cat([self.risk.new_zeros(1), self.risk * self.coverage * size])
        below, above = total[whole.long()], total[(whole.long() + 1).clamp(max=size)]
        return (below + (kept - whole).clamp(min=0) * (above - below)) / kept


def risk_coverage(confidence: Tensor, error: Tensor) -> RiskCoverage:
    """Mean error of the most confident rows, for every number of rows kept.

    Rows of equal confidence are in no order, so each counts as the average of its equals: the curve is the exact
    expectation over all orders of them, and does not depend on the order of the rows.

    Args:
        confidence: [P] higher is surer; any increasing function of it gives the same curve.
        error: [P] what a row costs if it is kept, for pairs the probability of being ranked wrongly.

    Returns:
        The curve (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017, arXiv 1705.08500).

    Raises:
        ValueError: no rows, shapes that do not agree, or a value that is not a number.

    Example:
        >>> import torch
        >>> curve = risk_coverage(torch.tensor([0.9, 0.8, 0.8, 0.6]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
        >>> [round(risk, 3) for risk in curve.risk.tolist()]
        [0.0, 0.25, 0.333, 0.5]
    """
    if confidence.dim() != 1 or confidence.shape != error.shape:
        raise ValueError(
            f"confidence and error must be equal vectors, got {list(confidence.shape)} and {list(error.shape)}"
        )
    if len(confidence) == 0:
        raise ValueError("there are no rows to order")
    faulty = confidence.isnan() | error.isnan()
    if bool(faulty.any()):
        raise ValueError(f"row {int(faulty.nonzero()[0])} has a confidence or an error that is not a number")
    error = error.double()
    # -confidence, because unique() sorts upwards
    _, block, count = torch.unique(-confidence.double(), return_inverse=True, return_counts=True)
    total = torch.zeros(len(count), dtype=torch.float64, device=error.device).index_add_(0, block, error)
    return RiskCoverage.of_ties(count, total)


def area_under_risk_coverage(confidence: Tensor, error: Tensor, *, excess: bool = False) -> float:
    """AURC: the mean of the selective risk over the coverages 1/P, 2/P, ..., 1; lower is better.

    A confidence without information gives the mean error, up to chance. Expected over all orders of rows of equal
    confidence.

    Args:
        confidence: [P] higher is surer.
        error: [P] what a row costs if it is kept.
        excess: less the area of the best order of the same errors, ascending (E-AURC, Geifman, Uziel and El-Yaniv
            2019, arXiv 1805.08206). This takes out most of what is owed to the accuracy rather than to the confidence.

    Returns:
        The area in the units of the error, or with `excess` its distance from the best order, >= 0.

    Raises:
        ValueError: as for `risk_coverage`.

    Example:
        >>> import torch
        >>> confidence, error = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.0, 1.0, 0.0])
        >>> round(area_under_risk_coverage(confidence, error), 4)
        0.2778
        >>> round(area_under_risk_coverage(confidence, error, excess=True), 4)
        0.1667
    """
    area = risk_coverage(confidence, error).risk.mean().item()
    if not excess:
        return area
    return area - risk_coverage(-error.double(), error).risk.mean().item()
