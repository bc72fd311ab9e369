"""What every figure by Matplotlib has: size, axes, legend, and how it is saved."""

from pathlib import Path
from typing import Any

from prudent.models import atomic_file
from prudent.reports._extra import need
from prudent.reports._style import for_matplotlib

__all__ = ["DASHES", "INK", "dress", "legend", "new_figure", "save_figure"]

DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (5, 2)), "dot": (0, (1.2, 1.6)), "dashdot": (0, (5, 1.5, 1, 1.5))}
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
    """One legend for a figure, of what stands in one of its axes."""
    handles, labels = axes.get_legend_handles_labels()
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 4} if below else {"loc": "outside right upper"}
    figure.legend(handles, map(for_matplotlib, labels), frameon=False, fontsize=9, labelcolor=INK, **place)
