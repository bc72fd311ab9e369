"""Runs of `prudent align`, as their folders hold them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prudent.alignment import ARMS, early_stop_advice
from prudent.errors import DataError
from prudent.utility import parse_utility

__all__ = ["AlignedRun", "alignment_folders", "read_run"]

_NAME = "monitor.parquet"
_COLUMNS = {"proxy": "reward_mean", "gold": "gold"}
"""Figures of `monitor.parquet` that have gains, and what they are called in `samples.parquet`."""
_MODELS = ("policy", "reward_model", "gold_model")
_FALL = ("gold_change", "gold_change_high", "num_prompts")
_SAVED = "saved "
_SHOWN = 6
"""Held-out prompts whose completions are shown."""


@dataclass(frozen=True)
class AlignedRun:
    """One run.

    Attributes:
        folder: where it lies.
        rows: of `monitor.parquet`, by step.
        settings: that it was started with, `utility` being None where it is the arm's own; only what the rows say
            where nothing else is recorded.
        models: names of its models, as far as they are known.
        prompt_gains: `proxy` and `gold` of each held-out prompt at each step minus that at the first, [prompts, steps],
            of the prompts that have them at every step; a figure without such is missing.
        advice: about stopping, in a sentence, from what has been looked at so far; None where there is none.
        stop: whether the advice is to stop.
        fall: gold at the last step minus that at its best one, the upper end of its 95 % interval over prompts, and the
            number of prompts, as the advice has them; None where it has not.
        is_finished: whether it came to its last step.
    """

    folder: Path
    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    models: dict[str, str]
    prompt_gains: dict[str, NDArray[np.float64]]
    advice: str | None
    stop: bool
    fall: tuple[float, float, int] | None
    is_finished: bool

    @property
    def seed(self) -> int:
        """The seed of everything that was drawn."""
        return int(self.rows[0]["seed"])

    @property
    def distance(self) -> NDArray[np.float64]:
        """Square root of the KL at each step."""
        return np.sqrt(np.maximum(0.0, self.values("kl")))

    @property
    def has_gold(self) -> bool:
        """Whether gold is known at every step."""
        return bool(np.isfinite(self.values("gold")).all())

    def values(self, name: str) -> NDArray[np.float64]:
        """A figure at each step, NaN where it is not known."""
        return np.array([np.nan if row[name] is None else row[name] for row in self.rows], dtype=np.float64)

    def gains(self, name: str) -> NDArray[np.float64]:
        """A figure at each step minus that at the first, on the same prompts."""
        if name in self.prompt_gains:
            paired: NDArray[np.float64] = self.prompt_gains[name].mean(0)
            return paired
        values = self.values(name)
        change: NDArray[np.float64] = values - values[0]
        return change

    def at_distance(self, values: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
        """Figures [..., steps] where the policy first was so far from the first one, between two steps on a line."""
        reached = self.distance
        later = np.flatnonzero(reached >= distance)
        if not len(later):
            return np.full(values.shape[:-1], np.nan)
        end = int(later[0])
        if end == 0:
            return np.asarray(values[..., 0])
        share = (distance - reached[end - 1]) / (reached[end] - reached[end - 1])
        return np.asarray(values[..., end - 1] + share * (values[..., end] - values[..., end - 1]))

    def completions(self) -> list[dict[str, Any]]:
        """The first completion of some held-out prompts, at the start and at the end."""
        path = self.folder / "samples.parquet"
        if not path.exists():
            return []
        first, last = self.rows[0]["step"], self.rows[-1]["step"]
        found: dict[int, dict[str, Any]] = {}
        shown = [("completion_id", "==", 0), ("prompt_id", "<", _SHOWN), ("step", "in", {first, last})]
        for row in pq.read_table(path, filters=shown).to_pylist():
            place = "before" if row["step"] == first else "after"
            found.setdefault(row["prompt_id"], {"prompt": row["prompt"]})[place] = row
        return [one for one in found.values() if {"before", "after"} <= one.keys()]


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
        rows.sort(key=lambda row: int(row["step"]))
        if not rows:
            raise DataError(f"{place / _NAME} has no row yet")
        result = _json(place / "align_result.json")
        samples = place / "samples.parquet"
        so_far = None if result or not samples.exists() else early_stop_advice(samples)
        advice = so_far.to_dict() if so_far is not None else result.get("advice") or {}
        run = AlignedRun(
            place,
            rows,
            _settings(rows[0], result.get("settings") or _json(place / "checkpoints" / "run.json")),
            {name: _named(result[name]) for name in _MODELS if result.get(name)},
            _prompt_gains(samples, [row["step"] for row in rows]),
            advice.get("text"),
            bool(advice.get("stop")),
            (float(advice[_FALL[0]]), float(advice[_FALL[1]]), int(advice[_FALL[2]])) if _FALL[0] in advice else None,
            bool(result),
        )
        run.values("kl"), run.values("proxy"), run.values("gold"), run.seed
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise DataError(f"{place} holds no run of `prudent align` that can be read ({error})") from error
    return run


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _settings(row: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    found = {name: row[name] for name in ("arm", "algorithm", "kl_coef", "seed")} | recorded
    if not recorded:
        found |= {"settings": "not recorded", "utility": row.get("utility")}
    given = found.get("utility")
    if isinstance(given, str) and given.startswith(_SAVED):  # a digest of what it learned, maybe by the seed's models
        found |= {"utility": _SAVED.strip(), "saved_utility": given.removeprefix(_SAVED)}
    arm = ARMS.get(found["arm"])
    own = None if arm is None else arm.utility_at(found["kl_coef"])
    if own is not None and not recorded:
        own = str(parse_utility(own))  # as the rows write it
    if found.get("utility") == own:
        found["utility"] = None
    return found


def _named(model: str | dict[str, str]) -> str:
    """A model by the last part of its folder or name; several by those of each."""
    return " + ".join(Path(one).name for one in (model.values() if isinstance(model, dict) else [model]))


def _prompt_gains(path: Path, steps: list[int]) -> dict[str, NDArray[np.float64]]:
    if not path.exists():
        return {}
    table = pq.read_table(path, columns=["step", "prompt_id", *_COLUMNS.values()])
    step, prompt = table["step"].to_numpy(), table["prompt_id"].to_numpy()
    prompts, row = np.unique(prompt, return_inverse=True)
    looked = np.isin(step, steps)
    found = {}
    for name, column in _COLUMNS.items():
        values = np.asarray(table[column].to_numpy(), dtype=np.float64)  # null becomes NaN
        known = looked & ~np.isnan(values)
        total, count = np.zeros((2, len(prompts), len(steps)))
        cell = row[known], np.searchsorted(steps, step[known])
        np.add.at(total, cell, values[known])
        np.add.at(count, cell, 1)
        whole = (count > 0).all(1)
        if whole.any():
            means = total[whole] / count[whole]
            found[name] = means - means[:, :1]
    return found
