"""Files and folders that are whole or not there: written beside their place, then renamed into it."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prudent.errors import PrudentError

__all__ = ["MODEL_FILES", "atomic_file", "atomic_folder"]

# A folder with one of these is taken for a model or a posterior: they go first and come last.
_MARKS = ("posterior_config.json", "adapter_config.json", "config.json")
_JOURNAL = ".written.json"
MODEL_FILES = (
    *_MARKS,
    "posterior.safetensors",
    "utility.yaml",
    "utility.safetensors",
    "adapter_model.safetensors",
    "model*.safetensors",
    "model*.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.*",
    "merges.txt",
)
"""Patterns of what a saved model consists of, and of what was learned from its rewards; one left over from another
model would change what is loaded."""


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`: what the block writes there becomes `path` when it ends well, else it vanishes.

    Example:
        >>> import tempfile
        >>> with atomic_file(tempfile.mkdtemp() + "/figures.json") as temporary:
        ...     _ = temporary.write_text("{}")
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path | None, *, overwrite: bool = False) -> Iterator[Path | None]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    An existing folder that may be overwritten gets the new files moved over its own, each by an atomic rename. Files of
    an older model or posterior there are removed, also where the block wrote none of that name; all others stay. The
    configurations are removed first and moved last, so that a folder caught in between is not taken for a whole one.
    What dead processes left is cleared away; a move that one of them died in is ended first, so that no model is lost.

    Args:
        path: the folder to make, or None to yield None and write nothing.
        overwrite: allow `path` to exist and hold files.

    Raises:
        PrudentError: `path` is a file, or holds files and `overwrite` is False; raised before the block runs. The
            block wrote an adapter whose base model is what it would replace.

    Example:
        >>> import tempfile
        >>> with atomic_folder(tempfile.mkdtemp() + "/model") as folder:
        ...     _ = (folder / "config.json").write_text("{}")
    """
    if path is None:
        yield None
        return
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise PrudentError(f"{target} is a file; give another output folder")
    if target.exists() and any(target.iterdir()) and not overwrite:
        raise PrudentError(f"{target} already holds files; give another output folder or say overwrite (--overwrite)")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    _clear_leftovers(target)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            _require_other_base(temporary, target)
            written = [str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file()]
            (temporary / _JOURNAL).write_text(json.dumps(written), encoding="utf-8")
            _move_model(temporary, target)
        else:
            os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require_other_base(temporary: Path, target: Path) -> None:
    adapter = temporary / "adapter_config.json"
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") if adapter.exists() else None
    if base and Path(base).resolve() == target.resolve():
        raise PrudentError(f"{target} holds the base of the adapter to be saved there; give another output folder")


def _move_model(temporary: Path, target: Path) -> None:
    """Move what is not moved yet; the journal names all that was written, also what an earlier attempt moved."""
    written = json.loads((temporary / _JOURNAL).read_text(encoding="utf-8"))
    for name in _MARKS:
        (target / name).unlink(missing_ok=True)
    for path in [path for pattern in MODEL_FILES for path in target.glob(pattern)]:
        if path.is_file() and path.name not in written:
            path.unlink(missing_ok=True)
    first = sorted(name for name in written if name not in _MARKS)
    for name in [*first, *(mark for mark in reversed(_MARKS) if mark in written)]:
        source, place = temporary / name, target / name
        if source.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, place)


def _clear_leftovers(target: Path) -> None:
    if os.name != "posix":  # elsewhere there is no asking after a process without touching it
        return
    for path in target.parent.iterdir():
        found = re.fullmatch(rf"\.{re.escape(target.name)}\.(\d+)\.tmp", path.name)
        if found is None or not path.is_dir():
            continue
        try:
            os.kill(int(found[1]), 0)
        except ProcessLookupError:
            # Without any mark the target is neither the old model nor the new one, nor another made since.
            if (path / _JOURNAL).is_file() and target.is_dir() and not any((target / mark).exists() for mark in _MARKS):
                _move_model(path, target)
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, OverflowError):
            continue  # another user's process is alive; a number too large is none of ours
