"""Intervals and outcomes of best-of-n curves, with prompts as the unit that is resampled.

One set of bootstrap resamples serves every curve, so differences between them are paired. Points of one curve share
their candidates, so nothing here treats two values of n as independent.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prudent.evaluation._curve_types import Band, Estimate, Outcome

__all__ = ["Resamples", "log_spaced"]

Array = NDArray[np.float64]

_MIN_DEFINED = 0.95
"""A ratio's interval is given only if this share of the resamples define it."""


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


class Resamples:
    """Bootstrap resamples of B prompts, drawn once.

    Args:
        num_prompts: B.
        num_bootstrap: Number of resamples R.
        level: Coverage of the percentile intervals, in (0, 1).
        seed: Seed of the draw.
    """

    def __init__(self, num_prompts: int, num_bootstrap: int, level: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.num_prompts = num_prompts
        self._weights = (
            rng.multinomial(num_prompts, np.full(num_prompts, 1.0 / num_prompts), size=num_bootstrap).astype(float)
            / num_prompts
        )
        self._tails = [50.0 * (1.0 - level), 50.0 * (1.0 + level)]

    def means(self, per_prompt: Array) -> Array:
        """Resampled means `[R, ...]` of values `[B, ...]`."""
        flat = self._weights @ per_prompt.reshape(self.num_prompts, -1)
        return flat.reshape(-1, *per_prompt.shape[1:])

    def bounds(self, draws: Array) -> tuple[Array, Array]:
        """Percentile bounds of draws `[R, ...]` over the first axis."""
        low, high = np.percentile(draws, self._tails, axis=0)
        return low, high

    def estimate(self, value: float, draws: Array) -> Estimate:
        """A value with the percentile interval of its draws `[R]`."""
        low, high = self.bounds(draws)
        return Estimate(float(value), float(low), float(high))

    def ratio(self, numerator: Array, denominator: Array) -> Estimate | None:
        """The ratio of two sums over prompts `[B]`, with its interval; None where the denominators sum to 0."""
        if not denominator.sum() > 0:
            return None
        draws_below = self.means(denominator)
        defined = draws_below > 0
        draws = self.means(numerator)[defined] / draws_below[defined]
        return self.estimate(float(numerator.sum() / denominator.sum()), draws)

    def counts(self) -> Iterator[NDArray[np.int64]]:
        """How often each prompt occurs `[B]`, one resample after the other."""
        return (np.rint(weights * self.num_prompts).astype(np.int64) for weights in self._weights)

    def band(self, per_prompt: Array) -> Band:
        """The mean curve of values `[B, G]` over a grid of G points, with pointwise bounds."""
        low, high = self.bounds(self.means(per_prompt))
        return Band(_floats(per_prompt.mean(0)), _floats(low), _floats(high))

    def outcome(self, gold: Array, n_values: Sequence[int], others: Mapping[str, Array]) -> Outcome:
        """What a gold curve does.

        Args:
            gold: Expected gold of the pick `[B, G]`; the first point of the grid is n = 1.
            n_values: The grid, ascending.
            others: The same of the curves to compare with at the last n, by name.
        """
        curve, draws = gold.mean(0), self.means(gold)
        peak = int(curve.argmax())
        peaks_low, peaks_high = np.percentile(
            draws.argmax(1), self._tails, method="nearest"
        )  # positions on the grid, so that the bounds are values of n
        ahead = {name: gold[:, -1] - other[:, -1] for name, other in others.items()}
        return Outcome(
            peak_n=int(n_values[peak]),
            peak_n_low=int(n_values[int(peaks_low)]),
            peak_n_high=int(n_values[int(peaks_high)]),
            gain=self.estimate(curve[-1] - curve[0], draws[:, -1] - draws[:, 0]),
            drop=self.estimate(curve[peak] - curve[-1], draws[:, peak] - draws[:, -1]),
            drop_p_value=self._drop_p_value(gold, draws),
            kept=self._kept(curve, draws),
            versus={name: self.estimate(lead.mean(), self.means(lead)) for name, lead in ahead.items()},
            share_above_first=float(_above(ahead["first"]).mean()) if "first" in ahead else None,
        )

    def _drop_p_value(self, gold: Array, draws: Array) -> float | None:
        """P-value of the largest studentised fall to the last n, against its bootstrap distribution under no fall.

        Taking the maximum over n in every resample as well pays for having looked for the peak on the same prompts.
        """
        if self.num_prompts < 2 or gold.shape[1] < 2:
            return None
        falls = gold[:, :-1] - gold[:, -1:]
        error = falls.std(0, ddof=1) / np.sqrt(self.num_prompts)
        moving = error > 0
        if not moving.any():
            return 1.0
        mean = falls.mean(0)
        observed = (mean[moving] / error[moving]).max()
        resampled = draws[:, :-1] - draws[:, -1:]
        null = ((resampled - mean)[:, moving] / error[moving]).max(1)
        return float((1 + (null >= observed).sum()) / (1 + len(null)))

    def _kept(self, curve: Array, draws: Array) -> Estimate | None:
        """Share of the best gain over n = 1 that is left at the last n; the peak is searched in each resample."""
        best = curve.max() - curve[0]
        if not best > 0:
            return None
        draws_best = draws.max(1) - draws[:, 0]
        defined = draws_best > 0
        value = (curve[-1] - curve[0]) / best
        if defined.mean() < _MIN_DEFINED:
            return None
        return self.estimate(value, (draws[defined, -1] - draws[defined, 0]) / draws_best[defined])


def _above(lead: Array) -> Array:
    """1 where positive, one half where zero up to rounding."""
    return np.where(np.abs(lead) < 1e-9, 0.5, lead > 0)


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
