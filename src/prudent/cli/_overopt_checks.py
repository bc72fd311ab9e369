"""What `prudent overopt` is given, read and checked before long work."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from prudent.cli._named import named_path

__all__ = ["check_before_sampling", "check_utilities", "numbers", "output_folder", "several"]


def several(option: str, given: Sequence[str], otherwise: str = "proxy") -> dict[str, list[str]]:
    """Values by name, several under one name allowed; an only one may have none, and is then under `otherwise`."""
    found: dict[str, list[str]] = {}
    for one in given:
        name, value = _scored_path(one)
        if not value:
            raise typer.BadParameter(f"{option} {one}: there is nothing after the name")
        if not name and len(given) > 1:
            same = "" if option == "--data" else "; the same name for seeds of one proxy"
            raise typer.BadParameter(f"{option} {one}: where there are several, give each a name: NAME=...{same}")
        found.setdefault(name or otherwise, []).append(value)
    return found


def _scored_path(text: str) -> tuple[str, str]:
    """`NAME=PATH` where the name may be `POOL/PROXY`."""
    name, equals, value = text.partition("=")
    if equals and name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(text).exists():
        return name.strip(), value.strip()
    return named_path(text)


def numbers(text: str | None) -> list[int] | None:
    """What `--n` says."""
    if text is None:
        return None
    try:
        found = [int(one) for one in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--n {text}: give whole numbers with commas between, such as 1,4,16") from None
    if min(found) < 1:
        raise typer.BadParameter(f"--n {text}: numbers of candidates are at least 1")
    return found


def check_utilities(utilities: Iterable[str], *, of_models: bool = False) -> None:
    """Refuse what is no utility before long work; a saved one is read with the scores that it is for."""
    from prudent.utility import ONLY, parse_utility

    for one in utilities:
        # what can only be a folder is told as such where it is read
        if os.path.exists(one) or ("/" in one and not of_models):
            continue
        if (others := set(parse_utility(one).reward_names) - {ONLY}) and of_models:
            raise typer.BadParameter(
                f"--utility {one}: there is no reward {others.pop()!r}; what --model says is called {ONLY}"
            )


def check_before_sampling(
    proxies: Mapping[str, Sequence[str]], prompts: Iterable[str], *, split: str | None, skip_bad: bool
) -> None:
    """Read all prompts and load every reward model once, since what is wrong with one shows after hours otherwise."""
    from prudent.data import choose_split, load_prompts
    from prudent.errors import PrudentError
    from prudent.posteriors import load_scorer

    for one in prompts:
        load_prompts(one, split=choose_split(one, split) or "train", on_bad="skip" if skip_bad else "error")
    for name, seeds in proxies.items():
        for model in seeds:
            try:
                load_scorer(model)
            except PrudentError as error:
                raise type(error)(f"{name}: {error}") from error


@contextmanager
def output_folder(place: Path, inputs: Iterable[str]) -> Iterator[Path]:
    """Where hours of work go must be there before; what nothing was written to is removed.

    Args:
        place: a folder, there or not.
        inputs: what is read.
    """
    from prudent.evaluation import check_lab

    check_lab(place, inputs)
    new = [one for one in (place / "pools", place / "scored", place, *place.parents) if not one.exists()]
    place.mkdir(parents=True, exist_ok=True)
    if not os.access(place, os.W_OK):
        raise typer.BadParameter(f"--output {place}: this folder may not be written to")
    try:
        yield place
    finally:
        for one in new:
            with suppress(OSError):  # something is in it
                one.rmdir()
