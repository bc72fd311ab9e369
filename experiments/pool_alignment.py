"""Alignment over stored pools: does care about the variance lower the risk of ending below the reference policy?

Softmax policies over the candidates of a pool with exact expectations, for hundreds of reward models: the optimum of
every arm in closed form, and policies with parameters shared by all prompts, by exact gradients. Arms are compared at
equal measured KL. Pools: five embedded worlds, AlpacaEval (with matching pairs, and with pairs of another data set) and
CodeT; what is run stands in `pool_alignment/config.yaml`.

    python experiments/pool_alignment.py --data DATA    # makes what is missing, writes table and figures
    python experiments/pool_alignment.py --fast         # seconds: two small worlds, nothing written
    python experiments/pool_alignment.py --figures      # the figures again from the table

Outcomes are kept under `.cache/experiments/pool_alignment/`, a file an arm and block of reward models, so that an
interrupted run goes on.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from _alignment_arms import LINEAR, TABULAR, Block
from _alignment_figures import draw
from _alignment_policies import at_kl
from _alignment_pools import Pool, Stratum, strata
from _alignment_statistics import rows
from _features import CACHE
from _overopt_pools import kept
from torch import Tensor

from prudent.alignment.bandit import kl_divergence
from prudent.metrics import partial_out

RESULTS = Path(__file__).with_suffix("")
FOLDER = CACHE / "pool_alignment"
REFERENCE_QUANTILE = 0.85
"""Of what a prompt's candidates get, as in `center`."""
MEASURED = ("gold", "gold without length", "length", "reward above the reference", "kl")
POLICIES = {"tabular": TABULAR, "linear": LINEAR}
USED = {
    "tabular": ("kl_targets", "kl_coefs", "weighted_kl_coefs"),
    "linear": ("linear_kl_targets", "linear_kl_coefs", "linear"),
}
"""Settings that decide about the outcomes of a kind of policy, besides those of `USED_BY_BOTH`."""
USED_BY_BOTH = ("num_members", "num_folds", "num_references", "signcert_quantile", "encoder", "world")


def load_config(*, fast: bool) -> dict[str, Any]:
    """What to run."""
    config: dict[str, Any] = yaml.safe_load((RESULTS / "config.yaml").read_text(encoding="utf-8"))
    small = config.pop("fast")
    return config | small if fast else config


def quantile_of(wide: Tensor, pool: Pool) -> Tensor:
    """`[..., B]` the reference of each prompt's values `[..., B, n]`."""
    known = torch.where(pool.log_reference.isfinite(), wide, torch.nan)
    return known.nanquantile(REFERENCE_QUANTILE, dim=-1)


def measured(policy: Tensor, block: Block) -> Tensor:
    """`[S, C, B, 5]`, as `MEASURED` says, expected under the policy."""
    pool = block.pool
    without_length = partial_out(pool.gold, pool.length, pool.group)
    expected = [(policy * pool.table(values)).sum(-1) for values in (pool.gold, without_length, pool.length)]
    above = (policy * block.mean).sum(-1) - quantile_of(block.mean, pool)
    return torch.stack([*expected, above, kl_divergence(policy, pool.log_reference.exp()).float()], -1)


def grid(settings: Mapping[str, Any]) -> Tensor:
    """Coefficients, falling."""
    ends = torch.tensor([settings["high"], settings["low"]]).log()
    return torch.linspace(float(ends[0]), float(ends[1]), settings["num"]).exp()


def outcome_of(name: str, block: Block, kind: str, config: Mapping[str, Any]) -> Tensor:
    """What an arm measures at equal KL: `[S, T, B, 5]`."""
    log_reference = block.pool.log_reference
    recipe = block.recipe(name)
    is_linear = kind == "linear"
    coefs = "linear_kl_coefs" if is_linear else "kl_coefs" if recipe.weigh is None else "weighted_kl_coefs"
    kl_coef = recipe.spread[:, None] * grid(config[coefs])
    if is_linear:
        linear = config["linear"]
        policy = recipe.ascent(kl_coef, block.features(linear["num_features"]), log_reference, linear["num_steps"])
    else:
        policy = recipe.optimum(kl_coef, log_reference)
    values = measured(policy, block)
    return at_kl(
        values, values[..., -1].mean(-1), torch.tensor(config["linear_kl_targets" if is_linear else "kl_targets"])
    )


def outcomes_of(
    stratum: Stratum, seeds: Sequence[int], kind: str, config: Mapping[str, Any], folder: Path
) -> dict[str, Tensor]:
    """Of every arm, each kept; nothing is fitted where all are."""

    @cache
    def block() -> Block:
        return Block([stratum.judged(seed) for seed in seeds], stratum.pool, seeds, config["signcert_quantile"])

    return {
        name: kept(
            folder / f"{name.replace(', ', '-')}.pt", partial(lambda arm: outcome_of(arm, block(), kind, config), name)
        )
        for name in POLICIES[kind]
    }


def setting_outcomes(
    name: str, setting: Mapping[str, Any], kind: str, config: Mapping[str, Any], data: Path | None, folder: Path
) -> list[dict[str, Tensor]]:
    """Of each pool of a setting, `[S, B, A, T]` by measure; `gain` is gold over the reference policy's."""
    used = {key: config[key] for key in (*USED_BY_BOTH, *USED[kind])}
    digest = hashlib.sha256(json.dumps([dict(setting), used], sort_keys=True).encode()).hexdigest()[:8]
    pools = []
    count = config["num_linear_seeds" if kind == "linear" else "num_seeds"][name]
    each = count // (len(config["world"]["seeds"]) if setting["pool"] == "world" else 1)
    for number, stratum in enumerate(strata(setting, config, data)):
        blocks = []
        for start in range(0, each, config["block"]):
            seeds = range(start, min(start + config["block"], each))
            place = folder / f"{name.replace(', ', '-')}-{kind}-{digest}-{number}-{start}-{len(seeds)}"
            began = time.perf_counter()
            blocks.append(outcomes_of(stratum, seeds, kind, config, place))
            print(f"{place.name} in {time.perf_counter() - began:.0f} s", flush=True)
        values = torch.cat([torch.stack([one[arm] for arm in POLICIES[kind]], 3) for one in blocks])
        pools.append(gains(values.permute(0, 2, 3, 1, 4), stratum.pool))  # [S, T, B, A, 5] -> [S, B, A, T, 5]
    return pools


def gains(values: Tensor, pool: Pool) -> dict[str, Tensor]:
    """`[S, B, A, T]` by measure from those of `MEASURED`, against the reference policy."""
    gold, without_length, length, above, kl = values.unbind(-1)
    reference = pool.log_reference.exp()
    own_gold, own_length = ((reference * pool.table(one)).sum(-1)[:, None, None] for one in (pool.gold, pool.length))
    high = quantile_of(pool.table(pool.gold), pool)[:, None, None]

    def below(difference: Tensor) -> Tensor:
        return torch.where(difference.isnan(), difference, (difference < 0).float())

    return {
        "gain": gold - own_gold,
        "gain_without_length": without_length,
        "length_growth": length / own_length - 1,
        "proxy_below_reference": below(above),
        "gold_below_reference": below(gold - high),
        "kl": kl,
    }


def experiment(data: Path | None, config: Mapping[str, Any], folder: Path) -> pa.Table:
    """The table."""
    table = []
    for name, setting in config["settings"].items():
        if setting["pool"] != "world" and data is None:
            continue
        for kind, arms in POLICIES.items():
            outcomes = setting_outcomes(name, setting, kind, config, data, folder)
            targets = config["linear_kl_targets" if kind == "linear" else "kl_targets"]
            num_prompts = sum(one["gain"].shape[1] for one in outcomes)
            num_seeds = sum(one["gain"].shape[0] for one in outcomes)
            about = {"setting": name, "policy": kind, "num_prompts": num_prompts, "num_seeds": num_seeds}
            table += [about | row for row in rows(outcomes, arms, targets, config["num_resamples"])]
            print(f"{name}, {kind}: done", flush=True)
    return pa.Table.from_pylist(table)


def committed(table: pa.Table) -> pa.Table:
    """In single precision."""
    fields = [pa.field(one.name, pa.float32()) if pa.types.is_float64(one.type) else one for one in table.schema]
    return table.cast(pa.schema(fields))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the real data")
    parser.add_argument("--fast", action="store_true", help="two small worlds, nothing written")
    parser.add_argument("--figures", action="store_true", help="only draw the figures again")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.data is None and not (options.fast or options.figures):
        parser.error("give --data: worlds alone would take the place of all pools in the table")
    if not options.figures:
        config = load_config(fast=options.fast)
        table = committed(experiment(options.data, config, CACHE / "pool_alignment-fast" if options.fast else FOLDER))
        if options.fast:
            return
        pq.write_table(table, RESULTS / "results.parquet", compression="zstd")
    draw(pq.read_table(RESULTS / "results.parquet"), RESULTS)


if __name__ == "__main__":
    main()
