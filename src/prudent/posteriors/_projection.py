"""A wide factor made narrow for storage: each whitened gradient is added, with a random sign, to one of K sums.

This is a sparse random projection (count sketch; Charikar et al. 2002, Weinberger et al. 2009) with equally full sums.
It keeps inner products in expectation, the variance of one contrast to a relative standard deviation of at most about
`sqrt(2 / K)`, costs one pass over the weights, and is described by a seed: nothing of size P x K exists.
"""

import torch
from torch import Tensor

__all__ = ["PROJECTION", "STORED_COLUMNS", "Projection"]

STORED_COLUMNS = 256
PROJECTION = "countsketch0"
"""Names this way to project: factors projected otherwise are incommensurable."""


class Projection:
    """Projects the whitened gradients of one block.

    Args:
        size: F, columns of the block.
        columns: K, columns of the result.
        seed: of the signs and of which column goes where.
        like: whose device and floating type is worked in.
    """

    def __init__(self, size: int, columns: int, seed: int, like: Tensor) -> None:
        generator = torch.Generator().manual_seed(seed)
        padded = -(-size // columns) * columns
        # A column number of `size` or more is padding: an extra zero column stands there.
        self._order = torch.randperm(padded, generator=generator).clamp_max(size).to(like.device)
        signs = torch.randint(0, 2, (padded,), generator=generator) * 2 - 1
        self._signs = signs.to(like)
        self._columns = columns

    def __call__(self, whitened: Tensor) -> Tensor:
        """`[b, F]` to `[b, K]`."""
        extended = torch.nn.functional.pad(whitened, (0, 1))
        mixed = extended[:, self._order] * self._signs
        return mixed.reshape(len(whitened), -1, self._columns).sum(1)
