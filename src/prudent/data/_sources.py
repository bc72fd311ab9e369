"""Where rows come from: a file, a folder, the hub, a `datasets` object, or a list; each read as one stream of rows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from prudent.data._faults import BadRow, Place
from prudent.data._files import KNOWN_FORMATS, Item, file_columns, first_line, format_of, read_file
from prudent.errors import DataError

DataSource: TypeAlias = str | os.PathLike[str] | Dataset | IterableDataset | DatasetDict | Sequence[Mapping[str, Any]]

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_SPLIT_WORDS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_METADATA_FILES = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_BATCH_ROWS = 100

# What `datasets` raises for a set that is missing, damaged, unreachable or of an old make.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    DatasetsError,
    HfHubHTTPError,
    pa.ArrowException,
)


@dataclass(frozen=True)
class Source:
    """Rows that can be read.

    Attributes:
        name: What to call it in messages.
        columns: The columns it declares; None where each row has its own keys.
        read: Starts a pass over the rows.
        is_local: A second pass is cheap and sees the same rows.
    """

    name: str
    columns: list[str] | None
    read: Callable[[], Iterator[Item]]
    is_local: bool = True


def open_source(
    source: DataSource,
    *,
    split: str,
    name: str | None = None,
    streaming: bool = False,
    columns: frozenset[str] | None = None,
) -> Source:
    """Find out what the source is; nothing but headers is read yet, except from the hub.

    Args:
        source: A path, a hub name, a `datasets` object or a list of rows.
        split: The split of a source that has several.
        name: The configuration of a set of the hub.
        streaming: Do not download a set of the hub before reading it.
        columns: Read these columns only where the format allows to skip others.

    Raises:
        DataError: There is nothing of this name, or no such split in it, or it cannot be read.
        TypeError: The source is none of these.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if not str(source):
            raise DataError("the source is an empty name; give a file, a folder or a name on the hub")
        if path.is_dir():
            return _open_folder(path, split, columns)
        if path.exists():
            return _open_files(str(source), [path], columns)
        if not isinstance(source, str) or is_path_like(source):
            raise DataError(f"{source}: there is no such file or folder; check the path")
        return _open_hub(source, split, name, streaming, columns)
    if isinstance(source, DatasetDict | IterableDatasetDict):
        return _open_object(_pick_split(source, split, type(source).__name__), type(source).__name__, columns)
    if isinstance(source, Dataset | IterableDataset):
        return _open_object(source, type(source).__name__, columns)
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        return Source("the list of rows", None, partial(_read_list, source))
    raise TypeError(
        f"source must be a path, a hub name, a datasets.Dataset or a list of dicts, not {type(source).__name__}"
    )


def is_path_like(source: str) -> bool:
    looks_local = source.startswith(("/", ".", "~")) or "\\" in source
    return looks_local or format_of(Path(source)) is not None or not _HUB_NAME.fullmatch(source)


def _open_files(name: str, paths: list[Path], columns: frozenset[str] | None) -> Source:
    for path in paths:
        if format_of(path) is None:
            raise DataError(f"{path}: the format is not known by its name; known are {KNOWN_FORMATS}")
    declared: list[str] | None = []
    for path in paths:
        names = file_columns(path) if path.stat().st_size else []
        declared = None if declared is None or names is None else list(dict.fromkeys([*declared, *names]))
    return Source(name, declared or None, partial(_read_files, tuple(paths), columns))


def _read_files(paths: tuple[Path, ...], columns: frozenset[str] | None) -> Iterator[Item]:
    for path in paths:
        yield from read_file(path, path.name if len(paths) > 1 else "", columns)


def _open_folder(folder: Path, split: str, columns: frozenset[str] | None) -> Source:
    is_dataset = (folder / "state.json").exists() and (folder / "dataset_info.json").exists()
    if is_dataset or (folder / "dataset_dict.json").exists():
        try:
            saved = load_from_disk(str(folder))
        except _LOADING_ERRORS as error:
            raise DataError(
                f"{folder}: it looks like a folder of `save_to_disk` but cannot be loaded, {first_line(error)};"
                " save it again"
            ) from error
        return _open_object(_pick_split(saved, split, str(folder)), str(folder), columns)
    files = data_files(folder)
    if not files:
        raise DataError(f"{folder}: there is no data file in this folder; needed are {KNOWN_FORMATS}")
    chosen = _files_of_split(folder, files, split)
    formats = {format_of(path) for path in chosen}
    if len(formats) > 1:
        raise DataError(
            f"{folder}: the folder holds its {split} rows in several formats"
            f" ({', '.join(path.name for path in chosen[:5])}); name the one file to read"
        )
    return _open_files(str(folder), chosen, columns)


def data_files(folder: Path) -> list[Path]:
    """The files of a folder that hold data, by their names, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and format_of(path) is not None
        and path.name not in _METADATA_FILES
        # Arrow too passes over names that begin so: marks and manifests of whoever wrote the folder.
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )


def _files_of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files of a split as the hub names them: `train/*`, `train.jsonl`, `data/train-00000-of-00002.parquet`.

    A folder in which no name speaks of a split is one set, whatever the split asked for.
    """
    names = {path: _name_parts(folder, path) for path in files}
    exact = [path for path in files if split in names[path]]
    if exact:
        return exact
    found = [path for path in files if any(_speaks_of(split, part) for part in names[path])]
    if found:
        return found
    others = [word for word in splits_of_files(folder, files) if word]
    if others:
        raise DataError(f"{folder}: there is no split {split!r} in this folder; there are {', '.join(others)}")
    return files


def splits_of_files(folder: Path, files: list[Path]) -> list[str]:
    """The usual splits that names of files speak of; with "" where other files speak of none."""
    spoken = [
        {word for word in _SPLIT_WORDS if any(_speaks_of(word, part) for part in _name_parts(folder, path))}
        for path in files
    ]
    found = set().union(*spoken)
    return sorted(found | {""}) if found and not all(spoken) else sorted(found)


def _name_parts(folder: Path, path: Path) -> list[str]:
    return [*path.relative_to(folder).parts[:-1], re.sub(r"(-\d+-of-\d+)?\..*", "", path.name)]


def _speaks_of(split: str, text: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(split)}(?![A-Za-z0-9])", text) is not None


def _pick_split(dataset: Any, split: str, name: str) -> Dataset | IterableDataset:
    if not isinstance(dataset, DatasetDict | IterableDatasetDict):
        return dataset
    if split not in dataset:
        raise DataError(f"{name}: there is no split {split!r}; there are {', '.join(dataset)}")
    return dataset[split]


def _open_hub(source: str, split: str, name: str | None, streaming: bool, columns: frozenset[str] | None) -> Source:
    with hub_errors_explained(source, f"it with split {split!r} and name {name!r}"):
        dataset = load_dataset(source, name=name, split=split, streaming=streaming)
    return _open_object(dataset, source, columns)


@contextmanager
def hub_errors_explained(source: str, asked: str) -> Iterator[None]:
    """Say in one line what the hub did not give."""
    try:
        yield
    except ConnectionError as error:
        raise DataError(
            f"{source}: there is no such file or folder here, and the hub cannot be reached"
            f" ({first_line(error)}); check the path, or the network and HF_HUB_OFFLINE"
        ) from error
    except _LOADING_ERRORS as error:
        raise DataError(
            f"{source}: there is no such file or folder here, and the hub does not give {asked} ({first_line(error)})"
        ) from error


def _open_object(dataset: Dataset | IterableDataset, name: str, columns: frozenset[str] | None) -> Source:
    declared: list[str] | None = dataset.column_names
    if declared is not None and columns is not None:
        wanted = [column for column in declared if column in columns]
        dataset = dataset.select_columns(wanted) if wanted else dataset
    return Source(name, declared, partial(_read_object, dataset, name), is_local=isinstance(dataset, Dataset))


def _read_object(dataset: Dataset | IterableDataset, name: str) -> Iterator[Item]:
    row = 0
    try:
        for batch in dataset.with_format(None).iter(batch_size=_BATCH_ROWS):
            names = list(batch)
            for values in zip(*batch.values(), strict=True):
                yield Place("", row), dict(zip(names, values, strict=True))
                row += 1
    except _LOADING_ERRORS as error:
        raise DataError(f"{name}: it cannot be read after row {row - 1}, {first_line(error)}") from error


def _read_list(rows: Sequence[Any]) -> Iterator[Item]:
    for index, row in enumerate(rows):
        if isinstance(row, Mapping):
            yield Place("", index), dict(row)
        else:
            yield Place("", index), BadRow("not a dict", f"a row must be a dict, this is a {type(row).__name__}")
