"""Files and folders that are whole or not there: written beside their place, then renamed into it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prudent.errors import PrudentError

__all__ = ["atomic_file", "atomic_folder"]


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

    An existing folder that may be overwritten gets the new files moved over its own, each by an atomic rename; files
    that the block did not write stay.

    Args:
        path: the folder to make, or None to yield None and write nothing.
        overwrite: allow `path` to exist and hold files.

    Raises:
        PrudentError: `path` is a file, or holds files and `overwrite` is False; raised before the block runs.

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
        raise PrudentError(f"{target} already holds files; give another output folder or say overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            for source in sorted(temporary.rglob("*")):
                place = target / source.relative_to(temporary)
                if source.is_dir():
                    place.mkdir(exist_ok=True)
                else:
                    os.replace(source, place)
        else:
            os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
