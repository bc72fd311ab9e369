"""Pools of equally many candidates, and what strategies need to know of them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.selection._scored import sorted_values

__all__ = ["Pools", "directions", "no_embeddings"]


@dataclass(frozen=True)
class Pools:
    """m pools of n candidates each, in any order.

    Attributes:
        utility: [m, n] floats, not NaN.
        embedding: [m, n, D] directions of length 1, or None.
    """

    utility: Tensor
    embedding: Tensor | None = None

    @cached_property
    def shortfall(self) -> Tensor:
        """[m, n] how far each utility lies below the highest of its pool, at least 0."""
        return self.utility.amax(1, keepdim=True) - self.utility

    @cached_property
    def similarity(self) -> Tensor:
        """[m, n] average cosine to all candidates of the pool, itself included; in [-1, 1]."""
        if self.embedding is None:
            raise no_embeddings()
        # the average of cosines is the cosine to the average
        return (self.embedding * self.embedding.mean(1, keepdim=True)).sum(2)

    def relative_threshold(self, penalty: float) -> Tensor:
        """[m, 1] float64, by how much the threshold of `Pessimism` lies below the highest utility.

        With the shortfalls d_1 <= ... <= d_n, the mean of relu((h - d_i) / penalty) is 1 at

            h = (n penalty + sum_{i<=k} d_i) / k, k = number of i with k d_k - sum_{i<=k} d_i < n penalty:

        exact, without a search for h.
        """
        mass = self.utility.shape[1] * penalty
        sums, filled = self._filling
        count = torch.searchsorted(filled, filled.new_full((len(filled), 1), mass))
        return (mass + sums.gather(1, count - 1)) / count

    @cached_property
    def _filling(self) -> tuple[Tensor, Tensor]:
        """Sums [m, n] of the k smallest shortfalls, and the mass that it takes to fill them up to the k-th."""
        ranked = sorted_values(self.shortfall)
        sums = ranked.cumsum(1, dtype=torch.float64)
        count = torch.arange(1, ranked.shape[1] + 1, dtype=torch.float64, device=ranked.device)
        return sums, (ranked * count).sub_(sums)


def no_embeddings() -> DataError:
    """The error where a strategy compares responses and has nothing to compare them by."""
    return DataError(
        "mbr and consensus compare responses by their embeddings, and there are none: prudent score --embeddings "
        "writes them"
    )


def directions(embedding: Tensor) -> Tensor:
    """Rows [N, D] scaled to length 1 in float32; rows of zeros stay, and resemble nothing."""
    return torch.nn.functional.normalize(embedding.float(), dim=1)
