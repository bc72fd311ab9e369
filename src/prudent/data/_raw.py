"""Rows as they stand in a source, with every column that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prudent.data._faults import BadRow
from prudent.data._sources import DataSource, open_source

__all__ = ["read_rows"]


def read_rows(
    source: DataSource, *, split: str = "train", name: str | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a source, unchecked and unchanged; `load_preferences` says which of them are good pairs.

    Args:
        source: Anything that `load_preferences` takes.
        split: The split of a source that has several; not looked at for a single file.
        name: The configuration of a set of the hub.

    Yields:
        The 0-based number of a row, as in the column `row` of loaded pairs, and its columns. What is no row at all (a
        line that is not JSON) is passed over, and counted.

    Raises:
        DataError: The source is missing, damaged or empty.

    Example:
        >>> next(read_rows([{"chosen": "Blue.", "rejected": "Seven.", "rater": 3}]))
        (0, {'chosen': 'Blue.', 'rejected': 'Seven.', 'rater': 3})
    """
    for number, (_, row) in enumerate(open_source(source, split=split, name=name).read()):
        if not isinstance(row, BadRow):
            yield number, row
