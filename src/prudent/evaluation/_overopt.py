"""The overoptimization lab: is a reward model hacked, from which n on, and which rule would have saved the picks?"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prudent.errors import DataError, PrudentError
from prudent.evaluation._best_of_n import best_of_n_study
from prudent.evaluation._overopt_types import Overoptimization, Source
from prudent.models import progress_bar
from prudent.scoring import ScoredPool, read_numbers, read_scored

if TYPE_CHECKING:
    import pyarrow as pa

    Scored: TypeAlias = str | Path | pa.Table | ScoredPool

__all__ = ["check_scored", "check_study_names", "overopt", "source_of"]

_NAME = re.compile(r"([\w.+-]+/)?[\w.+-]+")


def overopt(
    scored: "Mapping[str, Scored | Sequence[Scored]]",
    *,
    notes: Mapping[str, Sequence[str]] | None = None,
    progress: bool = False,
    **study_options: Any,
) -> Overoptimization:
    """Study what optimizing against proxies does to gold: every proxy on every pool, with baselines and controls.

    Each study is that of `best_of_n_study`: curves of utilities, of the baselines that they must beat and of controls,
    over all n, with intervals over prompts and seeds; verdicts, laws and examples.

    Args:
        scored: what `prudent.scoring.score` wrote of pools with gold, by the name of the proxy, or by `POOL/PROXY`
            where there are several pools. Several files of one name are seeds of that proxy on the same pool, whose
            curves are averaged.
        notes: what else the reader of a study must know, by its name: sentences that are told with its own.
        progress: show a bar on standard error.
        study_options: further arguments of `best_of_n_study`, such as `utilities` and `n_values`, the same for all.

    Returns:
        The studies, which `Overoptimization.write` turns into tables and `prudent.reports.report` into a page.

    Raises:
        DataError: nothing was given, a name is not usable, a file is no scored pool, has no gold, or is there twice
            under one name.
        PrudentError: what `best_of_n_study` raises, with the name of the study before it.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({
        ...     "prompt_id": [0, 0, 0, 1, 1, 1],
        ...     "reward_mean": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0],
        ...     "reward_variance": [0.1, 0.1, 4.0, 0.1, 0.1, 4.0],
        ...     "gold": [0.0, 1.0, -1.0, 0.0, 1.0, -1.0],
        ... })
        >>> found = overopt({"small": table}, utilities=["mean", "lcb_std"], num_bootstrap=50)
        >>> [found.studies["small"].curve(key).bands["gold"].value[-1] for key in ("mean", "lcb_std")]
        [-1.0, 1.0]
    """
    files = check_scored(scored)
    sources = {key: tuple(map(source_of, several)) for key, several in files.items()}
    for key, found in sources.items():
        _check_different(key, found)
    studies = {}
    with progress_bar("Studying", len(files), unit="proxies", enabled=progress) as advance:
        for key, several in files.items():
            try:
                pools = [_read(one) for one in several]
                studies[key] = best_of_n_study(pools[0] if len(pools) == 1 else pools, **study_options)
            except PrudentError as error:
                raise type(error)(f"{key}: {error}") from error
            if not studies[key].gold_scales:
                raise DataError(
                    f"{key}: no response has both gold and a reward, so nobody can say what picks are worth"
                )
            if also := (notes or {}).get(key):
                studies[key] = replace(studies[key], notes=(*studies[key].notes, *also))
            advance(1)
    return Overoptimization(studies, sources)


def check_scored(
    scored: "Mapping[str, Scored | Sequence[Scored]]", *, scale: str = "gold"
) -> "dict[str, list[Scored]]":
    """Look at what `overopt` is to be given, before long work: names, files, and whether gold is there.

    Args:
        scored: as `overopt` takes it.
        scale: of gold; the one that length is partialled out of needs lengths.

    Returns:
        The files by name, always as lists.

    Raises:
        DataError: nothing was given, a name is not usable, a file is not there or has no gold (on this scale).

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"prompt_id": [0], "reward_mean": [1.0], "reward_variance": [1.0], "gold": [0.5]})
        >>> list(check_scored({"lora": [table]}))
        ['lora']
    """
    check_study_names(scored)
    files = {key: _several(key, given) for key, given in scored.items()}
    for key, several in files.items():
        for one in several:
            _need_gold(key, one, scale)
    return files


def check_study_names(names: Collection[str]) -> None:
    """Check what studies are called: `PROXY`, or all of them `POOL/PROXY`.

    Raises:
        DataError: there are none, one is not usable, or some name a pool and some do not.
    """
    if not names:
        raise DataError("there is nothing to study; give scored files by the name of their proxy")
    for name in names:
        if not _NAME.fullmatch(name):
            raise DataError(f"{name!r} names no proxy: give PROXY or POOL/PROXY, in letters, digits and . _ + -")
    if len({"/" in name for name in names}) > 1:
        raise DataError(f"some names have a pool and some have none ({', '.join(names)}); give each as POOL/PROXY")


def _several(key: str, given: "Scored | Sequence[Scored]") -> "list[Scored]":
    """What was given under one name, as a list."""
    several = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not several:
        raise DataError(f"{key}: there is no scored file; give one, or one for each seed")
    return several


def _need_gold(key: str, given: "Scored", scale: str) -> None:
    """Refuse what has no gold before anything is read whole."""
    what = given if isinstance(given, str | Path) else "the table"
    try:
        found = read_numbers(given, ["gold", "length"])
    except DataError as error:
        raise DataError(f"{key}: {error}") from error
    if "gold" not in found or not bool(found["gold"].isfinite().any()):
        lack = "is without a number in" if "gold" in found else "has no"
        raise DataError(
            f"{key}: {what} {lack} column gold, and without true rewards nobody can say whether a proxy is hacked; "
            "score a pool with gold, or see `prudent report`"
        )
    if scale == "gold_length_adjusted" and "length" not in found:
        raise DataError(f"{key}: {what} has no column length, which the scale {scale} needs; take another scale")


def _check_different(key: str, sources: Sequence[Source]) -> None:
    """A file that is there twice is no other seed."""
    first: dict[str, str] = {}
    for one in sources:
        if one.sha256 is not None and one.sha256 in first:
            raise DataError(
                f"{key}: {one.path} and {first[one.sha256]} are the same, not two seeds of one proxy; leave one out"
            )
        first[one.sha256 or ""] = one.path


def _read(given: "Scored") -> ScoredPool:
    if isinstance(given, ScoredPool):
        return given
    return read_scored(given) if isinstance(given, str | Path) else ScoredPool(given)


def source_of(given: "Scored") -> Source:
    """Where scored rewards came from, with the SHA-256 of the file or of the parts of the folder."""
    place = given.source if isinstance(given, ScoredPool) else given
    if not isinstance(place, str | Path) or not Path(place).exists():
        return Source("a table", None)
    folder = Path(place)
    digest = hashlib.sha256()
    for file in [folder] if folder.is_file() else sorted(folder.glob("*.parquet")):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return Source(str(place), digest.hexdigest())
