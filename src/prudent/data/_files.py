"""Rows of one file, whatever its format, in flat memory and with their place."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from prudent.data._faults import BadRow, Place
from prudent.errors import DataError

Item = tuple[Place, dict[str, Any] | BadRow]

_BATCH_BYTES = 16 * 2**20
_TEXT_COLUMNS = frozenset({"prompt", "chosen", "rejected", "response"})
_NUMBER_COLUMNS = frozenset({"margin", "p_chosen", "gold"})


def format_of(path: Path) -> str | None:
    """`jsonl`, `json`, `csv` or `parquet` by the name's ending (`.gz` may follow all but the last); None for others."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = bool(suffixes) and suffixes[-1] == ".gz"
    if gzipped:
        suffixes.pop()
    kind = _FORMATS.get(suffixes[-1]) if suffixes else None
    return None if gzipped and kind == "parquet" else kind


def file_columns(path: Path) -> list[str] | None:
    """Columns that the file declares; None for JSON, whose rows each have their own."""
    kind = format_of(path)
    with _diagnosed(path):
        if kind == "parquet":
            return list(pq.read_schema(path).names)
        if kind == "csv":
            with _open_text(path) as lines:
                return next(csv.reader(lines), [])
    return None


def read_file(path: Path, file: str, columns: frozenset[str] | None = None) -> Iterator[Item]:
    """The rows of a file, one at a time.

    Args:
        path: A file of a known format.
        file: Its name in the places of rows; empty where there is only this one.
        columns: Read these columns only where the format allows to skip others.

    Yields:
        The place and the row, or what is wrong with it.

    Raises:
        DataError: The file cannot be opened, is empty, or is damaged.
    """
    kind = format_of(path)
    if kind is None:
        raise DataError(f"{path}: the format is not known by its name; known are {KNOWN_FORMATS}")
    with _diagnosed(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; check that it was written completely")
        if kind == "parquet":
            yield from _read_parquet(path, file, columns)
        else:
            yield from _READERS[kind](path, file)


@contextlib.contextmanager
def _diagnosed(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except PermissionError:
        raise DataError(f"{path}: it may not be read; check its permissions") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: it is not gzip or was cut short ({error}); fetch or write it again") from error
    except csv.Error as error:
        raise DataError(f"{path}: it has no header that can be read, {error}; check its quotes") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: it cannot be read, {first_line(error)}; it may be damaged or cut short") from error


def first_line(error: BaseException) -> str:
    """What an error says, cut to one readable line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(" .")


def _read_parquet(path: Path, file: str, columns: frozenset[str] | None) -> Iterator[Item]:
    with pq.ParquetFile(path) as parquet:
        metadata = parquet.metadata
        size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
        # a pool of 12,500 responses is one row: the batch is set by bytes, so that memory stays flat
        batch_size = max(1, min(1000, _BATCH_BYTES * metadata.num_rows // max(size, 1)))
        names = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
        row = 0
        for batch in parquet.iter_batches(batch_size=batch_size, columns=names):
            try:
                values = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}: a text in rows {row} to {row + len(batch) - 1} is not UTF-8; write the file again"
                ) from error
            for value in values:
                yield Place(file, row), value
                row += 1


def _read_jsonl(path: Path, file: str) -> Iterator[Item]:
    with _open_bytes(path) as lines:
        yield from _parse_lines(lines, file)


def _parse_lines(lines: Iterable[bytes], file: str) -> Iterator[Item]:
    row = 0
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.isspace():
            continue
        yield Place(file, row, number), _parse_object(line)
        row += 1


def _parse_object(line: bytes) -> dict[str, Any] | BadRow:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return BadRow("bad JSON", f"not JSON: {error.msg} at column {error.colno}")
    except UnicodeDecodeError as error:
        return BadRow("not UTF-8", f"not UTF-8 at byte {error.start}; save the file as UTF-8")
    except RecursionError:
        return BadRow("bad JSON", "nested too deeply")
    return _to_row(value)


def _to_row(value: Any) -> dict[str, Any] | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow("not an object", f"a row must be a JSON object {{column: value}}, this is a {type(value).__name__}")


def _read_json(path: Path, file: str) -> Iterator[Item]:
    with _open_bytes(path) as stream:
        text = stream.read()
    start = text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start != b"[":  # many name a file of JSON lines .json, and `datasets` reads both
        yield from _parse_lines(text.splitlines(keepends=True), file)
        return
    try:
        values = json.loads(text.removeprefix(b"\xef\xbb\xbf"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}; mend it, or write it anew"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read: {first_line(error)}; save it as UTF-8") from error
    for row, value in enumerate(values):
        yield Place(file, row), _to_row(value)


def _read_csv(path: Path, file: str) -> Iterator[Item]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than one long conversation
    with _open_text(path) as lines:
        reader = csv.reader(lines, strict=True)
        names: list[str] | None = None
        row = 0
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{path}: not CSV at line {reader.line_num}: {error}; check its quotes") from error
            if cells is None:
                return
            if not cells:
                continue
            if names is None:
                names = cells
                continue
            yield Place(file, row), _to_cells(names, cells)
            row += 1


def _to_cells(names: list[str], cells: list[str]) -> dict[str, Any] | BadRow:
    if len(cells) != len(names):
        return BadRow("wrong number of cells", f"{len(cells)} cells for {len(names)} columns; check its quotes")
    return {name: _to_cell(name, cell) for name, cell in zip(names, cells, strict=True)}


def _to_cell(name: str, cell: str) -> Any:
    """A cell as a value: empty is null; JSON lists are read, in columns of texts only where they are messages."""
    if not cell:
        return None
    if name in _NUMBER_COLUMNS and not cell.startswith("["):
        try:
            return float(cell)
        except ValueError:
            return cell
    if cell.startswith("["):
        try:
            values = json.loads(cell)
        except (json.JSONDecodeError, RecursionError):
            return cell
        is_messages = all(isinstance(value, dict) and {"role", "content"} <= value.keys() for value in values)
        return values if name not in _TEXT_COLUMNS or (values and is_messages) else cell
    return cell


def _open_bytes(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _open_text(path: Path) -> IO[str]:
    # bytes that are not UTF-8 become half surrogates, which the check of each text names with its row
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


KNOWN_FORMATS = ".jsonl, .ndjson, .json and .csv (each also .gz), and .parquet"
_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_READERS: dict[str, Callable[[Path, str], Iterator[Item]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
}
