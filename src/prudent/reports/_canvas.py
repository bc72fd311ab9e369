"""What every figure by Matplotlib has: size, axes, legend, and how it is saved."""

from pathlib import Path
from typing import Any

from prudent.models import atomic_file
from prudent.reports._extra import need
from prudent.reports._style import for_matplotlib

__all__ = ["DASHES", "INK", "dress", "legend", "new_figure", "save_figure"]

DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (5, 2)), "dot": (0, (1.2, 1.6)), "dashdot": (0, (5, 1.5, 1, 1.5))}
_ENTRY, _LETTER, _LINE = 0.65, 0.078, 0.16
"""Inches of an entry of a legend without its text, of a letter, and of a line."""
INK, _FAINT = "#22262b", "#d9dce0"


def new_figure(width: float, height: float) -> Any:
    """A white figure of so many inches."""
    return need("matplotlib.figure").Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save_figure(figure: Any, path: str | Path, dpi: int = 160) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
    return Path(path)


def dress(axes: Any, x_label: str, y_label: str) -> None:
    """Titles and the quiet look of all axes."""
    axes.set_xlabel(for_matplotlib(x_label), color=INK)
    axes.set_ylabel(for_matplotlib(y_label), color=INK)
    axes.grid(True, color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors="#4a4f55", labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#a9aeb4")


def legend(figure: Any, axes: Any, *, below: bool) -> None:
    """One legend for a figure, of what stands in one of its axes; below it in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    place: dict[str, Any] = {"loc": "outside right upper"}
    if below:
        width, height = figure.get_size_inches()
        columns = min(max(1, int(width / (_ENTRY + _LETTER * longest))), 4)
        lines = -(-len(labels) // columns) * max((label.count("\n") + 1 for label in labels), default=0)
        figure.set_size_inches(width, height + _LINE * max(0, lines - 3))
        place = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles, map(for_matplotlib, labels), frameon=False, fontsize=9, labelcolor=INK, **place)
