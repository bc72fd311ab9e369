"""Does a number tell two kinds of rows apart."""

import torch
from torch import Tensor

__all__ = ["auroc"]


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a random positive lies above a random negative, equal ones counting one half.

    The area under the receiver operating characteristic, by ranks (Mann and Whitney 1947). For a posterior: its
    standard deviation on pairs from elsewhere as positives, on pairs like those it was fitted on as negatives.

    Args:
        positive: [P] values that should be high.
        negative: [Q] values that should be low.

    Returns:
        The area, in [0, 1]; one half says that the values tell nothing.

    Raises:
        ValueError: a side is empty, no vector, or holds a value that is not a number.

    Example:
        >>> import torch
        >>> auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
        0.875
    """
    if positive.dim() != 1 or negative.dim() != 1:
        raise ValueError(f"both sides must be vectors, got shapes {list(positive.shape)} and {list(negative.shape)}")
    if len(positive) == 0 or len(negative) == 0:
        raise ValueError(f"an AUROC needs values on both sides, got {len(positive)} and {len(negative)}")
    values = torch.cat([positive.double(), negative.double()])
    if bool(values.isnan().any()):
        raise ValueError("there is a value that is not a number; leave such rows out first")
    _, level, count = torch.unique(values, return_inverse=True, return_counts=True)
    # ranks from 1, equal values sharing their mean rank
    rank = (count.cumsum(0) - 0.5 * (count - 1).double())[level[: len(positive)]]
    least = len(positive) * (len(positive) + 1) / 2
    return float(rank.sum() - least) / (len(positive) * len(negative))
