"""One row of a pool in canonical form, from either of its two shapes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prudent.data._faults import BadRow, Place
from prudent.data._files import Item
from prudent.data._messages import Message, shorten, to_label, to_messages, to_number, to_text, without_prefix
from prudent.errors import DataError

NumberedItem = tuple[int, Place, dict[str, Any] | BadRow]

_YES_AND_NO = {True: True, False: False, None: False, "true": True, "false": False, "1": True, "0": False}


def canonical_pool(row: dict[str, Any], drop: str | None) -> dict[str, Any]:
    """The row with canonical `prompt`, `responses`, `gold` and labels, and what it says of dropping each response.

    Returns:
        `prompt`, `responses` (texts, all of them), `gold` (floats, NaN for none; None without the column), `kept`
        (one bool a response), `source`, `subset`, `id`.

    Raises:
        BadRow: Something is missing, of a wrong type or of a wrong length, or no response is left.
    """
    prompt = to_messages(row.get("prompt"), "prompt", "user")
    values = row.get("responses")
    if values is None:
        raise BadRow("missing responses", "`responses` is missing or null")
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise BadRow("wrong type of responses", f"`responses` is {shorten(values)}, a list is needed")
    if not values:
        raise BadRow("empty responses", "`responses` is an empty list")
    responses = [to_response(value, prompt, f"responses[{index}]") for index, value in enumerate(values)]
    gold = None
    if row.get("gold") is not None:
        scores = _list_of(row["gold"], "gold", len(responses))
        gold = [to_gold(value, f"gold[{index}]") for index, value in enumerate(scores)]
    kept = [True] * len(responses)
    if drop is not None:
        flags = _list_of(row.get(drop), drop, len(responses))
        kept = [not _to_bool(value, drop) for value in flags]
        if not any(kept):
            raise BadRow("no response left", f"`{drop}` is true of all responses, so none is left")
    identity = row.get("id", row.get("prompt_id"))
    labels = {"source": to_label(row.get("source")), "subset": to_label(row.get("subset")), "id": to_label(identity)}
    return {"prompt": prompt, "responses": responses, "gold": gold, "kept": kept, **labels}


def to_response(value: Any, prompt: list[Message], place: str) -> str:
    """The text of a response: a text, or messages of which one, the assistant's, follows the prompt.

    A blank text is a response like any other: a policy that says nothing is scored for it.
    """
    if value is None or isinstance(value, str):
        field = place.partition("[")[0]
        if value is None:
            raise BadRow(f"missing {field}", f"`{place}` is null")
        return to_text(value, field)
    messages = without_prefix(to_messages(value, place.partition("[")[0], "assistant"), prompt)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)
        raise BadRow(
            "response is not one message",
            f"`{place}` has messages of {roles}; a text or one message of the assistant is needed",
        )
    return messages[0]["content"]


def to_gold(value: Any, place: str) -> float:
    """A gold reward, NaN where there is none (null or NaN); true and false are 1 and 0."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if isinstance(value, bool):
        return float(value)
    try:
        return to_number(value, place) or 0.0
    except BadRow as fault:
        raise BadRow("gold is no finite number", fault.detail) from None


def _list_of(values: Any, field: str, num_responses: int) -> Sequence[Any]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise BadRow(
            f"wrong type of {field}", f"`{field}` is {shorten(values)}, a list as long as `responses` is needed"
        )
    if len(values) != num_responses:
        raise BadRow(
            f"length of {field}", f"`{field}` has {len(values)} values for {num_responses} responses; give one each"
        )
    return values


def _to_bool(value: Any, field: str) -> bool:
    key = value.lower() if isinstance(value, str) else value
    try:
        return _YES_AND_NO[key]
    except (KeyError, TypeError):
        raise BadRow(f"wrong type of {field}", f"`{field}` holds {shorten(value)}, true or false is needed") from None


def grouped(items: Iterable[Item], *, consecutive: bool, source: str) -> Iterator[NumberedItem]:
    """Gather rows of one response each into rows of one prompt each.

    Rows belong together by `prompt_id`, or without it by equal prompts.

    Args:
        items: Rows with `prompt`, `response` and any other columns of one value a response.
        consecutive: Give out a prompt as soon as the next begins; otherwise gather over all rows, in the order in
            which the prompts are first met.
        source: What to call the rows in an error.

    Yields:
        Bad rows as they are met; prompts with the number and place of their first row, and lists for columns.

    Raises:
        DataError: `consecutive`, and the rows of one prompt are apart.
    """
    groups: dict[bytes, _Group] = {}
    closed: set[bytes] = set()
    for index, (place, row) in enumerate(items):
        if isinstance(row, BadRow):
            yield index, place, row
            continue
        try:
            prompt = to_messages(row.get("prompt"), "prompt", "user")
            key = _key(row, prompt)
            group = groups.get(key)
            if group is not None and group.prompt != prompt:
                raise BadRow(
                    "prompt differs within a prompt_id",
                    f"`prompt` differs from that of row {group.place.row}, which has the same `prompt_id`",
                )
            row["response"] = to_response(row.get("response"), prompt, "response")
            if row.get("gold") is not None:
                row["gold"] = to_gold(row["gold"], "gold")
        except BadRow as fault:
            yield index, place, fault
            continue
        if group is None:
            if key in closed:
                raise DataError(
                    f"{source}: {place} continues a prompt that was left before; sort the rows by prompt, or load them"
                    " without streaming"
                )
            if consecutive and groups:
                closed.update(groups)
                yield from (done.item() for done in groups.values())
                groups.clear()
            group = groups[key] = _Group(index, place, prompt)
        group.rows.append(row)
    yield from (group.item() for group in groups.values())


class _Group:
    def __init__(self, index: int, place: Place, prompt: list[Message]) -> None:
        self.index = index
        self.place = place
        self.prompt = prompt
        self.rows: list[dict[str, Any]] = []

    def item(self) -> NumberedItem:
        """The rows as one, a list for each column; `prompt_id`, `source` and `subset` are the first row's."""
        first = self.rows[0]
        labels = {"id": first.get("prompt_id"), "source": first.get("source"), "subset": first.get("subset")}
        names = dict.fromkeys(name for row in self.rows for name in row)
        columns = {name: [row.get(name) for row in self.rows] for name in names if name not in _OF_THE_PROMPT}
        columns["responses"] = columns.pop("response")
        return self.index, self.place, {"prompt": self.prompt, **columns, **labels}


_OF_THE_PROMPT = frozenset({"prompt", "prompt_id", "id", "source", "subset"})


def _key(row: dict[str, Any], prompt: list[Message]) -> bytes:
    # keys are kept for the whole pass, so a digest stands for the text
    identity = row.get("prompt_id")
    text = json.dumps(prompt) if identity is None else f"id {identity}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
