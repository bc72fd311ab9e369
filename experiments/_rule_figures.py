"""Figures of the comparison of risk rules."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("agg")
from matplotlib import pyplot as plt

COLORS = {
    "mean": "#d55e00",
    "lcb_std": "#0072b2",
    "lcb_var": "#00805e",
    "entropic": "#a8518a",
    "cvar": "#56b4e9",
    "worst": "#3f3fbf",
    "E[log sigma]": "#8a7400",
    "log E[sigma]": "#e0a030",
    "P(r > t)": "#7f4f24",
}
SAME_ON_A_GAUSSIAN = {"entropic", "quantile", "cvar"}
"""On a Gaussian these lie on `lcb_var` and `lcb_std`."""
Rows = list[dict[str, Any]]


def _settings(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["setting"] for row in rows))


def _panels(rows: Rows, height: float) -> tuple[Any, Any]:
    settings = _settings(rows)
    figure, axes = plt.subplots(2, len(settings), figsize=(4.6 * len(settings), height), sharex="col", squeeze=False)
    for line, posterior in enumerate(("gaussian", "members")):
        for column, setting in enumerate(settings):
            axes[line][column].set_title(
                f"{setting}: {'Gaussian' if posterior == 'gaussian' else 'ten heads'}", size=10
            )
    return figure, axes


def _legend(figure: Any, axes: Any, note: str = "") -> None:
    figure.text(0.5, 0.005, note, ha="center", size=8)
    handles = {}
    for axis in axes.flat:
        handles |= {text: handle for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.015),
        ncols=6,
        fontsize=8,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.08, 1, 1))


def draw_curves(rows: Rows, place: Path) -> None:
    """Gold over n by rules whose strength the other half of the prompts chose; marginal variance."""
    figure, axes = _panels(rows, 7.5)
    for column, setting in enumerate(_settings(rows)):
        scale = next(row["gold"] for row in rows if row["setting"] == setting)
        for line, posterior in enumerate(("gaussian", "members")):
            axis = axes[line][column]

            def curve(rule: str, strength: str, posterior: str, setting: str = setting, scale: str = scale) -> Rows:
                wanted = (setting, posterior, rule, strength, scale)
                keys = ("setting", "posterior", "rule", "strength", "gold")
                return [
                    row
                    for row in rows
                    if tuple(row[key] for key in keys) == wanted and row["variance"] in ("marginal", "")
                ]

            for rule, color in COLORS.items():
                if posterior == "gaussian" and rule in SAME_ON_A_GAUSSIAN:
                    continue
                found = curve(rule, "calibrated", posterior) or curve(rule, "default", posterior)
                if found:
                    axis.plot(
                        [row["n"] for row in found],
                        [row["value"] for row in found],
                        color=color,
                        marker=".",
                        linewidth=1.5,
                        label=rule,
                    )
                if rule in ("mean", "lcb_var"):
                    ends = ([row[end] for row in found] for end in ("low", "high"))
                    axis.fill_between([row["n"] for row in found], *ends, color=color, alpha=0.12, linewidth=0)
            for rule, label, style in (
                ("lcb_var, shuffled", "lcb_var, doubts shuffled", ":"),
                ("longest", "longest", "-."),
                ("random", "random", "--"),
            ):
                found = curve(rule, "calibrated", posterior) or curve(rule, "", "")
                axis.plot(
                    [row["n"] for row in found],
                    [row["value"] for row in found],
                    color="0.5",
                    linestyle=style,
                    label=label,
                )
            axis.set_xscale("log", base=2)
            axis.set_ylabel("gold of the pick" if scale == "gold" else "gold of the pick, z-scored in the prompt")
            if line:
                axis.set_xlabel("n, candidates of a prompt")
    _legend(figure, axes)
    figure.savefig(place, dpi=110)
    plt.close(figure)


def draw_grid(rows: Rows, place: Path) -> None:
    """Gold at the largest n at every strength, mild to careful: what a wrong strength costs."""
    figure, axes = _panels(rows, 7.5)
    for column, setting in enumerate(_settings(rows)):
        for line, posterior in enumerate(("gaussian", "members")):
            axis = axes[line][column]
            for rule, color in COLORS.items():
                if posterior == "gaussian" and rule in SAME_ON_A_GAUSSIAN:
                    continue
                for view, style in (("marginal", "-"), ("centered", "--")):
                    wanted = (setting, posterior, view, rule)
                    keys = ("setting", "posterior", "variance", "rule")
                    found = [row for row in rows if tuple(row[key] for key in keys) == wanted]
                    if found:
                        # grids of other lengths span the same width
                        x = [row["place"] / (len(found) - 1) for row in found]
                        label = rule if view == "marginal" else None
                        axis.plot(x, [row["value"] for row in found], color=color, linestyle=style, label=label)
            axis.set_xticks([0, 1], ["mildest", "most careful"])
            axis.set_ylabel("gold of the pick at the largest n")
    _legend(figure, axes, "solid: variance of the reward; dashed: of its contrast with the reference")
    figure.savefig(place, dpi=110)
    plt.close(figure)


def draw_agreement(rows: Rows, place: Path) -> None:
    """Rank correlations between the values of all rules at one strength; marginal variance."""
    settings = _settings(rows)[:2]
    figure, axes = plt.subplots(2, len(settings), figsize=(7.2 * len(settings), 12), squeeze=False)
    for line, posterior in enumerate(("gaussian", "members")):
        for column, setting in enumerate(settings):
            own = [
                row
                for row in rows
                if (row["setting"], row["posterior"], row["variance"]) == (setting, posterior, "marginal")
            ]
            names = list(dict.fromkeys(row[side] for row in own for side in ("rule", "other")))
            matrix = np.eye(len(names))
            for row in own:
                first, second = names.index(row["rule"]), names.index(row["other"])
                matrix[first, second] = matrix[second, first] = row["rank_correlation"]
            axis = axes[line][column]
            axis.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
            for first in range(len(names)):
                for second in range(len(names)):
                    value = matrix[first, second]
                    text = "1" if value > 1 - 5e-7 else f"{min(value, 0.999):.3f}".lstrip("0")
                    axis.text(
                        second, first, text, ha="center", va="center", size=7, color="black" if value > 0.5 else "white"
                    )
            axis.set_xticks(range(len(names)), names, rotation=60, ha="right", size=8)
            axis.set_yticks(range(len(names)), names, size=8)
            axis.set_title(f"{setting}: {'Gaussian' if posterior == 'gaussian' else 'ten heads'}", size=10)
    figure.tight_layout()
    figure.savefig(place, dpi=80)
    plt.close(figure)
