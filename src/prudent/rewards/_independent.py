"""The distribution of a sum of independent parts, of which more is known than draws tell."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prudent.rewards._marginal import DrawnMarginal, Marginal, block_or_rows

__all__ = ["IndependentSum"]


class IndependentSum(DrawnMarginal):
    """Draws of a weighted sum whose parts are independent: expected exponentials are exact, products over the parts.

    Args:
        paths: see `DrawnMarginal`.
        num_draws: see `DrawnMarginal`.
        rows: see `DrawnMarginal`.
        is_sample: see `DrawnMarginal`.
        parts: the parts' distributions, of the same responses.
        weights: one per part.
        neutral: what a part counts as that is missing; None: the response is not scored.

    Example:
        >>> from prudent.rewards import GaussianRewards
        >>> part = GaussianRewards(torch.tensor([1.0]), torch.tensor([4.0])).marginal()
        >>> both = IndependentSum(lambda rows: torch.ones(2, len(rows)), 2, torch.arange(1), False, [part] * 2, (1, 2))
        >>> both.log_expected_exp(-1.0).tolist()  # -(1 + 2) + (4 + 16) / 2
        [7.0]
    """

    def __init__(
        self,
        paths: Callable[[Tensor], Tensor],
        num_draws: int,
        rows: Tensor,
        is_sample: bool,
        parts: Sequence[Marginal],
        weights: tuple[float, ...],
        neutral: float | None = None,
    ) -> None:
        super().__init__(paths, num_draws, rows, is_sample=is_sample)
        self._parts = tuple(parts)
        self._weights = weights
        self._neutral = neutral

    def __getitem__(self, index: slice | Tensor) -> "IndependentSum":
        rows = block_or_rows(index, len(self), self._rows.device)
        parts = [part[rows] for part in self._parts]
        return IndependentSum(
            self._paths, self.num_nodes, self._rows[rows], self.is_sample, parts, self._weights, self._neutral
        )

    def log_expected_exp(self, scale: float) -> Tensor:
        """See `Marginal.log_expected_exp`; exact where that of the parts is."""
        logs = [part.log_expected_exp(scale * weight) for part, weight in zip(self._parts, self._weights, strict=True)]
        found = torch.stack(logs)
        missing = found.isnan()
        if self._neutral is not None:
            neutral = (scale * self._neutral) * found.new_tensor(self._weights)
            found = torch.where(missing, neutral[:, None], found)
        return found.sum(0).masked_fill(missing.all(0), torch.nan)
