"""Which splits a source has, and which one is meant where none was named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from datasets import DatasetDict, IterableDatasetDict, get_dataset_split_names

from prudent.data._sources import data_files, hub_errors_explained, is_path_like, splits_of_files
from prudent.errors import DataError

_HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")


def split_names(source: Any) -> list[str]:
    """The splits of a source, by headers and names alone; of a set of the hub, by what the hub says.

    Args:
        source: Anything that `load_preferences` and `load_pools` take.

    Returns:
        Their names; none for what has no splits: a file, a list of rows, a `datasets.Dataset`, or a folder in which no
        name speaks of a split. A folder with files that belong to no split, beside others that do, has the split "".

    Raises:
        DataError: The hub does not say.

    Example:
        >>> split_names([{"prompt": "Name a color.", "chosen": "Blue.", "rejected": "Seven."}])
        []
    """
    if isinstance(source, DatasetDict | IterableDatasetDict):
        return list(source)
    if not isinstance(source, str | os.PathLike) or not str(source):
        return []
    path = Path(source).expanduser()
    if path.is_dir():
        return _splits_of_folder(path)
    if path.exists() or not isinstance(source, str) or is_path_like(source):
        return []
    with hub_errors_explained(source, "its splits"):
        return [str(name) for name in get_dataset_split_names(source)]


def choose_split(source: Any, split: str | None, *, held_out: bool = False) -> str | None:
    """The split to read: the one named, else the only one, else with `held_out` the one kept for testing.

    Args:
        source: Anything that `load_preferences` and `load_pools` take.
        split: The split that was named, if any; taken as it is.
        held_out: Where there are several, take the test split, or without one the validation split.

    Returns:
        The name of a split; None where the source has none.

    Raises:
        DataError: There are several and nothing to go by, or the hub does not say which there are.
    """
    if split is not None:
        return split
    names = split_names(source)
    if len(names) <= 1:
        return names[0] if names else None
    found = next((name for name in _HELD_OUT if name in names), None) if held_out else None
    if found is not None:
        return found
    known = ", ".join(name for name in names if name)
    rest = " and files of none" if "" in names else ""
    raise DataError(f"{source_name(source)}: there are the splits {known}{rest}; choose one by split (--split)")


def check_eval_split(source: Any, eval_split: str, *, split: str) -> None:
    """Check that evaluation data can come from the same source as training data.

    Args:
        source: Where both come from.
        eval_split: The split to evaluate on.
        split: The split to train on.

    Raises:
        DataError: The source has no splits, or both are one.
    """
    if eval_split == split:
        raise DataError(f"{source_name(source)}: the split {split!r} is to be trained and evaluated on; name another")
    if not split_names(source):
        raise DataError(
            f"{source_name(source)}: there are no splits, and so no {eval_split!r} to evaluate on; give the evaluation"
            " data themselves (--eval-data)"
        )


def source_name(source: Any) -> str:
    """What to call a source in a message."""
    return str(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _splits_of_folder(folder: Path) -> list[str]:
    if (folder / "dataset_dict.json").exists():
        try:
            return list(json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: dataset_dict.json cannot be read; save the set again") from error
    if (folder / "state.json").exists() and (folder / "dataset_info.json").exists():
        return []
    return splits_of_files(folder, data_files(folder))
