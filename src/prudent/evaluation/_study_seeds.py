"""The scored files of a study: one, or several seeds of a proxy over the same pool, whose candidates must agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.evaluation._study_pool import StudyPool, has_moments, in_working_type, prepare_pool, working_type
from prudent.evaluation._study_utilities import AnyUtility, StudiedUtility, studied_utilities
from prudent.rewards import index_groups
from prudent.scoring import ScoredPool
from prudent.utility import RewardSet

__all__ = ["Seed", "prepare_seeds"]


@dataclass(frozen=True)
class Seed:
    """What one file says of the candidates of a study.

    Attributes:
        pool: the candidates.
        rewards: theirs, as utilities read them.
        everything: the rewards of all rows of the file.
        utilities: what is compared, fitted on this file's references.
        values: `[N]` what each utility says of the candidates, by its key; up to a constant per prompt.
        left_out: keys of the usual utilities that some files allow, and not all.
    """

    pool: StudyPool
    rewards: RewardSet
    everything: RewardSet
    utilities: tuple[StudiedUtility, ...]
    values: dict[str, Tensor]
    left_out: tuple[str, ...] = ()


def prepare_seeds(
    files: Sequence[ScoredPool],
    utilities: Sequence[AnyUtility] | Mapping[str, AnyUtility] | None,
    *,
    n_max: int | None,
    one_policy: bool | None,
    generator: Generator,
) -> list[Seed]:
    """Evaluate the utilities on every file and keep the candidates that all of them have a value for.

    Args:
        files: one a seed.
        utilities: as `best_of_n_study` takes them.
        n_max: as `prepare_pool` takes it.
        one_policy: as `prepare_pool` takes it.
        generator: source of the draws of utilities that draw.

    Raises:
        DataError: files disagree about prompts, candidates or gold, allow no utility in common, or `prepare_pool`
            finds something wrong with one.
    """
    orders = _matched(files) if len(files) > 1 else []
    as_scored = [one.reward_set() for one in files]
    studied = [studied_utilities(one, utilities, found) for one, found in zip(files, as_scored, strict=True)]
    allowed = [[one.key for one in ones] for ones in studied]
    common = [key for key in allowed[0] if all(key in keys for keys in allowed)]
    left_out = tuple(dict.fromkeys(key for keys in allowed for key in keys if key not in common))
    if not common:
        raise DataError(
            f"the seeds {', '.join(file.source for file in files)} allow no utility in common: score all alike, or say "
            "which utilities to study"
        )
    studied = [tuple(one for key in common for one in ones if one.key == key) for ones in studied]
    rewards = [in_working_type(one) for one in as_scored]
    del as_scored
    values = [
        {one.key: _held(one.fitted(found, generator), found.group) for one in ones}
        for ones, found in zip(studied, rewards, strict=True)
    ]
    has_value = [
        ~torch.stack([value.isnan() for value in found.values()]).any(0) & has_moments(file)
        for file, found in zip(files, values, strict=True)
    ]
    seen = [file.is_calibration for file in files]
    if orders:
        has_value, seen = _in_all(has_value, orders), [~one for one in _in_all([~one for one in seen], orders)]
        _check_which_is_which(files, orders, has_value)
    pools = [
        prepare_pool(file, has_value=known, is_calibration=calibrated, n_max=n_max, one_policy=one_policy)
        for file, known, calibrated in zip(files, has_value, seen, strict=True)
    ]
    return [
        Seed(pool, pool.taken(found), found, ones, {key: pool.taken(value) for key, value in by_key.items()}, left_out)
        for pool, found, ones, by_key in zip(pools, rewards, studied, values, strict=True)
    ]


def _held(value: Tensor, group: Tensor) -> Tensor:
    """The values `[N]` of a utility in the working type; where that is single, around the average of the prompt."""
    if working_type(len(value)) == torch.float64:
        return value.double()
    index = index_groups(group)
    known = value.isfinite()
    total = index.sum(torch.where(known, value.double(), 0.0)) / index.sum(known.double()).clamp(min=1)
    return (value - total[index.position]).float()


def _matched(files: Sequence[ScoredPool]) -> list[NDArray[np.int64]]:
    """For each file the order of its rows in which those of all files are of the same candidates.

    Raises:
        DataError: the files are of different prompts, numbers of candidates, responses, or gold.
    """
    named = all("response_id" in one.table.column_names for one in files)
    orders, prompts = [], []
    for one in files:
        prompt = one.group.numpy()
        within = one.table["response_id"].to_numpy() if named else np.arange(len(prompt))
        order = np.lexsort((within, prompt))
        orders.append(order)
        prompts.append(prompt[order])
    first = files[0]
    for file, prompt in zip(files[1:], prompts[1:], strict=True):
        ours, theirs = (np.unique(ids, return_counts=True) for ids in (prompts[0], prompt))
        if not np.array_equal(ours[0], theirs[0]):
            odd = np.setxor1d(ours[0], theirs[0])[0]
            there, missing = (first, file) if odd in ours[0] else (file, first)
            raise DataError(
                f"{missing.source} has no prompt {odd}, which {there.source} has: seeds are averaged over the same "
                "pool, so score one pool with all of them"
            )
        if (ours[1] != theirs[1]).any():
            place = int((ours[1] != theirs[1]).argmax())
            raise DataError(
                f"{file.source} has {theirs[1][place]} candidates of prompt {ours[0][place]}, where {first.source} "
                f"has {ours[1][place]}: seeds are averaged over the same pool, so score one pool with all of them"
            )
    for file in files[1:]:
        if _has_gold(file) != _has_gold(first):
            without = first if _has_gold(file) else file
            raise DataError(
                f"{without.source} has no column gold, and other seeds have: score one pool with all of them"
            )
    texts = [_column(one, "prompt", order[_starts(prompts[0])]) for one, order in zip(files, orders, strict=True)]
    _check_same("prompt", files, texts, prompts[0][_starts(prompts[0])])
    for name in ("response_id", "gold", "length") if named else ("gold",):
        columns = [_column(one, name, order) for one, order in zip(files, orders, strict=True)]
        if not named:  # which is which is not known, only how often each occurs
            columns = [None if one is None else one[np.lexsort((one, prompts[0]))] for one in columns]
        _check_same(name, files, columns, prompts[0])
    return orders


def _starts(prompts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each prompt starts, of ids in ascending order."""
    return np.unique(prompts, return_index=True)[1]


def _column(file: ScoredPool, name: str, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    """Some rows of a column; None where the file has none."""
    if name not in file.table.column_names:
        return None
    found: NDArray[Any]
    if name in ("gold", "length"):
        found = file.column(name).numpy()[rows]
    else:
        found = file.table[name].take(pa.array(rows)).to_numpy()
    return found


def _check_same(
    name: str, files: Sequence[ScoredPool], columns: Sequence[NDArray[Any] | None], prompts: NDArray[np.int64]
) -> None:
    """Refuse a column that differs from that of the first file, where both have it."""
    for file, column in zip(files[1:], columns[1:], strict=True):
        if column is None or columns[0] is None:
            continue
        if len(differ := np.flatnonzero(_unlike(column, columns[0]))):
            raise DataError(
                f"{file.source} has other values of {name} for prompt {prompts[differ[0]]} than {files[0].source}: "
                "seeds are averaged over the same pool, so score one pool with all of them"
            )


def _unlike(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.bool_]:
    """Where values differ; NaN is like NaN."""
    unlike: NDArray[np.bool_] = (ours != theirs) & ((ours == ours) | (theirs == theirs))
    return unlike


def _has_gold(file: ScoredPool) -> bool:
    return "gold" in file.table.column_names


def _in_all(flags: Sequence[Tensor], orders: Sequence[NDArray[np.int64]]) -> list[Tensor]:
    """Of booleans `[N]` in the order of each file whether they are true in all files."""
    places = [torch.from_numpy(order) for order in orders]
    everywhere = torch.stack([one[place] for one, place in zip(flags, places, strict=True)]).all(0)
    return [torch.empty_like(everywhere).index_put_((place,), everywhere) for place in places]


def _check_which_is_which(
    files: Sequence[ScoredPool], orders: Sequence[NDArray[np.int64]], keep: Sequence[Tensor]
) -> None:
    """Where candidates are left out, those of all files must be known to be the same ones."""
    if bool(keep[0].all()) or all("response_id" in one.table.column_names for one in files):
        return
    told = [name for name in ("response", "gold") if all(name in one.table.column_names for one in files)]
    for file, order in zip(files[1:], orders[1:], strict=True):
        pairs = ((_column(file, name, order), _column(files[0], name, orders[0])) for name in told)
        if not told or any(ours is None or theirs is None or _unlike(ours, theirs).any() for ours, theirs in pairs):
            raise DataError(
                f"{file.source} may have the candidates of a prompt in another order than {files[0].source}, and some "
                "have no value: give both a column response_id"
            )
