"""How often an optimum by estimated rewards is truly worse than the reference policy."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.alignment.bandit._checks import are_equal, as_covariance, as_distribution, as_rewards, require_definite
from prudent.alignment.bandit._hyperplane import precision_centered
from prudent.metrics import wilson_interval

__all__ = ["SimulatedRisk", "simulate_risk", "squared_norm_risk", "variance_aware_risk"]

_BLOCK_ELEMENTS = 1 << 20


def squared_norm_risk(true_reward: Tensor, covariance: Tensor) -> float:
    """P(r*(pi) < r*(pi0)) of `squared_norm_optimum` by estimates R ~ N(r*, Sigma), whatever the radius.

    Phi(-||r||^2 / sqrt(r' Sigma r)), r the centered true rewards. Never below `variance_aware_risk`, by
    Cauchy-Schwarz; the same where Sigma r is proportional to r but for a constant, as for equal variances.

    Args:
        true_reward: [K] the true rewards r*.
        covariance: [K, K] of the estimates, which may be singular, or [K] variances.

    Returns:
        A probability, at most 1/2; 0 where all true rewards are equal, since then nothing is lost.

    Raises:
        ValueError: a reward is not finite, or the covariance is not one.

    Source: 2410.23726 (the theorem); the paper's r* is taken after centering.

    Example:
        >>> import torch
        >>> round(squared_norm_risk(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([4.0, 1.0, 1.0])), 4)
        0.1855
    """
    reward = _vector(true_reward)
    centered = precision_centered(reward)
    # what all errors share changes no difference, and must not be left to rounding
    error = as_covariance(covariance, len(reward))
    error = error - error.mean(0)
    error = error - error.mean(1, keepdim=True)
    spread = (centered @ error @ centered).clamp(min=0)
    return 0.0 if are_equal(reward) else float(torch.special.ndtr(-centered.square().sum() / spread.sqrt()))


def variance_aware_risk(true_reward: Tensor, covariance: Tensor) -> float:
    """P(r*(pi) < r*(pi0)) of `variance_aware_optimum` by estimates R ~ N(r*, Sigma), whatever the radius.

    Phi(-sqrt(r' Sigma^-1 r)), r the true rewards minus their precision-weighted mean.

    Args:
        true_reward: [K] the true rewards r*.
        covariance: [K, K] of the estimates, positive definite, or [K] variances.

    Returns:
        A probability, at most 1/2 and at most `squared_norm_risk`; 0 where all true rewards are equal.

    Raises:
        ValueError: a reward is not finite, or the covariance is not one or is singular.

    Source: 2410.23726 (the theorem); the paper's r* is taken after centering.

    Example:
        >>> import torch
        >>> round(variance_aware_risk(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([4.0, 1.0, 1.0])), 4)
        0.1587
    """
    reward = _vector(true_reward)
    centered = precision_centered(reward, covariance)
    factor = require_definite(as_covariance(covariance, len(reward)))
    length = torch.linalg.solve_triangular(factor, centered[:, None], upper=False).norm()
    return 0.0 if are_equal(reward) else float(torch.special.ndtr(-length))


@dataclass(frozen=True)
class SimulatedRisk:
    """How often a policy was truly worse than the reference, over simulated estimates of the rewards.

    Attributes:
        risk: share of the draws.
        low: lower end of its 95 % Wilson interval.
        high: upper end.
        mean_gain: average true reward over that of the reference.
        std_gain: its standard deviation over the draws (ddof 1).
        num_draws: how many.
    """

    risk: float
    low: float
    high: float
    mean_gain: float
    std_gain: float
    num_draws: int


def simulate_risk(
    optimum: Callable[[Tensor], Tensor],
    true_reward: Tensor,
    covariance: Tensor,
    reference: Tensor,
    *,
    num_draws: int = 100_000,
    seed: int = 0,
) -> SimulatedRisk:
    """Draw estimates R ~ N(r*, Sigma), let each move the policy, and count how often it ends below the reference.

    The same seed draws the same estimates, so that two ways of moving the policy are compared on equal terms. Where
    probabilities meet zero the theorem about the hyperplane does not hold: this measures what does.

    Args:
        optimum: maps estimates [S, K] to policies [S, K], float64.
        true_reward: [K] the true rewards r*.
        covariance: [K, K] of the estimates, or [K] variances.
        reference: [K] the reference policy pi0.
        num_draws: estimates to draw.
        seed: of the draws.

    Returns:
        The risk with its interval. A loss within rounding, 1e-12 of the largest true reward, is none.

    Raises:
        ValueError: a reward is not finite, the covariance is not one, the reference is no distribution, there are no
            draws, or `optimum` gives another shape or type.

    Example:
        >>> import torch
        >>> from prudent.alignment.bandit import variance_aware_optimum
        >>> reward, variance, equal = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([4.0, 1.0, 1.0]), torch.ones(3) / 3
        >>> found = simulate_risk(lambda r: variance_aware_optimum(r, variance, equal, 0.1), reward, variance, equal)
        >>> round(found.risk, 2)
        0.16
    """
    reward = _vector(true_reward)
    reference = as_distribution(reference, len(reward))
    values, vectors = torch.linalg.eigh(as_covariance(covariance, len(reward)))
    root = (vectors * values.clamp(min=0).sqrt()).T
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    generator = torch.Generator().manual_seed(seed)
    gains = []
    size = max(1, _BLOCK_ELEMENTS // len(reward))
    for start in range(0, num_draws, size):
        shape = (min(size, num_draws - start), len(reward))
        estimates = reward + torch.randn(shape, generator=generator, dtype=torch.float64) @ root
        policies = optimum(estimates)
        if policies.shape != shape or policies.dtype != torch.float64:
            raise ValueError(
                f"the optimum of estimates {list(shape)} has shape {list(policies.shape)} and type {policies.dtype}; "
                "policies must be as many, and float64, since rounding would count as loss"
            )
        gains.append((policies - reference) @ reward)
    gain = torch.cat(gains)
    num_below = int((gain < -1e-12 * reward.abs().max()).sum())
    risk = num_below / num_draws
    low, high = wilson_interval(risk, num_draws)
    std = gain.std().item() if num_draws > 1 else 0.0
    return SimulatedRisk(risk, low, high, gain.mean().item(), std, num_draws)


def _vector(reward: Tensor) -> Tensor:
    found = as_rewards(reward, "true_reward")
    if found.dim() != 1:
        raise ValueError(f"true_reward must be a vector [K], got shape {list(found.shape)}")
    return found
