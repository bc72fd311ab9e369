"""What a page and the PNG figures beside it may be called."""

import re
from collections.abc import Iterable
from pathlib import Path

from prudent.errors import PrudentError

__all__ = ["FIGURES", "figure_stems", "page_path", "possible_figures"]

FIGURES = ("gold", "proxy", "variance", "strengths", "laws", "trade_off", "reliability", "risk_coverage")
"""The figures that a study may have."""
_LONGEST = 100
"""Characters of a study's name in those of its files, which may have some 250 in all."""
_TAKEN = "heldout"
"""What stands before the figures of held-out pairs."""


def page_path(output: str | Path) -> Path:
    """Where to write a page, checked before any work.

    Raises:
        PrudentError: The name does not end in .html, or a folder has it.
    """
    page = Path(output)
    if page.suffix.lower() not in (".html", ".htm"):
        raise PrudentError(f"{page}: a report is one HTML page; let its name end in .html")
    if page.is_dir():
        raise PrudentError(f"{page} is a folder; give the name of a file")
    return page


def figure_stems(stem: Path, names: Iterable[str]) -> dict[str, Path]:
    """What the figures of each study are called, before `_gold.png`; no two of several share a file.

    A name stays as it is where a file may be called so, and characters that files should not have become `_`. Those
    that another study is called by already, whatever the case, are numbered.

    Args:
        stem: The page without its ending.
        names: Of the studies.

    Example:
        >>> {name: found.name for name, found in figure_stems(Path("lab"), ["a b", "a/b", "a_b"]).items()}
        {'a b': 'lab_a_b-2', 'a/b': 'lab_a_b-3', 'a_b': 'lab_a_b'}
    """
    plain = {name: re.sub("[^A-Za-z0-9.+-]+", "_", name)[:_LONGEST] for name in names}
    if len(plain) == 1:
        return dict.fromkeys(plain, stem)
    taken, parts = {_TAKEN}, {}
    for name in sorted(plain, key=lambda one: plain[one] != one):
        part, number = plain[name], 1
        while part.casefold() in taken:
            number += 1
            part = f"{plain[name]}-{number}"
        taken.add(part.casefold())
        parts[name] = part
    return {name: stem.with_name(f"{stem.name}_{parts[name]}") for name in plain}


def possible_figures(page: str | Path, names: Iterable[str]) -> set[Path]:
    """Every PNG that `report` may write beside a page of these studies, whatever their data can fill.

    Args:
        page: The HTML file.
        names: Of the studies, in the order in which the page shows them.

    Example:
        >>> sorted(path.name for path in possible_figures("lab/report.html", ["mine"]))[:2]
        ['report_gold.png', 'report_laws.png']
    """
    stems = figure_stems(Path(page).with_suffix(""), names).values()
    return {one.with_name(f"{one.name}_{figure}.png") for one in stems for figure in FIGURES}
