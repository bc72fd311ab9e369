"""Sums over pairs from which the structures of curvature are made."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prudent.posteriors._blocks import LinearBlock
from prudent.posteriors._curvature import BlockCurvature
from prudent.posteriors._gradients import weight_gradients
from prudent.posteriors._pair_pass import PairBatch
from prudent.posteriors._side import Eigenspace, SideSum

__all__ = ["DenseSum", "EigenvalueSums", "FactorSums", "MeanGradient", "TokenFactorSums"]


class MeanGradient:
    """Sum of the gradients of all texts, block by block."""

    def __init__(self, blocks: Sequence[LinearBlock], like: Tensor) -> None:
        self._sums = [torch.zeros(block.shape, dtype=torch.float64, device=like.device) for block in blocks]
        self._count = torch.zeros((), dtype=torch.float64, device=like.device)

    def add(self, index: int, summed: Tensor, count: int) -> None:
        """Add the gradients of some texts, already summed over them."""
        self._sums[index] += summed
        if index == 0:
            self._count += count

    def tensors(self) -> list[Tensor]:
        """The sums and the number of texts."""
        return [*self._sums, self._count]

    def means(self) -> tuple[Tensor, ...]:
        """`[m, n]` float64 average gradient of each block."""
        return tuple(total / self._count for total in self._sums)


class TokenFactorSums:
    """The Kronecker factors of the paper: every token of every text is a datum of its own (K-FAC "expand").

    `H = (sum a a^T) (x) (sum w g g^T) / (number of tokens)` with a the inputs, g the gradients at the outputs and w the
    curvature of the text's pair. Chosen and rejected are separate, so what the two share counts as known
    (arXiv 2308.13111; arXiv 2402.13210 as published code has it, there for the last token alone).
    """

    def __init__(self, blocks: Sequence[LinearBlock], max_rank: int, like: Tensor) -> None:
        self._blocks = blocks
        self._inputs, self._outputs = [], []
        for index, block in enumerate(blocks):
            rows, columns = block.shape
            # Only the longer side is cut; the shorter one is rotated as a whole.
            self._inputs.append(SideSum(columns, max_rank if columns >= rows else columns, 2 * index, like))
            self._outputs.append(SideSum(rows, rows if columns >= rows else max_rank, 2 * index + 1, like))
        self._tokens = torch.zeros(len(blocks), dtype=torch.float64, device=like.device)
        self.mean_gradient = MeanGradient(blocks, like)

    def add(self, index: int, inputs: Tensor, gradients: Tensor, batch: PairBatch) -> None:
        """See `PairSums.add`."""
        block = self._blocks[index]
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        mask = batch.mask if batch.mask.shape == inputs.shape[:2] else torch.ones_like(inputs[:, :, 0])
        rows = inputs.to(dtype)
        if block.has_bias:
            rows = torch.cat([rows, torch.ones_like(rows[:, :, :1])], 2)
        flat_gradients = gradients.to(dtype).flatten(0, 1)
        self.mean_gradient.add(index, flat_gradients.T @ rows.flatten(0, 1), len(inputs))
        self._inputs[index].add((rows * mask.unsqueeze(2).to(dtype)).flatten(0, 1))
        weight = (batch.curvature.repeat(2) + batch.common).sqrt().to(dtype)
        self._outputs[index].add((gradients.to(dtype) * weight.reshape(-1, 1, 1)).flatten(0, 1))
        self._tokens[index] += mask.sum()

    def tensors(self) -> list[Tensor]:
        """See `PairSums.tensors`."""
        sides = [part for side in (*self._inputs, *self._outputs) for part in (side.total, side.trace)]
        return [*sides, self._tokens, *self.mean_gradient.tensors()]

    def curvatures(self) -> tuple[list[BlockCurvature], float]:
        """Each block's curvature, float64, and the largest jitter."""
        found = []
        jitter = 0.0
        for index, block in enumerate(self._blocks):
            spaces = self._outputs[index].eigenspace(), self._inputs[index].eigenspace()
            small, large = spaces if block.shape[1] >= block.shape[0] else reversed(spaces)
            jitter = max(jitter, small.jitter, large.jitter)
            found.append(_kronecker(block, small, large, self._tokens[index]))
        return found, jitter


class FactorSums:
    """Kronecker factors of pair differences: `sum w D^T D` and `sum w D D^T`, D the difference of both gradients."""

    def __init__(self, blocks: Sequence[LinearBlock], max_rank: int, like: Tensor) -> None:
        self._blocks = blocks
        self._small = [SideSum(min(block.shape), max(block.shape), 0, like) for block in blocks]
        self._large = [SideSum(max(block.shape), max_rank, index, like) for index, block in enumerate(blocks)]

    def add(self, index: int, inputs: Tensor, gradients: Tensor, batch: PairBatch) -> None:
        """See `PairSums.add`."""
        rows = batch.weighted(weight_gradients(self._blocks[index], inputs, gradients))
        wide = rows if rows.shape[2] >= rows.shape[1] else rows.transpose(1, 2)
        self._large[index].add(wide.reshape(-1, wide.shape[2]))
        self._small[index].add(wide.transpose(1, 2).reshape(-1, wide.shape[1]))

    def tensors(self) -> list[Tensor]:
        """See `PairSums.tensors`."""
        return [part for side in (*self._small, *self._large) for part in (side.total, side.trace)]

    def curvatures(self) -> tuple[list[BlockCurvature], float]:
        """Each block with its bases, and the largest jitter.

        The eigenvalues are those of the Kronecker product with the trace of the block.
        """
        found = []
        jitter = 0.0
        for block, small_sum, large_sum in zip(self._blocks, self._small, self._large, strict=True):
            small, large = small_sum.eigenspace(), large_sum.eigenspace()
            jitter = max(jitter, small.jitter, large.jitter)
            trace = small_sum.trace.clamp_min(torch.finfo(torch.float64).tiny)
            found.append(_kronecker(block, small, large, trace))
        return found, jitter


def _kronecker(block: LinearBlock, small: Eigenspace, large: Eigenspace, divisor: Tensor) -> BlockCurvature:
    """The Kronecker product of two factors over a number, in eigen form."""
    rest = large.average_rest
    return BlockCurvature(
        block.name,
        block.shape,
        eigenvalues=torch.outer(small.values, large.values) / divisor,
        small_basis=small.vectors,
        large_basis=large.vectors,
        remainder=None if rest is None else small.values * rest / divisor,
    )


class EigenvalueSums:
    """Squared coordinates of the weighted pair differences in given bases; with no bases, the diagonal."""

    def __init__(self, blocks: Sequence[LinearBlock], bases: Sequence[BlockCurvature], like: Tensor) -> None:
        self._blocks = blocks
        self._bases = [basis.to(like) for basis in bases]
        self._inside = [torch.zeros_like(basis.eigenvalues, dtype=torch.float64) for basis in self._bases]
        self._outside = [basis.eigenvalues.new_zeros(min(basis.shape), dtype=torch.float64) for basis in self._bases]
        self.mean_gradient = MeanGradient(blocks, like)

    @staticmethod
    def identity(blocks: Sequence[LinearBlock], like: Tensor) -> list[BlockCurvature]:
        """Bases that do not rotate."""
        return [
            BlockCurvature(block.name, block.shape, like.new_zeros(min(block.shape), max(block.shape)))
            for block in blocks
        ]

    def add(self, index: int, inputs: Tensor, gradients: Tensor, batch: PairBatch) -> None:
        """See `PairSums.add`."""
        each = weight_gradients(self._blocks[index], inputs, gradients)
        self.mean_gradient.add(index, each.sum(0), len(each))
        inside, outside = self._bases[index].energies(batch.weighted(each))
        self._inside[index] += inside.sum(0)
        if outside is not None:
            self._outside[index] += outside.sum(0)

    def tensors(self) -> list[Tensor]:
        """See `PairSums.tensors`."""
        return [*self._inside, *self._outside, *self.mean_gradient.tensors()]

    def curvatures(self) -> list[BlockCurvature]:
        """The bases with the eigenvalues found."""
        return [
            BlockCurvature(
                basis.name,
                basis.shape,
                eigenvalues=inside,
                small_basis=basis.small_basis,
                large_basis=basis.large_basis,
                remainder=None if basis.remainder is None else outside / basis.num_left_out,
            )
            for basis, inside, outside in zip(self._bases, self._inside, self._outside, strict=True)
        ]


class DenseSum:
    """The whole matrix `sum w d d^T` over all weights in a row, float64."""

    def __init__(self, blocks: Sequence[LinearBlock], like: Tensor) -> None:
        self._blocks = blocks
        self._rows: dict[int, Tensor] = {}
        size = sum(block.shape[0] * block.shape[1] for block in blocks)
        self.total = torch.zeros(size, size, dtype=torch.float64, device=like.device)
        self.mean_gradient = MeanGradient(blocks, like)

    def add(self, index: int, inputs: Tensor, gradients: Tensor, batch: PairBatch) -> None:
        """See `PairSums.add`."""
        each = weight_gradients(self._blocks[index], inputs, gradients)
        self.mean_gradient.add(index, each.sum(0), len(each))
        self._rows[index] = batch.weighted(each.double().flatten(1))
        if len(self._rows) == len(self._blocks):
            rows = torch.cat([self._rows[place] for place in range(len(self._blocks))], 1)
            self.total += rows.T @ rows
            self._rows.clear()

    def tensors(self) -> list[Tensor]:
        """See `PairSums.tensors`."""
        return [self.total, *self.mean_gradient.tensors()]

    def curvatures(self) -> tuple[list[BlockCurvature], float]:
        """One block of all weights in its eigenbasis, and the jitter."""
        values, vectors = torch.linalg.eigh(self.total)
        largest = float(values[-1])
        jitter = max(0.0, -float(values[0])) / largest if largest > 0 else 0.0
        block = BlockCurvature("all", (1, len(values)), values.clamp_min(0).unsqueeze(0), large_basis=vectors)
        return [block], jitter
