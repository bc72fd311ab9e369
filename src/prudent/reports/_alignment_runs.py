"""Runs of `prudent align`, read and put together: a curve for each arm, over its seeds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prudent.errors import DataError

__all__ = ["AlignedRun", "ArmCurves", "Band", "alignment_folders", "arms_of", "matched_distance", "read_run"]

_NAME = "monitor.parquet"
_LEVEL = 0.95
_SHOWN = 6
_LIMITS = {
    "proxy_below_reference": (0.0, 1.0),
    "gold_below_reference": (0.0, 1.0),
    "kl": (0.0, np.inf),
    "length": (0.0, np.inf),
}
"""What a figure cannot leave; an interval of few seeds would."""
"""Held-out prompts whose completions are shown."""


@dataclass(frozen=True)
class AlignedRun:
    """One run.

    Attributes:
        folder: where it lies.
        rows: of `monitor.parquet`, by step.
        utility: what a response was worth; None for a run that has not finished.
        advice: about stopping, in a sentence; None where there is none.
        stop: whether the advice is to stop.
    """

    folder: Path
    rows: list[dict[str, Any]]
    utility: str | None
    advice: str | None
    stop: bool

    def values(self, name: str) -> NDArray[np.float64]:
        """A figure at each step, NaN where it is not known."""
        return np.array([np.nan if row[name] is None else row[name] for row in self.rows], dtype=np.float64)

    @property
    def distance(self) -> NDArray[np.float64]:
        """Square root of the KL at each step."""
        return np.sqrt(np.maximum(0.0, self.values("kl")))

    def at_distance(self, name: str, distance: float) -> float:
        """A figure where the policy first was so far from the first policy, between two steps on a line."""
        reached, values = self.distance, self.values(name)
        later = np.flatnonzero(reached >= distance)
        if not len(later):
            return float("nan")
        end = int(later[0])
        if end == 0 or reached[end] == reached[end - 1]:
            return float(values[end])
        share = (distance - reached[end - 1]) / (reached[end] - reached[end - 1])
        return float(values[end - 1] + share * (values[end] - values[end - 1]))

    def completions(self) -> list[dict[str, Any]]:
        """The first completion of some held-out prompts, at the start and at the end."""
        path = self.folder / "samples.parquet"
        if not path.exists():
            return []
        first, last = self.rows[0]["step"], self.rows[-1]["step"]
        found: dict[int, dict[str, Any]] = {}
        for row in pq.read_table(path).to_pylist():
            if row["completion_id"] == 0 and row["prompt_id"] < _SHOWN and row["step"] in (first, last):
                place = "before" if row["step"] == first else "after"
                found.setdefault(row["prompt_id"], {"prompt": row["prompt"]})[place] = row
        return [one for one in found.values() if {"before", "after"} <= one.keys()]


@dataclass(frozen=True)
class Band:
    """A mean with its 95 % interval; the interval is NaN where it is not known."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class ArmCurves:
    """Runs that differ in their seed alone."""

    label: str
    runs: tuple[AlignedRun, ...]

    @cached_property
    def steps(self) -> list[int]:
        """Steps that all runs looked at."""
        shared = set.intersection(*({row["step"] for row in run.rows} for run in self.runs))
        return sorted(shared)

    def band(self, name: str) -> Band:
        """A figure at each step: mean over seeds with Student's t, or of a single run with that over prompts."""
        if len(self.runs) > 1:
            return _within(name, _over_seeds(np.stack([self._at_steps(run, run.values(name)) for run in self.runs])))
        (run,) = self.runs
        mean = run.values(name)
        error = f"{name}_standard_error"
        if error not in run.rows[0]:
            nothing = np.full_like(mean, np.nan)
            return Band(mean, nothing, nothing)
        reach = _student(max(1, run.rows[0]["num_prompts"] - 1)) * run.values(error)
        return _within(name, Band(mean, mean - reach, mean + reach))

    @property
    def distance(self) -> NDArray[np.float64]:
        """Square root of the KL at each step, averaged over seeds."""
        found: NDArray[np.float64] = np.stack([self._at_steps(run, run.distance) for run in self.runs]).mean(0)
        return found

    def gain(self, name: str, distance: float | None = None) -> Band:
        """What a figure has gained at the last step, or at a distance, over the seeds."""
        ends = [run.values(name)[-1] if distance is None else run.at_distance(name, distance) for run in self.runs]
        return _over_seeds(np.array([end - run.values(name)[0] for end, run in zip(ends, self.runs, strict=True)]))

    def lead(self, other: "ArmCurves", name: str, distance: float) -> Band | None:
        """What it gains more than another at a distance, seed by seed; None where they do not share two seeds."""
        gains = [
            {run.rows[0]["seed"]: run.at_distance(name, distance) - run.values(name)[0] for run in arm.runs}
            for arm in (self, other)
        ]
        shared = sorted(gains[0].keys() & gains[1].keys())
        if len(shared) < 2:
            return None
        return _over_seeds(np.array([gains[0][seed] - gains[1][seed] for seed in shared]))

    def end(self, name: str) -> Band:
        """A figure at the last step, over the seeds."""
        return _within(name, _over_seeds(np.array([run.values(name)[-1] for run in self.runs])))

    def _at_steps(self, run: AlignedRun, values: NDArray[np.float64]) -> NDArray[np.float64]:
        places = {row["step"]: place for place, row in enumerate(run.rows)}
        return values[[places[step] for step in self.steps]]


def alignment_folders(path: str | Path) -> list[Path]:
    """Folders of runs: the path itself, or those in it, at most two levels deep; none where it holds no run.

    Example:
        >>> alignment_folders("no/such/place")
        []
    """
    place = Path(path)
    if (place / _NAME).is_file():
        return [place]
    return sorted(found.parent for pattern in (f"*/{_NAME}", f"*/*/{_NAME}") for found in place.glob(pattern))


def read_run(folder: str | Path) -> AlignedRun:
    """One run of `align`, finished or not.

    Raises:
        DataError: the folder holds none, or a damaged one.
    """
    place = Path(folder)
    try:
        rows: list[dict[str, Any]] = pq.read_table(place / _NAME).to_pylist()
        finished = place / "align_result.json"
        result = json.loads(finished.read_text(encoding="utf-8")) if finished.exists() else {}
        ordered = sorted(rows, key=lambda row: int(row["step"]))
        advice = result.get("advice") or {}
        run = AlignedRun(place, ordered, result.get("utility"), advice.get("text"), bool(advice.get("stop")))
        run.values("kl"), run.values("proxy"), run.values("gold"), [row["arm"] for row in ordered]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{place} holds no run of `prudent align` that can be read ({error})") from error
    if not run.rows:
        raise DataError(f"{place / _NAME} has no row yet")
    return run


def arms_of(runs: Sequence[AlignedRun]) -> list[ArmCurves]:
    """Runs put together that differ in their seed alone, under names that tell them apart."""
    keys = [_key(run) for run in runs]
    varies = [len({key[part] for key in keys}) > 1 for part in range(4)]
    found: dict[tuple[Any, ...], list[AlignedRun]] = {}
    for key, run in zip(keys, runs, strict=True):
        found.setdefault(key, []).append(run)
    return [ArmCurves(_label(key, varies), tuple(own)) for key, own in found.items()]


def matched_distance(arms: Sequence[ArmCurves]) -> float | None:
    """The largest distance that every run has come to; None where one has not moved."""
    least = min(float(np.nanmax(run.distance)) for arm in arms for run in arm.runs)
    return least if least > 0 else None


def _key(run: AlignedRun) -> tuple[Any, ...]:
    row = run.rows[0]
    return row["arm"], run.utility, row["algorithm"], row["kl_coef"]


def _label(key: tuple[Any, ...], varies: Sequence[bool]) -> str:
    arm, utility, algorithm, kl_coef = key
    parts = [str(arm)]
    if varies[1] and utility is not None and not varies[0]:
        parts.append(str(utility))
    if varies[2]:
        parts.append(str(algorithm))
    if varies[3]:
        parts.append(f"kl_coef {kl_coef:g}")
    return ", ".join(parts)


def _over_seeds(values: NDArray[np.float64]) -> Band:
    """Mean over the first axis, and Student's t interval of it; a value that a seed lacks makes it NaN."""
    count = len(values)
    mean = values.mean(0)
    if count < 2:
        return Band(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    reach = _student(count - 1) * values.std(0, ddof=1) / np.sqrt(count)
    return Band(mean, mean - reach, mean + reach)


def _within(name: str, band: Band) -> Band:
    least, most = _LIMITS.get(name, (-np.inf, np.inf))
    return Band(band.mean, np.clip(band.low, least, most), np.clip(band.high, least, most))


def _student(freedom: int) -> float:
    """How many standard errors the 95 % interval of a mean reaches each way: a quantile of Student's t."""
    angle = np.linspace(0.0, np.pi / 2, 100_001)[:-1]
    value = np.tan(angle)
    # The density at tan(angle), times what a step of the angle is worth; its constant does not matter.
    weight = (1 + value**2 / freedom) ** (-(freedom + 1) / 2) * (1 + value**2)
    reached = np.cumsum(weight)
    return float(np.interp(_LEVEL, reached / reached[-1], value))
