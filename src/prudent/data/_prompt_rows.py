"""Prompts alone, from whatever holds any: a list of prompts, preferences, candidate pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prudent.data._faults import BadRow, FaultLog, LoadSummary, OnBad, check_on_bad, count_of, names_of
from prudent.data._messages import to_label, to_messages
from prudent.data._preferences import implicit_prompt
from prudent.data._prompts import prompt_digest
from prudent.data._sources import DataSource, open_source
from prudent.errors import DataError

__all__ = ["Prompts", "PromptsSummary", "load_prompts"]

_LABELS = ("source", "subset", "id")
_READ = frozenset({"prompt", "prompt_id", "chosen", "rejected", *_LABELS})


@dataclass
class PromptsSummary(LoadSummary):
    """What was read, kept and skipped.

    Attributes:
        num_repeated: Rows whose prompt stood in an earlier one.
    """

    num_repeated: int = 0

    def _kept(self) -> str:
        text = count_of(self.num_rows, "prompt")
        return text if not self.num_repeated else f"{text} in {count_of(self.num_read - self.num_skipped, 'row')}"


@dataclass(frozen=True)
class Prompts:
    """Different prompts, in the order in which they first stand in their source.

    Attributes:
        rows: One dict a prompt: `prompt` (list of {role, content}), `row` (the 0-based number of its first row),
            `source`, `subset`, `id` (text or None), and `digest`, 32 hexadecimal digits that name the prompt wherever
            it stands.
        summary: What was read, kept and skipped.
    """

    rows: list[dict[str, Any]]
    summary: PromptsSummary

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def load_prompts(
    source: DataSource, *, split: str = "train", name: str | None = None, on_bad: OnBad = "error"
) -> Prompts:
    """Load the different prompts of a source and check every row.

    A row has a `prompt`, a text or a list of {role, content}; or it is a preference without one, whose `chosen` and
    `rejected` begin alike. Prompts are equal as in `prompt_groups`. Other columns are not looked at, so a file of
    preferences or pools will do.

    Args:
        source: A file (.jsonl, .json, .csv, each also .gz, or .parquet), a folder of such files or of `save_to_disk`,
            a name on the hub, a `datasets` object, or a list of dicts. In CSV a cell may hold messages as JSON.
        split: The split of a source that has several; not looked at for a single file.
        name: The configuration of a set of the hub.
        on_bad: "error" raises for rows that cannot be used; "skip" leaves them out and counts them by reason.

    Returns:
        The prompts.

    Raises:
        DataError: The source is missing, damaged or empty, has no prompts, or has bad rows; one line with the number of
            bad rows and the place and fault of the first five (0-based row; for JSON lines also the 1-based line).

    Example:
        >>> rows = [{"prompt": "Name a color."}, {"prompt": "Name a river."}, {"prompt": "Name a color. "}]
        >>> [row["prompt"][0]["content"] for row in load_prompts(rows)]
        ['Name a color.', 'Name a river.']
    """
    check_on_bad(on_bad)
    opened = open_source(source, split=split, name=name, columns=_READ)
    if opened.columns is not None:
        _check_columns(opened.name, opened.columns)
    summary, log = PromptsSummary(opened.name), FaultLog(opened.name)
    found: dict[bytes, dict[str, Any]] = {}
    names: dict[str, None] = {}
    for place, row in opened.read():
        summary.num_read += 1
        try:
            if isinstance(row, BadRow):
                raise row
            names.update(dict.fromkeys(row))
            prompt = _prompt_of(row)
        except BadRow as fault:
            log.add(place, fault)
            continue
        digest = prompt_digest(prompt)
        if digest in found:
            summary.num_repeated += 1
            continue
        labels = {label: to_label(row.get(label)) for label in _LABELS}
        labels["id"] = to_label(row.get("id", row.get("prompt_id")))
        found[digest] = {"prompt": prompt, "row": summary.num_read - 1, "digest": digest.hex(), **labels}
    summary.num_rows = len(found)
    if names:
        _check_columns(opened.name, list(names))
    log.finish(summary, on_bad)
    return Prompts(list(found.values()), summary)


def _prompt_of(row: dict[str, Any]) -> list[dict[str, str]]:
    if row.get("prompt") is None and row.get("chosen") is not None and row.get("rejected") is not None:
        return implicit_prompt(row["chosen"], row["rejected"])
    return to_messages(row.get("prompt"), "prompt", "user")


def _check_columns(name: str, columns: list[str]) -> None:
    if "prompt" not in columns and not {"chosen", "rejected"} <= set(columns):
        raise DataError(
            f"{name}: no column prompt; there are {names_of(columns)}. Prompts are a column `prompt`, each a text or a"
            " list of {role, content}; a file of preferences or of candidate pools will do"
        )
