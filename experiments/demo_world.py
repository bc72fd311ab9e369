"""The demo over five worlds, as tables: what optimising the proxy does to the true reward under each utility.

    python experiments/demo_world.py            # the demo with five seeds (runs/demo_world); tables and docs/demo.png
    python experiments/demo_world.py --seed 10 --output runs/demo_world_10  # the same on worlds 10 to 14
    python experiments/demo_world.py --fast     # a small demo of one seed in a temporary folder, writes nothing

Each seed is a world of its own: prompts, policy, labels, tokenizer, base model and proxy. Intervals are 95 % bootstrap
over the 80 prompts of all worlds, paired for differences.
"""

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from prudent.evaluation import DemoResult, run_demo

RESULTS = Path(__file__).with_suffix("")
PICTURE = RESULTS.parents[1] / "docs" / "demo.png"
# Okabe and Ito's colors; the same rule on the variance against references is dashed, on shuffled variances dotted.
COLORS = {"mean": "#d55e00", "lcb_std(4)": "#0072b2", "lcb_var": "#009e73", "entropic": "#cc79a7"}
BESIDE = {"longest": ("#666666", "-."), "random": ("#666666", ":")}


def curve_rows(result: DemoResult) -> list[dict[str, Any]]:
    """A row for each utility and n, over all worlds."""
    rows = []
    for kind in ("utilities", "baselines", "controls"):
        for utility, points in result.summary[kind].items():
            rows += [{"utility": utility, **point} for point in points]
    return rows


def outcome_rows(result: DemoResult) -> list[dict[str, Any]]:
    """A row for each utility: over all worlds, and in each."""
    rows = []
    scopes = [("all", result.summary["outcomes"])]
    scopes += [(str(one["seed"]), one["outcomes"]) for one in result.summary["seeds"]]
    for scope, outcomes in scopes:
        for utility, outcome in outcomes.items():
            row: dict[str, Any] = {"seed": scope, "utility": utility, "peak_n": outcome["peak_n"]}
            row["fall_p_value"] = outcome["drop_p_value"]
            for name, estimate in (
                ("fall", outcome["drop"]),
                ("gain", outcome["gain"]),
                ("kept", outcome["kept"]),
                ("minus_mean", outcome["versus"].get("first")),
                ("minus_shuffled", outcome["versus"].get("shuffled")),
            ):
                for part in ("value", "low", "high"):
                    row[name if part == "value" else f"{name}_{part}"] = None if estimate is None else estimate[part]
            rows.append(row)
    return rows


def write(rows: list[dict[str, Any]], place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    with place.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()})


def draw(result: DemoResult) -> None:
    """Gold and proxy of the pick against KL, for the README."""
    summary, first = result.summary, result.summary["utilities"]["mean"]
    lines = []
    for rule, color in COLORS.items():
        lines.append((rule, "utilities", rule, color, "-"))
        if rule != "mean":
            lines.append((f"center(mean) | {rule}", "utilities", f"center(mean) | {rule}", color, "--"))
            lines.append((f"shuffled: {rule}", "controls", f"{rule}, shuffled", color, ":"))
    lines += [
        (key, "controls" if key == "longest" else "baselines", f"{key} response", *look) for key, look in BESIDE.items()
    ]
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 5.2), layout="constrained")
    for axis, column in zip(axes, ("gold", "proxy"), strict=True):
        for key, kind, label, color, style in lines:
            points = summary[kind][key]
            x = [one["kl"] for one in first]  # what draws one response to a prompt at any n stands beside the others
            axis.plot(
                x, [one[column] for one in points], style, color=color, lw=2 if style == "-" else 1.4, label=label
            )
            if column == "gold" and style == "-":
                bounds = ([one[end] for one in points] for end in ("low", "high"))
                axis.fill_between(x, *bounds, color=color, alpha=0.12, lw=0)
        axis.set_xlabel("KL from the policy, nats (best of n)")
        axis.set_ylabel("gold of the pick" if column == "gold" else "reward mean of the pick, above the pool's")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    settings = summary["settings"]
    figure.suptitle(
        f"Best of n on {len(summary['seeds'])} embedded worlds, {settings['num_candidates']:,} candidates a prompt"
    )
    figure.savefig(PICTURE, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a small demo of one seed, nothing written")
    parser.add_argument("--output", default="runs/demo_world", help="folder of the demo; an interrupted one goes on")
    parser.add_argument("--seed", type=int, default=0, help="the first of the five worlds")
    options = parser.parse_args()
    if options.fast:
        with tempfile.TemporaryDirectory() as folder:
            result = run_demo(folder, num_prompts=2, num_candidates=200, num_pairs=60, num_base_texts=400)
            rows = outcome_rows(result)
    else:
        result = run_demo(options.output, seed=options.seed, num_seeds=5)
        rows = outcome_rows(result)
        suffix = f"_from_{options.seed}" if options.seed else ""
        write(curve_rows(result), RESULTS / f"curves{suffix}.csv")
        write(rows, RESULTS / f"outcomes{suffix}.csv")
        if not suffix:
            draw(result)
    for row in rows:
        kept = "" if row["kept"] is None else f"{row['kept']:.3f}"
        lead = "" if row["minus_mean"] is None else f"{row['minus_mean']:+.2f}"
        print(f"seed {row['seed']:4} {row['utility']:34} peak n {row['peak_n']:6} kept {kept:8} minus mean {lead}")


if __name__ == "__main__":
    main()
