"""Optimal policies in closed form where no probability meets zero: probabilities only have to sum to 1.

Source: Banerjee and Gopalan, https://arxiv.org/abs/2410.23726, 2024, and its successor
https://arxiv.org/abs/2507.15906, 2025, for the two constraints; centering keeps the sum.
"""

import torch
from torch import Tensor

from prudent.alignment.bandit._checks import (
    are_equal,
    as_covariance,
    as_distribution,
    as_rewards,
    check_positive,
    require_definite,
)

__all__ = ["precision_centered", "squared_norm_optimum", "variance_aware_optimum"]


def precision_centered(reward: Tensor, covariance: Tensor | None = None) -> Tensor:
    """Rewards minus their precision-weighted mean, 1' Sigma^-1 R / 1' Sigma^-1 1.

    A move of the policy along Sigma^-1 times this keeps its sum; a constant added to all rewards changes nothing.

    Args:
        reward: [..., K] rewards of the responses to one prompt.
        covariance: [K, K] positive definite, or [K] variances; by default all alike, for the plain mean.

    Returns:
        float64 [..., K].

    Raises:
        ValueError: a reward is not finite, or the covariance is not one or is singular.

    Example:
        >>> import torch
        >>> precision_centered(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0])).tolist()
        [-1.0, 2.0]
    """
    reward = as_rewards(reward)
    if covariance is None:
        return reward - reward.mean(-1, keepdim=True)
    factor = require_definite(as_covariance(covariance, reward.shape[-1]))
    precision = torch.cholesky_solve(reward.new_ones(reward.shape[-1], 1), factor)
    return reward - reward @ precision / precision.sum()


def squared_norm_optimum(reward: Tensor, reference: Tensor, radius: float) -> Tensor:
    """The policy of highest reward among those with ||pi - pi0||^2 <= radius that sum to 1.

    pi0 + sqrt(radius) R / ||R||, R the centered rewards. Nothing keeps probabilities from becoming negative but a
    small radius; `simplex_optimum` does.

    Args:
        reward: [..., K] rewards, of one estimate or of many.
        reference: [K] the reference policy pi0.
        radius: greatest squared distance from it, above 0.

    Returns:
        float64 [..., K]; the reference itself where all rewards are equal.

    Raises:
        ValueError: a reward is not finite, the reference is no distribution, or the radius is not above 0.

    Example:
        >>> import torch
        >>> squared_norm_optimum(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), 0.02).tolist()
        [0.4, 0.6]
    """
    centered = precision_centered(reward)
    return _moved(as_distribution(reference, centered.shape[-1]), reward, centered, centered, radius)


def variance_aware_optimum(reward: Tensor, covariance: Tensor, reference: Tensor, radius: float) -> Tensor:
    """The policy of highest reward among those with (pi - pi0)' Sigma (pi - pi0) <= radius that sum to 1.

    pi0 + sqrt(radius) Sigma^-1 R / ||R||_{Sigma^-1}, R the rewards minus their precision-weighted mean: it moves far
    where the reward is sure. It also maximizes a lower bound of the reward, the worst within an ellipsoid around the
    estimate, of some size.

    Args:
        reward: [..., K] rewards, of one estimate or of many.
        covariance: [K, K] of the rewards' errors, positive definite, or [K] variances.
        reference: [K] the reference policy pi0.
        radius: greatest variance of the change in reward, above 0.

    Returns:
        float64 [..., K], possibly with negative entries; the reference itself where all rewards are equal.

    Raises:
        ValueError: a reward is not finite, the covariance is not one or is singular, the reference is no
            distribution, or the radius is not above 0.

    Example:
        >>> import torch
        >>> equal, variance = torch.full((3,), 1 / 3), torch.tensor([1.0, 1.0, 4.0])
        >>> change = variance_aware_optimum(torch.tensor([0.0, 1.0, 1.0]), variance, equal, 0.01) - equal
        >>> [round(one, 4) for one in change.tolist()]  # as good as the second, but less sure: the third gains less
        [-0.0745, 0.0596, 0.0149]
    """
    centered = precision_centered(reward, covariance)
    factor = require_definite(as_covariance(covariance, centered.shape[-1]))
    direction = torch.cholesky_solve(centered.reshape(-1, centered.shape[-1]).T, factor).T.reshape(centered.shape)
    return _moved(as_distribution(reference, centered.shape[-1]), reward, direction, centered, radius)


def _moved(reference: Tensor, reward: Tensor, direction: Tensor, centered: Tensor, radius: float) -> Tensor:
    """From the reference along a direction, whose length in the constraint's norm is that of its reward."""
    check_positive("radius", radius)
    length = (direction * centered).sum(-1, keepdim=True).sqrt()
    # what rounding leaves of equal rewards after centering is no direction
    return reference + torch.where(are_equal(reward), 0.0, radius**0.5 * direction / length)
