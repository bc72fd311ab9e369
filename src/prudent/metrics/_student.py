"""Student's t: how far the interval of a mean of few values reaches."""

from functools import lru_cache

import numpy as np

__all__ = ["student_reach"]


@lru_cache(maxsize=256)
def student_reach(freedom: int, level: float = 0.95) -> float:
    """How many standard errors the two-sided interval of a mean reaches each way.

    Args:
        freedom: degrees of freedom, at least 1; the number of values less one.
        level: of the interval, in (0, 1).

    Returns:
        The quantile of Student's t at (1 + level) / 2, to four digits.

    Raises:
        ValueError: a number out of its range.

    Example:
        >>> round(student_reach(7), 3)
        2.365
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"freedom must be at least 1 and level lie between 0 and 1, got {freedom} and {level}")
    angle = np.linspace(0.0, np.pi / 2, 100_001)
    middle = (angle[1:] + angle[:-1]) / 2
    # The density at tan(angle), times what a step of the angle is worth, is a power of the cosine but for a constant.
    value = np.tan(middle)
    weight = (1 + value**2 / freedom) ** (-(freedom + 1) / 2) * (1 + value**2)
    reached = np.concatenate([[0.0], np.cumsum(weight)])
    return float(np.tan(np.interp(level, reached / reached[-1], angle)))
