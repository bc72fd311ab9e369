"""Two rewards against each other: where each utility picks, and along which lines it is indifferent."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.evaluation._trade_off_types import Level, TradeOff, TradeOffLine
from prudent.rewards import RewardPosterior, index_groups
from prudent.scoring import ScoredPool, read_scored, utility_for
from prudent.selection import best_of_n
from prudent.utility import FittedUtility, RewardSet, Utility, shifted

__all__ = ["plane", "trade_off"]

_GRID = 61


def trade_off(
    scored: ScoredPool | str,
    utilities: Mapping[str, str | Utility | FittedUtility],
    names: Sequence[str] | None = None,
    *,
    max_points: int = 1500,
    seed: int = 0,
) -> TradeOff:
    """Where utilities pick in the plane of two rewards, and their values on a grid over it.

    Rewards are shown relative to the mean over the prompt's reference responses, to the canned response where they were
    scored against one, or to the mean over the prompt's responses where no references are marked. On the grid they are
    those of a response with typical doubts (the one of median standard deviation) to the prompt whose spread is the
    median one, moved to each point; other rewards stay as that response has them. Prompts for which a utility has no
    value are without its pick, and a utility without any pick that has both rewards is left out.

    Args:
        scored: what `prudent.scoring.score` made with two models or more, or its path.
        utilities: by what to call them.
        names: the two rewards; by default the first two.
        max_points: responses shown, drawn at random.
        seed: of that draw, of ties and of utilities that draw.

    Raises:
        DataError: there are fewer than two rewards, or none of these names, or no response has both.
    """
    pool = scored if isinstance(scored, ScoredPool) else read_scored(scored)
    rewards = pool.reward_set()
    if names is None:
        names = rewards.names[:2]
    if len(names) != 2:
        raise DataError(f"{pool.source} holds one reward; the picture needs two, scored together")
    fitted = {label: utility_for(pool, utility) for label, utility in utilities.items()}
    found = plane(rewards, fitted, (rewards.resolve(names[0]), rewards.resolve(names[1])), max_points, seed)
    if found is None:
        raise DataError(f"{pool.source}: no response has both {' and '.join(names)}")
    return found


def plane(
    rewards: RewardSet,
    utilities: Mapping[str, FittedUtility],
    names: tuple[str, str],
    max_points: int = 1500,
    seed: int = 0,
) -> TradeOff | None:
    """As `trade_off`, of two rewards by name; None where no response has both."""
    first, second = names
    at = torch.stack([_relative(rewards, name) for name in (first, second)], 1)
    known = (~at.isnan()).all(1)
    if not bool(known.any()):
        return None
    axes = [torch.linspace(*_limits(at[known, place]), _GRID, dtype=torch.float64) for place in (0, 1)]
    row = _typical_row(rewards, at, known)
    points = torch.cartesian_prod(axes[1], axes[0]).flip(1)  # row by row: y outside, x inside
    moved = _moved(rewards, {first: points[:, 0] - at[row, 0], second: points[:, 1] - at[row, 1]}, row)
    lines = []
    for label, fitted in utilities.items():
        picks = _picks(fitted(rewards, Generator().manual_seed(seed)), rewards.group, seed)
        picks = picks[known[picks]]
        if len(picks) > 0:
            x, y = at[picks].unbind(1)
            lines.append(TradeOffLine(label, str(fitted), tuple(x.tolist()), tuple(y.tolist()), _grid(fitted, moved)))
    shown = known.nonzero()[:, 0]
    shown = shown[torch.randperm(len(shown), generator=Generator().manual_seed(seed))[:max_points]].sort().values
    return TradeOff(
        names,
        (_level(rewards, first), _level(rewards, second)),
        tuple(at[shown, 0].tolist()),
        tuple(at[shown, 1].tolist()),
        tuple(axes[0].tolist()),
        tuple(axes[1].tolist()),
        int(rewards.group[row]),
        tuple(lines),
    )


def _picks(value: Tensor, group: Tensor, seed: int) -> Tensor:
    """Rows of the best response of each prompt that has one."""
    rows = (~value.isnan()).nonzero()[:, 0]
    if len(rows) == 0:
        return rows
    return rows[best_of_n(value[rows], group[rows], generator=Generator().manual_seed(seed)).index]


def _grid(fitted: FittedUtility, moved: RewardSet) -> tuple[tuple[float, ...], ...] | None:
    if fitted.depends_on_pool or fitted.utility.draws:
        return None
    value = fitted(moved)
    return tuple(map(tuple, value.reshape(_GRID, _GRID).tolist())) if bool(value.isfinite().all()) else None


def _level(rewards: RewardSet, name: str) -> Level:
    if name in rewards.references:
        return "canned"
    return "responses" if rewards.is_reference is None else "references"


def _relative(rewards: RewardSet, name: str) -> Tensor:
    """`[N]` means less what `_level` says."""
    mean, index = rewards.rewards[name].mean.double(), index_groups(rewards.group)
    if name in rewards.references:
        own = rewards.references[name]
        place = torch.searchsorted(index.ids, own.group)
        level = torch.full((len(index.ids),), torch.nan, dtype=torch.float64)
        level[place] = own.mean.double()
        return mean - level[index.position]
    counted = ~mean.isnan()
    if rewards.is_reference is not None:
        counted &= rewards.is_reference
    total = index.sum(torch.where(counted, mean, 0.0))
    return mean - (total / index.sum(counted.double()))[index.position]


def _limits(values: Tensor) -> tuple[float, float]:
    """The range that holds nearly all, with some room."""
    low, high = np.quantile(values.numpy(), [0.002, 0.998]).tolist()  # torch.quantile refuses many values
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _typical_row(rewards: RewardSet, at: Tensor, known: Tensor) -> int:
    """A response of median doubts to the prompt of median spread, one with all rewards where there is any."""
    whole = known & ~torch.stack([one.mean.isnan() for one in rewards.rewards.values()]).any(0)
    known = whole if bool(whole.any()) else known
    index = index_groups(rewards.group)
    square = torch.where(known[:, None], at, 0.0).square().sum(1)
    spread = index.sum(square) / index.sum(known.double())
    place = int(spread.nan_to_num(torch.inf).argsort()[int((~spread.isnan()).sum()) // 2])
    rows = ((index.position == place) & known).nonzero()[:, 0]
    variance = torch.stack([one.variance.double()[rows] for one in rewards.rewards.values()]).nan_to_num(0.0).sum(0)
    return int(rows[variance.argsort()[len(rows) // 2]])


def _moved(rewards: RewardSet, by: Mapping[str, Tensor], row: int) -> RewardSet:
    """One response many times, some of its rewards moved `[G]`."""
    size = len(next(iter(by.values())))
    rows = torch.full((size,), row)

    def move(name: str, posterior: RewardPosterior) -> RewardPosterior:
        return shifted(posterior[rows], by[name]) if name in by else posterior[rows]

    return RewardSet(
        {name: move(name, one) for name, one in rewards.rewards.items()},
        {name: move(name, one) for name, one in rewards.against_references.items()},
        canned=rewards.canned,
        references=rewards.references,
        features=rewards.features,
    )
