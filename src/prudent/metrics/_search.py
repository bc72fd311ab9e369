"""The minimum of a function of one number."""

import math
from collections.abc import Callable

__all__ = ["golden_section", "minimize_on_log_scale"]

_GOLDEN = (math.sqrt(5) - 1) / 2


def golden_section(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Where a function of one number is smallest between two bounds, by golden-section search.

    Each step takes one evaluation and shortens the bracket by 0.618 (Kiefer 1953). Where the function has several
    minima the one found is a local one: bracket the region with a grid first.

    Args:
        function: what is minimised; called between the bounds, never at them.
        low: lower bound.
        high: upper bound, above `low`.
        tolerance: the search ends when the bracket is no longer than this, in the units of the bounds.

    Returns:
        The point of the lowest value among those evaluated, within `tolerance` of a minimum of a unimodal function.

    Raises:
        ValueError: the bounds are not finite and ascending, or tolerance is not positive.

    Example:
        >>> round(golden_section(lambda x: (x - 2.0) ** 2, 0.0, 5.0, 1e-6), 4)
        2.0
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high and tolerance > 0):
        raise ValueError(f"a search needs finite low < high and tolerance > 0, got {low}, {high}, {tolerance}")
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return left if at_left <= at_right else right


def minimize_on_log_scale(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of a positive number is smallest: a grid of two points each factor of ten, then a search.

    Args:
        function: what is minimised; called between the bounds and at them.
        low: lower bound, positive.
        high: upper bound.

    Returns:
        The place of the lowest value found, to 0.1 %.

    Example:
        >>> round(minimize_on_log_scale(lambda x: x + 4 / x, 1e-3, 1e3), 2)
        2.0
    """
    steps = max(1, round(2 * math.log10(high / low)))
    logs = [math.log(low) + step / steps * math.log(high / low) for step in range(steps + 1)]
    values = [function(math.exp(point)) for point in logs]
    place = values.index(min(values))
    left, right = logs[max(place - 1, 0)], logs[min(place + 1, steps)]
    found = math.exp(golden_section(lambda point: function(math.exp(point)), left, right, 1e-3))
    return min([found, math.exp(logs[place])], key=function)
