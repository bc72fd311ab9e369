"""How many standard deviations: best-of-n on the worlds of a finished demo, for several strengths of each penalty.

    python experiments/demo_world/num_std.py runs/demo_world    # the folder of `prudent demo --seeds 5`

Writes `num_std.csv` beside this file. These strengths were not chosen on these worlds; the table shows what others do.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch

from prudent.scoring import read_scored, utility_for
from prudent.selection import best_of_n_curve

STRENGTHS = {"lcb_std": (0.5, 1, 2, 3, 4, 5, 6), "lcb_var": (1, 4, 16, 64)}
NUM_BOOTSTRAP = 2000


def main(folder: Path) -> None:
    pools = [read_scored(place) for place in sorted(folder.glob("seed-*/scored.parquet"))]
    counts = torch.unique(pools[0].group, return_counts=True)[1]
    grid = sorted({round(2 ** (step / 2)) for step in range(28)} - {16384, 11585} | {int(counts.min())})
    rules: list[tuple[str, bool, float | None, str]] = [("mean", False, None, "mean")]
    for name, values in STRENGTHS.items():
        for centered in (False, True):
            before = "center(mean) | " if centered else ""
            rules += [(name, centered, value, f"{before}{name}({value})") for value in values]
    curves = []
    for *_, text in rules:
        parts = []
        for pool in pools:
            utility = utility_for(pool, text)(pool.reward_set()).double()
            parts.append(best_of_n_curve(utility, pool.column("gold"), pool.group, grid))
        curves.append(torch.cat(parts).numpy())  # [B, G]
    num_prompts = len(curves[0])
    draws = np.random.default_rng(0).integers(num_prompts, size=(NUM_BOOTSTRAP, num_prompts))
    rows = []
    for (name, centered, value, _), gold in zip(rules, curves, strict=True):
        kept = np.percentile([share_kept(gold[draw].mean(0)) for draw in draws], [2.5, 97.5])
        lead = gold[:, -1] - curves[0][:, -1]
        low, high = np.percentile(lead[draws].mean(1), [2.5, 97.5])
        mean = gold.mean(0)
        rows.append(
            {
                "rule": name,
                "variance": "centered" if centered else "marginal",
                "strength": value,
                "peak_n": grid[int(mean.argmax())],
                "gold_at_1": mean[0],
                "gold_at_peak": mean.max(),
                "gold_at_end": mean[-1],
                "kept": share_kept(mean),
                "kept_low": kept[0],
                "kept_high": kept[1],
                "minus_mean": lead.mean(),
                "minus_mean_low": low,
                "minus_mean_high": high,
            }
        )
    with Path(__file__).with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{item:.3f}" if isinstance(item, float) else item for key, item in row.items()})


def share_kept(curve: np.ndarray) -> float:
    best = curve.max() - curve[0]
    return float((curve[-1] - curve[0]) / best) if best > 0 else float("nan")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
