"""Is a reward model hacked by best-of-n, and does its Laplace posterior prevent it (arXiv 2402.13210)?

    python experiments/overoptimization.py          # makes what is missing, writes results.parquet and curves.png
    python experiments/overoptimization.py --fast   # one small world in a temporary folder, writes nothing

Five embedded worlds, whose gold is known, each with its own prompts, labels, base model and proxies. Proxies learn from
a few comparisons, with and without 25 % of the labels turned round, at several seeds: a single proxy (curves averaged
over its seeds), and the ensemble of all seeds where these learned from the same comparisons (all weights trained, or
LoRA, which costs a backward pass a text and so has fewer seeds). Heads on the frozen base are on several
draws of comparisons. What is read of the texts is kept under `.cache/experiments/overoptimization/`, so that an
interrupted run goes on. Settings: `overoptimization/config.yaml`.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from _overopt_curves import (
    RULES,
    VARIANCES,
    Candidates,
    candidates,
    control_curves,
    ensemble,
    last_layer,
    rule_curves,
    single,
)
from _overopt_figures import draw_overoptimization
from _overopt_lab import baselines, scored
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
    laplace,
    world_texts,
)
from _overopt_rows import Rows, schema, share
from _overopt_statistics import Worlds, tuned
from torch import Tensor

from prudent.training import TrainingConfig

RESULTS = Path(__file__).with_suffix("")
HEADS = ("refit", "kept")
SCHEMA = schema(model=pa.string(), posterior=pa.string(), num_seeds=pa.int32(), proxy=pa.string(), variance=pa.string())
Config = dict[str, Any]
Curves = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """Proxies that are compared with each other: how they were trained, on which labels, with which posterior."""

    flip: float
    model: str
    posterior: str
    num_prompts: int
    num_members: int

    @property
    def is_ensemble(self) -> bool:
        """Whether the seeds learned from the same pairs, so that together they are an ensemble."""
        return self.model != "frozen" and self.num_members > 1


def settings(config: Config) -> Iterator[Setting]:
    """All of them, in the order of the runs."""
    for run in config["runs"]:
        for posterior in run["posteriors"]:
            yield Setting(run["flip"], run["model"], posterior, run["num_prompts"], run["num_members"])


def measured(setting: Setting, config: Config, folder: Path, bases: Path) -> dict[str, Curves]:
    """Gold curves `[W, S, B, L]` of `single` and `ensemble`, by what picks."""
    found = [
        [_measured_block(setting, block, texts, config) for block in texts.blocks]
        for texts in world_texts(config, setting.num_prompts, folder, bases)
    ]
    return {proxy: joined([[block[proxy] for block in blocks] for blocks in found]) for proxy in found[0][0]}


def _measured_block(setting: Setting, block: int, texts: WorldTexts, config: Config) -> dict[str, Curves]:
    """Gold curves `[S, B, L]` of one world and block of prompts; kept."""

    def measure() -> dict[str, Curves]:
        pool = candidates(texts.pool(block), config["n_values"])
        seeds = range(setting.num_members)
        options: dict[str, Any] = {"num_shuffles": config["num_shuffles"], "seed": texts.world.seed}
        found = [_prediction(setting, seed, block, texts, pool, config) for seed in seeds]
        each = [rule_curves(single(one), pool, config["strengths"], **options) for one in found]
        curves = {"single": {key: torch.stack([one[key] for one in each]) for key in each[0]}}
        curves["single"] |= {key: curve[None] for key, curve in control_curves(pool).items()}
        if setting.is_ensemble:
            whole = rule_curves(ensemble(found), pool, config["strengths"], **options)
            curves["ensemble"] = {key: curve[None] for key, curve in whole.items()}
        return curves

    name = f"{setting.model}-{setting.posterior}-{setting.flip}-{setting.num_members}"
    made_with = [config[key] for key in ("num_pairs", "n_values", "strengths", "num_shuffles", "draws")]
    result: dict[str, Curves] = kept_curves(name, block, texts, made_with, measure)
    return result


def _prediction(setting: Setting, seed: int, block: int, texts: WorldTexts, pool: Candidates, config: Config) -> Any:
    if setting.model == "frozen":
        chosen, rejected = drawn_pairs(seed, config["num_pairs"], setting.flip, texts, config["draws"])
        read = {"chosen": chosen, "rejected": rejected, "pool": frozen_pool(block, texts)}
        return last_layer(read, setting.posterior, pool.group, pool.is_reference)
    proxy = Proxy(texts.world.seed, config["num_pairs"], setting.flip, seed, setting.model)
    training = replace(TrainingConfig(**config[setting.model]), seed=seed)
    if setting.posterior not in HEADS:
        return _Prediction(**laplace(proxy, setting.posterior, block, texts, training))
    return last_layer(features(proxy, block, texts, training), setting.posterior, pool.group, pool.is_reference)


@dataclass(frozen=True)
class _Prediction:
    """What is kept of a Laplace posterior's prediction."""

    mean: Tensor
    variance: Tensor
    reference_mean: Tensor
    centered_variance: Tensor


def tables(setting: Setting, found: Mapping[str, Curves], config: Config) -> tuple[list[dict[str, Any]], Curves]:
    """Everything that is said of one setting, and its curves at tuned strengths by `PROXY/RULE/VARIANCE`."""
    first = found["single"]["mean"]
    n_values, strengths = config["n_values"], config["strengths"]
    rows = _rows(setting, first, config)
    for key in ("random", "longest", "oracle"):
        rows.end(found["single"][key], rule=key)
    best: Curves = {}
    for proxy, curves in found.items():
        mean = curves["mean"]
        best[f"{proxy}/mean"] = mean
        rows.curve(mean, proxy=proxy, rule="mean")
        for variance in VARIANCES:
            rows.end(curves[f"least/{variance}"], proxy=proxy, rule="least variance", variance=variance)
            by_rule = {}
            for rule in RULES:
                what = {"proxy": proxy, "rule": rule, "variance": variance}
                grid = [curves[f"{rule}/{variance}/{strength:g}"] for strength in strengths]
                by_rule[rule] = torch.stack([one[..., -1] for one in grid], -1)
                for strength, one in zip(strengths, grid, strict=True):
                    at = {**what, "strength": f"{strength:g}"}
                    rows.end(one, **at)
                    rows.apart("lead over mean", one, mean, **at)
                    rows.kept(one, **at)
                permuted = [curves[f"shuffled/{rule}/{variance}/{one:g}"] for one in strengths]
                curve, chosen, others = tuned(grid, others={"shuffled": permuted})
                best[f"{proxy}/{rule}/{variance}"] = curve
                at = {**what, "strength": "tuned"}
                rows.curve(curve, **at)
                rows.leads(curve, mean, "mean", **at)
                rows.apart("lead over shuffled, same strength", curve, others["shuffled"], **at)
                rows.apart("lead over shuffled, tuned", curve, tuned(permuted)[0], **at)
                rows.apart("lead over least variance", curve, curves[f"least/{variance}"], **at)
                for strength, times in zip(strengths, chosen.tolist(), strict=True):
                    rows.add("chosen", share(times), n_values[-1], **{**what, "strength": f"{strength:g}"})
            what = {"proxy": proxy, "rule": "lcb_var minus lcb_std", "variance": variance}
            for place, strength in enumerate(strengths):
                apart = (by_rule["lcb_var"] - by_rule["lcb_std"])[..., place : place + 1]
                rows.end(apart, **what, strength=f"{strength:g}")
            rows.statistic("loss beyond the best", _gentler, by_rule["lcb_std"], by_rule["lcb_var"], **what)
        for rule in RULES:
            apart = best[f"{proxy}/{rule}/centered"], best[f"{proxy}/{rule}/marginal"]
            rows.apart("centered minus marginal", *apart, proxy=proxy, rule=rule, strength="tuned")
    if "ensemble" in found:
        for key in list(best):
            if key.startswith("single/"):
                other = key.removeprefix("single/")
                rows.leads(best[f"ensemble/{other}"], best[key], "single", **_names(f"ensemble/{other}"))
    return rows.rows, best


def _rows(setting: Setting, first: Tensor, config: Config) -> Rows:
    worlds = Worlds(first.shape[0], first.shape[2])
    what = {"flip": setting.flip, "model": setting.model, "posterior": setting.posterior}
    return Rows(worlds, config["n_values"], first, **what, num_seeds=setting.num_members, proxy="", variance="")


def _names(key: str) -> dict[str, str]:
    """Columns of a curve at tuned strength."""
    proxy, rule, *variance = key.split("/")
    return {"proxy": proxy, "rule": rule} | ({"variance": variance[0], "strength": "tuned"} if variance else {})


def comparisons(setting: Setting, best: Curves, others: Mapping[str, Curves], config: Config) -> list[dict[str, Any]]:
    """A posterior against others of the same proxies on the same prompts, each at its tuned strength."""
    rows = _rows(setting, best["single/mean"], config)
    for posterior, theirs in others.items():
        for key, curve in best.items():
            rows.leads(curve, theirs[key], posterior, **_names(key))
    return rows.rows


def _gentler(std: Tensor, variance: Tensor) -> Tensor:
    """How much more `lcb_std` loses than `lcb_var` between its best strength and those above it: `[..., K] -> [...]`.

    The loss of a rule: its best gold over the strengths, minus the average over those above the best.
    """
    return _loss(std) - _loss(variance)


def _loss(gold: Tensor) -> Tensor:
    best, place = gold.max(-1, keepdim=True)
    beyond = torch.arange(gold.shape[-1]) > place
    count = beyond.sum(-1)
    total = torch.where(beyond, best - gold, 0.0).sum(-1)
    # the best at the very end loses nothing
    return torch.where(count > 0, total / count.clamp_min(1), 0.0)


def experiment(config: Config, folder: Path, bases: Path) -> pa.Table:
    """All rows."""
    rows: list[dict[str, Any]] = []
    at_best: dict[Setting, dict[str, Curves]] = {}
    for setting in settings(config):
        own, best = tables(setting, measured(setting, config, folder, bases), config)
        others = at_best.setdefault(replace(setting, posterior=""), {})
        rows += own + comparisons(setting, best, others, config)
        others[setting.posterior] = best
        print(f"done: {setting}", flush=True)
    return pa.Table.from_pylist(rows, SCHEMA)


def lab_tables(config: Config, folder: Path, bases: Path) -> pa.Table:
    """Baselines and controls of the lab, for the proxies whose head is that of highest evidence."""
    found = []
    for setting in settings(config):
        if (setting.model, setting.posterior) != ("full", "refit"):
            continue
        tables = []
        for texts in world_texts(config, setting.num_prompts, folder, bases):
            for block in texts.blocks:
                pool = candidates(texts.pool(block), config["n_values"])
                each = [_prediction(setting, seed, block, texts, pool, config) for seed in range(setting.num_members)]
                tables.append(scored(each, block, texts))
        found.append(baselines(tables, f"flip-{setting.flip:g}", folder, config))
        print(f"done: the lab, {setting.flip:.0%} flipped", flush=True)
    return pa.concat_tables(found)


def show(table: pa.Table) -> None:
    """The rows that answer the questions."""
    asked = ("drop", "kept", "lead", "loss", "centered")
    for row in table.to_pylist():
        if row["statistic"].startswith(asked) and row["strength"] in ("", "tuned"):
            print(
                f"{row['flip']:.2f} {row['model']:6} {row['posterior']:6} {row['num_seeds']} {row['proxy']:9} "
                f"{row['rule']:22} {row['variance']:9} {row['statistic']:34} n {row['n']:6} {row['value']:+.3f} "
                f"[{row['low']:+.3f}, {row['high']:+.3f}] p {row['p_value']:.4f}"
            )


def fast(config: Config) -> Config:
    """The same on one world, in seconds."""
    runs: list[Config] = [
        {"model": "full", "posteriors": HEADS, "num_prompts": 4},
        {"model": "frozen", "posteriors": ["refit"], "num_prompts": 4},
        {"model": "lora", "posteriors": [*HEADS, "ekfac"], "num_prompts": 2},
    ]
    return {
        **config,
        "worlds": [0],
        "block": 2,
        "num_candidates": 96,
        "num_base_texts": 120,
        "num_pairs": 40,
        "runs": [{"flip": 0.25, "num_members": 2, **run} for run in runs],
        "draws": {"num": 2, "num_pairs": 40},
        "num_shuffles": 1,
        "n_values": [1, 4, 16, 96],
        "strengths": [0.5, 1, 4],
        "num_resamples": 100,
        "lab": {"n_values": [1, 16, 96], "num_calibration_prompts": 2, "num_resamples": 2},
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
            lab_tables(fast(config), Path(folder), Path(folder))
    else:
        table = experiment(config, FOLDER, BASES)
        pq.write_table(table, RESULTS / "results.parquet", compression="zstd")
        pq.write_table(lab_tables(config, FOLDER, BASES), RESULTS / "baselines.parquet", compression="zstd")
        draw_overoptimization(table, RESULTS / "curves.png")
    show(table)


if __name__ == "__main__":
    main()
