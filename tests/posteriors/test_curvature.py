"""Sketched factors, projections for storage, and the choice of prior precision, against dense linear algebra."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prudent.posteriors._curvature import BlockCurvature
from prudent.posteriors._evidence import log_evidence, maximize_prior_precision
from prudent.posteriors._projection import Projection
from prudent.posteriors._side import SideSum


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [40, 1500])
def test_leading_eigenvectors_of_an_exact_and_a_sketched_sum(size):
    # Eigenvalues fall fast: what the sketch leaves out is small against what it keeps.
    basis = torch.linalg.qr(drawn(size, 30)).Q
    rows = drawn(400, 30, seed=1) * 0.7 ** torch.arange(30) @ basis.T
    sums = SideSum(size, 12, seed=3, like=rows)
    for part in rows.split(64):
        sums.add(part)
    found = sums.eigenspace()
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    torch.testing.assert_close(found.values, values.flip(0)[:12], rtol=5e-3, atol=0)
    overlap = (found.vectors.T @ vectors.flip(1)[:, :12]).square().sum(1)
    assert float(overlap.min()) > 0.999
    rest = (rows.square().sum() - found.values.sum()) / (size - 12)
    assert found.average_rest == pytest.approx(float(rest), rel=1e-6)
    assert found.jitter < 1e-3


def test_sums_do_not_depend_on_how_they_are_split_between_processes():
    rows = drawn(60, 1100)
    whole, first, second = (SideSum(1100, 8, seed=5, like=rows) for _ in range(3))
    whole.add(rows)
    first.add(rows[:20])
    second.add(rows[20:])
    torch.testing.assert_close(first.total + second.total, whole.total)
    torch.testing.assert_close(first.trace + second.trace, whole.trace)


def test_sketch_of_nothing_is_nothing():
    found = SideSum(1200, 4, seed=0, like=torch.zeros(1)).eigenspace()
    assert float(found.values.abs().sum()) == 0
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(4, dtype=torch.float64))


def test_a_sketch_never_overstates_where_eigenvalues_fall_slowly():
    rows = drawn(1200, 1100).float() / torch.arange(1, 1101)
    exact = torch.linalg.eigvalsh(rows.double().T @ rows.double()).flip(0)
    sums = SideSum(1100, 60, seed=0, like=rows)
    sums.add(rows)
    found = sums.eigenspace()
    assert (found.values <= exact[:60] * (1 + 1e-5)).all()
    torch.testing.assert_close(found.values[:5], exact[:5], rtol=0.1, atol=0)
    kept = float(found.values.sum()) + found.average_rest * (1100 - 60)
    assert kept == pytest.approx(float(exact.sum()), rel=1e-4)


def test_a_factor_that_is_not_positive_is_mended_and_said_to_be():
    sums = SideSum(3, 3, seed=0, like=torch.zeros(1))
    sums.total += torch.diag(torch.tensor([2.0, 1.0, -0.1]))
    found = sums.eigenspace()
    assert found.jitter == pytest.approx(0.05)
    assert found.values.tolist() == pytest.approx([2.0, 1.0, 0.0])


def block(rows: int, columns: int, rank: int, seed: int) -> tuple[BlockCurvature, torch.Tensor]:
    """A block in eigen form and its dense curvature over the rows and columns of the weight in a row."""
    short, long = min(rows, columns), max(rows, columns)
    small, large = (
        torch.linalg.qr(drawn(short, short, seed=seed)).Q,
        torch.linalg.qr(drawn(long, long, seed=seed + 1)).Q,
    )
    values = drawn(short, long, seed=seed + 2).square()
    remainder = None
    if rank < long:
        remainder = values[:, rank:].mean(1)
        values[:, rank:] = remainder.unsqueeze(1)
    basis = torch.einsum("ai,bj->abij", small, large)
    if columns < rows:
        basis = basis.transpose(0, 1)
    flat = basis.reshape(rows * columns, -1)
    curvature = BlockCurvature("w", (rows, columns), values[:, :rank], small, large[:, :rank], remainder)
    return curvature, (flat * values.flatten()) @ flat.T


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.floats(0.01, 100.0))
def test_block_is_its_dense_matrix(rows, columns, rank, prior):
    curvature, dense = block(rows, columns, min(rank, max(rows, columns)), seed=rows + 10 * columns)
    gradients = drawn(4, rows, columns, seed=9)
    flat = gradients.flatten(1)
    precision = dense + prior * torch.eye(len(dense), dtype=torch.float64)
    covariance = flat @ torch.linalg.solve(precision, flat.T)
    whitened = curvature.whiten(gradients, prior)
    torch.testing.assert_close(whitened @ whitened.T, covariance, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(curvature.variance(gradients, prior), covariance.diagonal(), rtol=1e-8, atol=1e-10)
    expected = float(torch.logdet(precision / prior))
    assert curvature.log_determinant(prior) == pytest.approx(expected, rel=1e-8, abs=1e-9)
    assert curvature.trace() == pytest.approx(float(dense.trace()))


def test_projection_keeps_inner_products_in_expectation_and_within_its_bound():
    vectors = drawn(2, 3001).float()
    exact = float((vectors[0] - vectors[1]).square().sum())
    ratios = []
    inner = []
    for seed in range(400):
        stored = Projection(3001, 64, seed, vectors)(vectors)
        ratios.append(float((stored[0] - stored[1]).square().sum()) / exact)
        inner.append(float(stored[0] @ stored[1]))
    ratio = torch.tensor(ratios)
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / 64 / 400))
    assert float(ratio.std()) == pytest.approx(math.sqrt(2 / 64), rel=0.15)
    truth = float(vectors[0] @ vectors[1])
    error = torch.tensor(inner).std() / len(inner) ** 0.5
    assert abs(sum(inner) / len(inner) - truth) < 4 * float(error)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000))
def test_every_weight_goes_to_one_column_with_a_sign(size, columns, seed):
    matrix = Projection(size, columns, seed, torch.zeros(()))(torch.eye(size))
    assert torch.equal(matrix.abs().sum(1), torch.ones(size))
    assert matrix.abs().sum(0).max() <= -(-size // columns)


def test_evidence_is_highest_at_the_prior_found():
    curvature, _ = block(3, 5, 5, seed=4)
    other, _ = block(2, 4, 2, seed=8)
    norms = [0.7, 3.0]
    for per_layer in (False, True):
        priors = maximize_prior_precision([curvature, other], norms, per_layer=per_layer)
        best = log_evidence([curvature, other], norms, -10.0, priors)
        for factor in (0.9, 1.1):
            moved = [(priors[0] * factor, priors[1] * factor)]
            moved += [(priors[0] * factor, priors[1]), (priors[0], priors[1] * factor)] if per_layer else []
            assert all(log_evidence([curvature, other], norms, -10.0, shifted) < best for shifted in moved)
        if not per_layer:
            assert priors[0] == priors[1]
            # At the maximum the prior precision is the number of determined weights over their squared norm (MacKay).
            values = [*curvature.eigenvalues.flatten(), *other.eigenvalues.flatten(), *(other.remainder.repeat(2))]
            determined = sum(float(value / (value + priors[0])) for value in values)
            assert priors[0] == pytest.approx(determined / sum(norms), rel=5e-3)
