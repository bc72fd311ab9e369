"""What a benchmark asks: prompts with responses, which of them are right, and to what part each belongs."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prudent.data import DataSource, OnBad, Pools, choose_split, load_pools, prompt_groups, read_rows, split_names
from prudent.errors import DataError
from prudent.models import Message

__all__ = ["GIVEN", "Layout", "Questions", "read_questions", "scores_of", "size_note", "texts_of"]

GIVEN = "given_score"


@dataclass(frozen=True)
class Layout:
    """How the rows of a benchmark look.

    Attributes:
        columns: sets of columns, one of which a row must have.
        read: turns a row into one of a pool: `prompt`, `responses`, `gold` (1 for a right response, 0 for a wrong one),
            `subset`, `id`; or, where a row is a response, the same with `response` and `prompt_id`. A DataError that it
            raises is a fault of that row.
        hub: name of the public set.
        split: the split that the public figures are of, where it has several.
        load: loads the rows, and of a column with scores these too, instead of `read`.
    """

    columns: tuple[frozenset[str], ...]
    read: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    hub: str | None = None
    split: str | None = None
    load: Callable[[DataSource, str, OnBad, str | None], Pools] | None = None


@dataclass(frozen=True, eq=False)
class Questions:
    """Q questions with N responses.

    Attributes:
        source: where they came from.
        split: the split of it; None where it has none.
        pools: prompts and responses as `score` takes them.
        start: `[Q]` place of each question's first response among the N; those of a question stand together.
        size: `[Q]` responses of each.
        right: `[N]` float64, 1 for a right response and 0 for a wrong one (a share where labels are soft).
        subset: Q names of parts; None where a row has none.
        ids: Q ids; None where a row has none.
        unit: `[Q]` the prompt of each question, for resampling, 0 to B - 1.
        given: `[N]` float64 scores that came with the rows; None where there are none.
    """

    source: str
    split: str | None
    pools: Pools
    start: Tensor
    size: Tensor
    right: Tensor
    subset: tuple[str | None, ...]
    ids: tuple[str | None, ...]
    unit: Tensor
    given: Tensor | None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def num_prompts(self) -> int:
        """B."""
        return int(self.unit.max()) + 1

    @property
    def prompts(self) -> Sequence[list[Message]]:
        """The prompts."""
        found: Sequence[list[Message]] = self.pools.rows["prompt"]
        return found

    def of_subset(self, *names: str) -> Tensor:
        """`[q]` the questions of some subsets."""
        return torch.tensor([place for place, name in enumerate(self.subset) if name in names], dtype=torch.int64)

    def counts(self) -> dict[str, int]:
        """How many questions each subset has, in the order in which they first come."""
        found: dict[str, int] = {}
        for name in self.subset:
            if name is not None:
                found[name] = found.get(name, 0) + 1
        return found


def read_questions(
    layout: Layout, data: DataSource, *, name: str, split: str | None, scores: str | None, skip_bad: bool
) -> Questions:
    """Read and check the rows of a benchmark.

    Args:
        layout: how they look.
        data: anything that `prudent.data.load_pools` takes.
        name: of the benchmark, for messages.
        split: the split of data that have several; by default the one that public figures are of, else as `evaluate`.
        scores: a column with a score for each response, in their order; responses' texts may then be absent.
        skip_bad: leave faulty rows out instead of stopping.

    Raises:
        DataError: columns are missing, or rows are faulty.
    """
    if split is None and layout.split in split_names(data):
        split = layout.split
    split = choose_split(data, split, held_out=True)
    usual = split or "train"
    first = next(read_rows(data, split=usual), None)
    if first is not None:
        try:
            _check_columns(layout, list(first[1]), name, scores)
        except DataError as error:
            called = data if isinstance(data, str | os.PathLike) else type(data).__name__
            raise DataError(f"{called}: {error}") from None

    def adapt(row: dict[str, Any]) -> dict[str, Any]:
        assert layout.read is not None
        pool = layout.read(row)
        if scores is not None:
            pool[GIVEN] = scores_of(row, scores, len(pool["responses"]) if "responses" in pool else None)
        elif None in (texts := pool.get("responses", ())):
            if any(text is not None for text in texts):
                raise DataError(f"the text of response {texts.index(None) + 1} of {len(texts)} is missing or null")
            raise DataError("there are no texts of responses in it; give the column of their scores (--score-column)")
        if "responses" in pool:
            pool["responses"] = [
                f"response {number}" if text is None else text for number, text in enumerate(pool["responses"])
            ]
        return pool

    on_bad: OnBad = "skip" if skip_bad else "error"
    if layout.load is not None:
        pools = layout.load(data, usual, on_bad, scores)
    else:
        pools = load_pools(data, split=usual, on_bad=on_bad, adapt=adapt)
    return _questions(pools, split)


def _questions(pools: Pools, split: str | None) -> Questions:
    rows = pools.rows
    size = torch.tensor([len(responses) for responses in rows["responses"]], dtype=torch.int64)
    columns = rows.column_names
    nothing = [None] * len(rows)

    def flat(column: str) -> Tensor:
        values = [math.nan if value is None else value for of_row in rows[column] for value in of_row]
        return torch.tensor(values, dtype=torch.float64)

    return Questions(
        source=pools.summary.source,
        split=split,
        pools=pools,
        start=size.cumsum(0) - size,
        size=size,
        right=flat("gold"),
        subset=tuple(rows["subset"] if "subset" in columns else nothing),
        ids=tuple(rows["id"] if "id" in columns else nothing),
        unit=torch.tensor(prompt_groups(rows["prompt"]), dtype=torch.int64),
        given=flat(GIVEN) if GIVEN in columns else None,
    )


def _check_columns(layout: Layout, columns: list[str], name: str, scores: str | None) -> None:
    there = f"there are {', '.join(columns)}"
    if not any(wanted <= set(columns) for wanted in layout.columns):
        missing = min((sorted(wanted - set(columns)) for wanted in layout.columns), key=len)
        forms = " or ".join(", ".join(sorted(wanted)) for wanted in layout.columns)
        public = "" if layout.hub is None else f", as {layout.hub} has them"
        raise DataError(f"no column {', '.join(missing)}; {there}. {name} needs {forms}{public}")
    if scores is not None and scores not in columns:
        raise DataError(f"no column {scores!r} with scores (--score-column); {there}")


def scores_of(row: dict[str, Any], column: str, size: int | None) -> Any:
    """The scores of a row, None where one is missing; a number where a row is a response.

    Raises:
        DataError: there is not a number for each response.
    """
    values = row.get(column)
    if size is None:
        values = [values]
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != (size or 1):
        raise DataError(f"`{column}` must be a list of {size} scores, one a response; it is {str(values)[:40]}")
    numbers = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise DataError(f"`{column}` must hold numbers; it holds {str(value)[:40]}")
        numbers.append(None if value is None else float(value))
    return numbers[0] if size is None else numbers


def texts_of(value: Any, field: str) -> list[Any]:
    """A list with an entry a response: its text or messages, or what is known of it.

    Raises:
        DataError: it is no list, or an empty one.
    """
    if value is None:
        raise DataError(f"`{field}` is missing or null")
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        raise DataError(f"`{field}` must be a list with an entry for each response, it is {str(value)[:40]!r}")
    return list(value)


def size_note(sizes: Tensor, usual: int, questions: str, responses: str) -> list[str]:
    """What to say of questions `[q]` with more or fewer responses than the benchmark's."""
    others = sizes[sizes != usual]
    if len(others) == 0:
        return []
    least, most = int(others.min()), int(others.max())
    there = str(least) if least == most else f"{least} to {most}"
    return [
        f"{len(others):,} of {len(sizes):,} {questions} have {there} {responses} where public figures are of {usual}, "
        "which makes them easier or harder"
    ]
