"""Checks and small steps shared by the kinds of posterior."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = [
    "broadcast",
    "check_moments",
    "check_vector",
    "chunks",
    "default_generator",
    "draw_normal",
    "group_vector",
    "row_index",
    "row_pairs",
]

_CHUNK_ELEMENTS = 1 << 23


def broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in their common shape (the torch function has no types)."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    return a.expand(shape), b.expand(shape)


def row_pairs(i: Tensor | int, j: Tensor | int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row numbers of both sides of comparisons in their common shape, on a device."""
    return broadcast(torch.as_tensor(i, device=device), torch.as_tensor(j, device=device))


def check_vector(name: str, values: Tensor, length: int) -> None:
    """Raise ValueError unless `values` has shape [length]."""
    if values.shape != (length,):
        raise ValueError(f"{name} must have shape [{length}], got {list(values.shape)}")


def check_moments(name: str, values: Tensor, length: int) -> None:
    """Raise ValueError unless `values` [length] holds variances: not negative, not infinite."""
    check_vector(name, values, length)
    if bool((values < 0).any()):
        row = int((values < 0).nonzero()[0])
        raise ValueError(f"{name} must not be negative, got {float(values[row])} in row {row}")
    if bool(values.isinf().any()):
        raise ValueError(f"{name} is infinite in row {int(values.isinf().nonzero()[0])}")


def group_vector(group: Tensor | None, length: int, device: torch.device) -> Tensor:
    """The prompt ids as int64 [length]; without any, all responses answer one prompt."""
    if group is None:
        return torch.zeros(length, dtype=torch.int64, device=device)
    check_vector("group", group, length)
    if group.dtype.is_floating_point or group.dtype == torch.bool:
        raise ValueError(f"group must hold integers, got {group.dtype}")
    return group.to(device=device, dtype=torch.int64)


def row_index(index: slice | Tensor, length: int, device: torch.device) -> Tensor:
    """Integer row numbers [n] for a slice, an integer tensor or a boolean tensor [length]."""
    if isinstance(index, slice):
        start, stop, step = index.indices(length)
        return torch.arange(start, max(start, stop) if step > 0 else min(start, stop), step, device=device)
    if not isinstance(index, Tensor):
        raise TypeError(f"index with a slice or a tensor, not {type(index).__name__}")
    if index.dim() != 1 or index.dtype.is_floating_point:
        raise ValueError(f"index must be a vector of integers or booleans, got {list(index.shape)} {index.dtype}")
    index = index.to(device)
    if index.dtype == torch.bool:
        check_vector("a boolean index", index, length)
        return index.nonzero()[:, 0]
    outside = (index < -length) | (index >= length)
    if bool(outside.any()):
        raise IndexError(f"index {int(index[outside][0])} is out of range for {length} responses")
    return torch.where(index < 0, index + length, index).long()


def chunks(length: int, width: int) -> Iterator[slice]:
    """Slices of `length` rows that hold a bounded number of elements when each row has `width` of them."""
    size = max(1, _CHUNK_ELEMENTS // max(1, width))
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def default_generator(generator: Generator | None) -> Generator:
    """The generator given, or a fresh one with seed 0, so that no draw depends on global state."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def draw_normal(size: tuple[int, int], generator: Generator | None, like: Tensor) -> Tensor:
    """Standard normal draws made on the generator's device, moved to that of `like`."""
    generator = default_generator(generator)
    return torch.randn(size, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
