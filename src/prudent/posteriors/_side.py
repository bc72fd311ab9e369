"""One Kronecker factor: a sum of outer products, collected batch by batch, and its leading eigenvectors.

A short side is summed exactly. A long one is sketched: the sum times a fixed random matrix (single-pass Nystrom, Tropp
et al. 2017, arXiv 1706.05736). Both are plain sums, so they do not depend on the order of batches, and processes add
theirs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.errors import PosteriorError

__all__ = ["Eigenspace", "SideSum"]

_DENSE_SIZE = 1024
_OVERSAMPLING = 16


@dataclass(frozen=True)
class Eigenspace:
    """Leading eigenvectors of a positive semi-definite matrix.

    Attributes:
        values: `[k]` float64 eigenvalues, not negative.
        vectors: `[size, k]` float64 orthonormal columns.
        average_rest: average eigenvalue of the directions left out; None where none is.
        jitter: what had to be added to the diagonal beyond rounding, or negative eigenvalues that were lifted to
            zero, relative to the size of the matrix.
    """

    values: Tensor
    vectors: Tensor
    average_rest: float | None
    jitter: float


class SideSum:
    """`sum over rows of row row^T`, exactly or as a sketch.

    Args:
        size: length of a row.
        max_rank: eigenvectors kept at the end, at most.
        seed: of the sketch.
        like: whose device the sums live on.
    """

    def __init__(self, size: int, max_rank: int, seed: int, like: Tensor) -> None:
        self._size = size
        self._rank = min(size, max_rank)
        self._device = like.device
        columns = min(size, self._rank + _OVERSAMPLING)
        self._test: Tensor | None = None
        if size > _DENSE_SIZE and columns < size:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randn(size, columns, generator=generator, dtype=torch.float64)
            self._test = torch.linalg.qr(drawn).Q.to(self._device)
        self.total = torch.zeros(size, columns if self._test is not None else size, device=self._device).double()
        self.trace = torch.zeros((), device=self._device).double()

    def add(self, rows: Tensor) -> None:
        """Add the outer products of `[R, size]` rows."""
        if self._test is None:
            self.total += rows.T @ rows
        else:
            self.total += rows.T @ (rows @ self._test.to(rows))
        self.trace += rows.square().sum()

    def eigenspace(self) -> Eigenspace:
        """The leading eigenvectors of the sum."""
        values, vectors, jitter = self._dense() if self._test is None else self._sketched()
        order = values.argsort(descending=True, stable=True)[: self._rank]
        values, vectors = values[order], vectors[:, order]
        rest = None
        if self._rank < self._size:
            rest = max(0.0, float(self.trace - values.sum())) / (self._size - self._rank)
        return Eigenspace(values, vectors, rest, jitter)

    def _dense(self) -> tuple[Tensor, Tensor, float]:
        values, vectors = torch.linalg.eigh((self.total + self.total.T) / 2)
        largest = float(values[-1])
        jitter = max(0.0, -float(values[0])) / largest if largest > 0 else 0.0
        return values.clamp_min(0), vectors, jitter

    def _sketched(self) -> tuple[Tensor, Tensor, float]:
        assert self._test is not None
        norm = float(torch.linalg.matrix_norm(self.total))
        if norm == 0:
            return self.total.new_zeros(self.total.shape[1]), self._test, 0.0
        relative = float(torch.finfo(torch.float32).eps)
        # Sums of float32 products are not quite positive semi-definite: a shift, taken off again at the end.
        mended = 0.0
        while relative < 1e-2:
            shift = relative * norm
            shifted = self.total + shift * self._test
            inner = self._test.T @ shifted
            factor, failed = torch.linalg.cholesky_ex((inner + inner.T) / 2)
            if not int(failed):
                break
            relative *= 10
            mended = relative
        else:
            raise PosteriorError("a factor of the curvature is not positive semi-definite; load the model in float32")
        root = torch.linalg.solve_triangular(factor, shifted.T, upper=False)
        right = torch.linalg.svd(root, full_matrices=False)
        return (right.S.square() - shift).clamp_min(0), right.Vh.T.contiguous(), mended
