"""Curves of one study, drawn over the same candidates, grid of n and resamples."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prudent.evaluation._study_pool import StudyPool
from prudent.evaluation._study_statistics import Resamples
from prudent.evaluation._study_types import Curve
from prudent.selection import best_of_n_curve, best_of_n_kl, best_of_n_kl_with_ties

__all__ = ["Drawer", "Drawn", "group_mean"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """A curve before its intervals: what its picks are worth, prompt by prompt."""

    rule: str
    label: str
    kind: str
    variance: str | None
    kl: tuple[float, ...] | None
    expected: dict[str, Array]
    """Column to `[B, G]`."""


class Drawer:
    """Draws curves one after the other over the same candidates and grid."""

    def __init__(self, pool: StudyPool, grid: tuple[int, ...]) -> None:
        self.pool, self.grid = pool, grid
        variance = pool.marginal.variance.double()
        mean = pool.marginal.mean.double()
        # a reward is known up to a constant per prompt: the proxy's level is what it gains over the pool's average
        columns = {**pool.scales, "proxy": mean - group_mean(mean, pool.group)[pool.group]}
        if pool.has_variance:
            columns |= {"variance": variance, "std": variance.sqrt()}
        if pool.length is not None:
            columns["length"] = pool.length
        self.names = list(columns)
        self.values = torch.stack(list(columns.values()), dim=1)
        self.drawn: dict[str, Drawn] = {}

    def expected(self, utility: Tensor) -> Array:
        """Expected value of the pick for each column: `[B, G, columns]`."""
        return best_of_n_curve(utility, self.values, self.pool.group, self.grid).numpy()

    def add(
        self,
        rule: str,
        label: str,
        *,
        utility: Tensor | None = None,
        expected: Array | None = None,
        kind: str = "rule",
        variance: str | None = None,
    ) -> None:
        """Add a curve, from a utility `[N]` or from what its picks are worth `[B, G, columns]`."""
        if expected is None:
            assert utility is not None
            expected = self.expected(utility)
        by_name = {name: np.ascontiguousarray(expected[:, :, c]) for c, name in enumerate(self.names)}
        self.drawn[rule] = Drawn(rule, label, kind, variance, self._kl(utility, rule), by_name)

    def curves(self, resamples: Resamples) -> tuple[Curve, ...]:
        """All curves with their intervals, in the order in which they were added."""
        return tuple(
            Curve(
                rule=one.rule,
                label=one.label,
                kind=one.kind,
                variance=one.variance,
                kl=one.kl,
                bands={name: resamples.band(values) for name, values in one.expected.items()},
                outcomes={
                    scale: resamples.outcome(
                        one.expected[scale],
                        self.grid,
                        {name: other.expected[scale] for name, other in self._others(one.rule).items()},
                    )
                    for scale in self.pool.scales
                },
            )
            for one in self.drawn.values()
        )

    def _others(self, rule: str) -> dict[str, Drawn]:
        """The curves that one is compared with, by the name that the comparison gets."""
        names = {"mean": "mean", "longest": "longest", "shuffled": f"shuffled_{rule}"}
        if rule.endswith("_centered") and not rule.startswith("shuffled_"):
            names["marginal"] = rule.removesuffix("_centered")
        return {name: self.drawn[key] for name, key in names.items() if key in self.drawn and key != rule}

    def _kl(self, utility: Tensor | None, rule: str) -> tuple[float, ...] | None:
        if not self.pool.one_policy:
            return None
        if rule == "random":
            return (0.0,) * len(self.grid)
        if utility is None:  # an average over permutations, whose utilities do not repeat
            kl = best_of_n_kl(self.grid)
        else:
            kl = best_of_n_kl_with_ties(utility, self.pool.group, self.grid).kl.mean(0)
        return tuple(kl.tolist())


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """Averages over the rows of each prompt: `[B, ...]` of `[N, ...]`, for prompts numbered from 0."""
    sizes = torch.bincount(group)
    total = values.new_zeros((len(sizes), *values.shape[1:])).index_add_(0, group, values)
    return total / sizes.reshape(-1, *([1] * (values.dim() - 1)))
