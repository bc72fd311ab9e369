"""Laws of overoptimization over the points that they were fitted to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prudent.evaluation import BestOfNStudy, Curve, LawFit, Outcome
from prudent.reports._style import Look, for_plotly, frame, rounded
from prudent.reports._words import SIGNIFICANT

__all__ = ["FORMS", "LawPicture", "draw_laws", "law_chart", "law_pictures"]

FORMS = {"best_of_n": "d (\u03b1 \u2212 \u03b2 d)", "rl": "d (\u03b1 \u2212 \u03b2 ln d)"}
"""How each form is written; d is the square root of the KL divergence."""
_DASHES = {"best_of_n": ("-", "solid"), "rl": ("--", "dash")}
_STEPS = 80
_POOR = 0.9
"""Share of the variation below which a law of two parameters is told not to describe a curve."""


@dataclass(frozen=True)
class LawPicture:
    """One gold curve against d = sqrt(KL), with its laws."""

    curve: Curve
    look: Look
    distance: tuple[float, ...]
    gold: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    fits: tuple[LawFit, ...]
    n_values: tuple[int, ...]
    outcome: Outcome

    def line(self, fit: LawFit) -> tuple[list[float], list[float]]:
        """The law over the divergences that were measured, as gold: the gain above the pool's average plus that."""
        far = max(self.distance)
        x = [far * step / _STEPS for step in range(_STEPS + 1)]
        return x, [self.gold[0] + _gain(fit, d) for d in x]

    def peak(self, fit: LawFit) -> tuple[float, float, float] | None:
        """The d of the peak and its interval; None where the law has none within what was measured."""
        if fit.peak_kl is None or not fit.within:
            return None
        far = max(self.distance)
        value, low, high = (math.sqrt(max(0.0, kl)) for kl in (fit.peak_kl.value, fit.peak_kl.low, fit.peak_kl.high))
        return min(value, far), min(low, far), min(high, far)

    def misfit(self, fit: LawFit) -> str:
        """Why a law does not describe the curve; empty where nothing speaks against it."""
        if fit.r_squared < _POOR:
            return f"explains {max(0.0, fit.r_squared):.0%} of the points' variation"
        if fit.peak_kl is None or not fit.within:
            return ""
        p_value = self.outcome.drop_p_value
        if p_value is None or p_value >= SIGNIFICANT:
            return "has a peak, where the points show no sure fall"
        first, last = (self._kl_at(n) for n in (self.outcome.peak_n_low, self.outcome.peak_n_high))
        if fit.peak_kl.high < first or fit.peak_kl.low > last:
            return f"has its peak elsewhere than the points, which are highest at n = {self.outcome.peak_n:,}"
        return ""

    def _kl_at(self, n: int) -> float:
        return self.distance[self.n_values.index(n)] ** 2


def law_pictures(study: BestOfNStudy, scale: str, looks: dict[str, Look]) -> list[LawPicture]:
    """A picture for each utility and baseline that has laws on a scale of gold.

    Args:
        study: A best-of-n study.
        scale: The scale of gold.
        looks: Appearance of each curve by its key.
    """
    found = []
    for curve in study.curves:
        fits = study.laws.get(curve.key, {}).get(scale, ())
        if not fits or curve.kl is None or curve.kind == "control":
            continue
        band = curve.bands[scale]
        distance = tuple(math.sqrt(max(0.0, kl)) for kl in curve.kl)
        found.append(
            LawPicture(
                curve,
                looks[curve.key],
                distance,
                band.value,
                band.low,
                band.high,
                fits,
                study.n_values,
                curve.outcomes[scale],
            )
        )
    return found


def draw_laws(axes: Sequence[Any], pictures: Sequence[LawPicture]) -> None:
    """Draw pictures on Matplotlib axes that share their height, one each."""
    for one, picture in zip(axes, pictures, strict=True):
        color = picture.look.color
        below = [max(0.0, y - low) for y, low in zip(picture.gold, picture.low, strict=True)]
        above = [max(0.0, high - y) for y, high in zip(picture.gold, picture.high, strict=True)]
        one.errorbar(
            picture.distance, picture.gold, yerr=[below, above], color=color, linestyle="none", marker="o",
            markersize=4, elinewidth=1, label=picture.curve.label,
        )  # fmt: skip
        for fit in picture.fits:
            one.plot(
                *picture.line(fit),
                color="#4a4f55",
                linewidth=1.5,
                linestyle=_DASHES[fit.form][0],
                label=FORMS[fit.form],
            )
            peak = picture.peak(fit)
            if peak is not None and fit.form == "best_of_n":
                one.axvline(peak[0], color="#8a9097", linewidth=1)
                one.axvspan(peak[1], peak[2], color="#8a9097", alpha=0.15, linewidth=0)
    points = [y for picture in pictures for y in picture.gold]
    if (limits := frame(points, [y for picture in pictures for y in picture.low + picture.high])) is not None:
        axes[0].set_ylim(*limits)


def law_chart(pictures: Sequence[LawPicture], title: str) -> dict[str, Any]:
    """The same as plain data for the page's script, a view for each curve.

    Args:
        pictures: What to show.
        title: Of the vertical axis.
    """
    return {
        "kind": "laws",
        "y": for_plotly(title),
        "views": [
            {
                "label": picture.curve.label,
                "name": for_plotly(picture.curve.label),
                "colors": [picture.look.color, picture.look.dark_color],
                "x": rounded(picture.distance),
                "y": rounded(picture.gold),
                "low": rounded(picture.low),
                "high": rounded(picture.high),
                "lines": [
                    {
                        "name": FORMS[fit.form],
                        "dash": _DASHES[fit.form][1],
                        "points": [rounded(axis) for axis in picture.line(fit)],
                        "peak": None if (peak := picture.peak(fit)) is None else rounded(peak),
                    }
                    for fit in picture.fits
                ],
            }
            for picture in pictures
        ],
    }


def _gain(fit: LawFit, distance: float) -> float:
    if distance == 0:
        return 0.0
    bend = distance if fit.form == "best_of_n" else math.log(distance)
    return distance * (fit.alpha.value - fit.beta.value * bend)
