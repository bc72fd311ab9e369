"""Objectives of heads against exact integrals, brute force and the training losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prudent.errors import PosteriorError
from prudent.posteriors._heads_losses import (
    QUANTILE_LEVELS,
    log_sigmoid_of_normal,
    monotone_quantiles,
    pair_loss,
    pinball_loss,
)
from prudent.posteriors._heads_network import apply_heads
from prudent.posteriors._heads_solver import minimize_members
from prudent.rewards import log_expected_sigmoid
from prudent.training import classification_loss


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_log_of_the_expected_sigmoid_is_that_of_the_integral():
    mean = torch.linspace(-25, 25, 101, dtype=torch.float64).unsqueeze(1)
    variance = torch.tensor([0.0, 1e-6, 0.1, 1.0, 5.0, 40.0], dtype=torch.float64)
    error = (log_sigmoid_of_normal(mean, variance) - log_expected_sigmoid(mean, variance)).abs()
    assert error.max() < 2e-5
    assert error[30:71].max() < 2e-9  # means up to 10


def test_its_gradient_is_finite_and_right_down_to_variance_zero():
    mean = torch.tensor([-3.0, 0.5, 2.0], dtype=torch.float64)
    variance = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_sigmoid_of_normal(mean, variance).sum(), variance)
    step = 1e-5
    there = log_expected_sigmoid(mean, variance.detach() + 2 * step), log_expected_sigmoid(mean, variance.detach())
    torch.testing.assert_close(slope, (there[0] - there[1]) / (2 * step), rtol=1e-4, atol=1e-6)


def test_noise_pays_where_a_pair_is_ranked_wrongly():
    # The log of the expectation, not the expectation of the log, which any noise makes worse for every pair.
    chosen, rejected = torch.zeros(1, 1, 2), torch.tensor([[[2.0, 0.0]]])
    noisy = torch.tensor([[[2.0, 5.0]]])
    one = torch.ones(1)
    assert pair_loss("mean_variance", chosen, noisy, one, 0 * one) < pair_loss(
        "mean_variance", chosen, rejected, one, 0 * one
    )


@pytest.mark.parametrize("kind", ["heads", "classification", "mean_variance"])
def test_a_soft_label_weighs_both_readings(kind):
    chosen, rejected = drawn(3, 5, 2), drawn(3, 5, 2, seed=1)
    label, margin = torch.rand(5, generator=torch.Generator().manual_seed(2)).double(), torch.zeros(5).double()
    won = pair_loss(kind, chosen, rejected, 0 * label + 1, margin)
    lost = pair_loss(kind, rejected, chosen, 0 * label + 1, margin)
    torch.testing.assert_close(pair_loss(kind, chosen, rejected, label, margin), label * won + (1 - label) * lost)


def test_classification_is_the_training_loss_of_both_responses():
    chosen, rejected, label = drawn(1, 6, 1), drawn(1, 6, 1, seed=1), torch.rand(6).double()
    ours = pair_loss("classification", chosen, rejected, label, 0 * label).mean()
    torch.testing.assert_close(ours, 2 * classification_loss(chosen[0, :, 0], rejected[0, :, 0], p_chosen=label))


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), power=st.floats(-2, 2))
def test_quantiles_never_cross(seed, power):
    quantiles = monotone_quantiles(10**power * drawn(4, 7, 19, seed=seed))
    assert bool((quantiles.diff(dim=-1) >= 0).all())


def test_pinball_loss_is_the_plain_one_away_from_the_kink():
    quantiles, scores = drawn(2, 50, 19), drawn(50, seed=1)
    error = scores.unsqueeze(-1) - quantiles
    level = torch.tensor(QUANTILE_LEVELS, dtype=torch.float64)
    plain = torch.maximum(level * error, (level - 1) * error).mean(-1)
    found = pinball_loss(quantiles, scores, 1e-9)
    torch.testing.assert_close(found, plain)
    assert (pinball_loss(quantiles, scores, 0.1) - plain).abs().max() < 0.025


def test_heads_are_the_networks_one_by_one_with_their_gradients():
    layers = [(drawn(3, 5, 4, seed=1), drawn(3, 5, seed=2)), (drawn(3, 2, 5, seed=3), drawn(3, 2, seed=4))]
    for layer in layers:
        for tensor in layer:
            tensor.requires_grad_(True)
    features = drawn(7, 4, seed=5)
    together = apply_heads(layers, features)
    gradients = torch.autograd.grad(together.square().sum(), [tensor for layer in layers for tensor in layer])
    for member in range(3):
        alone = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
        with torch.no_grad():
            for place, (weight, bias) in zip((0, 2), layers, strict=True):
                alone[place].weight.copy_(weight[member])
                alone[place].bias.copy_(bias[member])
        outputs = alone(features)
        torch.testing.assert_close(together[member], outputs)
        for gradient, expected in zip(
            gradients, torch.autograd.grad(outputs.square().sum(), list(alone.parameters())), strict=True
        ):
            torch.testing.assert_close(gradient[member], expected)


def test_minima_together_are_the_minima_one_by_one():
    # Rosenbrock valleys of different depth, and a quadratic whose minimum is known.
    depth = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)

    def valleys(point: torch.Tensor) -> torch.Tensor:
        return (1 - point[:, 0]).square() + depth[: len(point)] * (point[:, 1] - point[:, 0].square()).square()

    found = minimize_members(valleys, torch.zeros(3, 2, dtype=torch.float64), tolerance=1e-8)
    torch.testing.assert_close(found, torch.ones(3, 2, dtype=torch.float64))
    alone = minimize_members(valleys, torch.zeros(1, 2, dtype=torch.float64), tolerance=1e-8)
    torch.testing.assert_close(found[:1], alone)
    with pytest.raises(PosteriorError, match="member 2 of the heads has not converged in 3 steps"):
        minimize_members(valleys, torch.zeros(3, 2, dtype=torch.float64), tolerance=1e-8, max_steps=3)
