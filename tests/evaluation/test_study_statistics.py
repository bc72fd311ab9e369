import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.evaluation import Estimate
from prudent.evaluation._study_reliability import draw_pairs
from prudent.evaluation._study_statistics import Resamples, log_spaced
from prudent.selection import best_of_n_curve


@given(st.integers(1, 20_000), st.integers(1, 4))
def test_log_spaced_grids(n_max, per_doubling):
    grid = log_spaced(n_max, per_doubling)
    assert grid[0] == 1
    assert grid[-1] == n_max
    assert list(grid) == sorted(set(grid))
    assert len(grid) <= per_doubling * np.log2(n_max) + 3


def test_interval_of_a_mean_agrees_with_normal_theory():
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, size=400)
    resamples = Resamples(400, 4000, 0.95, seed=1)
    estimate = resamples.estimate(values.mean(), resamples.means(values))
    error = 1.96 * values.std(ddof=1) / 20
    assert estimate.low == pytest.approx(values.mean() - error, abs=0.03)
    assert estimate.high == pytest.approx(values.mean() + error, abs=0.03)


def test_resampled_means_keep_the_shape_and_pair_the_columns():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(9, 4, 2))
    resamples = Resamples(9, 50, 0.9, seed=0)
    draws = resamples.means(values)
    assert draws.shape == (50, 4, 2)
    assert draws[:, 1, 0] - draws[:, 3, 1] == pytest.approx(resamples.means(values[:, 1, 0] - values[:, 3, 1]))
    assert resamples.means(np.ones(9)) == pytest.approx(np.ones(50))


def test_ratio_of_sums():
    resamples = Resamples(3, 500, 0.95, seed=0)
    estimate = resamples.ratio(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.5, 0.5, 0.5))
    assert resamples.ratio(np.zeros(3), np.zeros(3)) is None
    # a resample may lack the only prompt that counts: those are left out
    assert resamples.ratio(np.array([1.0, 0, 0]), np.array([2.0, 0, 0])).high == pytest.approx(0.5)


def outcome_of(resamples, gold, grid, others=None, rounding=0.0):
    found = {name: resamples.resampled(values) for name, values in (others or {}).items()}
    return resamples.outcome(resamples.resampled(gold), grid, found, rounding)


def falls(rng, drop, num_prompts=30):
    """Gold curves of prompts that rise, and fall by `drop` at the end, under noise that neighbors share."""
    shape = np.array([0.0, 0.6, 1.0, 1.0, 1.0, 1.0 - drop])
    walk = rng.normal(size=(num_prompts, 6)).cumsum(1) * 0.3
    return shape + walk + rng.normal(size=(num_prompts, 1))


def test_p_value_of_a_fall_pays_for_the_search():
    rng = np.random.default_rng(2)
    grid = (1, 2, 4, 8, 16, 32)
    resamples = Resamples(30, 300, 0.95, seed=0)
    null = [outcome_of(resamples, falls(rng, 0.0), grid).drop_p_value for _ in range(200)]
    assert np.mean(np.array(null) < 0.05) < 0.08
    power = [outcome_of(resamples, falls(rng, 1.0), grid).drop_p_value for _ in range(50)]
    assert np.mean(np.array(power) < 0.05) > 0.9


def chosen_by_chance(rng, gold, n_max, lost=0.0):
    """Gold curves of a utility that knows nothing of gold, of which its best candidates lose `lost`."""
    num_prompts, size = gold.shape
    utility = torch.tensor(rng.normal(size=gold.shape))
    gold = torch.tensor(gold) - lost * (utility > 1.5)
    group = torch.arange(num_prompts).repeat_interleave(size)
    return best_of_n_curve(utility.reshape(-1), gold.reshape(-1), group, log_spaced(n_max)).numpy()


@pytest.mark.parametrize(
    ("num_prompts", "size", "n_max", "right"), [(10, 64, 64, None), (40, 100, 100, 0.1), (20, 100, 25, 0.1)]
)
def test_few_prompts_and_rare_right_answers_are_no_fall(num_prompts, size, n_max, right):
    """Size of the test where gold is normal, and where it is 0 or 1 and seldom 1."""
    rng = np.random.default_rng(6)
    found = []
    for run in range(300):
        gold = rng.normal(size=(num_prompts, size)) if right is None else rng.random((num_prompts, size)) < right
        curves = chosen_by_chance(rng, gold.astype(float), n_max)
        resamples = Resamples(num_prompts, 200, 0.95, seed=run)
        found.append(outcome_of(resamples, curves, log_spaced(n_max), rounding=1e-9).drop_p_value)
    assert np.mean(np.array(found) < 0.05) < 0.07


def test_a_fall_is_found_with_few_prompts():
    rng = np.random.default_rng(7)
    found = []
    for run in range(60):
        curves = chosen_by_chance(rng, rng.normal(size=(20, 64)), 64, lost=1.0)
        found.append(outcome_of(Resamples(20, 200, 0.95, seed=run), curves, log_spaced(64), rounding=1e-9).drop_p_value)
    assert np.mean(np.array(found) < 0.05) > 0.9


def test_a_curve_that_only_falls_has_no_kept_share():
    gold = np.tile([1.0, 0.5, 0.0], (5, 1))
    outcome = outcome_of(Resamples(5, 50, 0.95, seed=0), gold, (1, 2, 4), {"first": gold})
    assert outcome.kept is None
    assert outcome.peak_n == 1
    assert outcome.drop.value == 1.0
    assert outcome.versus["first"].value == 0.0
    assert outcome.share_above_first == 0.5


def test_one_prompt_says_nothing_about_significance():
    outcome = outcome_of(Resamples(1, 50, 0.95, seed=0), np.array([[0.0, 1.0, 0.5]]), (1, 2, 4))
    assert outcome.drop_p_value is None
    assert outcome.kept.value == pytest.approx(0.5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 30), st.booleans(), st.integers(0, 99))
def test_pairs_are_two_candidates_of_one_prompt(sizes, each, top, seed):
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(len(group), generator=generator)
    i, j = draw_pairs(mean, group, each, generator, top=top)
    assert len(i) == len(j) == each * sum(size >= 2 for size in sizes)
    assert torch.equal(group[i], group[j])
    assert not bool((i == j).any())
    if top:
        for row in i.tolist():
            same = group == group[row]
            assert int((mean[same] > mean[row]).sum()) < max(1, -(-int(same.sum()) // 10))


def test_pairs_are_uniform():
    group = torch.zeros(4, dtype=torch.long)
    i, j = draw_pairs(torch.zeros(4), group, 12_000, torch.Generator().manual_seed(0), top=False)
    counts = torch.bincount(i * 4 + j, minlength=16).reshape(4, 4)
    assert counts.diagonal().sum() == 0
    off = counts[~torch.eye(4, dtype=torch.bool)]
    assert off.min() > 850
    assert off.max() < 1150


def test_rounding_is_no_fall():
    rng = np.random.default_rng(4)
    resamples = Resamples(40, 100, 0.95, seed=0)
    level = 50 + rng.normal(size=(40, 1))
    outcome = outcome_of(
        resamples, level + 1e-14 * rng.normal(size=(40, 4)), (1, 2, 4, 8), {"first": level[:, [0] * 4]}, 1e-9
    )
    assert (outcome.peak_n, outcome.peak_n_high) == (1, 1)
    assert (outcome.gain, outcome.drop) == (Estimate(0, 0, 0), Estimate(0, 0, 0))
    assert (outcome.drop_p_value, outcome.kept, outcome.share_above_first) == (1.0, None, 0.5)
    # a tie that sums leave unequal: the first of the two is the peak
    tied = np.tile([0.0, 0.1 + 0.2, 0.3, 0.3 - 1e-12], (40, 1)) + 0.1 * rng.normal(size=(40, 1))
    assert outcome_of(resamples, tied, (1, 2, 4, 8), rounding=1e-9).peak_n == 2
    assert outcome_of(resamples, tied[:, [0, 2, 1, 3]], (1, 2, 4, 8), rounding=1e-9).peak_n == 2


def test_a_fall_of_the_same_everywhere_is_sure():
    gold = np.tile([0.0, 1.0, 0.5], (30, 1))
    assert outcome_of(Resamples(30, 200, 0.95, seed=0), gold, (1, 2, 4), rounding=1e-9).drop_p_value < 0.01
