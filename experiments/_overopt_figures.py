"""Figures of the overoptimization experiments."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow as pa

mpl.use("agg")
from matplotlib import pyplot as plt

from prudent.selection import best_of_n_kl

# Okabe and Ito's colors, which tell themselves apart for the color-blind too.
BLUE, ORANGE, GREEN, RED, PURPLE, GRAY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#a8518a", "#777777"
Rows = list[dict[str, Any]]


def chosen(rows: Rows, **what: Any) -> Rows:
    """Rows with these values, by n."""
    found = [row for row in rows if all(_same(row[key], value) for key, value in what.items())]
    return sorted(found, key=lambda row: row["n"])


def _same(found: Any, wanted: Any) -> bool:
    return abs(found - wanted) < 1e-6 if isinstance(wanted, float) else found == wanted


def line(
    axis: Any, rows: Rows, x: Sequence[float], color: str, label: str, style: str = "-", band: bool = True
) -> None:
    """A curve with its band."""
    axis.plot(x, [row["value"] for row in rows], style, color=color, label=label, lw=1.8)
    if band:
        axis.fill_between(x, [row["low"] for row in rows], [row["high"] for row in rows], color=color, alpha=0.12, lw=0)


def draw_overoptimization(table: pa.Table, place: Path) -> None:
    """Gold against n, and gold at the largest n against the strength of the penalty."""
    rows = table.to_pylist()
    flips = (0.25, 0.0)
    panels = [
        ("full", "refit", "trained"),
        ("frozen", "refit", "heads on frozen base"),
        ("lora", "refit", "LoRA, last layer"),
        ("lora", "ekfac", "LoRA, ekfac"),
    ]
    figure, axes = plt.subplots(2 * len(flips), len(panels), figsize=(17, 15))
    for (line_, flip), (column, (model, posterior, named)) in product(enumerate(flips), enumerate(panels)):
        own = chosen(rows, flip=flip, model=model, posterior=posterior)
        above, below = axes[2 * line_][column], axes[2 * line_ + 1][column]
        above.set_title(f"{named}, {flip:.0%} flipped ({own[0]['num_prompts']} prompts)", size=10)
        for proxy, style in (("single", "-"), ("ensemble", "--")):
            for rule, color in (("mean", RED), ("lcb_std", BLUE), ("lcb_var", GREEN)):
                what = {} if rule == "mean" else {"variance": "centered", "strength": "tuned"}
                points = chosen(own, proxy=proxy, rule=rule, statistic="gold", **what)
                points = [row for row in points if rule != "mean" or row["strength"] == ""]
                if points:
                    label = f"{'MAP' if rule == 'mean' else rule + ', tuned'}, {proxy}"
                    x = [row["n"] for row in points]
                    line(above, points, x, color, label, style, band=proxy == "single")
        random = chosen(own, rule="random", statistic="gold")
        above.axhline(random[0]["value"], color=GRAY, lw=1, ls=":", label="random")
        above.set_xscale("log")
        above.set_xlabel("n")
        above.set_ylabel("gold of the pick")
        for rule, color in (("lcb_std", BLUE), ("lcb_var", GREEN)):
            for variance, style in (("centered", "-"), ("marginal", ":")):
                points = [
                    row
                    for row in chosen(own, proxy="single", rule=rule, variance=variance, statistic="gold")
                    if row["strength"] not in ("", "tuned")
                ]
                points = sorted(points, key=lambda row: float(row["strength"]))
                x = [float(row["strength"]) for row in points]
                line(below, points, x, color, f"{rule}, {variance}", style, band=variance == "centered")
        mean = chosen(own, proxy="single", rule="mean", statistic="gold")[-1]
        below.axhline(mean["value"], color=RED, lw=1.2, label="MAP")
        below.set_xscale("log")
        below.set_xlabel("relative strength")
        below.set_ylabel(f"gold at n = {mean['n']:,}")
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    axes[0][0].legend(fontsize=7, loc="lower left")
    axes[1][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(place, dpi=100)
    plt.close(figure)


def draw_ensembles(table: pa.Table, place: Path) -> None:
    """Gold of each way to read an ensemble, and the laws by the number of comparisons."""
    rows = table.to_pylist()
    figure, axes = plt.subplots(2, 3, figsize=(14, 8.2))
    rules = (
        ("single", GRAY),
        ("mean", RED),
        ("worst, centered", BLUE),
        ("uwo", ORANGE),
        ("uwo, tuned", GREEN),
    )
    for line_, flip in enumerate((0.25, 0.0)):
        for column, (kind, named) in enumerate(
            (("trained", "five trained models"), ("heads", "five heads, frozen base"))
        ):
            axis = axes[line_][column]
            for rule, color in rules:
                points = chosen(rows, flip=flip, kind=kind, rule=rule, statistic="gold", strength="")
                x = [row["n"] for row in points]
                line(axis, points, x, color, rule, band=rule in ("single", "uwo, tuned"))
            if points:
                axis.set_title(f"{named}, {flip:.0%} flipped ({points[0]['num_prompts']} prompts)", size=10)
            axis.set_xscale("log")
            axis.set_xlabel("n")
            axis.set_ylabel("gold of the pick")
        axis = axes[line_][2]
        colors = plt.get_cmap("viridis")
        laws = [row for row in rows if row["kind"] == "frozen" and _same(row["flip"], flip)]
        sizes = sorted({row["num_pairs"] for row in laws if row["num_pairs"]})
        for place_, size in enumerate(sizes):
            points = chosen(laws, num_pairs=size, statistic="gold")
            kl = best_of_n_kl([row["n"] for row in points])
            color = colors(place_ / len(sizes))
            base = points[0]["value"]
            axis.plot(kl.sqrt(), [row["value"] - base for row in points], ".", color=color, ms=5)
            alpha, beta = (
                chosen(laws, num_pairs=size, statistic=name, strength="best_of_n, all n")[0]["value"]
                for name in ("alpha", "beta")
            )
            d = kl.sqrt()
            axis.plot(d, d * (alpha - beta * d), "-", color=color, lw=1.5, label=f"{size} pairs")
        axis.set_title(f"single heads, {flip:.0%} flipped, and R = d (alpha - beta d)", size=10)
        axis.set_xlabel("d = sqrt(KL), nats")
        axis.set_ylabel("gain in gold over n = 1")
        axis.legend(fontsize=8)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(place, dpi=110)
    plt.close(figure)
