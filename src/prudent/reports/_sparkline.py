"""A small picture of gold against n that stands beside the answer: an SVG of a few hundred characters a line."""

import math
from collections.abc import Sequence
from html import escape

from prudent.evaluation import BestOfNStudy
from prudent.reports._style import frame, looks, settled

__all__ = ["spark_caption", "sparkline"]

_WIDTH, _HEIGHT, _FOOT = 360, 170, 22


def sparkline(study: BestOfNStudy, scale: str, rescue: str | None, *, labels: bool) -> str:
    """Gold of the first utility with its interval, of what would have helped, and of a random response, as SVG.

    Args:
        study: A best-of-n study with gold.
        scale: The scale of gold.
        rescue: Key of the curve to show beside the first.
        labels: Whether the axis and the curves are named; in a table they are not.
    """
    styles, first = looks(study), study.utilities[0]
    shown = [first] if rescue is None else [first, study.curve(rescue)]
    low, high = settled(first.bands[scale].low), settled(first.bands[scale].high)
    drawn = {curve.key: settled(curve.bands[scale].value) for curve in shown}
    random = drawn[first.key][0]
    lines, bounds = [random, *(y for line in drawn.values() for y in line)], [*low, *high]
    bottom, top = frame(lines, bounds) or (min(*lines, *bounds), max(*lines, *bounds))
    last = math.log(study.n_values[-1])
    foot, head = (_FOOT, 16) if labels else (4, 4)

    def place(n: float, y: float) -> str:
        share = 0.5 if top == bottom else (min(max(y, bottom), top) - bottom) / (top - bottom)
        return f"{math.log(n) / last * _WIDTH:.1f},{_HEIGHT - foot - share * (_HEIGHT - foot - head):.1f}"

    def points(ys: Sequence[float]) -> list[str]:
        return [place(n, y) for n, y in zip(study.n_values, ys, strict=True)]

    def colored(key: str) -> str:
        return f"--light:{styles[key].color};--dark:{styles[key].dark_color}"

    area = " ".join(points(low) + points(high)[::-1])
    parts = [f'<polygon class="area" style="{colored(first.key)}" points="{area}"/>']
    parts.append(f'<polyline class="level" points="{place(1, random)} {place(study.n_values[-1], random)}"/>')
    verdict = study.verdicts[scale]
    if verdict.hacked and verdict.from_n is not None:
        x = place(verdict.from_n, bottom).split(",")[0]
        parts.append(f'<line class="from" x1="{x}" x2="{x}" y1="{head}" y2="{_HEIGHT - foot}"/>')
        if labels:
            anchor = "end" if float(x) > _WIDTH / 2 else "start"
            parts.append(f'<text x="{x}" y="11" text-anchor="{anchor}">n = {verdict.from_n:,}</text>')
    for curve in reversed(shown):
        line = " ".join(points(drawn[curve.key]))
        dash = ' stroke-dasharray="7 4"' if curve is not first else ""
        parts.append(f'<polyline class="line" style="{colored(curve.key)}"{dash} points="{line}"/>')
    if labels:
        y, end = _HEIGHT - 6, f"{study.n_values[-1]:,}"
        parts.append(f'<text x="0" y="{y}">n = 1</text><text x="{_WIDTH}" y="{y}" text-anchor="end">{end}</text>')
    named = " and ".join(curve.label for curve in shown)
    title = escape(f"Gold of the pick under {named} from n = 1 to {study.n_values[-1]:,}, against a random response")
    box = f"-2 0 {_WIDTH + 4} {_HEIGHT}"
    return f'<svg class="spark" viewBox="{box}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def spark_caption(study: BestOfNStudy, scale: str, rescue: str | None) -> str:
    """What the lines of the picture are, those that it has.

    Args:
        study: A best-of-n study with gold.
        scale: The scale of gold.
        rescue: Key of the curve that is shown beside the first.
    """
    band, verdict = study.utilities[0].bands[scale], study.verdicts[scale]
    parts = ["Gold of the pick against n"]
    if any(low < high for low, high in zip(settled(band.low), settled(band.high), strict=True)):
        parts[0] += ", with its interval"
    if rescue is not None:
        parts.append("dashed: the best other rule")
    if verdict.hacked and verdict.from_n is not None:
        parts.append("upright line: the n from which on it lies below its peak")
    parts.append("dotted: a random response")
    return "; ".join(parts)
