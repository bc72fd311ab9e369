"""Weights of advantages by how sure their sign is."""

import pytest
import torch
from scipy import stats

from prudent.alignment import sign_weights, signcert_weights
from prudent.errors import UnsupportedError
from prudent.rewards import GaussianRewards, MemberRewards

GROUP = torch.tensor([5, 5, 2, 2, 2, 2, 9])


def gaussian(seed: int = 0, shift: float = 0.0) -> GaussianRewards:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(7, 3, generator=generator, dtype=torch.float64) + shift
    mean = torch.randn(7, generator=generator, dtype=torch.float64)
    return GaussianRewards(mean, factor.square().sum(1), GROUP, factor=factor)


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """[..., n] rewards minus the mean of the others."""
    count = rewards.shape[-1]
    return rewards - (rewards.sum(-1, keepdim=True) - rewards) / (count - 1)


def test_gaussian_agrees_with_the_definition_prompt_by_prompt() -> None:
    rewards = gaussian()
    weights = sign_weights(rewards)
    for prompt in (5, 2):
        rows = (prompt == GROUP).nonzero()[:, 0]
        covariance = rewards.covariance(rows)
        count = len(rows)
        for place, row in enumerate(rows.tolist()):
            contrast = torch.full((count,), -1 / (count - 1), dtype=torch.float64)
            contrast[place] = 1.0
            z = (contrast @ rewards.mean[rows]).item() / (contrast @ covariance @ contrast).sqrt().item()
            assert weights[row].item() == pytest.approx(2 * stats.norm.cdf(abs(z)) - 1, abs=1e-12)
    assert weights[6].isnan()  # alone in its prompt


def test_is_the_expected_agreement_of_signs_in_draws() -> None:
    rewards = gaussian(1)
    draws = rewards.sample(200_000, torch.Generator().manual_seed(0))[:, 2:6]
    agreement = (leave_one_out(draws).sign() * leave_one_out(rewards.mean[2:6]).sign()).mean(0)
    torch.testing.assert_close(sign_weights(rewards)[2:6], agreement, rtol=0, atol=0.01)


def test_what_moves_a_prompt_together_does_not_count() -> None:
    plain, shifted = gaussian(2), gaussian(2, shift=1e4)
    torch.testing.assert_close(sign_weights(shifted)[:6], sign_weights(plain)[:6], rtol=0, atol=1e-8)


def test_members_by_their_moments() -> None:
    generator = torch.Generator().manual_seed(3)
    members = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    advantage = leave_one_out(members.T)  # [M, N]
    z = advantage.mean(0) / advantage.std(0, correction=1)
    expected = torch.as_tensor(2 * stats.norm.cdf(z.abs()) - 1)
    torch.testing.assert_close(sign_weights(MemberRewards(members)), expected, rtol=0, atol=1e-12)


def test_missing_responses_count_nowhere() -> None:
    full = gaussian(4)
    mean = full.mean.clone()
    mean[3] = torch.nan
    weights = sign_weights(GaussianRewards(mean, full.variance, GROUP, factor=full.factor))
    kept = torch.tensor([0, 1, 2, 4, 5])
    torch.testing.assert_close(weights[kept], sign_weights(full[kept]))
    assert weights[3].isnan()


def test_certain_and_equal() -> None:
    mean = torch.tensor([1.0, 0.0, 2.0, 2.0])
    sure = GaussianRewards(mean, torch.zeros(4), torch.tensor([0, 0, 1, 1]), factor=torch.zeros(4, 1))
    assert sign_weights(sure).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_needs_a_joint_posterior() -> None:
    with pytest.raises(UnsupportedError, match="factor"):
        sign_weights(GaussianRewards(torch.zeros(2), torch.ones(2)))


def test_signcert_turns_the_sign_at_its_radius() -> None:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    head = torch.randn(4, generator=generator, dtype=torch.float64)
    weights = signcert_weights(features @ head, features, GROUP, quantile=0.3)
    distance = torch.full((7,), torch.nan, dtype=torch.float64)
    for prompt in (5, 2):
        rows = prompt == GROUP
        centered = features[rows] - features[rows].mean(0)
        advantage = centered @ head
        distance[rows] = advantage.abs() / centered.norm(dim=1)
        # the head moved by exactly D_j against h_j - mean h leaves response j without an advantage
        step = -advantage / centered.square().sum(1)
        moved = head + step[:, None] * centered
        torch.testing.assert_close((centered * moved).sum(1), torch.zeros(len(advantage)).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close((moved - head).norm(dim=1), distance[rows])
    radius = distance[:6].quantile(0.3)
    torch.testing.assert_close(weights[:6], (1 - radius / distance[:6]).clamp_min(0))
    assert weights[6].isnan()


def test_signcert_is_the_posteriors_metric_at_the_identity() -> None:
    """Order by SignCert's distance is order by the z-score where the head's covariance is the identity."""
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    mean = torch.randn(8, generator=generator, dtype=torch.float64)
    group = torch.tensor([0] * 4 + [1] * 4)
    posterior = GaussianRewards(mean, features.square().sum(1), group, factor=features)
    z = stats.norm.ppf((sign_weights(posterior).numpy() + 1) / 2)
    z = torch.as_tensor(z)
    expected = (1 - z.quantile(0.5) / z).clamp_min(0)
    torch.testing.assert_close(signcert_weights(mean, features, group), expected)


def test_signcert_edges() -> None:
    group = torch.tensor([0, 0, 1, 1])
    features = torch.tensor([[1.0], [-1.0], [2.0], [2.0]])
    # no head tells the second prompt's responses apart: with a difference it is certain, without one there is none
    assert signcert_weights(torch.tensor([1.0, 0, 1, 0]), features, group, quantile=0.5).tolist() == [0, 0, 1, 1]
    assert signcert_weights(torch.tensor([1.0, 0, 1, 1]), features, group, quantile=0.9).tolist()[2:] == [0, 0]
    assert signcert_weights(torch.tensor([3.0, 0, 1, 0]), torch.ones(4, 1), group).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("quantile", "length"), [(1.0, 4), (-0.1, 4), (0.5, 3)])
def test_signcert_refuses(quantile: float, length: int) -> None:
    with pytest.raises(ValueError, match=r"quantile must|must agree"):
        signcert_weights(torch.zeros(4), torch.zeros(length, 2), torch.zeros(4, dtype=torch.long), quantile=quantile)
