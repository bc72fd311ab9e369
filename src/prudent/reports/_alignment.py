"""What moving a policy did: figures and one page from the runs of `prudent align`."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prudent.errors import DataError, PrudentError
from prudent.models import atomic_file
from prudent.reports._alignment_runs import (
    AlignedRun,
    ArmCurves,
    Band,
    alignment_folders,
    arms_of,
    matched_distance,
    read_run,
)
from prudent.reports._canvas import dress, legend, new_figure, save_figure
from prudent.reports._extra import need, need_report_packages
from prudent.reports._page import page_environment
from prudent.reports._reproduce import versions
from prudent.reports._style import PALETTE, frame
from prudent.reports._words import number

__all__ = ["AlignmentReport", "alignment_report"]

_DISTANCE = "square root of KL to the first policy, nats"
_Axis = Callable[[ArmCurves], Any]


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

    Runs that differ in their seed alone are one curve, with the 95 % interval over the seeds (Student's t); a single
    run has that over its held-out prompts. Curves are drawn against the square root of the measured KL, since arms are
    to be compared where the policy has moved equally far, and against steps. The table compares at the largest distance
    that every run came to.

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
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise PrudentError(f"{output}: a report is one HTML page; let its name end in .html")
    places = [data] if isinstance(data, str | Path) else list(data)
    folders = [folder for place in places for folder in alignment_folders(place)]
    if not folders:
        raise DataError(f"{', '.join(map(str, places))}: no run of `prudent align` there (no monitor.parquet)")
    runs = [read_run(folder) for folder in folders]
    arms = arms_of(runs)
    distance = matched_distance(arms) if len(arms) > 1 else None
    stem = output.with_suffix("")
    figures = {
        name: save_figure(figure, stem.with_name(f"{stem.name}_{name}.png"))
        for name, figure in (("curves", _draw_curves(arms)), ("beside", _draw_beside(arms)))
    }
    rows = [_row(arm, distance) for arm in arms]
    notes = [f"{run.folder.name}: {run.advice}" for run in runs if run.advice is not None]
    html = (
        page_environment()
        .get_template("alignment.html.j2")
        .render(
            title=title or f"Aligned policies: {', '.join(arm.label for arm in arms)}",
            answer=_answer(runs, arms, distance),
            hacked=any(run.stop for run in runs),
            rows=rows,
            distance=distance,
            has_gold=_has_gold(arms),
            notes=notes,
            leads=_leads(arms, distance),
            images={name: base64.b64encode(path.read_bytes()).decode() for name, path in figures.items()},
            several_seeds=any(len(arm.runs) > 1 for arm in arms),
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


def _has_gold(arms: Sequence[ArmCurves]) -> bool:
    return all(bool(np.isfinite(run.values("gold")).all()) for arm in arms for run in arm.runs)


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
    return {"label": arm.label, "num_seeds": len(arm.runs), "steps": arm.steps[-1]} | {
        name: _values(band) for name, band in shown.items()
    }


def _values(band: Band | None) -> dict[str, float] | None:
    if band is None or not np.isfinite(band.mean):
        return None
    found = {"value": float(band.mean)}
    if np.isfinite(band.low):
        found |= {"low": float(band.low), "high": float(band.high)}
    return found


def _answer(runs: Sequence[AlignedRun], arms: Sequence[ArmCurves], distance: float | None) -> str:
    """The first sentence of the page."""
    stopped = [run for run in runs if run.stop]
    if len(runs) == 1 and runs[0].advice is not None:
        text = runs[0].advice
        return f"{text[0].upper()}{text[1:]}."
    if stopped:
        return f"In {len(stopped)} of {len(runs)} runs gold falls while the proxy still rises."
    if not _has_gold(arms):
        return (
            "Without gold nobody can tell whether the gain is real: this shows the proxy, and how far policies moved."
        )
    if len(arms) == 1 or distance is None:
        gain = float(arms[0].gain("gold").mean)
        return f"Gold {'rose' if gain >= 0 else 'fell'} by {number(abs(gain))} until the last step."
    first = _compared_with(arms)
    leads = {arm.label: arm.lead(first, "gold", distance) for arm in arms if arm is not first}
    sure = {label: band for label, band in leads.items() if band is not None and (band.low > 0 or band.high < 0)}
    if sure:
        label = max(sure, key=lambda one: abs(float(sure[one].mean)))
        more = "more" if sure[label].mean > 0 else "less"
        return f"Moved equally far, {label} gains {more} gold than {first.label}: {_interval(sure[label])}."
    if all(band is None for band in leads.values()):
        return "With one seed an arm, what sets the arms apart cannot be told from chance."
    return f"Moved equally far, no arm's gain in gold differs from that of {first.label} by more than chance."


def _leads(arms: Sequence[ArmCurves], distance: float | None) -> list[str]:
    """How far each arm is ahead of the first, in words."""
    if distance is None or not _has_gold(arms):
        return []
    first = _compared_with(arms)
    leads = [(arm, arm.lead(first, "gold", distance)) for arm in arms if arm is not first]
    return [
        f"At equal distance {arm.label} gains {_interval(lead)} more gold than {first.label}, seed by seed."
        for arm, lead in leads
        if lead is not None
    ]


def _compared_with(arms: Sequence[ArmCurves]) -> ArmCurves:
    return next((arm for arm in arms if arm.label == "mean"), arms[0])


def _interval(band: Band) -> str:
    return f"{number(float(band.mean))} [{number(float(band.low))}, {number(float(band.high))}]"


def _draw_curves(arms: Sequence[ArmCurves]) -> Any:
    """Gold above proxy, against distance on the left and steps on the right."""
    titles = {"gold": "gold, held-out prompts", "proxy": "proxy, held-out prompts"}
    names = ["gold", "proxy"] if _has_gold(arms) else ["proxy"]
    figure = new_figure(11.0, 0.6 + 3.5 * len(names))
    axes = figure.subplots(len(names), 2, squeeze=False, sharey="row", sharex="col")
    for row, name in zip(axes, names, strict=True):
        _draw(row[0], arms, name, lambda arm: arm.distance)
        _draw(row[1], arms, name, lambda arm: arm.steps)
        last = name == names[-1]
        dress(row[0], _DISTANCE if last else "", titles[name])
        dress(row[1], "step" if last else "", "")
    legend(figure, axes[0][0], below=True)
    return figure


def _draw_beside(arms: Sequence[ArmCurves]) -> Any:
    """Shares below the reference, length, and the distance itself."""
    below = "gold_below_reference" if _has_gold(arms) else "proxy_below_reference"
    what = "gold" if _has_gold(arms) else "proxy"
    figure = new_figure(11.0, 3.9)
    axes = figure.subplots(1, 3)
    _draw(axes[0], arms, below, lambda arm: arm.distance)
    _draw(axes[1], arms, "length", lambda arm: arm.distance)
    _draw(axes[2], arms, "kl", lambda arm: arm.steps)
    axes[0].yaxis.set_major_formatter(need("matplotlib.ticker").PercentFormatter(1.0, decimals=0))
    dress(axes[0], _DISTANCE, f"completions with {what} below the first policy's")
    dress(axes[1], _DISTANCE, "tokens of a completion")
    dress(axes[2], "step", "KL to the first policy, nats")
    for one in axes[:2]:
        one.xaxis.label.set_size(9)
    axes[0].yaxis.label.set_size(9)
    legend(figure, axes[0], below=True)
    return figure


def _draw(axes: Any, arms: Sequence[ArmCurves], name: str, x: _Axis) -> None:
    lines: list[float] = []
    bounds: list[float] = []
    for place, arm in enumerate(arms):
        color, band, at = PALETTE[place % len(PALETTE)][0], arm.band(name), np.asarray(x(arm), dtype=np.float64)
        label = arm.label if len(arm.runs) == 1 else f"{arm.label} ({len(arm.runs)} seeds)"
        on_top = 3 - 0.01 * place
        axes.plot(at, band.mean, color=color, linewidth=2.2, marker="o", markersize=3, label=label, zorder=on_top)
        lines += band.mean.tolist()
        if not np.isfinite(band.low).any():
            continue
        bounds += [*band.low.tolist(), *band.high.tolist()]
        if bool((np.diff(at) > 0).all()):
            axes.fill_between(at, band.low, band.high, color=color, alpha=0.13, linewidth=0, zorder=1)
        else:  # a policy that comes back a little would fold a band over itself
            axes.vlines(at, band.low, band.high, color=color, alpha=0.35, linewidth=1.4, zorder=1)
    limits = frame(lines, bounds) if bounds else None
    if limits is not None:
        axes.set_ylim(*limits)
