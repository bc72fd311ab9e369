"""Pairs that a posterior was not fitted on: which prior precision they prefer, and how well it predicts them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from prudent.metrics import (
    MAX_LOGIT_TEMPERATURE,
    MIN_LOGIT_TEMPERATURE,
    expected_calibration_error,
    fit_logit_temperature,
    pair_scores,
)
from prudent.posteriors._last_layer import LastLayerPosterior

__all__ = [
    "PRIOR_SCALES",
    "HeldOutFigures",
    "PairFigures",
    "best_temperature",
    "held_out_figures",
    "last_layer_contrasts",
    "pair_figures",
]

PRIOR_SCALES: Sequence[float] = tuple(10 ** (step / 4) for step in range(-12, 13))
"""Factors on the fitted prior precision that held-out pairs choose from: four a decade, three decades each way."""


@dataclass(frozen=True)
class PairFigures:
    """How a posterior, or the members of an ensemble together, predict preference pairs.

    Attributes:
        data: where the pairs come from.
        num_pairs: P.
        accuracy: share of pairs ranked as labelled by the mean.
        nll_map: nats a pair, by the sigmoid of the mean difference.
        nll: nats a pair, with all that is known of its variance.
        brier: squared error of the probability, by the same.
        ece: expected calibration error, by the same.
        logit_temperature: the mean difference divided by it predicts best without a variance; None where these pairs do
            not determine one (all ranked as labelled, or none better than chance).
        nll_temperature: nats a pair, by the sigmoid of that.
    """

    data: str
    num_pairs: int
    accuracy: float
    nll_map: float
    nll: float
    brier: float
    ece: float
    logit_temperature: float | None
    nll_temperature: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class HeldOutFigures(PairFigures):
    """How a posterior predicts pairs that it was not fitted on, as it is saved, and with other prior precisions.

    Attributes:
        prior_precision_scale: factor on the prior precision of highest evidence (or on the one given) that predicts
            best; 1 says that the two agree, None that no other was tried.
        nll_unscaled: nats a pair, with the prior precision of highest evidence, or the one given.
        nll_scaled: nats a pair, with that times the scale; None where no other was tried.
        chose_prior: the posterior is saved with its prior precision scaled so: these pairs chose it, and their figures
            flatter it.
    """

    prior_precision_scale: float | None
    nll_unscaled: float
    nll_scaled: float | None
    chose_prior: bool


def pair_figures(data: str, mean: Tensor, variance: Tensor, label: Tensor) -> PairFigures:
    """Figures from the contrasts of P pairs.

    Args:
        data: where the pairs come from.
        mean: `[P]` mean of r(chosen) - r(rejected).
        variance: `[P]` its variance, of all kinds.
        label: `[P]` probability that chosen is the better one.
    """
    scores = pair_scores(mean, variance, label)
    temperature, nll_temperature = best_temperature(mean, label)
    return PairFigures(
        data=data,
        num_pairs=len(label),
        accuracy=float(scores.accuracy.mean()),
        nll_map=float(pair_scores(mean, None, label).nll.mean()),
        nll=float(scores.nll.mean()),
        brier=float(scores.brier.mean()),
        ece=expected_calibration_error(scores.probability, label),
        logit_temperature=temperature,
        nll_temperature=nll_temperature,
    )


def held_out_figures(data: str, mean: Tensor, variance: Tensor, label: Tensor, *, scaled: bool) -> HeldOutFigures:
    """Figures from the contrasts of held-out pairs.

    Args:
        data: where the pairs come from.
        mean: `[M, G]` mean of r(chosen) - r(rejected) under each of `PRIOR_SCALES`; or `[M, 1]`, under the prior
            precision as it is.
        variance: `[M, G]` its variance, of all kinds.
        label: `[M]` probability that chosen is the better one.
        scaled: the posterior that is saved has its prior precision scaled to what these pairs prefer.
    """
    nll = torch.stack(
        [pair_scores(mean[:, place], variance[:, place], label).nll.mean() for place in range(mean.shape[1])]
    )
    tried = mean.shape[1] > 1
    best = int(nll.argmin())
    unscaled = PRIOR_SCALES.index(1.0) if tried else 0
    own = best if scaled else unscaled
    return HeldOutFigures(
        **asdict(pair_figures(data, mean[:, own], variance[:, own], label)),
        prior_precision_scale=PRIOR_SCALES[best] if tried else None,
        nll_unscaled=float(nll[unscaled]),
        nll_scaled=float(nll[best]) if tried else None,
        chose_prior=scaled,
    )


def best_temperature(mean: Tensor, label: Tensor) -> tuple[float | None, float | None]:
    """The logit temperature under which pairs are most likely, and their nats under it; None where they give none.

    Args:
        mean: `[M]` mean of r(chosen) - r(rejected).
        label: `[M]` probability that chosen is the better one.
    """
    temperature = fit_logit_temperature(mean, label)
    if not 1.01 * MIN_LOGIT_TEMPERATURE < temperature < MAX_LOGIT_TEMPERATURE / 1.01:
        return None, None
    return temperature, float(pair_scores(mean / temperature, None, label).nll.mean())


def last_layer_contrasts(
    refit: Callable[[float], LastLayerPosterior], posterior: LastLayerPosterior, differences: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for a last layer, whose mode moves with the prior precision.

    Args:
        refit: the posterior for another prior precision.
        posterior: the one fitted.
        differences: `[M, H]` features of chosen minus features of rejected.
    """
    means, variances = [], []
    for scale in PRIOR_SCALES:
        fitted = posterior if scale == 1.0 else refit(scale * posterior.prior_precision)
        means.append((differences @ fitted.weight).double())
        variances.append((differences @ fitted.covariance_factor).square().sum(1).double())
    return torch.stack(means, 1), torch.stack(variances, 1)
