"""Which risk rule picks best, at comparable strengths, and which rules are the same rule under two names?

The embedded world (five worlds, proxies trained as in the demo on 300 noisy comparisons, 32 prompts x 4,096 candidates
each) and AlpacaEval answers (frozen all-MiniLM-L6-v2, five draws of training pairs), each with a Gaussian posterior and
with ten heads. Every rule is a utility as a user writes it. Strengths: the default; the best on the other half of the
prompts (`calibrated_strength`; `one error`: the mildest within a standard error of it); untuned
(`matched_risk_aversion`); and, as a bound, the best in hindsight.

    python experiments/rules.py --data DATA          # makes what is missing, writes tables and figures
    python experiments/rules.py --data DATA --fast   # seconds: one small world, small slices, nothing written
    python experiments/rules.py                      # the world alone

Models, features and curves are kept under `.cache/experiments/rules/`, so that an interrupted run goes on.
"""

import argparse
import csv
import hashlib
import os
import tempfile
from collections.abc import Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch
from _rule_draws import Draw, apply_in_parts, marginal, shuffled
from _rule_families import (
    FAMILIES,
    MATCHED,
    MOST_STDS,
    SHUFFLED,
    STRENGTHS,
    THRESHOLDS,
    VIEWS,
    Family,
    View,
    asked,
    dial,
    strengths_of,
)
from _rule_figures import draw_agreement, draw_curves, draw_grid
from _rule_pools import (
    AE_SETTINGS,
    FOLDER,
    MORE_MEMBERS,
    NUM_MEMBERS,
    NUM_REFERENCES,
    POSTERIORS,
    WorldSizes,
    alpacaeval_pools,
    world_pools,
)
from _rule_tables import (
    Agreement,
    Curves,
    Measured,
    agreement_rows,
    curve_rows,
    final_rows,
    grid_rows,
    strength_rows,
    together,
)
from torch import Tensor

from prudent.metrics import spearman_within
from prudent.models import atomic_file
from prudent.selection import CalibratedStrength, calibrated_strength
from prudent.utility import matched_risk_aversion

RESULTS = Path(__file__).with_suffix("")
WORLDS = 5
WORLD_N = [4**power for power in range(7)]
REAL_N = [1, 2, 4, 8, 16, 32, 55]
FAST_WORLD = WorldSizes(num_prompts=4, num_candidates=64, num_pairs=40, num_base_texts=100)


def measure(draw: Draw) -> tuple[Curves, list[dict[str, Any]]]:
    """Curves of every rule in every way to set its strength, and the strengths that were chosen."""
    curves: Curves = {}
    chosen: list[dict[str, Any]] = []
    for posterior, view, name, family in asked():
        curves[posterior, view, name, "default"] = draw.curves(
            draw.values(posterior, view, family.text(view, family.default))
        )
        if family.kind is None:
            continue
        strengths = strengths_of(family.kind, draw.scale(posterior, view))[:: draw.grid_step]
        values = [draw.values(posterior, view, family.text(view, one)) for one in strengths]
        found = [draw.curves(one) for one in values]
        for place, one in enumerate(found):
            curves[posterior, view, name, f"grid {place}"] = one
        halves = []
        for fold in (0, 1):
            choice = calibrate(draw, values, fold)
            halves.append((draw.half(1 - fold), int(choice.chosen), int(choice.one_standard_error)))
            scale = draw.scale(posterior, view)
            chosen.append(
                {
                    "setting": draw.setting,
                    "seed": draw.seed,
                    "posterior": posterior,
                    "variance": view,
                    "rule": name,
                    "fold": fold,
                    "strength": strengths[int(choice.chosen)],
                    "one_standard_error": strengths[int(choice.one_standard_error)],
                    "default": family.default,
                    "spread": scale.spread,
                    "std": scale.std,
                }
            )
        curves[posterior, view, name, "calibrated"] = _crossed([(found[place], mask) for mask, place, _ in halves])
        curves[posterior, view, name, "one error"] = _crossed([(found[place], mask) for mask, _, place in halves])
        if name in SHUFFLED:
            other = shuffled(draw.rewards(posterior, view), view, draw.seed)
            curves[posterior, view, f"{name}, shuffled", "calibrated"] = _crossed(
                [
                    (draw.curves(apply_in_parts(family.text("marginal", strengths[place]), other)), mask)
                    for mask, place, _ in halves
                ]
            )
    for posterior in POSTERIORS:
        for view in VIEWS:
            for name in MATCHED:
                curves[posterior, view, name, "matched"] = matched_curves(draw, posterior, view, name)
    curves |= more_heads(draw)
    for name, values in {
        "random": torch.zeros(len(draw.pools.group)),
        "longest": draw.pools.length,
        "oracle": draw.gold,
    }.items():
        curves["", "", name, ""] = draw.curves(values)
    return curves, chosen


def calibrate(draw: Draw, values: list[Tensor], fold: int) -> CalibratedStrength:
    """The strength that is best on one half of the prompts, as its place from mild to careful."""
    rows = draw.half(fold)[draw.pools.group]
    return calibrated_strength(
        lambda place: values[int(place)][rows],
        draw.gold[rows],
        draw.pools.group[rows],
        draw.n_values[-1],
        range(len(values)),
    )


def more_heads(draw: Draw) -> Curves:
    """Rules that follow single members, and one that does not, with more heads than ten; marginal variance."""
    curves: Curves = {}
    scale = draw.scale("members", "marginal")
    for count, fit in draw.pools.more_members.items():
        rewards = marginal(fit())
        for name in ("worst", "entropic", "lcb_std"):
            family = FAMILIES[name]
            strengths = [None] if family.kind is None else strengths_of(family.kind, scale)[:: draw.grid_step]
            for place, strength in enumerate(strengths):
                found = draw.curves(apply_in_parts(family.text("marginal", strength), rewards))
                mode = "default" if strength is None else f"grid {place}"
                curves[f"members, {count}", "marginal", name, mode] = found
    return curves


def matched_curves(draw: Draw, posterior: str, view: View, name: str) -> dict[str, Tensor]:
    """At each n the risk aversion that best-of-n has by itself; one of one candidate has none."""
    found: dict[str, list[Tensor]] = {scale: [] for scale in draw.pools.gold}
    for place, n in enumerate(draw.n_values):
        text = "mean" if n == 1 else matched_text(draw, posterior, view, FAMILIES[name], n)
        for scale, curve in draw.curves(draw.values(posterior, view, text)).items():
            found[scale].append(curve[:, place])
    return {scale: torch.stack(columns, 1) for scale, columns in found.items()}


def matched_text(draw: Draw, posterior: str, view: View, family: Family, n: int) -> str:
    """A utility at the risk aversion that goes with n."""
    scale = draw.scale(posterior, view)
    if family.kind is None or family.kind == "threshold":
        return family.text(view, family.default)
    return family.text(view, dial(family.kind, matched_risk_aversion(n, scale.spread) / 2, scale))


def _crossed(halves: list[tuple[dict[str, Tensor], Tensor]]) -> dict[str, Tensor]:
    """Each prompt's curve from the half in which it was judged."""
    (first, mask), (second, _) = halves
    return {scale: torch.where(mask[:, None], first[scale], second[scale]) for scale in first}


def comparable(draw: Draw, posterior: str, view: View) -> dict[str, str]:
    """Every rule at one strength, the untuned one for the largest n."""
    return {
        name: matched_text(draw, posterior, view, family, draw.n_values[-1])
        for name, family in FAMILIES.items()
        if name != "thompson" and posterior in family.posteriors and (name == "mean" or view in family.views)
    }


def agreement(draw: Draw) -> Agreement:
    """How far rules of one strength agree, on each posterior and variance; the first of a tie is picked."""
    group = draw.pools.group
    prompts = group.unique()
    # correlations over the first candidates of each prompt, picks over all
    few = torch.arange(len(group)) - torch.searchsorted(group, prompts)[group] < 512
    found: Agreement = {}
    for posterior in POSTERIORS:
        for view in VIEWS:
            texts = comparable(draw, posterior, view)
            values = {name: draw.values(posterior, view, text) for name, text in texts.items()}
            picks = {
                name: torch.stack([value[group == prompt].argmax() for prompt in prompts])
                for name, value in values.items()
            }
            for first, second in combinations(values, 2):
                correlation = spearman_within(values[first][few], values[second][few], group[few])
                found[posterior, view, first, second] = (correlation, (picks[first] == picks[second]).double())
    return found


def digest(draw: Draw) -> str:
    """Names what is measured of a whole draw, so that nothing measured otherwise is taken for it."""
    rules = FAMILIES, STRENGTHS, THRESHOLDS, MOST_STDS, MATCHED, SHUFFLED
    source = WorldSizes() if draw.is_own else AE_SETTINGS[draw.setting]
    posteriors = NUM_MEMBERS, MORE_MEMBERS, NUM_REFERENCES
    made_with = rules, source, posteriors, draw.n_values, draw.grid_step
    return hashlib.sha256(repr(made_with).encode()).hexdigest()[:8]


def kept(draw: Draw, keep: bool) -> Measured:
    """The measurement of a draw, from the file that keeps it where there is one."""
    place = FOLDER / f"measured-{draw.setting.replace(' ', '_')}-{draw.seed}-{digest(draw)}.pt"
    if not (keep and place.exists()):
        curves, chosen = measure(draw)
        parts = {"curves": curves, "chosen": chosen, "agreement": agreement(draw)}
        if not keep:
            return Measured(draw.setting, draw.n_values, draw.is_own, **parts)
        with atomic_file(place) as temporary:
            torch.save(parts, temporary)
    return Measured(draw.setting, draw.n_values, draw.is_own, **torch.load(place, weights_only=True))


def world_draws(*, fast: bool, folder: Path = FOLDER) -> Iterator[Draw]:
    """The worlds, one at a time."""
    sizes = FAST_WORLD if fast else WorldSizes()
    n_values = [n for n in WORLD_N if n <= sizes.num_candidates]
    for seed in range(1 if fast else WORLDS):
        pools = world_pools(seed, sizes, folder)
        yield Draw("world", seed, pools, n_values, is_own=True, grid_step=3 if fast else 1)


def real_draws(data: Path, *, fast: bool) -> Iterator[Draw]:
    """The draws of real pairs, one at a time."""
    for setting, seed, pools in alpacaeval_pools(data, 1 if fast else 5, fast=fast):
        largest = int(torch.bincount(pools.group).max())
        n_values = [n for n in REAL_N if n <= largest]
        yield Draw(setting, seed, pools, n_values, is_own=False, grid_step=3 if fast else 1)


Tables = dict[str, list[dict[str, Any]]]


def experiment(draws: Iterator[Draw], *, keep: bool) -> Tables:
    """All tables by name."""
    measured: dict[str, list[Measured]] = {}
    for draw in draws:
        measured.setdefault(draw.setting, []).append(kept(draw, keep))
        print(f"measured {draw.setting}, seed {draw.seed}", flush=True)
    tables: Tables = {"final": [], "curves": [], "grid": [], "strengths": [], "agreement": []}
    for setting, parts in measured.items():
        curves = together(parts)
        tables["final"] += final_rows(setting, curves)
        tables["curves"] += curve_rows(setting, curves, parts[0].n_values)
        tables["grid"] += grid_rows(setting, curves)
        tables["strengths"] += strength_rows(setting, parts)
        tables["agreement"] += agreement_rows(setting, [part.agreement for part in parts])
    return tables


def write(tables: Tables) -> None:
    RESULTS.mkdir(exist_ok=True)
    for name, rows in tables.items():
        with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
            table.writeheader()
            for row in rows:
                table.writerow(
                    {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
                )


def show(rows: list[dict[str, Any]]) -> None:
    """What every rule is worth at the largest n."""
    for row in rows:
        against = "".join(
            f"  minus {name} {row[f'minus_{name}']:+.2f} "
            f"[{row[f'minus_{name}_low']:+.2f}, {row[f'minus_{name}_high']:+.2f}]"
            for name in ("mean", "lcb_var")
            if row[f"minus_{name}"] != ""
        )
        print(
            f"{row['setting']:32} {row['gold']:15} {row['posterior']:12} {row['variance']:8} {row['rule']:24} "
            f"{row['strength']:10} {row['value']:6.2f} [{row['value_low']:5.2f}, {row['value_high']:5.2f}]{against}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the real data; without it the world alone")
    parser.add_argument("--fast", action="store_true", help="one small world, small slices, nothing written")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    real = iter(()) if options.data is None else real_draws(options.data, fast=options.fast)
    if options.fast:
        with tempfile.TemporaryDirectory() as folder:
            tables = experiment(chain(world_draws(fast=True, folder=Path(folder)), real), keep=False)
    else:
        tables = experiment(chain(world_draws(fast=False), real), keep=True)
        write(tables)
        draw_curves(tables["curves"], RESULTS / "curves.png")
        draw_grid(tables["grid"], RESULTS / "grid.png")
        draw_agreement(tables["agreement"], RESULTS / "agreement.png")
    show(tables["final"])


if __name__ == "__main__":
    main()
