"""When two prompts are the same: for folds, resamples, standard errors and leaks alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from prudent.data._messages import Message


def prompt_digest(prompt: Sequence[Message]) -> bytes:
    """Sixteen bytes that name a prompt: roles and contents of its messages, apart from white space at their ends."""
    text = "\0".join(part for message in prompt for part in (message["role"], message["content"].strip()))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def prompt_groups(prompts: Iterable[Sequence[Message]]) -> list[int]:
    """A number for each prompt, the same where prompts are equal: 0, 1, 2, ... in the order they first stand in.

    Prompts are equal as they are to `check_leak`: when their messages are, apart from white space at their ends.

    Args:
        prompts: P prompts, as `load_preferences` and `load_pools` give them.

    Returns:
        P numbers.

    Example:
        >>> color, river = ([{"role": "user", "content": text}] for text in ("Name a color.", "Name a river."))
        >>> prompt_groups([color, river, [{"role": "user", "content": "Name a color. "}]])
        [0, 1, 0]
    """
    known: dict[bytes, int] = {}
    return [known.setdefault(prompt_digest(prompt), len(known)) for prompt in prompts]
