import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prudent.errors import UnsupportedError
from prudent.rewards import GaussianRewards, MemberRewards, RewardPosterior, TransformedRewards, expected_log_sigmoid
from prudent.utility import (
    RISK_RULES,
    Cvar,
    Entropic,
    LcbStd,
    LcbVar,
    LogProbabilityGood,
    Mean,
    ProbabilityAbove,
    ProbabilityGood,
    ProbBest,
    Quantile,
    Thompson,
    UtilityRule,
    Worst,
    matched_risk_aversion,
)


def gaussian() -> GaussianRewards:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(6, generator=generator, dtype=torch.float64)
    variance = torch.rand(6, generator=generator, dtype=torch.float64)
    return GaussianRewards(mean, variance, noise=torch.full((6,), 0.25, dtype=torch.float64))


def test_closed_forms_on_a_gaussian() -> None:
    rewards = gaussian()
    mean, variance = rewards.mean, rewards.variance
    torch.testing.assert_close(Mean()(rewards), mean)
    torch.testing.assert_close(LcbStd(1.5)(rewards), mean - 1.5 * variance.sqrt())
    torch.testing.assert_close(LcbVar(0.3)(rewards), mean - 0.3 * variance)
    torch.testing.assert_close(Entropic(0.6)(rewards), mean - 0.3 * variance)


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
    rules: list[UtilityRule] = [Mean(), LcbStd(), LcbVar(), Entropic(), ProbBest()]
    for rule in rules:
        assert rule(rewards).isnan().tolist() == [False, True], rule.name
    members = MemberRewards(torch.tensor([[1.0, 2.0], [math.nan, 1.0]]))
    for rule in (*rules, Worst()):
        assert rule(members).isnan().tolist() == [False, True], rule.name


def test_only_pool_rules_depend_on_the_pool() -> None:
    factor = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    rewards = GaussianRewards(torch.zeros(5), factor.square().sum(1), factor=factor)
    rows = torch.tensor([0, 3])
    rules: list[UtilityRule] = [Mean(), LcbStd(), LcbVar(), Entropic(), ProbBest()]
    for rule in rules:
        assert rule.depends_on_pool == (rule.name == "prob_best")
        assert torch.equal(rule(rewards)[rows], rule(rewards[rows])) == (not rule.depends_on_pool)


def test_the_largest_aversion_stays_finite() -> None:
    rule = Entropic(1e100)
    members = torch.tensor([[1e4, -1e4, 3.0]], dtype=torch.float64)
    assert rule(MemberRewards(members)).item() == -1e4
    assert rule(MemberRewards(members, within_variance=torch.ones(1))).item() == pytest.approx(-5e99)
    assert rule(GaussianRewards(members[0], torch.ones(3))).isfinite().all()


def test_the_worst_member_is_the_limit_of_entropic_and_needs_members() -> None:
    members = MemberRewards(torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).double())
    torch.testing.assert_close(Worst()(members), members.members.amin(1))
    torch.testing.assert_close(Entropic(1e6)(members), Worst()(members), atol=1e-5, rtol=0)
    with pytest.raises(UnsupportedError, match=r"worst needs .* GaussianRewards"):
        Worst()(GaussianRewards(torch.zeros(2), torch.ones(2)))


def test_rules_are_values() -> None:
    assert LcbStd(num_std=2.0) == LcbStd(2.0)
    assert len({Mean(), Mean(), ProbBest(), ProbBest(64)}) == 3
    torch.manual_seed(0)
    rewards = GaussianRewards(torch.zeros(3), torch.ones(3), factor=torch.randn(3, 2))
    seeds = [torch.Generator().manual_seed(s) for s in (1, 1, 2)]
    first, again, other = (ProbBest(100)(rewards, generator) for generator in seeds)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


SINGLE = (
    Mean(),
    LcbStd(),
    LcbVar(),
    Entropic(),
    Entropic(kl_coef=0.2),
    Quantile(),
    Cvar(),
    ProbabilityGood(),
    LogProbabilityGood(),
    LogProbabilityGood("probit"),
    ProbabilityAbove(0.5),
)
"""Rules of single responses that any posterior has an answer to."""


def bimodal() -> MemberRewards:
    """Ten members, eight of them high and two low."""
    return MemberRewards(torch.tensor([[1.0] * 8 + [-3.0] * 2], dtype=torch.float64), ddof=0)


def test_on_a_gaussian_tails_and_moments_are_one_rule() -> None:
    rewards = gaussian()
    for level in (0.02, 0.1, 0.5):
        z = stats.norm.ppf(level)
        torch.testing.assert_close(Quantile(level)(rewards), rewards.mean + z * rewards.variance.sqrt())
        share = stats.norm.pdf(z) / level
        torch.testing.assert_close(Cvar(level)(rewards), LcbStd(share)(rewards))
    torch.testing.assert_close(Entropic(kl_coef=0.25)(rewards), LcbVar(1 / (2 * 0.25))(rewards))
    assert Entropic(kl_coef=0.25).strength == 4
    for rule in (Entropic(2.0, include_noise=True), Quantile(include_noise=True), Cvar(include_noise=True)):
        noisy = GaussianRewards(rewards.mean, rewards.variance + rewards.noise)
        plain = type(rule)(**{**vars(rule), "include_noise": False})
        torch.testing.assert_close(rule(rewards), plain(noisy))


def test_on_a_bimodal_ensemble_they_are_not() -> None:
    """The Gaussian form of entropic risk falls below every member, the exact one lies within them (2606.09073)."""
    rewards = bimodal()
    for kl_coef in (1.0, 0.5, 0.1):
        exact = Entropic(kl_coef=kl_coef)(rewards).item()
        assert exact == pytest.approx(-kl_coef * math.log(0.8 * math.exp(-1 / kl_coef) + 0.2 * math.exp(3 / kl_coef)))
        assert -3 <= exact <= rewards.mean.item()
    # too mild where two members in ten are a long tail, and below all of them where it should be near the worst
    assert LcbVar(1 / 2)(rewards) > Entropic(kl_coef=1.0)(rewards)
    assert LcbVar(1 / 0.2)(rewards).item() < -3
    assert Quantile(0.2)(rewards).item() == -3
    assert Quantile(0.21)(rewards).item() == 1
    assert Cvar(0.2)(rewards).item() == pytest.approx(-3)
    assert Cvar(0.4)(rewards).item() == pytest.approx(-1)
    assert LcbStd(3.0)(rewards).item() < -3
    assert ProbabilityAbove(0.0)(rewards).item() == pytest.approx(0.8)


def test_the_three_averages_of_sigma_are_three_numbers() -> None:
    mean, variance = torch.tensor([2.0, -2.0], dtype=torch.float64), torch.tensor([9.0, 9.0], dtype=torch.float64)
    rewards = GaussianRewards(mean, variance)
    average = TransformedRewards(rewards, F.logsigmoid, increasing=True)
    torch.testing.assert_close(Mean()(average), expected_log_sigmoid(mean, variance))
    log_average, certain = LogProbabilityGood()(rewards), F.logsigmoid(mean)
    torch.testing.assert_close(log_average, ProbabilityGood()(rewards).log())
    assert (Mean()(average) < certain).all()
    assert log_average[0] < certain[0]  # doubt costs above the reference
    assert log_average[1] > certain[1]  # and pays below it
    members = MemberRewards(torch.tensor([[3.0, -1.0], [0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(ProbabilityGood()(members), members.members.sigmoid().mean(1))
    noisy = GaussianRewards(mean, variance - 1, noise=torch.ones(2))
    for rule in (ProbabilityGood, LogProbabilityGood, ProbabilityAbove):
        torch.testing.assert_close(rule(include_noise=True)(noisy), rule()(rewards))
    torch.testing.assert_close(
        LogProbabilityGood("probit", include_noise=True)(noisy), LogProbabilityGood("probit")(rewards)
    )


def test_thompson_picks_as_often_as_a_response_may_be_best() -> None:
    factor = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 0.2]], dtype=torch.float64)
    rewards = GaussianRewards(torch.tensor([0.0, -0.2, 0.5]).double(), factor.square().sum(1), factor=factor)
    generator = torch.Generator().manual_seed(5)
    picks = torch.stack([Thompson()(rewards, generator).argmax() for _ in range(3000)])
    share = torch.bincount(picks, minlength=3).double() / 3000
    torch.testing.assert_close(share, rewards.prob_best(50_000), atol=0.03, rtol=0)
    rows = torch.tensor([2, 0])
    one, other = (Thompson()(part, torch.Generator().manual_seed(7)) for part in (rewards, rewards[rows]))
    assert torch.equal(one[rows], other)
    with pytest.raises(UnsupportedError, match="without a factor"):
        Thompson()(gaussian())


@given(
    st.lists(st.tuples(st.floats(-8, 8), st.floats(0, 9)), min_size=1, max_size=5),
    st.floats(0.01, 5),
    st.sampled_from(SINGLE),
    st.booleans(),
)
def test_more_reward_is_never_worth_less(
    rows: list[tuple[float, float]], more: float, rule: UtilityRule, transformed: bool
) -> None:
    mean, variance = torch.tensor(rows, dtype=torch.float64).T

    def values(shift: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        moved = mean + shift
        members = torch.stack([moved, moved - variance, moved + 1], 1)
        found = []
        for base in (GaussianRewards(moved, variance), MemberRewards(members)):
            posterior: RewardPosterior = base[order]
            if transformed:
                posterior = TransformedRewards(posterior, F.logsigmoid, increasing=True)
            found.append(rule(posterior))
        return torch.stack(found, 1)

    order = torch.arange(len(rows))
    before = values(torch.zeros(len(rows)).double(), order)
    shift = torch.zeros(len(rows)).double()
    shift[0] = more
    after = values(shift, order)
    # moments of a bounded function may fall as the mean rises: lcb rules promise nothing after a transform
    if not (
        (transformed and isinstance(rule, LcbStd | LcbVar))
        or (isinstance(rule, LogProbabilityGood) and rule.form == "probit")
    ):
        assert (after[0] >= before[0] - 1e-9).all()
    assert torch.equal(after[1:], before[1:])  # the others are as they were
    assert torch.equal(values(shift, order.flip(0)), after.flip(0))


@pytest.mark.parametrize("rule", [kind() for kind in RISK_RULES], ids=lambda rule: rule.name)
def test_what_every_rule_says_of_itself(rule: UtilityRule) -> None:
    members = MemberRewards(torch.tensor([[1e4, -1e4], [0.0, 0.0], [math.nan, 1.0], [1e4, 1e4]]))
    values = rule(members)
    assert values.isnan().tolist() == [False, False, True, False]
    assert values[~values.isnan()].isfinite().all()
    assert rule(members[:1]).shape == (1,)
    assert rule(members[:0]).shape == (0,)
    assert rule.depends_on_pool == (rule.name == "prob_best")
    assert rule.needs_members == (rule.name == "worst")
    assert rule.reads_variance == (rule.name not in ("mean", "worst"))
    assert hash(rule) == hash(type(rule)())


def test_scales() -> None:
    singles = ["mean", "lcb_std", "lcb_var", "entropic", "quantile", "cvar", "worst"]
    probabilities = ["probability_good", "log_probability_good", "probability_above"]
    assert [kind.name for kind in RISK_RULES] == [*singles, "prob_best", "thompson", *probabilities]
    assert len(Mean.takes) == 5
    assert Cvar().gives("log_probability") == "log_probability"
    assert ProbBest().gives("reward") == ProbabilityGood().gives("centered") == "probability"
    assert ProbabilityAbove().gives("centered") == "probability"
    assert LogProbabilityGood().gives("centered") == "log_probability"
    assert ProbabilityGood.takes == LogProbabilityGood.takes == ProbabilityAbove.takes == ("centered",)


def test_rules_of_float32_rewards_keep_their_type() -> None:
    rewards = GaussianRewards(torch.zeros(2), torch.ones(2))
    for rule in (Entropic(), Quantile(), Cvar(), LcbStd()):
        assert rule(rewards).dtype == torch.float32
    assert ProbabilityAbove()(rewards).dtype == torch.float64


def test_the_matched_risk_aversion_moves_as_far_as_best_of_n() -> None:
    spread = 1.7
    for n in (2, 16, 1024):
        aversion = matched_risk_aversion(n, spread)
        # the tilted policy exp(a r) of N(0, spread^2) rewards is N(a spread^2, spread^2)
        divergence = (aversion * spread**2) ** 2 / (2 * spread**2)
        assert divergence == pytest.approx(math.log(n) - (n - 1) / n)
        assert matched_risk_aversion(n, 10 * spread) == pytest.approx(aversion / 10)
    with pytest.raises(ValueError, match="n must be at least 2"):
        matched_risk_aversion(1, 1.0)
    for wrong in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="spread must be positive"):
            matched_risk_aversion(4, wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LcbStd(math.nan), "num_std must be finite"),
        (lambda: LcbVar(-1.0), "variance_weight must be finite and not negative"),
        (lambda: Entropic(0.0), "the limit 0 is the rule 'mean'"),
        (lambda: Entropic(2.0, kl_coef=0.5), "and not both"),
        (lambda: Entropic(kl_coef=0.0), "kl_coef must be positive"),
        (lambda: Entropic(math.inf), "risk_aversion must be finite"),
        (lambda: Entropic(kl_coef=1e-320), "too large; its limit is the rule 'worst'"),
        (lambda: Quantile(0.0), "quantile: level must be above 0"),
        (lambda: Cvar(1.0), "cvar: level must be above 0"),
        (lambda: ProbBest(0), "num_samples"),
        (lambda: LogProbabilityGood("gauss"), "form must be exact or probit"),
        (lambda: ProbabilityAbove(math.nan), "threshold must be finite"),
    ],
)
def test_wrong_parameters_are_named(make: Callable[[], UtilityRule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
