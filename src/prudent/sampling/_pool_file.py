"""The finished pool: one row a prompt, as Parquet or JSON lines, with what it was sampled by."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prudent.data import MESSAGES, read_rows
from prudent.errors import PrudentError
from prudent.models import atomic_file

__all__ = ["SUFFIXES", "read_pool", "require_pool", "write_pool"]

SUFFIXES = (".parquet", ".jsonl")
"""What a pool file may end with."""
_COLUMNS = {
    "prompt": MESSAGES,
    "responses": pa.list_(pa.string()),
    "finish_reason": pa.list_(pa.string()),
    "completion_tokens": pa.list_(pa.int32()),
    "gold": pa.list_(pa.float32()),
    **dict.fromkeys(("id", "source", "subset"), pa.string()),
}
_CHARACTERS_PER_GROUP = 2**24


def write_pool(path: Path, rows: Iterable[dict[str, Any]], sampling: dict[str, Any]) -> None:
    """Write a pool, whole or not at all.

    Args:
        path: ends with one of `SUFFIXES`.
        rows: one a prompt, all with the same columns.
        sampling: goes into every row, so that it stays with the prompts wherever they go.
    """
    with atomic_file(path) as temporary, _WRITERS[path.suffix](temporary) as write:
        for row in rows:
            write({**row, "sampling": sampling})


def read_pool(path: Path, sampling: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a pool that was sampled so, whatever the names of the models.

    Raises:
        PrudentError: it was sampled otherwise, or not by `sample_pool`.
    """
    for row in require_pool(path):
        found = row["sampling"]
        keys = {*sampling, *found} - {"policy", "gold_model"}
        if different := sorted(key for key in keys if sampling.get(key) != found.get(key)):
            raise PrudentError(_told(path, different, sampling, found))
        yield row


def _told(path: Path, different: list[str], wanted: dict[str, Any], found: dict[str, Any]) -> str:
    if different == ["gold_weights"]:
        which = "without a gold model" if "gold_weights" not in found else "with another gold model"
        which = which if "gold_weights" in wanted else "with a gold model"
        return (
            f"{path} was sampled {which} (--gold-model), and gold is not added later; give another output, or "
            "say overwrite (--overwrite) to sample all of it again"
        )
    names = ["gold model" if key == "gold_weights" else key for key in different]
    return f"{path} was made with another {', '.join(names)}; give another output, or say overwrite (--overwrite)"


def require_pool(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a pool that `sample_pool` wrote; the first is read at once.

    Raises:
        PrudentError: it was not written by `sample_pool`.
    """
    rows = (row for _, row in read_rows(path))
    first = next(rows, {})
    if not isinstance(first.get("sampling"), dict):
        raise PrudentError(f"{path} exists and was not written by sampling; give another output")
    return chain([first], rows)


@contextmanager
def _json_lines(path: Path) -> Iterator[Callable[[dict[str, Any]], object]]:
    with path.open("w", encoding="utf-8") as stream:
        yield lambda row: stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[dict[str, Any]], object]]:
    held: list[dict[str, Any]] = []
    size = 0
    writer: pq.ParquetWriter | None = None

    def flush() -> None:
        nonlocal writer, size
        kinds = {name: _COLUMNS.get(name) for name in held[0]}
        table = pa.table({name: pa.array([row[name] for row in held], kind) for name, kind in kinds.items()})
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
        held.clear()
        size = 0

    def write(row: dict[str, Any]) -> None:
        nonlocal size
        held.append(row)
        size += sum(map(len, row["responses"]))
        if size >= _CHARACTERS_PER_GROUP:
            flush()

    try:
        yield write
        if held:
            flush()
    finally:
        if writer is not None:
            writer.close()


_WRITERS = {".parquet": _parquet, ".jsonl": _json_lines}
