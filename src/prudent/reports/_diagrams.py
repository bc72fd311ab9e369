"""What reliability and risk-coverage diagrams show, of a study and of held-out pairs, before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prudent.evaluation import BestOfNStudy, Reliability, SelectiveFigures
from prudent.reports._held_out import HeldOut
from prudent.reports._style import MARKERS

__all__ = ["SERIES_COLORS", "SERIES_MARKERS", "Diagram", "Series", "held_out_diagrams", "reliability_diagrams"]

SERIES_COLORS = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8f4a"),
    ("#00803c", "#3ccf86"),
    ("#a8518a", "#e79fca"),
    ("#5f4b00", "#f0d860"),
    ("#333333", "#dddddd"),
)
"""Colors of the series on white and on a dark background; all are told apart without one kind of cones too."""

SERIES_MARKERS = tuple((MARKERS[name], name) for name in MARKERS if name != "star")
"""Their markers, as Matplotlib and as Plotly call them."""


@dataclass(frozen=True)
class Series:
    """Points with intervals."""

    name: str
    style: int
    """Which color and marker."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    count: tuple[int, ...]
    """Pairs behind each point; empty for curves of all of them."""
    dashed: bool = False
    band: bool = True
    """Whether the intervals of a curve are drawn; where many curves lie together nobody could tell them apart."""


@dataclass(frozen=True)
class Diagram:
    """One picture."""

    name: str
    """Names the chart of the page and the file."""
    kind: Literal["reliability", "risk"]
    y_label: str
    """For reliability it is the favored one of a pair that has this."""
    series: tuple[Series, ...]


def reliability_diagrams(study: BestOfNStudy) -> list[Diagram]:
    """Reliability, risk and coverage on pairs of a study's candidates; none where it did not measure them.

    Args:
        study: A best-of-n study.
    """
    if not study.reliability:
        return []
    judged = list(enumerate(study.reliability))
    right = tuple(_reliability(one, place) for place, one in judged)
    wrong = tuple(_risk(one, place) for place, one in judged)
    return [
        Diagram("reliability", "reliability", "share that has the higher gold", right),
        Diagram("risk_coverage", "risk", "share that has the lower gold", wrong),
    ]


def held_out_diagrams(held_out: Sequence[HeldOut]) -> list[Diagram]:
    """The same on held-out pairs; none without evaluations.

    Args:
        held_out: Evaluations on held-out pairs.
    """
    if not held_out:
        return []
    right = tuple(_held_out_reliability(one, place) for place, one in enumerate(held_out))
    return [
        Diagram("heldout_reliability", "reliability", "share that is the labeled one", right),
        Diagram("heldout_risk_coverage", "risk", "share ranked against the label", _held_out_risk(held_out)),
    ]


_PAIRS = {"random": "random pairs", "top": "one from the proxy's top tenth"}


def _reliability(one: Reliability, place: int) -> Series:
    share = one.share_right
    return Series(_PAIRS[one.pairs], place, one.confidence, share.value, share.low, share.high, one.count)


def _risk(one: Reliability, place: int) -> Series:
    return Series(_PAIRS[one.pairs], place, one.coverage, one.risk.value, one.risk.low, one.risk.high, ())


def _held_out_reliability(one: HeldOut, place: int) -> Series:
    bins = one.evaluation.reliability
    return Series(
        one.label,
        place,
        tuple(row.confidence for row in bins),
        tuple(row.frequency for row in bins),
        tuple(row.frequency_low for row in bins),
        tuple(row.frequency_high for row in bins),
        tuple(row.count for row in bins),
    )


def _held_out_risk(held_out: Sequence[HeldOut]) -> tuple[Series, ...]:
    """A curve for each evaluation, and of a single one also the order by the mean alone."""
    found = []
    for place, one in enumerate(held_out):
        evaluation = one.evaluation
        figures = evaluation.selective_moderated or evaluation.selective_map
        found.append(_curve(one.label, place, figures, band=len(held_out) <= 2))
    first = held_out[0].evaluation
    if len(held_out) == 1 and first.selective_moderated is not None:
        found.append(_curve("by the mean alone", 1, first.selective_map, dashed=True, band=False))
    return tuple(found)


def _curve(name: str, style: int, figures: SelectiveFigures, *, dashed: bool = False, band: bool) -> Series:
    return Series(
        name,
        style,
        figures.coverage,
        tuple(one.value for one in figures.risk),
        tuple(one.low for one in figures.risk),
        tuple(one.high for one in figures.risk),
        (),
        dashed,
        band,
    )
