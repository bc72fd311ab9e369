"""How likely the label of a pair is flipped, from how strongly a model prefers the response that it names.

Each label is taken to be right, or turned round with one probability for all pairs, the flip rate. What people prefer
is Bradley-Terry on the strength times one scale, since heads that learned from noisy labels give too small logits.
The labels themselves say how likely each rate and scale is; the probability of each flip then follows by Bayes' rule.
In 2401.06080 the weakest tenth or so is taken for wrong instead.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prudent.metrics import minimize_on_log_scale
from prudent.rewards import log_expected_sigmoid

__all__ = ["FlipModel", "fit_flips"]

_MIN_SCALE = 1e-2
_MAX_SCALE = 1e2
_NUM_SCALES = 25
_RATES = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
_HALF_CHI_SQUARE = 1.920729  # the 95 % point of chi-square with one degree of freedom, halved
_NEGLIGIBLE = 12.0  # nats below the best
_NUM_BISECTIONS = 40


@dataclass(frozen=True)
class FlipModel:
    """Which labels are flipped, as far as strengths say.

    Attributes:
        flip_rate: e of highest likelihood, in [0, 1]: the share of labels turned round beyond what Bradley-Terry on the
            strengths explains. Above one half, most labels contradict the strengths.
        flip_rate_low: lower end of its 95 % interval by profile likelihood, pairs taken to be independent.
        flip_rate_high: upper end. A wide interval says that preferences are too weak to tell flips from noise.
        scale: what a strength is multiplied by to be the logit of a preference, of highest likelihood; positive.
        log_likelihood_ratio: nats gained over strengths that tell nothing; at least 0.
        scales: `[S]` float64, scales that the labels leave open.
        rates: `[E]` float64, flip rates.
        weights: `[S, E]` float64 posterior probability of each, the prior being flat in rate and log scale.
    """

    flip_rate: float
    flip_rate_low: float
    flip_rate_high: float
    scale: float
    log_likelihood_ratio: float
    scales: Tensor
    rates: Tensor
    weights: Tensor

    def prob_flipped(self, mean: Tensor, std: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Probability `[P]` float64 that the label of each pair is flipped.

        With flip rate e and `q = E sigma(scale * strength)` its log odds are, by Bayes' rule,
        `logit(e) + (1 - 2 label) logit(q)`: a label of one half has no direction, so strengths say nothing of it. The
        probability is averaged over the rates and scales that the labels leave open, so that a rate that is hardly
        determined does not turn labels round.

        Args:
            mean: `[P]` mean of r(chosen) - r(rejected).
            std: `[P]` its standard deviation over an ensemble, or None where it is not known.
            label: `[P]` probability in [0, 1] that chosen is the better one, as the file says; ones by default.

        Example:
            >>> one = torch.ones(1, 1, dtype=torch.float64)
            >>> model = FlipModel(0.2, 0.1, 0.3, 2.0, 5.0, 2.0 * one[0], 0.2 * one[0], one)
            >>> [round(value, 3) for value in model.prob_flipped(torch.tensor([-2.0, 0.0, 2.0])).tolist()]
            [0.932, 0.2, 0.005]
        """
        total = torch.zeros(len(mean), dtype=torch.float64)
        for scale, weights in zip(self.scales.tolist(), self.weights, strict=True):
            right, flipped = _log_evidence(mean, std, label, scale)
            for rate, weight in zip(torch.logit(self.rates), weights.tolist(), strict=True):
                if weight > 0:
                    total += weight * torch.sigmoid(rate + flipped - right)
        return total


def fit_flips(mean: Tensor, std: Tensor | None = None, label: Tensor | None = None) -> FlipModel:
    """The flip rate and scale of highest likelihood, and those that the labels leave open.

    The label of a pair with preference probability q has likelihood `(1 - e) q + e (1 - q)`; a soft label p enters as
    `(1 - e) q^p (1 - q)^(1 - p) + e q^(1 - p) (1 - q)^p`. Strengths must come from a model that has not seen these
    labels: in-sample ones follow the flips, and the rate found is too small.

    Args:
        mean: `[P]` mean of r(chosen) - r(rejected) over an ensemble, P at least 2.
        std: `[P]` its standard deviation, or None where it is not known.
        label: `[P]` probability in [0, 1] that chosen is the better one; ones by default.

    Raises:
        ValueError: fewer than two pairs, lengths that do not agree, values that are not finite, a negative standard
            deviation, a label outside [0, 1], or strengths that are all 0.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> strength = 3 * torch.randn(4000, generator=g, dtype=torch.float64)
        >>> better = torch.rand(4000, generator=g) < torch.sigmoid(strength)
        >>> flipped = torch.rand(4000, generator=g) < 0.25
        >>> abs(fit_flips(torch.where(better ^ flipped, strength, -strength)).flip_rate - 0.25) < 0.05
        True
    """
    _check(mean, std, label)
    unit = float(mean.double().square().mean().sqrt())

    def at_best_rate(scale: float) -> float:
        evidence = _log_evidence(mean, std, label, scale)
        return _log_likelihood(*evidence, _best_rate(*evidence))

    scale = minimize_on_log_scale(lambda value: -at_best_rate(value), _MIN_SCALE / unit, _MAX_SCALE / unit)
    evidence = _log_evidence(mean, std, label, scale)
    rate = _best_rate(*evidence)
    best = _log_likelihood(*evidence, rate)
    # First coarsely over all scales, then finely over those that are not out of the question.
    scales = _log_spaced(_MIN_SCALE / unit, _MAX_SCALE / unit)
    at_scales = torch.tensor([at_best_rate(value) for value in scales.tolist()])
    step = float(scales[1] / scales[0])
    open_to = [scale, *scales[at_scales > best - _NEGLIGIBLE].tolist()]
    scales = _log_spaced(min(open_to) / step, max(open_to) * step)
    likelihoods = torch.empty(len(scales), len(_RATES), dtype=torch.float64)
    for place, value in enumerate(scales.tolist()):
        evidence = _log_evidence(mean, std, label, value)
        likelihoods[place] = torch.tensor([_log_likelihood(*evidence, one) for one in _RATES.tolist()])
    likely = _RATES[likelihoods.amax(0) >= float(likelihoods.max()) - _HALF_CHI_SQUARE]
    weights = torch.where(likelihoods > best - _NEGLIGIBLE, (likelihoods - best).exp(), 0.0)
    return FlipModel(
        flip_rate=rate,
        flip_rate_low=min([rate, *likely.tolist()]),
        flip_rate_high=max([rate, *likely.tolist()]),
        scale=scale,
        log_likelihood_ratio=max(0.0, best - math.log(0.5) * len(mean)),
        scales=scales,
        rates=_RATES,
        weights=weights / weights.sum(),
    )


def _log_spaced(low: float, high: float) -> Tensor:
    return torch.logspace(math.log10(low), math.log10(high), _NUM_SCALES, dtype=torch.float64)


def _log_evidence(mean: Tensor, std: Tensor | None, label: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Log likelihood `[P]` of each label if it is right, and if it is flipped."""
    logit = scale * mean.double()
    if std is None:
        better, worse = logsigmoid(logit), logsigmoid(-logit)
    else:
        # The lower tail by quadrature, the upper one as its complement.
        lower = log_expected_sigmoid(-logit.abs(), (scale * std.double()).square())
        upper = torch.log1p(-lower.exp())
        better, worse = torch.where(logit > 0, upper, lower), torch.where(logit > 0, lower, upper)
    if label is None:
        return better, worse
    p = label.double()
    return p * better + (1 - p) * worse, (1 - p) * better + p * worse


def _log_likelihood(right: Tensor, flipped: Tensor, rate: float) -> float:
    """Sum over pairs, at a flip rate."""
    at = torch.tensor(rate, dtype=torch.float64)
    return float(torch.logaddexp(torch.log1p(-at) + right, torch.log(at) + flipped).sum())


def _best_rate(right: Tensor, flipped: Tensor) -> float:
    """The rate of highest likelihood, which is concave in it: bisection on the sign of the derivative."""
    top = torch.maximum(right, flipped)
    first, second = (right - top).exp(), (flipped - top).exp()

    def slope(rate: float) -> float:
        return float(((second - first) / (first + rate * (second - first))).sum())

    low, high = 0.0, 1.0
    if slope(low) <= 0:
        return low
    for _ in range(_NUM_BISECTIONS):
        rate = (low + high) / 2
        low, high = (rate, high) if slope(rate) > 0 else (low, rate)
    return high


def _check(mean: Tensor, std: Tensor | None, label: Tensor | None) -> None:
    for name, values in (("mean", mean), ("std", std), ("label", label)):
        if values is None:
            continue
        if values.shape != mean.shape or values.dim() != 1:
            raise ValueError(f"{name} is {tuple(values.shape)}; it must be [P] like mean, {tuple(mean.shape)}")
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} of pair {int((~values.isfinite()).nonzero()[0])} is not finite")
    if len(mean) < 2:
        raise ValueError(f"a flip rate needs at least two pairs, there are {len(mean)}")
    if std is not None and bool((std < 0).any()):
        raise ValueError("a standard deviation is negative")
    if label is not None and not bool(((label >= 0) & (label <= 1)).all()):
        raise ValueError("a label is outside [0, 1]")
    if not bool((mean != 0).any()):
        raise ValueError("all strengths are 0: the model does not tell chosen from rejected")
