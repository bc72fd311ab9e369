import math

import pytest
import torch

from prudent.errors import DataError
from prudent.rewards import GaussianRewards, MemberRewards
from prudent.selection import best_of_n, best_of_n_curve, resampled_curve
from prudent.utility import LcbStd, ProbBest, RewardSet, parse_utility


def gaussian(sizes: tuple[int, ...] = (6, 9), seed: int = 0) -> GaussianRewards:
    generator = torch.Generator().manual_seed(seed)
    size = sum(sizes)
    factor = torch.randn(size, 3, generator=generator)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = torch.randperm(size, generator=generator)
    return GaussianRewards(torch.randn(size, generator=generator), factor.square().sum(1), group[order], factor)


def test_agrees_with_the_exact_curve_within_its_stated_error() -> None:
    rewards, rule = gaussian(), LcbStd()
    value = torch.randn(15, generator=torch.Generator().manual_seed(1))
    n_values = [1, 2, 4, 8]
    exact = best_of_n_curve(rule(rewards), value, rewards.group, n_values)
    drawn = resampled_curve(rule, rewards, value, n_values, num_resamples=200)
    assert torch.equal(drawn.mean.isnan(), exact.isnan())
    score = ((drawn.mean - exact).abs() - 1e-6) / drawn.standard_error
    score = score[drawn.standard_error > 0]
    assert len(score) >= 6
    assert score.max().item() < 4.5
    assert 0.4 < score.square().mean().item() < 2.2
    settled = drawn.standard_error == 0
    torch.testing.assert_close(drawn.mean[settled], exact[settled])


def test_prob_best_on_all_candidates_is_plain_selection() -> None:
    members = MemberRewards(torch.randn(5, 101, generator=torch.Generator().manual_seed(3)))
    value = torch.arange(5.0)
    curve = resampled_curve(ProbBest(), members, value, [5], num_resamples=4)
    best = best_of_n(ProbBest()(members), members.group)
    assert best.num_tied.item() == 1
    assert curve.mean.item() == value[best.index].item()


def test_a_fitted_utility_of_several_rewards_sees_the_subset_of_all() -> None:
    """What one member of a pair of rewards says of the subset decides as the plain rule on it does."""
    rewards, other = gaussian(), gaussian(seed=7)
    both = RewardSet({"a": rewards, "b": GaussianRewards(other.mean, other.variance, rewards.group)})
    value = torch.arange(15.0)
    alone = resampled_curve(ProbBest(64), rewards, value, [2, 5], num_resamples=8)
    utility = parse_utility("a | prob_best(64)").fit(both)
    together = resampled_curve(utility, both, value, [2, 5], num_resamples=8)
    torch.testing.assert_close(together.mean, alone.mean, equal_nan=True)
    summed = parse_utility("weighted(a, b, weights=[1, 1]) | mean").fit(both)
    exact = best_of_n_curve(summed(both), value, rewards.group, [6])
    torch.testing.assert_close(resampled_curve(summed, both, value, [6], 4).mean[:1], exact[:1], equal_nan=True)


def test_the_rule_sees_the_subset_only() -> None:
    """Two near copies split the wins of the pool, so a third response is the best of 3 but loses half of the pairs."""
    members = torch.tensor([[3.0, 3.0, 3.0, 0, 0, 0, 0], [3.1, 2.9, 3.1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0]])
    rewards = MemberRewards(members)
    value = torch.tensor([0.0, 0.0, 1.0])
    assert ProbBest()(rewards).argmax().item() == 2
    curve = resampled_curve(ProbBest(), rewards, value, [2, 3], num_resamples=400)
    assert curve.mean[0, 1].item() == 1
    # pairs: {0, 1} gives 0; {0, 2} and {1, 2}: 2 wins against 3 of 7 and one tie, 3.5 to 3.5
    assert curve.mean[0, 0].item() == pytest.approx(1 / 3, abs=0.12)


def test_several_values_are_of_the_same_picks() -> None:
    rewards, value = gaussian(), torch.randn(15, 2, generator=torch.Generator().manual_seed(2))
    values = torch.cat([value, (value[:, 0] - 2 * value[:, 1])[:, None]], 1).double()
    curve = resampled_curve(ProbBest(64), rewards, values, [2, 5, 8], num_resamples=8)
    assert curve.mean.shape == curve.standard_error.shape == (2, 3, 3)
    assert curve.mean[0, 2].isnan().all()
    alone = resampled_curve(ProbBest(64), rewards, values[:, 1], [2, 5, 8], num_resamples=8)
    torch.testing.assert_close(curve.mean[..., 1], alone.mean, equal_nan=True)
    torch.testing.assert_close(curve.standard_error[..., 1], alone.standard_error, equal_nan=True)
    paired = curve.mean[..., 0] - 2 * curve.mean[..., 1]  # holds subset by subset only if the picks are shared
    torch.testing.assert_close(curve.mean[..., 2], paired, equal_nan=True)


def test_advance_counts_every_subset() -> None:
    done: list[int] = []
    resampled_curve(LcbStd(), gaussian(), torch.arange(15.0), [2, 8, 20], num_resamples=5, advance=done.append)
    assert done == [1] * 10 + [5]  # no prompt has 20 candidates


def test_repeatable_and_seeded() -> None:
    rewards, value = gaussian(), torch.arange(15.0)
    curves = [
        resampled_curve(ProbBest(64), rewards, value, [3], 8, torch.Generator().manual_seed(seed)).mean
        for seed in (0, 0, 1)
    ]
    assert torch.equal(curves[0], curves[1])
    assert not torch.equal(curves[0], curves[2])


def test_unscored_candidates_are_an_error_or_left_out() -> None:
    rewards = gaussian()
    value = torch.arange(15.0)
    value[rewards.group.nonzero()[0]] = math.nan
    with pytest.raises(DataError, match="1 of 15"):
        resampled_curve(LcbStd(), rewards, value, [2])
    curve = resampled_curve(LcbStd(), rewards, value, [8, 9], nan="exclude")
    assert curve.mean.isnan().tolist() == [[True, True], [False, True]]
    with pytest.raises(ValueError, match="num_resamples"):
        resampled_curve(LcbStd(), rewards, value, [2], num_resamples=1)
    with pytest.raises(ValueError, match=r"\[N, V\]"):
        resampled_curve(LcbStd(), rewards, value[:, None, None], [2])
