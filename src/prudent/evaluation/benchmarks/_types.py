"""What a benchmark found: small frozen records that turn into JSON and back."""

import json
from dataclasses import dataclass
from pathlib import Path

from prudent.errors import DataError
from prudent.evaluation._evaluation_types import Figure
from prudent.evaluation._records import Record

__all__ = ["BenchmarkFigure", "BenchmarkResult", "read_benchmark"]


@dataclass(frozen=True)
class BenchmarkFigure:
    """One figure of a benchmark, with what it becomes where the least sure decisions are left out.

    A decision is a choice between responses: which of two is better, or which of several is best. How sure it is: by
    the difference between the two that it hangs on (of several, the best and the next), in standard deviations of that
    difference, or by the mean difference alone. A figure that averages others averages those at the same coverage.

    Attributes:
        group: what kind of thing the label names: `overall`, `section`, `domain`, `subset`, `difficulty`, `n`, ...
        label: such as `Chat Hard`.
        num: prompts behind it; rows where a benchmark counts rows.
        chance: what picking at random would give; None where that says nothing.
        score: of all decisions.
        at_80: of the 80 % that are surest by the standard deviation; None without one, or where nothing is decided.
        at_50: of the surest half.
        at_80_by_mean: of the 80 % with the largest mean difference; None where nothing is decided.
        at_50_by_mean: of the half with the largest.
    """

    group: str
    label: str
    num: int
    chance: float | None
    score: Figure
    at_80: Figure | None
    at_50: Figure | None
    at_80_by_mean: Figure | None
    at_50_by_mean: Figure | None


@dataclass(frozen=True)
class BenchmarkResult(Record):
    """The result of `run_benchmark`.

    Attributes:
        name: the benchmark, one of `BENCHMARKS`.
        model: the model, or the column that the scores were read from.
        data: what it was run on.
        split: the split of it; None where it has none.
        posterior: kind of the posterior, `none` without one.
        num_rows: rows of the benchmark.
        num_prompts: distinct prompts, the unit of resampling.
        num_responses: responses scored.
        num_skipped: faulty rows left out.
        num_truncated: responses that were cut.
        num_not_scored: responses whose score is not finite; a decision that needs one counts as lost.
        overall: the figure that the benchmark's authors rank by.
        figures: the others, those of a group one after the other.
        notes: what to know of these figures, such as subsets that are missing or not known.
    """

    called = "a benchmark result"
    format_version = 1

    name: str
    model: str
    data: str
    split: str | None
    posterior: str
    num_rows: int
    num_prompts: int
    num_responses: int
    num_skipped: int
    num_truncated: int
    num_not_scored: int
    overall: BenchmarkFigure
    figures: tuple[BenchmarkFigure, ...]
    notes: tuple[str, ...]

    def figure(self, group: str, label: str) -> BenchmarkFigure:
        """One of the figures.

        Raises:
            KeyError: there is none of that name.
        """
        for one in self.figures:
            if (one.group, one.label) == (group, label):
                return one
        raise KeyError(f"no figure {label!r} of group {group!r}")


def read_benchmark(path: str | Path) -> BenchmarkResult:
    """Read what `run_benchmark` wrote.

    Args:
        path: the JSON file, or the folder that holds it as `benchmark.json`.

    Raises:
        DataError: nothing there, or something else.
    """
    place = Path(path)
    if place.is_dir():
        place = place / "benchmark.json"
    given: object = None
    try:
        given = json.loads(place.read_text(encoding="utf-8"))
        return BenchmarkResult.from_dict(given if isinstance(given, dict) else {})
    except OSError as error:
        raise DataError(
            f"{place} cannot be read ({error.strerror}); give what `prudent evaluate --benchmark` wrote"
        ) from error
    except ValueError as error:
        if isinstance(given, dict) and "bounds" in given:
            raise DataError(
                f"{place} is what `prudent evaluate` wrote of preferences, not of a benchmark; in a report give it as "
                "--evaluation"
            ) from error
        raise DataError(
            f"{place} is not what this version's `prudent evaluate --benchmark --output` writes ({error}); run it again"
        ) from error
