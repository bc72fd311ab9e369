"""The figure of the experiment with a tiny language model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa

mpl.use("agg")
from matplotlib import pyplot as plt

# Okabe and Ito's colors, which tell themselves apart for the color-blind too.
COLORS = {"mean": "#d55e00", "variance_kl": "#0072b2", "variance_kl_0.02": "#56b4e9", "lsc": "#009e73"}
NAMES = {
    "mean": "mean",
    "variance_kl": "variance-weighted KL",
    "variance_kl_0.02": "the same, two thirds as strong",
    "lsc": "log-sigmoid (LSC)",
}

FEWEST = 4
"""Seeds that a mean must rest on to be drawn."""


def draw(table: pa.Table, arms: Sequence[str], points: Sequence[float], place: Path) -> None:
    """Gold and proxy of every run, and what differs between arms at equal KL."""
    rows = table.to_pylist()
    figure, axes = plt.subplots(2, 4, figsize=(18, 8))
    panels = [
        ("gold", "gold minus the first policy's"),
        ("proxy", "proxy minus the first policy's (its std)"),
        ("proxy_std", "posterior std of the proxy (the same unit)"),
        ("words", "words"),
    ]
    for axis, (measure, label) in zip(axes[0], panels, strict=True):
        _curves(axis, rows, arms, points, measure)
        axis.set_ylabel(label)
    for axis, (measure, label) in zip(
        axes[1][:2],
        [("worse_prompts", "prompts with less gold than before"), ("below_proxy", "sentences below the reference")],
        strict=True,
    ):
        _curves(axis, rows, arms, points, measure)
        axis.set_ylabel(label)
    for axis, measure, label in (
        (axes[1][2], "gold below the first policy's", "seeds with gold below the first policy's"),
        (axes[1][3], "std of gold", "std of gold over seeds"),
    ):
        for shift, arm in zip(np.linspace(-0.06, 0.06, len(arms)), arms, strict=True):
            own = _matched(rows, arm, measure, points)
            middle, low, high = (np.array([row[name] for row in own]) for name in ("value", "low", "high"))
            x = np.array([row["root_kl"] for row in own]) + shift
            bars = np.clip(np.stack([middle - low, high - middle]), 0, None)
            axis.errorbar(x, middle, bars, fmt="o-", color=COLORS[arm], lw=1.2, ms=4, capsize=2)
        axis.set_ylabel(label)
    for axis in axes.flat:
        axis.set_xlabel("square root of the KL to the first policy")
        axis.grid(alpha=0.25)
    axes[0][0].axhline(0, color="#777777", lw=1, ls=":")
    axes[0][0].legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(place, dpi=90)
    plt.close(figure)


def _curves(axis: Any, rows: list[dict[str, Any]], arms: Sequence[str], points: Sequence[float], measure: str) -> None:
    """Every run thinly, and the mean over seeds with its band."""
    for arm in arms:
        runs = [row for row in rows if row["table"] == "curves" and row["arm"] == arm and row["measure"] == measure]
        for seed in sorted({row["seed"] for row in runs}):
            own = sorted((row["root_kl"], row["value"]) for row in runs if row["seed"] == seed)
            axis.plot(*zip(*own, strict=True), color=COLORS[arm], lw=0.6, alpha=0.35)
        mean = _matched(rows, arm, measure, points)
        x = [row["root_kl"] for row in mean]
        axis.plot(x, [row["value"] for row in mean], "o-", color=COLORS[arm], lw=2.2, ms=4, label=NAMES[arm])
        axis.fill_between(
            x, [row["low"] for row in mean], [row["high"] for row in mean], color=COLORS[arm], alpha=0.12, lw=0
        )


def _matched(rows: list[dict[str, Any]], arm: str, measure: str, points: Sequence[float]) -> list[dict[str, Any]]:
    """Rows at the points that enough seeds reach, in their order."""
    found = [row for row in rows if row["table"] == "matched" and row["arm"] == arm and row["measure"] == measure]
    shown = [row for row in found if row["root_kl"] in points and row["num_seeds"] >= FEWEST]
    return sorted(shown, key=lambda row: float(row["root_kl"]))
