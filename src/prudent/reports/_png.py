"""Figures by Matplotlib, drawn without its global state so that any thread may draw."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prudent.errors import DataError
from prudent.evaluation import Band, BestOfNStudy, Curve
from prudent.reports._canvas import DASHES, INK, dress, legend, new_figure, save_figure
from prudent.reports._diagrams import SERIES_COLORS, SERIES_MARKERS, Diagram, held_out_diagrams, reliability_diagrams
from prudent.reports._extra import need
from prudent.reports._held_out import HeldOut
from prudent.reports._laws import LawPicture, draw_laws, law_pictures
from prudent.reports._strengths import TOGETHER, draw_strengths, strengths
from prudent.reports._style import (
    MARKERS,
    MOST_BANDS,
    SCALE_LABELS,
    Look,
    axis_label,
    for_matplotlib,
    frame,
    looks,
    settled,
    tick_values,
    wants_log_axis,
    wrapped,
    x_values,
)
from prudent.reports._trade_off import axis_titles, draw_trade_off

__all__ = ["draw_figures", "draw_held_out", "plot_curves"]


def plot_curves(
    study: BestOfNStudy, path: str | Path, *, scale: str = "gold", title: str | None = None, dpi: int = 160
) -> Path:
    """Draw gold (where there is any) and proxy of every utility against KL or n, side by side, into one PNG.

    Args:
        study: A best-of-n study.
        path: Where to write; folders are made.
        scale: Which scale of gold, one of `study.gold_scales`.
        title: A line above the picture.
        dpi: Dots an inch; the picture is 11 by 4.6 inches, wider where there are several rewards.

    Returns:
        The path written.

    Raises:
        prudent.errors.PrudentError: If Matplotlib is not installed.
        prudent.errors.DataError: If there is no gold, and no reward that all responses have.
        ValueError: If the study has gold but not on this scale.

    Example:
        >>> import tempfile
        >>> import pyarrow as pa
        >>> from prudent.evaluation import best_of_n_study
        >>> table = pa.table({"prompt_id": [0, 0, 0], "reward_mean": [0.0, 1, 2], "reward_variance": [1.0, 1, 2]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_curves(best_of_n_study(table, num_bootstrap=50), f"{folder}/curves.png").name
        'curves.png'
    """
    if study.gold_scales and scale not in study.gold_scales:
        raise ValueError(f"scale must be one of {', '.join(study.gold_scales)}, got {scale!r}")
    columns = ([scale] if study.gold_scales else []) + list(study.proxies.values())
    if not columns:
        raise DataError("nothing to draw: the study has no gold, and every reward is missing for some responses")
    figure = _draw_panels(study, columns, 5.0 * len(columns) + 1.0, 4.6, below=True)
    if title:
        figure.suptitle(for_matplotlib(title), color=INK, fontsize=12)
    return save_figure(figure, path, dpi)


def draw_figures(study: BestOfNStudy, stem: Path, *, scale: str) -> dict[str, Path]:
    """Write `<stem>_gold.png`, `_proxy.png` and so on, those that can be filled.

    Args:
        study: A best-of-n study.
        stem: Path without the ending.
        scale: Which scale of gold.
    """
    panels = {"gold": [scale] if study.gold_scales else [], "proxy": list(study.proxies.values())}
    panels["variance"] = ["variance"] if "variance" in study.curves[0].bands else []
    figures = {
        name: _draw_panels(study, columns, 3.0 + 5.4 * len(columns), 4.4, below=False)
        for name, columns in panels.items()
        if columns
    }
    styles = looks(study)
    if study.gold_scales and any(one.multiples for one in strengths(study, scale, styles)):
        figures["strengths"] = _draw_strengths(study, scale, styles)
    if study.gold_scales and (pictures := law_pictures(study, scale, styles)):
        figures["laws"] = _draw_laws(pictures, study, scale)
    if study.trade_off is not None:
        figures["trade_off"] = figure = new_figure(8.4, 5.4)
        axes = figure.subplots()
        draw_trade_off(axes, study.trade_off, styles)
        dress(axes, *axis_titles(study.trade_off))
        legend(figure, axes, below=False)
    return _saved(figures | _draw_diagrams(reliability_diagrams(study)), stem)


def draw_held_out(held_out: Sequence[HeldOut], stem: Path) -> dict[str, Path]:
    """Write `<stem>_heldout_reliability.png` and `_heldout_risk_coverage.png`; nothing without evaluations.

    Args:
        held_out: Evaluations on held-out pairs.
        stem: Path without the ending.
    """
    return _saved(_draw_diagrams(held_out_diagrams(held_out)), stem)


def _saved(figures: Mapping[str, Any], stem: Path) -> dict[str, Path]:
    return {name: save_figure(one, stem.with_name(f"{stem.name}_{name}.png"), 160) for name, one in figures.items()}


def _draw_diagrams(found: Sequence[Diagram]) -> dict[str, Any]:
    figures = {}
    for one in found:
        figures[one.name] = figure = new_figure(6.4, 5.2)
        _draw_diagram(figure.subplots(), one)
    return figures


def _draw_strengths(study: BestOfNStudy, scale: str, styles: dict[str, Look]) -> Any:
    figure = new_figure(8.4, 4.4)
    axes = figure.subplots()
    draw_strengths(axes, strengths(study, scale, styles))
    dress(axes, TOGETHER, f"{SCALE_LABELS[scale]}, of the pick at n = {study.n_values[-1]:,}")
    legend(figure, axes, below=False)
    return figure


def _draw_laws(pictures: Sequence[LawPicture], study: BestOfNStudy, scale: str) -> Any:
    """Of the first utility, and beside it of the rule that would have helped or else of the next."""
    verdict = study.verdicts[scale]
    rescue = None if verdict.rescue is None else verdict.rescue.key
    shown = [pictures[0], *sorted(pictures[1:], key=lambda one: one.curve.key != rescue)[:1]]
    figure = new_figure(1.0 + 4.2 * len(shown), 4.2)
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    draw_laws(axes, shown)
    for one in axes:
        dress(one, "square root of KL, nats", SCALE_LABELS[scale] if one is axes[0] else "")
        handles, labels = one.get_legend_handles_labels()
        one.legend(handles, map(for_matplotlib, labels), frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _draw_panels(study: BestOfNStudy, columns: Sequence[str], width: float, height: float, *, below: bool) -> Any:
    """A figure with the curves of each column side by side, and one legend."""
    figure = new_figure(width, height)
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for one, column in zip(axes, columns, strict=True):
        _draw_curves(one, study, column)
    legend(figure, axes[0], below=below)
    return figure


def _draw_curves(axes: Any, study: BestOfNStudy, column: str) -> None:
    styles = looks(study)
    shown = [(curve, styles[curve.key]) for curve in study.curves if styles[curve.key].shown]
    if sum(style.band for _, style in shown) > MOST_BANDS:
        shown = [(curve, replace(style, band=False)) for curve, style in shown]
    bands = [(_settled(curve.bands[column]), style) for curve, style in shown]
    for place, ((curve, style), (band, _)) in enumerate(zip(shown, bands, strict=True)):
        _draw_curve(axes, study, curve, style, band, 3.0 - 0.01 * place)  # the first lies on top
    bounds = [y for band, style in bands if style.band for y in (*band.low, *band.high)]
    limits = frame([y for band, _ in bands for y in band.value], bounds)
    if limits is not None:
        axes.set_ylim(*limits)
    if not study.one_policy:
        axes.set_xscale("log", base=2)
        ticks = tick_values(study.n_values[-1])
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.minorticks_off()
    titles = {band: f"{name} mean of the pick, above the pool's" for name, band in study.proxies.items()}
    titles["variance"] = "posterior variance of the pick"
    if column == "variance" and wants_log_axis(study):
        axes.set_yscale("log")
        ticker = need("matplotlib.ticker")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    dress(axes, axis_label(study), titles.get(column) or f"{SCALE_LABELS[column]}, of the pick")


def _settled(band: Band) -> Band:
    return Band(*(tuple(settled(values)) for values in (band.value, band.low, band.high)))


def _draw_curve(axes: Any, study: BestOfNStudy, curve: Curve, style: Look, band: Band, zorder: float) -> None:
    x, label = x_values(study, curve), wrapped(curve.label, "\n")
    if curve.key == "random":  # no choice, no KL: a level to compare with
        axes.axhline(band.value[0], color=style.color, linestyle=DASHES["dot"], linewidth=1.4, label=label)
        return
    axes.plot(
        x, band.value, color=style.color, linestyle=DASHES[style.dash], linewidth=style.width, label=label,
        zorder=zorder, marker=MARKERS.get(style.marker), markersize=3 if style.marker == "circle" else 4,
    )  # fmt: skip
    if style.band:
        axes.fill_between(x, band.low, band.high, color=style.color, alpha=0.13, linewidth=0, zorder=1)


def _draw_diagram(axes: Any, diagram: Diagram) -> None:
    reliability = diagram.kind == "reliability"
    if reliability:
        diagonal = {"color": "#8a9097", "linewidth": 1.2, "linestyle": DASHES["dash"]}
        axes.plot([0.5, 1], [0.5, 1], zorder=1, label="as sure as right", **diagonal)
    for one in diagram.series:
        color, marker = SERIES_COLORS[one.style][0], SERIES_MARKERS[one.style][0]
        if not reliability:
            dash = DASHES["dash" if one.dashed else "solid"]
            axes.plot(one.x, one.y, color=color, linestyle=dash, linewidth=1.8, label=one.name)
            if one.band:
                axes.fill_between(one.x, one.low, one.high, color=color, alpha=0.13, linewidth=0, zorder=1)
            continue
        below = [max(0.0, v - low) for v, low in zip(one.y, one.low, strict=True)]
        above = [max(0.0, high - v) for v, high in zip(one.y, one.high, strict=True)]
        axes.errorbar(
            one.x, one.y, yerr=[below, above], color=color, marker=marker, markersize=5,
            linewidth=1.8, elinewidth=1, capsize=2, label=f"{one.name} ({sum(one.count):,})",
        )  # fmt: skip
    if reliability:
        axes.set_xlim(0.49, 1.01)
    else:
        axes.set_xlim(0, 1.01)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(need("matplotlib.ticker").PercentFormatter(1.0, decimals=0))
    dress(axes, _X_LABELS[diagram.kind], diagram.y_label)
    handles, labels = axes.get_legend_handles_labels()
    place = "upper left" if reliability else "lower right"
    axes.legend(handles, map(for_matplotlib, labels), frameon=False, fontsize=9, loc=place, labelcolor=INK)


_X_LABELS = {
    "reliability": "stated confidence, max(P, 1 - P)",
    "risk": "coverage: share of the pairs kept, the surest first",
}
