"""The algebra below the LoRA posterior: curvature in eigen form, sums and sketches of factors, the projection."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prudent.posteriors._curvature import BlockCurvature
from prudent.posteriors._evidence import log_evidence, maximize_prior_precision
from prudent.posteriors._projection import Projection
from prudent.posteriors._side import SideSum


def orthonormal(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def drawn_block(shape: tuple[int, int], cut: int, rotated: bool, seed: int) -> tuple[BlockCurvature, torch.Tensor]:
    """A block, and its dense matrix in the order of `[m, n]` flattened."""
    generator = torch.Generator().manual_seed(seed)
    small, large = sorted(shape)
    values = torch.rand(small, large, generator=generator, dtype=torch.float64) * 5
    cut = cut if rotated else 0
    if cut:
        values[:, large - cut :] = values[:, large - cut :].mean(1, keepdim=True)
    short = orthonormal(small, generator) if rotated else torch.eye(small, dtype=torch.float64)
    long = orthonormal(large, generator) if rotated else torch.eye(large, dtype=torch.float64)
    block = BlockCurvature(
        "block",
        shape,
        eigenvalues=values[:, : large - cut],
        small_basis=short if rotated else None,
        large_basis=long[:, : large - cut] if rotated else None,
        remainder=values[:, -1] if cut else None,
    )
    tall = shape[1] < shape[0]
    basis = torch.kron(long, short) if tall else torch.kron(short, long)
    diagonal = values.T.flatten() if tall else values.flatten()
    return block, basis @ torch.diag(diagonal) @ basis.T


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 7)),
    cut=st.integers(0, 4),
    rotated=st.booleans(),
    seed=st.integers(0, 10_000),
    log_prior=st.floats(-3, 3),
)
def test_a_block_is_its_dense_matrix(shape, cut, rotated, seed, log_prior):
    prior = 10.0**log_prior
    block, dense = drawn_block(shape, min(cut, max(shape) - 1), rotated, seed)
    gradients = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    rows = gradients.flatten(1)
    covariance = torch.linalg.inv(dense + prior * torch.eye(len(dense)))
    joint = rows @ covariance @ rows.T
    torch.testing.assert_close(block.variance(gradients, prior), joint.diagonal())
    whitened = block.whiten(gradients, prior)
    torch.testing.assert_close(whitened @ whitened.T, joint)
    assert block.log_determinant(prior) == pytest.approx(
        float(torch.linalg.slogdet(torch.eye(len(dense)) + dense / prior).logabsdet), abs=1e-9
    )
    assert block.trace() == pytest.approx(float(dense.trace()))
    # more data or a stronger prior never make it less sure
    assert (block.variance(gradients, 2 * prior) <= block.variance(gradients, prior)).all()
    assert (block.variance(gradients, prior) <= rows.square().sum(1) / prior * (1 + 1e-12)).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), log_norms=st.lists(st.floats(-4, 4), min_size=2, max_size=4))
def test_the_highest_evidence_is_at_least_that_of_any_other_prior(seed, log_norms):
    blocks = [drawn_block((2, 5), 1, True, seed + place)[0] for place in range(len(log_norms))]
    norms = [10.0**value for value in log_norms]
    (shared,) = set(maximize_prior_precision(blocks, norms, per_layer=False))
    own = maximize_prior_precision(blocks, norms, per_layer=True)
    best = log_evidence(blocks, norms, -3.0, [shared] * len(blocks))
    for power in torch.linspace(-4, 8, 49).tolist():
        assert log_evidence(blocks, norms, -3.0, [10.0**power] * len(blocks)) <= best + 1e-5
    assert log_evidence(blocks, norms, -3.0, own) >= best - 1e-5


@pytest.mark.parametrize("size", [40, 1200])
def test_a_factor_of_low_rank_is_found_whole(size):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 12, generator=generator, dtype=torch.float64)
    rows = rows @ torch.randn(12, size, generator=generator, dtype=torch.float64)
    side = SideSum(size, 20, 0, torch.zeros(()))
    for part in rows.split(7):
        side.add(part)
    space = side.eigenspace()
    assert space.vectors.shape == (size, 20)
    found = space.vectors @ torch.diag(space.values) @ space.vectors.T
    torch.testing.assert_close(found, rows.T @ rows, rtol=1e-3, atol=1e-3 * float((rows.T @ rows).abs().max()))
    torch.testing.assert_close(space.vectors.T @ space.vectors, torch.eye(20, dtype=torch.float64))
    assert space.average_rest == pytest.approx(0.0, abs=1e-3 * float(space.values[0]) / size)


def test_a_sketched_factor_keeps_trace_and_leading_directions():
    size, rank = 1100, 60
    generator = torch.Generator().manual_seed(1)
    scale = torch.arange(1, size + 1, dtype=torch.float32) ** -1.0
    rows = torch.randn(1200, size, generator=generator) * scale
    exact = rows.double().T @ rows.double()
    values, vectors = torch.linalg.eigh(exact)
    whole = SideSum(size, rank, 0, rows)
    for part in rows.split(200):
        whole.add(part)
    space = whole.eigenspace()
    # one pass never overstates, and is nearest where most of the curvature is
    assert (space.values <= values.flip(0)[:rank] * (1 + 1e-5)).all()
    torch.testing.assert_close(space.values[:5], values.flip(0)[:5], rtol=0.1, atol=0)
    aligned = (space.vectors[:, :5].T @ vectors.flip(1)[:, :5]).diagonal().abs()
    assert (aligned > 0.98).all()
    assert float(space.values.sum()) + space.average_rest * (size - rank) == pytest.approx(
        float(exact.trace()), rel=1e-4
    )
    # what two processes saw is added, and order does not matter
    halves = [SideSum(size, rank, 0, rows) for _ in range(2)]
    for place, part in enumerate(reversed(rows.split(200))):
        halves[place % 2].add(part)
    halves[0].total += halves[1].total
    halves[0].trace += halves[1].trace
    torch.testing.assert_close(halves[0].eigenspace().values, space.values, rtol=1e-3, atol=1e-4 * float(values[-1]))


def test_a_factor_that_is_not_positive_is_mended_and_said_to_be():
    side = SideSum(3, 3, 0, torch.zeros(()))
    side.total += torch.diag(torch.tensor([2.0, 1.0, -0.1]))
    space = side.eigenspace()
    assert space.jitter == pytest.approx(0.05)
    assert space.values.tolist() == pytest.approx([2.0, 1.0, 0.0])


@pytest.mark.parametrize("columns", [1, 64, 256])
def test_projections_keep_inner_products_on_average_and_to_the_stated_spread(columns):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 700, generator=generator, dtype=torch.float64)
    second = 0.5 * second + first
    found, inner = [], []
    for seed in range(400):
        projected = Projection(700, columns, seed, first)(torch.stack([first, second]))
        assert projected.shape == (2, columns)
        found.append(projected[0].square().sum() / first.square().sum())
        inner.append(projected[0] @ projected[1] / (first @ second))
    spread = (2 / columns) ** 0.5
    for ratios in (torch.stack(found), torch.stack(inner)):
        assert ratios.mean().item() == pytest.approx(1.0, abs=4 * spread / 400**0.5)
    assert torch.stack(found).std() < 1.15 * spread


@settings(max_examples=25)
@given(size=st.integers(1, 300), columns=st.integers(1, 300), seed=st.integers(0, 1000))
def test_every_weight_goes_to_one_column_with_a_sign(size, columns, seed):
    matrix = Projection(size, columns, seed, torch.zeros(()))(torch.eye(size))
    assert torch.equal(matrix.abs().sum(1), torch.ones(size))
    assert matrix.abs().sum(0).max() <= -(-size // columns)
