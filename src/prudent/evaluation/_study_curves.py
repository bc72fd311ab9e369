"""Curves of one study before their intervals: what picks are worth on every prompt, of one seed and of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prudent.evaluation._curve_types import Curve
from prudent.evaluation._study_statistics import Resampled, Resamples

__all__ = ["Drawn", "Lines", "curves", "joined", "lacking", "shuffled_key"]

Array = NDArray[np.float64]
Lines = dict[str, Array]
"""Column to `[B, G]`: the expected value of the pick on each prompt, at each n of the grid."""

_RIVALS = {
    "oracle_n": "oracle n",
    "hedged_n": "hedged n",
    "top_k": "top_k, tuned",
    "soft": "soft, tuned",
    "pessimism": "pessimism, tuned",
    "mbr": "mbr, tuned",
}
"""What picks by the first utility otherwise, by what it is called in a comparison.

Where the first utility reads no variance, whatever reads one must beat these.
"""


@dataclass(frozen=True)
class Drawn:
    """A curve of one seed, or of several, one after the other."""

    key: str
    label: str
    kind: str
    expected: Lines
    """Column to `[B, G]`; of S seeds `[S B, G]`, seed by seed."""
    utility: str | None = None
    strategy: str | None = None
    variance: str | None = None
    beside: str | None = None
    kl: Array | None = None
    """`[G]`"""
    effective_size: Array | None = None
    """`[G]`"""
    error: Lines | None = None
    """Monte Carlo error of `expected`."""
    draws: Lines | None = None
    """Column to `[R, G]`: the curve in each resample of prompts, averaged over seeds, where `expected` changes with the
    prompts that are drawn (a strength was chosen on them); None where it does not."""

    def resampled(self, name: str, resamples: Resamples, *, last: bool = False) -> Resampled:
        """A column with its draws.

        Args:
            name: of the column.
            resamples: of the cells.
            last: whether of the last n alone.
        """
        points = slice(-1, None) if last else slice(None)
        own = None if self.draws is None else self.draws[name][:, points]
        return resamples.resampled(self.expected[name][:, points], own)


def joined(seeds: Sequence[Sequence[Drawn]]) -> list[Drawn]:
    """The curves that all seeds have, in the order of the first, and the columns that each of them has in all."""
    if len(seeds) == 1:
        return list(seeds[0])
    by_key = [{one.key: one for one in drawn} for drawn in seeds]
    return [
        _joined([drawn[first.key] for drawn in by_key])
        for first in seeds[0]
        if all(first.key in drawn for drawn in by_key)
    ]


def lacking(seeds: Sequence[Sequence[Drawn]]) -> dict[int, list[str]]:
    """Labels of the curves that some seed lacks though another has them, by the place of the first that lacks them."""
    labels = {one.key: one.label for drawn in seeds for one in drawn if one.kind != "control"}
    found: dict[int, list[str]] = {}
    for key, label in labels.items():
        without = [place for place, drawn in enumerate(seeds) if all(one.key != key for one in drawn)]
        if without:
            found.setdefault(without[0], []).append(label)
    return found


def _joined(ones: list[Drawn]) -> Drawn:
    first = ones[0]
    names = [name for name in first.expected if all(name in one.expected for one in ones)]
    errors = [one.error for one in ones if one.error is not None]
    return Drawn(
        key=first.key,
        # a strength in units of its own in each seed is not what all of them are called
        label=first.label if len({one.strategy for one in ones}) == 1 else first.key,
        kind=first.kind,
        expected={name: np.concatenate([one.expected[name] for one in ones]) for name in names},
        utility=first.utility,
        strategy=first.strategy,
        variance=first.variance,
        beside=first.beside,
        kl=_average([one.kl for one in ones]),
        effective_size=_average([one.effective_size for one in ones]),
        error={name: np.concatenate([error[name] for error in errors]) for name in names}
        if len(errors) == len(ones)
        else None,
        draws=None
        if first.draws is None
        else {name: np.mean([one.draws[name] for one in ones if one.draws is not None], axis=0) for name in names},
    )


def curves(
    drawn: Sequence[Drawn], scales: Mapping[str, float], grid: tuple[int, ...], resamples: Resamples
) -> list[Curve]:
    """Curves with their intervals; the first is what others are compared with.

    Args:
        drawn: the curves.
        scales: of gold, with what differences of it are rounding.
        grid: the n.
        resamples: of the cells.
    """
    by_key = {one.key: one for one in drawn}
    gold = {one.key: {scale: one.resampled(scale, resamples) for scale in scales} for one in drawn}
    return [
        Curve(
            key=one.key,
            label=one.label,
            kind=one.kind,
            utility=one.utility,
            strategy=one.strategy,
            variance=one.variance,
            beside=one.beside,
            kl=_numbers(one.kl),
            # cells are drawn independently, so the errors of their average add in squares
            standard_error=None
            if one.error is None
            else {
                name: tuple((np.sqrt(np.square(error).sum(0)) / len(error)).tolist())
                for name, error in one.error.items()
            },
            effective_size=_numbers(one.effective_size),
            bands={
                name: resamples.band(gold[one.key][name] if name in scales else one.resampled(name, resamples))
                for name in one.expected
            },
            outcomes={
                scale: resamples.outcome(
                    gold[one.key][scale],
                    grid,
                    {name: gold[other.key][scale] for name, other in _others(one, drawn[0].key, by_key).items()},
                    rounding,
                )
                for scale, rounding in scales.items()
            },
            by_seed={scale: resamples.by_seed(one.expected[scale]) for scale in scales}
            if resamples.num_seeds > 1
            else {},
        )
        for one in drawn
    ]


def shuffled_key(key: str) -> str:
    """Key of the control that shuffles the doubts that a utility reads."""
    return f"shuffled: {key}"


def _others(one: Drawn, first: str, by_key: Mapping[str, Drawn]) -> dict[str, Drawn]:
    """The curves that one is compared with, by the name that the comparison gets."""
    against = {"first": first, "longest": "longest", "shuffled": shuffled_key(one.key)}
    if one.kind != "control":
        against["consensus"] = "consensus"
        if one.beside is not None:
            against["marginal"] = one.beside
    if one.variance is not None and one.kind != "control":
        against |= {name: key for name, key in _RIVALS.items() if key in by_key and by_key[key].variance is None}
    return {name: by_key[key] for name, key in against.items() if key in by_key and key != one.key}


def _average(values: Sequence[Array | None]) -> Array | None:
    known = [one for one in values if one is not None]
    return np.mean(known, axis=0) if known and len(known) == len(values) else None


def _numbers(values: Array | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values.tolist())
