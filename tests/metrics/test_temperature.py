import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from prudent.metrics import MAX_LOGIT_TEMPERATURE, MIN_LOGIT_TEMPERATURE, fit_logit_temperature, pair_scores


def drawn(truth: float, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn with the probabilities of the logits over the true temperature."""
    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(size, generator=generator, dtype=torch.float64)
    return mean, torch.bernoulli(torch.sigmoid(mean / truth), generator=generator)


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_finds_the_temperature_that_made_the_labels(truth: float) -> None:
    mean, label = drawn(truth, 20_000)
    assert fit_logit_temperature(mean, label) == pytest.approx(truth, rel=0.05)
    # a soft label says what many draws would
    assert fit_logit_temperature(mean, torch.sigmoid(mean / truth)) == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("moderated", [False, True])
def test_is_the_minimum_that_scipy_finds(moderated: bool) -> None:
    mean, label = drawn(1.7, 300, seed=1)
    variance = 3 * torch.rand(300, generator=torch.Generator().manual_seed(2)).double() if moderated else None

    def loss(log_t: float) -> float:
        t = math.exp(log_t)
        return pair_scores(mean / t, None if variance is None else variance / t**2, label).nll.mean().item()

    theirs = optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-6})
    ours = fit_logit_temperature(mean, label, variance)
    assert math.log(ours) == pytest.approx(theirs.x, abs=2e-3)
    assert loss(math.log(ours)) == pytest.approx(theirs.fun, abs=1e-7)


@settings(max_examples=20)
@given(st.floats(0.2, 5))
def test_scaling_the_logits_scales_it(factor: float) -> None:
    mean, label = drawn(1.0, 200, seed=3)
    base = fit_logit_temperature(mean, label)
    assert fit_logit_temperature(factor * mean, label) == pytest.approx(factor * base, rel=4e-3)


def test_pairs_that_determine_none_give_an_end() -> None:
    mean = torch.tensor([1.0, 2.0, -1.0])
    right = (mean > 0).double()
    assert fit_logit_temperature(mean, right) == pytest.approx(MIN_LOGIT_TEMPERATURE, rel=0.01)
    assert fit_logit_temperature(mean, 1 - right) == pytest.approx(MAX_LOGIT_TEMPERATURE, rel=0.01)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        fit_logit_temperature(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="label"):
        fit_logit_temperature(torch.zeros(2), torch.tensor([0.0, 2.0]))
