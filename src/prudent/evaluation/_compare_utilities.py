"""Several utilities on one scored pool: what each picks, and what that is worth."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.evaluation._evaluation_types import Figure
from prudent.evaluation._pair_figures import to_figure
from prudent.evaluation._records import plain
from prudent.metrics import bootstrap, spearman_within
from prudent.models import atomic_file
from prudent.rewards import index_groups
from prudent.scoring import ScoredPool, read_scored, require_apart, utility_for
from prudent.selection import best_of_n
from prudent.utility import FittedUtility, Utility

__all__ = ["UtilityComparison", "UtilityFigures", "compare_utilities"]

_GOLD = "gold"


@dataclass(frozen=True)
class UtilityFigures:
    """What a utility picks out of all responses of each prompt, averaged over prompts.

    Attributes:
        label: what it is called here.
        utility: the utility as it is written.
        gold: gold of the pick by name of the column: `gold`, and `gold_NAME` for a property; columns without any number
            are left out.
        gold_difference: that minus what the first utility's pick has, paired over prompts.
        good_in_all: share of prompts whose pick is above the prompt's median in every column of gold, over the prompts
            whose pick has them all; None where there are fewer than two columns.
        rank_correlation: Spearman's, of utility and gold within prompts; None without a column `gold`.
        rewards: posterior mean of each reward of the pick, minus the average over the prompt's responses.
        above_average: share of prompts whose pick is above that average in every reward, over the prompts whose pick
            has them all.
        same_pick: share of prompts in which the first utility picks the same response.
        num_excluded: responses left out because they have no utility.

    Gold and rewards that are missing for a pick leave its prompt out of that figure, which is None where they are
    missing for all.
    """

    label: str
    utility: str
    gold: dict[str, Figure | None]
    gold_difference: dict[str, Figure | None]
    good_in_all: Figure | None
    rank_correlation: Figure | None
    rewards: dict[str, Figure | None]
    above_average: Figure | None
    same_pick: float
    num_excluded: int


@dataclass(frozen=True)
class UtilityComparison:
    """Utilities side by side, all on the same prompts.

    Attributes:
        data: the scored pool.
        num_prompts: prompts with a pick under every utility.
        num_calibration_prompts: others, left out because the members of an ensemble were calibrated on their gold.
        utilities: one record each, in the order given.
    """

    data: str
    num_prompts: int
    num_calibration_prompts: int
    utilities: tuple[UtilityFigures, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found: dict[str, Any] = plain(self)
        return found


def compare_utilities(
    scored: str | Path | ScoredPool,
    utilities: Sequence[str | Utility | FittedUtility] | Mapping[str, str | Utility | FittedUtility],
    output: str | Path | None = None,
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> UtilityComparison:
    """Let several utilities pick from the same pool.

    Args:
        scored: what `prudent.scoring.score` wrote, or its path. Gold may be one column `gold`, or one a property,
            `gold_helpful` and `gold_harmless` for instance, or both.
        utilities: at least one, as text or expressions, or by what to call them. The first is what others are compared
            with.
        output: JSON file for the result.
        num_bootstrap: resamples of the prompts behind 95 % intervals.
        seed: of the resampling, of ties and of rules that draw.

    Raises:
        UtilityError: a text is not a utility.
        DataError: the pool lacks what a utility reads, or no prompt has a pick under every utility.
        PrudentError: `output` is the scored pool or lies in one.
        ValueError: no utility is given.
        TypeError: one is given where a list or a mapping is meant.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"prompt_id": [0, 0, 1, 1], "reward_mean": [0.0, 1.0, 3.0, 2.0],
        ...                   "reward_variance": [0.1, 4.0, 0.1, 0.1], "gold": [1.0, 0.0, 1.0, 0.0]})
        >>> found = compare_utilities(ScoredPool(table), ["mean", "lcb_std"])
        >>> [figures.gold["gold"].value for figures in found.utilities if figures.gold["gold"] is not None]
        [0.5, 1.0]
    """
    if isinstance(utilities, str | Utility | FittedUtility):
        raise TypeError(f"utilities must be several, in a list or by name, got {utilities}")
    named = dict(utilities) if isinstance(utilities, Mapping) else {str(one): one for one in utilities}
    if not named:
        raise ValueError("give at least one utility")
    if output is not None:
        require_apart(output, [scored])
    pool = scored if isinstance(scored, ScoredPool) else read_scored(scored)
    fitted = {label: utility_for(pool, one) for label, one in named.items()}
    rewards = pool.reward_set()
    values = {label: one(rewards, Generator().manual_seed(seed)) for label, one in fitted.items()}
    index = index_groups(rewards.group)
    # a prompt counts where every utility has a pick, and members were not calibrated on its gold
    usable = index.sum(pool.is_calibration.long()) == 0
    for value in values.values():
        usable &= index.sum((~value.isnan()).long()) > 0
    if not bool(usable.any()):
        raise DataError(f"{pool.source}: no prompt has a response with a value under every utility")
    rows = usable[index.position].nonzero()[:, 0]
    group = rewards.group[rows]
    gold = {name: pool.column(name)[rows] for name in _gold_columns(pool, rewards.names)}
    known = {name: values for name, values in gold.items() if not bool(values.isnan().all())}
    judge = _Judge(group, known, num_bootstrap, seed)
    means = {name: one.mean.double()[rows] for name, one in rewards.rewards.items()}
    picks = {
        label: best_of_n(value[rows], group, generator=Generator().manual_seed(seed), nan="exclude")
        for label, value in values.items()
    }
    first = next(iter(picks.values())).index
    found = UtilityComparison(
        data=pool.source,
        num_prompts=int(usable.sum()),
        num_calibration_prompts=int((index.sum(pool.is_calibration.long()) > 0).sum()),
        utilities=tuple(
            UtilityFigures(
                label=label,
                utility=str(fitted[label]),
                gold={name: judge.average(gold[pick.index]) for name, gold in judge.gold.items()},
                gold_difference={
                    name: judge.difference(gold[pick.index], gold[first]) for name, gold in judge.gold.items()
                },
                good_in_all=judge.good_in_all(pick.index),
                rank_correlation=judge.rank_correlation(values[label][rows]),
                rewards={name: judge.average(judge.above(mean)[pick.index]) for name, mean in means.items()},
                above_average=judge.all_above([judge.above(mean)[pick.index] for mean in means.values()]),
                same_pick=float((pick.index == first).double().mean()),
                num_excluded=int(pick.num_excluded.sum()),
            )
            for label, pick in picks.items()
        ),
    )
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return found


class _Judge:
    """Figures of picks, one a prompt."""

    def __init__(self, group: Tensor, gold: dict[str, Tensor], num_bootstrap: int, seed: int) -> None:
        self._group = group
        self._index = index_groups(group)
        self.gold = gold
        self._num_bootstrap, self._seed = num_bootstrap, seed

    def average(self, values: Tensor) -> Figure | None:
        """Over prompts `[B]`, those without a value left out; None where that is all of them."""
        generator = Generator().manual_seed(self._seed)
        return _known(to_figure(bootstrap(values, num_resamples=self._num_bootstrap, generator=generator)))

    def difference(self, values: Tensor, baseline: Tensor) -> Figure | None:
        """Paired over prompts."""
        return self.average(values - baseline)

    def all_above(self, values: Sequence[Tensor]) -> Figure | None:
        """Share of the prompts with all these values `[B]` where all are above 0."""
        every = torch.stack(list(values))
        return self.average(torch.where(every.isnan().any(0), torch.nan, (every > 0).all(0).double()))

    def above(self, values: Tensor) -> Tensor:
        """`[N]` values minus their average over the prompt's responses, those without one left out."""
        present = ~values.isnan()
        total = self._index.sum(torch.where(present, values, 0.0))
        return values - (total / self._index.sum(present.double()))[self._index.position]

    def good_in_all(self, picked: Tensor) -> Figure | None:
        """Share of picks above the prompt's median in every gold."""
        if len(self.gold) < 2:
            return None
        rows = self._index.rows()
        return self.all_above(
            [gold[picked] - torch.stack([gold[own].nanquantile(0.5) for own in rows]) for gold in self.gold.values()]
        )

    def rank_correlation(self, value: Tensor) -> Figure | None:
        """Of values `[N]` with the gold, within prompts."""
        if _GOLD not in self.gold:
            return None
        return self.average(spearman_within(value, self.gold[_GOLD], self._group))


def _known(figure: Figure) -> Figure | None:
    return figure if all(map(math.isfinite, (figure.value, figure.low, figure.high))) else None


def _gold_columns(pool: ScoredPool, names: Sequence[str]) -> list[str]:
    wanted = [_GOLD, *(f"{_GOLD}_{name}" for name in names)]
    return [name for name in wanted if name in pool.table.column_names]
