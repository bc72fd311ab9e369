"""Optimal policies under a KL penalty, the same for all responses or weighted by how uncertain each one's reward is."""

import torch
from torch import Tensor

from prudent.alignment._arms import Arm, KlForm
from prudent.alignment.bandit._checks import as_distribution, as_rewards

__all__ = ["kl_divergence", "kl_optimum", "weighted_kl_optimum"]

_STEPS = 200
_TOLERANCE = 1e-13


def kl_optimum(utility: Tensor, reference: Tensor, kl_coef: float | Tensor) -> Tensor:
    """The policy that maximizes E[u] - kl_coef * KL(pi || pi0): pi0 exp(u / kl_coef), normalized.

    Args:
        utility: [..., K] what each response is worth: a mean, or what any risk rule makes of a posterior.
        reference: [..., K] the reference policy pi0.
        kl_coef: coefficient of the KL penalty, above 0, in the units of the utility; a tensor is broadcast.

    Returns:
        float64 [..., K], a distribution.

    Raises:
        ValueError: a utility is not finite, the reference is no distribution, or kl_coef is not above 0.

    Example:
        >>> import torch
        >>> policy = kl_optimum(torch.tensor([1.0, 2.0]).log(), torch.tensor([0.5, 0.5]), 1.0)
        >>> [round(one, 4) for one in policy.tolist()]
        [0.3333, 0.6667]
    """
    utility = as_rewards(utility, "utility")
    reference = as_distribution(reference, utility.shape[-1])
    # against the best, so that a small coefficient loses no digits
    shortfall = utility - torch.where(reference > 0, utility, -torch.inf).amax(-1, keepdim=True)
    found: Tensor = torch.softmax(reference.log() + shortfall / _positive("kl_coef", kl_coef), -1)
    return found


def weighted_kl_optimum(
    reward: Tensor,
    weight: Tensor,
    reference: Tensor,
    kl_coef: float | Tensor,
    *,
    kl_form: KlForm = "exact",
) -> Tensor:
    """The policy that maximizes E[R - b log(pi / pi0)], where b = kl_coef * weight differs between responses.

    `exact`: pi0 exp((R - nu) / b - 1), nu such that it sums to 1. The penalty's mean is no divergence: it is negative
    for some policies, so that however large kl_coef is, the optimum does not tend to pi0 but to pi0 exp(-nu / weight -
    1), off towards responses of low weight.

    `in_reward`: where policy gradients without the objective's last term, -b a sample, come to rest:
    pi0 exp((R - nu) / b). It maximizes E[R] minus the generalized divergence sum b (pi log(pi / pi0) - pi + pi0),
    which is never negative, and tends to pi0.

    `constant`: `kl_optimum`, whatever the weights. With equal weights all three are it.

    Args:
        reward: [..., K] rewards.
        weight: [..., K] above 0, of the KL penalty, as from `kl_weights`.
        reference: [..., K] the reference policy pi0.
        kl_coef: coefficient of the KL penalty, above 0; a tensor is broadcast.
        kl_form: which of them.

    Returns:
        float64 [..., K], a distribution.

    Raises:
        ValueError: a reward is not finite, a weight or kl_coef is not above 0, or the reference is no distribution.

    Source: the objective of 2410.23726, as far as its practical form is known; stationary points derived.

    Example:
        >>> import torch
        >>> reward, equal = torch.tensor([0.0, 1.0, 1.0]), torch.full((3,), 1 / 3)
        >>> policy = weighted_kl_optimum(reward, torch.tensor([1.0, 1.0, 4.0]), equal, 0.5, kl_form="in_reward")
        >>> [round(one, 3) for one in policy.tolist()]  # held closer to the reference where the variance is high
        [0.074, 0.548, 0.377]
    """
    reward = as_rewards(reward)
    weight = _positive("weight", as_rewards(weight, "weight"))
    Arm(kl_form=kl_form)  # its name is checked there
    if kl_form == "constant":
        return kl_optimum(reward, reference, kl_coef)
    reference = as_distribution(reference, reward.shape[-1])
    coefficient = _positive("kl_coef", kl_coef) * weight
    found: Tensor = torch.softmax(_stationary(reward, coefficient, reference.log(), float(kl_form == "exact")), -1)
    return found


def kl_divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """KL(pi || pi0) in nats, over the last dimension.

    Args:
        policy: [..., K] a distribution.
        reference: [..., K] another, above 0 wherever the policy is.

    Returns:
        float64 [...], at least 0.

    Example:
        >>> import torch
        >>> round(kl_divergence(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])).item(), 4)
        0.6931
    """
    policy, reference = policy.double(), reference.double()
    terms: Tensor = torch.special.xlogy(policy, policy) - torch.special.xlogy(policy, reference)
    return terms.sum(-1).clamp(min=0)


def _positive(name: str, value: float | Tensor) -> Tensor:
    found = torch.as_tensor(value, dtype=torch.float64)
    if not bool((found.isfinite() & (found > 0)).all()):
        raise ValueError(f"{name} must be finite and above 0, got {found.min().item():.6g} to {found.max().item():.6g}")
    return found


def _stationary(reward: Tensor, coefficient: Tensor, log_base: Tensor, shift: float) -> Tensor:
    """Logarithms [..., K] of pi0 exp((R - nu) / b - shift) at the nu where they sum to 1.

    The logarithm of their sum is convex and falls in nu, so Newton's method climbs to its root from the left without
    passing it; the bracket it is kept in matters for rounding alone.
    """
    supported = log_base > -torch.inf
    # against the best of them: a small coefficient would magnify the rounding of large rewards
    reward = reward - torch.where(supported, reward, -torch.inf).amax(-1, keepdim=True)
    at_base = reward - shift * coefficient  # nu where a response keeps its probability
    low = torch.where(supported, at_base, torch.inf).amin(-1, keepdim=True)
    low = torch.maximum(low, (at_base + coefficient * log_base).amax(-1, keepdim=True))  # no probability above 1
    high = torch.where(supported, at_base, -torch.inf).amax(-1, keepdim=True)
    nu = low
    for _ in range(_STEPS):
        terms = log_base + (reward - nu) / coefficient - shift
        total = terms.logsumexp(-1, keepdim=True)
        if bool((total.abs() <= _TOLERANCE).all()):
            break
        slope = ((terms - total).exp() / coefficient).sum(-1, keepdim=True)
        nu = torch.minimum(nu + total / slope, high).maximum(low)
    return log_base + (reward - nu) / coefficient - shift
