"""How strong a prior heads have: by the evidence of one linear head, whose posterior the members spread around."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prudent.metrics import minimize_on_log_scale
from prudent.posteriors._heads_task import HeadsTask
from prudent.posteriors._logistic import MAX_PRIOR_PRECISION, fit_logistic, maximize_evidence

__all__ = ["LinearPrior", "pair_prior", "score_prior"]

_MIN_PRIOR_PRECISION = 1e-4
_MIN_RESIDUAL_VARIANCE = 1e-3
"""Of standardised scores: what a head explains to less than 3 % of their spread counts as explained to that."""


@dataclass(frozen=True)
class LinearPrior:
    """The prior of linear heads in standardised features, and the posterior of one head under it.

    Attributes:
        precision: of the zero-centred isotropic Gaussian prior.
        mode: `[H]` float64 of the reward's weights.
        curvature: `[H]` float64 eigenvalues of the data's part of their posterior precision, not negative.
        vectors: `[H, H]` float64 its eigenvectors, in columns.
        residual_std: of scores, as in `HeadsTask`.
    """

    precision: float
    mode: Tensor
    curvature: Tensor
    vectors: Tensor
    residual_std: float = 1.0


def pair_prior(task: HeadsTask, prior_precision: float | None) -> LinearPrior:
    """The prior of heads for pairs, and the logistic posterior of one head under it.

    Args:
        task: of pairs; for `classification` each response is a logistic datum, else each pair.
        prior_precision: given, or None for that of highest evidence. It is always the evidence of pairs: what texts to
            different prompts differ in drowns that of single responses, whose evidence would have no reward at all.
    """
    rows = task.sides[0] - task.sides[1]
    options: dict[str, Any] = {"label": task.target, "margin": task.margin}
    if prior_precision is None:
        fitted = maximize_evidence(rows, **options)
    else:
        fitted = fit_logistic(rows, prior_precision, **options)
    if task.kind == "classification":
        label = torch.cat([task.target, 1 - task.target])
        fitted = fit_logistic(task.inputs, fitted.prior_precision, label=label)
    values, vectors = torch.linalg.eigh(fitted.cholesky @ fitted.cholesky.T)
    curvature = (values - fitted.prior_precision).clamp_min(0)
    return LinearPrior(fitted.prior_precision, fitted.weight, curvature, vectors)


def score_prior(features: Tensor, scores: Tensor, prior_precision: float | None) -> LinearPrior:
    """The prior of heads for scores, and the posterior of a linear Gaussian regression under it.

    The evidence of `y ~ N(0, s^2 I + X X^T / precision)` is maximised over s and, unless it is given, the precision.

    Args:
        features: `[N, H]` float64, standardised.
        scores: `[N]` float64, standardised.
        prior_precision: given, or None for that of highest evidence.
    """
    values, vectors = torch.linalg.eigh(features.T @ features)
    values = values.clamp_min(0)
    projected = vectors.T @ (features.T @ scores)
    # Directions without variance say nothing, and would divide by zero.
    told = values > 1e-10 * values[-1]
    energy = projected[told].square() / values[told]
    rest = max(float(scores.square().sum() - energy.sum()), 1e-12)
    free = len(scores) - int(told.sum())

    def loss(precision: float, variance: float) -> float:
        spread = variance + values[told] / precision
        return float(spread.log().sum() + (energy / spread).sum()) + free * math.log(variance) + rest / variance

    def best_variance(precision: float) -> float:
        return minimize_on_log_scale(lambda variance: loss(precision, variance), _MIN_RESIDUAL_VARIANCE, 10.0)

    if prior_precision is None:
        prior_precision = minimize_on_log_scale(
            lambda precision: loss(precision, best_variance(precision)), _MIN_PRIOR_PRECISION, MAX_PRIOR_PRECISION
        )
    variance = best_variance(prior_precision)
    curvature = values / variance
    mode = vectors @ (projected / variance / (curvature + prior_precision))
    return LinearPrior(prior_precision, mode, curvature, vectors, variance**0.5)
