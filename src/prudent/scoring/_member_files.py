"""Files of scores made elsewhere, one column a model: read as pools, and the pairs to calibrate the columns on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from prudent.data import DataSource, OnBad, Pools, choose_split, draw_ordered_pairs, load_pools
from prudent.errors import DataError
from prudent.models import as_messages, render_plain
from prudent.scoring._columns import column_types, pool_columns, source_digest
from prudent.scoring._output import PartedOutput
from prudent.scoring._shards import Shard, iterate_shards

__all__ = [
    "MEMBER",
    "CalibrationPairs",
    "ColumnNames",
    "columns_manifest",
    "pairs_of_gold",
    "pairs_of_preferences",
    "read_member_pools",
    "write_shards",
]

MEMBER = "member "
"""What stands before the name of a column of scores in the pools read here, so that no other column has its name."""

_RESPONSES_PER_SHARD = 4096
_TEXT_COLUMNS = ("response", "text_id", "length")
_PAIRS_PER_PROMPT = 64
_NO_PROMPT = "-"
_COLUMNS_SHOWN = 16


@dataclass(frozen=True)
class ColumnNames:
    """What a file calls its columns.

    Attributes:
        scores: one column a model.
        prompt: the text of the prompt.
        response: the text of a response, or the list of them; by default `responses` or `response`, where there is one.
        gold: the true reward.
    """

    scores: tuple[str, ...]
    prompt: str = "prompt"
    response: str | None = None
    gold: str = "gold"

    def __post_init__(self) -> None:
        for name in self.scores:
            if self.scores.count(name) > 1:
                raise DataError(f"column {name} is named twice among the columns of scores; name each once")


@dataclass(frozen=True)
class CalibrationPairs:
    """P pairs with the scores of M members.

    Attributes:
        chosen: `[P, M]` float64 scores of the preferred responses.
        rejected: `[P, M]` those of the others.
        label: `[P]` probability that the chosen one is preferred.
        group: `[P]` int64; pairs of one prompt have the same number.
        is_calibration: `[B]` prompts of the pool that the pairs come from; all False where they come from elsewhere.
    """

    chosen: Tensor
    rejected: Tensor
    label: Tensor
    group: Tensor
    is_calibration: Tensor


class _MissingColumn(Exception):
    """A column that the first row does not have: not a fault of that row."""


def columns_manifest(
    data: DataSource, names: ColumnNames, calibration_data: DataSource | None, **options: Any
) -> dict[str, Any]:
    """What an output of scores made elsewhere is made from; `options` are what it depends on besides."""
    digest = None if calibration_data is None else source_digest(calibration_data)
    return {"data": source_digest(data), **asdict(names), "calibration_data": digest, **options}


def read_member_pools(
    data: DataSource,
    names: ColumnNames,
    *,
    split: str | None,
    drop: str | None,
    on_bad: OnBad,
    nullable: bool = False,
) -> tuple[Pools, bool]:
    """The pools, with a column `MEMBER + name` for each column of scores, and whether responses have texts.

    Args:
        data: the rows.
        names: of their columns.
        split: of data that have several.
        drop: a boolean column; responses where it is true are left out.
        on_bad: what to do with rows that cannot be used.
        nullable: a score may be missing, which is NaN then.

    Raises:
        DataError: columns are missing, or rows cannot be used; column and row are named.
    """
    adapter = _PoolRow(names, nullable)
    return _load(data, adapter, split=split, drop=drop, on_bad=on_bad), adapter.has_texts


def write_shards(
    parts: PartedOutput,
    pools: Pools,
    has_texts: bool,
    reward_columns: Callable[[Shard], dict[str, pa.Array]],
    metadata: dict[str, Any],
) -> None:
    """Write the parts that are not there yet.

    Args:
        parts: where to.
        pools: from `read_member_pools`.
        has_texts: responses have texts.
        reward_columns: what is to be said of the rewards of a shard, a row a response.
        metadata: what a reader must know of them.
    """
    of_pool = column_types(pools.rows.features, metadata.get("rewards", ()))
    kinds = {name: kind for name, kind in of_pool.items() if not name.startswith(MEMBER)}
    stated = {b"prudent": json.dumps(metadata).encode()}
    written = parts.num_parts
    for number, shard in enumerate(iterate_shards(pools.rows, _RESPONSES_PER_SHARD)):
        if number < written:
            continue
        columns = pool_columns(shard, kinds)
        if not has_texts:
            columns = {name: values for name, values in columns.items() if name not in _TEXT_COLUMNS}
        parts.write(pa.table({**columns, **reward_columns(shard)}).replace_schema_metadata(stated))


def pairs_of_gold(pools: Pools, names: ColumnNames, share: float, seed: int) -> CalibrationPairs:
    """Pairs of responses of one prompt that differ in gold, of a share of the prompts drawn at random.

    Of a prompt with more than 64 pairs 64 are drawn, so that no prompt outweighs many others.

    Raises:
        DataError: there is no gold, or it differs within no prompt.
    """
    if "gold" not in pools.rows.column_names:
        raise DataError(
            f"{pools.summary.source}: there is no column {names.gold!r} of gold to calibrate the scores on; name it "
            "(--gold-column), or give preferences with the scores of both responses (--calibration-data)"
        )
    golds = [np.array(row["gold"], dtype=float) for row in pools.rows]
    differ = [len(np.unique(gold[np.isfinite(gold)])) > 1 for gold in golds]
    eligible = np.flatnonzero(differ)
    if len(eligible) == 0:
        raise DataError(
            f"{pools.summary.source}: gold differs within no prompt, so no pair can be calibrated on; give preferences "
            "with the scores of both responses (--calibration-data)"
        )
    generator = np.random.default_rng(seed)
    taken = np.sort(generator.permutation(eligible)[: max(1, round(share * len(eligible)))])
    chosen, rejected, group = [], [], []
    for prompt in taken.tolist():
        gold, scores = golds[prompt], _scores(pools.rows[prompt], names)
        better, worse = draw_ordered_pairs(gold, _PAIRS_PER_PROMPT, generator)
        chosen.append(scores[better])
        rejected.append(scores[worse])
        group += [prompt] * len(better)
    is_calibration = torch.zeros(len(golds), dtype=torch.bool)
    is_calibration[torch.from_numpy(taken)] = True
    return CalibrationPairs(
        torch.from_numpy(np.concatenate(chosen)),
        torch.from_numpy(np.concatenate(rejected)),
        torch.ones(len(group), dtype=torch.float64),
        torch.tensor(group),
        is_calibration,
    )


def pairs_of_preferences(
    data: DataSource, names: ColumnNames, *, num_prompts: int, on_bad: OnBad, nullable: bool = False
) -> CalibrationPairs:
    """The pairs of a preference file with columns `chosen_<column>` and `rejected_<column>`, and p_chosen if it has it.

    Raises:
        DataError: columns are missing, or rows cannot be used; column and row are named.
    """
    rows = _load(data, _PairRow(names, nullable), split=None, drop=None, on_bad=on_bad).rows
    scores = np.stack([_scores(row, names) for row in rows])
    prompts = [render_plain(as_messages(row["prompt"])) for row in rows]
    numbers: dict[str, int] = {}
    # Pairs whose prompt is not known stand each for itself.
    keys = [f"{place}" if text == _NO_PROMPT else f"prompt {text}" for place, text in enumerate(prompts)]
    group = [numbers.setdefault(key, len(numbers)) for key in keys]
    return CalibrationPairs(
        torch.from_numpy(scores[:, 0]),
        torch.from_numpy(scores[:, 1]),
        torch.tensor([row["gold"][0] for row in rows], dtype=torch.float64),
        torch.tensor(group),
        torch.zeros(num_prompts, dtype=torch.bool),
    )


def _load(
    data: DataSource, adapt: "_PoolRow | _PairRow", *, split: str | None, drop: str | None, on_bad: OnBad
) -> Pools:
    split = choose_split(data, split) or "train"
    try:
        return load_pools(data, split=split, drop=drop, on_bad=on_bad, adapt=adapt)
    except _MissingColumn as error:
        source = str(data) if isinstance(data, str | Path) else "the rows"
        raise DataError(f"{source}: {error}") from None


class _PoolRow:
    """Gives a row of a pool the names that pools have, and its scores as numbers."""

    def __init__(self, names: ColumnNames, nullable: bool) -> None:
        self._names = names
        self._nullable = nullable
        self._first = True
        self.has_texts = True

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        names = self._names
        _require(row, [names.prompt, *([names.response] if names.response else []), *names.scores], self._first)
        response = names.response or next((name for name in ("responses", "response") if name in row), None)
        self._first = False
        texts = None if response is None else row[response]
        # A model that does not apply to a prompt may have no list at all.
        first = next((row[name] for name in names.scores if row[name] is not None), texts)
        count = None if not _is_list(first) else len(texts if _is_list(texts) else first)
        found = {name: value for name, value in row.items() if name not in (names.prompt, response, names.gold)}
        found["prompt"] = row[names.prompt]
        if names.gold in row:
            found["gold"] = _each(_plain, row[names.gold])
        if response is None:
            self.has_texts = False
            texts = "" if count is None else [""] * count
        found["response" if count is None else "responses"] = texts
        for name in names.scores:
            found[MEMBER + name] = _numbers(name, row[name], count, self._nullable)
        return found


class _PairRow:
    """Makes a preference pair with scores a pool of two responses; its gold is the label and what is left of 1."""

    def __init__(self, names: ColumnNames, nullable: bool) -> None:
        self._names = names
        self._nullable = nullable
        self._first = True

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        sides = {name: (f"chosen_{name}", f"rejected_{name}") for name in self._names.scores}
        _require(row, [column for pair in sides.values() for column in pair], self._first)
        self._first = False
        label = _plain(row.get("p_chosen"))
        label = 1.0 if label is None else label
        if not (isinstance(label, int | float) and 0 <= label <= 1):
            raise DataError(f"`p_chosen` is {label!r}, a number from 0 to 1 is needed")
        found: dict[str, Any] = {
            "prompt": row.get(self._names.prompt) or _NO_PROMPT,
            "responses": ["", ""],
            "gold": [float(label), 1 - float(label)],
        }
        for name, pair in sides.items():
            found[MEMBER + name] = [_number(column, row[column], self._nullable) for column in pair]
        return found


def _require(row: dict[str, Any], columns: Sequence[str], is_first: bool) -> None:
    for name in columns:
        if name not in row:
            more = ", ..." if len(row) > _COLUMNS_SHOWN else ""
            message = f"no column {name!r}; there are {', '.join(list(row)[:_COLUMNS_SHOWN])}{more}"
            raise _MissingColumn(message) if is_first else DataError(message)


def _numbers(name: str, value: Any, count: int | None, nullable: bool) -> list[float] | float:
    """The scores of a row: one number, or `count` of them in a list."""
    if count is None:
        return _number(name, value, nullable)
    if value is None and nullable:
        return [float("nan")] * count
    if not _is_list(value):
        raise DataError(f"`{name}` is {_shown(value)}, a list of {count} numbers is needed")
    if len(value) != count:
        raise DataError(f"`{name}` has {len(value)} values for {count} responses; give one each")
    return [_number(f"{name}[{place}]", one, nullable) for place, one in enumerate(value)]


def _number(place: str, value: Any, nullable: bool) -> float:
    value = _plain(value)
    if nullable and value in (None, ""):
        return float("nan")
    if value is None or (value != value and not nullable):  # only NaN differs from itself
        raise DataError(f"`{place}` is missing (null or NaN); every member must have scored every response")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"`{place}` is {_shown(value)}, a number is needed")
    if value in (np.inf, -np.inf):
        raise DataError(f"`{place}` is infinite; give a finite score")
    return float(value)


def _plain(value: Any) -> Any:
    """A cell of a CSV file, which is text, as what it says; anything else as it is."""
    if isinstance(value, str):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    return [function(one) for one in value] if _is_list(value) else function(value)


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _scores(row: dict[str, Any], names: ColumnNames) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n, M]` scores of a pool."""
    return np.array([row[MEMBER + name] for name in names.scores], dtype=float).T
