"""A Parquet dataset written part by part, that is whole or not there, and resumes where it was cut off.

Parts go to `<output>.partial/`, each complete the moment it has its name; when the last is written the folder is
renamed to `<output>`. A manifest records what the parts were made from, so that parts of different runs never mix.
Arrow, pandas and `datasets` read the folder at the output path as one dataset.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from prudent.errors import PrudentError
from prudent.models import atomic_file, manifest_changes, read_manifest, write_manifest

__all__ = ["PartedOutput", "made_with", "num_skipped_of", "require_apart"]

_MANIFEST = "_manifest.json"


def require_apart(output: str | Path, inputs: Iterable[Any] = ()) -> None:
    """Refuse to write where it would spoil what is read, or a dataset that scoring or sampling wrote.

    Args:
        output: a file or folder to be written, there or not.
        inputs: what is read. Paths count, of files and of folders; names on the hub and what is in memory do not.

    Raises:
        PrudentError: the output is one of the inputs or lies in one, or is a dataset or lies in one.

    Example:
        >>> require_apart("lab", ["scored.parquet"])
    """
    place = Path(output).resolve()
    around = [one for one in (place, *place.parents) if one.exists()]
    for given in inputs:
        if not isinstance(given, str | Path) or not Path(given).expanduser().exists():
            continue
        if found := next((one for one in around if one.samefile(Path(given).expanduser())), None):
            is_it = "is" if found == place else f"lies in {given}, which is"
            raise PrudentError(
                f"the output {output} {is_it} read here, and writing would spoil that; give another output"
            )
    for folder in around:
        if (folder / _MANIFEST).is_file() and next(folder.glob("part-*.parquet"), None) is not None:
            is_it = "is" if folder == place else f"lies in {folder},"
            raise PrudentError(
                f"the output {output} {is_it} a dataset that scoring or sampling wrote, and other files there would "
                "make it unreadable; give another output"
            )


def made_with(path: str | Path) -> dict[str, Any]:
    """What a dataset was made with, or one that was cut off; nothing where there is none.

    Args:
        path: where the finished dataset is or will be.

    Raises:
        PrudentError: its manifest is damaged.

    Example:
        >>> made_with("nothing-here.parquet")
        {}
    """
    for folder in (Path(path), _partial(path)):
        if (folder / _MANIFEST).is_file():
            return read_manifest(folder / _MANIFEST)
    return {}


class PartedOutput:
    """The output of one run.

    Args:
        path: where the finished dataset goes.
        manifest: what the parts are made from; a run with another manifest does not continue this one.
        overwrite: replace a dataset that is there, once the new one is whole; an unfinished one made from the same
            manifest is continued all the same, one made from another is discarded.

    Attributes:
        num_parts: parts already written, by this run or by an earlier one that was cut off.
        finished: the dataset at `path` was already whole, made from the same manifest.

    Raises:
        PrudentError: something else is at `path`, or parts made from something else.
    """

    def __init__(self, path: str | Path, manifest: dict[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._partial = _partial(path)
        self._manifest = manifest
        self._overwrite = overwrite
        self.finished = not overwrite and self.path.exists() and self._matches(self.path)
        if overwrite and self.path.exists():
            self._require_ours(self.path)
        if not self.finished:
            self._begin()
        self.num_parts = len(list((self.path if self.finished else self._partial).glob("part-*.parquet")))

    def _begin(self) -> None:
        """Continue the parts of a run that was cut off, or start anew."""
        if self._partial.exists() and (self._partial / _MANIFEST).exists():
            if self._overwrite and self._differences(self._partial):
                shutil.rmtree(self._partial)
            else:
                self._matches(self._partial)
        self._made = [one for one in self._partial.parents if not one.exists()]
        # A run killed before its manifest was written has left an empty folder.
        self._partial.mkdir(parents=True, exist_ok=True)
        if not (self._partial / _MANIFEST).exists():
            write_manifest(self._partial / _MANIFEST, self._manifest)

    def schema(self) -> pa.Schema | None:
        """The schema of the parts already written, or None before the first."""
        return None if self.num_parts == 0 else pq.read_schema(self._partial / _part_name(0))

    def read(self, number: int) -> pa.Table:
        """A part written before."""
        return pq.read_table(self._partial / _part_name(number))

    def write(self, table: pa.Table) -> None:
        """Add the next part; it is there whole or not at all."""
        with atomic_file(self._partial / _part_name(self.num_parts)) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        self.num_parts += 1

    def finish(self, summary: dict[str, Any]) -> None:
        """Give the dataset its final name, with the figures of the run in its manifest."""
        write_manifest(self._partial / _MANIFEST, {**self._manifest, "summary": summary})
        if self.path.exists():
            # Only now does the old dataset go, so that there is a whole one at every moment but this.
            shutil.rmtree(self.path)
        os.rename(self._partial, self.path)

    def summary(self) -> dict[str, Any]:
        """The figures of the finished run."""
        summary: dict[str, Any] = read_manifest(self.path / _MANIFEST)["summary"]
        return summary

    def _require_ours(self, folder: Path) -> None:
        if not (folder / _MANIFEST).is_file():
            raise PrudentError(f"{folder} exists and was not written by scoring or sampling; give another output")

    def _differences(self, folder: Path) -> list[str]:
        """What the parts in a folder were made with otherwise."""
        self._require_ours(folder)
        # An option that an older version did not know was not used.
        found = read_manifest(folder / _MANIFEST)
        wanted = {name: value for name, value in self._manifest.items() if value is not None or name in found}
        return manifest_changes(folder / _MANIFEST, wanted)

    def _matches(self, folder: Path) -> bool:
        """True for the same manifest; an error that names what differs otherwise."""
        different = self._differences(folder)
        if different:
            raise PrudentError(
                f"{folder} was made with another {', '.join(different)}; give another output, or say overwrite "
                "(--overwrite)"
            )
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # An output without any part says nothing worth resuming.
        if not self.finished and self._partial.exists() and self.num_parts == 0:
            shutil.rmtree(self._partial)
            with suppress(OSError):  # somebody else has put something there
                for folder in self._made:
                    folder.rmdir()


def num_skipped_of(dataset: Path) -> int:
    """Rows or prompts that the run which wrote a dataset left out as faulty; 0 where nothing says so."""
    if not (dataset / _MANIFEST).is_file():
        return 0
    found: object = read_manifest(dataset / _MANIFEST)  # of another program perhaps
    summary = found.get("summary") if isinstance(found, dict) else None
    return int(summary.get("num_skipped", 0)) if isinstance(summary, dict) else 0


def _partial(path: str | Path) -> Path:
    """Where the parts of an unfinished dataset are."""
    return Path(path).with_name(f"{Path(path).name}.partial")


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"
