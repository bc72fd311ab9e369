"""Strengths chosen on some prompts and judged on the others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prudent.evaluation._study_curves import Drawn, Lines
from prudent.evaluation._study_families import Family
from prudent.evaluation._study_statistics import Resamples
from prudent.evaluation._verdict_types import StrengthFamily

__all__ = ["FEWEST_PROMPTS", "Tuning", "num_choosing", "strength_families", "tuned_key"]

Array = NDArray[np.float64]

_NUM_DRAWS = 20
FEWEST_PROMPTS = 20
"""Prompts below which nothing is tuned: half of them would choose, by noise."""


class Tuning:
    """Random splits of B prompts into those that choose a strength and those that it is judged on.

    Splits come from random orders of the prompts, cut into disjoint sets that choose, so that prompts choose about
    equally often and each one is judged.

    In every resample of the prompts the strength is chosen again, by the same splits: copies of a prompt stay on one
    side, so that none is judged by what it chose.

    Args:
        resamples: of the B prompts.
        num_calibration: prompts that choose; at most half of them.
        seed: of the splits.
    """

    def __init__(self, resamples: Resamples, num_calibration: int, seed: int) -> None:
        num_prompts, self._resamples = resamples.num_prompts, resamples
        self.num_calibration = num_choosing(num_prompts, num_calibration)
        rng = np.random.default_rng(seed)
        chooses: list[Array] = []
        while self.num_calibration and len(chooses) < _NUM_DRAWS:
            order = rng.permutation(num_prompts)
            for start in range(0, num_prompts - self.num_calibration + 1, self.num_calibration):
                chooses.append(np.zeros(num_prompts))
                chooses[-1][order[start : start + self.num_calibration]] = 1.0
        # an order is used whole, so that no prompt chooses in all of the splits
        self._chooses = np.stack(chooses) if chooses else np.zeros((0, num_prompts))

    def shares(self, gold: Array) -> tuple[Array, Array]:
        """How often each strength is used to judge a prompt, and how often it is chosen at the last n.

        Args:
            gold: `[K, B, G]` of each strength, on each prompt, at each n.

        Returns:
            `[K, B, G]`, sums of 1 over the strengths; and `[K]`, the same.
        """
        on_them = np.einsum("db,kbg->dkg", self._chooses, gold) / self.num_calibration
        chosen = np.eye(len(gold))[on_them.argmax(1)]  # [draws, G, K], the smallest of those that tie
        judges = 1.0 - self._chooses
        used = np.einsum("db,dgk->kbg", judges, chosen) / judges.sum(0)[None, :, None]
        return used, chosen[:, -1].mean(0)

    def _draws(self, lines: Lines, scales: Sequence[str]) -> Lines:
        """The tuned curve of each resample: column to `[R, G]`.

        What judges is all prompts less those that choose, which are few where prompts are many.
        """
        shares, judged = self._resamples.of_prompts, (1.0 - self._chooses).sum(0)  # in how many splits each one judges
        flat = {name: np.ascontiguousarray(values.swapaxes(0, 1)) for name, values in lines.items()}

        def sums(of: Array, values: Array) -> Array:
            return (of @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:])

        every = {name: sums(shares / judged, values) for name, values in flat.items()}
        drawn = {name: np.zeros(values[:, 0].shape) for name, values in every.items()}
        for chooses in self._chooses:
            rows = np.flatnonzero(chooses)
            own = shares[:, rows]
            weighted = own / judged[rows]
            best = {scale: sums(own, flat[scale][rows]).argmax(1)[:, None] for scale in scales}
            for name, values in every.items():
                on_judges = values - sums(weighted, flat[name][rows])
                drawn[name] += np.take_along_axis(on_judges, best.get(name, best[scales[0]]), 1)[:, 0]
        return drawn

    def tuned(self, family: Family, scales: Sequence[str]) -> tuple[Drawn, Array]:
        """The curve of a family with its strength tuned at each n, and how often each is chosen at the last n `[K]`.

        Each scale of gold has its own choice; other columns are those of what gold as given chooses.

        Args:
            family: with the curves of its strengths.
            scales: of gold, the first as given.
        """
        used: dict[str, Array] = {}
        for scale in scales:
            used[scale], times = self.shares(family.lines[scale])
            if scale == scales[0]:
                chosen = times
        by_name = {name: used.get(name, used[scales[0]]) for name in family.lines}

        def mixed(lines: Lines) -> Lines:
            return {name: (by_name[name] * values).sum(0) for name, values in lines.items()}

        # strengths share their subsets, so that errors add up rather than average out
        return (
            Drawn(
                key=tuned_key(family.key),
                label=tuned_key(family.key),
                kind="baseline",
                expected=mixed(family.lines),
                utility=family.utility,
                variance=family.variance,
                beside=None if family.beside is None else tuned_key(family.beside),
                error=None if family.error is None else mixed(family.error),
                draws=self._draws(family.lines, scales),
            ),
            chosen,
        )


def num_choosing(num_prompts: int, wanted: int) -> int:
    """How many of the prompts choose a strength: at most half of them, and none where there are few."""
    return min(wanted, num_prompts // 2) if num_prompts >= FEWEST_PROMPTS else 0


def tuned_key(family: str) -> str:
    """Key of the curve of a family whose strength is tuned."""
    return family if family == "hedged n" else f"{family}, tuned"


def strength_families(
    of_seeds: Sequence[Sequence[tuple[Family, Array]]], scales: Sequence[str], resamples: Resamples
) -> tuple[StrengthFamily, ...]:
    """The records of the families that all seeds have, averaged over them.

    Args:
        of_seeds: families of each seed, with how often each strength was chosen.
        scales: of gold.
        resamples: of the cells.
    """
    by_key = [{family.key: (family, chosen) for family, chosen in families} for families in of_seeds]
    found = []
    for key, (first, _) in by_key[0].items():
        if not all(key in families and len(families[key][1]) == len(first.strengths) for families in by_key):
            continue
        ones = [families[key] for families in by_key]
        found.append(
            StrengthFamily(
                key=key,
                parameter=first.parameter,
                strengths=first.strengths,
                relative=first.relative,
                texts=first.texts,
                gold={
                    scale: tuple(
                        resamples.band(
                            resamples.resampled(np.concatenate([family.lines[scale][place] for family, _ in ones]))
                        )
                        for place in range(len(first.strengths))
                    )
                    for scale in scales
                },
                chosen=tuple(np.mean([chosen for _, chosen in ones], axis=0).tolist()),
            )
        )
    return tuple(found)
