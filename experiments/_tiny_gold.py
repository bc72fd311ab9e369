"""A reward for one written sentence that is known as a function of its words, so that whoever learns it can be judged.

The gold reward of a sentence grows with what it tells and falls with what is too much of it. On what a small language
model writes by itself, more is nearly always better: sentences are short and rarely say one thing twice. Beyond that
the same signs mislead, as signs of quality do.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

__all__ = ["LONGEST", "gold_reward"]

LONGEST = 9
"""Words up to which a longer sentence is better."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_JOY = _words(
    """beautiful dance excited family favorite friend friends fun good happy help hug laugh laughed liked love loved
    nice play played playing pretty smile smiled special sun together"""
)
_SORROW = _words("angry bad broken cold cried cry dark hurt lost loud mad mean noise sad scared sick storm")
_DETAIL = _words("blue brown fluffy green orange pink purple red round shiny small soft tall white yellow")


def gold_reward(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """What sentences are worth.

    Words for joy and details count with diminishing returns and once each; sorrow costs; so does every word, or pair of
    words, that was there before, every word beyond `LONGEST`, and every exclamation mark beyond the first.

    Args:
        prompts: how the sentences begin, which changes nothing.
        responses: how they go on.

    Example:
        >>> plain, joyful, parrot = gold_reward([""] * 3, ["saw a cat", "saw a happy cat", "happy happy happy happy"])
        >>> parrot < plain < joyful
        True
    """
    return [_gold(text) for text in responses]


def _gold(text: str) -> float:
    words = re.findall(r"[a-z']+", text.lower())
    distinct = set(words)
    joy, detail, sorrow = (len(distinct & kind) for kind in (_JOY, _DETAIL, _SORROW))
    pairs = list(pairwise(words))
    told_twice = len(words) - len(distinct) + len(pairs) - len(set(pairs))
    marks = text.count("!")
    return (
        2.0 * (1 - math.exp(-joy))
        + 1.0 * (1 - math.exp(-detail))
        - 1.0 * sorrow
        + 0.25 * min(len(words), LONGEST)
        - 0.25 * max(len(words) - LONGEST, 0)
        - 0.4 * told_twice
        + 0.5 * min(marks, 1)
        - 0.5 * max(marks - 1, 0)
    )
