"""How each curve looks, in every picture: a color a utility, dashes for its centered variant, dots for controls.

The colors are those of Okabe and Ito (2008), which people with any common form of color blindness tell apart; the
second of each pair is for dark backgrounds. Dashes say the same as color does, so that print in grey is readable.
"""

import re
import textwrap
from dataclasses import dataclass

from prudent.evaluation import BestOfNStudy, Curve

__all__ = [
    "SCALE_LABELS",
    "Look",
    "axis_label",
    "for_matplotlib",
    "for_plotly",
    "looks",
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
_ORACLE = ("#8a7400", "#e0c13a")
_GREY = ("#6a6f76", "#a3a9b1")
_DASHES = ("solid", "dashdot", "dash")
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
    """Whether it is visible before anybody asks: the oracle would squash the others."""


def looks(study: BestOfNStudy) -> dict[str, Look]:
    """The appearance of every curve of a study, by its key."""
    colors = _colors(study)
    found = {}
    for curve in study.curves:
        of = curve.key.removeprefix("shuffled: ")
        (light, dark), dash = colors.get(of, (_ORACLE if curve.key == "oracle" else _GREY, "dash"))
        beside = curve.beside is not None
        if curve.kind == "control":
            dash = {"random": "dot", "longest": "dashdot", "oracle": "dash"}.get(curve.key, "dot")
            shown = curve.key != "oracle" and not beside
            found[curve.key] = Look(light, dark, dash, 1.6, band=False, shown=shown)
        else:
            found[curve.key] = Look(light, dark, dash, 1.6 if beside else 2.4, band=not beside, shown=True)
    return found


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
