"""The file of cleaned preferences: the rows as they were, treated, with what was found out about them."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prudent.errors import DataError, PrudentError
from prudent.models import atomic_file

__all__ = ["check_output", "swapped", "write_preferences"]

_SUFFIXES = (".jsonl", ".parquet")


def check_output(output: str | Path, data: Any, *, overwrite: bool) -> Path:
    """Make sure that cleaned preferences can be written, before any model is loaded.

    Raises:
        PrudentError: another kind of file, one that is there and may not be replaced, or the data themselves.
    """
    path = Path(output)
    if path.suffix.lower() not in _SUFFIXES:
        raise PrudentError(f"{path}: cleaned preferences are written as {' or '.join(_SUFFIXES)}; give such a name")
    if path.is_dir():
        raise PrudentError(f"{path} is a folder; give the name of a file")
    if path.exists() and isinstance(data, str | Path) and Path(data).expanduser().resolve() == path.resolve():
        raise PrudentError(f"{path} is what is to be cleaned, and would be lost; give another output")
    if path.exists() and not overwrite:
        raise PrudentError(f"{path} is there already; give another output or say overwrite (--overwrite)")
    return path


def swapped(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its responses changed about, and with them all columns that come in pairs.

    Example:
        >>> swapped({"prompt": "1+1", "chosen": "3", "rejected": "2", "score_chosen": 0.1, "score_rejected": 0.9})
        {'prompt': '1+1', 'chosen': '2', 'rejected': '3', 'score_chosen': 0.9, 'score_rejected': 0.1}
    """
    return {name: row.get(_other_side(name, row), value) for name, value in row.items()}


def write_preferences(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write rows as JSON lines or Parquet, by the file's name; the file is there whole or not at all.

    Raises:
        DataError: a value that the format cannot hold; the column is named.
    """
    with atomic_file(path) as temporary:
        if path.suffix.lower() == ".jsonl":
            # What is no UTF-8 becomes \udXXX, which is how JSON writes it.
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:
                for row in rows:
                    stream.write(_json(row) + "\n")
        else:
            pq.write_table(_table(list(rows)), temporary, compression="zstd")


def _other_side(name: str, row: Mapping[str, Any]) -> str:
    # The probability of a label is what is turned round: changed about with the texts, it would say the same as before.
    if name in ("p_chosen", "p_rejected"):
        return name
    for one, other in (("chosen", "rejected"), ("rejected", "chosen")):
        partner = name.replace(one, other)
        if one in name and partner in row:
            return partner
    return name


def _json(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise DataError(
            f"a column cannot be written as JSON ({error}); write .parquet, or leave the column out"
        ) from None


def _plain(value: Any) -> Any:
    """As JSON has it: numbers that are not finite are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise DataError(f"the column {name} cannot be written as Parquet ({error}); write .jsonl") from error
    return pa.table(columns)
