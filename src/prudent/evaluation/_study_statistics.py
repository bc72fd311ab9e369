"""Intervals and outcomes of best-of-n curves, with prompts and seeds as the units that are resampled.

One set of bootstrap resamples serves every curve, so differences between them are paired. Points of one curve share
their candidates, so nothing here treats two values of n as independent. What one seed of a proxy gives one prompt is a
cell; seeds are scored on the same prompts, so that both vary, independently. Prompts are many and are drawn with
replacement. Seeds are few: drawing 3 of 3 would hide a third of their variance and all doubt about how large it is, so
their mean is drawn as it may be when their spread is known from S of them alone, around what was found by Student's t
with S - 1 degrees of freedom.

Curves whose strength was chosen on some of the prompts bring means of resamples of their own, in which it was chosen
again: their values are no fixed numbers, and an interval that took them for such would be too narrow.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from prudent.evaluation._curve_types import Band, Estimate, Outcome

__all__ = ["Resampled", "Resamples", "log_spaced"]

Array = NDArray[np.float64]

_MIN_DEFINED = 0.95
"""A ratio's interval is given only if this share of the resamples define it."""
_SMALLEST_ERROR = 0.1
"""Error of the mean of a resample, in that of the data, below which it is not believed: its prompts are nearly one."""


def log_spaced(n_max: int, per_doubling: int = 2) -> tuple[int, ...]:
    """Whole numbers from 1 to `n_max`, about evenly spaced in the logarithm, both ends included.

    Args:
        n_max: The last one, at least 1.
        per_doubling: How many a factor of two holds, as far as whole numbers allow.

    Example:
        >>> log_spaced(20)
        (1, 2, 3, 4, 6, 8, 11, 16, 20)
    """
    steps = int(np.ceil(per_doubling * np.log2(max(n_max, 1)))) + 1
    values = np.rint(2.0 ** (np.arange(steps) / per_doubling)).astype(int)
    grid = sorted({1, n_max, *(int(v) for v in values if v <= n_max)})
    if len(grid) > 2 and grid[-1] < 1.1 * grid[-2]:  # the end may fall beside a regular step: keep the end
        del grid[-2]
    return tuple(grid)


@dataclass(frozen=True)
class Resampled:
    """A curve and what it is in every resample.

    Attributes:
        cells: `[C, G]`, whose mean is the curve.
        draws: `[R, G]` the curve of each resample.
    """

    cells: Array
    draws: Array

    def __sub__(self, other: "Resampled") -> "Resampled":
        return Resampled(self.cells - other.cells, self.draws - other.draws)

    def at(self, place: int) -> "Resampled":
        """One point of it, `[C, 1]` and `[R, 1]`; -1 is the last."""
        return Resampled(self.cells[:, [place]], self.draws[:, [place]])

    def settled(self, rounding: float) -> "Resampled":
        """Differences without those that are rounding, which become 0."""
        return Resampled(_settled(self.cells, rounding), _settled(self.draws, rounding))


class Resamples:
    """Resamples of B prompts and of S seeds of a proxy, drawn once.

    Values come a cell each, `[C, ...]` with C = S B, seed by seed. A resampled mean is that of resampled prompts,
    averaged over seeds, plus how far off the average of S seeds may be. The latter is a draw from the posterior of the
    mean of a normal population given S values (flat prior; Gelman et al., Bayesian Data Analysis, section 3.2), with
    the same draw for every curve and n. Where seeds alone vary, an interval is that of the t-test; where prompts alone
    do, that of the bootstrap; where cells vary by themselves it is wider than needed. Normality of what seeds add is
    assumed, and cannot be seen from a few.

    Args:
        num_prompts: B.
        num_bootstrap: Number of resamples R.
        level: Coverage of the percentile intervals, in (0, 1).
        seed: Seed of the draw.
        num_seeds: S.
    """

    def __init__(self, num_prompts: int, num_bootstrap: int, level: float, seed: int, num_seeds: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.num_prompts, self.num_seeds, self.level = num_prompts, num_seeds, level
        self._of_prompts = _drawn_shares(rng, num_prompts, num_bootstrap)
        if num_seeds > 1:
            self._of_seeds = _drawn_errors(rng, num_seeds, num_bootstrap)
        self._tails = [50.0 * (1.0 - level), 50.0 * (1.0 + level)]

    def of_one_seed(self) -> Self:
        """The same draws of prompts, for what a single seed gives."""
        only = copy(self)
        only.num_seeds = 1
        return only

    @property
    def of_prompts(self) -> Array:
        """The share of each prompt in each resample `[R, B]`, sums of 1."""
        return self._of_prompts

    def resampled(self, per_cell: Array, of_prompts: Array | None = None) -> Resampled:
        """A curve of values `[C, G]` with its draws.

        Args:
            per_cell: `[C, G]`.
            of_prompts: `[R, G]` what it is in each resample of prompts, averaged over seeds, where values change with
                the prompts that are drawn; None: the resampled mean of these values.
        """
        if of_prompts is None:
            return Resampled(per_cell, self.means(per_cell))
        return Resampled(per_cell, of_prompts + self.off_seeds(per_cell))

    def off_seeds(self, per_cell: Array) -> Array:
        """How far off `[R, ...]` the average over seeds of values `[C, ...]` may be; 0 of one seed."""
        if self.num_seeds == 1:
            return np.zeros(per_cell.shape[1:])
        of_seeds = per_cell.reshape(self.num_seeds, self.num_prompts, -1).mean(1)
        drawn: Array = (self._of_seeds @ of_seeds).reshape(-1, *per_cell.shape[1:])
        return drawn

    def means(self, per_cell: Array) -> Array:
        """Resampled means `[R, ...]` of values `[C, ...]`."""
        cells = per_cell.reshape(self.num_seeds, self.num_prompts, -1)
        drawn: Array = (self._of_prompts @ cells.mean(0)).reshape(-1, *per_cell.shape[1:])
        return drawn + self.off_seeds(per_cell)

    def by_seed(self, per_cell: Array) -> tuple[tuple[float, ...], ...]:
        """The mean curve of each seed, of values `[C, G]`."""
        return tuple(map(_floats, per_cell.reshape(self.num_seeds, self.num_prompts, -1).mean(1)))

    def bounds(self, draws: Array) -> tuple[Array, Array]:
        """Percentile bounds of draws `[R, ...]` over the first axis."""
        low, high = np.percentile(draws, self._tails, axis=0)
        return low, high

    def estimate(self, value: float, draws: Array) -> Estimate:
        """A value with the percentile interval of its draws `[R]`."""
        low, high = self.bounds(draws)
        return Estimate(float(value), float(low), float(high))

    def ratio(self, numerator: Array, denominator: Array) -> Estimate | None:
        """The ratio of two sums over cells `[C]`, with its interval; None where the denominators sum to 0."""
        if not denominator.sum() > 0:
            return None
        draws_below = self.means(denominator)
        defined = draws_below > 0
        draws = self.means(numerator)[defined] / draws_below[defined]
        return self.estimate(float(numerator.sum() / denominator.sum()), draws)

    def counts(self) -> Iterator[NDArray[np.int64]]:
        """How often each prompt occurs `[B]`, one resample after the other."""
        return (np.rint(weights * self.num_prompts).astype(np.int64) for weights in self._of_prompts)

    def band(self, found: Resampled) -> Band:
        """A curve over a grid of G points, with pointwise bounds."""
        low, high = self.bounds(found.draws)
        return Band(_floats(found.cells.mean(0)), _floats(low), _floats(high))

    def outcome(
        self, gold: Resampled, n_values: Sequence[int], others: Mapping[str, Resampled], rounding: float = 0.0
    ) -> Outcome:
        """What a gold curve does.

        Args:
            gold: Expected gold of the pick; the first point of the grid is n = 1.
            n_values: The grid, ascending.
            others: The same of the curves to compare with at the last n, by name.
            rounding: Differences of gold up to this are none.
        """
        falls = (gold - gold.at(-1)).settled(rounding)
        curve, draws = falls.cells.mean(0), falls.draws
        peak = int(_first_best(curve, rounding))
        peaks_low, peaks_high = np.percentile(
            _first_best(draws, rounding), self._tails, method="nearest"
        )  # positions on the grid, so that the bounds are values of n
        ahead = {name: (gold.at(-1) - other.at(-1)).settled(rounding) for name, other in others.items()}
        return Outcome(
            peak_n=int(n_values[peak]),
            peak_n_low=int(n_values[int(peaks_low)]),
            peak_n_high=int(n_values[int(peaks_high)]),
            gain=self.estimate(curve[-1] - curve[0], draws[:, -1] - draws[:, 0]),
            drop=self.estimate(curve[peak], draws[:, peak]),
            drop_p_value=self._drop_p_value(falls, rounding),
            kept=self._kept(curve, draws, rounding),
            versus={name: self.estimate(lead.cells.mean(), lead.draws[:, 0]) for name, lead in ahead.items()},
            share_above_first=float(_above(ahead["first"].cells).mean()) if "first" in ahead else None,
        )

    def _drop_p_value(self, falls: Resampled, rounding: float) -> float | None:
        """P-value of the largest studentised fall to the last n, by the bootstrap-t under no fall.

        Taking the maximum over n in every resample as well pays for having looked for the peak on the same prompts.
        Every resample is divided by its own error: where prompts are few, or few of them move the mean, those that move
        it far have a large one.
        """
        cells, draws = falls.cells[:, :-1], falls.draws[:, :-1]
        if self.num_prompts < 2 or not cells.shape[1]:
            return None
        mean = cells.mean(0)
        around = (cells - mean).reshape(self.num_seeds, self.num_prompts, -1)
        of_prompts = around.mean(0)
        of_seeds = around.mean(1).var(0, ddof=1) / self.num_seeds if self.num_seeds > 1 else np.zeros(len(mean))
        # what falls by the same everywhere has no error, and what does not fall at all has none either
        smallest = max(rounding, np.finfo(float).tiny)
        error = np.maximum(np.sqrt(of_prompts.var(0, ddof=1) / self.num_prompts + of_seeds), smallest)
        spread = self._of_prompts @ np.square(of_prompts) - np.square(self._of_prompts @ of_prompts)
        drawn_error = np.sqrt(np.maximum(spread, 0.0) / (self.num_prompts - 1) + of_seeds)
        observed = (mean / error).max()
        null = ((draws - mean) / np.maximum(drawn_error, _SMALLEST_ERROR * error)).max(1)
        return float((1 + (null >= observed).sum()) / (1 + len(null)))

    def _kept(self, curve: Array, draws: Array, rounding: float) -> Estimate | None:
        """Share of the best gain over n = 1 that is left at the last n; the peak is searched in each resample."""
        best = curve.max() - curve[0]
        if not best > rounding:
            return None
        draws_best = draws.max(1) - draws[:, 0]
        defined = draws_best > rounding
        value = (curve[-1] - curve[0]) / best
        if defined.mean() < _MIN_DEFINED:
            return None
        return self.estimate(value, (draws[defined, -1] - draws[defined, 0]) / draws_best[defined])


def _drawn_shares(rng: np.random.Generator, count: int, num_draws: int) -> Array:
    """In how large a share of `count` draws with replacement each of `count` things comes up: `[num_draws, count]`."""
    shares: Array = rng.multinomial(count, np.full(count, 1.0 / count), size=num_draws).astype(float) / count
    return shares


def _drawn_errors(rng: np.random.Generator, num_seeds: int, num_draws: int) -> Array:
    """Weights `[num_draws, S]` that sum to 0; on values of S seeds, Student's t times the standard error of their mean.

    Of normal numbers the part across seeds, over an independent estimate of their standard deviation.
    """
    normal = rng.normal(size=(num_draws, num_seeds))
    squares = rng.chisquare(num_seeds - 1, size=(num_draws, 1))
    errors: Array = (normal - normal.mean(1, keepdims=True)) / np.sqrt(num_seeds * squares)
    return errors


def _settled(differences: Array, rounding: float) -> Array:
    """Differences without those that are rounding, which become 0."""
    return np.where(np.abs(differences) > rounding, differences, 0.0)


def _first_best(curves: Array, rounding: float) -> NDArray[np.intp]:
    """The first place `[...]` of curves `[..., G]` that is as high as any, up to rounding."""
    first: NDArray[np.intp] = (curves >= curves.max(-1, keepdims=True) - rounding).argmax(-1)
    return first


def _above(lead: Array) -> Array:
    """1 where positive, one half where zero."""
    return np.where(lead == 0, 0.5, lead > 0)


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
