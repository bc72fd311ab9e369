"""Distributions of single responses, against closed forms, scipy and large samples."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

from prudent.rewards import (
    DrawnMarginal,
    GaussianRewards,
    Marginal,
    MemberRewards,
    NormalMixture,
    PushedMarginal,
    TransformedRewards,
)

MEANS = torch.tensor([[0.0, 1.0, 5.0], [2.0, 2.0, 2.0], [-1.0, 0.5, 40.0]], dtype=torch.float64)
VARIANCE = torch.tensor([0.25, 4.0, 0.01], dtype=torch.float64)


def gaussian(noise: bool = False) -> GaussianRewards:
    mean = torch.tensor([0.0, -3.0, 1e4, 2.0], dtype=torch.float64)
    variance = torch.tensor([1.0, 0.0, 9.0, 0.04], dtype=torch.float64)
    return GaussianRewards(mean, variance, noise=torch.full((4,), 0.5).double() if noise else None)


def mixture() -> NormalMixture:
    return NormalMixture(MEANS, VARIANCE)


def cdf(row: int, value: float) -> float:
    return float(np.mean(stats.norm.cdf(value, MEANS[row].numpy(), math.sqrt(VARIANCE[row].item()))))


def kinds() -> dict[str, Marginal]:
    """Every kind, of three responses."""
    factor = torch.tensor([[0.5, 0.1], [1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    base = GaussianRewards(MEANS[:, 0], factor.square().sum(1), factor=factor)
    draws = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "gaussian": base.marginal(),
        "members": MemberRewards(MEANS).marginal(),
        "mixture": mixture(),
        "increasing": PushedMarginal(mixture(), F.logsigmoid, increasing=True),
        "any function": PushedMarginal(base.marginal(), torch.square),
        "with parameters": PushedMarginal(
            base.marginal(), lambda r, levels: (r[..., None] - levels).clamp(0, 1).mean(-1), (MEANS,), increasing=True
        ),
        "drawn": DrawnMarginal(lambda rows: draws[:, rows], 50, torch.arange(3)),
    }


def figures(marginal: Marginal) -> dict[str, Tensor]:
    return {
        "mean": marginal.mean,
        "variance": marginal.variance,
        "between": marginal.variance_between,
        "quantile": marginal.quantile(0.2),
        "cvar": marginal.cvar(0.2),
        "above": marginal.prob_above(0.3),
        "exp": marginal.log_expected_exp(-0.7),
        "log E sigma": marginal.log_expected_sigmoid(),
        "E log sigma": marginal.expected_log_sigmoid(),
    }


@pytest.mark.parametrize("noise", [False, True])
def test_of_a_gaussian_everything_has_a_closed_form(noise: bool) -> None:
    rewards = gaussian(noise=True)
    marginal = rewards.marginal(include_noise=noise)
    variance = rewards.variance + 0.5 * noise
    mean, std = rewards.mean.numpy(), variance.sqrt().numpy()
    torch.testing.assert_close(marginal.mean, rewards.mean)
    torch.testing.assert_close(marginal.variance, variance)
    for level in (0.001, 0.1, 0.5, 0.97):
        z = stats.norm.ppf(level)
        np.testing.assert_allclose(marginal.quantile(level), mean + std * z, rtol=1e-12)
        np.testing.assert_allclose(marginal.cvar(level), mean - std * stats.norm.pdf(z) / level, rtol=1e-12)
    with np.errstate(divide="ignore"):
        expected = np.where(std > 0, stats.norm.sf((1.5 - mean) / std), mean > 1.5)
    np.testing.assert_allclose(marginal.prob_above(1.5), expected, rtol=1e-9)
    for scale in (-3.0, -1e-9, 0.2):
        np.testing.assert_allclose(
            marginal.log_expected_exp(scale), scale * mean + 0.5 * (scale * std) ** 2, rtol=1e-12
        )
    values, weights = marginal.nodes()
    assert weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close((weights[:, None] * values).sum(0), marginal.mean)
    torch.testing.assert_close((weights[:, None] * (values - marginal.mean) ** 2).sum(0), variance)


def test_quantile_and_cvar_of_a_mixture_solve_their_equations() -> None:
    marginal = mixture()
    sample = marginal.draws(torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for level in (0.05, 0.3, 0.9):
        quantile, cvar = marginal.quantile(level), marginal.cvar(level)
        worst = sample.sort(0).values[: round(level * len(sample))]
        for row in range(3):
            assert cdf(row, quantile[row].item()) == pytest.approx(level, abs=1e-9)
            tail, _ = integrate.quad(
                lambda x, row=row: cdf(row, x), -20, quantile[row].item(), points=[-1, 0, 1, 2], limit=300
            )
            assert cvar[row].item() == pytest.approx(quantile[row].item() - tail / level, abs=1e-6)
            assert cvar[row].item() == pytest.approx(worst[:, row].mean().item(), abs=0.05)
    assert marginal.prob_above(2.5).tolist() == pytest.approx([1 - cdf(row, 2.5) for row in range(3)], abs=1e-14)


def test_quantiles_of_members_are_members() -> None:
    members = torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0, 7.0, 6.0, 9.0, 8.0, 10.0]])
    marginal = MemberRewards(members).marginal()
    assert marginal.is_discrete
    for level, expected in ((0.05, 1), (0.1, 1), (0.11, 2), (0.3, 3), (0.7, 7), (0.99, 10)):
        assert marginal.quantile(level).item() == expected
    assert marginal.cvar(0.1).item() == pytest.approx(1)
    assert marginal.cvar(0.25).item() == pytest.approx((1 + 2 + 0.5 * 3) / 2.5)
    assert marginal.prob_above(7.0).item() == pytest.approx(0.35)


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=7),
    st.floats(0, 30),
    st.floats(0.01, 0.99),
)
def test_tails_are_ordered_and_move_with_the_mean(members: list[float], variance: float, level: float) -> None:
    rewards = torch.tensor([members, [m + 1 for m in members]], dtype=torch.float64)
    marginal = NormalMixture(rewards, torch.full((2,), variance).double())
    quantile, cvar = marginal.quantile(level), marginal.cvar(level)
    assert (cvar <= quantile + 1e-9).all()
    assert (cvar <= marginal.mean + 1e-9).all()
    torch.testing.assert_close(quantile[1] - quantile[0], torch.ones(()).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(cvar[1] - cvar[0], torch.ones(()).double(), atol=1e-9, rtol=0)
    for values in (marginal.log_expected_sigmoid(), marginal.expected_log_sigmoid(), marginal.prob_above(0.0)):
        assert values[1] >= values[0] - 1e-15
    assert (marginal.expected_log_sigmoid() <= marginal.log_expected_sigmoid() + 1e-12).all()


def test_log_expected_exp_of_members_keeps_accuracy_at_both_ends() -> None:
    members = torch.tensor([[1000.0, -1000.0, 3.0, 0.5]])
    marginal = MemberRewards(members).marginal()
    mean, variance = members.double().mean().item(), members.double().var(correction=0).item()
    for scale in (-1e-12, 1e-9):
        assert marginal.log_expected_exp(scale).item() / scale == pytest.approx(mean + scale * variance / 2, abs=1e-7)
    assert -marginal.log_expected_exp(-1e6).item() / 1e6 == pytest.approx(-1000, abs=1e-5)


@pytest.mark.parametrize("name", kinds())
def test_a_response_does_not_depend_on_the_others(name: str) -> None:
    marginal = kinds()[name]
    assert len(marginal) == 3
    found = figures(marginal)
    rows = torch.tensor([2, 0])
    for figure, values in figures(marginal[rows]).items():
        assert torch.equal(values, found[figure][rows]), figure
    for figure, values in figures(marginal[torch.tensor([False, True, False])]).items():
        assert torch.equal(values, found[figure][1:2]), figure
    for values in figures(marginal[:0]).values():
        assert values.shape == (0,)


@pytest.mark.parametrize("name", kinds())
def test_large_samples_have_the_figures(name: str) -> None:
    marginal = kinds()[name]
    size = 200_000
    draws = marginal.draws(torch.randn(size, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    std = marginal.variance.sqrt()
    assert ((draws.mean(0) - marginal.mean).abs() <= 5 * std / math.sqrt(size) + 1e-9).all()
    torch.testing.assert_close(draws.var(0), marginal.variance, rtol=0.05, atol=1e-9)
    torch.testing.assert_close(marginal.prob_above(0.3), (draws > 0.3).double().mean(0), atol=0.04, rtol=0)
    share = (draws <= marginal.quantile(0.3) + 1e-9).double().mean(0)
    assert (share > 0.28).all()
    below = (draws < marginal.quantile(0.3) - 1e-9).double().mean(0)
    assert (below < 0.32).all()
    worst = draws.sort(0).values[: round(0.3 * size)].mean(0)
    torch.testing.assert_close(marginal.cvar(0.3), worst, atol=0.06, rtol=0.01)
    torch.testing.assert_close(marginal.expected_log_sigmoid(), F.logsigmoid(draws).mean(0), atol=0.02, rtol=0.01)
    torch.testing.assert_close(marginal.log_expected_sigmoid().exp(), draws.sigmoid().mean(0), atol=0.005, rtol=0)


def test_large_numbers_of_responses_go_block_by_block() -> None:
    size = 60_000
    mean = torch.linspace(-5, 5, size)
    marginal = TransformedRewards(GaussianRewards(mean, torch.ones(size)), F.logsigmoid, increasing=True).marginal()
    quantile = marginal.quantile(0.1)
    assert (quantile.diff() >= 0).all()
    torch.testing.assert_close(quantile, F.logsigmoid(mean.double() - 1.2815515655446004))
    assert (marginal.mean.diff() > -1e-7).all()


def test_increasing_functions_move_quantiles_and_probabilities_exactly() -> None:
    base = mixture()
    clipped = PushedMarginal(base, lambda r: r.clamp(-0.5, 3.0), increasing=True)
    torch.testing.assert_close(clipped.quantile(0.3), base.quantile(0.3).clamp(-0.5, 3.0))
    torch.testing.assert_close(clipped.prob_above(1.0), base.prob_above(1.0), atol=1e-9, rtol=0)
    # what is clipped ties with the bound, and ties count a half
    torch.testing.assert_close(clipped.prob_above(3.0), 0.5 * base.prob_above(3.0), atol=1e-9, rtol=0)
    assert clipped.prob_above(3.5).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert clipped.prob_above(-1.0).tolist() == pytest.approx([1] * 3, abs=1e-12)
    steps = PushedMarginal(base, torch.floor, increasing=True)
    torch.testing.assert_close(
        steps.prob_above(1.0), 0.5 * (base.prob_above(1.0) + base.prob_above(2.0)), atol=1e-9, rtol=0
    )
    assert "_moments" not in vars(steps) | vars(clipped)  # probabilities need no moments
    twice = PushedMarginal(PushedMarginal(base, torch.sigmoid, increasing=True), torch.log, increasing=True)
    torch.testing.assert_close(twice.quantile(0.6), F.logsigmoid(base.quantile(0.6)))
    torch.testing.assert_close(twice.prob_above(-0.4), base.prob_above(math.log(1 / (math.exp(0.4) - 1))))


def test_functions_that_may_fall_have_the_resolution_of_the_nodes() -> None:
    standard = GaussianRewards(torch.zeros(1).double(), torch.ones(1).double()).marginal()
    square = PushedMarginal(standard, torch.square)
    assert square.mean.item() == pytest.approx(1)
    assert square.variance.item() == pytest.approx(2)
    for level in (0.1, 0.5, 0.9):
        assert square.quantile(level).item() == pytest.approx(stats.chi2.ppf(level, 1), abs=0.1)
    assert square.prob_above(1.02).item() == pytest.approx(stats.chi2.sf(1.02, 1), abs=0.04)
    assert PushedMarginal(standard, torch.neg).quantile(0.1).item() == pytest.approx(-1.2815515655, abs=2e-3)


def test_what_is_not_scored_stays_so() -> None:
    members = MEANS.clone()
    members[1, 2] = math.nan
    mean = torch.tensor([0.0, math.nan, 1.0], dtype=torch.float64)
    for marginal in (
        GaussianRewards(mean, VARIANCE).marginal(),
        MemberRewards(members).marginal(),
        MemberRewards(members, within_variance=VARIANCE).marginal(),
        PushedMarginal(NormalMixture(members, VARIANCE), F.logsigmoid, increasing=True),
        PushedMarginal(NormalMixture(members, VARIANCE), torch.square),
    ):
        for figure, values in figures(marginal).items():
            if figure != "between" or marginal.num_members > 1:
                assert values.isnan().tolist() == [False, True, False], figure


def test_wrong_levels_and_infinite_variances_are_refused() -> None:
    for marginal in kinds().values():
        for level in (0.0, 1.0, math.nan):
            with pytest.raises(ValueError, match="level must be above 0 and below 1"):
                marginal.quantile(level)
            with pytest.raises(ValueError, match="level must be above 0 and below 1"):
                marginal.cvar(level)
    with pytest.raises(ValueError, match="variance is infinite in row 1"):
        GaussianRewards(torch.zeros(2), torch.tensor([1.0, math.inf]))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extremes_stay_finite(size: float) -> None:
    far = torch.tensor([size, size], dtype=torch.float64)
    for marginal in (
        GaussianRewards(far, torch.tensor([0.0, 1e8]).double()).marginal(),
        MemberRewards(torch.stack([far, -far], 1)).marginal(),
        NormalMixture(torch.stack([far, -far], 1), torch.tensor([0.0, 1e-12]).double()),
        PushedMarginal(GaussianRewards(far, torch.ones(2)).marginal(), F.logsigmoid, increasing=True),
    ):
        for figure, values in figures(marginal).items():
            assert values.isfinite().all(), figure
