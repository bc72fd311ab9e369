"""`NAME=VALUE` on the command line."""

import os
import re
from collections.abc import Iterable, Sequence

import typer

__all__ = ["by_name", "labeled", "named", "named_path", "named_text", "one_utility"]


def named(text: str) -> tuple[str, str]:
    """Name and value; without a name the first is empty."""
    name, equals, value = text.partition("=")
    return (name.strip(), value.strip()) if equals else ("", text)


def named_path(text: str) -> tuple[str, str]:
    """As `named`, of a folder or hub name, which may have "=" in it too."""
    name = text.partition("=")[0]
    return ("", text) if "/" in name or name.startswith((".", "~")) or os.path.exists(text) else named(text)


def named_text(text: str) -> tuple[str, str]:
    """As `named`, of a sentence, which may have "=" in it too: a name is a single word before it."""
    return named(text) if re.fullmatch(r"\w+", text.partition("=")[0].strip()) else ("", text)


def by_name(option: str, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Values by name; an only one may have none, and is then under the empty name.

    Args:
        option: for messages.
        pairs: names and values.

    Raises:
        typer.BadParameter: several of which one has no name, a name given twice, or a name without a value.
    """
    pairs = list(pairs)
    found: dict[str, str] = {}
    for name, value in pairs:
        if len(pairs) > 1 and not name:
            raise typer.BadParameter(f"{option} {value}: where there are several each needs a name, such as a={value}")
        if name in found:
            raise typer.BadParameter(f"{option}: two have the name {name}; give each a name of its own")
        if not value:
            raise typer.BadParameter(f"{option} {name}=: there is nothing after the name")
        found[name] = value
    return found


def one_utility(text: str) -> str:
    """What `--utility` says where it is a single one, which has no name.

    Raises:
        typer.BadParameter: it has one.
    """
    name, value = named_text(text)
    if name:
        raise typer.BadParameter(
            f"--utility {name}=...: a name is for evaluate and report, which compare several; give {value}"
        )
    return text


def labeled(utilities: Sequence[str]) -> dict[str, str] | list[str]:
    """What `--utility [NAME=]SPEC` says: by name where any has one; without a name they are called as they are written.

    Example:
        >>> labeled(["mean", "careful=lcb_std(num_std=2)"])
        {'mean': 'mean', 'careful': 'lcb_std(num_std=2)'}
    """
    pairs = [named_text(" ".join(one.split())) for one in utilities]
    for name, value in pairs:
        before = re.match(r"[^(|\[\"'=]*=", value)
        if not name and before is not None and not os.path.exists(value):
            raise typer.BadParameter(
                f"--utility {value}: what stands before = names the utility, in one word of letters, digits and _"
            )
    if not any(name for name, _ in pairs):
        return [value for _, value in pairs]
    return by_name("--utility", [(name or value, value) for name, value in pairs])
