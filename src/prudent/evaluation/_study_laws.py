"""Laws of overoptimization fitted to the gold curves of a study, refitted in every resample."""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from prudent.evaluation._curve_types import Estimate
from prudent.evaluation._study_curves import Drawn
from prudent.evaluation._study_statistics import Resamples
from prudent.evaluation._verdict_types import LawFit
from prudent.metrics import LawForm, fit_scaling_law
from prudent.selection import best_of_n_kl, n_for_kl

__all__ = ["laws"]

Array = NDArray[np.float64]

_DEFINED = 0.95
"""A peak is given only if this share of the resamples have one."""
_FARTHEST = 300.0
"""KL in nats beyond which a peak is none: no n has it."""


def laws(
    drawn: Sequence[Drawn], scales: Mapping[str, float], grid: Sequence[int], resamples: Resamples
) -> dict[str, dict[str, tuple[LawFit, ...]]]:
    """Both laws for each curve that has a KL and moves, by its key and the scale of gold.

    Args:
        drawn: the curves.
        scales: of gold, with what differences of it are rounding.
        grid: the n.
        resamples: of their cells.
    """
    found = {}
    for one in drawn:
        if one.kl is not None and len(np.unique(one.kl[one.kl > 0])) > 1:
            fits = {
                scale: _fits(one.expected[scale], one.kl, grid, resamples, rounding)
                for scale, rounding in scales.items()
            }
            if any(fits.values()):
                found[one.key] = {scale: fit for scale, fit in fits.items() if fit}
    return found


def _fits(gold: Array, kl: Array, grid: Sequence[int], resamples: Resamples, rounding: float) -> tuple[LawFit, ...]:
    curve = gold.mean(0)
    if np.ptp(curve) <= rounding:  # nothing to explain
        return ()
    means = resamples.means(gold)
    gain = np.concatenate([curve[None] - curve[0], means - means[:, :1]])  # the curve itself, then every resample
    return tuple(_fit(gain, kl, grid, form, resamples) for form in get_args(LawForm))


def _fit(gain: Array, kl: Array, grid: Sequence[int], form: LawForm, resamples: Resamples) -> LawFit:
    law = fit_scaling_law(torch.from_numpy(kl), torch.from_numpy(gain), form)
    alpha, beta = law.alpha.numpy(), law.beta.numpy()
    peak_kl, peak_gain = law.peak_kl.numpy(), law.peak_gain.numpy()
    falls = np.isfinite(peak_kl) & (peak_kl <= _FARTHEST)
    has_peak = bool(falls[0]) and falls[1:].mean() >= _DEFINED

    def estimate(values: Array) -> Estimate:
        return resamples.estimate(values[0], values[1:])

    def at_peak(values: Array) -> Estimate:
        return resamples.estimate(values[0], values[1:][falls[1:]])

    return LawFit(
        form=form,
        alpha=estimate(alpha),
        beta=estimate(beta),
        r_squared=float(law.r_squared[0]),
        peak_kl=at_peak(peak_kl) if has_peak else None,
        peak_n=_n_at(float(peak_kl[0]), kl, grid) if has_peak else None,
        peak_gain=at_peak(peak_gain) if has_peak else None,
        within=bool(peak_kl[0] <= kl.max() + math.ulp(1.0)) if has_peak else None,
    )


def _n_at(peak_kl: float, kl: Array, grid: Sequence[int]) -> float | None:
    """The n whose KL that is; where ties hold it below the formula, what was measured is interpolated in ln n."""
    if np.allclose(kl, best_of_n_kl(list(grid)).numpy()):
        return n_for_kl(peak_kl)
    if peak_kl > kl.max():
        return None
    rising, first = np.unique(np.maximum.accumulate(kl), return_index=True)
    return float(np.exp(np.interp(peak_kl, rising, np.log(np.asarray(grid, dtype=float)[first]))))
