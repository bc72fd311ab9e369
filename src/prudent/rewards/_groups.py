"""Which rows belong to which prompt."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["GroupIndex", "index_groups"]


@dataclass(frozen=True)
class GroupIndex:
    """The prompts of N rows, in ascending order of their ids.

    Attributes:
        ids: [B] int64, the distinct prompt ids, ascending.
        counts: [B] int64, how many rows each prompt has.
        order: [N] int64, the rows prompt by prompt, in file order within a prompt; None where the file has that order.
    """

    ids: Tensor
    counts: Tensor
    order: Tensor | None

    @cached_property
    def position(self) -> Tensor:
        """[N] int64, the place of each row's prompt in `ids`."""
        places = torch.arange(len(self.ids), device=self.ids.device)
        by_prompt = torch.repeat_interleave(places, self.counts, output_size=int(self.counts.sum()))
        if self.order is None:
            return by_prompt
        return torch.empty_like(by_prompt).index_put_((self.order,), by_prompt)

    def sum(self, values: Tensor) -> Tensor:
        """Sums of `values` [N, ...] over the rows of each prompt: [B, ...]."""
        return values.new_zeros((len(self.ids), *values.shape[1:])).index_add_(0, self.position, values)

    def rows(self) -> tuple[Tensor, ...]:
        """The row indices of each prompt, in the order of `ids`."""
        order = self.order
        if order is None:
            order = torch.arange(int(self.counts.sum()), device=self.ids.device)
        return torch.split(order, self.counts.tolist())


def index_groups(group: Tensor) -> GroupIndex:
    """Find the distinct prompts of a flat batch.

    Args:
        group: [N] integers, the prompt of each row, in any order.

    Returns:
        The distinct ids (ascending), the number of rows of each, and each row's place among them.

    Raises:
        ValueError: `group` is not a vector of integers.

    Example:
        >>> import torch
        >>> index = index_groups(torch.tensor([7, 3, 7]))
        >>> index.ids.tolist(), index.counts.tolist(), index.position.tolist()
        ([3, 7], [1, 2], [1, 0, 1])
    """
    if group.dim() != 1 or group.dtype.is_floating_point or group.dtype == torch.bool:
        raise ValueError(f"group must be a vector of integers [N], got shape {tuple(group.shape)} {group.dtype}")
    group = group.long()
    ids, counts = _runs(group)
    if bool((ids[1:] > ids[:-1]).all()):  # files are written prompt by prompt: no sort needed then
        return GroupIndex(ids, counts, None)
    ordered, order = torch.sort(group, stable=True)
    return GroupIndex(*_runs(ordered), order)


def _runs(group: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the length of each run of equal neighbours."""
    change = (group[1:] != group[:-1]).nonzero()[:, 0] + 1
    bounds = torch.cat([change.new_zeros(min(1, len(group))), change, change.new_tensor([len(group)])])
    return group[bounds[:-1]], bounds.diff()
