"""Optimal policies among distributions, where probabilities may meet zero: no closed form, a convex program."""

import importlib
from types import ModuleType

import torch
from torch import Tensor

from prudent.alignment.bandit._checks import (
    are_equal,
    as_covariance,
    as_distribution,
    as_rewards,
    as_variance,
    check_positive,
)
from prudent.errors import PrudentError

__all__ = ["independent_simplex_optima", "simplex_optimum"]

_DOUBLINGS = 40
_HALVINGS = 50
_STEPS = 100
_BLOCK_ELEMENTS = 1 << 18


def simplex_optimum(reward: Tensor, reference: Tensor, radius: float, covariance: Tensor | None = None) -> Tensor:
    """The distribution of highest reward with (pi - pi0)' Sigma (pi - pi0) <= radius, by cvxpy.

    Args:
        reward: [K] rewards.
        reference: [K] the reference policy pi0.
        radius: greatest value of the constraint, above 0.
        covariance: [K, K] of the rewards' errors, which may be singular, or [K] variances; by default the identity,
            for ||pi - pi0||^2 <= radius.

    Returns:
        float64 [K], a distribution; the reference itself where all rewards are equal.

    Raises:
        ValueError: a reward is not finite, the reference is no distribution, the radius is not above 0, or the
            covariance is not one.
        PrudentError: cvxpy is not installed, or its solver failed.

    Example:
        >>> import torch
        >>> policy = simplex_optimum(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.1, 0.6, 0.3]), 0.5)
        >>> [round(one, 3) for one in policy.tolist()]
        [0.0, 0.158, 0.842]
    """
    reward = as_rewards(reward)
    if reward.dim() != 1:
        raise ValueError(f"reward must be a vector [K], got shape {list(reward.shape)}")
    size = len(reward)
    reference = as_distribution(reference, size)
    check_positive("radius", radius)
    covariance = as_covariance(torch.ones(size) if covariance is None else covariance, size)
    cvxpy = _cvxpy()
    if bool(are_equal(reward)):
        return reference
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()).T
    # in units of the radius and of the rewards' spread, so that the solver's tolerances mean the same for all
    centered = reward - reward.mean()
    scale = centered.abs().max().item()
    policy = cvxpy.Variable(size, nonneg=True)
    length = cvxpy.norm((root / radius**0.5).numpy() @ (policy - reference.numpy()))
    problem = cvxpy.Problem(cvxpy.Maximize((centered / scale).numpy() @ policy), [cvxpy.sum(policy) == 1, length <= 1])
    try:
        problem.solve(solver=cvxpy.CLARABEL)
    except cvxpy.error.SolverError as error:
        raise PrudentError(f"the solver found no optimum ({error}); scale rewards or covariance") from error
    if problem.status not in ("optimal", "optimal_inaccurate"):
        raise PrudentError(f"the solver found no optimum ({problem.status}); scale rewards or covariance")
    found = torch.from_numpy(policy.value.copy()).clamp(min=0)
    return found / found.sum()


def independent_simplex_optima(reward: Tensor, reference: Tensor, radius: float, variance: Tensor) -> Tensor:
    """What `simplex_optimum` gives for many estimates at once, where the rewards' errors are independent.

    Without covariances the program falls apart: pi = relu(pi0 + t (R - nu) / variance), nu such that it sums to 1,
    the step t as large as the constraint allows. A simulation takes 100,000 of them; a solver called for each would
    take minutes.

    Args:
        reward: [..., K] rewards, one estimate a row.
        reference: [K] the reference policy pi0.
        radius: greatest value of the constraint, above 0.
        variance: [K] above 0; ones for ||pi - pi0||^2 <= radius.

    Returns:
        float64 [..., K], a distribution each.

    Raises:
        ValueError: a reward is not finite, the reference is no distribution, the radius or a variance is not above 0.

    Example:
        >>> import torch
        >>> estimates = torch.tensor([[0.0, 1.0, 3.0], [3.0, 1.0, 0.0]])
        >>> policies = independent_simplex_optima(estimates, torch.tensor([0.1, 0.6, 0.3]), 0.5, torch.ones(3))
        >>> [[round(one, 3) for one in policy] for policy in policies.tolist()]
        [[0.0, 0.158, 0.842], [0.677, 0.323, 0.0]]
    """
    reward = as_rewards(reward)
    size = reward.shape[-1]
    reference = as_distribution(reference, size)
    check_positive("radius", radius)
    variance = as_variance(variance, size)
    rows = reward.reshape(-1, size)
    blocks = torch.split(rows, max(1, _BLOCK_ELEMENTS // size))
    return torch.cat([_block(block, reference, radius, variance) for block in blocks]).reshape(reward.shape)


def _block(reward: Tensor, reference: Tensor, radius: float, variance: Tensor) -> Tensor:
    centered = reward - (reward / variance).sum(-1, keepdim=True) / (1 / variance).sum()
    length = (centered.square() / variance).sum(-1, keepdim=True).sqrt()
    unit = torch.where(are_equal(reward), 0.0, centered / length)
    best = torch.nn.functional.one_hot(reward.argmax(-1), reward.shape[-1]).double()
    alone = (_change(best, reference, variance) <= radius) & ~are_equal(reward)
    # Where nothing meets zero t = sqrt(radius). Zeros shorten the move, so t is at least that.
    low = torch.full_like(length, radius**0.5)
    high = low.clone()
    for _ in range(_DOUBLINGS):
        inside = _change(_projected(reference + high * unit / variance, variance), reference, variance) < radius
        still = inside & ~alone
        if not bool(still.any()):
            break
        low, high = torch.where(still, high, low), torch.where(still, 2 * high, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = _change(_projected(reference + middle * unit / variance, variance), reference, variance) <= radius
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return torch.where(alone, best, _projected(reference + low * unit / variance, variance))


def _change(policy: Tensor, reference: Tensor, variance: Tensor) -> Tensor:
    return ((policy - reference).square() * variance).sum(-1, keepdim=True)


def _projected(point: Tensor, variance: Tensor) -> Tensor:
    """relu(point - nu / variance) [S, K] at the nu where it sums to 1, by Newton's method on a convex broken line.

    It is exact once it has passed the breaks on its way, most of them in one step.
    """
    nu = ((point - 1) * variance).amin(-1, keepdim=True)  # all of them above 1: left of the root
    for _ in range(_STEPS):
        excess = (point - nu / variance).clamp(min=0)
        slope = torch.where(excess > 0, 1 / variance, 0.0).sum(-1, keepdim=True)
        step = (excess.sum(-1, keepdim=True) - 1) / slope
        nu = nu + step
        if bool((step.abs() <= 1e-14 * (1 + nu.abs())).all()):
            break
    found = (point - nu / variance).clamp(min=0)
    return found / found.sum(-1, keepdim=True)


def _cvxpy() -> ModuleType:
    try:
        return importlib.import_module("cvxpy")
    except ModuleNotFoundError as error:
        if error.name != "cvxpy":
            raise
        raise PrudentError(
            'optima on the simplex need cvxpy, which is not installed: pip install "prudent[align]", or in a clone '
            'pip install -e ".[align]"'
        ) from error
