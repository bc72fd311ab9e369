"""E exp(-a t) where its mass lies far below the mean, against closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import logsumexp

from prudent.errors import UnsupportedError
from prudent.rewards import (
    CombinedRewards,
    Elementwise,
    GaussianRewards,
    MemberRewards,
    PushedMarginal,
    RewardPosterior,
    TransformedRewards,
    WeightedSum,
)

CASES = [(1, 1.5, 10), (0, 3, 5), (0, 1, 20), (40, 3, 10), (40, 3, 1), (5, 0.1, 300), (0, 10, 1), (-3, 20, 20)]


def gaussian(mean: float, std: float) -> GaussianRewards:
    return GaussianRewards(torch.tensor([mean], dtype=torch.float64), torch.tensor([std * std], dtype=torch.float64))


def lsc(base: RewardPosterior) -> TransformedRewards:
    return TransformedRewards(base, F.logsigmoid, increasing=True)


def log_moment(mean: float, std: float, power: int) -> float:
    """Log E (1 + exp(-x))^power of a normal x, by the binomial theorem: log E exp(-power * log sigma(x))."""
    terms = [math.log(math.comb(power, k)) - k * mean + 0.5 * (k * std) ** 2 for k in range(power + 1)]
    return float(logsumexp(terms))


@pytest.mark.parametrize(("mean", "std", "power"), CASES)
def test_log_sigmoid_of_a_normal(mean: float, std: float, power: int) -> None:
    found = lsc(gaussian(mean, std)).marginal().log_expected_exp(-float(power)).item()
    assert found == pytest.approx(log_moment(mean, std, power), rel=1e-12, abs=1e-13)


def test_log_sigmoid_of_a_mixture() -> None:
    members = torch.tensor([[1.0, 30.0], [-2.0, -2.5], [0.0, 0.0]], dtype=torch.float64)
    variance = torch.tensor([9.0, 1.0, 0.0], dtype=torch.float64)
    marginal = lsc(MemberRewards(members, within_variance=variance)).marginal()
    for power in (1, 6, 30):
        found = marginal.log_expected_exp(-float(power))
        for row in range(3):
            logs = [log_moment(m, math.sqrt(variance[row]), power) for m in members[row].tolist()]
            assert found[row].item() == pytest.approx(float(logsumexp(logs)) - math.log(2), rel=1e-9)


def test_a_function_of_a_function_may_be_steeper_than_one() -> None:
    base = gaussian(0.5, 2.0).marginal()
    steep = PushedMarginal(PushedMarginal(base, lambda r: r - 3.0), lambda r: 25.0 * r, increasing=True)
    falling = PushedMarginal(base, torch.neg)
    for scale in (-4.0, 0.3, 2.0):
        t, s = 25 * -2.5, 50.0
        assert steep.log_expected_exp(scale).item() == pytest.approx(scale * t + 0.5 * (scale * s) ** 2, rel=1e-12)
        assert falling.log_expected_exp(scale).item() == pytest.approx(-0.5 * scale + 2 * scale**2, rel=1e-12)
    square = PushedMarginal(gaussian(0.0, 1.0).marginal(), torch.square)
    assert square.log_expected_exp(-7.0).item() == pytest.approx(-0.5 * math.log(15), rel=1e-9)


def test_what_has_no_expectation_is_refused() -> None:
    base = GaussianRewards(torch.tensor([0.0, math.nan, 1.0]), torch.tensor([1.0, 1.0, 0.0])).marginal()
    for function in (torch.square, torch.exp):
        with pytest.raises(UnsupportedError, match="of 1 of 3 responses is infinite"):
            PushedMarginal(base, function).log_expected_exp(1.0)
    with pytest.raises(UnsupportedError, match="smaller risk aversion"):
        lsc(gaussian(0.0, 1.0)).marginal().log_expected_exp(-1e5)
    # what is certain lies nowhere else
    sure = lsc(GaussianRewards(torch.zeros(2), torch.tensor([0.0, 1e-12])))
    assert sure.marginal().log_expected_exp(-1e5)[0].item() == pytest.approx(1e5 * math.log(2))


def test_responses_of_unlike_spread_do_not_touch_each_other() -> None:
    mean, std = torch.tensor([case[:2] for case in CASES], dtype=torch.float64).T
    rewards = lsc(GaussianRewards(mean, std.square()))
    whole = rewards.marginal().log_expected_exp(-3.0)
    np.testing.assert_allclose(whole, [log_moment(m, s, 3) for m, s, _ in CASES], rtol=1e-12, atol=1e-14)
    for row in range(len(CASES)):
        assert torch.equal(rewards[row : row + 1].marginal().log_expected_exp(-3.0), whole[row : row + 1])


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 2.0, 0.0), (3.0, 1.0)])
def test_a_sum_of_independent_parts_factorizes(weights: tuple[float, ...]) -> None:
    normals = [(1.0, 1.5), (0.0, 5.0), (-1.0, 0.5)][: len(weights)]
    rewards = CombinedRewards([lsc(gaussian(*normal)) for normal in normals], Elementwise(WeightedSum(weights)))
    for aversion in (1, 4, 10):
        exact = sum(log_moment(m, s, round(aversion * w)) for (m, s), w in zip(normals, weights, strict=True))
        assert rewards.marginal().log_expected_exp(-float(aversion)).item() == pytest.approx(exact, rel=1e-9)


def test_a_sum_of_sums_with_a_part_missing() -> None:
    holes = GaussianRewards(torch.tensor([math.nan, 0.0, math.nan]), torch.ones(3))
    other = GaussianRewards(torch.tensor([0.0, 0.0, math.nan]), torch.full((3,), 9.0))
    both = Elementwise(WeightedSum((1.0, 2.0)), neutral=-math.log(2))
    found = CombinedRewards([lsc(holes), lsc(other)], both).marginal().log_expected_exp(-3.0)
    assert found[0].item() == pytest.approx(3 * math.log(2) + log_moment(0, 3, 6), rel=1e-9)
    assert found[1].item() == pytest.approx(log_moment(0, 1, 3) + log_moment(0, 3, 6), rel=1e-9)
    assert found[2].isnan()
    inner = CombinedRewards([lsc(other[:2]), lsc(other[:2])], Elementwise(WeightedSum((1.0, 1.0))))
    outer = CombinedRewards([inner, lsc(other[:2])], Elementwise(WeightedSum((2.0, 1.0))))
    exact = 2 * log_moment(0, 3, 4) + log_moment(0, 3, 2)
    assert outer.marginal()[1:].log_expected_exp(-2.0).tolist() == pytest.approx([exact], rel=1e-9)


def test_more_members_than_can_be_enumerated() -> None:
    members = torch.randn(1, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards = CombinedRewards([MemberRewards(members), MemberRewards(members)], Elementwise(WeightedSum((1.0, 2.0))))
    exact = sum(float(logsumexp(-30 * w * members.numpy())) - math.log(40) for w in (1, 2))
    assert rewards.marginal().log_expected_exp(-30.0).item() == pytest.approx(exact)


def test_what_draws_cannot_reach_is_refused() -> None:
    parts = [lsc(gaussian(0.0, 2.0)), lsc(gaussian(1.0, 2.0))]
    smallest = CombinedRewards(parts, Elementwise(lambda values: values.amin(0)))
    together = CombinedRewards(parts, Elementwise(WeightedSum((1.0, 1.0))), correlation=0.5)
    moved = TransformedRewards(smallest, lambda r: 2 * r, increasing=True)
    for rewards in (smallest, together, moved):
        with pytest.raises(UnsupportedError, match=r"1 of 1 responses rests on one draw in 1024.*take a smaller risk"):
            rewards.marginal().log_expected_exp(-5.0)
        assert rewards.marginal().log_expected_exp(-0.1).isfinite().all()
    # a bound on what may be lost, and members of which all are there, leave nothing out
    clipped = TransformedRewards(smallest, lambda r: r.clamp(min=-2.0), increasing=True)
    assert clipped.marginal().log_expected_exp(-20.0).isfinite().all()
    ensembles = [MemberRewards(torch.tensor([[0.0, 50.0]])), MemberRewards(torch.tensor([[10.0, 20.0]]))]
    least = CombinedRewards(ensembles, Elementwise(lambda values: values.amin(0))).marginal()
    assert least.log_expected_exp(-10.0).item() == pytest.approx(-math.log(2))
