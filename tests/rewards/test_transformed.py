import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards import (
    GaussianRewards,
    MemberRewards,
    RewardPosterior,
    TransformedRewards,
    concatenate,
    expected_log_sigmoid,
)


def gaussian(noise: bool = False) -> GaussianRewards:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return GaussianRewards(
        torch.randn(6, generator=generator, dtype=torch.float64),
        factor.square().sum(1),
        torch.tensor([0, 0, 0, 1, 1, 1]),
        factor,
        torch.full((6,), 0.5, dtype=torch.float64) if noise else None,
    )


def affine(samples: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return scale * samples + shift


def lsc(samples: Tensor, reference: Tensor) -> Tensor:
    return F.logsigmoid(samples - reference)


def test_affine_function_scales_the_moments() -> None:
    base = gaussian()
    scale, shift = torch.linspace(1, 2, 6).double(), torch.arange(6.0).double()
    rewards = TransformedRewards(base, affine, parameters=(scale, shift), num_samples=40_000)
    assert isinstance(rewards, RewardPosterior)
    torch.testing.assert_close(rewards.mean, scale * base.mean + shift)
    torch.testing.assert_close(rewards.variance, scale**2 * base.variance)
    i, j = torch.tensor([[0], [1]]), torch.tensor([1, 2, 4])
    mean, variance = rewards.contrast(i, j)
    covariance = scale[:, None] * base.covariance() * scale
    diagonal = covariance.diagonal()
    assert mean.shape == (2, 3)
    torch.testing.assert_close(variance, diagonal[i] + diagonal[j] - 2 * covariance[i, j], atol=1e-3, rtol=0.05)
    assert variance[1, 0].item() == 0
    torch.testing.assert_close(rewards.covariance(), covariance, atol=0.3, rtol=0.05)


def test_log_sigmoid_centered_against_quadrature() -> None:
    base, reference = gaussian(), torch.linspace(-1, 1, 6).double()
    rewards = TransformedRewards(base, lsc, parameters=(reference,))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    values = F.logsigmoid(base.mean + base.variance.sqrt() * torch.tensor(nodes)[:, None] - reference).numpy()
    exact = weights @ values
    np.testing.assert_allclose(rewards.mean, exact, atol=1e-6)
    np.testing.assert_allclose(rewards.variance, weights @ (values - exact) ** 2, rtol=1e-4)
    torch.testing.assert_close(rewards.mean, expected_log_sigmoid(base.mean - reference, base.variance))


def test_single_responses_need_no_factor() -> None:
    joint, reference = gaussian(noise=True), torch.linspace(-1, 1, 6).double()
    single = GaussianRewards(joint.mean, joint.variance, joint.group, noise=joint.noise)
    made = [TransformedRewards(base, lsc, parameters=(reference,), increasing=True) for base in (joint, single)]
    for figure in ("mean", "variance", "noise"):
        assert torch.equal(getattr(made[0], figure), getattr(made[1], figure))
    assert (made[1].noise > 0).all()
    for noise in (False, True):
        torch.testing.assert_close(
            made[1].marginal(include_noise=noise).quantile(0.1),
            F.logsigmoid(joint.marginal(include_noise=noise).quantile(0.1) - reference),
        )
    with pytest.raises(UnsupportedError, match="without a factor"):
        made[1].contrast(0, 1)


def test_a_function_of_a_function() -> None:
    reference = torch.linspace(-1, 1, 6).double()
    ensemble = MemberRewards(torch.randn(6, 4, generator=torch.Generator().manual_seed(3)).double())
    for base in (gaussian(noise=True), ensemble):
        once = TransformedRewards(base, lsc, parameters=(reference,), increasing=True)
        shifted = TransformedRewards(base, torch.sub, parameters=(reference,), increasing=True)
        twice = TransformedRewards(shifted, F.logsigmoid, increasing=True)
        i, j = torch.tensor([0, 1]), torch.tensor([2, 0])
        for figure in ("mean", "variance", "noise"):
            torch.testing.assert_close(getattr(twice, figure), getattr(once, figure))
        torch.testing.assert_close(twice.marginal().cvar(0.2), once.marginal().cvar(0.2))
        torch.testing.assert_close(twice.prob_best(200), once.prob_best(200))
        torch.testing.assert_close(twice.prob_greater(i, j), once.prob_greater(i, j))
        torch.testing.assert_close(twice.covariance(), once.covariance())


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("within", [False, True])
def test_the_identity_keeps_the_moments_of_members(ddof: int, within: bool) -> None:
    members = torch.randn(5, 3, generator=torch.Generator().manual_seed(4))
    variance = torch.rand(5, generator=torch.Generator().manual_seed(5)) if within else None
    base = MemberRewards(members, ddof=ddof, within_variance=variance)
    same = TransformedRewards(base, lambda r: r)
    torch.testing.assert_close(same.mean, base.mean.double())
    torch.testing.assert_close(same.variance, base.variance.double())


def test_parameters_may_be_rows() -> None:
    def below(draws: Tensor, levels: Tensor) -> Tensor:
        return (draws[..., None] - levels).clamp(0, 1).mean(-1)

    levels = torch.randn(6, 3, generator=torch.Generator().manual_seed(6)).double()
    rewards = TransformedRewards(gaussian(), below, parameters=(levels,), increasing=True)
    single = TransformedRewards(
        gaussian(), lambda draws, a, b, c: below(draws, torch.stack([a, b, c], 1)), parameters=tuple(levels.T)
    )
    torch.testing.assert_close(rewards.mean, single.mean)
    assert torch.equal(rewards[torch.tensor([4, 1])].mean, rewards.mean[[4, 1]])
    torch.testing.assert_close(rewards.contrast(0, 1)[1], single.contrast(0, 1)[1])
    joined = concatenate([rewards[:2], rewards[2:]])
    assert joined.increasing
    assert torch.equal(joined.variance, rewards.variance)
    with pytest.raises(ValueError, match="different shapes of parameters"):
        concatenate([rewards, TransformedRewards(gaussian(), below, parameters=(levels[:, :2],), increasing=True)])


def test_slices_have_the_moments_of_their_rows() -> None:
    reference = torch.linspace(-1, 1, 6).double()
    rewards = TransformedRewards(gaussian(), lsc, parameters=(reference,), num_samples=64, seed=4)
    rows = torch.tensor([5, 1])
    assert torch.equal(rewards[rows].mean, rewards.mean[rows])
    assert torch.equal(rewards[rows].variance, rewards.variance[rows])
    torch.testing.assert_close(
        rewards.contrast(torch.tensor(5), torch.tensor(1))[1],
        rewards[rows].contrast(torch.tensor(0), torch.tensor(1))[1],
    )
    assert rewards[rows].group.tolist() == [1, 0]
    assert len(rewards[:0].mean) == 0


def test_members_are_used_exactly() -> None:
    members = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    base = MemberRewards(members, torch.tensor([0, 0, 0, 1, 1]), ddof=0)
    mapped = MemberRewards(members**3, base.group, ddof=0)
    rewards = TransformedRewards(base, lambda r: r**3)
    i, j = torch.tensor([0, 1, 3]), torch.tensor([2, 2, 4])
    torch.testing.assert_close(rewards.mean, mapped.mean)
    torch.testing.assert_close(rewards.variance, mapped.variance)
    torch.testing.assert_close(rewards.covariance(), mapped.covariance())
    torch.testing.assert_close(rewards.prob_best(), mapped.prob_best())
    torch.testing.assert_close(rewards.prob_greater(i, j), mapped.prob_greater(i, j))
    torch.testing.assert_close(rewards.prob_preferred(i, j), mapped.prob_preferred(i, j))
    torch.testing.assert_close(rewards.marginal().log_expected_exp(-0.7), mapped.marginal().log_expected_exp(-0.7))
    torch.testing.assert_close(rewards.sample(5), mapped.sample(5))
    for got, expected in zip(rewards.contrast(i, j), mapped.contrast(i, j), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_monotone_function_keeps_who_is_best() -> None:
    base = gaussian()
    rewards = TransformedRewards(base, torch.sigmoid)
    generator = torch.Generator().manual_seed
    torch.testing.assert_close(rewards.prob_best(500, generator(1)), base.prob_best(500, generator(1)))
    i, j = torch.tensor([0, 1]), torch.tensor([2, 0])
    torch.testing.assert_close(rewards.prob_greater(i, j), base.prob_greater(i, j), atol=0.04, rtol=0)


def test_noise_is_what_it_adds_to_the_variance() -> None:
    assert (TransformedRewards(gaussian(), torch.neg).noise == 0).all()
    noisy = TransformedRewards(gaussian(noise=True), lambda r: 2 * r, num_samples=50_000)
    torch.testing.assert_close(noisy.noise, torch.full((6,), 2.0).double())


def test_what_it_cannot_do_is_named() -> None:
    with pytest.raises(UnsupportedError, match="cannot store"):
        TransformedRewards(gaussian(), torch.neg).to_arrow()
    with pytest.raises(UnsupportedError, match="without a factor"):
        _ = TransformedRewards(GaussianRewards(torch.zeros(2), torch.ones(2)), torch.neg).sample(2)
    with pytest.raises(ValueError, match="parameter 0 must have shape"):
        TransformedRewards(gaussian(), lsc, parameters=(torch.zeros(2),))
    with pytest.raises(ValueError, match="keep the shape"):
        TransformedRewards(gaussian(), lambda r: r[:, :1]).sample(2)
    with pytest.raises(ValueError, match="num_samples"):
        TransformedRewards(gaussian(), torch.neg, num_samples=1)


def test_members_moved_one_by_one() -> None:
    base = MemberRewards(torch.tensor([[1.0, 3.0, 2.0], [0.0, 4.0, -1.0]]), ddof=0, basis_id="seeds")
    rewards = TransformedRewards(base, lsc, parameters=(torch.tensor([2.0, 0.0]),), increasing=True)
    moved = rewards.as_members()
    assert moved is not None
    torch.testing.assert_close(moved.worst, F.logsigmoid(base.worst.double() - torch.tensor([2.0, 0.0])))
    torch.testing.assert_close(moved.mean, rewards.mean)
    torch.testing.assert_close(moved.variance, rewards.variance)
    assert moved.basis_id == "lsc of seeds"
    twice = TransformedRewards(rewards, torch.exp, increasing=True).as_members()
    assert twice is not None
    torch.testing.assert_close(twice.worst, moved.worst.exp())
    noisy = MemberRewards(base.members, noise=torch.ones(2))
    with_noise = TransformedRewards(noisy, lsc, parameters=(torch.zeros(2),), increasing=True)
    found = with_noise.as_members()
    assert found is not None
    torch.testing.assert_close(found.noise, with_noise.noise.double())
    for unsure in (gaussian(), MemberRewards(base.members, within_variance=torch.ones(2))):
        assert TransformedRewards(unsure, torch.sigmoid, increasing=True).as_members() is None


def test_a_function_that_flattens_out_still_tells_rewards_apart() -> None:
    rewards = GaussianRewards(
        torch.tensor([90.0, 110.0, 150.0, 300.0]), torch.full((4,), 1e-4), factor=torch.zeros(4, 1)
    )
    flat = TransformedRewards(rewards, F.logsigmoid, increasing=True)
    truth = [-np.exp(-x + 5e-5) for x in (90.0, 110.0, 150.0, 300.0)]
    np.testing.assert_allclose(flat.mean, truth, rtol=1e-6)
    assert flat.prob_best(8).tolist() == [0, 0, 0, 1]
    assert (flat.sample(1)[0].diff() > 0).all()
