"""Gold at the largest n against how strongly a rule or a strategy is applied: which of them degrade gently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prudent.evaluation import BestOfNStudy, Estimate, StrengthFamily
from prudent.reports._advice import FREER, chosen_strength
from prudent.reports._diagrams import SERIES_COLORS, SERIES_MARKERS
from prudent.reports._style import Look, for_plotly, mark_of, rounded

__all__ = ["TOGETHER", "Strengths", "draw_strengths", "strength_chart", "strengths"]

TOGETHER = "restraint, as a multiple of the one that calibration prompts choose most often"
"""Title of the axis that all families share."""


@dataclass(frozen=True)
class Strengths:
    """One family at the largest n."""

    family: StrengthFamily
    gold: tuple[Estimate, ...]
    """At each strength."""
    colors: tuple[str, str]
    """On white and on a dark background."""
    marker: tuple[str, str]
    """As Matplotlib and as Plotly call it."""

    @property
    def mark(self) -> str:
        """The marker in a swatch."""
        return mark_of(self.marker[1])

    @property
    def choice(self) -> int | None:
        """Position of the strength that calibration prompts choose most often; None where none was chosen."""
        return chosen_strength(self.family)

    @property
    def order(self) -> list[int]:
        """Positions of the strengths from the one that holds the proxy back least."""
        places = list(range(len(self.family.strengths)))
        return places[::-1] if self.family.parameter in FREER else places

    @property
    def multiples(self) -> tuple[float, ...] | None:
        """Restraint at each strength, divided by that of the choice; None where that cannot be had."""
        tried = self.family.strengths
        if self.choice is None or tried[self.choice] <= 0:
            return None
        freer = self.family.parameter in FREER
        return tuple(tried[self.choice] / one if freer else one / tried[self.choice] for one in tried)

    @property
    def axis(self) -> tuple[str, tuple[float, ...]]:
        """Title and positions on an axis of its own."""
        if self.family.relative is not None:
            return f"{self.family.parameter}, in spreads of the proxy within a prompt", self.family.relative
        return self.family.parameter, self.family.strengths


def strengths(study: BestOfNStudy, scale: str, looks: Mapping[str, Look]) -> list[Strengths]:
    """The families of a study on a scale of gold.

    Args:
        study: A best-of-n study.
        scale: The scale of gold.
        looks: Appearance of each curve by its key; a family looks like its tuned curve.
    """
    found = []
    for place, family in enumerate(study.families):
        bands = family.gold.get(scale)
        if bands is None:
            continue
        look = looks.get(f"{family.key}, tuned") or looks.get(family.key)
        colors = SERIES_COLORS[place % len(SERIES_COLORS)] if look is None else (look.color, look.dark_color)
        marker = SERIES_MARKERS[place % len(SERIES_MARKERS)]
        found.append(Strengths(family, tuple(band.at(-1) for band in bands), colors, marker))
    return found


def draw_strengths(axes: Any, shown: Sequence[Strengths]) -> None:
    """Draw the families that have a choice on Matplotlib axes, over multiples of it."""
    axes.set_xscale("log")
    axes.axvline(1, color="#8a9097", linewidth=1, zorder=0)
    for one in shown:
        if one.multiples is None:
            continue
        points = [(x, y) for x, y in zip(one.multiples, one.gold, strict=True) if x > 0]
        x, gold = [x for x, _ in points], [y for _, y in points]
        axes.plot(
            x, [y.value for y in gold], color=one.colors[0], marker=one.marker[0], markersize=4, linewidth=1.6,
            label=one.family.key,
        )  # fmt: skip


def strength_chart(shown: Sequence[Strengths], title: str, levels: Mapping[str, float]) -> dict[str, Any]:
    """The same as plain data for the page's script: all families over multiples of their choice, then each alone.

    Args:
        shown: The families.
        title: Of the vertical axis.
        levels: Gold at the largest n to compare with, by what to call it.
    """
    together = [one for one in shown if one.multiples is not None]
    views = []
    if len(together) > 1:
        series = [_series(one, one.multiples or ()) for one in together]
        views.append({"label": "all", "x": TOGETHER, "series": series})
    for one in shown:
        axis, positions = one.axis
        views.append({"label": one.family.key, "x": for_plotly(axis), "series": [_series(one, positions)]})
    return {
        "kind": "strengths",
        "y": for_plotly(title),
        "levels": [[for_plotly(name), rounded([value])[0]] for name, value in levels.items()],
        "views": views,
    }


def _series(one: Strengths, positions: Sequence[float]) -> dict[str, Any]:
    keep = [place for place, x in enumerate(positions) if x > 0]  # the axis is a log one
    return {
        "name": for_plotly(one.family.key),
        "colors": list(one.colors),
        "marker": one.marker[1],
        "x": rounded([positions[place] for place in keep]),
        "y": rounded([one.gold[place].value for place in keep]),
        "low": rounded([one.gold[place].low for place in keep]),
        "high": rounded([one.gold[place].high for place in keep]),
        "text": [for_plotly(one.family.texts[place]) for place in keep],
        "chosen": [round(one.family.chosen[place], 3) for place in keep],
    }
