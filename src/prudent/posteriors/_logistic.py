"""Bayesian logistic regression on feature differences: the mode by Newton, its Laplace posterior, its evidence.

A pair is one Bernoulli datum with logit `f = d . w - margin`, `d` the difference of the features of chosen and rejected
(arXiv 2402.13210; the generalised Gauss-Newton matrix of the Bradley-Terry loss is `sum p(1-p) d d^T`, and here, where
the reward is linear in `w`, it is the Hessian). Everything is float64.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prudent.errors import PosteriorError
from prudent.metrics import golden_section

__all__ = ["MAX_PRIOR_PRECISION", "LogisticPosterior", "fit_logistic", "maximize_evidence"]

MAX_PRIOR_PRECISION = 1e6
"""Where the search for the evidence's maximum ends; a prior this strong says that the pairs tell nothing."""


@dataclass(frozen=True)
class LogisticPosterior:
    """The Laplace approximation `N(weight, (H + prior_precision I)^-1)` of a logistic posterior.

    Attributes:
        weight: `[H]` float64, the centre of the approximation.
        cholesky: `[H, H]` float64 lower triangular factor of the posterior precision.
        prior_precision: of the zero-centred isotropic Gaussian prior.
        log_likelihood: of the labels at `weight`, in nats over all pairs.
        log_marginal_likelihood: Laplace evidence, `LL - 0.5 prior_precision ||w||^2 - 0.5 logdet(I + H /
            prior_precision)`.
        num_steps: Newton steps taken; 0 where the weight was given.
    """

    weight: Tensor
    cholesky: Tensor
    prior_precision: float
    log_likelihood: float
    log_marginal_likelihood: float
    num_steps: int

    @property
    def covariance_factor(self) -> Tensor:
        """`[H, H]` float64 matrix `F` with covariance `F F^T`: the inverse transpose of `cholesky`."""
        identity = torch.eye(len(self.weight), dtype=self.cholesky.dtype)
        inverse: Tensor = torch.linalg.solve_triangular(self.cholesky, identity, upper=False)
        return inverse.T.contiguous()


def fit_logistic(
    differences: Tensor,
    prior_precision: float,
    *,
    label: Tensor | None = None,
    margin: Tensor | None = None,
    start: Tensor | None = None,
    newton: bool = True,
    tolerance: float = 1e-10,
) -> LogisticPosterior:
    """The posterior mode for a prior precision, and the Laplace approximation there.

    Args:
        differences: `[M, H]` features of chosen minus features of rejected.
        prior_precision: positive.
        label: `[M]` probability in [0, 1] that chosen is the better one; all ones by default.
        margin: `[M]` by how much the reward of chosen should exceed that of rejected; zeros by default.
        start: `[H]` weight to start from, or to stay at.
        newton: False keeps `start` as it is and takes the curvature there.
        tolerance: stop when the Newton decrement, in nats, is below this.

    Raises:
        PosteriorError: Newton's method does not converge in 100 steps (it does on finite features).

    Example:
        >>> d = torch.tensor([[1.0], [0.5], [-0.2]])
        >>> round(fit_logistic(d, 1.0).weight.item(), 3)
        0.493
    """
    features = differences.double()
    target = torch.ones(len(features), dtype=torch.float64) if label is None else label.double()
    offset = torch.zeros(len(features), dtype=torch.float64) if margin is None else margin.double()
    weight = torch.zeros(features.shape[1], dtype=torch.float64) if start is None else start.double().clone()
    identity = torch.eye(features.shape[1], dtype=torch.float64)

    def objective(candidate: Tensor) -> Tensor:
        return _log_likelihood(features @ candidate - offset, target) - 0.5 * prior_precision * candidate @ candidate

    steps = 0
    value = objective(weight)
    while True:
        chance = torch.sigmoid(features @ weight - offset)
        curvature = chance * (1 - chance)
        precision = features.T @ (features * curvature.unsqueeze(1)) + prior_precision * identity
        cholesky = torch.linalg.cholesky(precision)
        if not newton:
            break
        gradient = features.T @ (target - chance) - prior_precision * weight
        step = torch.cholesky_solve(gradient.unsqueeze(1), cholesky).squeeze(1)
        decrement = float(gradient @ step)
        if decrement < tolerance:
            break
        if steps == 100:
            raise PosteriorError(f"Newton's method has not converged in 100 steps (decrement {decrement:.2g} nats)")
        # The objective is concave, so halving the step always finds an ascent.
        length = 1.0
        while (proposed := objective(weight + length * step)) < value and length > 1e-8:
            length /= 2
        weight, value, steps = weight + length * step, proposed, steps + 1
    log_likelihood = float(_log_likelihood(features @ weight - offset, target))
    log_determinant = float(2 * cholesky.diagonal().log().sum()) - len(weight) * math.log(prior_precision)
    evidence = log_likelihood - 0.5 * prior_precision * float(weight @ weight) - 0.5 * log_determinant
    return LogisticPosterior(weight, cholesky, prior_precision, log_likelihood, evidence, steps)


def maximize_evidence(
    differences: Tensor,
    *,
    label: Tensor | None = None,
    margin: Tensor | None = None,
    start: Tensor | None = None,
    newton: bool = True,
    low: float = 1e-4,
    high: float = MAX_PRIOR_PRECISION,
) -> LogisticPosterior:
    """The Laplace approximation at the prior precision of highest evidence, each evidence taken at its own mode.

    A grid of a point each factor of ten finds the region, a golden-section search on the logarithm refines it to 1 %.

    Args:
        differences: `[M, H]`.
        label: as in `fit_logistic`.
        margin: as in `fit_logistic`.
        start: with `newton=False` the fixed weight.
        newton: False keeps the weight at `start` for every precision.
        low: smallest prior precision considered.
        high: largest prior precision considered.

    Returns:
        The best approximation. A `prior_precision` at `low` or `high` says that the pairs do not determine it.
    """

    def at(log_precision: float, near: Tensor | None) -> LogisticPosterior:
        precision = math.exp(log_precision)
        return fit_logistic(
            differences, precision, label=label, margin=margin, start=start if not newton else near, newton=newton
        )

    steps = max(1, round(math.log10(high / low)))
    logs = [math.log(low) + step / steps * math.log(high / low) for step in range(steps + 1)]
    best, position = None, 0
    near = start
    # From strong to weak priors: each mode is close to the next, so Newton takes few steps.
    for index in reversed(range(len(logs))):
        fitted = at(logs[index], near)
        near = fitted.weight
        if best is None or fitted.log_marginal_likelihood > best.log_marginal_likelihood:
            best, position = fitted, index
    assert best is not None
    left, right = logs[max(position - 1, 0)], logs[min(position + 1, len(logs) - 1)]
    near = best.weight
    found = golden_section(lambda point: -at(point, near).log_marginal_likelihood, left, right, 0.01)
    return max([best, at(found, near)], key=lambda fitted: fitted.log_marginal_likelihood)


def _log_likelihood(logit: Tensor, target: Tensor) -> Tensor:
    return (target * logsigmoid(logit) + (1 - target) * logsigmoid(-logit)).sum()
