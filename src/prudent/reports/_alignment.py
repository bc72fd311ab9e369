"""What moving a policy did: figures and one page from the runs of `prudent align`."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prudent.errors import DataError
from prudent.models import atomic_file
from prudent.reports._alignment_arms import ArmCurves, Band, arms_of, least_far
from prudent.reports._alignment_figures import draw_beside, draw_curves
from prudent.reports._alignment_runs import alignment_folders, read_run
from prudent.reports._alignment_words import answer, cautions, law_sentences, leads, seed_sentence, stops_surely
from prudent.reports._canvas import save_figure
from prudent.reports._extra import need_report_packages
from prudent.reports._figure_files import page_path
from prudent.reports._page import page_environment
from prudent.reports._reproduce import versions

__all__ = ["AlignmentReport", "alignment_report"]

_HEADING = 120
"""Characters of the names of arms that a heading may have."""


@dataclass(frozen=True)
class AlignmentReport:
    """What a report on aligned policies wrote.

    Attributes:
        html: the page.
        figures: the PNG of each figure: `curves` (gold and proxy) and `beside` (what came with them).
        rows: a mapping an arm, as the table of the page shows it.
        notes: the advice about stopping, one a run.
    """

    html: Path
    figures: dict[str, Path]
    rows: list[dict[str, Any]]
    notes: list[str]


def alignment_report(
    data: str | Path | Sequence[str | Path], output: str | Path, *, title: str | None = None, command: str | None = None
) -> AlignmentReport:
    """Write a report on aligned policies: one HTML file that opens offline, and PNG figures beside it.

    Runs that differ in their seed alone are one arm, with the 95 % interval over the seeds (Student's t); a single run
    has that over its held-out prompts. Settings that set arms apart are in their labels. Proxy and gold are shown as
    gains over the first policy on the same prompts, against the square root of the measured KL, since arms are to be
    compared where the policy has moved equally far, and against steps. The table compares at the largest distance that
    every run came to. A run that has not finished is marked, and does not count beside finished ones of its arm.

    Args:
        data: what `align` wrote: a folder, a folder of such, or several of both.
        output: the HTML file, `NAME.html`; figures become `NAME_curves.png` and `NAME_beside.png`.
        title: heading of the page.
        command: what made the page, shown as what one would type to make it again.

    Raises:
        DataError: there is no run.
        PrudentError: a package of the extra `report` is not installed, or the output is no HTML file.

    Example:
        >>> alignment_report(["aligned-mean", "aligned-lsc"], "alignment.html").html  # doctest: +SKIP
        PosixPath('alignment.html')
    """
    need_report_packages()
    output = page_path(output)
    places = [data] if isinstance(data, str | Path) else list(data)
    folders = [folder for place in places for folder in alignment_folders(place)]
    if not folders:
        raise DataError(f"{', '.join(map(str, places))}: no run of `prudent align` there (no monitor.parquet)")
    runs = [read_run(folder) for folder in dict.fromkeys(folders)]
    arms = arms_of(runs)
    has_gold = all(run.has_gold for arm in arms for run in arm.runs)
    distance, nearest = (least_far(arms) if len(arms) > 1 else None) or (None, None)
    stem = output.with_suffix("")
    figures = {
        name: save_figure(draw(arms, gold=has_gold), stem.with_name(f"{stem.name}_{name}.png"))
        for name, draw in (("curves", draw_curves), ("beside", draw_beside))
    }
    rows = [_row(arm, distance) for arm in arms]
    notes = [f"{run.folder.name}: {run.advice}" for run in runs if run.advice is not None]
    html = (
        page_environment()
        .get_template("alignment.html.j2")
        .render(
            title=title or _heading(arms),
            answer=answer(arms, distance, has_gold=has_gold),
            hacked=stops_surely(arms),
            cautions=cautions(arms, has_gold=has_gold),
            own_of_seed=seed_sentence(arms),
            silent=list(dict.fromkeys(setting for arm in arms for setting in arm.silent)),
            rows=rows,
            distance=distance,
            nearest=None if nearest is None else nearest.folder.name,
            has_gold=has_gold,
            notes=notes,
            leads=leads(arms, distance) if has_gold else [],
            laws=law_sentences(arms) if has_gold else [],
            images={name: base64.b64encode(path.read_bytes()).decode() for name, path in figures.items()},
            over={arm.over for arm in arms},
            completions=[(run.folder.name, run.completions()) for run in (arms[0].runs[0], arms[-1].runs[0])][
                : len(arms)
            ],
            command=command,
            versions=versions(),
        )
    )
    with atomic_file(output) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return AlignmentReport(output, figures, rows, notes)


def _heading(arms: Sequence[ArmCurves]) -> str:
    """The arms by name where these fit on a line or two, else how many."""
    named = "; ".join(arm.label for arm in arms)
    return f"Aligned policies: {named if len(named) <= _HEADING else f'{len(arms)} arms'}"


def _row(arm: ArmCurves, distance: float | None) -> dict[str, Any]:
    shown = {
        "kl": arm.end("kl"),
        "proxy_gain": arm.gain("proxy"),
        "gold_gain": arm.gain("gold"),
        "proxy_gain_matched": None if distance is None else arm.gain("proxy", distance),
        "gold_gain_matched": None if distance is None else arm.gain("gold", distance),
        "proxy_below_reference": arm.end("proxy_below_reference"),
        "gold_below_reference": arm.end("gold_below_reference"),
        "length": arm.end("length"),
        "length_gain": arm.gain("length"),
    }
    return {
        "label": arm.label,
        "num_seeds": len(arm.seeds),
        "num_runs": len(arm.runs),
        "num_unfinished": len(arm.unfinished),
        "num_advised": sum(run.advice is not None for run in arm.runs),
        "num_stop": sum(run.stop for run in arm.runs),
        "steps": arm.steps[-1],
        "intervals_over": arm.over,
    } | {name: _values(band) for name, band in shown.items()}


def _values(band: Band | None) -> dict[str, float] | None:
    if band is None or not np.isfinite(band.mean):
        return None
    found = {"value": float(band.mean)}
    if np.isfinite(band.low):
        found |= {"low": float(band.low), "high": float(band.high)}
    return found
