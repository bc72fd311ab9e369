"""The same figures as plain data that the page's script hands to plotly.js, and plotly.js itself, compressed."""

import base64
import functools
import gzip
from collections.abc import Sequence
from typing import Any

from prudent.evaluation import BestOfNStudy, Curve
from prudent.reports._diagrams import SERIES_COLORS, SERIES_MARKERS, Diagram, diagrams
from prudent.reports._extra import need
from prudent.reports._held_out import HeldOut
from prudent.reports._style import (
    SCALE_LABELS,
    Look,
    for_plotly,
    looks,
    tick_values,
    wants_log_axis,
    wrapped_for_plotly,
)
from prudent.reports._trade_off import trade_off_chart

__all__ = ["chart_data", "plotly_script"]


@functools.cache
def plotly_script() -> str:
    """The source of plotly.js, gzipped, in base64: a quarter of what it takes up as it is.

    Raises:
        PrudentError: If plotly is not installed.
    """
    source: str = need("plotly.offline").get_plotlyjs()
    return base64.b64encode(gzip.compress(source.encode(), 9, mtime=0)).decode()


def chart_data(study: BestOfNStudy, scale: str, held_out: Sequence[HeldOut] = ()) -> dict[str, Any]:
    """Series of every chart, rounded; the script adds what depends on the reader's theme.

    Args:
        study: A best-of-n study.
        scale: The scale of gold that is shown first.
        held_out: Evaluations on held-out pairs.
    """
    styles = looks(study)

    def view(label: str, title: str, column: str, curves: Sequence[Curve]) -> dict[str, Any]:
        # the label goes onto a button, which reads no HTML
        return {
            "label": label,
            "y": for_plotly(title),
            "series": [_series(one, styles[one.key], column) for one in curves],
        }

    # the two small charts leave out what is hidden at first, for want of room in their legends
    drawn = [curve for curve in study.curves if styles[curve.key].shown]
    views = [
        view(
            name,
            "reward mean, above average" if len(study.rewards) == 1 else f"{name}, mean above average",
            band,
            drawn,
        )
        for name, band in study.proxies.items()
    ]
    charts: dict[str, Any] = {"proxy": {"kind": "curves", "log": False, "views": views}} if views else {}
    if "variance" in study.curves[0].bands:
        views = [view("variance", "posterior variance", "variance", drawn)]
        charts["variance"] = {"kind": "curves", "log": wants_log_axis(study), "views": views}
    if study.gold_scales:
        scales = [scale, *(name for name in study.gold_scales if name != scale)]
        views = [view(SCALE_LABELS[one], SCALE_LABELS[one], one, study.curves) for one in scales]
        charts["gold"] = {"kind": "curves", "log": False, "views": views}
    if study.trade_off is not None:
        charts["trade_off"] = trade_off_chart(study.trade_off, looks(study))
    charts |= {one.name: _diagram(one) for one in diagrams(study, held_out)}
    ticks = tick_values(study.n_values[-1])
    return {"n": list(study.n_values), "ticks": ticks, "onePolicy": study.one_policy, "charts": charts}


def _series(curve: Curve, style: Look, column: str) -> dict[str, Any]:
    band = curve.bands[column]
    return {
        "name": wrapped_for_plotly(curve.label),
        "colors": [style.color, style.dark_color],
        "dash": style.dash,
        "width": style.width,
        "shown": style.shown,
        "level": curve.key == "random",
        "kl": None if curve.kl is None else _rounded(curve.kl),
        "y": _rounded(band.value),
        "band": [_rounded(band.low), _rounded(band.high)] if style.band else None,
    }


def _diagram(one: Diagram) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "y": one.y_label,
        "series": [
            {
                "name": for_plotly(series.name),
                "colors": list(SERIES_COLORS[series.style]),
                "marker": SERIES_MARKERS[series.style][1],
                "dashed": series.dashed,
                "band": series.band,
                "x": _rounded(series.x),
                "y": _rounded(series.y),
                "low": _rounded(series.low),
                "high": _rounded(series.high),
                "count": list(series.count),
            }
            for series in one.series
        ],
    }


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
