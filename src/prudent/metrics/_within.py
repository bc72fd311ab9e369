"""Statistics within prompts. NaN (not scored) rows are left out of every sum and stay NaN."""

import torch
from torch import Tensor

from prudent.rewards import index_groups

__all__ = ["partial_out", "spearman_within", "zscore_within"]


def partial_out(value: Tensor, covariate: Tensor, group: Tensor) -> Tensor:
    """What a covariate does not explain: residuals of a least-squares line fitted within each prompt.

    Used to ask whether a gain in gold reward is only a gain in length.

    Args:
        value: [N] what is to be explained.
        covariate: [N] what explains it.
        group: [N] integer prompt ids.

    Returns:
        float64 [N], zero mean in each prompt. Where the covariate is constant only the mean is removed.

    Raises:
        ValueError: shapes do not agree.

    Example:
        >>> import torch
        >>> length = torch.tensor([1.0, 2.0, 3.0])
        >>> partial_out(2 * length + 1, length, torch.zeros(3, dtype=torch.long)).tolist()
        [0.0, 0.0, 0.0]
    """
    _check(value, covariate, group)
    y, x = value.double(), covariate.double()
    present = ~(y.isnan() | x.isnan())
    y, x = _centered(y, present, group), _centered(x, present, group)
    index = index_groups(group)
    square, product = index.sum(x.square().nan_to_num(0.0)), index.sum((x * y).nan_to_num(0.0))
    slope = torch.where(square > 0, product / square, 0.0)
    return y - slope[index.position] * x


def zscore_within(value: Tensor, group: Tensor) -> Tensor:
    """Standard scores within each prompt (variance divided by n).

    Args:
        value: [N].
        group: [N] integer prompt ids.

    Returns:
        float64 [N], mean 0 and variance 1 in each prompt; zeros where all values of a prompt are equal.

    Raises:
        ValueError: shapes do not agree.

    Example:
        >>> import torch
        >>> zscore_within(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1])).tolist()
        [-1.0, 1.0, 0.0]
    """
    _check(value, value, group)
    y = value.double()
    present = ~y.isnan()
    y = _centered(y, present, group)
    index = index_groups(group)
    std = (index.sum(y.square().nan_to_num(0.0)) / index.sum(present.double())).sqrt()[index.position]
    return torch.where(std > 0, y / std, y)


def spearman_within(a: Tensor, b: Tensor, group: Tensor) -> Tensor:
    """Spearman's rank correlation within each prompt, equal values sharing their mean rank.

    Args:
        a: [N].
        b: [N]. A row counts where both are present.
        group: [N] integer prompt ids.

    Returns:
        float64 [B], prompts in ascending order of their ids; NaN where either side is constant.

    Raises:
        ValueError: shapes do not agree.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 9.0, 4.0])
        >>> spearman_within(a, b, torch.zeros(3, dtype=torch.long)).tolist()
        [0.5]
    """
    _check(a, b, group)
    index = index_groups(group)
    keep = ~(a.isnan() | b.isnan())
    position = index.position[keep]
    ranks = [_ranks(side[keep], position) for side in (a, b)]
    everyone = torch.ones_like(position, dtype=torch.bool)
    x, y = (_centered(side, everyone, position) for side in ranks)
    zeros = torch.zeros(len(index.ids), dtype=torch.float64, device=a.device)
    product, xx, yy = (zeros.index_add(0, position, term) for term in (x * y, x.square(), y.square()))
    defined = (xx > 0) & (yy > 0)
    return torch.where(defined, product / (xx * yy).sqrt(), torch.nan).clamp(-1, 1)


def _check(a: Tensor, b: Tensor, group: Tensor) -> None:
    if a.dim() != 1 or a.shape != b.shape or a.shape != group.shape:
        raise ValueError(
            f"values and group must be vectors of one length, got {list(a.shape)}, {list(b.shape)}, {list(group.shape)}"
        )


def _centered(values: Tensor, present: Tensor, group: Tensor) -> Tensor:
    """Values minus the mean of the present rows of their prompt; NaN where not present."""
    index = index_groups(group)
    # measured from one of its own values first, a constant prompt comes out as exact zeros
    pivot = values.new_zeros(len(index.ids)).index_put_((index.position[present],), values[present])
    values = values - pivot[index.position]
    mean = index.sum(torch.where(present, values, 0.0)) / index.sum(present.double())
    return torch.where(present, values - mean[index.position], torch.nan)


def _ranks(values: Tensor, position: Tensor) -> Tensor:
    """Ranks of the values within their prompt, up to a constant per prompt; equal values get their mean rank."""
    order = torch.argsort(values, stable=True)
    order = order[torch.argsort(position[order], stable=True)]
    key = torch.stack([position[order].double(), values[order].double()], 1)
    level = torch.zeros(len(order), dtype=torch.long, device=values.device)
    level[1:] = (key[1:] != key[:-1]).any(1).long().cumsum(0)
    rank = torch.arange(len(order), dtype=torch.float64, device=values.device)
    mean = torch.zeros(int(level[-1]) + 1 if len(level) else 0, dtype=torch.float64, device=values.device)
    mean = mean.index_add_(0, level, rank) / torch.bincount(level)
    out = torch.empty_like(rank)
    out[order] = mean[level]
    return out
