"""How each curve looks, in every picture: one color a rule, dashes for the centered variance, greys for controls.

The colors are those of Okabe and Ito (2008), which people with any common form of color blindness tell apart; the
second of each pair is for dark backgrounds. Dashes say the same as color does, so that print in grey is readable.
"""

from dataclasses import dataclass

from prudent.evaluation import BestOfNStudy, Curve

__all__ = ["SCALE_LABELS", "Look", "axis_label", "look", "tick_values", "wants_log_axis", "x_values"]

_COLORS = {
    "mean": ("#d55e00", "#ff8f4a"),
    "lcb_std": ("#0072b2", "#56b4e9"),
    "lcb_var": ("#00805e", "#2fcf9f"),
    "entropic": ("#a8518a", "#e79fca"),
    "worst": ("#3f3fbf", "#a5a5ff"),
    "oracle": ("#8a7400", "#e0c13a"),
}
_GREY = ("#6a6f76", "#a3a9b1")
_OTHER = ("#333333", "#dddddd")

SCALE_LABELS = {
    "gold": "gold",
    "gold_standardized": "gold, z-scored within prompts",
    "gold_length_adjusted": "gold, z-scored, length partialled out",
}


@dataclass(frozen=True)
class Look:
    """Appearance of one curve."""

    color: str
    """Hex color on white."""
    dark_color: str
    """Hex color on a dark background."""
    dash: str
    """`solid`, `dash`, `dot` or `dashdot`."""
    width: float
    band: bool
    """Whether its interval is drawn; for curves beside the main ones it is in the tables only."""
    shown: bool
    """Whether it is visible before anybody asks: the oracle would squash the others."""


def look(curve: Curve, study: BestOfNStudy) -> Look:
    """The appearance of one curve of a study."""
    name = curve.rule.removeprefix("shuffled_").removesuffix("_centered")
    beside = curve.variance == "centered" and any(c.variance == "marginal" for c in study.rules)
    light, dark = _COLORS.get(name, _GREY if curve.kind == "control" else _OTHER)
    if curve.kind == "control":
        dash = {"random": "dot", "longest": "dashdot"}.get(curve.rule, "dot" if "shuffled" in curve.rule else "dash")
        shown = curve.rule != "oracle" and not (curve.variance == "centered" and beside)
        return Look(light, dark, dash, 1.6, band=False, shown=shown)
    return Look(light, dark, "dash" if beside else "solid", 1.6 if beside else 2.4, band=not beside, shown=True)


def x_values(study: BestOfNStudy, curve: Curve) -> tuple[float, ...]:
    """Positions of a curve's points: KL where the candidates come from one policy, else n."""
    if study.one_policy and curve.kl is not None:
        return curve.kl
    return tuple(float(n) for n in study.n_values)


def axis_label(study: BestOfNStudy) -> str:
    """Title of the horizontal axis."""
    if study.one_policy:
        return "KL from the policy, nats (best of n)"
    return "n, candidates to pick from"


def wants_log_axis(study: BestOfNStudy) -> bool:
    """Whether the variances of the picks differ by so much that only a log axis shows them all."""
    values = [value for curve in study.curves for value in curve.bands["variance"].value]
    return min(values) > 0 and max(values) > 3 * min(values)


def tick_values(n_max: int, most: int = 8) -> list[int]:
    """Powers of two (or of four, eight, ...) up to `n_max`, and `n_max` itself, at most so many.

    Example:
        >>> tick_values(54)
        [1, 2, 4, 8, 16, 32, 54]
    """
    for step in range(1, 64):
        ticks = [2**power for power in range(0, n_max.bit_length(), step)]
        if ticks[-1] * 1.3 > n_max and len(ticks) > 1:
            ticks.pop()
        if len(ticks) < most:
            break
    return [*ticks, n_max] if n_max > 1 else [1]
