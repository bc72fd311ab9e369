"""Variances between few members, which are a sample of the members there could be."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prudent.rewards import (
    CombinedRewards,
    Elementwise,
    MemberRewards,
    RewardPosterior,
    TransformedRewards,
    WeightedSum,
)

TWO = torch.tensor([[1.0, 3.0], [0.0, 4.0]], dtype=torch.float64)
SUM = Elementwise(WeightedSum((1.0, 1.0)))


def ensemble(seed: int, count: int, *, ddof: int = 1, within: float | None = None, size: int = 3) -> MemberRewards:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(size, count, generator=generator, dtype=torch.float64)
    if within is None:
        return MemberRewards(rewards, ddof=ddof)
    factor = within * torch.randn(size, 2, generator=generator, dtype=torch.float64)
    return MemberRewards(rewards, ddof=ddof, within_variance=factor.square().sum(1), within_factor=factor)


def added(parts: Tensor) -> Tensor:
    """A sum that does not say that it is one."""
    return parts.sum(0)


def smallest(parts: Tensor) -> Tensor:
    return parts.amin(0)


def test_a_function_of_one_ensemble_keeps_its_ddof() -> None:
    for ddof in (0, 1):
        base = MemberRewards(TWO, ddof=ddof)
        for rewards in (
            CombinedRewards([base], Elementwise(smallest)),
            CombinedRewards([base], Elementwise(smallest), correlation="members"),
            CombinedRewards([CombinedRewards([base], Elementwise(smallest))], Elementwise(added)),
            TransformedRewards(CombinedRewards([base], Elementwise(smallest)), torch.clone, increasing=True),
        ):
            torch.testing.assert_close(rewards.variance, base.variance)
            drawn = isinstance(rewards, CombinedRewards) and isinstance(rewards.parts[0], CombinedRewards)
            error = {"rtol": 0.01 if drawn else 1e-12, "atol": 0.0}
            torch.testing.assert_close(rewards.covariance(), base.covariance(), **error)
            torch.testing.assert_close(rewards.contrast(0, 1)[1], base.contrast(0, 1)[1], **error)


def test_members_that_belong_together_add_up() -> None:
    for within in (None, torch.full((2,), 1e-12, dtype=torch.float64)):
        base = MemberRewards(TWO, within_variance=within)
        for function in (SUM, Elementwise(added)):
            twice = CombinedRewards([base, base], function, correlation="members", num_samples=1 << 14)
            torch.testing.assert_close(twice.variance, torch.tensor([8.0, 32.0]).double(), rtol=1e-3, atol=0)
    a, b = ensemble(0, 4, within=1.0), ensemble(1, 4, within=0.5)
    sums = (a.members + 2 * b.members).var(1) + a.within_variance + 4 * b.within_variance
    both = CombinedRewards([a, b], Elementwise(WeightedSum((1.0, 2.0))), correlation="members")
    torch.testing.assert_close(both.variance, sums)
    holes = MemberRewards(b.members.clone().index_fill_(0, torch.tensor([1]), torch.nan), within_variance=b.variance)
    neutral = CombinedRewards([a, holes], Elementwise(WeightedSum((1.0, 2.0)), 0.0), correlation="members")
    torch.testing.assert_close(neutral.variance[1], a.variance[1])


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("function", [F.logsigmoid, torch.clone])
def test_joint_draws_have_the_variance_of_single_ones(ddof: int, function: Callable[[Tensor], Tensor]) -> None:
    base = ensemble(2, 3, ddof=ddof, within=0.3)
    rewards = TransformedRewards(base, function, num_samples=40_000)
    torch.testing.assert_close(rewards.covariance().diagonal(), rewards.variance, rtol=0.03, atol=0)
    if function is torch.clone:
        torch.testing.assert_close(rewards.covariance(), base.covariance(), rtol=0.03, atol=0.02)
        torch.testing.assert_close(rewards.contrast(0, 2)[1], base.contrast(0, 2)[1], rtol=0.03, atol=0.02)


@pytest.mark.parametrize(
    "parts",
    [
        [ensemble(0, 3), ensemble(1, 4)],  # enumerated
        [ensemble(0, 3), ensemble(1, 4, ddof=0)],
        [ensemble(0, 3, within=0.5), ensemble(1, 4)],  # drawn
        [ensemble(0, 30), ensemble(1, 40)],
        [CombinedRewards([ensemble(0, 3), ensemble(2, 3)], SUM), ensemble(1, 4)],
    ],
)
def test_a_sum_has_the_sum_of_the_variances_by_any_way(parts: list[RewardPosterior]) -> None:
    variance = parts[0].variance + parts[1].variance
    covariance = parts[0].covariance() + parts[1].covariance()
    for function in (SUM, Elementwise(added)):
        rewards = CombinedRewards(parts, function, num_samples=1000)
        torch.testing.assert_close(rewards.variance, variance, rtol=0.03, atol=0)
        torch.testing.assert_close(rewards.covariance(), covariance, rtol=0.1, atol=0.2)


def test_of_many_ensembles_the_average_is_the_variance_of_the_population() -> None:
    """The smaller of two members, each one of 3 draws from its population of normals: Var min = 1 - 1 / pi."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4000, 3, generator=generator, dtype=torch.float64)
    rewards = CombinedRewards([MemberRewards(a), MemberRewards(b)], Elementwise(smallest), num_samples=16)
    at_hand = CombinedRewards([MemberRewards(a, ddof=0), MemberRewards(b, ddof=0)], Elementwise(smallest))
    truth = 1 - 1 / torch.pi
    assert abs(rewards.variance.mean().item() / truth - 1) < 0.1
    assert abs(at_hand.variance.mean().item() / truth - 1) > 0.25
