"""Rules and strategies at several strengths, drawn on the pool of one seed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prudent.evaluation._study_curves import Drawn, Lines
from prudent.evaluation._study_drawing import Block, Maker, group_mean
from prudent.evaluation._study_pool import StudyPool

__all__ = ["Family", "PenaltyFamily", "hedged", "penalties", "penalty_families", "rounded", "spread_within"]

Array = NDArray[np.float64]

_PENALTIES = tuple(0.1 * 10 ** (0.5 * step) for step in range(6))
"""A typical penalty in units of the spread of the mean: from what hardly matters to what drowns the mean."""


@dataclass(frozen=True)
class Family:
    """K strengths of one rule or strategy and what each picks, on the pool of one seed.

    Attributes:
        key: what it is called.
        parameter: what the strength is.
        strengths: ascending.
        relative: in units of the spread of the proxy; None where strengths are plain numbers.
        texts: each as it is written.
        default: place of the strength to show where none can be tuned.
        lines: column to `[K, B, G]`.
        error: Monte Carlo error of these; None where they are exact.
        utility: that it picks by, as it is written; None where the strength is part of it.
        variance: the variance that it reads; None where it reads none.
        beside: key of the family that reads the marginal variance where this one reads the centered.
    """

    key: str
    parameter: str
    strengths: tuple[float, ...]
    relative: tuple[float, ...] | None
    texts: tuple[str, ...]
    default: int
    lines: Lines
    error: Lines | None = None
    utility: str | None = None
    variance: str | None = None
    beside: str | None = None


@dataclass(frozen=True)
class PenaltyFamily:
    """The mean minus so many times the standard deviation, or the variance: its strengths, before it is drawn.

    Attributes:
        key: `lcb_std`, `lcb_var`, or these after a `center`.
        parameter: `num_std` or `variance_weight`.
        strengths: ascending.
        relative: a typical penalty in units of the spread of the mean.
        variance: `marginal` or `centered`.
        values: `[N]` that variance.
        beside: key of the family on the marginal variance; None for that one.
    """

    key: str
    parameter: str
    strengths: tuple[float, ...]
    relative: tuple[float, ...]
    variance: str
    values: Tensor
    beside: str | None

    def doubt(self, variance: Tensor) -> Tensor:
        """What is subtracted at strength 1."""
        return variance.clamp(min=0).sqrt() if self.parameter == "num_std" else variance

    def of(self, lines: Mapping[str, Lines], prefix: str = "") -> Lines:
        """The curves of its strengths, column to `[K, B, G]`, among those that `penalties` gave the names of."""
        return _stacked([lines[_name(prefix, self, place)] for place in range(len(self.strengths))])

    def drawn(self, lines: Lines) -> Family:
        """With its curves."""
        rule = self.key.rpartition("| ")
        texts = tuple(f"{rule[0]}{rule[1]}{rule[2]}({strength:g})" for strength in self.strengths)
        return Family(
            self.key,
            self.parameter,
            self.strengths,
            self.relative,
            texts,
            len(texts) // 2,
            lines,
            variance=self.variance,
            beside=self.beside,
        )


def penalty_families(pool: StudyPool, centered: str) -> tuple[PenaltyFamily, ...]:
    """The families of `lcb_std` and `lcb_var` on every variance that the file has.

    Args:
        pool: the candidates.
        centered: how the step is written before a rule that reads the centered variance.
    """
    one = pool.only
    if one is None:
        return ()
    found: list[PenaltyFamily] = []
    spread = spread_within(one.mean, pool.group)
    for kind, variance in (("marginal", one.variance), ("centered", one.centered_variance)):
        if variance is None or not (spread > 0 and bool((variance > 0).any())):
            continue
        # of those that have any: where most are 0, so would be their median
        typical = float(variance[variance > 0].sqrt().median())
        for rule, parameter, unit in (
            ("lcb_std", "num_std", typical),
            ("lcb_var", "variance_weight", typical * typical),
        ):
            strengths = tuple(rounded(size * spread / unit) for size in _PENALTIES)
            key, beside = (rule, None) if kind == "marginal" else (f"{centered} | {rule}", rule)
            found.append(PenaltyFamily(key, parameter, strengths, _PENALTIES, kind, variance, beside))
    return tuple(found)


def penalties(
    families: Sequence[PenaltyFamily],
    mean: Tensor,
    variance_of: Callable[[Block, Tensor], Tensor] | None = None,
    prefix: str = "",
) -> Maker:
    """The values of every strength of every family.

    Args:
        families: which ones.
        mean: `[N]` of the reward.
        variance_of: what to read for a block in place of its variances `[n]`; by default these.
        prefix: of their names.
    """

    def made(block: Block) -> Iterator[tuple[str, Tensor]]:
        variances: dict[str, Tensor] = {}
        for family in families:
            if family.variance not in variances:
                own = family.values[block.rows]
                variances[family.variance] = own if variance_of is None else variance_of(block, own)
            doubt = family.doubt(variances[family.variance])
            for place, strength in enumerate(family.strengths):
                yield _name(prefix, family, place), mean[block.rows] - strength * doubt

    return made


def hedged(first: Drawn, grid: tuple[int, ...]) -> Family:
    """Best-of-min(n, m) of the first utility, for every m of the grid."""
    places = np.arange(len(grid))

    def of_most(lines: Lines) -> Lines:
        return {name: np.stack([values[:, np.minimum(places, m)] for m in places]) for name, values in lines.items()}

    return Family(
        "hedged n",
        "n",
        tuple(map(float, grid)),
        None,
        tuple(f"n = {n:,}" for n in grid),
        0,
        of_most(first.expected),
        error=None if first.error is None else of_most(first.error),
        utility=first.utility,
        variance=first.variance,
    )


def rounded(strength: float) -> float:
    """To three digits: as it is written, so that what is written is what was drawn."""
    return float(f"{strength:.3g}")


def spread_within(values: Tensor, group: Tensor) -> float:
    """Average over prompts of the standard deviation of values `[N]` within the prompt (divided by n)."""
    around = values - group_mean(values.double(), group)[group]
    return float(group_mean(around.square(), group).sqrt().nanmean())


def _stacked(lines: Sequence[Lines]) -> Lines:
    """Curves `[B, G]` of several strengths, one after the other: `[K, B, G]`."""
    return {name: np.stack([one[name] for one in lines]) for name in lines[0]}


def _name(prefix: str, family: PenaltyFamily, place: int) -> str:
    return f"{prefix}{family.key} {place}"
