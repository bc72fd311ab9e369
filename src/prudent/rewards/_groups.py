"""Which rows belong to which prompt."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["GroupIndex", "index_groups"]


class GroupIndex(NamedTuple):
    """The prompts of N rows, in ascending order of their ids."""

    ids: Tensor
    """[B] int64, the distinct prompt ids, ascending."""
    position: Tensor
    """[N] int64, the place of each row's prompt in `ids`."""
    counts: Tensor
    """[B] int64, how many rows each prompt has."""

    def order(self) -> Tensor:
        """Rows prompt by prompt, in file order within a prompt: [N] int64."""
        if bool((self.position[1:] >= self.position[:-1]).all()):
            return torch.arange(len(self.position), device=self.position.device)
        return torch.argsort(self.position, stable=True)

    def sum(self, values: Tensor) -> Tensor:
        """Sums of `values` [N, ...] over the rows of each prompt: [B, ...]."""
        return values.new_zeros((len(self.ids), *values.shape[1:])).index_add_(0, self.position, values)

    def rows(self) -> tuple[Tensor, ...]:
        """The row indices of each prompt, in the order of `ids`."""
        return torch.split(self.order(), self.counts.tolist())


def index_groups(group: Tensor) -> GroupIndex:
    """Find the distinct prompts of a flat batch.

    Args:
        group: [N] integers, the prompt of each row, in any order.

    Returns:
        The distinct ids (ascending), each row's place among them, and the number of rows of each.

    Raises:
        ValueError: `group` is not a vector of integers.

    Example:
        >>> import torch
        >>> index = index_groups(torch.tensor([7, 3, 7]))
        >>> index.ids.tolist(), index.position.tolist(), index.counts.tolist()
        ([3, 7], [1, 0, 1], [1, 2])
    """
    if group.dim() != 1 or group.dtype.is_floating_point or group.dtype == torch.bool:
        raise ValueError(f"group must be a vector of integers [N], got shape {tuple(group.shape)} {group.dtype}")
    group = group.long()
    if bool((group[1:] >= group[:-1]).all()):  # files are written prompt by prompt: no sort needed then
        return GroupIndex(*torch.unique_consecutive(group, return_inverse=True, return_counts=True))
    return GroupIndex(*torch.unique(group, sorted=True, return_inverse=True, return_counts=True))
