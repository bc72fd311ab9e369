"""Candidate pools: prompts with the responses among which to choose, from anywhere, as canonical rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, islice
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, IterableDataset

from prudent.data._candidates import NumberedItem, canonical_pool, grouped
from prudent.data._faults import BadRow, FaultLog, LoadSummary, OnBad, check_on_bad, count_of, names_of
from prudent.data._files import Item
from prudent.data._layout import ResponseColumns
from prudent.data._messages import is_blank
from prudent.data._sources import DataSource, Source, open_source
from prudent.data._tables import MESSAGES, TableBuilder
from prudent.errors import DataError

_SCHEMA = pa.schema([("prompt", MESSAGES), ("responses", pa.list_(pa.string())), ("row", pa.int64())])
_OPTIONAL = {"gold": pa.list_(pa.float64()), "source": pa.string(), "subset": pa.string(), "id": pa.string()}
_KNOWN = frozenset({*_SCHEMA.names, *_OPTIONAL, "prompt_id", "response"})
_PEEK_ROWS = 100


@dataclass
class PoolsSummary(LoadSummary):
    """What was read, kept and skipped.

    Attributes:
        num_responses: Responses kept.
        num_dropped: Responses left out by `drop`.
        num_blank: Responses kept that show no character.
        num_without_gold: Responses kept that have no gold reward, in pools that have any.
    """

    num_responses: int = 0
    num_dropped: int = 0
    num_blank: int = 0
    num_without_gold: int = 0

    def _kept(self) -> str:
        text = f"{count_of(self.num_rows, 'prompt')} with {count_of(self.num_responses, 'response')}"
        if self.num_dropped:
            text += f"; {count_of(self.num_dropped, 'response')} dropped"
        if self.num_blank:
            text += f"; {count_of(self.num_blank, 'response')} blank"
        if self.num_without_gold:
            text += f"; {count_of(self.num_without_gold, 'response')} without gold"
        return text


@dataclass(frozen=True)
class Pools:
    """Candidate pools in canonical form.

    Attributes:
        rows: One row a prompt. `prompt`: list of {role, content}. `responses`: list of n texts, n differing between
            rows. `row`: the 0-based number of its (first) row in the source. Where the source has them: `gold` (list
            of n floats, NaN for none), `source`, `subset`, `id` (text or null), and every column that holds one
            plain value a response (list of n, null for none).
        summary: What was read, kept and skipped.
    """

    rows: Dataset | IterableDataset
    summary: PoolsSummary

    def __len__(self) -> int:
        return self.summary.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def load_pools(
    source: DataSource,
    *,
    split: str = "train",
    name: str | None = None,
    streaming: bool = False,
    on_bad: OnBad = "error",
    drop: str | None = None,
    adapt: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Pools:
    """Load candidate pools and check every row, before any model is loaded.

    Two shapes are accepted. One row a prompt: `prompt` with `responses` (a list of texts, or of message lists with
    the assistant's one message), optionally `gold` (finite; null or NaN for none) and any other columns with one value
    a response. One row a response: `prompt`, `response`, optionally `gold` and others; rows belong to one prompt by
    `prompt_id`, or without it by equal prompts. Texts are never stripped. A blank response is kept and counted: a
    policy that says nothing is scored for it. Columns that are neither known (prompt, responses, gold, source, subset,
    and id or prompt_id of the prompt) nor one plain value a response are not kept (`summary.unused_columns`).

    Args:
        source: A file (.jsonl, .json, .csv, each also .gz, or .parquet), a folder of such files or of `save_to_disk`,
            a name on the hub, a `datasets` object, or a list of dicts. In CSV a cell may hold a list as JSON.
        split: The split of a source that has several; not looked at for a single file.
        name: The configuration of a set of the hub.
        streaming: Hold no more than some prompts in memory. What is local is checked in one pass first; a set of the
            hub is checked while it is read. Rows of one response must then stand together by prompt.
        on_bad: "error" raises for rows that cannot be used; "skip" leaves them out and counts them by reason.
        drop: A column with true or false a response; responses for which it is true are left out.
        adapt: What to make of each row first, for sources that are pools by other names. A DataError that it raises is
            a fault of that row.

    Returns:
        The pools, `rows` being a `datasets.Dataset` or, when streaming, an `IterableDataset`.

    Raises:
        DataError: The source is missing, damaged or empty, lacks columns, or has bad rows; one line with the number of
            bad rows and the place and fault of the first five (0-based row; for JSON lines also the 1-based line).

    Example:
        >>> pools = load_pools([{"prompt": "Name a colour.", "responses": ["Blue.", "Seven."], "gold": [1.0, None]}])
        >>> pools.rows[0]["gold"]
        [1.0, nan]
        >>> print(pools.summary)
        the list of rows: 1 prompt with 2 responses; 1 response without gold
    """
    check_on_bad(on_bad)
    opened = open_source(source, split=split, name=name, streaming=streaming)
    if adapt is not None:
        opened = replace(opened, columns=None, read=partial(_adapted, opened.read, adapt))
    columns = _columns_of(opened)
    if columns:
        _check_columns(opened.name, columns, drop)
    reader = _Reader(opened, "responses" not in columns, streaming, on_bad, drop)
    summary = PoolsSummary(opened.name)
    if not streaming:
        return Pools(_table(reader, summary), summary)
    layout = ResponseColumns(reader.known)
    # of a remote stream only the first rows are seen now, so what it declares counts as present
    present = set() if opened.is_local else set(columns)
    first = reader.pools(summary if opened.is_local else PoolsSummary(opened.name), layout)
    for pool in first if opened.is_local else islice(first, _PEEK_ROWS):
        present.update(column for column in _OPTIONAL if pool[column] is not None)
    types = {column: kind for column, kind in _OPTIONAL.items() if column in present}
    types |= {column: pa.list_(kind) for column, kind in layout.types().items()}
    stream = partial(_stream, reader, None if opened.is_local else summary, tuple(types))
    features = Features.from_arrow_schema(pa.schema([*_SCHEMA, *types.items()]))
    return Pools(IterableDataset.from_generator(stream, features=features), summary)


@dataclass(frozen=True)
class _Reader:
    """A pass over the pools of a source, as often as wanted."""

    source: Source
    is_flat: bool
    streaming: bool
    on_bad: OnBad
    drop: str | None

    @property
    def known(self) -> frozenset[str]:
        """Columns that are not taken for one value a response."""
        return _KNOWN if self.drop is None else _KNOWN | {self.drop}

    def pools(self, summary: PoolsSummary, layout: ResponseColumns) -> Iterator[dict[str, Any]]:
        """The good pools; the bad ones are counted, and raised together after the last row where that can wait."""
        log = FaultLog(self.source.name)
        names: dict[str, None] = dict.fromkeys(self.source.columns or [])
        for index, place, row in self._items(summary):
            try:
                if isinstance(row, BadRow):
                    raise row
                names.update(dict.fromkeys(row))
                pool = canonical_pool(row, self.drop)
            except BadRow as fault:
                log.add(place, fault)
                if self.on_bad == "error" and self.streaming and not self.source.is_local:
                    raise log.error(summary.num_read) from None
                continue
            layout.update(row, len(pool["responses"]))
            yield self._chosen(pool, row, index, summary)
        log.finish(summary, self.on_bad)
        used = {*self.known, *layout.types()}
        summary.unused_columns = [column for column in names if column not in used]

    def _items(self, summary: PoolsSummary) -> Iterator[NumberedItem]:
        def counted() -> Iterator[Item]:
            for item in self.source.read():
                summary.num_read += 1
                yield item

        if self.is_flat:
            yield from grouped(counted(), consecutive=self.streaming, source=self.source.name)
        else:
            yield from ((index, *item) for index, item in enumerate(counted()))

    def _chosen(self, pool: dict[str, Any], row: dict[str, Any], index: int, summary: PoolsSummary) -> dict[str, Any]:
        """The pool without dropped responses, its other columns beside it."""
        kept: list[bool] = pool.pop("kept")
        columns = {
            name: list(compress(values, kept))
            for name, values in row.items()
            if name not in self.known and isinstance(values, Sequence) and len(values) == len(kept)
        }
        pool["responses"] = list(compress(pool["responses"], kept))
        if pool["gold"] is not None:
            pool["gold"] = list(compress(pool["gold"], kept))
            summary.num_without_gold += sum(map(math.isnan, pool["gold"]))
        summary.num_rows += 1
        summary.num_responses += len(pool["responses"])
        summary.num_dropped += len(kept) - len(pool["responses"])
        summary.num_blank += sum(map(is_blank, pool["responses"]))
        return {**pool, "row": index, "columns": columns}


def _adapted(read: Callable[[], Iterator[Item]], adapt: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[Item]:
    for place, row in read():
        if isinstance(row, BadRow):
            yield place, row
            continue
        try:
            yield place, adapt(row)
        except DataError as error:
            yield place, BadRow("wrong columns", str(error))


def _table(reader: _Reader, summary: PoolsSummary) -> Dataset:
    layout = ResponseColumns(reader.known)
    builder = TableBuilder(_SCHEMA)
    labels: dict[str, list[Any]] = {column: [] for column in _OPTIONAL}
    others: list[dict[str, list[Any]]] = []
    lengths: list[int] = []
    for pool in reader.pools(summary, layout):
        builder.append(pool, sum(map(len, pool["responses"])))
        # types of the other columns are known only after the last row
        others.append(pool["columns"])
        lengths.append(len(pool["responses"]))
        for column, values in labels.items():
            values.append(pool[column])
    columns = {}
    for name, kind in _OPTIONAL.items():
        if any(value is not None for value in labels[name]):
            filled = (_fill(name, *pair) for pair in zip(labels[name], lengths, strict=True))
            columns[name] = pa.array(filled, kind)
    for name, kind in layout.types().items():
        filled = (_fill(name, other.get(name), length) for other, length in zip(others, lengths, strict=True))
        columns[name] = pa.array(filled, pa.list_(kind))
    return builder.finish(columns)


def _stream(reader: _Reader, summary: PoolsSummary | None, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    summary = PoolsSummary(reader.source.name) if summary is None else summary
    summary.restart()
    for pool in reader.pools(summary, ResponseColumns(reader.known)):
        length = len(pool["responses"])
        row = {column: pool[column] for column in _SCHEMA.names}
        for name in columns:
            row[name] = _fill(name, pool[name] if name in _OPTIONAL else pool["columns"].get(name), length)
        yield row


def _fill(name: str, value: Any, num_responses: int) -> Any:
    if value is not None or name in ("source", "subset", "id"):
        return value
    return [math.nan if name == "gold" else None] * num_responses


def _columns_of(source: Source) -> list[str]:
    """The declared columns, or those of the first rows."""
    if source.columns is not None:
        return source.columns
    rows = (row for _, row in islice(source.read(), _PEEK_ROWS))
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def _check_columns(name: str, columns: list[str], drop: str | None) -> None:
    there = f"there are {names_of(columns)}"
    if "prompt" not in columns or not {"responses", "response"} & set(columns):
        hint = ""
        if {"chosen", "rejected"} <= set(columns):
            hint = "; these look like preferences, which `train`, `fit` and `evaluate` read"
        raise DataError(
            f"{name}: no column {'prompt' if 'prompt' not in columns else 'responses or response'}; {there}. Pools need"
            " `prompt` with `responses` (a list of texts, one row a prompt), or `prompt` with `response` (one row a"
            f" response, with `prompt_id` where it is known); optional is gold{hint}"
        )
    if drop is not None and drop not in columns:
        raise DataError(f"{name}: no column {drop} by which to drop responses; {there}")
