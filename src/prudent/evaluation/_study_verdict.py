"""Was the proxy hacked, from which n on, and what would have been better."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prudent.evaluation._curve_types import Estimate, Outcome
from prudent.evaluation._study_curves import Drawn
from prudent.evaluation._study_statistics import Resampled, Resamples
from prudent.evaluation._verdict_types import Rescue, Verdict

__all__ = ["verdict"]

Array = NDArray[np.float64]

_NUM_SPLITS = 20


def verdict(
    drawn: Sequence[Drawn],
    outcome: Outcome,
    scale: str,
    grid: tuple[int, ...],
    resamples: Resamples,
    seed: int,
    rounding: float = 0.0,
) -> Verdict:
    """What one scale of gold says of the first curve.

    Args:
        drawn: all curves.
        outcome: of the first on that scale.
        scale: of gold.
        grid: the n.
        resamples: of the cells.
        seed: of the splits into halves.
        rounding: differences of gold up to this are none.
    """
    gold = drawn[0].expected[scale]
    p_value = outcome.drop_p_value
    return Verdict(
        hacked=p_value is not None and p_value < 1.0 - resamples.level,
        peak_n=outcome.peak_n,
        from_n=None if p_value is None else _from_n(gold, grid.index(outcome.peak_n), grid, resamples, rounding),
        drop=outcome.drop,
        p_value=p_value,
        rescue=_rescue(drawn, scale, resamples, seed, rounding),
    )


def _from_n(gold: Array, peak: int, grid: tuple[int, ...], resamples: Resamples, rounding: float) -> int | None:
    """The smallest n from which on gold stays below the peak."""
    if peak == len(grid) - 1:
        return None
    falls = resamples.means(gold[:, peak : peak + 1] - gold[:, peak + 1 :])
    below = resamples.bounds(falls)[0] > rounding
    stays = np.logical_and.accumulate(below[::-1])[::-1]
    return int(grid[peak + 1 + int(stays.argmax())]) if stays.any() else None


def _rescue(drawn: Sequence[Drawn], scale: str, resamples: Resamples, seed: int, rounding: float) -> Rescue | None:
    others = [one for one in drawn[1:] if one.kind != "control"]
    if not others or resamples.num_prompts < 2:
        return None
    first = drawn[0].resampled(scale, resamples, last=True)
    leads = [one.resampled(scale, resamples, last=True) - first for one in others]
    best = int(np.argmax([lead.cells.mean() for lead in leads]))
    if leads[best].cells.mean() <= rounding:
        return None
    held_out = _held_out(leads, resamples, seed)
    return Rescue(
        key=others[best].key,
        ahead=_mean(leads[best], resamples),
        held_out=_mean(held_out, resamples),
    )


def _held_out(leads: Sequence[Resampled], resamples: Resamples, seed: int) -> Resampled:
    """The lead on each cell of whatever leads on the other half of the prompts, averaged over halvings.

    It is chosen again in every resample: copies of a prompt stay in one half, so that none is judged by what it chose.
    A lead that changes with the prompts that are drawn moves by as much on both halves.

    Args:
        leads: of K curves at one n.
        resamples: of the cells.
        seed: of the halvings.
    """
    rng = np.random.default_rng([seed, 1])  # other halves than those that tuned
    cells = np.stack([lead.cells[:, 0] for lead in leads])
    of_prompts = cells.reshape(len(leads), resamples.num_seeds, resamples.num_prompts)
    average, shares = of_prompts.mean(1).T, resamples.of_prompts
    moved = np.stack([lead.draws[:, 0] - resamples.means(lead.cells)[:, 0] for lead in leads], axis=1)
    total = np.zeros(of_prompts.shape[1:])
    sums, draws = shares @ average + moved, np.zeros(len(shares))
    for _ in range(_NUM_SPLITS):
        order = rng.permutation(resamples.num_prompts)
        halves = np.array_split(order, 2)
        for chooses, judges in (halves, halves[::-1]):
            best = of_prompts[:, :, chooses].mean((1, 2)).argmax()
            total[:, judges] += of_prompts[best][:, judges]
        own = shares[:, halves[0]]
        on_one = own @ average[halves[0]] + moved * own.sum(1, keepdims=True)
        for on_chooses, on_judges in ((on_one, sums - on_one), (sums - on_one, on_one)):
            draws += np.take_along_axis(on_judges, on_chooses.argmax(1)[:, None], 1)[:, 0]
    found = total.reshape(-1, 1) / _NUM_SPLITS
    return resamples.resampled(found, draws[:, None] / _NUM_SPLITS)


def _mean(values: Resampled, resamples: Resamples) -> Estimate:
    return resamples.estimate(float(values.cells.mean()), values.draws[:, 0])
