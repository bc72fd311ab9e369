"""Figures of alignment over pools: outcomes over KL, and every arm against the mean at one KL."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow as pa

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colors, which tell themselves apart for the color-blind too.
SHOWN = {
    "mean": ("#d55e00", "-"),
    "lcb": ("#0072b2", "-"),
    "variance_kl": ("#009e73", "-"),
    "variance_kl_in_reward": ("#009e73", "--"),
    "variance_kl, shuffled": ("#009e73", ":"),
    "lcb, shuffled": ("#0072b2", ":"),
    "entropic": ("#a8518a", "-"),
    "worst": ("#a8518a", "--"),
    "lsc": ("#e69f00", "-"),
    "bounded": ("#e69f00", "--"),
    "sign": ("#333333", "-"),
    "signcert": ("#333333", "--"),
}
STATISTICS = {
    "gain": "gain in gold",
    "run_std": "std of the gain over reward models",
    "prompt_below": "share of prompts below the reference policy",
    "length_growth": "growth of length",
}
DIFFERENCES = {
    "gain": "gain in gold, minus that of the mean",
    "prompt_below": "share of prompts below, minus",
    "run_std": "std over reward models, minus",
}
NOT_COMPARED = ("mean", "oracle", "longest")
KL_COMPARED = 1.0
POLICIES = {"tabular": ("#0072b2", "o", 0.15), "linear": ("#d55e00", "s", -0.15)}


def rows_of(table: pa.Table, **wanted: Any) -> list[dict[str, Any]]:
    """The rows with these values, by KL."""
    found = [row for row in table.to_pylist() if all(row[key] == value for key, value in wanted.items())]
    return sorted(found, key=lambda row: row["kl"])


def draw(table: pa.Table, folder: Path) -> None:
    """Both figures, beside the table."""
    draw_curves(table, folder / "curves.png")
    draw_differences(table, folder / "differences.png")


def draw_curves(table: pa.Table, place: Path) -> None:
    """Outcomes over KL of policies with a parameter a candidate: a row a setting, a column a statistic."""
    settings = list(dict.fromkeys(table["setting"].to_pylist()))
    size = (3.6 * len(STATISTICS), 2.6 * len(settings) + 0.8)
    figure, axes = plt.subplots(len(settings), len(STATISTICS), figsize=size, squeeze=False)
    for line, setting in zip(axes, settings, strict=True):
        for axis, statistic in zip(line, STATISTICS, strict=True):
            own = rows_of(table, setting=setting, policy="tabular", statistic=statistic)
            for arm, (color, style) in SHOWN.items():
                points = [row for row in own if row["arm"] == arm]
                root_kl = [row["kl"] ** 0.5 for row in points]
                axis.plot(root_kl, [row["value"] for row in points], style, color=color, label=arm, linewidth=1.3)
                if arm in ("mean", "variance_kl"):
                    low, high = ([row[end] for row in points] for end in ("low", "high"))
                    axis.fill_between(root_kl, low, high, color=color, alpha=0.12, linewidth=0)
            axis.tick_params(labelsize=8)
        line[0].set_ylabel(setting, size=10)
    for axis, called in zip(axes[0], STATISTICS.values(), strict=True):
        axis.set_title(called, size=10)
    for axis in axes[-1]:
        axis.set_xlabel("root of KL in nats", size=9)
    figure.tight_layout(rect=(0, 0.8 / size[1], 1, 1))
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=6, fontsize=9, frameon=False)
    figure.savefig(place, dpi=90)
    plt.close(figure)


def draw_differences(table: pa.Table, place: Path) -> None:
    """Every arm minus the mean at one KL with intervals: a row a statistic, a column a setting, a color a policy."""
    settings = list(dict.fromkeys(table["setting"].to_pylist()))
    arms = [arm for arm in dict.fromkeys(table["arm"].to_pylist()) if arm not in NOT_COMPARED]
    size = (3.0 * len(settings) + 1.8, 3.9 * len(DIFFERENCES))
    figure, axes = plt.subplots(len(DIFFERENCES), len(settings), figsize=size, sharey=True, squeeze=False)
    for line, (statistic, called) in zip(axes, DIFFERENCES.items(), strict=True):
        for axis, setting in zip(line, settings, strict=True):
            for policy, (color, marker, shift) in POLICIES.items():
                own = rows_of(table, setting=setting, policy=policy, statistic=statistic, kl=KL_COMPARED)
                for row in own:
                    if row["arm"] in NOT_COMPARED:
                        continue
                    y = shift - arms.index(row["arm"])
                    axis.plot([row["minus_mean_low"], row["minus_mean_high"]], [y, y], color=color, linewidth=1.1)
                    axis.plot(row["minus_mean_value"], y, marker, color=color, markersize=3, label=policy)
            axis.axvline(0, color="#444444", linewidth=0.8)
            axis.set_title(setting, size=8)
            axis.set_xlabel(called, size=7)
            axis.tick_params(labelsize=7)
            axis.xaxis.set_major_locator(MaxNLocator(5))
        line[0].set_yticks([-place for place in range(len(arms))], arms, size=7)
    note = "no point: not run with these policies, or some reward models do not get that far"
    figure.suptitle(f"At {KL_COMPARED:g} nat of KL ({note})", size=9)
    figure.tight_layout(rect=(0, 0.4 / size[1], 1, 1))
    handles, labels = axes[0][0].get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(place, dpi=90)
    plt.close(figure)
