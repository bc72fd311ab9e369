"""Curvature of one block of weights in its eigenbasis, and what follows: variances, whitening, log-determinants.

All structures have this form. With a weight of `m x n` values, `s` the shorter and `l` the longer side, the curvature
of the log-likelihood is diagonal after a rotation of both sides:

- `kron`: Kronecker eigenbasis, eigenvalues are products of the factors' own;
- `ekfac`: the same kind of basis, every eigenvalue estimated by itself;
- `diag`: no rotation;
- `full`: one block of all weights in a row, `1 x P`, rotated by the eigenvectors of the dense matrix.

Where only the leading `k` directions of the longer side are kept, the others share one average eigenvalue for each
direction of the shorter side, so that the trace is kept.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

__all__ = ["BlockCurvature"]


@dataclass(frozen=True)
class BlockCurvature:
    """Curvature of a block in eigen form.

    Attributes:
        name: of the block.
        shape: `(m, n)` of its weight.
        eigenvalues: `[s, k]`, not negative.
        small_basis: `[s, s]` orthonormal columns; None for the identity.
        large_basis: `[l, k]` orthonormal columns; None for the identity.
        remainder: `[s]` average eigenvalue of the `l - k` directions left out; None where none is.
    """

    name: str
    shape: tuple[int, int]
    eigenvalues: Tensor
    small_basis: Tensor | None = None
    large_basis: Tensor | None = None
    remainder: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def num_left_out(self) -> int:
        """`l - k`, directions of the longer side that share an eigenvalue."""
        return 0 if self.remainder is None else max(self.shape) - self.eigenvalues.shape[1]

    def to(self, like: Tensor) -> Self:
        """The same on another device or in another floating type, laid out as it is read from a file."""
        moved = {
            name: None if tensor is None else tensor.to(like).contiguous()
            for name, tensor in (
                ("eigenvalues", self.eigenvalues),
                ("small_basis", self.small_basis),
                ("large_basis", self.large_basis),
                ("remainder", self.remainder),
            )
        }
        return replace(self, **moved)  # type: ignore[arg-type]

    def rotate(self, gradients: Tensor) -> Tensor:
        """Gradients `[b, m, n]` with the shorter side in front and in its eigenbasis, `[b, s, l]`."""
        oriented = gradients if self.shape[1] >= self.shape[0] else gradients.transpose(1, 2)
        return oriented if self.small_basis is None else self.small_basis.T @ oriented

    def coordinates(self, rotated: Tensor) -> Tensor:
        """What `rotate` gave, in the eigenbasis of the longer side too, `[b, s, k]`."""
        if self.large_basis is None:
            return rotated
        flat: Tensor = rotated.reshape(-1, rotated.shape[2]) @ self.large_basis
        return flat.reshape(*rotated.shape[:2], -1)

    def energies(self, gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        """Squared coordinates `[b, s, k]`, and the squared length `[b, s]` of what lies outside them."""
        rotated = self.rotate(gradients)
        inside = self.coordinates(rotated).square()
        if self.remainder is None:
            return inside, None
        return inside, (rotated.square().sum(2) - inside.sum(2)).clamp_min(0)

    def variance(self, gradients: Tensor, prior_precision: float) -> Tensor:
        """`g^T (H + prior_precision I)^-1 g` of each of `[b, m, n]` gradients, `[b]`."""
        inside, outside = self.energies(gradients)
        total = (inside / (self.eigenvalues + prior_precision)).sum((1, 2))
        if outside is None or self.remainder is None:
            return total
        return total + (outside / (self.remainder + prior_precision)).sum(1)

    def whiten(self, gradients: Tensor, prior_precision: float) -> Tensor:
        """Rows `[b, F]` whose inner products are the covariances `g_i^T (H + prior_precision I)^-1 g_j`.

        F is `s k` where nothing is left out, else `s l`.
        """
        rotated = self.rotate(gradients)
        inner = self.coordinates(rotated)
        scale = (self.eigenvalues + prior_precision).rsqrt()
        if self.remainder is None or self.large_basis is None:
            return (inner * scale).flatten(1)
        rest = (self.remainder + prior_precision).rsqrt().unsqueeze(1)
        back = (inner * (scale - rest)).reshape(-1, inner.shape[2]) @ self.large_basis.T
        return (rotated * rest + back.reshape(rotated.shape)).flatten(1)

    def log_determinant(self, prior_precision: float) -> float:
        """`log det(I + H / prior_precision)` of the block, in float64."""
        total = torch.log1p(self.eigenvalues.double() / prior_precision).sum()
        if self.remainder is not None:
            total = total + self.num_left_out * torch.log1p(self.remainder.double() / prior_precision).sum()
        return float(total)

    def trace(self) -> float:
        """Sum of all eigenvalues of the block, those left out included."""
        total = self.eigenvalues.double().sum()
        if self.remainder is not None:
            total = total + self.num_left_out * self.remainder.double().sum()
        return float(total)
