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
    rare, log_none = parts[0], torch.log(-torch.expm1(parts[0]))
    for part in parts[1:]:
        # P(this one or one before) = P(one before) + P(this) P(none before): sums alone, exact where all are rare
        rare = torch.logaddexp(rare, part + log_none)
        log_none = log_none + torch.log(-torch.expm1(part))
    likely = log_none < -math.log(2)
    return torch.where(likely, torch.log1p(-torch.where(likely, log_none, -1.0).exp()), rare)
