"""Reference responses of the prompts of a pool: which they are, and what rewards are on average over them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prudent.utility import choose_references


def reference_mask(prompts: Sequence[str], counts: Sequence[int], num_references: int) -> Tensor:
    """`[N]` booleans, the same references of a prompt every time.

    Args:
        prompts: what names each prompt.
        counts: responses of each.
        num_references: at most, of each.
    """
    masks = []
    for prompt, count in zip(prompts, counts, strict=True):
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[torch.from_numpy(choose_references(count, num_references, 0, prompt))] = True
        masks.append(chosen)
    return torch.cat(masks)


def reference_means(values: Tensor, group: Tensor, is_reference: Tensor) -> Tensor:
    """`[N, ...]` averages of values `[N, ...]` over the references of each response's prompt."""
    _, local = torch.unique(group, return_inverse=True)
    chosen = local[is_reference]
    total = values.new_zeros(int(local.max()) + 1, *values.shape[1:]).index_add_(0, chosen, values[is_reference])
    count = torch.bincount(chosen).reshape(-1, *[1] * (values.dim() - 1))
    return (total / count)[local]
