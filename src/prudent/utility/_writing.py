"""How the pieces of a utility are written, and what they measure in words."""

import json
import keyword
import math
from dataclasses import fields
from typing import Any

from prudent.utility._combination import SCALE_NAMES, Combination
from prudent.utility._rule import UtilityRule
from prudent.utility._transform import Scale, Transform

__all__ = ["NAMED_VALUES", "Step", "in_words", "written", "written_arguments"]

Step = Transform | UtilityRule
"""What a utility can be piped through: a transform, or the risk rule that turns the posterior into a number."""

NAMED_VALUES = {"true": True, "false": False, "none": None, "inf": math.inf}
"""Words that stand for a value that is no text."""


def written_arguments(piece: Step | Combination, *, positional: bool) -> list[str]:
    """The arguments that are not the defaults; the first one without its name."""
    found = []
    description: Any = piece  # a protocol does not say that it is a dataclass
    for place, one in enumerate(fields(description)):
        value = getattr(piece, one.name)
        if value != one.default:
            found.append(_literal(value) if positional and place == 0 else f"{one.name}={_literal(value)}")
    return found


def written(step: Step) -> str:
    """A step as it stands in a utility."""
    arguments = written_arguments(step, positional=True)
    return f"{step.name}({', '.join(arguments)})" if arguments else step.name


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # Python reads letters outside ASCII as others that look alike
        is_word = value.isascii() and value.isidentifier() and not keyword.iskeyword(value)
        if is_word and value not in NAMED_VALUES:
            return value
        # half of a pair of UTF-16, which no text in UTF-8 can hold
        quoted = json.dumps(value, ensure_ascii=False)
        return "".join(f"\\u{ord(one):04x}" if "\ud800" <= one <= "\udfff" else one for one in quoted)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def in_words(*scales: Scale) -> str:
    """Scales as a sentence has them."""
    return " or ".join(SCALE_NAMES[scale] for scale in scales)
