import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards import (
    CombinedRewards,
    Elementwise,
    GaussianRewards,
    MemberRewards,
    RewardPosterior,
    TransformedRewards,
    WeightedSum,
    concatenate,
)

GROUP = torch.tensor([3, 3, 3, 1, 1])
SUM = Elementwise(WeightedSum((1.0, 2.0)))


def smallest(parts: Tensor) -> Tensor:
    return parts.amin(0)


def soft_any(parts: Tensor) -> Tensor:
    return torch.log1p(-(1 - parts.exp()).prod(0))


def members(seed: int, count: int, *, level: float = 0.0, noise: Tensor | None = None, ddof: int = 1) -> MemberRewards:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(5, count, generator=generator, dtype=torch.float64) + level
    return MemberRewards(draws, GROUP, ddof, noise=noise)


def gaussian(seed: int, *, noise: Tensor | None = None) -> GaussianRewards:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    mean = torch.randn(5, generator=generator, dtype=torch.float64)
    return GaussianRewards(mean, factor.square().sum(1), GROUP, factor, noise)


def lsc(base: RewardPosterior) -> TransformedRewards:
    return TransformedRewards(base, F.logsigmoid)


def enumerated(function: Callable[[Tensor], Tensor], parts: list[MemberRewards]) -> Tensor:
    """[C, N], every combination of members of log-sigmoids."""
    values = [F.logsigmoid(part.members) for part in parts]
    combinations = product(*(range(part.members.shape[1]) for part in parts))
    return torch.stack(
        [
            function(torch.stack([value[:, m] for value, m in zip(values, picked, strict=True)]))
            for picked in combinations
        ]
    )


@pytest.mark.parametrize("function", [WeightedSum((1.0, 2.0)), soft_any, smallest])
def test_independent_members_are_enumerated(function: Callable[[Tensor], Tensor]) -> None:
    bases = [members(0, 3, ddof=0), members(1, 4, ddof=0)]
    rewards = CombinedRewards([lsc(base) for base in bases], Elementwise(function))
    assert isinstance(rewards, RewardPosterior)
    exact = enumerated(function, bases)
    torch.testing.assert_close(rewards.mean, exact.mean(0))
    torch.testing.assert_close(rewards.variance, exact.var(0, correction=0))
    i, j = torch.tensor([[0], [4]]), torch.tensor([1, 2, 4])
    difference = exact[:, i.expand(2, 3)] - exact[:, j.expand(2, 3)]
    mean, variance = rewards.contrast(i, j)
    torch.testing.assert_close(mean, difference.mean(0))
    torch.testing.assert_close(variance, difference.var(0, correction=0))
    torch.testing.assert_close(rewards.covariance(), torch.cov(exact.T, correction=0))
    torch.testing.assert_close(rewards.prob_greater(i, j), (0.5 * (1 + difference.sign())).mean(0))
    torch.testing.assert_close(rewards.prob_preferred(i, j), torch.sigmoid(difference).mean(0))
    wins = torch.cat([F.one_hot(exact[:, rows].argmax(1)).double().mean(0) for rows in (slice(0, 3), slice(3, 5))])
    torch.testing.assert_close(rewards.prob_best(), wins)
    marginal = rewards.marginal()
    torch.testing.assert_close(marginal.mean, exact.mean(0))
    torch.testing.assert_close(marginal.log_expected_exp(-2.0), torch.logsumexp(-2 * exact, 0) - math.log(12))


@pytest.mark.parametrize("function", [WeightedSum((1.0, 0.5, 2.0)), soft_any, smallest])
def test_a_better_part_is_never_worse(function: Callable[[Tensor], Tensor]) -> None:
    """The draws are the same ones, so that this holds exactly and not within their error alone."""
    generator = torch.Generator().manual_seed(0)
    means = 5 * torch.randn(3, 50, generator=generator, dtype=torch.float64)
    gain = 3 * torch.rand(3, 50, generator=generator, dtype=torch.float64)
    # one part of each response is better
    gain = gain * (torch.arange(50) % 3 == torch.arange(3)[:, None])
    before, after = (
        CombinedRewards(
            [lsc(GaussianRewards(row, torch.ones_like(row))) for row in rewards], Elementwise(function), num_samples=64
        )
        for rewards in (means, means + gain)
    )
    for figure in (
        lambda r: r.mean,
        lambda r: r.marginal().quantile(0.1),
        lambda r: -r.marginal().log_expected_exp(-0.2),  # what 64 draws reach
    ):
        assert (figure(after) - figure(before)).min().item() >= -1e-12


def test_sampled_joint_draws_are_combinations_of_members() -> None:
    bases = [members(0, 3), members(1, 3)]
    parts = [lsc(base) for base in bases]
    independent = CombinedRewards(parts, SUM).sample(500)
    pairs = enumerated(SUM.function, bases)
    found = (independent[:, None] - pairs).abs().amax(2) < 1e-12
    assert bool((found.sum(1) == 1).all())
    assert bool((found.sum(0) > 20).all())
    paired = CombinedRewards(parts, SUM, correlation="members").sample(500)
    found = (paired[:, None] - pairs[[0, 4, 8]]).abs().amax(2) < 1e-12
    assert bool((found.sum(1) == 1).all())


@pytest.mark.parametrize("function", [WeightedSum((1.0, 2.0)), soft_any, smallest])
def test_members_that_belong_together(function: Callable[[Tensor], Tensor]) -> None:
    bases = [members(0, 3), members(1, 3)]
    rewards = CombinedRewards([lsc(base) for base in bases], Elementwise(function), correlation="members")
    exact = function(torch.stack([F.logsigmoid(base.members) for base in bases]))
    same = rewards.as_members()
    assert same is not None
    torch.testing.assert_close(same.members, exact)
    torch.testing.assert_close(rewards.mean, exact.mean(1))
    torch.testing.assert_close(rewards.contrast(0, 2)[1], (exact[0] - exact[2]).var())
    torch.testing.assert_close(rewards.variance, same.variance)
    torch.testing.assert_close(rewards.covariance(), same.covariance())
    torch.testing.assert_close(rewards.prob_best(), same.prob_best())
    torch.testing.assert_close(rewards.marginal().quantile(0.01), exact.amin(1))


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_smaller_of_two_gaussians(correlation: float) -> None:
    """Clark's moments of the minimum of two correlated normals."""
    a, b = gaussian(0), gaussian(1)
    rewards = CombinedRewards([a, b], Elementwise(smallest), correlation=correlation)
    s, t = a.variance.sqrt(), b.variance.sqrt()
    spread = (a.variance + b.variance - 2 * correlation * s * t).sqrt()
    z = ((b.mean - a.mean) / spread).numpy()
    first, second, density = (torch.tensor(x) for x in (norm.cdf(z), norm.cdf(-z), norm.pdf(z)))
    mean = a.mean * first + b.mean * second - spread * density
    square = (a.mean**2 + a.variance) * first + (b.mean**2 + b.variance) * second - (a.mean + b.mean) * spread * density
    std = (square - mean**2).sqrt()
    assert ((rewards.mean - mean) / std).abs().max().item() < 5e-3
    assert (rewards.variance / std**2 - 1).abs().max().item() < 0.02
    below = rewards.marginal().prob_above(0.0)
    exact = [
        multivariate_normal([-a.mean[n], -b.mean[n]], [[s[n] ** 2, c], [c, t[n] ** 2]]).cdf([0, 0])
        for n, c in enumerate((correlation * s * t).tolist())
    ]
    np.testing.assert_allclose(below, exact, atol=6e-3)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_sum_of_log_sigmoids_against_quadrature(correlation: float) -> None:
    a, b = gaussian(0), gaussian(1)
    rewards = CombinedRewards([lsc(a), lsc(b)], SUM, correlation=correlation)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    z, weight = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    other = correlation * z[:, None] + math.sqrt(1 - correlation**2) * z
    for n in range(5):
        first = F.logsigmoid(a.mean[n] + a.variance[n].sqrt() * z)[:, None]
        value = first + 2 * F.logsigmoid(b.mean[n] + b.variance[n].sqrt() * other)
        mean = torch.einsum("ij,i,j", value, weight, weight)
        variance = torch.einsum("ij,i,j", (value - mean) ** 2, weight, weight)
        assert rewards.mean[n].item() == pytest.approx(mean.item(), abs=1e-6)
        assert rewards.variance[n].item() == pytest.approx(variance.item(), rel=1e-6 if correlation == 0 else 0.01)


def test_comparisons_of_independent_gaussians_against_simulation() -> None:
    a, b = gaussian(0), gaussian(1)
    rewards = CombinedRewards([a, b], Elementwise(smallest), num_samples=20_000)
    generator = torch.Generator().manual_seed(5)
    draws = [
        part.mean + torch.randn(40_000, 3, generator=generator, dtype=torch.float64) @ part.factor.T  # type: ignore[union-attr]
        for part in (a, b)
    ]
    exact = torch.minimum(*draws)
    difference = exact[:, 0] - exact[:, 1]
    mean, variance = rewards.contrast(0, 1)
    assert mean.item() == pytest.approx(difference.mean().item(), abs=0.05)
    assert variance.item() == pytest.approx(difference.var().item(), rel=0.05)
    torch.testing.assert_close(rewards.covariance(), torch.cov(exact.T), atol=0.1, rtol=0.05)
    assert rewards.prob_greater(0, 1).item() == pytest.approx((difference > 0).double().mean().item(), abs=0.015)
    shares = F.one_hot(exact[:, :3].argmax(1)).double().mean(0)
    torch.testing.assert_close(rewards.prob_best(20_000)[:3], shares, atol=0.02, rtol=0)


def test_noise() -> None:
    noise = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    a, b = gaussian(0, noise=noise), gaussian(1)
    torch.testing.assert_close(CombinedRewards([a, b], Elementwise(WeightedSum((2.0, 1.0)))).noise, 4 * noise)
    rewards = CombinedRewards([a, b], Elementwise(smallest))
    noisy = GaussianRewards(a.mean, a.variance + noise, GROUP)
    whole = CombinedRewards([noisy, b], Elementwise(smallest))
    torch.testing.assert_close(rewards.variance + rewards.noise, whole.variance)
    assert rewards.noise[1].item() == 0
    assert not bool(CombinedRewards([gaussian(0), b], Elementwise(smallest)).noise.any())


def test_members_with_doubts_of_their_own() -> None:
    within = torch.full((5,), 0.25, dtype=torch.float64)
    parts = [MemberRewards(members(seed, 4).members, GROUP, 0, within_variance=within) for seed in (0, 1)]
    rewards = CombinedRewards(parts, SUM, correlation="members")
    assert rewards.as_members() is None
    between = (parts[0].members + 2 * parts[1].members).var(1, correction=0)
    torch.testing.assert_close(rewards.variance, between + 5 * within, rtol=0.02, atol=0)
    with pytest.raises(UnsupportedError, match="cannot compare responses"):
        rewards.contrast(0, 1)
    with pytest.raises(UnsupportedError, match="cannot compare responses"):
        rewards.prob_best()


def test_missing_parts() -> None:
    gap = torch.tensor([0.0, math.nan, 0.0, 0.0, math.nan], dtype=torch.float64)
    a, b = gaussian(0), gaussian(1)
    holes = GaussianRewards(b.mean + gap, b.variance, GROUP, b.factor)
    half = math.log(0.5)
    for function, alone in (
        (WeightedSum((1.0, 2.0)), lambda x: x + 2 * half),
        (smallest, lambda x: x.clamp(max=half)),
    ):
        neutral = CombinedRewards([lsc(a), lsc(holes)], Elementwise(function, half))
        only = TransformedRewards(a, lambda r, f=alone: f(F.logsigmoid(r)))
        rows = torch.tensor([1, 4])
        torch.testing.assert_close(neutral.mean[rows], only.mean[rows], atol=0.01, rtol=0)
        torch.testing.assert_close(neutral.variance[rows], only.variance[rows], atol=0, rtol=0.02)
        assert not bool(neutral.sample(3).isnan().any())
        unscored = CombinedRewards([lsc(a), lsc(holes)], Elementwise(function))
        assert unscored.mean.isnan().tolist() == gap.isnan().tolist()
        assert unscored.variance.isnan().tolist() == gap.isnan().tolist()
        assert unscored.prob_best(64).isnan().tolist() == gap.isnan().tolist()
        nothing = CombinedRewards([lsc(holes), lsc(holes)], Elementwise(function, half))
        assert nothing.mean.isnan().tolist() == gap.isnan().tolist()
        assert nothing.marginal().quantile(0.5).isnan().tolist() == gap.isnan().tolist()


@pytest.mark.parametrize("order", [(4, 1, 0, 3), (1, 2, 3, 4)])
def test_slices_and_orders_keep_the_draws(order: tuple[int, ...]) -> None:
    rows = torch.tensor(order)
    for function in (SUM, Elementwise(smallest)):
        for parts in ([lsc(gaussian(0)), gaussian(1)], [members(0, 3), lsc(members(1, 2))]):
            rewards = CombinedRewards(parts, function, num_samples=64)
            torch.testing.assert_close(rewards[rows].mean, rewards.mean[rows], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(rewards[rows].variance, rewards.variance[rows], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(rewards[rows].sample(3), rewards.sample(3)[:, rows], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(
                rewards[rows].contrast(0, 3)[1], rewards.contrast(rows[0], rows[3])[1], rtol=1e-12, atol=1e-12
            )
            assert rewards[rows].group.tolist() == GROUP[rows].tolist()


def test_combinations_of_combinations() -> None:
    bases = [members(0, 3), members(1, 3)]
    inner = CombinedRewards([lsc(base) for base in bases], Elementwise(smallest))
    third = members(2, 2)
    outer = CombinedRewards([inner, lsc(third)], SUM)
    exact = enumerated(smallest, bases).mean(0) + 2 * F.logsigmoid(third.members).mean(1)
    torch.testing.assert_close(outer.mean, exact)
    torch.testing.assert_close(outer.sample(3)[:, :2], outer[:2].sample(3))
    parts = [gaussian(seed) for seed in (0, 1, 2)]
    least = CombinedRewards(parts, Elementwise(smallest), num_samples=1 << 15)
    in_steps = CombinedRewards([CombinedRewards(parts[:2], Elementwise(smallest)), parts[2]], Elementwise(smallest))
    std = least.variance.sqrt()
    assert ((in_steps.mean - least.mean) / std).abs().max().item() < 0.03
    assert (in_steps.variance.sqrt() / std - 1).abs().max().item() < 0.03


def test_no_responses_and_one_part() -> None:
    rewards = CombinedRewards([lsc(gaussian(0))], Elementwise(smallest))
    torch.testing.assert_close(rewards.mean, lsc(gaussian(0)).mean, atol=2e-3, rtol=0)
    empty = rewards[torch.empty(0, dtype=torch.int64)]
    assert len(empty) == 0
    assert empty.mean.shape == empty.variance.shape == empty.noise.shape == (0,)


def test_concatenate() -> None:
    rewards = CombinedRewards([lsc(gaussian(0)), gaussian(1)], SUM)
    both = concatenate([rewards[:2], rewards[2:]])
    torch.testing.assert_close(both.mean, rewards.mean)
    assert torch.equal(both.group, GROUP)
    with pytest.raises(ValueError, match="different function"):
        concatenate([rewards, CombinedRewards(rewards.parts, Elementwise(smallest))])
    with pytest.raises(ValueError, match="number of parts"):
        concatenate([CombinedRewards([gaussian(0)], Elementwise(smallest)),
                     CombinedRewards([gaussian(0), gaussian(0)], Elementwise(smallest))])  # fmt: skip


def test_what_cannot_be_combined() -> None:
    a = gaussian(0)
    with pytest.raises(ValueError, match="nothing to combine"):
        CombinedRewards([], SUM)
    with pytest.raises(ValueError, match="part 2 is of other responses"):
        CombinedRewards([a, a[torch.tensor([4, 3, 2, 1, 0])]], SUM)
    with pytest.raises(ValueError, match="2 weights are given for 1 parts"):
        CombinedRewards([a], SUM)
    with pytest.raises(ValueError, match="num_samples"):
        CombinedRewards([a, a], SUM, num_samples=1)
    with pytest.raises(ValueError, match="correlation must be a number"):
        CombinedRewards([a, a], SUM, correlation=1.0)
    rewards = CombinedRewards([a, a], SUM, correlation=0.5)
    for compare in (lambda: rewards.sample(2), lambda: rewards.covariance(), lambda: rewards.prob_greater(0, 1)):
        with pytest.raises(UnsupportedError, match="correlation cannot compare responses"):
            compare()
    with pytest.raises(UnsupportedError, match="write to_arrow"):
        rewards.to_arrow()
    bare = GaussianRewards(a.mean, a.variance, GROUP)
    with pytest.raises(UnsupportedError, match="factor"):
        CombinedRewards([bare, a], SUM).sample(2)


def test_noise_of_correlated_parts_is_independent() -> None:
    """Var of a sum with doubts 1, correlation 1/2 and noises 4 is 1 + 1 + 2 / 2 + 4 + 4."""
    one, noise = torch.ones(1, dtype=torch.float64), torch.full((1,), 4.0, dtype=torch.float64)
    parts = [GaussianRewards(torch.zeros(1).double(), one, noise=noise) for _ in range(2)]
    for part in (lambda p: p, lambda p: TransformedRewards(p, torch.clone, increasing=True)):
        rewards = CombinedRewards([part(p) for p in parts], Elementwise(WeightedSum((1.0, 1.0))), correlation=0.5)
        assert rewards.variance.item() == pytest.approx(3, rel=0.01)
        assert (rewards.variance + rewards.noise).item() == pytest.approx(11, rel=0.01)
        assert rewards.marginal(include_noise=True).variance.item() == pytest.approx(11, rel=0.02)
    # the smaller of two normals of correlation rho and variance v: variance v (1 - (1 - rho) / pi)
    least = CombinedRewards(parts, Elementwise(smallest), correlation=0.5)
    truth = 5 * (1 - (1 - 0.5 / 5) / math.pi)
    assert least.marginal(include_noise=True).variance.item() == pytest.approx(truth, rel=0.02)
    assert (least.variance + least.noise).item() == pytest.approx(truth, rel=0.02)


def test_an_ensemble_that_lacks_a_member_counts_as_missing() -> None:
    partial = MemberRewards(torch.tensor([[math.nan, -6.0], [0.0, 2.0]]))
    full = MemberRewards(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    for part in (partial, TransformedRewards(partial, torch.clone, increasing=True)):
        least = CombinedRewards([part, full], Elementwise(smallest, 0.0))
        assert least.mean.tolist() == [0.0, 0.5]
        assert least.marginal().quantile(0.3).tolist() == [0.0, 0.0]
        assert (least.sample(20)[:, 0] == 0).all()
        total = CombinedRewards([part, full], Elementwise(WeightedSum((1.0, 1.0)), 0.0))
        assert total.marginal().mean.tolist() == total.mean.tolist() == [1.0, 2.0]
        unscored = CombinedRewards([part, full], Elementwise(smallest))
        assert unscored.sample(20).isnan().all(0).tolist() == [True, False]


def test_members_are_named_by_what_was_done_to_them() -> None:
    parts = [MemberRewards(torch.zeros(1, 2), basis_id=name) for name in ("a", "b")]
    functions = (Elementwise(WeightedSum((1.0, 2.0))), Elementwise(WeightedSum((2.0, 1.0))), Elementwise(smallest),
                 Elementwise(smallest, 0.5))  # fmt: skip
    made = [CombinedRewards(parts, function, correlation="members").as_members() for function in functions]
    names = {one.basis_id for one in made if one is not None}
    assert len(names) == len(functions)
    assert "smallest, missing 0.5, of a, b" in names
    with pytest.raises(ValueError, match="different basis_id"):
        concatenate([made[0], made[1]])


def test_probabilities_of_being_best_go_prompt_by_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = CombinedRewards([members(0, 3), members(1, 4)], Elementwise(smallest))
    expected = rewards.prob_best()
    largest = []
    paths = CombinedRewards._paths

    def watched(self: CombinedRewards, rows: slice | Tensor, include_noise: bool) -> Tensor:
        found = paths(self, rows, include_noise)
        largest.append(found.shape[1])
        return found

    _ = rewards.mean
    monkeypatch.setattr(CombinedRewards, "_paths", watched)
    assert torch.equal(rewards.prob_best(), expected)
    assert max(largest) == 3
