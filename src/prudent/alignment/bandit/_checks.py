"""What bandit problems are given: checked once, in float64."""

import math

import torch
from torch import Tensor

__all__ = [
    "are_equal",
    "as_covariance",
    "as_distribution",
    "as_rewards",
    "as_variance",
    "check_positive",
    "require_definite",
]

_TOLERANCE = 1e-6


def check_positive(name: str, value: float) -> None:
    """A finite number above 0.

    Raises:
        ValueError: it is none.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value}")


def are_equal(reward: Tensor) -> Tensor:
    """Whether all rewards of a row are the same, [..., 1] booleans for [..., K]."""
    return reward.amax(-1, keepdim=True) == reward.amin(-1, keepdim=True)


def as_rewards(reward: Tensor, name: str = "reward") -> Tensor:
    """Finite numbers [..., K], at least one response, as float64.

    Raises:
        ValueError: they are not.
    """
    if reward.dim() == 0 or reward.shape[-1] == 0:
        raise ValueError(f"{name} must have the K responses last, at least one, got shape {list(reward.shape)}")
    found = reward.double()
    if not bool(found.isfinite().all()):
        place = (~found.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {found[tuple(place)].item()} at {place}")
    return found


def as_distribution(reference: Tensor, num_responses: int) -> Tensor:
    """Probabilities [..., K] of a reference policy as float64, scaled to sum to 1 exactly.

    Raises:
        ValueError: another number of responses, a negative or undefined probability, or a sum other than 1.
    """
    found = as_rewards(reference, "reference")
    if found.shape[-1] != num_responses:
        raise ValueError(f"reference is over {found.shape[-1]} responses where the reward is over {num_responses}")
    if bool((found < 0).any()):
        raise ValueError(f"reference must be a distribution, it has the probability {found.min().item():.6g}")
    total = found.sum(-1, keepdim=True)
    if bool(((total - 1).abs() > _TOLERANCE).any()):
        worst = total.flatten()[(total - 1).abs().argmax()]
        raise ValueError(f"reference must be a distribution, it sums to {worst.item():.6g}")
    return found / total


def as_variance(variance: Tensor, num_responses: int) -> Tensor:
    """Variances [K] above 0 as float64, of rewards that are independent.

    Raises:
        ValueError: another number of responses, or a variance that is not above 0.
    """
    found = as_rewards(variance, "variance")
    if found.shape != (num_responses,):
        raise ValueError(f"variance must have shape [{num_responses}], one a response, got {list(found.shape)}")
    if bool((found <= 0).any()):
        raise ValueError(f"variance must be above 0, got {found.min().item():.6g}; a floor keeps an anchor")
    return found


def as_covariance(covariance: Tensor, num_responses: int) -> Tensor:
    """A covariance matrix [K, K] as float64; variances [K] are its diagonal. It may be singular.

    Raises:
        ValueError: another shape, numbers that are not finite, not symmetric, or a negative eigenvalue.
    """
    found = as_rewards(covariance, "covariance")
    if found.dim() == 1:
        found = torch.diag(found)
    if found.shape != (num_responses, num_responses):
        raise ValueError(
            f"covariance must have shape [{num_responses}, {num_responses}] (or [{num_responses}] variances), got "
            f"{list(covariance.shape)}"
        )
    scale = found.abs().max().item()
    if not torch.allclose(found, found.T, rtol=0, atol=_TOLERANCE * scale):
        raise ValueError("covariance must be symmetric")
    found = (found + found.T) / 2
    smallest = torch.linalg.eigvalsh(found)[0].item()
    if smallest < -_TOLERANCE * scale:
        raise ValueError(f"covariance must be positive semidefinite, its smallest eigenvalue is {smallest:.6g}")
    return found


def require_definite(covariance: Tensor) -> Tensor:
    """The lower Cholesky factor [K, K] of a covariance matrix.

    Raises:
        ValueError: it is singular, so that a direction of no variance would have no bound.
    """
    factor: Tensor
    factor, fault = torch.linalg.cholesky_ex(covariance)
    if int(fault):
        raise ValueError(
            "covariance must be positive definite here: along a direction without variance nothing bounds the policy; "
            "add a floor to the variances, or take simplex_optimum, where the simplex bounds it"
        )
    return factor
