"""One self-contained HTML page and PNG figures from a scored file or a study."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prudent.errors import DataError
from prudent.evaluation import (
    BenchmarkResult,
    BestOfNStudy,
    Evaluation,
    Overoptimization,
    best_of_n_study,
    source_of,
)
from prudent.models import atomic_file
from prudent.reports._benchmarks import benchmark_results
from prudent.reports._extra import need_report_packages
from prudent.reports._figure_files import figure_stems, page_path
from prudent.reports._held_out import held_out_pairs
from prudent.reports._page import Shown, render
from prudent.reports._png import draw_figures, draw_held_out
from prudent.scoring import read_scored, require_apart

__all__ = ["ReportPaths", "report"]


@dataclass(frozen=True)
class ReportPaths:
    """What a report wrote."""

    html: Path
    figures: dict[str, Path]
    """The PNG of each figure that the data could fill: `gold`, `proxy`, `variance`, `strengths`, `laws`, `trade_off`,
    `reliability`, `risk_coverage`, and of evaluations `heldout_reliability` and `heldout_risk_coverage`. Of several
    studies `STUDY/gold` and so on."""
    studies: dict[str, BestOfNStudy]
    """What is shown, by name; a single study without one has an empty name."""


def report(
    data: str | Path | BestOfNStudy | Overoptimization,
    output: str | Path,
    *,
    title: str | None = None,
    scale: str = "gold",
    evaluations: Sequence[str | Path | Evaluation] = (),
    benchmarks: Sequence[str | Path | BenchmarkResult] = (),
    png: bool = True,
    command: str | None = None,
    **study_options: Any,
) -> ReportPaths:
    """Write a report on best-of-n: one HTML file that opens offline, and PNG figures beside it.

    The page opens with the answer: is the reward model hacked, from which n on, and which rule would have helped, with
    a number and an interval. Then gold and proxy of the pick against n or KL, what the strength of each rule does, laws
    of overoptimization, the variance of the pick, reliability, risk and coverage on pairs of candidates; the worst
    picks beside what others would have picked; and how to make the page again. Without gold it shows proxy and variance
    only, and says so. Evaluations add how well the model predicts held-out pairs, benchmarks what it scores there.
    Figures can be explored where scripts run and are still pictures in print and where they do not.

    Args:
        data: A scored dataset (folder or Parquet file), or what `prudent.evaluation.best_of_n_study` or
            `prudent.evaluation.overopt` returned.
        output: The HTML file, `NAME.html`; figures become `NAME_gold.png` and so on. Existing files are replaced.
        title: Heading of the page. None: made from the name of the data.
        scale: The scale of gold that words and figures use: `gold`, `gold_standardized`, or `gold_length_adjusted`.
        evaluations: What `prudent.evaluation.evaluate` returned or wrote on held-out pairs, at most six: several
            posteriors of one model are shown side by side.
        benchmarks: What `prudent.evaluation.run_benchmark` returned or wrote, at most twelve.
        png: Whether to write the figures as files too; the page holds them in any case.
        command: What made the page, shown as what one would type to make it again.
        study_options: Further arguments of `best_of_n_study`, where `data` is a scored dataset.

    Returns:
        The paths written and the studies shown.

    Raises:
        prudent.errors.PrudentError: If a package of the extra `report` is not installed, or the name of the output does
            not end in .html, or a folder has it, or it is what is read, or lies in a scored dataset.
        prudent.errors.DataError: If the data is no scored dataset, or has no gold on this scale, or an evaluation or a
            result of a benchmark is none, or there are too many.
        TypeError: If study options come with a study.

    Example:
        >>> import tempfile
        >>> import pyarrow as pa
        >>> from prudent.evaluation import best_of_n_study
        >>> table = pa.table({"prompt_id": [0, 0, 0], "reward_mean": [0.0, 1, 2], "reward_variance": [1.0, 1, 2]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report(best_of_n_study(table, num_bootstrap=50), f"{folder}/small.html").html.name
        'small.html'
    """
    need_report_packages()  # before any work
    output = page_path(output)
    require_apart(output, [data, *evaluations, *benchmarks])
    held_out, results = held_out_pairs(evaluations), benchmark_results(benchmarks)
    if isinstance(data, BestOfNStudy | Overoptimization) and study_options:
        raise TypeError(f"a finished study takes no study options, got {', '.join(study_options)}")
    heading = "Best-of-n"
    if isinstance(data, Overoptimization):
        studies, sources = data.studies, data.sources
        heading = f"Best-of-n against {next(iter(studies)) if len(studies) == 1 else f'{len(studies)} reward models'}"
    elif isinstance(data, BestOfNStudy):
        studies, sources = {"": data}, {"": ()}
    else:
        studies, sources = {"": best_of_n_study(read_scored(data), **study_options)}, {"": (source_of(data),)}
        heading = f"Best-of-n on {Path(data).stem}"
    for study in studies.values():
        if study.gold_scales and scale not in study.gold_scales:
            raise DataError(f"no gold on the scale {scale!r} here; there is {', '.join(study.gold_scales)}")
    with tempfile.TemporaryDirectory() as folder:
        stem = output.with_suffix("") if png else Path(folder) / "figure"
        stems = figure_stems(stem, studies)
        drawn = {name: draw_figures(study, stems[name], scale=scale) for name, study in studies.items()}
        figures = draw_held_out(held_out, stem)
        html = render(
            [Shown(name, study, sources[name], _read(drawn[name])) for name, study in studies.items()],
            title or heading,
            scale,
            held_out=held_out,
            benchmarks=results,
            images=_read(figures),
            command=command,
        )
    with atomic_file(output) as temporary:
        temporary.write_text(html, encoding="utf-8")
    for name, paths in drawn.items():
        figures |= {f"{name}/{figure}" if len(studies) > 1 else figure: path for figure, path in paths.items()}
    return ReportPaths(output, figures if png else {}, studies)


def _read(figures: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in figures.items()}
