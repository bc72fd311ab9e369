import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from prudent.rewards import (
    expected_log_sigmoid,
    expected_sigmoid,
    log_expected_sigmoid,
    normal_greater,
    probit_log_sigmoid,
)


def reference(mean: float, std: float) -> float:
    """E sigma(mean + std z) by adaptive integration, split where the integrand bends."""
    if std == 0:
        return float(special.expit(mean))
    bends = sorted(
        {-12.0, 12.0, *(b for b in (0.0, -mean / std, (-30 - mean) / std, (30 - mean) / std) if abs(b) < 12)}
    )
    value = 0.0
    for low, high in itertools.pairwise(bends):
        part, _ = integrate.quad(
            lambda z: special.expit(mean + std * z) * stats.norm.pdf(z),
            low,
            high,
            epsabs=1e-15,
            epsrel=1e-13,
            limit=400,
        )
        value += part
    return value


@pytest.mark.parametrize("std", [0.0, 0.02, 0.5, 1.0, 1.49, 1.51, 2.5, 5.0, 12.0, 30.0])
def test_agrees_with_adaptive_integration(std: float) -> None:
    means = [-30.0, -17.3, -6.0, -1.0, -0.05, 0.0, 0.7, 4.0, 11.0, 30.0]
    got = expected_sigmoid(torch.tensor(means, dtype=torch.float64), torch.tensor(std, dtype=torch.float64) ** 2)
    np.testing.assert_allclose(got.numpy(), [reference(m, std) for m in means], rtol=0, atol=1e-12)


def test_logarithm_keeps_relative_accuracy_in_the_lower_tail() -> None:
    mp = pytest.importorskip("mpmath")
    with mp.workdps(40):
        for mean, std in [(-30.0, 1.0), (-30.0, 3.0), (-30.0, 30.0), (-100.0, 5.0), (-300.0, 20.0), (-12.0, 4.0)]:
            middle = -mean / std
            points = sorted({*map(float, range(-14, 40)), *(middle + step / 10 for step in range(-10, 11))})
            exact = mp.quad(
                lambda z, m=mean, s=std: mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi) / (1 + mp.exp(-(m + s * z))), points
            )
            got = log_expected_sigmoid(torch.tensor(mean), torch.tensor(std) ** 2).item()
            assert got == pytest.approx(float(mp.log(exact)), abs=1e-11 * abs(got))


@given(st.floats(-50, 50), st.floats(0, 1000))
def test_is_symmetric_bounded_and_pulled_towards_a_half(mean: float, variance: float) -> None:
    m, v = torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)
    p, mirrored = expected_sigmoid(m, v).item(), expected_sigmoid(-m, v).item()
    assert p + mirrored == pytest.approx(1, abs=1e-13)
    assert 0 <= p <= 1
    assert abs(p - 0.5) <= abs(float(special.expit(mean)) - 0.5) + 1e-13


def test_chunks_shapes_and_missing_values() -> None:
    mean = torch.linspace(-5, 5, 20001, dtype=torch.float64)
    whole = expected_sigmoid(mean, torch.tensor(4.0))
    assert torch.equal(whole[9999:10002], expected_sigmoid(mean[9999:10002], torch.tensor(4.0)))
    assert (whole.diff() > 0).all()
    assert expected_sigmoid(torch.zeros(3, 1), torch.ones(2)).shape == (3, 2)
    assert expected_sigmoid(torch.empty(0), torch.empty(0)).shape == (0,)
    assert math.isnan(expected_sigmoid(torch.tensor(math.nan), torch.tensor(1.0)).item())
    assert math.isnan(expected_sigmoid(torch.tensor(1.0), torch.tensor(math.nan)).item())
    with pytest.raises(ValueError, match="negative"):
        expected_sigmoid(torch.tensor(0.0), torch.tensor(-1.0))


def test_normal_greater_in_both_tails_and_without_doubt() -> None:
    mean = torch.tensor([-30.0, -9.5, -1.0, 0.0, 2.0, 9.5], dtype=torch.float64)
    for variance in (0.25, 1.0, 4.0):
        expected = stats.norm.sf(0, loc=mean.numpy(), scale=math.sqrt(variance))
        np.testing.assert_allclose(normal_greater(mean, torch.tensor(variance)).numpy(), expected, rtol=1e-9)
    certain = normal_greater(torch.tensor([-1.0, 0.0, 1.0, math.nan]), torch.tensor(0.0))
    assert certain[:3].tolist() == [0.0, 0.5, 1.0]
    assert math.isnan(certain[3].item())


def log_reference(mean: float, std: float) -> float:
    """E log sigma(mean + std z) by adaptive integration, split where the integrand bends."""
    if std == 0:
        return float(-np.logaddexp(0, -mean))
    bends = sorted({-14.0, 14.0, *(b for b in (-std, -mean / std, 0.0, 5.0) if abs(b) < 14)})
    return math.fsum(
        integrate.quad(
            lambda z: -np.logaddexp(0, -mean - std * z) * stats.norm.pdf(z),
            low,
            high,
            epsabs=0,
            epsrel=1e-12,
            limit=600,
        )[0]
        for low, high in itertools.pairwise(bends)
    )


@pytest.mark.parametrize("std", [0.0, 0.02, 1.0, 1.49, 1.51, 4.0, 20.0, 100.0])
@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_the_average_of_log_sigma_agrees_with_adaptive_integration(std: float) -> None:
    means = [-1e4, -300.0, -20.0, -1.0, 0.0, 0.7, 8.0, 25.0, 300.0, 1e4]
    got = expected_log_sigmoid(torch.tensor(means, dtype=torch.float64), torch.tensor(std, dtype=torch.float64) ** 2)
    np.testing.assert_allclose(got.numpy(), [log_reference(m, std) for m in means], rtol=1e-10, atol=1e-16)


@given(st.floats(-60, 60), st.floats(0, 1e4), st.floats(0.001, 100))
def test_the_three_averages_are_ordered(mean: float, variance: float, more: float) -> None:
    m, v = torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)
    average, log_average, probit = expected_log_sigmoid(m, v), log_expected_sigmoid(m, v), probit_log_sigmoid(m, v)
    assert average <= log_average + 1e-12
    assert average <= torch.nn.functional.logsigmoid(m) + 1e-12
    assert expected_log_sigmoid(m, v + more) <= average + 1e-12 * max(1, abs(average))
    assert expected_log_sigmoid(m + more, v) >= average
    # doubt costs above the reference and pays below it
    doubt = log_expected_sigmoid(m, v + more) - log_average
    assert doubt <= 1e-12 if mean >= 0 else doubt >= -1e-12
    if mean >= 0:
        assert abs(probit - log_average) < 0.02


def test_the_average_of_log_sigma_in_many_shapes() -> None:
    mean = torch.linspace(-5, 5, 20001, dtype=torch.float64)
    whole = expected_log_sigmoid(mean, torch.tensor(4.0))
    assert torch.equal(whole[8701:8710], expected_log_sigmoid(mean[8701:8710], torch.tensor(4.0)))
    assert (whole.diff() > 0).all()
    assert expected_log_sigmoid(torch.zeros(3, 1), torch.tensor([0.0, 9.0])).shape == (3, 2)
    assert expected_log_sigmoid(torch.empty(0), torch.empty(0)).shape == (0,)
    assert expected_log_sigmoid(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, math.nan])).isnan().all()
    for variance in (-1.0, math.inf):
        with pytest.raises(ValueError, match="negative or infinite"):
            expected_log_sigmoid(torch.tensor(0.0), torch.tensor(variance))
    with pytest.raises(ValueError, match="negative"):
        probit_log_sigmoid(torch.tensor(0.0), torch.tensor(-1.0))
