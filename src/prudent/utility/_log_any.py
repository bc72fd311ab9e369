"""Logic of log-probabilities, accurate where a probability is near 0 or near 1."""

import math

import torch
from torch import Tensor

__all__ = ["log_any"]


def log_any(parts: Tensor) -> Tensor:
    """log(1 - product of (1 - exp(part))): the log-probability of at least one of independent events.

    Args:
        parts: [P, ...] log-probabilities, <= 0; NaN where one is missing.

    Returns:
        [...], finite wherever the parts are, to the relative accuracy of their type; NaN where a part is.

    Example:
        >>> import torch
        >>> rare_and_sure = torch.tensor([[-1e4, -1e-9], [-1e4, -1e-9]], dtype=torch.float64)
        >>> [f"{x:.6g}" for x in log_any(rare_and_sure).tolist()]
        ['-9999.31', '-1e-18']
    """
    # every branch is finite, and so are gradients
    parts = parts.clamp(max=-torch.finfo(parts.dtype).tiny)
    rare, log_none = parts[0], _log_complement(parts[0])
    for part in parts[1:]:
        # P(this one or one before) = P(one before) + P(this) P(none before): sums alone, exact where all are rare
        rare = torch.logaddexp(rare, part + log_none)
        log_none = log_none + _log_complement(part)
    likely = log_none < -math.log(2)
    return torch.where(likely, torch.log1p(-torch.where(likely, log_none, -1.0).exp()), rare)


def _log_complement(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0."""
    near = x > -math.log(2)
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, x, -1.0))),
        torch.log1p(-torch.where(near, -1.0, x).exp()),
    )
