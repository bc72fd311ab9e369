"""How the pieces of a utility are written, and what they measure in words."""

import json
import keyword
from dataclasses import fields
from typing import Any

from prudent.utility._combination import SCALE_NAMES, Combination
from prudent.utility._rule import UtilityRule
from prudent.utility._transform import Scale, Transform

__all__ = ["NAMED_VALUES", "Step", "in_words", "written", "written_arguments"]

Step = Transform | UtilityRule
"""What a utility can be piped through: a transform, or the risk rule that turns the posterior into a number."""

NAMED_VALUES = {"true": True, "false": False, "none": None}
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
        is_word = value.isidentifier() and not keyword.iskeyword(value) and value not in NAMED_VALUES
        return value if is_word else json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def in_words(*scales: Scale) -> str:
    """Scales as a sentence has them."""
    return " or ".join(SCALE_NAMES[scale] for scale in scales)
