import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.errors import UnsupportedError
from prudent.rewards import GaussianRewards, MemberRewards, TransformedRewards
from prudent.utility import MEMBER_RULES, POOL_RULES, RULES, Entropic, LcbStd, LcbVar, Mean, ProbBest, Worst, risk_rule


def gaussian() -> GaussianRewards:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(6, generator=generator, dtype=torch.float64)
    variance = torch.rand(6, generator=generator, dtype=torch.float64)
    return GaussianRewards(mean, variance, noise=torch.full((6,), 0.25, dtype=torch.float64))


def test_closed_forms_on_a_gaussian() -> None:
    rewards = gaussian()
    mean, variance = rewards.mean, rewards.variance
    torch.testing.assert_close(risk_rule("mean")(rewards), mean)
    torch.testing.assert_close(risk_rule("lcb_std", num_std=1.5)(rewards), mean - 1.5 * variance.sqrt())
    torch.testing.assert_close(risk_rule("lcb_var", variance_weight=0.3)(rewards), mean - 0.3 * variance)
    torch.testing.assert_close(risk_rule("entropic", risk_aversion=0.6)(rewards), mean - 0.3 * variance)


def test_noise_counts_only_when_asked() -> None:
    rewards = gaussian()
    total = rewards.variance + 0.25
    torch.testing.assert_close(LcbStd(2.0, include_noise=True)(rewards), rewards.mean - 2 * total.sqrt())
    torch.testing.assert_close(LcbVar(2.0, include_noise=True)(rewards), rewards.mean - 2 * total)
    torch.testing.assert_close(Entropic(2.0, include_noise=True)(rewards), rewards.mean - total)


def test_entropic_on_members_interpolates_between_mean_and_worst() -> None:
    """A bimodal ensemble (8 high, 2 low), on which the Gaussian form undershoots the worst member."""
    members = torch.tensor([[1.0] * 8 + [-3.0] * 2], dtype=torch.float64)
    rewards = MemberRewards(members)
    values = [Entropic(a)(rewards).item() for a in (1e-6, 0.1, 1.0, 10.0, 1000.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(members.mean().item(), abs=1e-5)
    assert values[-1] == pytest.approx(-3, abs=0.01)
    assert min(values) >= -3
    assert LcbVar(5.0)(rewards).item() < -3
    assert values[2] == pytest.approx(-math.log(np.exp(-members.numpy()).mean()))


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=8), st.floats(0.01, 50))
def test_entropic_bounds(members: list[float], risk_aversion: float) -> None:
    value = Entropic(risk_aversion)(MemberRewards(torch.tensor([members], dtype=torch.float64))).item()
    assert min(members) - 1e-9 <= value <= np.mean(members) + 1e-9


def test_entropic_over_draws_approaches_the_closed_form() -> None:
    factor = torch.tensor([[0.7], [0.2]], dtype=torch.float64)
    base = GaussianRewards(torch.zeros(2).double(), factor.square().sum(1), factor=factor)
    same = TransformedRewards(base, lambda r: r, num_samples=100_000)
    torch.testing.assert_close(Entropic(1.0)(same), Entropic(1.0)(base), atol=0.01, rtol=0)


def test_what_is_not_scored_stays_so() -> None:
    rewards = GaussianRewards(torch.tensor([1.0, math.nan]), torch.ones(2), factor=torch.eye(2))
    for name in (*RULES, *POOL_RULES):
        assert risk_rule(name)(rewards).isnan().tolist() == [False, True], name
    members = MemberRewards(torch.tensor([[1.0, 2.0], [math.nan, 1.0]]))
    for name in (*RULES, *POOL_RULES, *MEMBER_RULES):
        assert risk_rule(name)(members).isnan().tolist() == [False, True], name


def test_only_pool_rules_depend_on_the_pool() -> None:
    factor = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    rewards = GaussianRewards(torch.zeros(5), factor.square().sum(1), factor=factor)
    rows = torch.tensor([0, 3])
    for name in (*RULES, *POOL_RULES):
        rule = risk_rule(name)
        assert rule.name == name
        assert rule.depends_on_pool == (name in POOL_RULES)
        assert torch.equal(rule(rewards)[rows], rule(rewards[rows])) == (not rule.depends_on_pool)


def test_the_worst_member_is_the_limit_of_entropic_and_needs_members() -> None:
    members = MemberRewards(torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).double())
    assert isinstance(risk_rule("worst"), Worst)
    torch.testing.assert_close(Worst()(members), members.members.amin(1))
    torch.testing.assert_close(Entropic(1e6)(members), Worst()(members), atol=1e-5, rtol=0)
    with pytest.raises(UnsupportedError, match=r"worst needs .* GaussianRewards"):
        Worst()(GaussianRewards(torch.zeros(2), torch.ones(2)))


def test_rules_are_values() -> None:
    assert risk_rule("lcb_std", num_std=2.0) == LcbStd(2.0)
    assert len({Mean(), risk_rule("mean"), ProbBest(), ProbBest(64)}) == 3
    torch.manual_seed(0)
    rewards = GaussianRewards(torch.zeros(3), torch.ones(3), factor=torch.randn(3, 2))
    seeds = [torch.Generator().manual_seed(s) for s in (1, 1, 2)]
    first, again, other = (ProbBest(100)(rewards, generator) for generator in seeds)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wrong_names_and_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="choose one of mean, lcb_std, lcb_var, entropic, prob_best, worst"):
        risk_rule("ucb")
    with pytest.raises(ValueError, match="num_std must be finite"):
        risk_rule("lcb_std", num_std=math.nan)
    with pytest.raises(ValueError, match="variance_weight"):
        risk_rule("lcb_var", variance_weight=-1.0)
    with pytest.raises(ValueError, match="the limit 0 is the rule 'mean'"):
        risk_rule("entropic", risk_aversion=0.0)
