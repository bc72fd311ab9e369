"""Figures of pairs whose differences are known, with intervals over prompts."""

import torch
from torch import Generator, Tensor

from prudent.evaluation._evaluation_types import COVERAGES, BoundFigures, Figure, PairFigures, SelectiveFigures
from prudent.metrics import (
    Interval,
    area_under_risk_coverage,
    auroc,
    bootstrap,
    bootstrap_difference,
    bootstrap_statistic,
    bound_calibration_error,
    expected_calibration_error,
    pair_scores,
    ranking_rates,
    risk_coverage,
)

__all__ = [
    "accuracy_figure",
    "bound_figures",
    "nll_difference",
    "pair_figures",
    "selective_figures",
    "shift_auroc",
    "to_figure",
]

_BOUND_NUM_STD = 1.0
_NUM_CALIBRATED = 100
"""Draws of the labels that calibrated probabilities would have."""


def to_figure(interval: Interval, position: int | None = None) -> Figure:
    """One number of an interval, by its position in the statistic where that is a vector."""
    values = [interval.estimate, interval.low, interval.high]
    return Figure(*(float(value if position is None else value[position]) for value in values))


def accuracy_figure(mean: Tensor, label: Tensor, group: Tensor, num_bootstrap: int, seed: int) -> Figure:
    """Share of pairs ranked as labelled.

    Args:
        mean: `[M]` differences of rewards.
        label: `[M]` probability that the chosen one is preferred.
        group: `[M]` prompt of each pair.
        num_bootstrap: resamples of the prompts.
        seed: of the resampling.
    """
    accuracy = pair_scores(mean, None, label).accuracy
    return to_figure(bootstrap(accuracy, group, num_resamples=num_bootstrap, generator=_seeded(seed)))


def pair_figures(
    mean: Tensor, variance: Tensor | None, label: Tensor, group: Tensor, num_bootstrap: int, seed: int
) -> PairFigures:
    """NLL, Brier score and ECE; arguments as for `accuracy_figure`, with `variance` None for the mean alone."""
    scores = pair_scores(mean, variance, label)
    both = torch.stack([scores.nll, scores.brier], dim=1)
    averages = bootstrap(both, group, num_resamples=num_bootstrap, generator=_seeded(seed))
    return PairFigures(
        nll=to_figure(averages, 0),
        brier=to_figure(averages, 1),
        ece=expected_calibration_error(scores.probability, label),
        calibrated_ece=_calibrated_error(scores.probability, label, seed),
    )


def _calibrated_error(probability: Tensor, label: Tensor, seed: int) -> float | None:
    """The calibration error of as many labels drawn from the probabilities, averaged over draws."""
    if not bool(((label == 0) | (label == 1)).all()):
        return None
    generator = _seeded(seed)
    drawn = (torch.bernoulli(probability, generator=generator) for _ in range(_NUM_CALIBRATED))
    return sum(expected_calibration_error(probability, one) for one in drawn) / _NUM_CALIBRATED


def nll_difference(
    mean: Tensor, variance: Tensor, label: Tensor, group: Tensor, num_bootstrap: int, seed: int
) -> Figure:
    """NLL with the variance minus NLL without, paired; arguments as for `pair_figures`."""
    moderated, plain = (pair_scores(mean, one, label).nll for one in (variance, None))
    return to_figure(
        bootstrap_difference(moderated, plain, group, num_resamples=num_bootstrap, generator=_seeded(seed))
    )


def selective_figures(
    mean: Tensor, variance: Tensor | None, label: Tensor, group: Tensor, num_bootstrap: int, seed: int
) -> tuple[SelectiveFigures, SelectiveFigures | None, Figure | None]:
    """Risk and coverage by |mean| and by the moderated confidence, and the difference of their areas.

    Arguments as for `pair_figures`; without a variance the last two are None.
    """
    scores = [pair_scores(mean, None, label)]
    if variance is not None:
        scores.append(pair_scores(mean, variance, label))
    error = 1 - scores[0].accuracy
    wanted = torch.tensor(COVERAGES, dtype=torch.float64)

    def statistic(rows: Tensor) -> Tensor:
        found = []
        for one in scores:
            # probabilities of sure pairs round to 1, their log odds do not
            curve = risk_coverage(one.logit[rows].abs(), error[rows])
            best = area_under_risk_coverage(-error[rows], error[rows])
            area = curve.risk.mean()
            found.append(torch.cat([curve.at(wanted), torch.stack([area, area - best])]))
        area_difference = found[-1][len(wanted)] - found[0][len(wanted)]
        return torch.cat([*found, area_difference.reshape(1)])

    interval = bootstrap_statistic(statistic, group, num_resamples=num_bootstrap, generator=_seeded(seed))
    size = len(COVERAGES) + 2
    kinds = [_selective(interval, place * size) for place in range(len(scores))]
    if variance is None:
        return kinds[0], None, None
    return kinds[0], kinds[1], to_figure(interval, 2 * size)


def bound_figures(
    mean: Tensor, variance: Tensor, label: Tensor, group: Tensor, num_bootstrap: int, seed: int
) -> BoundFigures:
    """Share of confident pairs, ranking score and bound calibration error; arguments as for `pair_figures`."""
    half_width = _BOUND_NUM_STD * variance.sqrt()

    def statistic(rows: Tensor) -> Tensor:
        rates = ranking_rates(mean[rows], half_width[rows], label[rows])
        error = bound_calibration_error(mean[rows], half_width[rows], label[rows])
        return mean.new_tensor([rates.confident_true + rates.confident_false, rates.score(), error])

    interval = bootstrap_statistic(statistic, group, num_resamples=num_bootstrap, generator=_seeded(seed))
    return BoundFigures(_BOUND_NUM_STD, *(to_figure(interval, place) for place in range(3)))


def shift_auroc(
    variance: Tensor, group: Tensor, shifted: Tensor, shifted_group: Tensor, num_bootstrap: int, seed: int
) -> Figure:
    """AUROC of the variance of shifted pairs against that of the others, with prompts resampled on both sides.

    Args:
        variance: `[M]` of the differences of pairs like those the posterior was fitted on.
        group: `[M]` prompt of each.
        shifted: `[S]` of the pairs from elsewhere.
        shifted_group: `[S]` prompt of each.
        num_bootstrap: resamples of the prompts.
        seed: of the resampling.
    """
    values = torch.cat([variance, shifted])
    elsewhere = torch.cat([torch.zeros_like(group), torch.ones_like(shifted_group)])
    interval = bootstrap_statistic(
        lambda rows: auroc(values[rows][elsewhere[rows] == 1], values[rows][elsewhere[rows] == 0]),
        # a prompt that both sides have is a prompt of each
        torch.cat([group, int(group.max()) + 1 + shifted_group]),
        stratum=elsewhere,
        num_resamples=num_bootstrap,
        generator=_seeded(seed),
    )
    return to_figure(interval)


def _selective(interval: Interval, start: int) -> SelectiveFigures:
    risk = {coverage: to_figure(interval, start + place) for place, coverage in enumerate(COVERAGES)}
    return SelectiveFigures(
        coverage=COVERAGES,
        risk=tuple(risk.values()),
        area=to_figure(interval, start + len(COVERAGES)),
        excess_area=to_figure(interval, start + len(COVERAGES) + 1),
        accuracy_at_80=_complement(risk[0.8]),
        accuracy_at_50=_complement(risk[0.5]),
    )


def _complement(risk: Figure) -> Figure:
    return Figure(1 - risk.value, 1 - risk.high, 1 - risk.low)


def _seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)
