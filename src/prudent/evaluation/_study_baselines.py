"""What a utility must beat, and what its gain is not: baselines and controls of a study, on the pool of one seed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prudent.evaluation._study_controls import CHANGES, Change, changed_utilities
from prudent.evaluation._study_curves import Drawn, Lines
from prudent.evaluation._study_drawing import Block, Drawer, Extent, Maker, group_mean, of_rows
from prudent.evaluation._study_families import Family, PenaltyFamily, hedged, penalties, penalty_families
from prudent.evaluation._study_pool import StudyPool
from prudent.evaluation._study_seeds import Seed
from prudent.evaluation._study_statistics import Resamples
from prudent.evaluation._study_strategies import strategy_families
from prudent.evaluation._study_tuning import Tuning, tuned_key
from prudent.evaluation._study_utilities import StudiedUtility
from prudent.rewards import MemberRewards
from prudent.scoring import ScoredPool
from prudent.selection import best_of_n, best_of_n_kl
from prudent.utility import LcbVar, Worst, reward

__all__ = ["Others", "draw_others", "num_resamples_for", "num_shuffles_for", "num_without_embedding"]

Array = NDArray[np.float64]

_SHUFFLED_ROWS = 4_000_000
"""Candidates that shuffles of the utilities go over in all; a large pool needs fewer to say the same."""
_TUNED_SHUFFLED_ROWS = 500_000
_RESAMPLED_ROWS = 16_000_000
_FEWEST_RESAMPLES = 4
_EMBEDDED_ROWS = 1 << 16
_COSTE_WEIGHT = 0.5


@dataclass
class Others:
    """The curves beside the utilities.

    Attributes:
        baselines: what one could do instead.
        controls: what a gain is not, or what was to be had in hindsight.
        families: with how often each strength was chosen at the last n `[K]`.
        picks: key to the rows `[B]` picked from whole pools, of baselines and tuned strengths that pick the response of
            highest value.
    """

    baselines: list[Drawn] = field(default_factory=list)
    controls: list[Drawn] = field(default_factory=list)
    families: list[tuple[Family, Array]] = field(default_factory=list)
    picks: dict[str, Tensor] = field(default_factory=dict)


def num_shuffles_for(num_rows: int, most: int) -> int:
    """How many shuffles of the utilities a pool of so many candidates gets."""
    return min(most, max(1, _SHUFFLED_ROWS // num_rows))


def num_resamples_for(num_rows: int, most: int) -> int:
    """How often a pool of so many candidates is put in random order: prompts average out what one order leaves."""
    return min(most, max(_FEWEST_RESAMPLES, _RESAMPLED_ROWS // num_rows))


def draw_others(
    seed: Seed,
    drawer: Drawer,
    first: Drawn,
    resamples: Resamples,
    *,
    baselines: bool,
    controls: bool,
    num_shuffles: int,
    num_calibration_prompts: int,
    num_resamples: int,
    random_seed: int,
    advance: Callable[[int], None] | None,
) -> Others:
    """Baselines and controls of one seed.

    Args:
        seed: whose pool.
        drawer: of that pool.
        first: the curve of the first utility.
        resamples: of the prompts of one seed.
        baselines: whether to draw those.
        controls: whether to draw those.
        num_shuffles: permutations of the doubts that utilities read, at most.
        num_calibration_prompts: that strengths are chosen on.
        num_resamples: subsets drawn where there is no closed form.
        random_seed: of all draws.
        advance: called with the number of prompts done where subsets are drawn.
    """
    pool, found = drawer.pool, Others()
    tuning = Tuning(resamples, num_calibration_prompts if pool.scales else 0, random_seed)
    families = penalty_families(pool, _centered(seed)) if tuning.num_calibration else ()
    fixed = _fixed(seed) if baselines else {}
    makers: list[Maker] = []
    if baselines and families:
        assert pool.only is not None
        makers.append(penalties(families, pool.only.mean))
    changes = _changes(drawer, num_shuffles) if controls else {}
    # what others are present changes with the subset, so utilities that look at them have no curve over all subsets
    doubting = [one for one in seed.utilities if one.has_shuffle and not one.fitted.depends_on_pool]
    once = {start: times for start, times in changes.items() if times == 1}
    if doubting and len(once) < len(changes):
        several = {start: times for start, times in changes.items() if times > 1}
        makers.append(changed_utilities(doubting, seed.rewards, pool.length, several, random_seed))
    tuned_changes = [change for change in CHANGES if changes.get(change.start)] if baselines and families else []
    makers += [_changed_penalties(drawer, families, change, num_shuffles, random_seed) for change in tuned_changes]
    lines = drawer.draw(*makers) if makers else {}
    extent = Extent()
    if doubting and once:
        changed = changed_utilities(doubting, seed.rewards, pool.length, once, random_seed)
        of_once, extent = drawer.draw_with_extent(changed)
        lines |= of_once

    if baselines:
        _add_baselines(found, seed, drawer, first, fixed, tuning, num_resamples, random_seed, advance)
        for family in families:
            _add_tuned(found, family.drawn(family.of(lines)), tuning, pool.scales)
            place = int(found.families[-1][1].argmax())
            assert pool.only is not None
            value = pool.only.mean - family.strengths[place] * family.doubt(family.values)
            found.picks[tuned_key(family.key)] = _picked(value, pool.group, random_seed)
    if controls:
        for change in CHANGES:
            for one in doubting if changes.get(change.start) else ():
                key = change.start + one.key
                # values of several permutations do not repeat, so that there are no ties
                kl = best_of_n_kl(drawer.grid).numpy() if pool.one_policy else None
                found.controls.append(
                    replace(
                        _control(change, one, lines[key]),
                        utility=str(one.fitted),
                        kl=extent.kl.get(key) if change.start in once else kl,
                        effective_size=extent.effective_size.get(key),
                    )
                )
        for change in tuned_changes:
            for family in families:
                own, _ = tuning.tuned(family.drawn(family.of(lines, change.start)), list(pool.scales))
                found.controls.append(replace(_control(change, own, own.expected), draws=own.draws))
        _add_extremes(found, drawer)
    if baselines and pool.scales:
        found.controls.insert(len(found.controls) - bool(controls), _oracle_n(first, list(pool.scales)))
    return found


def _add_baselines(
    found: Others,
    seed: Seed,
    drawer: Drawer,
    first: Drawn,
    fixed: dict[str, tuple[str | None, Tensor]],
    tuning: Tuning,
    num_resamples: int,
    random_seed: int,
    advance: Callable[[int], None] | None,
) -> None:
    """Random, consensus, the two rules on members, and strategies on the values of the first utility."""
    found.baselines.append(_random(drawer))
    lines, extent = drawer.draw_with_extent(of_rows({key: value for key, (_, value) in fixed.items()}))
    for key, (text, value) in fixed.items():
        found.picks[key] = _picked(value, drawer.pool.group, random_seed)
        found.baselines.append(
            Drawn(
                key,
                key,
                "baseline",
                lines[key],
                utility=text,
                variance="marginal",
                kl=extent.kl.get(key),
                effective_size=extent.effective_size[key],
            )
        )
    if drawer.pool.scales and tuning.num_calibration:
        _add_tuned(found, hedged(first, drawer.grid), tuning, drawer.pool.scales)
    families, consensus = strategy_families(
        drawer,
        first,
        None if seed.utilities[0].fitted.depends_on_pool else seed.values[first.key],
        embedding=_embedding(drawer),
        num_resamples=num_resamples_for(len(drawer.pool.group), num_resamples),
        seed=random_seed,
        advance=advance,
    )
    if consensus is not None:
        found.baselines.append(consensus)
    for family in families:
        if tuning.num_calibration:
            _add_tuned(found, family, tuning, drawer.pool.scales)
        else:
            found.baselines.append(_untuned(family))


def _picked(value: Tensor, group: Tensor, seed: int) -> Tensor:
    """The row `[B]` of the highest value of each whole pool, ties broken by chance."""
    return best_of_n(value, group, generator=torch.Generator().manual_seed(seed)).index


def _add_tuned(found: Others, family: Family, tuning: Tuning, scales: Iterable[str]) -> None:
    drawn, chosen = tuning.tuned(family, list(scales))
    found.baselines.append(drawn)
    found.families.append((family, chosen))


def _untuned(family: Family) -> Drawn:
    """A strategy at its default strength, where there are too few prompts to choose one."""
    place, text = family.default, family.texts[family.default]
    return Drawn(
        family.key,
        text,
        "baseline",
        {name: values[place] for name, values in family.lines.items()},
        utility=family.utility,
        strategy=text,
        variance=family.variance,
        error=None if family.error is None else {name: values[place] for name, values in family.error.items()},
    )


def _fixed(seed: Seed) -> dict[str, tuple[str | None, Tensor]]:
    """The two rules of Coste et al. on members, where no utility is one of them: how they are written, and values.

    Their UWO subtracts half the variance between the members, divided by M.
    """
    if len(seed.rewards.names) > 1:
        return {}
    (posterior,) = seed.rewards.rewards.values()
    if not isinstance(posterior, MemberRewards):
        return {}
    num_members = posterior.members.shape[1]
    weight = _COSTE_WEIGHT * (num_members - posterior.ddof) / num_members
    rules = {"worst": reward() | Worst(), "uwo": reward() | LcbVar(weight)}
    there = {one.fitted.utility for one in seed.utilities}
    values = {
        "worst": posterior.worst,
        "uwo": posterior.mean - _COSTE_WEIGHT * posterior.members.var(1, correction=0),
    }
    return {
        # where members have doubts of their own, the rule of that name would count these too
        key: (str(rule) if key == "worst" or posterior.is_discrete else None, values[key].double())
        for key, rule in rules.items()
        if rule not in there and key not in seed.values
    }


def _changes(drawer: Drawer, num_shuffles: int) -> dict[str, int]:
    """How often each change of doubts is made."""
    wanted = {}
    for change in CHANGES:
        if change.needs_length:
            wanted[change.start] = int(drawer.pool.length is not None)
        else:
            wanted[change.start] = num_shuffles and num_shuffles_for(len(drawer.pool.group), num_shuffles)
    return wanted


def _changed_penalties(
    drawer: Drawer, families: Sequence[PenaltyFamily], change: Change, num_shuffles: int, seed: int
) -> Maker:
    """The families of penalties on changed variances."""
    pool = drawer.pool
    assert pool.only is not None
    mean, length = pool.only.mean, pool.length
    times = 1 if change.needs_length else min(num_shuffles, max(1, _TUNED_SHUFFLED_ROWS // len(pool.group)))

    def variance_of(turn: int, block: Block, variance: Tensor) -> Tensor:
        lengths = torch.zeros(len(block.group)) if length is None else length[block.rows]
        # families draw alike, so that one response's marginal and centered variances go to the same other
        return change.of_variance(variance, lengths, block.group, block.generator(seed + turn))

    def made(block: Block) -> Iterator[tuple[str, Tensor]]:
        for turn in range(times):
            yield from penalties(families, mean, partial(variance_of, turn), change.start)(block)

    return made


def _control(change: Change, of: StudiedUtility | Drawn, lines: Lines) -> Drawn:
    return Drawn(
        change.start + of.key,
        f"{of.key}, {change.label}",
        "control",
        lines,
        variance=of.variance,
        beside=of.beside,
    )


def _random(drawer: Drawer) -> Drawn:
    """A pick by chance, which moves nowhere."""

    def of_block(block: Block) -> dict[str, Array]:
        repeat = len(drawer.grid)
        return {
            name: group_mean(values, block.group).numpy()[:, None].repeat(repeat, axis=1)
            for name, values in drawer.columns(block).items()
        }

    kl = np.zeros(len(drawer.grid)) if drawer.pool.one_policy else None
    return Drawn("random", "random response", "baseline", drawer.over_blocks(of_block), kl=kl)


def _add_extremes(found: Others, drawer: Drawer) -> None:
    """The longest response, and the one of highest gold."""
    pool = drawer.pool
    values = {} if pool.length is None else {"longest": pool.length}
    if pool.scales:
        values["oracle"] = pool.scales["gold"]
    lines, extent = drawer.draw_with_extent(of_rows(values))
    labels = {"longest": "longest response", "oracle": "oracle (best gold)"}
    found.controls += [
        Drawn(key, labels[key], "control", lines[key], kl=extent.kl.get(key), effective_size=extent.effective_size[key])
        for key in values
    ]


def _oracle_n(first: Drawn, scales: Sequence[str]) -> Drawn:
    """The first utility at the best n up to each n, seen in hindsight; each scale of gold has its own."""
    best = {}
    for scale in scales:
        gold = first.expected[scale].mean(0)
        best[scale] = np.array([int(gold[: place + 1].argmax()) for place in range(len(gold))])

    def at_best(lines: Lines) -> Lines:
        return {name: values[:, best.get(name, best[scales[0]])] for name, values in lines.items()}

    return Drawn(
        "oracle n",
        "oracle n (best n in hindsight)",
        "control",
        at_best(first.expected),
        utility=first.utility,
        variance=first.variance,
        error=None if first.error is None else at_best(first.error),
    )


def _centered(seed: Seed) -> str:
    """How `center` is written for the only reward."""
    return "center(canned)" if seed.rewards.canned else "center(mean)"


def num_without_embedding(pool: StudyPool) -> int:
    """Candidates whose embedding is missing or not finite; all of them where the file has no column of embeddings."""
    if "embedding" not in pool.table.column_names:
        return len(pool.group)
    blank = pool.table["embedding"].null_count
    if blank == len(pool.group):
        return int(blank)
    scored, found = ScoredPool(pool.table), 0
    for start in range(0, len(pool.group), _EMBEDDED_ROWS):
        found += int((~scored.embedding(slice(start, start + _EMBEDDED_ROWS)).isfinite().all(1)).sum())
    return found


def _embedding(drawer: Drawer) -> Callable[[slice], Tensor] | None:
    """Gives the embeddings `[n, D]` of some rows, zeros where there is none; None where the file has none at all."""
    table = drawer.pool.table
    if "embedding" not in table.column_names or table["embedding"].null_count == len(table):
        return None
    pool = ScoredPool(table)

    def known(rows: slice) -> Tensor:
        found = pool.embedding(rows)
        # zeros resemble nothing, so such a response is picked for what it is worth alone
        return found.where(found.isfinite().all(1, keepdim=True), 0.0)

    return known
