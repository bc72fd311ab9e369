"""What reaches the terminal: the result on stdout, everything else calmly on stderr."""

import contextlib
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import typer

__all__ = ["Outcome", "calm_libraries", "show", "table"]

CHATTY = ("transformers", "datasets", "huggingface_hub", "accelerate", "peft", "torch", "trl", "matplotlib", "filelock")


@dataclass(frozen=True)
class Outcome:
    """What a verb found.

    Attributes:
        result: What `--json` prints. Paths become strings and non-finite numbers null.
        text: What a person reads, one or more lines.
    """

    result: Mapping[str, object]
    text: str


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Print a result on stdout."""
    typer.echo(json.dumps(plain(outcome.result), ensure_ascii=False) if as_json else outcome.text)


def plain(value: object) -> object:
    """A copy that JSON can hold: paths as strings, non-finite numbers as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows in aligned columns, the first to the left, the others to the right; floats with four significant digits."""
    cells = [[*header], *([_cell(entry) for entry in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first, *others = (
            entry.rjust(width) if column else entry.ljust(width)
            for column, (entry, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def _cell(entry: object) -> str:
    if entry is None:
        return "-"
    if isinstance(entry, float):
        return f"{0.0 if abs(entry) < 1e-9 else entry:.4g}"  # what rounding errors leave of a zero reads as zero
    return str(entry)


@contextlib.contextmanager
def calm_libraries(*, quiet: bool, debug: bool) -> Iterator[None]:
    """Silence the libraries underneath; show prudent's own notes and warnings as single lines on stderr.

    Args:
        quiet: Hide prudent's notes as well.
        debug: Leave everything as it is.
    """
    if debug:
        yield
        return
    # Read when these libraries are first imported, which happens inside the verb.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("prudent")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not quiet:
                warnings.filterwarnings("default", module=r"prudent(\.|$)")
                warnings.showwarning = _one_line_warning
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        for name, former in levels.items():
            logging.getLogger(name).setLevel(former)


def _one_line_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    typer.echo(f"warning: {' '.join(str(message).split())}", err=True)
