"""Running out of memory: what it looks like, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prudent.errors import ModelError

__all__ = ["is_out_of_memory", "out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; an allocation on CPU fails with a RuntimeError like any other.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 GB"))
        True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "allocate memory" in text)


@contextmanager
def out_of_memory(advice: str) -> Iterator[None]:
    """Say what to do where memory runs out inside the block.

    Args:
        advice: which options to change, and how to start again.

    Raises:
        ModelError: memory ran out.

    Example:
        >>> with out_of_memory("lower tokens_per_batch"):
        ...     pass
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        text = str(error).strip()
        first = text.splitlines()[0] if text else "no more to be had"
        raise ModelError(f"out of memory ({first[:120]}): {advice}") from error
