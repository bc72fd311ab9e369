"""Texts and conversations in their one canonical form: a list of {role, content}."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from prudent.data._faults import BadRow

Message = dict[str, str]

ROLES = ("system", "user", "assistant", "tool")


def to_text(value: Any, field: str) -> str:
    """A string that can be stored as UTF-8, or the fault of it."""
    if value is None:
        raise BadRow(f"missing {field}", f"`{field}` is missing or null")
    if not isinstance(value, str):
        raise BadRow(f"wrong type of {field}", f"`{field}` is {_kind(value)}, text is needed")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow(f"broken text in {field}", f"`{field}` holds what is not UTF-8; write it as UTF-8") from None
    return value


def to_messages(value: Any, field: str, role: str) -> list[Message]:
    """A text (then one message of `role`) or a list of messages as canonical messages.

    Raises:
        BadRow: It is missing, of a wrong type, blank throughout, or holds an unknown role.
    """
    if value is None:
        raise BadRow(f"missing {field}", f"`{field}` is missing or null")
    if isinstance(value, str):
        messages = [{"role": role, "content": to_text(value, field)}]
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        messages = [_to_message(message, f"{field}[{index}]", field) for index, message in enumerate(value)]
    else:
        raise BadRow(
            f"wrong type of {field}",
            f"`{field}` is {_kind(value)}; a text or a list of {{role, content}} is needed",
        )
    if all(is_blank(message["content"]) for message in messages):
        raise BadRow(f"empty {field}", f"`{field}` is empty")
    return messages


def _to_message(value: Any, place: str, field: str) -> Message:
    if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
        raise BadRow(f"wrong type of {field}", f"`{place}` is {_kind(value)}; a message needs `role` and `content`")
    role = value["role"]
    if role not in ROLES:
        raise BadRow("unknown role", f"`{place}` has the role {shorten(role)}; known are {', '.join(ROLES)}")
    content = value["content"]
    if type(content) is not str or not content.isascii():
        content = to_text(content, f"{place}.content")
    return {"role": role, "content": content}


def check_reply(messages: list[Message], field: str) -> None:
    """A reply ends with what the assistant says, and says something.

    Raises:
        BadRow: The last message is another's, or blank.
    """
    last = messages[-1]
    if last["role"] != "assistant":
        raise BadRow(
            f"{field} does not end with the assistant",
            f"`{field}` ends with the role {last['role']!r}; its last message must be the assistant's",
        )
    if is_blank(last["content"]):
        raise BadRow(f"empty {field}", f"the assistant's last message in `{field}` is empty")


def split_conversations(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Take the leading messages that two conversations share, as their prompt, out of both.

    Raises:
        BadRow: They share none, or one of them is the beginning of the other.
    """
    differ = (index for index, pair in enumerate(zip(chosen, rejected, strict=False)) if pair[0] != pair[1])
    cut = next(differ, min(len(chosen), len(rejected)))
    _check_cut(cut)
    if cut == min(len(chosen), len(rejected)):
        raise BadRow(
            "one conversation begins the other",
            "one of `chosen` and `rejected` is the beginning of the other, so it holds no reply",
        )
    return chosen[:cut], chosen[cut:], rejected[cut:]


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Take the leading characters that two texts share, as their prompt, out of both.

    The space before the first difference goes to the replies, as in TRL; where the texts part within a word, the
    whole word goes to the replies (TRL would cut it). Prompt + reply is the text that came in.

    Raises:
        BadRow: They share no whole word.
    """
    low, high = 0, min(len(chosen), len(rejected))
    while low < high:  # bisection: a loop over characters costs seconds on 20,000 long pairs
        middle = (low + high + 1) // 2
        if chosen[low:middle] == rejected[low:middle]:
            low = middle
        else:
            high = middle - 1
    cut = low
    while cut and not chosen[cut - 1].isspace():
        cut -= 1
    if cut and chosen[cut - 1] == " ":
        cut -= 1
    _check_cut(cut)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _check_cut(cut: int) -> None:
    if cut == 0:
        raise BadRow(
            "missing prompt", "there is no `prompt`, and `chosen` and `rejected` do not begin alike, so none is found"
        )


def without_prefix(messages: list[Message], prompt: list[Message]) -> list[Message]:
    """The reply alone, where a conversation repeats the prompt before it."""
    if len(messages) > len(prompt) and messages[: len(prompt)] == prompt:
        return messages[len(prompt) :]
    return messages


def to_number(value: Any, field: str) -> float | None:
    """A finite number, None for null.

    Raises:
        BadRow: It is no number, or not finite.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadRow(f"wrong type of {field}", f"`{field}` is {_kind(value)}, a number is needed")
    number = float(value)
    if not math.isfinite(number):
        raise BadRow(f"{field} not finite", f"`{field}` is {number}; give a finite number, or null for none")
    return number


def to_label(value: Any) -> str | None:
    """An id or a name as text, None for null."""
    return None if value is None else str(value)


def is_blank(text: str) -> bool:
    """No character that shows."""
    return not text or text.isspace()


def shorten(value: Any, width: int = 40) -> str:
    """The value as one short line."""
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _kind(value: Any) -> str:
    return "null" if value is None else f"{shorten(value)} ({type(value).__name__})"
