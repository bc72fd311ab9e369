"""Members that are posteriors themselves: a mixture of Gaussians with one covariance, against its definition."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards import MemberRewards, RewardPosterior, TransformedRewards, concatenate, from_arrow


def make(num_responses: int = 6, num_members: int = 3, seed: int = 0, ddof: int = 1) -> MemberRewards:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    factor = 0.7 * normal(num_responses, 4)
    return MemberRewards(
        normal(num_responses, num_members),
        torch.arange(num_responses) // 3,
        ddof,
        "three",
        within_variance=factor.square().sum(1),
        within_factor=factor,
        noise=0.3 * normal(num_responses).abs(),
        text_id=torch.arange(num_responses),
    )


def within(rewards: MemberRewards, include_noise: bool = False) -> Tensor:
    """Covariance of e, dense."""
    assert rewards.within_factor is not None
    covariance = rewards.within_factor @ rewards.within_factor.T
    return covariance + torch.diag(rewards.noise) if include_noise else covariance


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("include_noise", [False, True])
def test_moments_follow_the_law_of_total_covariance(ddof: int, include_noise: bool) -> None:
    rewards = make(ddof=ddof)
    total = torch.from_numpy(np.cov(rewards.members.numpy(), ddof=ddof)) + within(rewards, include_noise)
    assert isinstance(rewards, RewardPosterior)
    torch.testing.assert_close(rewards.covariance(include_noise=include_noise), total)
    some = torch.tensor([4, 1])
    torch.testing.assert_close(rewards.covariance(some, include_noise=include_noise), total[some][:, some])
    if not include_noise:
        torch.testing.assert_close(rewards.variance, total.diagonal())
    i, j = torch.arange(6)[:, None], torch.arange(6)
    mean, variance = rewards.contrast(i, j, include_noise=include_noise)
    torch.testing.assert_close(mean, rewards.mean[:, None] - rewards.mean)
    expected = total.diagonal()[:, None] + total.diagonal() - 2 * total
    torch.testing.assert_close(variance, expected, atol=1e-12, rtol=1e-12)
    assert (variance.diagonal() == 0).all()


@pytest.mark.parametrize("include_noise", [False, True])
def test_samples_are_the_mixture(include_noise: bool) -> None:
    rewards = make(ddof=0)
    samples = rewards.sample(200_000, torch.Generator().manual_seed(1), include_noise=include_noise)
    torch.testing.assert_close(samples.mean(0), rewards.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(samples.T), rewards.covariance(include_noise=include_noise), atol=0.05, rtol=0)
    deviation = math.sqrt(within(rewards, include_noise)[2, 2])
    for value in (-1.0, 0.5):
        share = np.mean([stats.norm.cdf(value, mean, deviation) for mean in rewards.members[2].tolist()])
        assert (samples[:, 2] < value).double().mean().item() == pytest.approx(share, abs=0.005)


@given(st.integers(0, 1000), st.booleans())
def test_probabilities_are_integrals_over_the_mixture(seed: int, include_noise: bool) -> None:
    rewards = make(seed=seed)
    covariance = within(rewards, include_noise)
    deviation = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    means = (rewards.members[0] - rewards.members[1]).tolist()

    def density(x: float) -> float:
        return float(np.mean(stats.norm.pdf(x, means, deviation)))

    greater = np.mean(stats.norm.cdf(np.array(means) / deviation))
    assert rewards.prob_greater(0, 1, include_noise=include_noise).item() == pytest.approx(greater, abs=1e-12)
    ends = (min(means) - 10 * deviation, max(means) + 10 * deviation)
    preferred, _ = integrate.quad(lambda x: density(x) / (1 + math.exp(-x)), *ends, limit=200, points=means)
    assert rewards.prob_preferred(0, 1, include_noise=include_noise).item() == pytest.approx(preferred, abs=1e-7)
    marginal = math.sqrt(covariance[2, 2])
    for scale in (-1.5, 0.5):
        exact = np.mean([math.exp(scale * m + 0.5 * (scale * marginal) ** 2) for m in rewards.members[2].tolist()])
        found = rewards.marginal(include_noise=include_noise).log_expected_exp(scale)[2].item()
        assert found == pytest.approx(math.log(exact), rel=1e-9, abs=1e-9)


def test_a_probability_and_its_complement_sum_to_one() -> None:
    rewards = make()
    i, j = torch.arange(6)[:, None], torch.arange(6)
    for probability in (rewards.prob_greater, rewards.prob_preferred):
        torch.testing.assert_close(probability(i, j) + probability(j, i), torch.ones(6, 6).double())
        torch.testing.assert_close(probability(j, j), torch.full((6,), 0.5).double())


def test_prob_best_is_the_share_of_wins() -> None:
    rewards = make()
    best = rewards.prob_best(20_000)
    draws = rewards.sample(20_000, torch.Generator().manual_seed(9))
    for rows in (slice(0, 3), slice(3, 6)):
        wins = torch.bincount(draws[:, rows].argmax(1), minlength=3) / 20_000
        torch.testing.assert_close(best[rows], wins.double(), atol=0.015, rtol=0)
        assert best[rows].sum().item() == pytest.approx(1)


def test_members_sure_of_themselves_are_the_limit() -> None:
    sure = make()
    plain = MemberRewards(sure.members, sure.group)
    zero = MemberRewards(
        sure.members, sure.group, within_variance=torch.zeros(6), within_factor=torch.zeros(6, 1, dtype=torch.float16)
    )
    i, j = torch.arange(6)[:, None], torch.arange(6)
    torch.testing.assert_close(zero.variance, plain.variance, rtol=0, atol=0)
    torch.testing.assert_close(zero.covariance(), plain.covariance(), rtol=0, atol=0)
    torch.testing.assert_close(zero.prob_greater(i, j), plain.prob_greater(i, j))
    torch.testing.assert_close(zero.prob_preferred(i, j), plain.prob_preferred(i, j))
    torch.testing.assert_close(zero.sample(7), plain.sample(7), rtol=0, atol=0)
    torch.testing.assert_close(zero.prob_best(30_000), plain.prob_best(), atol=0.02, rtol=0)


def test_noise_of_members_counts_when_asked_and_is_shared_by_equal_texts() -> None:
    noise = torch.tensor([2.0, 2.0, 3.0, 2.0])
    rewards = MemberRewards(
        torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]), noise=noise, text_id=torch.tensor([7, 7, 8, 7])
    )
    assert rewards.is_members_alone(include_noise=False)
    rows = torch.arange(4)
    assert rewards.contrast(0, rows)[1].tolist() == [0, 0, 0, 0]
    assert rewards.contrast(0, rows, include_noise=True)[1].tolist() == [0, 0, 5, 4]
    samples = rewards.sample(20_000, include_noise=True)
    assert torch.equal(samples[:, 0], samples[:, 1])
    torch.testing.assert_close(samples.var(0), noise, atol=0.15, rtol=0)
    assert (rewards.sample(3) == 0).all()
    assert rewards.prob_best().tolist() == [1 / 3, 1 / 3, 1 / 3, 1]


def test_a_response_has_the_same_draws_in_every_slice_and_a_slice_keeps_every_part() -> None:
    rewards = make()
    torch.testing.assert_close(rewards[2:5].sample(9), rewards.sample(9)[:, 2:5], rtol=0, atol=1e-12)
    some = rewards[torch.tensor([4, 0])]
    assert some.basis_id == "three"
    for name in ("mean", "variance", "noise", "within_variance", "text_id", "group"):
        assert torch.equal(getattr(some, name), getattr(rewards, name)[[4, 0]])


def test_unscored_rows_stay_unscored() -> None:
    rewards = make()
    rewards.members[1, 0] = math.nan
    assert rewards.variance.isnan().tolist() == [False, True, False, False, False, False]
    best = rewards.prob_best(64)
    assert best[1].isnan()
    assert best[[0, 2]].sum().item() == pytest.approx(1)
    assert rewards.prob_greater(0, 1).isnan()


def test_what_needs_the_factor_says_so() -> None:
    single = MemberRewards(torch.zeros(2, 2), within_variance=torch.ones(2))
    assert single.variance.tolist() == [1, 1]
    assert single.marginal().log_expected_exp(2.0).tolist() == [2, 2]
    calls = {
        "contrast": lambda: single.contrast(0, 1),
        "covariance": single.covariance,
        "sample": lambda: single.sample(1),
        "prob_greater": lambda: single.prob_greater(0, 1),
        "prob_preferred": lambda: single.prob_preferred(0, 1),
        "prob_best": single.prob_best,
    }
    for name, call in calls.items():
        with pytest.raises(UnsupportedError, match=f"MemberRewards .* cannot do {name}"):
            call()


def test_wrong_parts_are_named() -> None:
    members = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="within_factor needs within_variance"):
        MemberRewards(members, within_factor=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="must not be negative"):
        MemberRewards(members, within_variance=torch.tensor([0.0, -1.0]))
    with pytest.raises(ValueError, match=r"factor must be floating \[2, K\]"):
        MemberRewards(members, within_variance=torch.zeros(2), within_factor=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="noise must have shape"):
        MemberRewards(members, noise=torch.zeros(3))


def assert_same(a: MemberRewards, b: MemberRewards) -> None:
    assert (a.basis_id, a.ddof, a.is_discrete) == (b.basis_id, b.ddof, b.is_discrete)
    for name in ("group", "members", "mean", "variance", "noise", "within_variance", "within_factor", "text_id"):
        left, right = getattr(a, name), getattr(b, name)
        if left is None:
            assert right is None, name
        else:
            assert left.dtype == right.dtype, name
            assert torch.equal(left.nan_to_num(-9.0), right.nan_to_num(-9.0)), name


def test_every_part_comes_back_from_parquet(tmp_path: Path) -> None:
    whole = make(ddof=0)
    whole.members[3] = math.nan
    half = MemberRewards(
        whole.members.float(),
        whole.group,
        within_variance=whole.within_variance,
        within_factor=torch.randn(6, 3).half(),
        noise=whole.noise,
    )
    single = MemberRewards(whole.members, within_variance=torch.ones(6))
    noisy = MemberRewards(whole.members, noise=torch.ones(6), basis_id="heads")
    for number, rewards in enumerate((whole, half, single, noisy)):
        pq.write_table(rewards.to_arrow(), tmp_path / f"{number}.parquet", row_group_size=2)
        read = from_arrow(pq.read_table(tmp_path / f"{number}.parquet"))
        assert isinstance(read, MemberRewards)
        assert_same(read, rewards)
    assert "reward_within_variance" not in noisy.to_arrow().column_names


def test_concatenate_joins_every_part_and_refuses_others() -> None:
    whole = make()
    assert_same(concatenate([whole[:1], whole[1:4], whole[4:]]), whole)
    plain = MemberRewards(whole.members, basis_id="three")
    with pytest.raises(ValueError, match="different presence of within_variance"):
        concatenate([whole, plain])
    single = MemberRewards(whole.members, basis_id="three", within_variance=torch.ones(6))
    with pytest.raises(ValueError, match="different factor columns"):
        concatenate([whole, single])
    named = MemberRewards(whole.members, basis_id="three", text_id=torch.arange(6))
    with pytest.raises(ValueError, match="different presence of text_id"):
        concatenate([plain, named])


def test_functions_of_a_mixture_are_drawn_from_it() -> None:
    rewards = make(ddof=0)
    doubled = TransformedRewards(rewards, lambda r: 2 * r, num_samples=40_000)
    torch.testing.assert_close(doubled.mean, 2 * rewards.mean)
    torch.testing.assert_close(doubled.variance, 4 * rewards.variance)
    torch.testing.assert_close(doubled.noise, 4 * rewards.noise)
    _, variance = doubled.contrast(0, 4, include_noise=True)
    assert variance.item() == pytest.approx(4 * rewards.contrast(0, 4, include_noise=True)[1].item(), abs=0.6)
    noisy = MemberRewards(rewards.members, noise=rewards.noise)
    cube = TransformedRewards(noisy, lambda r: r**3)
    torch.testing.assert_close(cube.variance, (noisy.members**3).var(1))
    assert (cube.noise > 0).any()
    torch.testing.assert_close(cube.prob_best(), noisy.prob_best())
