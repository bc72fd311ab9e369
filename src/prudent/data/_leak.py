"""Prompts that stand in training and in evaluation data alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from datasets import Dataset

from prudent.data._faults import MAX_SHOWN, OnBad, check_on_bad
from prudent.data._pools import Pools
from prudent.data._preferences import Preferences
from prudent.data._prompts import prompt_digest
from prudent.errors import DataError

_REASON = "prompt also in the training data"


def check_leak(train: Preferences | Pools, test: Preferences, *, on_bad: OnBad = "error") -> Preferences:
    """Make sure that no prompt stands in the training and in the evaluation data alike.

    Prompts are equal when their messages are, apart from white space at their ends.

    Args:
        train: What is trained or fitted on, preferences or pools.
        test: What is evaluated on.
        on_bad: "error" raises; "skip" leaves the rows out of the evaluation data and counts them in its summary.

    Returns:
        The evaluation data, without the rows that leak.

    Raises:
        DataError: A prompt stands in both (or, skipping, no other is left); the message has row numbers of both.

    Example:
        >>> from prudent.data import load_preferences
        >>> row = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
        >>> train = load_preferences([row])
        >>> test = load_preferences([row, {**row, "prompt": "Name a river."}])
        >>> len(check_leak(train, test, on_bad="skip"))
        1
    """
    check_on_bad(on_bad)
    first_rows: dict[bytes, int] = {}
    for digest, row in prompt_digests(train):
        first_rows.setdefault(digest, row)
    leaks: list[tuple[int, int]] = []
    kept: list[int] = []
    for position, (digest, row) in enumerate(prompt_digests(test)):
        train_row = first_rows.get(digest)
        if train_row is None:
            kept.append(position)
        else:
            leaks.append((row, train_row))
    if not leaks:
        return test
    shown = ", ".join(f"row {row} (row {train_row} in training)" for row, train_row in leaks[:MAX_SHOWN])
    more = f" and {len(leaks) - MAX_SHOWN:,} more" if len(leaks) > MAX_SHOWN else ""
    found = (
        f"{test.summary.source}: {len(leaks):,} of {len(leaks) + len(kept):,} rows have a prompt that is also in the"
        f" training data {train.summary.source}: {shown}{more}"
    )
    if on_bad == "error":
        raise DataError(f'{found}. Evaluate on other prompts, or leave these rows out with on_bad="skip" (--skip-bad)')
    if not kept:
        raise DataError(f"{found}. No row is left; evaluate on other prompts")
    examples = [*test.summary.skipped_examples, *(f"row {row}: {_REASON}" for row, _ in leaks)]
    summary = replace(
        test.summary,
        num_rows=len(kept),
        skipped={**test.summary.skipped, _REASON: len(leaks)},
        skipped_examples=examples[:MAX_SHOWN],
    )
    if isinstance(test.rows, Dataset):
        return replace(test, rows=test.rows.select(kept), summary=summary)
    leaking = {row for row, _ in leaks}
    return replace(test, rows=test.rows.filter(lambda row: row["row"] not in leaking), summary=summary)


def prompt_digests(data: Preferences | Pools) -> Iterator[tuple[bytes, int]]:
    """Of each pair what names its prompt, and its row in the source; prompts are equal as `check_leak` says."""
    for batch in data.rows.select_columns(["prompt", "row"]).iter(batch_size=1000):
        for prompt, row in zip(batch["prompt"], batch["row"], strict=True):
            yield prompt_digest(prompt), row
