"""Do the posterior's probabilities come true: pairs of candidates of one prompt, judged by gold."""

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from prudent.evaluation._curve_types import Band, Estimate
from prudent.evaluation._evaluation_types import COVERAGES
from prudent.evaluation._study_pool import StudyPool
from prudent.evaluation._study_statistics import Resamples
from prudent.evaluation._study_types import Reliability
from prudent.metrics import RiskCoverage, expected_calibration_error
from prudent.metrics import reliability as reliability_table
from prudent.rewards import from_arrow, index_groups, normal_greater
from prudent.scoring import ScoredPool

__all__ = ["INDEPENDENT_NOTE", "reliability"]

INDEPENDENT_NOTE = (
    "Reliability takes the two rewards of a pair as independent, because the file stores no factor to compare them "
    "with: rewards of one prompt move together, so the stated confidence is likely too low. "
    "Score with the factor for exact contrasts."
)

Array = NDArray[np.float64]


def reliability(pool: StudyPool, resamples: Resamples, *, num_pairs: int, seed: int) -> tuple[Reliability, ...]:
    """Reliability and risk-coverage on random pairs, and on pairs with one candidate from the proxy's top tenth.

    The second kind is where best-of-n looks, and where a model that is calibrated on average may not be.

    Args:
        pool: Candidates with gold, and one reward that has a variance.
        resamples: Bootstrap resamples of the pool's prompts.
        num_pairs: About how many pairs to draw in all, the same number from each prompt.
        seed: Seed of the draw.
    """
    assert pool.only is not None
    each = max(1, num_pairs // pool.num_prompts)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for kind in ("random", "top"):
        i, j = draw_pairs(pool.only.mean, pool.group, each, generator, top=kind == "top")
        if len(i):
            found.append(_measure(pool, i, j, resamples, kind))
    return tuple(one for one in found if one is not None)


def draw_pairs(
    mean: Tensor, group: Tensor, each: int, generator: torch.Generator, *, top: bool
) -> tuple[Tensor, Tensor]:
    """Row indices `[P]` of pairs of different candidates of one prompt, `each` from every prompt of two or more.

    Args:
        mean: Reward means `[N]`.
        group: Prompt of each row `[N]`, ascending.
        each: Pairs a prompt.
        generator: Source of the draw.
        top: Draw the first of each pair from the tenth with the highest means (at least one candidate).
    """
    sizes = torch.bincount(group)
    starts = sizes.cumsum(0) - sizes
    prompts = (sizes >= 2).nonzero().squeeze(1).repeat_interleave(each)
    size, start = sizes[prompts], starts[prompts]
    uniform = torch.rand(2, len(prompts), generator=generator, dtype=torch.float64)
    pool = (size / 10).ceil().long() if top else size
    first = (uniform[0] * pool).long().clamp(max=pool - 1)
    second = (first + 1 + (uniform[1] * (size - 1)).long().clamp(max=size - 2)) % size
    if top:  # positions above are ranks: rows of a prompt by descending mean
        order = torch.from_numpy(np.lexsort((-mean.double().numpy(), group.numpy())))
        return order[start + first], order[start + second]
    return start + first, start + second


def _measure(pool: StudyPool, i: Tensor, j: Tensor, resamples: Resamples, kind: str) -> Reliability | None:
    gold = pool.scales["gold"]
    differ = gold[i] != gold[j]
    num_ties = int((~differ).sum())
    i, j = i[differ], j[differ]
    if len(i) == 0:
        return None
    probability, exact = _probability_greater(pool, i, j)
    higher = (gold[i] > gold[j]).double()
    confidence = torch.maximum(probability, 1 - probability)
    right = torch.where(probability > 0.5, higher, torch.where(probability < 0.5, 1 - higher, 0.5))
    table = reliability_table(probability, higher)
    # bins never share a confidence, so their upper ends tell which pairs they hold
    bins = torch.searchsorted(torch.tensor([row.high for row in table], dtype=torch.float64), confidence)
    cell = (pool.group[i] * len(table) + bins).numpy()
    shape, length = (pool.num_prompts, len(table)), pool.num_prompts * len(table)

    def summed(values: Tensor | None) -> Array:  # [B, bins]
        weights = None if values is None else values.double().numpy()
        return np.bincount(cell, weights, length).astype(float).reshape(shape)

    count, sum_right, sum_confidence = summed(None), summed(right), summed(confidence)
    sum_brier = summed((probability - higher).square())
    risk, area = _risk_coverage(confidence, 1 - right, pool.group[i], resamples)
    shares = [_ratio(resamples, sum_right[:, b], count[:, b]) for b in range(len(table))]
    return Reliability(
        pairs=kind,
        num_pairs=len(i),
        num_gold_ties=num_ties,
        exact_contrast=exact,
        confidence=tuple(row.confidence for row in table),
        share_right=Band(tuple(s.value for s in shares), tuple(s.low for s in shares), tuple(s.high for s in shares)),
        count=tuple(row.count for row in table),
        accuracy=_ratio(resamples, sum_right.sum(1), count.sum(1)),
        overconfidence=_ratio(resamples, (sum_confidence - sum_right).sum(1), count.sum(1)),
        brier=_ratio(resamples, sum_brier.sum(1), count.sum(1)),
        coverage=COVERAGES,
        risk=risk,
        area=area,
        calibration_error=expected_calibration_error(probability, higher),
    )


def _risk_coverage(confidence: Tensor, error: Tensor, prompt: Tensor, resamples: Resamples) -> tuple[Band, Estimate]:
    """Selective risk at each coverage, and its area."""
    _, block = np.unique(-confidence.numpy(), return_inverse=True)
    errors, prompts = error.numpy(), prompt.numpy()
    wanted = torch.tensor(COVERAGES, dtype=torch.float64)

    def curve(weight: Array) -> Array:
        """The curve at the wanted coverages, and last its area, with each pair so many times."""
        count, total = np.bincount(block, weight), np.bincount(block, weight * errors)
        found = RiskCoverage.of_ties(torch.from_numpy(count), torch.from_numpy(total))
        return torch.cat([found.at(wanted), found.risk.mean().reshape(1)]).numpy()

    value = curve(np.ones(len(errors)))
    weights = (count[prompts].astype(float) for count in resamples.counts())
    draws = np.stack([curve(weight) for weight in weights if weight.any()])  # else no prompt with pairs was drawn
    low, high = resamples.bounds(draws)
    band = Band(*(tuple(float(one) for one in values[:-1]) for values in (value, low, high)))
    return band, resamples.estimate(float(value[-1]), draws[:, -1])


def _probability_greater(pool: StudyPool, i: Tensor, j: Tensor) -> tuple[Tensor, bool]:
    """P(r_i > r_j) `[P]` and whether it is of the joint posterior."""
    table = ScoredPool(pool.table).reward(*pool.by_name).table
    columns = set(table.column_names)
    # members with doubts of their own need the factor of those, as a single model does
    members_alone = "reward_members" in columns and "reward_within_variance" not in columns
    if "reward_factor" in columns or members_alone:
        # only the rows that occur in a pair: a factor of many candidates is large
        used = index_groups(torch.cat([i, j]))
        posterior = from_arrow(table.take(pa.array(used.ids.numpy())))
        return posterior.prob_greater(used.position[: len(i)], used.position[len(i) :]).double(), True
    # without the factor the centered variance is the better stand-in: it leaves out what a prompt's responses share
    assert pool.only is not None
    mean, variance = pool.only.mean, pool.only.variance
    if pool.only.centered_variance is not None:
        variance = pool.only.centered_variance
    assert variance is not None
    return normal_greater(mean[i] - mean[j], variance[i] + variance[j]), False


def _ratio(resamples: Resamples, numerator: Array, denominator: Array) -> Estimate:
    """A mean over pairs; its denominator counts them, at least one, so it is defined."""
    estimate = resamples.ratio(numerator, denominator)
    assert estimate is not None
    return estimate
