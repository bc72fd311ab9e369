"""What rewards are called in a scored dataset, and which columns each of them has."""

import re
from collections.abc import Iterable, Mapping

from prudent.errors import DataError
from prudent.utility import ONLY, RESERVED_NAMES

__all__ = ["REWARD_COLUMNS", "TEXT_COLUMNS", "canned_texts", "check_names", "columns_of"]

TEXT_COLUMNS = ("num_tokens", "truncated", "prompt_truncated")
"""Columns that say how a model read the texts."""
REWARD_COLUMNS = (
    "reward_mean",
    "reward_variance",
    "reward_noise",
    "reward_reference",
    "reward_reference_members",
    "reward_centered_variance",
    "reward_factor",
    "reward_members",
    "reward_within_variance",
)
"""Columns that say what a model thinks of them; not every kind of model has all."""

_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def columns_of(name: str) -> dict[str, str]:
    """What the columns of a reward are called, by what those of `reward` are, the only one of a plain dataset.

    Example:
        >>> columns_of("helpful")["reward_mean"]
        'helpful_reward_mean'
    """
    return {column: column if name == ONLY else f"{name}_{column}" for column in (*TEXT_COLUMNS, *REWARD_COLUMNS)}


def check_names(names: Iterable[str]) -> None:
    """Make sure that rewards can have these names, in columns and in utilities.

    Raises:
        DataError: there is none, or one is no identifier, means something else in a utility, or would share a column
            with another.

    Example:
        >>> check_names(["helpful", "harmless"])
    """
    owner: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise DataError(
                f"{name!r} cannot name a reward: take small letters, digits and _, no digit first, such as 'helpful'"
            )
        if name in RESERVED_NAMES or "reward_" in name:
            raise DataError(
                f"{name!r} cannot name a reward, since it means something else in a utility or a column; take another "
                "name, such as 'helpful'"
            )
        for column in columns_of(name).values():
            if column in owner:
                raise DataError(f"rewards {owner[column]!r} and {name!r} would share a column {column}; rename one")
            owner[column] = name
    if not owner:
        raise DataError("there is no model to score with; name at least one")


def canned_texts(canned: str | Mapping[str, str] | None, names: Iterable[str]) -> dict[str, str]:
    """The canned text of each reward that has one.

    Args:
        canned: texts by name; one text is that of all.
        names: of the rewards that there are; `reward` for an only one without a name.

    Raises:
        DataError: a name is not among them.

    Example:
        >>> canned_texts("Sorry.", ["helpful", "harmless"])
        {'helpful': 'Sorry.', 'harmless': 'Sorry.'}
    """
    known = list(names)
    if canned is None:
        return {}
    if isinstance(canned, str):
        return dict.fromkeys(known, canned)
    for name in canned:
        if name not in known:
            only = known == [ONLY]
            there = "there is one model, without a name: leave the name out" if only else f"there is {', '.join(known)}"
            raise DataError(f"a canned text is given for {name!r}, and no model is called that; {there}")
    return dict(canned)
