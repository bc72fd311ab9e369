"""Running out of memory, said in terms of the options that help."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prudent.errors import ModelError

__all__ = ["out_of_memory"]


@contextmanager
def out_of_memory(*options: str) -> Iterator[None]:
    """Name the options to lower where memory runs out inside the block.

    Args:
        options: by their names, the most useful first.

    Raises:
        ModelError: memory ran out.

    Example:
        >>> with out_of_memory("tokens_per_batch"):
        ...     pass
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        # An allocation on CPU fails with a RuntimeError like any other.
        text = str(error)
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            lowered = text.lower()
            if "out of memory" not in lowered and "allocate memory" not in lowered:
                raise
        first = text.strip().splitlines()[0] if text.strip() else "no more to be had"
        shown = " or ".join(f"{name} (--{name.replace('_', '-')})" for name in options)
        raise ModelError(f"out of memory ({first[:120]}): lower {shown}, and start again to resume") from error
