"""The logistic posterior against autograd, enumeration of duplicates, quadrature and a Markov chain."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from prudent.errors import PosteriorError
from prudent.posteriors import fit_logistic, maximize_evidence


def simulated_pairs(num_pairs: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature differences signed so that the first response won, and the weight that decided."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, generator=generator, dtype=torch.float64)
    differences = torch.randn(num_pairs, size, generator=generator, dtype=torch.float64)
    won = torch.rand(num_pairs, generator=generator, dtype=torch.float64) < torch.sigmoid(differences @ weight)
    return torch.where(won.unsqueeze(1), differences, -differences), weight


def log_joint(
    weight: torch.Tensor, differences: torch.Tensor, label: torch.Tensor, margin: torch.Tensor, precision: float
) -> torch.Tensor:
    """Unnormalised log posterior, written out without the module under test; batched over rows of `weight`."""
    logit = weight @ differences.T - margin
    likelihood = (label * logsigmoid(logit) + (1 - label) * logsigmoid(-logit)).sum(-1)
    return likelihood - 0.5 * precision * weight.square().sum(-1)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_pairs=st.integers(2, 60),
    size=st.integers(1, 8),
    log_precision=st.floats(-2, 3),
)
def test_gradient_vanishes_and_hessian_matches_autograd(seed, num_pairs, size, log_precision):
    generator = torch.Generator().manual_seed(seed)
    differences = torch.randn(num_pairs, size, generator=generator, dtype=torch.float64)
    label = torch.rand(num_pairs, generator=generator, dtype=torch.float64)
    margin = torch.randn(num_pairs, generator=generator, dtype=torch.float64)
    precision = 10.0**log_precision
    fitted = fit_logistic(differences, precision, label=label, margin=margin)

    def objective(weight: torch.Tensor) -> torch.Tensor:
        return log_joint(weight, differences, label, margin, precision)

    gradient = torch.func.grad(objective)(fitted.weight)
    assert gradient.abs().max() < 1e-3 * max(1.0, precision) ** 0.5
    hessian = -torch.func.hessian(objective)(fitted.weight)
    torch.testing.assert_close(fitted.cholesky @ fitted.cholesky.T, hessian, rtol=1e-6, atol=1e-8)
    covariance = fitted.covariance_factor @ fitted.covariance_factor.T
    torch.testing.assert_close(covariance, torch.linalg.inv(hessian), rtol=1e-6, atol=1e-9)


def test_soft_label_is_a_share_of_duplicates():
    differences, _ = simulated_pairs(30, 4)
    soft = fit_logistic(differences.repeat(10, 1), 1.0, label=torch.full((300,), 0.7))
    hard = fit_logistic(differences.repeat(10, 1), 1.0, label=torch.tensor([1.0] * 210 + [0.0] * 90))
    torch.testing.assert_close(soft.weight, hard.weight)
    assert soft.log_likelihood == pytest.approx(hard.log_likelihood)


def test_margin_shifts_the_logit():
    # With one feature equal to 1 in every pair the weight is the reward difference itself: the mode solves
    # M (1 - sigma(w - margin)) = precision * w.
    fitted = fit_logistic(torch.ones(40, 1), 0.5, margin=torch.full((40,), 2.0))
    weight = fitted.weight.item()
    assert 40 / (1 + math.exp(weight - 2.0)) == pytest.approx(0.5 * weight, rel=1e-6)


def test_evidence_against_quadrature():
    differences, _ = simulated_pairs(80, 2, seed=3)
    grid = torch.linspace(-6, 8, 701, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    cell = float(grid[1] - grid[0]) ** 2
    for precision in (0.3, 3.0):
        joint = log_joint(points, differences, torch.ones(80), torch.zeros(80), precision)
        exact = float(torch.logsumexp(joint, 0)) + math.log(cell) + math.log(precision / (2 * math.pi))
        assert fit_logistic(differences, precision).log_marginal_likelihood == pytest.approx(exact, abs=0.05)


def test_laplace_against_a_markov_chain():
    differences, _ = simulated_pairs(400, 3, seed=1)
    fitted = fit_logistic(differences, 1.0)
    generator = torch.Generator().manual_seed(7)
    factor = fitted.covariance_factor
    # 200 random-walk Metropolis chains side by side, started over-dispersed.
    state = fitted.weight + 2 * torch.randn(200, 3, generator=generator, dtype=torch.float64) @ factor.T
    arguments = (differences, torch.ones(400), torch.zeros(400), 1.0)
    value = log_joint(state, *arguments)
    kept = []
    for step in range(600):
        proposal = state + 1.2 * torch.randn(200, 3, generator=generator, dtype=torch.float64) @ factor.T
        proposed = log_joint(proposal, *arguments)
        accept = torch.rand(200, generator=generator, dtype=torch.float64).log() < proposed - value
        state = torch.where(accept.unsqueeze(1), proposal, state)
        value = torch.where(accept, proposed, value)
        if step >= 150 and step % 5 == 0:
            kept.append(state.clone())
    draws = torch.cat(kept)
    std = (factor @ factor.T).diagonal().sqrt()
    # The posterior of a logistic model is a little skewed: its mean lies up to a fifth of a deviation from the mode.
    assert ((draws.mean(0) - fitted.weight).abs() < 0.25 * std).all()
    torch.testing.assert_close(draws.T.cov(), factor @ factor.T, rtol=0.2, atol=float(0.1 * std.square().max()))


def test_highest_evidence_is_found():
    differences, _ = simulated_pairs(200, 20, seed=5)
    best = maximize_evidence(differences)
    grid = [fit_logistic(differences, 10.0**power) for power in torch.linspace(-3, 3, 61).tolist()]
    peak = max(grid, key=lambda fitted: fitted.log_marginal_likelihood)
    assert best.log_marginal_likelihood >= peak.log_marginal_likelihood - 1e-4
    assert best.prior_precision == pytest.approx(peak.prior_precision, rel=0.3)
    assert 1e-3 < best.prior_precision < 1e3


def test_evidence_recovers_the_prior_that_drew_the_weights():
    found = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        weight = 0.5 * torch.randn(30, generator=generator, dtype=torch.float64)
        differences = torch.randn(1500, 30, generator=generator, dtype=torch.float64)
        won = torch.rand(1500, generator=generator, dtype=torch.float64) < torch.sigmoid(differences @ weight)
        found.append(maximize_evidence(torch.where(won.unsqueeze(1), differences, -differences)).prior_precision)
    # A weight of standard deviation 0.5 is a prior precision of 4.
    assert torch.tensor(found).log().mean().exp().item() == pytest.approx(4.0, rel=0.25)


def test_kept_weight_stays_and_only_the_curvature_is_new():
    differences, weight = simulated_pairs(100, 3)
    kept = fit_logistic(differences, 2.0, start=weight, newton=False)
    assert torch.equal(kept.weight, weight)
    chance = torch.sigmoid(differences @ weight)
    hessian = differences.T @ (differences * (chance * (1 - chance)).unsqueeze(1)) + 2.0 * torch.eye(3)
    torch.testing.assert_close(kept.cholesky @ kept.cholesky.T, hessian)


def test_separable_pairs_stay_finite():
    fitted = maximize_evidence(torch.full((50, 2), 3.0))
    assert torch.isfinite(fitted.weight).all()
    assert math.isfinite(fitted.log_marginal_likelihood)


def test_newton_that_cannot_converge_says_so():
    with pytest.raises(PosteriorError, match="converged"):
        fit_logistic(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), 1.0, tolerance=-1.0)
