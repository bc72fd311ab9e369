"""What `evaluate` found: small frozen records that turn into JSON and back."""

import json
from dataclasses import dataclass
from pathlib import Path

from prudent.errors import DataError
from prudent.evaluation._records import Record
from prudent.metrics import GoldCalibration, ReliabilityBin

__all__ = [
    "COVERAGES",
    "BoundFigures",
    "Evaluation",
    "Figure",
    "GoldComparison",
    "GoldFigures",
    "GoldIntervals",
    "PairFigures",
    "SelectiveFigures",
    "ShiftFigures",
    "read_evaluation",
]

COVERAGES = tuple(step / 20 for step in range(1, 21))
"""The shares of pairs kept at which selective risk is given."""


@dataclass(frozen=True)
class Figure:
    """A figure over pairs with its interval from resampled prompts, by percentiles.

    Attributes:
        value: over all pairs.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairFigures:
    """How well probabilities predict preferences.

    Attributes:
        nll: negative log-likelihood of a pair, nats.
        brier: squared error of the probability.
        ece: calibration error over ten bins of equally many pairs. Chance alone keeps it above 0, and in a bootstrap
            more so, hence no interval.
        calibrated_ece: what it would be on average if the probabilities were true: the calibration error of labels
            drawn from them. None where labels are soft, since these do not say of how many judgments.
    """

    nll: Figure
    brier: Figure
    ece: float
    calibrated_ece: float | None


@dataclass(frozen=True)
class SelectiveFigures:
    """How often pairs are ranked wrongly where only the most confident ones are kept.

    Attributes:
        coverage: shares of pairs kept, 0.05 to 1.
        risk: share of the kept pairs that are ranked against their label, at each coverage.
        area: AURC, the risk averaged over all coverages; lower is better.
        excess_area: less the AURC of the best order of the same pairs; 0 is best.
        accuracy_at_80: share ranked as labelled among the surest 80 %.
        accuracy_at_50: the same among the surest half.
    """

    coverage: tuple[float, ...]
    risk: tuple[Figure, ...]
    area: Figure
    excess_area: Figure
    accuracy_at_80: Figure
    accuracy_at_50: Figure


@dataclass(frozen=True)
class BoundFigures:
    """Intervals of pairs' differences judged by the preferences, as RewardUQ does (arXiv 2602.24040).

    Attributes:
        num_std: standard deviations of the difference on each side of its mean.
        confident: share of pairs whose interval leaves out zero.
        ranking_score: confident true rankings less confident false ones, see `prudent.metrics.ranking_score`.
        bound_calibration_error: how far preferences fall below the lower bounds.
    """

    num_std: float
    confident: Figure
    ranking_score: Figure
    bound_calibration_error: Figure


@dataclass(frozen=True)
class ShiftFigures:
    """Does the posterior know less of pairs from elsewhere.

    Attributes:
        data: the pairs from elsewhere.
        split: the split of them; None where they have none.
        num_pairs: pairs.
        num_prompts: distinct prompts.
        num_skipped: faulty pairs left out.
        num_truncated: texts whose response was cut.
        accuracy: share of them ranked as labelled.
        mean_contrast_std: average posterior standard deviation of a pair's difference, there.
        auroc: probability that a pair from there has a larger standard deviation than one of the evaluated data.
    """

    data: str
    split: str | None
    num_pairs: int
    num_prompts: int
    num_skipped: int
    num_truncated: int
    accuracy: Figure
    mean_contrast_std: float
    auroc: Figure


@dataclass(frozen=True)
class GoldIntervals:
    """Intervals for gold, each prompt tested once by a calibration fitted on the other half of the prompts.

    Attributes:
        coverage: share of gold values inside.
        width: mean width, in units of gold.
        nll: mean negative log density of gold, nats.
        calibrations: gold ~ N(intercept + slope * mean, floor + scale * variance), of each half.
    """

    coverage: Figure
    width: Figure
    nll: Figure
    calibrations: tuple[GoldCalibration, ...]


@dataclass(frozen=True)
class GoldComparison:
    """What the posterior's variance adds to intervals for gold.

    Attributes:
        posterior: with floor + scale * variance.
        constant: with one variance for all.
        nll_difference: nll of the first minus that of the second, paired; below 0 the variance informs.
    """

    posterior: GoldIntervals
    constant: GoldIntervals
    nll_difference: Figure


@dataclass(frozen=True)
class GoldFigures:
    """Rewards of a scored pool against its gold.

    Attributes:
        data: the scored pool.
        num_responses: responses with finite reward, variance and gold, of prompts that have at least two such.
        num_prompts: those prompts.
        num_left_out: other rows, those of prompts that members of an ensemble were calibrated on among them.
        level: of the intervals.
        absolute: of gold as it is, by the reward's marginal variance.
        within: of gold minus its prompt's average, by the reward minus its prompt's average: a pair likelihood knows
            no more. The variance is the centered one where the pool stores it.
        error_correlation: Spearman correlation within prompts of the standard deviation with the size of the error
            that a line from reward to gold leaves (both within prompts), averaged over prompts; None where the
            standard deviation does not differ within any prompt.
    """

    data: str
    num_responses: int
    num_prompts: int
    num_left_out: int
    level: float
    absolute: GoldComparison
    within: GoldComparison
    error_correlation: Figure | None


@dataclass(frozen=True)
class Evaluation(Record):
    """The result of `evaluate`.

    Attributes:
        data: what was evaluated on.
        split: the split of it; None where it has none.
        posterior: kind of the posterior, `none` without one.
        num_pairs: pairs.
        num_prompts: distinct prompts, the unit of resampling.
        num_skipped: faulty pairs left out.
        num_truncated: texts whose response was cut.
        accuracy: share of pairs ranked as labelled; the same with and without a posterior.
        map: figures of sigma(mean difference), which ignores the variance.
        scaled: figures of sigma(mean difference / logit_temperature); None without a temperature.
        moderated: figures of E sigma(difference) under the posterior; None without one.
        logit_temperature: the one of `scaled`, fitted on other pairs.
        optimal_logit_temperature: the one under which these very pairs are most likely by the mean: above 1 it is too
            sure. Meant for evaluations of other pairs; on these it would flatter.
        reliability: the reliability table of the moderated probabilities, of the mean's without a posterior.
        mean_contrast_std: average posterior standard deviation of a pair's difference; None without a posterior.
        selective_map: risk and coverage with |mean difference| as confidence.
        selective_moderated: the same with the moderated confidence; None without a posterior.
        nll_difference: negative log-likelihood of a pair by the whole posterior minus that by the mean alone, paired:
            below 0 the variance makes the probabilities better. None without a posterior.
        area_difference: AURC by the moderated confidence minus that by |mean difference|, paired: below 0 the variance
            tells right from wrong where the mean does not. None without a posterior.
        bounds: intervals of one standard deviation of the difference; None without a posterior.
        shift: on pairs from elsewhere; None where none were given.
        gold: on a scored pool with gold; None where none was given.
    """

    called = "an evaluation"
    format_version = 2

    data: str
    split: str | None
    posterior: str
    num_pairs: int
    num_prompts: int
    num_skipped: int
    num_truncated: int
    accuracy: Figure
    map: PairFigures
    scaled: PairFigures | None
    moderated: PairFigures | None
    logit_temperature: float | None
    optimal_logit_temperature: float
    reliability: tuple[ReliabilityBin, ...]
    mean_contrast_std: float | None
    selective_map: SelectiveFigures
    selective_moderated: SelectiveFigures | None
    nll_difference: Figure | None
    area_difference: Figure | None
    bounds: BoundFigures | None
    shift: ShiftFigures | None
    gold: GoldFigures | None


def read_evaluation(path: str | Path) -> Evaluation:
    """Read what `evaluate` wrote.

    Args:
        path: the JSON file.

    Raises:
        DataError: nothing there, or something else.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(data, dict) and "utilities" in data:
            raise DataError(
                f"{path} compares utilities, which a report does itself: give them to it as utilities (--utility)"
            )
        return Evaluation.from_dict(data if isinstance(data, dict) else {})
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give what `prudent evaluate` wrote") from error
    except ValueError as error:
        raise DataError(
            f"{path} is not what this version's `prudent evaluate --output` writes ({error}); evaluate again"
        ) from error
