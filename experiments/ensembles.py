"""Do ensembles of reward models resist best-of-n (arXiv 2310.02743), and do Gao's laws hold (2210.10760)?

    python experiments/ensembles.py          # makes what is missing, writes results.parquet and curves.png
    python experiments/ensembles.py --fast   # one small world in a temporary folder, writes nothing

Five embedded worlds, whose gold is known. Two kinds of ensembles of five, with and without 25 % of the labels turned
round: members trained in full on the same comparisons from other seeds (the proxies of experiment 1, with their heads
as trained), and linear heads on the frozen base, each on comparisons resampled, over several draws of comparisons. The
laws are fitted to single heads on the frozen base by the number of comparisons. Settings: `ensembles/config.yaml`.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from _overopt_curves import Candidates, candidates, last_layer
from _overopt_figures import draw_ensembles
from _overopt_pools import (
    BASES,
    FOLDER,
    Proxy,
    WorldTexts,
    drawn_pairs,
    features,
    frozen_pool,
    joined,
    kept_curves,
    world_texts,
)
from _overopt_rows import Rows, schema, share
from _overopt_statistics import Worlds, interval, tuned
from _references import reference_means
from torch import Tensor

from prudent.metrics import fit_scaling_law
from prudent.posteriors import LastLayerPosterior, fit_heads
from prudent.selection import best_of_n_kl, n_for_kl
from prudent.training import TrainingConfig

RESULTS = Path(__file__).with_suffix("")
KINDS = ("trained", "heads")
NEVER = 40.0
"""Nats that stand for a peak that never comes, in percentiles."""
SCHEMA = schema(kind=pa.string(), num_pairs=pa.int32())
Config = dict[str, Any]
Curves = dict[str, Tensor]


def member_curves(members: Tensor, deviations: Tensor, pool: Candidates, config: Config) -> Curves:
    """Gold curves of an ensemble: `single` `[M, B, L]`, the others `[1, B, L]`.

    Args:
        members: `[N, M]` rewards as they are.
        deviations: `[N, M]` the same, minus each member's average over the prompt's references.
        pool: the candidates.
        config: of the experiment.
    """
    whole, centered = members.double(), deviations.double()
    mean, between = whole.mean(1), centered.var(1, correction=0)
    raw = whole.var(1, correction=0)
    values = {
        "mean": mean,
        "worst": whole.amin(1),
        "worst, centered": centered.amin(1),
        "uwo": mean - config["uwo_weight"] * raw,
        "uwo, centered": mean - config["uwo_weight"] * between,
    }
    spread = torch.stack([mean[pool.group == prompt].std() for prompt in pool.group.unique()]).mean()
    unit = float(spread / between.median())
    values |= {f"uwo/{strength:g}": mean - strength * unit * between for strength in config["strengths"]}
    found = {rule: pool.curve(value)[None] for rule, value in values.items()}
    found["single"] = torch.stack([pool.curve(column) for column in whole.unbind(1)])
    return found


def trained_curves(flip: float, block: int, texts: WorldTexts, config: Config) -> Curves:
    """Members trained in full, their heads as training left them."""

    def measure() -> Curves:
        pool = candidates(texts.pool(block), config["n_values"])
        found = []
        for seed in range(config["num_members"]):
            proxy = Proxy(texts.world.seed, config["num_pairs"], flip, seed)
            read = features(proxy, block, texts, replace(TrainingConfig(**config["full"]), seed=seed))
            found.append(last_layer(read, "kept", pool.group, pool.is_reference))
        members = torch.stack([one.mean for one in found], 1)
        deviations = members - torch.stack([one.reference_mean for one in found], 1)
        return member_curves(members, deviations, pool, config)

    return _kept(f"members-{flip}-{config['num_members']}", block, texts, config, measure)


def head_curves(flip: float, block: int, texts: WorldTexts, config: Config) -> Curves:
    """Bootstrapped linear heads on the frozen base: `single` `[D M, B, L]`, the others `[D, B, L]` over D draws."""

    def measure() -> Curves:
        pool = candidates(texts.pool(block), config["n_values"])
        read = frozen_pool(block, texts)
        found = []
        for draw in range(config["draws"]["num"]):
            sides = drawn_pairs(draw, config["num_pairs"], flip, texts, config["draws"])
            heads = fit_heads(*sides, num_members=config["num_members"], pooling="mean", seed=draw)
            members = heads.members_of(read).double()
            deviations = members - reference_means(members, pool.group, pool.is_reference)
            found.append(member_curves(members, deviations, pool, config))
        return {rule: torch.cat([one[rule] for one in found]) for rule in found[0]}

    return _kept(f"heads-{flip}-{config['num_members']}", block, texts, config, measure)


def law_curves(flip: float, block: int, texts: WorldTexts, config: Config) -> Curves:
    """Single heads on the frozen base by the number of pairs: `[D, B, L]` over draws."""

    def measure() -> Curves:
        pool = candidates(texts.pool(block), config["n_values"])
        read = frozen_pool(block, texts)
        found: dict[str, list[Tensor]] = {}
        for size in config["law_sizes"]:
            for draw in range(config["draws"]["num"]):
                sides = drawn_pairs(draw, size, flip, texts, config["draws"])
                head = LastLayerPosterior.fit(*sides, pooling="mean")
                found.setdefault(str(size), []).append(pool.curve(read @ head.weight))
        return {size: torch.stack(parts) for size, parts in found.items()}

    return _kept(f"laws-{flip}", block, texts, config, measure)


def _kept(name: str, block: int, texts: WorldTexts, config: Config, measure: Callable[[], Curves]) -> Curves:
    keys = ("num_pairs", "law_sizes", "n_values", "strengths", "uwo_weight", "draws")
    found: Curves = kept_curves(name, block, texts, [config[key] for key in keys], measure)
    return found


def over_worlds(read: Any, flip: float, config: Config, folder: Path, bases: Path) -> Curves:
    """`[W, S, B, L]` of all worlds and blocks."""
    texts = world_texts(config, config["num_prompts"], folder, bases)
    return joined([[read(flip, block, one, config) for block in one.blocks] for one in texts])


def ensemble_rows(flip: float, kind: str, curves: Curves, config: Config) -> list[dict[str, Any]]:
    """What each rule does, and who leads whom at the largest n."""
    worlds = Worlds(curves["mean"].shape[0], curves["mean"].shape[2])
    rows = Rows(worlds, config["n_values"], curves["mean"], flip=flip, kind=kind, num_pairs=config["num_pairs"])
    grid = [curves[f"uwo/{strength:g}"] for strength in config["strengths"]]
    best, chosen, _ = tuned(grid)
    shown = {rule: curves[rule] for rule in ("single", "mean", "worst", "worst, centered", "uwo", "uwo, centered")}
    shown["uwo, tuned"] = best
    for rule, curve in shown.items():
        rows.curve(curve, rule=rule)
        for other in ("single", "mean"):
            if rule not in ("single", other):
                rows.leads(curve, shown[other], other, rule=rule)
    rows.apart("worst, centered minus uwo, tuned", shown["worst, centered"], best)
    for strength, one, times in zip(config["strengths"], grid, chosen.tolist(), strict=True):
        rows.end(one, rule="uwo", strength=f"{strength:g}")
        rows.add("chosen", share(times), config["n_values"][-1], rule="uwo", strength=f"{strength:g}")
    return rows.rows + law_rows(flip, kind, {"single": curves["single"], "mean": curves["mean"]}, worlds, config)


def law_rows(flip: float, kind: str, curves: Curves, worlds: Worlds, config: Config) -> list[dict[str, Any]]:
    """The laws fitted to each curve, on all n and on small n alone; curves are by rule, or by number of pairs."""
    n_values = config["n_values"]
    rows = Rows(worlds, n_values, next(iter(curves.values())), flip=flip, kind=kind)
    kl = best_of_n_kl(n_values)
    early = torch.tensor(n_values) <= config["early_n"]
    alphas, betas = [], []
    for key, curve in curves.items():
        gain = curve.double() - curve[..., :1]
        draws, value = worlds.means(gain), gain.mean((0, 1, 2))
        rule, num_pairs = ("single", int(key)) if key.isdigit() else (key, config["num_pairs"])
        for form in ("best_of_n", "rl"):
            for name, part in (("all n", torch.ones_like(early)), (f"n <= {config['early_n']}", early)):
                fit, drawn = (
                    fit_scaling_law(kl[part], value[part], form),
                    fit_scaling_law(kl[part], draws[:, part], form),
                )
                what = {"rule": rule, "num_pairs": num_pairs, "strength": f"{form}, {name}"}
                for coefficient in ("alpha", "beta", "r_squared"):
                    found = interval(float(getattr(fit, coefficient)), getattr(drawn, coefficient))
                    rows.add(coefficient, found, **what)
                # a peak that never comes counts as one beyond everything
                peak = interval(float(_until_never(fit.peak_kl)), _until_never(drawn.peak_kl))
                rows.add("peak_kl", peak, _peak_n(float(fit.peak_kl)), **what)
                last = interval(float(fit.gain(kl)[-1]), drawn.gain(kl)[:, -1])
                rows.add("gain at the largest n by the law", last, n_values[-1], **what)
                if form == "best_of_n" and name == "all n":
                    alphas.append((num_pairs, fit.alpha, drawn.alpha))
                    betas.append((num_pairs, fit.beta, drawn.beta))
        what = {"rule": rule, "num_pairs": num_pairs}
        rows.add("gain", interval(float(value[-1]), draws[:, -1]), n_values[-1], **what)
        found_kl = interval(float(kl[value.argmax()]), kl[draws.argmax(1)])
        rows.add("peak_kl", found_kl, n_values[int(value.argmax())], strength="found", **what)
        rows.drop(curve, **what)
    if len({size for size, _, _ in alphas}) > 2:
        for name, parts in (("alpha", alphas), ("beta", betas)):
            sizes, fits, drawn_fits = zip(*parts, strict=True)
            slope = interval(float(_slope(sizes, fits)), _slope(sizes, drawn_fits))
            rows.add(f"{name} per doubling of pairs", slope, rule="single", num_pairs=0)
    return rows.rows


def _until_never(kl: Tensor) -> Tensor:
    return kl.nan_to_num(NEVER).clamp(max=NEVER)


def _peak_n(kl: float) -> int | None:
    return round(n_for_kl(kl)) if kl < 20 else None


def _slope(sizes: Sequence[int], values: Sequence[Tensor]) -> Tensor:
    """Least-squares slope of values against the logarithm to base 2 of the sizes."""
    x = torch.tensor(sizes, dtype=torch.float64).log2()
    x = x - x.mean()
    return (torch.stack(list(values), -1) @ x) / x.square().sum()


def experiment(config: Config, folder: Path, bases: Path) -> pa.Table:
    """All rows."""
    rows: list[dict[str, Any]] = []
    for flip in config["flips"]:
        for kind, read in zip(KINDS, (trained_curves, head_curves), strict=True):
            rows += ensemble_rows(flip, kind, over_worlds(read, flip, config, folder, bases), config)
            print(f"done: {kind}, {flip:.0%} flipped", flush=True)
        curves = over_worlds(law_curves, flip, config, folder, bases)
        first = next(iter(curves.values()))
        worlds = Worlds(first.shape[0], first.shape[2])
        rows += law_rows(flip, "frozen", curves, worlds, config)
        more = Rows(worlds, config["n_values"], first, flip=flip, kind="frozen")
        for size, curve in curves.items():
            more.gold(curve, rule="single", num_pairs=int(size))
        rows += more.rows
        print(f"done: laws, {flip:.0%} flipped", flush=True)
    return pa.Table.from_pylist(rows, SCHEMA)


def show(table: pa.Table) -> None:
    """The rows that answer the questions."""
    for row in table.to_pylist():
        if row["statistic"] not in ("gold", "chosen"):
            print(
                f"{row['flip']:.2f} {row['kind']:7} {row['num_pairs']:5} {row['rule']:16} {row['strength']:18} "
                f"{row['statistic']:32} n {row['n'] or '':>6} {row['value']:+.3f} "
                f"[{row['low']:+.3f}, {row['high']:+.3f}] p {row['p_value']:.4f}"
            )


def fast(config: Config) -> Config:
    """The same on one world, in seconds."""
    return {
        **config,
        "worlds": [0],
        "num_prompts": 4,
        "block": 2,
        "num_candidates": 96,
        "num_base_texts": 120,
        "flips": [0.25],
        "num_pairs": 40,
        "num_members": 3,
        "draws": {"num": 2, "num_pairs": 80},
        "law_sizes": [20, 40, 80],
        "early_n": 16,
        "n_values": [1, 2, 4, 16, 96],
        "strengths": [0.5, 1, 4],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="one small world, nothing written")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    config = yaml.safe_load((RESULTS / "config.yaml").read_text())
    if options.fast:
        with tempfile.TemporaryDirectory() as folder:
            table = experiment(fast(config), Path(folder), Path(folder))
    else:
        table = experiment(config, FOLDER, BASES)
        pq.write_table(table, RESULTS / "results.parquet", compression="zstd")
        draw_ensembles(table, RESULTS / "curves.png")
    show(table)


if __name__ == "__main__":
    main()
