"""What the overoptimization lab found: a study for each proxy on each pool, written as tidy tables."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq

from prudent.errors import DataError
from prudent.evaluation._overopt_tables import curves_table, laws_table, outcomes_table, strengths_table, verdicts_table
from prudent.evaluation._study_types import BestOfNStudy
from prudent.models import atomic_file
from prudent.scoring import require_apart

__all__ = ["Overoptimization", "Source", "check_lab", "read_overopt"]

FORMAT_VERSION = 1
_FILE = "overopt.json"
_TABLES = {
    "curves": curves_table,
    "outcomes": outcomes_table,
    "strengths": strengths_table,
    "laws": laws_table,
    "verdicts": verdicts_table,
}
_PAGE = "report.html"
"""What `prudent overopt` writes beside them."""
_MODEL_FILES = ("config.json", "adapter_config.json", "posterior_config.json")


@dataclass(frozen=True)
class Source:
    """A scored file that went in."""

    path: str
    """Where it was; `a table` for one that was in memory."""
    sha256: str | None
    """Of the file, or of the parts of a folder one after the other; None for what was in memory."""


@dataclass(frozen=True)
class Overoptimization:
    """Proxies on pools, each with a study of what optimizing against it does.

    Attributes:
        studies: by `PROXY`, or `POOL/PROXY` where there are several pools.
        sources: the scored files behind each study, one for each seed of the proxy.
    """

    studies: dict[str, BestOfNStudy]
    sources: dict[str, tuple[Source, ...]]

    def to_table(self) -> Any:
        """The curves as a `pyarrow.Table`, a row for each study, curve, scale of gold and n.

        Columns: `pool`, `proxy`, `num_seeds`, `seed`, `curve`, `kind`, `utility`, `strategy`, `scale`, `n`, `kl`,
        `gold` with `gold_low`, `gold_high` and `gold_standard_error` (Monte Carlo), `proxy_mean`, `variance` and
        `length` of the pick, `effective_size`; null where there is none. `seed` is null in the rows of a proxy as a
        whole; where it has several seeds there are further rows of each alone (0, 1, ...), with `gold` and no more.
        Without gold `scale` and `gold` are null.
        """
        return curves_table(self.studies)

    def tables(self) -> dict[str, Any]:
        """All tables by name: `curves`, and where there is gold `outcomes`, `strengths`, `laws` and `verdicts`."""
        found = {name: made(self.studies) for name, made in _TABLES.items()}
        return {name: table for name, table in found.items() if name == "curves" or table.num_rows}

    def write(self, folder: str | Path) -> dict[str, Path]:
        """Write the tables as Parquet, and all of it as `overopt.json` for `read_overopt`.

        Args:
            folder: made where it is not there; files of the same names are replaced, and tables of an earlier run that
                this one has no rows for are removed.

        Returns:
            The files by name.

        Raises:
            PrudentError: the folder is no place for them, see `check_lab`.
        """
        check_lab(folder, [one.path for files in self.sources.values() for one in files])
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        written = {}
        for name, table in self.tables().items():
            written[name] = place / f"{name}.parquet"
            with atomic_file(written[name]) as temporary:
                pq.write_table(table, temporary, compression="zstd")
        for name in _TABLES.keys() - written.keys():
            (place / f"{name}.parquet").unlink(missing_ok=True)
        written["overopt"] = place / _FILE
        with atomic_file(written["overopt"]) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), allow_nan=False), encoding="utf-8")
        return written

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "studies": {key: study.to_dict() for key, study in self.studies.items()},
            "sources": {key: [vars(one) for one in files] for key, files in self.sources.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also after a trip through JSON.

        Raises:
            ValueError: it is something else, or written in a format that this version does not know.
        """
        if not isinstance(data, Mapping) or not all(
            isinstance(data.get(name, {}), Mapping) for name in ("studies", "sources")
        ):
            raise ValueError("it is not a lab")
        if data.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"a lab of format {data.get('format_version')!r}: this version reads {FORMAT_VERSION}")
        return cls(
            {key: BestOfNStudy.from_dict(study) for key, study in data["studies"].items()},
            {key: tuple(Source(**one) for one in files) for key, files in data["sources"].items()},
        )


def check_lab(folder: str | Path, inputs: Iterable[Any] = ()) -> None:
    """Look at where `Overoptimization.write` is to write, before long work.

    Args:
        folder: there or not.
        inputs: what is read: scored files, models and pools.

    Raises:
        PrudentError: it is a file or holds a model, or is one of the inputs or a scored dataset or lies in one; or a
            file to be written is one of the inputs.

    Example:
        >>> check_lab("lab", ["scored.parquet"])
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise DataError(f"the output {place} is a file; give a folder")
    if any((place / name).exists() for name in _MODEL_FILES):
        raise DataError(f"the output {place} holds a model; give a folder of its own")
    read = list(inputs)
    for one in (place, place / _FILE, place / _PAGE, *(place / f"{name}.parquet" for name in _TABLES)):
        require_apart(one, read)


def read_overopt(folder: str | Path) -> Overoptimization:
    """Read what `Overoptimization.write` wrote.

    Raises:
        DataError: there is no such folder, or its file is damaged or of another version.
    """
    place = Path(folder) / _FILE
    if not place.is_file():
        raise DataError(f"{folder} holds no {_FILE}; give what `prudent overopt` wrote")
    try:
        return Overoptimization.from_dict(json.loads(place.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place} cannot be read ({error}); run `prudent overopt` again") from error
