"""How each curve looks in every picture: a color a utility, dashes for baselines and variants, dots for controls.

The colors are those of Okabe and Ito (2008), which people with any common form of color blindness tell apart; the
second of each pair is for dark backgrounds. Dashes say the same as color does, so that print in grey is readable.
"""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from prudent.evaluation import BestOfNStudy, Curve
from prudent.selection import best_of_n_kl

__all__ = [
    "HINDSIGHT",
    "PALETTE",
    "SCALE_LABELS",
    "Look",
    "axis_label",
    "for_matplotlib",
    "for_plotly",
    "frame",
    "looks",
    "rounded",
    "tick_values",
    "wants_log_axis",
    "wrapped",
    "wrapped_for_plotly",
    "x_values",
]

_COLORS = {
    "mean": ("#d55e00", "#ff8f4a"),
    "lcb_std": ("#0072b2", "#56b4e9"),
    "lcb_var": ("#00805e", "#2fcf9f"),
    "entropic": ("#a8518a", "#e79fca"),
    "worst": ("#3f3fbf", "#a5a5ff"),
}
"""Of the usual rules, so that they look the same in every report; others take what these leave, in their order."""
_FURTHER = (("#7a5a00", "#d9b44a"), ("#333333", "#dddddd"), ("#b0306a", "#ff7fb0"), ("#3a7d1e", "#8fd36a"))
PALETTE = (*_COLORS.values(), *_FURTHER)
"""All of them, for curves of another kind."""
_BASELINES = {
    "lcb_std": (_COLORS["lcb_std"], "dash"),
    "lcb_var": (_COLORS["lcb_var"], "dash"),
    "worst": (_COLORS["worst"], "dash"),
    "uwo": (("#7a4fb5", "#c4a1f5"), "dashdot"),
    "top_k": (("#7a5a00", "#d9b44a"), "dash"),
    "soft": (("#b0306a", "#ff7fb0"), "dashdot"),
    "pessimism": (("#3a7d1e", "#8fd36a"), "dashdot"),
    "mbr": (("#00788a", "#4fd0e0"), "dashdot"),
    "consensus": (("#00788a", "#4fd0e0"), "dash"),
    "hedged n": (("#333333", "#dddddd"), "dash"),
}
"""Color and dash of the baselines, by what stands before their strength."""
HINDSIGHT = ("oracle", "oracle n")
"""Curves that nobody could have followed; hidden at first, since they would squash the others."""
_ORACLE = ("#8a7400", "#e0c13a")
_CONTROL_DASHES = {"length as variance": "dash", "length out of variance": "dashdot"}
_GREY = ("#6a6f76", "#a3a9b1")
_DASHES = ("solid", "dashdot", "dash")
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


def looks(study: BestOfNStudy) -> dict[str, Look]:
    """The appearance of every curve of a study, by its key."""
    colors = _colors(study)
    found = {}
    for curve in study.curves:
        beside = curve.beside is not None
        if curve.kind == "utility":
            (light, dark), dash = colors[curve.key]
            found[curve.key] = Look(light, dark, dash, 1.6 if beside else 2.4, band=not beside, shown=True)
        elif curve.kind == "baseline" and _family(curve.key) in _BASELINES:
            (light, dark), dash = _BASELINES[_family(curve.key)]
            found[curve.key] = Look(light, dark, dash, 1.6, band=False, shown=True)
        elif curve.key in ("random", "longest"):
            dash = "dot" if curve.key == "random" else "dashdot"
            found[curve.key] = Look(*_GREY, dash, 1.6, band=False, shown=True)
        elif curve.key in HINDSIGHT:
            dash = "dash" if curve.key == "oracle" else "dashdot"
            found[curve.key] = Look(*_ORACLE, dash, 1.6, band=False, shown=False)
        else:  # a control made from a utility
            what, _, of = curve.key.partition(": ")
            dash = _CONTROL_DASHES.get(what, "dot")
            light, dark = (colors.get(of) or _BASELINES.get(_family(of)) or (_GREY, ""))[0]
            found[curve.key] = Look(light, dark, dash, 1.4, band=False, shown=False)
    return found


def _family(key: str) -> str:
    """What a baseline is called without its strength: `soft` of `soft, tuned` and of `soft(0.5)`."""
    return key.removesuffix(", tuned").partition("(")[0]


def _colors(study: BestOfNStudy) -> dict[str, tuple[tuple[str, str], str]]:
    """Color and dash of each utility: the usual one of its rule where no other has it, else the next one left."""
    found: dict[str, tuple[tuple[str, str], str]] = {}
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
            found[curve.key] = (_COLORS[wanted[curve.key]], "solid")
        else:
            turn, place = divmod(others.index(curve.key), len(left))
            found[curve.key] = (left[place], _DASHES[turn % len(_DASHES)])
    num_beside: dict[str, int] = {}
    for curve in study.utilities:
        if curve.beside is not None:
            turn = num_beside[curve.beside] = num_beside.get(curve.beside, 0) + 1
            found[curve.key] = (found[curve.beside][0], ("dash", "dashdot")[(turn - 1) % 2])
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


def rounded(values: Iterable[float]) -> list[float]:
    """Numbers as a chart needs them, to five significant digits.

    Example:
        >>> rounded([1 / 3, 12345.678])
        [0.33333, 12346.0]
    """
    return [float(f"{value:.5g}") for value in values]


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
