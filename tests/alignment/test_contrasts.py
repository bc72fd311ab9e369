"""The variance of a response against the others of its prompt, against the dense covariance."""

import pytest
import torch

from prudent.alignment._contrasts import contrast_variance
from prudent.errors import UnsupportedError
from prudent.rewards import GaussianRewards, MemberRewards


def dense(covariance: torch.Tensor, mean: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    found = torch.full_like(mean, torch.nan)
    for row in range(len(mean)):
        others = (group == group[row]) & ~mean.isnan()
        others[row] = False
        if others.any() and not mean[row].isnan():
            weight = -(others.double() / others.sum())
            weight[row] = 1
            found[row] = weight @ covariance @ weight
    return found


@pytest.mark.parametrize("kind", ["gaussian", "members"])
def test_against_the_dense_covariance(kind):
    generator = torch.Generator().manual_seed(0)
    group = torch.tensor([7, 3, 7, 3, 7, 9, 3, 7])
    values = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    values[4] = torch.nan
    if kind == "gaussian":
        # what all share is far larger than what tells them apart
        factor = torch.cat([torch.full((8, 1), 1e3, dtype=torch.float64), values.nan_to_num()], 1)
        rewards = GaussianRewards(values[:, 0], factor.square().sum(1), group, factor=factor)
    else:
        rewards = MemberRewards(values, group)
    covariance = rewards.covariance().nan_to_num()
    expected = dense(covariance, rewards.mean, group)
    assert expected.isnan().tolist() == [False] * 4 + [True, True, False, False]
    torch.testing.assert_close(contrast_variance(rewards), expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_without_a_factor_there_are_no_contrasts():
    with pytest.raises(UnsupportedError, match="factor"):
        contrast_variance(GaussianRewards(torch.zeros(2), torch.ones(2)))
    assert contrast_variance(GaussianRewards(torch.zeros(2), torch.ones(2), torch.tensor([0, 1]))).isnan().all()
