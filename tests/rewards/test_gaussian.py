import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prudent.errors import UnsupportedError
from prudent.rewards import GaussianRewards, RewardPosterior, expected_sigmoid


def make(size: int = 12, columns: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> GaussianRewards:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, columns, generator=generator, dtype=dtype)
    return GaussianRewards(
        torch.randn(size, generator=generator, dtype=dtype),
        factor.square().sum(1),
        torch.arange(size) // 4,
        factor,
        torch.rand(size, generator=generator, dtype=dtype),
        torch.arange(size),
        "basis",
    )


def test_satisfies_the_protocol() -> None:
    assert isinstance(make(), RewardPosterior)


def test_contrast_agrees_with_the_covariance() -> None:
    rewards = make()
    i, j = torch.arange(12)[:, None], torch.arange(12)
    for noise in (False, True):
        mean, variance = rewards.contrast(i, j, include_noise=noise)
        covariance = rewards.covariance(include_noise=noise)
        diagonal = covariance.diagonal()
        assert mean.shape == variance.shape == (12, 12)
        torch.testing.assert_close(mean, rewards.mean[:, None] - rewards.mean)
        torch.testing.assert_close(variance, diagonal[:, None] + diagonal - 2 * covariance, atol=1e-12, rtol=1e-12)


def test_contrast_with_itself_is_exactly_zero() -> None:
    rewards = make(dtype=torch.float32)
    rows = torch.arange(12)
    for noise in (False, True):
        mean, variance = rewards.contrast(rows, rows, include_noise=noise)
        assert (mean == 0).all()
        assert (variance == 0).all()
    assert (rewards.prob_greater(rows, rows) == 0.5).all()
    assert (rewards.prob_preferred(rows, rows) - 0.5).abs().max() < 1e-15


@given(st.integers(0, 2**31), st.floats(-6, 6))
def test_contrast_variance_is_never_negative_even_for_near_copies(seed: int, exponent: float) -> None:
    rewards = make(seed=seed, dtype=torch.float32)
    near = rewards.factor[:1] * (1 + torch.randn(12, 1, generator=torch.Generator().manual_seed(seed)) * 1e-7)
    near = near * 10**exponent
    copies = GaussianRewards(rewards.mean, near.square().sum(1), factor=near)
    _, variance = copies.contrast(torch.arange(12)[:, None], torch.arange(12))
    assert (variance >= 0).all()


def test_the_same_text_shares_its_noise_within_a_prompt_only() -> None:
    rewards = GaussianRewards(
        torch.zeros(4),
        torch.zeros(4),
        torch.tensor([0, 0, 0, 1]),
        torch.zeros(4, 2),
        torch.tensor([2.0, 2.0, 3.0, 2.0]),
        torch.tensor([7, 7, 8, 7]),
    )
    _, variance = rewards.contrast(torch.zeros(4, dtype=torch.long), torch.arange(4), include_noise=True)
    assert variance.tolist() == [0, 0, 5, 4]
    samples = rewards.sample(20_000, include_noise=True)
    assert torch.equal(samples[:, 0], samples[:, 1])
    assert np.corrcoef(samples[:, 0], samples[:, 3])[0, 1] == pytest.approx(0, abs=0.03)
    torch.testing.assert_close(torch.cov(samples.T), rewards.covariance(include_noise=True), atol=0.15, rtol=0)


def test_samples_have_the_moments_and_do_not_depend_on_the_slice() -> None:
    rewards = make()
    samples = rewards.sample(100_000, torch.Generator().manual_seed(3))
    torch.testing.assert_close(samples.mean(0), rewards.mean, atol=0.04, rtol=0)
    torch.testing.assert_close(torch.cov(samples.T), rewards.covariance(), atol=0.2, rtol=0.05)
    rows = torch.tensor([7, 2, 9])
    torch.testing.assert_close(
        rewards[rows].sample(50, torch.Generator().manual_seed(5)),
        rewards.sample(50, torch.Generator().manual_seed(5))[:, rows],
    )
    assert torch.equal(rewards.sample(3), rewards.sample(3))


def test_probabilities_agree_with_closed_form_and_sampling() -> None:
    rewards = make()
    i, j = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 1])
    mean, variance = rewards.contrast(i, j)
    np.testing.assert_allclose(rewards.prob_greater(i, j), stats.norm.cdf(mean / variance.sqrt()), rtol=1e-12)
    torch.testing.assert_close(rewards.prob_preferred(i, j), expected_sigmoid(mean, variance))
    draws = rewards.sample(200_000)
    difference = draws[:, i] - draws[:, j]
    torch.testing.assert_close(rewards.prob_greater(i, j), (difference > 0).double().mean(0), atol=5e-3, rtol=0)
    torch.testing.assert_close(rewards.prob_preferred(i, j), difference.sigmoid().mean(0), atol=5e-3, rtol=0)
    _, noisy = rewards.contrast(i, j, include_noise=True)
    torch.testing.assert_close(rewards.prob_preferred(i, j, include_noise=True), expected_sigmoid(mean, noisy))


def test_certain_contrasts_and_far_tails() -> None:
    rewards = GaussianRewards(torch.tensor([0.0, 1.0, 40.0]), torch.ones(3), factor=torch.ones(3, 1))
    zero = torch.tensor(0)
    assert rewards.prob_greater(torch.tensor([0, 1, 2]), zero).tolist() == [0.5, 1, 1]
    assert rewards.prob_greater(zero, torch.tensor(1)).item() == 0
    tail = GaussianRewards(torch.tensor([0.0, 30.0]), torch.ones(2), factor=torch.eye(2))
    expected = stats.norm.logcdf(-30 / math.sqrt(2))
    assert tail.prob_greater(zero, torch.tensor(1)).log().item() == pytest.approx(expected, rel=1e-10)


def test_prob_best_of_two_is_prob_greater_and_of_independent_equals_is_uniform() -> None:
    rewards = make()[torch.tensor([0, 1])]
    best = rewards.prob_best(100_000)
    greater = rewards.prob_greater(torch.tensor(0), torch.tensor(1)).item()
    assert best[0].item() == pytest.approx(greater, abs=0.006)
    equals = GaussianRewards(torch.zeros(5), torch.ones(5), factor=torch.eye(5))
    torch.testing.assert_close(equals.prob_best(50_000), torch.full((5,), 0.2, dtype=torch.float64), atol=0.008, rtol=0)


def test_prob_best_sums_to_one_shares_ties_and_leaves_unscored_out() -> None:
    rewards = make(dtype=torch.float32)
    mean = rewards.mean.clone()
    mean[[1, 8, 9, 10, 11]] = math.nan
    group = torch.tensor([5, 5, 5, 5, 2, 2, 2, 2, 9, 9, 9, 9])
    factor = rewards.factor.clone()
    factor[3], mean[3] = factor[2], mean[2]
    best = GaussianRewards(mean, rewards.variance, group, factor).prob_best(257)
    assert best.isnan().nonzero()[:, 0].tolist() == [1, 8, 9, 10, 11]
    assert best[[0, 2, 3]].sum().item() == pytest.approx(1)
    assert best[4:8].sum().item() == pytest.approx(1)
    assert best[2].item() == best[3].item()


def test_prob_best_of_a_large_group_runs_in_blocks() -> None:
    size = 12_500
    factor = torch.randn(size, 8, generator=torch.Generator().manual_seed(1)) * 0.1
    best = GaussianRewards(torch.zeros(size), factor.square().sum(1), factor=factor).prob_best(1024)
    assert best.sum().item() == pytest.approx(1)
    assert (best >= 0).all()


def test_center_is_the_projection_of_the_covariance() -> None:
    rewards = make()
    is_reference = torch.tensor([True, True, False, False, False, True, False, False, True, True, True, True])
    centered = rewards.center(is_reference)
    subtract = torch.zeros(12, 12, dtype=torch.float64)
    for row in range(12):
        references = [r for r in range(12) if is_reference[r] and r // 4 == row // 4]
        subtract[row, references] = 1 / len(references)
    matrix = torch.eye(12, dtype=torch.float64) - subtract
    torch.testing.assert_close(centered.mean, matrix @ rewards.mean)
    torch.testing.assert_close(centered.covariance(), matrix @ rewards.covariance() @ matrix.T)
    torch.testing.assert_close(centered.variance, centered.covariance().diagonal())
    within = (torch.tensor([0, 4, 9]), torch.tensor([3, 5, 11]))
    for before, after in zip(rewards.contrast(*within), centered.contrast(*within), strict=True):
        torch.testing.assert_close(before, after)
    assert centered.mean[5].item() == 0
    assert centered.variance[5].item() == 0
    assert torch.equal(centered.group, rewards.group)
    assert centered.basis_id == "basis"


def test_center_leaves_unscored_references_out() -> None:
    rewards = GaussianRewards(
        torch.tensor([math.nan, 1.0, 3.0, math.nan, 5.0]),
        torch.ones(5),
        torch.tensor([0, 0, 0, 1, 1]),
        torch.ones(5, 1),
    )
    centered = rewards.center(torch.tensor([True, True, False, True, False]))
    assert centered.mean[1:3].tolist() == [0, 2]
    assert centered.mean[[0, 3, 4]].isnan().all()
    with pytest.raises(ValueError, match="prompt 1 has no reference"):
        rewards.center(torch.tensor([True, True, False, False, False]))
    with pytest.raises(ValueError, match="boolean"):
        rewards.center(torch.ones(5))


def test_without_a_factor_only_single_responses_are_known() -> None:
    rewards = GaussianRewards(torch.zeros(3), torch.ones(3))
    rows = torch.arange(3)
    for call in (
        lambda: rewards.contrast(rows, rows),
        lambda: rewards.covariance(),
        lambda: rewards.sample(2),
        lambda: rewards.prob_greater(rows, rows),
        lambda: rewards.prob_preferred(rows, rows),
        lambda: rewards.prob_best(),
        lambda: rewards.center(torch.ones(3, dtype=torch.bool)),
    ):
        with pytest.raises(UnsupportedError, match="GaussianRewards without a factor"):
            call()
    assert rewards.marginal().log_expected_exp(2.0).tolist() == [2, 2, 2]


def test_slicing_keeps_ids_and_every_part() -> None:
    rewards = make()
    for index, rows in (
        (slice(2, 9, 3), [2, 5, 8]),
        (torch.tensor([11, 0, 0]), [11, 0, 0]),
        (torch.arange(12) % 5 == 0, [0, 5, 10]),
        (torch.tensor([-1]), [11]),
    ):
        part = rewards[index]
        assert len(part) == len(rows)
        for name in ("mean", "variance", "group", "factor", "noise", "text_id"):
            assert torch.equal(getattr(part, name), getattr(rewards, name)[rows])
        assert part.basis_id == "basis"
    assert len(rewards[:0]) == 0
    assert rewards[:0].sample(2, include_noise=True).shape == (2, 0)
    assert rewards[:0].prob_best().shape == (0,)


def test_half_precision_factor_is_computed_with_in_the_type_of_the_mean() -> None:
    rewards = make(dtype=torch.float32)
    half = GaussianRewards(rewards.mean, rewards.variance, rewards.group, rewards.factor.half())
    assert half.factor is not None
    assert half.factor.dtype == torch.float16
    _, variance = half.contrast(torch.tensor(0), torch.arange(12))
    assert variance.dtype == torch.float32
    torch.testing.assert_close(variance, rewards.contrast(torch.tensor(0), torch.arange(12))[1], atol=1e-2, rtol=5e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": torch.zeros(2, 2)}, "mean must be a vector"),
        ({"mean": torch.tensor([0.0, math.inf])}, "infinite in row 1"),
        ({"variance": torch.ones(3)}, r"variance must have shape \[2\]"),
        ({"variance": torch.tensor([1.0, -1.0])}, "variance must not be negative, got -1.0 in row 1"),
        ({"variance": torch.tensor([math.inf, 1.0])}, "variance is infinite in row 0"),
        ({"group": torch.zeros(3, dtype=torch.long)}, "group must have shape"),
        ({"group": torch.zeros(2)}, "group must hold integers"),
        ({"factor": torch.zeros(3, 2)}, "factor must be floating"),
        ({"factor": torch.zeros(2, 2, dtype=torch.long)}, "factor must be floating"),
        ({"noise": torch.tensor([0.0, -1.0])}, "noise must not be negative"),
        ({"text_id": torch.zeros(2)}, "text_id must hold integers"),
    ],
)
def test_wrong_input_is_named(arguments: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianRewards(**{"mean": torch.zeros(2), "variance": torch.ones(2)} | arguments)


def test_wrong_index_is_named() -> None:
    rewards = make()
    with pytest.raises(ValueError, match="boolean index must have shape"):
        rewards[torch.ones(3, dtype=torch.bool)]
    with pytest.raises(ValueError, match="vector of integers or booleans"):
        rewards[torch.zeros(2)]
    with pytest.raises(TypeError, match="slice or a tensor"):
        rewards[[0, 1]]  # type: ignore[index]
    with pytest.raises(ValueError, match="num_samples"):
        rewards.sample(0)


def test_plain_integers_are_row_numbers() -> None:
    import torch

    from prudent.rewards import GaussianRewards, MemberRewards

    for rewards in (
        GaussianRewards(torch.tensor([1.0, 0.0]), torch.ones(2), factor=torch.eye(2)),
        MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 1.0]])),
    ):
        rows = torch.tensor(0), torch.tensor(1)
        assert rewards.prob_greater(0, 1) == rewards.prob_greater(*rows)
        assert rewards.contrast(0, 1) == rewards.contrast(*rows)
        assert rewards.prob_preferred(0, 1) > 0.5


def test_what_has_no_variance_is_not_scored_by_what_reads_it() -> None:
    rewards = GaussianRewards(torch.tensor([0.0, 1.0]), torch.tensor([1.0, math.nan]))
    assert rewards.mean.tolist() == [0, 1]
    marginal = rewards.marginal()
    for found in (marginal.quantile(0.1), marginal.cvar(0.1), marginal.prob_above(0.0), marginal.log_expected_exp(-1.0),
                  marginal.log_expected_sigmoid(), marginal.expected_log_sigmoid(), marginal.variance):  # fmt: skip
        assert found.isnan().tolist() == [False, True]
