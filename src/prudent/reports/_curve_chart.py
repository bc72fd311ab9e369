"""Curves against n, KL or its root as plain data for the page's script."""

from collections.abc import Sequence
from typing import Any

from prudent.evaluation import BestOfNStudy, Curve
from prudent.reports._style import (
    SCALE_LABELS,
    Look,
    for_plotly,
    looks,
    rounded,
    wants_log_axis,
    wrapped_for_plotly,
)

__all__ = ["curve_charts"]


def curve_charts(study: BestOfNStudy, scale: str) -> dict[str, Any]:
    """Charts of gold, of what the proxy believes and of the variance, those that can be filled.

    Args:
        study: A best-of-n study.
        scale: The scale of gold that is shown first.
    """
    styles = looks(study)

    def view(label: str, title: str, column: str) -> dict[str, Any]:
        # the label goes onto a button, which reads no HTML; some curves have no such column
        curves = [curve for curve in study.curves if column in curve.bands]
        series = [_series(one, styles[one.key], column) for one in curves]
        return {"label": label, "y": for_plotly(title), "series": series}

    charts: dict[str, Any] = {}
    if study.gold_scales:
        scales = [scale, *(name for name in study.gold_scales if name != scale)]
        charts["gold"] = _chart([view(SCALE_LABELS[one], SCALE_LABELS[one], one) for one in scales])
    only = len(study.rewards) == 1
    titles = {name: "reward mean, above average" if only else f"{name}, mean above average" for name in study.proxies}
    if study.proxies:
        charts["proxy"] = _chart([view(name, titles[name], band) for name, band in study.proxies.items()])
    if "variance" in study.curves[0].bands:
        views = [view("variance", "posterior variance", "variance")]
        charts["variance"] = _chart(views, log=wants_log_axis(study))
    return charts


def _chart(views: Sequence[dict[str, Any]], *, log: bool = False) -> dict[str, Any]:
    return {"kind": "curves", "log": log, "views": list(views)}


def _series(curve: Curve, style: Look, column: str) -> dict[str, Any]:
    band = curve.bands[column]
    error = None if curve.standard_error is None else curve.standard_error.get(column)
    return {
        "key": curve.key,
        "name": wrapped_for_plotly(curve.label),
        "label": curve.label,
        "kind": curve.kind,
        "colors": [style.color, style.dark_color],
        "dash": style.dash,
        "marker": style.marker,
        "stroke": style.stroke,
        "mark": style.mark,
        "width": style.width,
        "shown": style.shown,
        "level": curve.key == "random",
        "kl": None if curve.kl is None else rounded(curve.kl),
        "y": rounded(band.value),
        "low": rounded(band.low),
        "high": rounded(band.high),
        "band": style.band,
        "error": None if error is None else rounded(error),
        "size": None if curve.effective_size is None else [float(f"{size:.3g}") for size in curve.effective_size],
    }
