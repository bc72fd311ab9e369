"""What the words of a utility mean: its steps and combinations by name, and which names are left for rewards."""

import keyword
import unicodedata
from collections.abc import Mapping
from typing import Any

from prudent.utility._combine import COMBINATIONS
from prudent.utility._rules import RISK_RULES
from prudent.utility._shapes import TRANSFORMS
from prudent.utility._writing import NAMED_VALUES

__all__ = ["COMBINATION_NAMES", "RESERVED_NAMES", "SPELLINGS", "STEP_NAMES", "check_reward_name"]

STEP_NAMES: Mapping[str, type[Any]] = {
    **{kind.name: kind for kind in TRANSFORMS},
    **{str(kind.name): kind for kind in RISK_RULES},
}
COMBINATION_NAMES: Mapping[str, type[Any]] = {kind.name: kind for kind in COMBINATIONS}
SPELLINGS = {"centre": "center", "standardise": "standardize"}
"""Names that are understood, and what is written for them."""

RESERVED_NAMES = frozenset([*STEP_NAMES, *COMBINATION_NAMES, *SPELLINGS, *NAMED_VALUES, "reward"])
"""Names that a reward among several cannot have, since a utility means something else by them."""


def check_reward_name(name: str) -> None:
    """Raise ValueError unless a utility that reads a reward of this name can be written and read back."""
    is_word = name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name
    if not is_word or name in RESERVED_NAMES - {"reward"}:
        why = "means something else in a utility" if is_word else "is no word"
        raise ValueError(f"a reward cannot be called {name!r}, which {why}; take a name such as 'helpful'")
