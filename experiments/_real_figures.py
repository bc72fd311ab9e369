"""Figures of the real pools: gold over n, and what each way to pick is worth against best-of-n by the mean."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow as pa
import pyarrow.compute as pc

mpl.use("agg")
from matplotlib import pyplot as plt

SHOWN = {
    "mean": ("#d55e00", "-", "mean (MAP)"),
    "lcb_var, tuned": ("#00805e", "-", "lcb_var, tuned"),
    "center(mean) | lcb_var, tuned": ("#0072b2", "-", "centered lcb_var, tuned"),
    "top_k, tuned": ("#e0a030", "-", "uniform top-k, tuned"),
    "soft, tuned": ("#a8518a", "--", "soft best-of-n, tuned"),
    "mbr, tuned": ("#56b4e9", "-.", "MBR best-of-n, tuned"),
    "consensus": ("#aaaaaa", "-", "consensus alone"),
    "hedged n": ("#333333", ":", "hedged n"),
    "longest": ("#888888", "-.", "longest"),
    "random": ("#888888", ":", "random"),
}
POOLS = {
    "alpacaeval": "AlpacaEval: judge's logit",
    "codet": "CodeT: share of tests passed",
    "gsm8k": "GSM8K: share right",
    "qa_feedback": "QA-feedback: comparisons won",
    "qwen_math": "MATH: share right",
}

RULES = {
    "lcb_std, tuned": "lcb_std, tuned",
    "lcb_var, tuned": "lcb_var, tuned",
    "center(mean) | lcb_std, tuned": "centered lcb_std, tuned",
    "center(mean) | lcb_var, tuned": "centered lcb_var, tuned",
    "worst": "worst of ten heads",
    "uwo": "UWO of ten heads",
    "hedged n": "hedged n",
    "top_k, tuned": "uniform top-k, tuned",
    "soft, tuned": "soft best-of-n, tuned",
    "pessimism, tuned": "pessimism, tuned",
    "mbr, tuned": "MBR best-of-n, tuned",
    "consensus": "consensus alone",
    "shuffled: lcb_var, tuned": "variance shuffled",
    "length as variance: lcb_var, tuned": "length as variance",
    "length out of variance: lcb_var, tuned": "length out of variance",
    "length out of variance: center(mean) | lcb_var, tuned": "the same, centered",
    "longest": "longest",
}
LEFT_OUT = {"alpacaeval": [("consensus", "gold")]}
"""The worst by far, so that others would lie in one heap: written in place of points."""
NOT_OF_SCALE = {"gold_length_adjusted": ("longest",)}
"""Likewise the longest once length does not count, in every pool."""
COLORS = {"matching": "#0072b2", "noisy": "#d55e00", "shifted": "#00805e", "reward_model": "#a8518a"}
SCALES = {
    "gold": "gold, minus that of the mean",
    "gold_length_adjusted": "z-scored, length partialled out",
}


def rows_of(table: pa.Table, **wanted: Any) -> list[dict[str, Any]]:
    """The rows in which columns have these values."""
    for column, value in wanted.items():
        table = table.filter(pc.equal(table[column], value))
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def _proxies(table: pa.Table, pool: str) -> list[str]:
    """The last layers and the real reward model of a pool."""
    names = dict.fromkeys(row["proxy"] for row in rows_of(table, pool=pool))
    shown = [name for name in names if name.endswith("last_layer") or name == "reward_model"]
    return [name for name in shown if not (len(shown) > 3 and name.startswith("noisy"))]


def _pools(table: pa.Table) -> list[str]:
    return list(dict.fromkeys(table["pool"].to_pylist()))


def draw_curves(table: pa.Table, place: Path, scale: str = "gold") -> None:
    """Gold over n, a row a pool, a column a proxy.

    At n below the size of the pool centered variance knows more responses than the n to pick from.
    """
    pools = _pools(table)
    columns = max(len(_proxies(table, pool)) for pool in pools)
    figure, axes = plt.subplots(len(pools), columns, figsize=(3.5 * columns, 2.8 * len(pools)), squeeze=False)
    for line, pool in enumerate(pools):
        for axis in axes[line]:
            axis.set_visible(False)
        for axis, proxy in zip(axes[line], _proxies(table, pool), strict=False):
            axis.set_visible(True)
            for curve, (color, style, label) in SHOWN.items():
                points = rows_of(table, pool=pool, proxy=proxy, scale=scale, curve=curve)
                n = [row["n"] for row in points]
                axis.plot(n, [row["gold"] for row in points], style, color=color, label=label, linewidth=1.4)
                if curve in ("mean", "center(mean) | lcb_var, tuned"):
                    low, high = ([row[f"gold_{end}"] for row in points] for end in ("low", "high"))
                    axis.fill_between(n, low, high, color=color, alpha=0.12, linewidth=0)
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.tick_params(labelsize=7)
            axis.set_title(f"{pool}: {proxy.replace('-', ', ')}", size=9)
        axes[line][0].set_ylabel(POOLS.get(pool, pool), size=8)
    for axis in axes[-1]:
        axis.set_xlabel("n", size=8)
    _legend(figure, axes)
    figure.savefig(place, dpi=90)
    plt.close(figure)


def draw_differences(table: pa.Table, place: Path) -> None:
    """Gold at the largest n minus that of best-of-n by the mean, with intervals.

    A row of panels a scale of gold, a column a pool, a row a rule, a color a proxy.
    """
    pools = _pools(table)
    size = (2.9 * len(pools) + 1.6, 5.0 * len(SCALES))
    figure, axes = plt.subplots(len(SCALES), len(pools), figsize=size, sharey="row", squeeze=False)
    for line, (scale, called) in enumerate(SCALES.items()):
        rules = [rule for rule in RULES if rule not in NOT_OF_SCALE.get(scale, ())]
        for axis, pool in zip(axes[line], pools, strict=True):
            proxies = _proxies(table, pool)
            for number, proxy in enumerate(proxies):
                color = COLORS[proxy.partition("-")[0]]
                label = proxy.replace("-", ", ")
                for height, rule in enumerate(rules):
                    # only heads have members; their mean is that of the last layer
                    wanted = proxy.replace("last_layer", "heads") if rule in ("worst", "uwo") else proxy
                    for row in rows_of(table, pool=pool, proxy=wanted, scale=scale, curve=rule):
                        if (rule, scale) in LEFT_OUT.get(pool, ()):
                            spot = {"x": 0.02 + 0.09 * number, "y": -height, "transform": axis.get_yaxis_transform()}
                            axis.text(s=f"{row['minus_first']:.1f}", color=color, size=7, va="center", **spot)
                            continue
                        y = -height - 0.22 * (number - (len(proxies) - 1) / 2)
                        ends = [row["minus_first_low"], row["minus_first_high"]]
                        axis.plot(ends, [y, y], color=color, linewidth=1.2)
                        axis.plot(row["minus_first"], y, "o", color=color, markersize=3.5, label=label)
            axis.axvline(0, color="#444444", linewidth=0.8)
            axis.set_title(POOLS.get(pool, pool) if line == 0 else "", size=8)
            axis.set_xlabel(called, size=7)
            axis.tick_params(labelsize=7)
            axis.locator_params(axis="x", nbins=6)
        axes[line][0].set_yticks([-height for height in range(len(rules))], [RULES[rule] for rule in rules], size=8)
    _legend(figure, axes)
    figure.savefig(place, dpi=100)
    plt.close(figure)


def _legend(figure: Any, axes: Any) -> None:
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= {text: handle for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=5, fontsize=8, frameon=False)
