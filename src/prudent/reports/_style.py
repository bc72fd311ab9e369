"""How each curve looks in every picture: a color a utility, dashes for baselines and variants, dots for controls.

Two curves of a usual study differ in dash or marker, or else in colors that people who lack one of the three kinds of
cones tell apart as well (a test simulates it); the second of each pair of colors is for dark backgrounds.
"""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from prudent.evaluation import BestOfNStudy, Curve
from prudent.selection import best_of_n_kl

__all__ = [
    "HINDSIGHT",
    "MARKERS",
    "MOST_BANDS",
    "PALETTE",
    "SCALE_LABELS",
    "Look",
    "axis_label",
    "for_matplotlib",
    "for_plotly",
    "frame",
    "looks",
    "mark_of",
    "rounded",
    "settled",
    "tick_values",
    "wants_log_axis",
    "wrapped",
    "wrapped_for_plotly",
    "x_values",
]

_COLORS = {
    "mean": ("#d55e00", "#ff8f4a"),
    "lcb_std": ("#0072b2", "#56b4e9"),
    "lcb_var": ("#00803c", "#3ccf86"),
    "entropic": ("#a8518a", "#e79fca"),
    "worst": ("#3f3fbf", "#8c7cff"),
}
"""Of the usual rules, so that they look the same in every report; others take what these leave, in their order."""
_BROWN, _BLACK = ("#6e5200", "#c9962e"), ("#333333", "#dddddd")
_FURTHER = (_BROWN, _BLACK, ("#b0306a", "#ff5c9a"), ("#4a9a10", "#a6ec78"))
PALETTE = (*_COLORS.values(), *_FURTHER)
"""All of them, for curves of another kind, which markers tell apart too."""
_BASELINES = {
    "lcb_std": (_COLORS["lcb_std"], "dash"),
    "lcb_var": (_COLORS["lcb_var"], "dash"),
    "worst": (_COLORS["worst"], "dash"),
    "uwo": (("#7a4fb5", "#c4a1f5"), "dashdot"),
    "top_k": (_BROWN, "dash"),
    "soft": (("#c01c3c", "#ff5c73"), "dashdot"),
    "pessimism": (("#3c8f10", "#8fe060"), "dashdot"),
    "mbr": (("#004d5c", "#5fd8ea"), "dashdot"),
    "consensus": (("#942872", "#e0529c"), "dash"),
    "hedged n": (_BLACK, "dash"),
}
"""Color and dash of the baselines, by what stands before their strength."""
HINDSIGHT = ("oracle", "oracle n")
"""Curves that nobody could have followed; hidden at first, since they would squash the others."""
_ORACLE = ("#8a7400", "#e0c13a")
_CONTROL_DASHES = {"length as variance": "dash", "length out of variance": "dashdot"}
_CONTROL_MARKERS = {
    (False, False): "x",
    (True, False): "cross",
    (False, True): "triangle-down",
    (True, True): "triangle-up",
}
"""Of a control, by whether what it is made from stands beside another curve, and whether that is tuned."""
_GREY = ("#6a6f76", "#a3a9b1")
_DASHES = ("solid", "dashdot", "dash")
_TURNS = (("circle", "square"), ("triangle-up", "triangle-down"), ("cross", "x"))
"""Markers of utilities, in the colors of usual rules and in others: the next two where the dashes are used up."""
_BESIDE = "diamond"
MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle-up": "^",
    "diamond": "D",
    "triangle-down": "v",
    "x": "X",
    "cross": "P",
    "star": "*",
}
"""What Matplotlib calls them, by what Plotly does."""
_MARKS = {
    "circle": "M13 2.4a2.6 2.6 0 1 0 .01 0z",
    "square": "M10.8 2.8h4.4v4.4h-4.4z",
    "triangle-up": "M13 2l2.9 5.2h-5.8z",
    "diamond": "M13 1.8l3.2 3.2l-3.2 3.2l-3.2-3.2z",
    "triangle-down": "M13 8l2.9-5.2h-5.8z",
    "x": "M10.6 2.6l4.8 4.8M15.4 2.6l-4.8 4.8",
    "cross": "M13 1.8v6.4M9.8 5h6.4",
    "star": "M13 1.4l1 2.4l2.6.2l-2 1.7l.7 2.5l-2.3-1.4l-2.3 1.4l.7-2.5l-2-1.7l2.6-.2z",
}
"""How each is drawn in the middle of a swatch, of 26 by 10."""
_STROKES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}
MOST_BANDS = 6
"""Intervals of more curves would hide each other and the curves, so that none are drawn."""
_NOISE = 1e-13
"""Sums of numbers about 1 differ by less from rounding alone."""
_MARGIN = 1.5
"""How far an axis follows intervals beyond the lines, as a multiple of the range of the lines."""
_USUAL = re.compile(rf"(?:center(?:\(.*?\))? \| )?({'|'.join(_COLORS)})(?:\([^|]*\))?")

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
    """Whether it is visible before anybody asks."""
    marker: str = ""
    """One of `MARKERS`; empty for a line without."""

    @property
    def stroke(self) -> str:
        """The dash of a swatch, as SVG has it."""
        return _STROKES[self.dash]

    @property
    def mark(self) -> str:
        """The marker of a swatch, as the path of an SVG of 26 by 10."""
        return mark_of(self.marker)


def looks(study: BestOfNStudy) -> dict[str, Look]:
    """The appearance of every curve of a study, by its key."""
    utilities = _utilities(study)
    found = {}
    for curve in study.curves:
        beside, family = curve.beside is not None, _family(curve.key)
        if curve.kind == "utility":
            (light, dark), dash, marker = utilities[curve.key]
            found[curve.key] = Look(light, dark, dash, 1.6 if beside else 2.4, not beside, shown=True, marker=marker)
        elif curve.kind == "baseline" and family in _BASELINES:
            (light, dark), dash = _BASELINES[family]
            if beside:
                found[curve.key] = Look(light, dark, "dot", 1.6, band=False, shown=False, marker=_BESIDE)
            else:
                found[curve.key] = Look(light, dark, dash, 1.6, band=False, shown=True)
        elif curve.key == "random":
            found[curve.key] = Look(*_GREY, "dot", 1.6, band=False, shown=True)
        elif curve.key == "longest":
            found[curve.key] = Look(*_GREY, "dashdot", 1.6, band=False, shown=True, marker="square")
        elif curve.key in HINDSIGHT:
            dash = "dash" if curve.key == "oracle" else "dashdot"
            found[curve.key] = Look(*_ORACLE, dash, 1.6, band=False, shown=False, marker="star")
        else:  # a control made from a utility
            what, _, of = curve.key.partition(": ")
            dash, marker = _CONTROL_DASHES.get(what, "dot"), _CONTROL_MARKERS[beside, of.endswith(", tuned")]
            light, dark = (utilities.get(of) or _BASELINES.get(_family(of)) or (_GREY, ""))[0]
            found[curve.key] = Look(light, dark, dash, 1.4, band=False, shown=False, marker=marker)
    return found


def mark_of(marker: str) -> str:
    """A marker as the path of an SVG of 26 by 10; empty for none.

    Example:
        >>> mark_of("square")
        'M10.8 2.8h4.4v4.4h-4.4z'
    """
    return _MARKS.get(marker, "")


def _family(key: str) -> str:
    """The rule of a baseline: `soft` of `soft, tuned` and `soft(0.5)`, `lcb_std` of `center(mean) | lcb_std, tuned`."""
    return key.removesuffix(", tuned").rpartition("| ")[2].partition("(")[0]


def _utilities(study: BestOfNStudy) -> dict[str, tuple[tuple[str, str], str, str]]:
    """Color, dash and marker of each utility: the usual color of its rule where no other has it, else the next left."""
    found: dict[str, tuple[tuple[str, str], str, str]] = {}
    main = [curve for curve in study.utilities if curve.beside is None]
    wanted: dict[str, str] = {}
    for curve in main:
        usual = _USUAL.fullmatch(curve.utility or "")
        if usual is not None and usual[1] not in wanted.values():
            wanted[curve.key] = usual[1]
    left = [color for rule, color in _COLORS.items() if rule not in wanted.values()] + list(_FURTHER)
    others = [curve.key for curve in main if curve.key not in wanted]
    for curve in main:
        if curve.key in wanted:
            found[curve.key] = (_COLORS[wanted[curve.key]], "solid", "circle")
        else:
            turn, place = divmod(others.index(curve.key), len(left))
            markers = _TURNS[turn // len(_DASHES) % len(_TURNS)]
            color, dash = left[place], _DASHES[turn % len(_DASHES)]
            found[curve.key] = (color, dash, markers[color in _FURTHER])
    num_beside: dict[str, int] = {}
    for curve in study.utilities:
        if curve.beside is not None:
            turn = num_beside[curve.beside] = num_beside.get(curve.beside, 0) + 1
            found[curve.key] = (found[curve.beside][0], ("dash", "dashdot")[(turn - 1) % 2], _BESIDE)
    return found


def wrapped(label: str, between: str, width: int = 34) -> str:
    """A label for a legend: on several lines where it is long.

    Example:
        >>> wrapped("all_of(helpful | center | log_sigmoid, harmless | center | log_sigmoid)", " / ")
        'all_of(helpful | center | / log_sigmoid, harmless | center | / log_sigmoid)'
    """
    return between.join(textwrap.wrap(label, width, break_long_words=False)) or label


def for_matplotlib(text: str) -> str:
    r"""A text that Matplotlib shows as it is, since what stands between two dollar signs would be a formula.

    Example:
        >>> print(for_matplotlib("$5"))
        \$5
    """
    return text.replace("$", r"\$")


def for_plotly(text: str) -> str:
    """A text that Plotly shows as it is, though it reads some HTML and `%{...}`.

    Example:
        >>> for_plotly("a < b & 50%{x}")
        'a &lt; b &amp; 50%&#123;x}'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")


def wrapped_for_plotly(label: str) -> str:
    """A label for a legend of the page: on several lines where it is long, and shown as it is."""
    return for_plotly(wrapped(label, "\n")).replace("\n", "<br>")


def settled(values: Iterable[float]) -> list[float]:
    """Numbers without what rounding errors leave of a zero, or of a difference between equal ones.

    Example:
        >>> settled([1.0, 1.0 + 2e-16, -1e-17, 0.25])
        [1.0, 1.0, 0.0, 0.25]
    """
    return [float(f"{value:.12g}") if abs(value) > _NOISE else 0.0 for value in values]


def rounded(values: Iterable[float]) -> list[float]:
    """Numbers as a chart needs them, to five significant digits; what rounding errors leave of a zero is zero.

    Example:
        >>> rounded([1 / 3, 12345.678, -1e-17])
        [0.33333, 12346.0, 0.0]
    """
    return [float(f"{value:.5g}") for value in settled(values)]


def frame(values: Iterable[float], bounds: Iterable[float]) -> tuple[float, float] | None:
    """Limits of an axis that keep lines readable beside intervals that are much wider; None where all may be shown.

    Args:
        values: Of the lines.
        bounds: Of their intervals.

    Example:
        >>> frame([0.0, 1.0], [-0.5, 1.5]), frame([0.0, 1.0], [-40.0, 40.0])
        (None, (-1.5, 2.5))
    """
    drawn, reached = list(values), list(bounds)
    if not reached:
        return None
    low, high = min(drawn), max(drawn)
    margin = _MARGIN * (high - low)
    if margin <= 0 or (min(reached) >= low - margin and max(reached) <= high + margin):
        return None
    return max(low - margin, min(low, *reached)), min(high + margin, max(high, *reached))


def x_values(study: BestOfNStudy, curve: Curve) -> tuple[float, ...]:
    """Positions of a curve's points: KL where the candidates come from one policy, else n.

    A curve whose own KL is not known stands at the KL of best-of-n with as many candidates.
    """
    if not study.one_policy:
        return tuple(float(n) for n in study.n_values)
    return tuple(best_of_n_kl(study.n_values).tolist()) if curve.kl is None else curve.kl


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
