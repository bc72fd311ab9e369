"""Functions of several rewards of one response."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Elementwise", "WeightedSum", "function_name"]


@dataclass(frozen=True)
class WeightedSum:
    """The sum of weights[p] * part p.

    Attributes:
        weights: one per part.

    Example:
        >>> import torch
        >>> WeightedSum((1.0, 2.0))(torch.tensor([[1.0, 0.0], [1.0, 5.0]])).tolist()
        [3.0, 10.0]
    """

    weights: tuple[float, ...]

    def __call__(self, parts: Tensor) -> Tensor:
        """The sum of parts [P, ...]."""
        # one after the other: the last bits of a matrix product would depend on how many responses there are
        return sum((w * part for w, part in zip(self.weights[1:], parts[1:], strict=True)), self.weights[0] * parts[0])


@dataclass(frozen=True)
class Elementwise:
    """A function of the parts of each response, and what a part counts as that is missing.

    Attributes:
        function: maps parts [P, ...] to [...], each element by itself.
        neutral: what a missing part counts as, in the unit of the parts; None: the response is not scored.

    Example:
        >>> import torch
        >>> both = Elementwise(WeightedSum((1.0, 1.0)), neutral=0.5)
        >>> both(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])).tolist()
        [1.5, nan]
    """

    function: Callable[[Tensor], Tensor]
    neutral: float | None = None

    def __call__(self, parts: Tensor) -> Tensor:
        """The function of parts [P, ...] with NaN for missing; NaN where all are."""
        if self.neutral is None:
            return self.function(parts)
        missing = parts.isnan()
        return self.function(parts.masked_fill(missing, self.neutral)).masked_fill(missing.all(0), torch.nan)


def function_name(function: Callable[..., Tensor]) -> str:
    """What tells a function from others: its own name, or what a dataclass of functions holds."""
    return getattr(function, "__qualname__", None) or repr(function)
