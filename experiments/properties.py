"""Two properties at large n: does an AND of log-sigmoids pick what is good in both, and keep it, better than sums?

The embedded world's two properties, `helpful` (topics and city) and `tidy` (all the rest), which hardly correlate; five
worlds, 32 prompts x 4,096 responses of one policy each, so that equal n is equal divergence from it. A proxy of each is
a Bradley-Terry head on the frozen base model (mean-pooled, prior precision by evidence), from 300 or 6,000 pairs that
people label with more or less noise; the surer people are, the more logits rewards spread by. Rewards are centered on
64 references of the prompt. Good: gold above a quantile of the prompt's responses. The same on real texts, at n = 16:
`combine.py`.

    python experiments/properties.py         # makes what is missing, writes the table and the figures
    python experiments/properties.py --fast  # seconds: one small world, nothing written

Base models, features and curves are kept under `.cache/experiments/`, so that an interrupted run goes on.
"""

import argparse
import hashlib
import itertools
import os
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from _features import CACHE
from _property_pools import PROPERTIES, PropertyWorld, fit_proxy, labels, read_world, score
from _rule_draws import apply_in_parts
from combine import WEIGHTS, of_other_half
from torch import Tensor

from prudent.data import World
from prudent.metrics import (
    Interval,
    bootstrap,
    bootstrap_counts,
    fit_logit_temperature,
    pair_scores,
    spearman_within,
)
from prudent.models import atomic_file
from prudent.posteriors import LastLayerPosterior
from prudent.rewards import GaussianRewards
from prudent.selection import best_of_n_curve, best_of_n_kl, shuffle_within_groups
from prudent.utility import RewardSet

RESULTS = Path(__file__).with_suffix("")
CONFIG: dict[str, Any] = yaml.safe_load((RESULTS / "config.yaml").read_text())
FAST: dict[str, Any] = {
    "worlds": [0],
    "num_prompts": 4,
    "num_candidates": 64,
    "num_references": 16,
    "num_base_texts": 100,
    "num_pairs": 60,
    "num_held_out": 40,
    "n_values": [1, 4, 16, 64],
    "settings": {"sixty pairs": {"pairs": 60, "sure": 4, "flips": 0, "draws": 2}},
}
MEANS = "means only"
SHUFFLED = "shuffled variances"
CONTROLLED = ("all_of", "all_of, standardized", "all_of, lcb_std")
"""Rules that are also given shuffled variances."""
SUMS = ("raw sum", "standardized sum", "raw sum, lcb_std")
IDEAL = "of gold: "
"""Stands before rules that are given gold in place of the proxies: their shape without the error of proxies."""
GOLDS = ("gold", *PROPERTIES, "worse")
"""`worse`: the lower of the two golds, each in standard deviations of the prompt's responses."""

Curves = dict[str, Tensor]
"""`[B, L, V]` by rule, V as `measures` names them."""


def both(steps: dict[str, str] | str) -> str:
    """The arguments of a combination: each reward piped through its steps."""
    each = steps if isinstance(steps, dict) else dict.fromkeys(PROPERTIES, steps)
    return ", ".join(f"{name} | {each[name]}" for name in PROPERTIES)


def rules(config: dict[str, Any], scales: dict[str, float]) -> dict[str, str]:
    """What each rule is, as a user writes it; `scales` are logit temperatures fitted on held-out pairs."""
    fitted = {name: f"center | temperature({scales[name]:.4g}) | log_sigmoid" for name in PROPERTIES}
    ands = {
        "all_of": f"all_of({both('center | log_sigmoid')})",
        "all_of, standardized": f"all_of({both('standardize | log_sigmoid')})",
    }
    penalized = {f"{name}, lcb_std": f"{text} | lcb_std({config['num_std']})" for name, text in ands.items()}
    return ands | {"all_of, fitted temperature": f"all_of({both(fitted)})"} | penalized


def of_means(config: dict[str, Any], texts: dict[str, str]) -> dict[str, str]:
    """Rules that are given no variances: ANDs as they are and at other quantiles and temperatures, and minima."""
    found = {name: text for name, text in texts.items() if "lcb_std" not in name}
    for q in config["quantiles"]:
        if q != 0.85:  # the default
            found[f"all_of, q = {q:g}"] = f"all_of({both(f'center(q={q}) | log_sigmoid')})"
        if q != 0.5:  # what it is without; quantiles of a normal distribution, of rewards in standard deviations
            at = torch.special.ndtri(torch.tensor(q, dtype=torch.float64)).item()
            steps = f"standardize | center(at={at:.4f}) | log_sigmoid"
            found[f"all_of, standardized, q = {q:g}"] = f"all_of({both(steps)})"
    for temperature in config["temperatures"]:
        steps = f"center | temperature({temperature}) | log_sigmoid"
        found[f"all_of, temperature {temperature:g}"] = f"all_of({both(steps)})"
    found["minimum"] = f"minimum({both('center | mean')})"
    found["minimum, standardized"] = f"minimum({both('standardize | mean')})"
    return found | {name: f"{name} | mean" for name in PROPERTIES}


def measures(config: dict[str, Any]) -> list[str]:
    """What is measured of a pick, in the order of the columns."""
    parts = (*PROPERTIES, "both")
    return [*GOLDS, *(f"good in {part}, {level:g}" for level in config["levels"] for part in parts)]


def values_of(world: PropertyWorld, config: dict[str, Any]) -> Tensor:
    """`[N, V]`."""
    num_prompts = int(world.group.max()) + 1
    gold = torch.stack([world.gold[name].reshape(num_prompts, -1) for name in PROPERTIES])
    standardized = (gold - gold.mean(2, keepdim=True)) / gold.std(2, keepdim=True)
    columns = [gold.sum(0), *gold, standardized.amin(0)]
    for level in config["levels"]:
        good = gold > gold.quantile(level, dim=2, keepdim=True)
        columns += [*good.double(), good.all(0).double()]
    return torch.stack([column.flatten() for column in columns], 1)


def certain(means: dict[str, Tensor], world: PropertyWorld) -> RewardSet:
    """Rewards without a variance."""
    found = {name: GaussianRewards(mean, torch.zeros_like(mean), world.group) for name, mean in means.items()}
    return RewardSet(found, is_reference=world.is_reference)


def shuffled(rewards: RewardSet, seed: int) -> RewardSet:
    """The same means, the variances of a prompt's responses permuted."""
    generator = torch.Generator().manual_seed(seed)
    versions = [
        {
            name: GaussianRewards(one.mean, shuffle_within_groups(one.variance, one.group, generator), one.group)
            for name, one in version.items()
        }
        for version in (rewards.rewards, rewards.against_references)
    ]
    return replace(rewards, rewards=versions[0], against_references=versions[1])


def sums(rewards: RewardSet, world: PropertyWorld, num_std: float) -> dict[str, Tensor]:
    """Every weighted sum `[N]`: of means, of means in the references' standard deviations, and penalized."""
    first, second = (rewards.rewards[name] for name in PROPERTIES)
    shown = world.is_reference.reshape(int(world.group.max()) + 1, -1)
    scaled = []
    for one in (first, second):
        each = one.mean.reshape(shown.shape)
        own = each[shown].reshape(len(shown), -1)
        scaled.append(((each - own.mean(1, keepdim=True)) / own.std(1, keepdim=True)).flatten())
    found = {}
    for weight in WEIGHTS:
        raw = weight * first.mean + (1 - weight) * second.mean
        # two proxies' errors are taken as independent
        std = (weight**2 * first.variance + (1 - weight) ** 2 * second.variance).sqrt()
        values = raw, weight * scaled[0] + (1 - weight) * scaled[1], raw - num_std * std
        found |= {f"{name} {weight:.2f}": value for name, value in zip(SUMS, values, strict=True)}
    return found


def measure(world: PropertyWorld, config: dict[str, Any], setting: dict[str, Any], draw: int) -> dict[str, Any]:
    """Curves of every rule and weight under the proxies of one draw, and what those proxies are like."""
    proxies = {name: fit_proxy(world, setting, name, draw) for name in PROPERTIES}
    rewards = score(world, proxies)
    about = {name: described(world, setting, name, draw, proxies[name], rewards) for name in PROPERTIES}
    texts = rules(config, {name: about[name]["logit temperature"] for name in PROPERTIES})
    found = {name: apply_in_parts(text, rewards) for name, text in texts.items()}
    means = certain({name: one.mean for name, one in rewards.rewards.items()}, world)
    found |= {f"{name}, {MEANS}": apply_in_parts(text, means) for name, text in of_means(config, texts).items()}
    others = shuffled(rewards, draw)
    found |= {f"{name}, {SHUFFLED}": apply_in_parts(texts[name], others) for name in CONTROLLED}
    found |= sums(rewards, world, config["num_std"])
    return {"curves": curves_of(found, world, config), "about": about}


def measure_gold(world: PropertyWorld, config: dict[str, Any]) -> Curves:
    """Curves of rules that are given gold, of oracles and of a random pick."""
    gold = certain(world.gold, world)
    texts = rules(config, dict.fromkeys(PROPERTIES, 1.0))
    texts = of_means(config, texts)
    found = {IDEAL + name: apply_in_parts(text, gold) for name, text in texts.items() if "fitted" not in name}
    found |= {IDEAL + name: value for name, value in sums(gold, world, 0).items() if not name.startswith(SUMS[2])}
    values = values_of(world, config)
    found |= {f"oracle, {name}": values[:, place] for place, name in enumerate(measures(config)) if "both" in name}
    found["random"] = torch.zeros(len(values), dtype=torch.float64)
    found["longest"] = world.length
    return curves_of(found, world, config)


def curves_of(utilities: dict[str, Tensor], world: PropertyWorld, config: dict[str, Any]) -> Curves:
    values = values_of(world, config)
    return {
        name: best_of_n_curve(utility.double(), values, world.group, config["n_values"]).float()
        for name, utility in utilities.items()
    }


def described(
    world: PropertyWorld, setting: dict[str, Any], name: str, draw: int, proxy: LastLayerPosterior, rewards: RewardSet
) -> dict[str, float]:
    """A proxy on held-out pairs that the same people label, and on the pools."""
    pairs = world.held_out
    generator = World(world.seed).generator(f"held-out labels {name} {setting} {draw}")
    label = labels(pairs.better[name], setting["sure"], setting["flips"], generator)
    contrast = (pairs.first - pairs.second).double() @ proxy.weight.double()
    scores = pair_scores(contrast, None, label)
    one = rewards.rewards[name]
    mean = one.mean.reshape(int(world.group.max()) + 1, -1)
    return {
        "accuracy": float(scores.accuracy.mean()),
        "nll": float(scores.nll.mean()),
        "logit temperature": fit_logit_temperature(contrast, label),
        "spread": float(mean.std(1).mean()),
        "std": float(rewards.against_references[name].variance.sqrt().mean()),
        "rank with gold": float(spearman_within(one.mean, world.gold[name], world.group).nanmean()),
        "rank with the other": float(
            spearman_within(*(rewards.rewards[other].mean for other in PROPERTIES), world.group).nanmean()
        ),
    }


def digest(config: dict[str, Any]) -> str:
    """Names what is measured, so that nothing measured otherwise is taken for it.

    What people are like and how many draws of them there are is part of it: labels are seeded by both.
    """
    settings = {key: value for key, value in config.items() if key != "worlds"}
    return hashlib.sha256(
        repr((settings, WEIGHTS, rules(config, dict.fromkeys(PROPERTIES, 1.0)))).encode()
    ).hexdigest()[:12]


def kept(seed: int, config: dict[str, Any], folder: Path, bases: Path) -> dict[str, Any]:
    """What a world gives: curves of `gold`, and what was measured of each draw of each setting."""
    place = folder / f"curves-{seed}-{digest(config)}.pt"
    result: dict[str, Any] = torch.load(place, weights_only=True) if place.exists() else {}
    asked = [(name, draw) for name, setting in config["settings"].items() for draw in range(setting["draws"])]
    missing = [(name, draw) for name, draw in asked if f"{name}, draw {draw}" not in result]
    if not missing:
        return result
    world = read_world(seed, config, folder, bases)
    if "gold" not in result:
        result["gold"] = measure_gold(world, config)
    for name, draw in missing:
        result[f"{name}, draw {draw}"] = measure(world, config, config["settings"][name], draw)
        with atomic_file(place) as temporary:
            torch.save(result, temporary)
        print(f"measured world {seed}, {name}, draw {draw}", flush=True)
    return result


def draws_of(world: dict[str, Any], setting: str) -> list[dict[str, Any]]:
    return [found for name, found in world.items() if name.startswith(f"{setting}, draw ")]


def joined(worlds: list[dict[str, Any]], setting: str) -> Curves:
    """Curves `[all prompts, L, V]` of a setting, averaged over its draws, with those that do not depend on it."""
    found = []
    for world in worlds:
        draws = [one["curves"] for one in draws_of(world, setting)]
        found.append(world["gold"] | {rule: torch.stack([one[rule] for one in draws]).mean(0) for rule in draws[0]})
    return {rule: torch.cat([one[rule] for one in found]) for rule in found[0]}


def sweep_of(curves: Curves, name: str) -> Tensor:
    """`[W, B, L, V]` of all weights."""
    return torch.stack([curves[f"{name} {weight:.2f}"] for weight in WEIGHTS])


def is_weighted(rule: str) -> bool:
    return rule.removeprefix(IDEAL).rsplit(" ", 1)[0] in SUMS


def tidy(setting: str, curves: Curves, num_worlds: int, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of all rules, then of what they lead sums, controls, and themselves at the largest n by.

    Whole curves of what matters most; shares of one property at the last n alone; leads at every other n.
    """
    n_values, columns = config["n_values"], measures(config)
    main = [place for place, name in enumerate(columns) if name in GOLDS or "both" in name]
    rows: list[dict[str, Any]] = []

    def add(rule: str, minus: str, interval: Any, each: Tensor, weight: Tensor | None = None) -> None:
        by_world = each.reshape(num_worlds, -1, *each.shape[1:]).mean(1)
        for (place, n), (column, measure) in itertools.product(enumerate(n_values), enumerate(columns)):
            is_last = place == len(n_values) - 1
            if (column not in main and (minus or not is_last)) or (minus and (len(n_values) - 1 - place) % 2):
                continue
            ends = (("", interval.estimate), ("_low", interval.low), ("_high", interval.high))
            rows.append(
                {"setting": setting, "rule": rule, "minus": minus, "n": n, "kl": float(best_of_n_kl(n))}
                | {"measure": measure}
                | {f"value{end}": float(found[place, column]) for end, found in ends}
                | {"worlds_above_0": int((by_world[:, place, column] > 0).sum())}
                | {"weight": None if weight is None else float(weight[place, column])}
            )

    plain = [rule for rule in curves if not is_weighted(rule)]
    for rule in plain:
        add(rule, "", bootstrap(curves[rule]), curves[rule])
    ands = [rule for rule in plain if rule.removeprefix(IDEAL).startswith(("all_of", "minimum"))]
    for name in (*SUMS, IDEAL + SUMS[0], IDEAL + SUMS[1]):
        sweep = sweep_of(curves, name)
        place = sweep.mean(1).argmax(0)
        best = sweep.gather(0, place.expand(sweep.shape[1], -1, -1)[None])[0]
        add(f"best {name}", "", bootstrap(best), best, torch.tensor(WEIGHTS)[place])
        equal = curves[f"{name} 0.50"]
        add(f"equal {name}", "", bootstrap(equal), equal)
        others = halves_of(sweep)
        own = [rule for rule in ands if rule.startswith(IDEAL) == name.startswith(IDEAL)]
        again = leads([curves[rule] for rule in own], sweep)
        for number, rule in enumerate(own):
            interval = Interval(*(getattr(again, field.name)[number] for field in fields(again)))
            add(rule, f"best {name}", interval, curves[rule] - best)
            add(rule, f"best {name} of the other half", bootstrap(curves[rule] - others), curves[rule] - others)
    for rule, control in itertools.product(plain, (MEANS, SHUFFLED)):
        if f"{rule}, {control}" in curves:
            gain = curves[rule] - curves[f"{rule}, {control}"]
            add(rule, control, bootstrap(gain), gain)
    whole = {rule: curves[rule] for rule in ands}
    whole |= {f"{name}, best at the largest n": sweep_at_last(curves, name) for name in SUMS}
    for rule, curve in whole.items():
        ahead = curve - curve[:, -1:]
        add(rule, "itself at the largest n", bootstrap(ahead), ahead)
    return rows


def leads(rules: list[Tensor], sweep: Tensor) -> Interval:
    """What each of R rules `[B, L, V]` leads the best weight of a sum by, `[R, L, V]`.

    The best weight is found again in every resample, which adds hindsight to that of the estimate. So intervals are
    basic ones, the percentiles turned round about the estimate: they take off as much as resampling added.
    """
    stacked = torch.stack([*rules, *sweep], 1).double()

    def lead(counts: Tensor) -> Tensor:
        means = (counts @ stacked.flatten(1) / counts.sum(1, keepdim=True)).reshape(-1, *stacked.shape[1:])
        return means[:, : len(rules)] - means[:, len(rules) :].amax(1, keepdim=True)

    found = bootstrap_counts(lead, len(stacked))
    return Interval(
        found.estimate, 2 * found.estimate - found.high, 2 * found.estimate - found.low, found.standard_error
    )


def sweep_at_last(curves: Curves, name: str) -> Tensor:
    """The curve of the weight that is best at the largest n, of each measure its own `[B, L, V]`."""
    sweep = sweep_of(curves, name)
    place = sweep[:, :, -1].mean(1).argmax(0)
    return torch.stack([sweep[one, :, :, column] for column, one in enumerate(place.tolist())], -1)


def halves_of(sweep: Tensor) -> Tensor:
    """`[B, L, V]` with the weight that is best on the other half of the prompts."""
    flat = sweep.flatten(2)
    found = [of_other_half(flat[..., place])[0] for place in range(flat.shape[2])]
    return torch.stack(found, 1).reshape(sweep.shape[1:])


def about_rows(setting: str, worlds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the proxies are like, means over worlds and draws."""
    rows = []
    for name in PROPERTIES:
        described = [draw["about"][name] for one in worlds for draw in draws_of(one, setting)]
        for key in described[0]:
            values = torch.tensor([one[key] for one in described])
            rows.append(
                {"setting": setting, "rule": f"proxy of {name}", "minus": "", "n": None, "kl": None, "measure": key}
                | {"value": float(values.mean()), "value_low": float(values.min()), "value_high": float(values.max())}
                | {"worlds_above_0": None, "weight": None}
            )
    return rows


def draw_curves(rows: list[dict[str, Any]], config: dict[str, Any], place: Path) -> None:
    """Shares good in both, total gold and gold of the worse property against n; a column a setting."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    # Okabe and Ito's colors, which tell themselves apart for the color-blind too.
    lines = {
        "best raw sum": ("#0072b2", "-", "raw sum, best weight at each n"),
        "equal raw sum": ("#0072b2", ":", "raw sum, equal weights"),
        "best standardized sum": ("#009e73", "--", "standardized sum, best weight at each n"),
        "all_of": ("#d55e00", "-", "all_of (center, E log sigma)"),
        "all_of, standardized": ("#a8518a", "-", "all_of (standardize)"),
        "all_of, lcb_std": ("#e69f00", "-", f"all_of, then lcb_std({config['num_std']})"),
        "best raw sum, lcb_std": ("#56b4e9", "--", f"raw sum, lcb_std({config['num_std']}), best weight at each n"),
        "minimum, standardized, means only": ("#777777", "-.", "minimum of standardized means"),
        "random": ("k", ":", "random"),
    }
    shown = ("good in both, 0.5", "good in both, 0.85", "gold", "worse")
    names = {"gold": "total gold", "worse": "gold of the worse property, std"}
    settings = list(config["settings"])
    figure, axes = plt.subplots(len(shown), len(settings), figsize=(4.1 * len(settings), 12.5), sharex=True)
    for (row, measure), (column, setting) in itertools.product(enumerate(shown), enumerate(settings)):
        axis = axes[row, column]
        for rule, (color, style, label) in lines.items():
            own = [
                one
                for one in rows
                if (one["setting"], one["rule"], one["minus"], one["measure"]) == (setting, rule, "", measure)
            ]
            x = [one["n"] for one in own]
            axis.plot(x, [one["value"] for one in own], style, color=color, linewidth=1.3, label=label)
            if rule in ("all_of", "all_of, standardized", "best raw sum"):
                axis.fill_between(
                    x, [one["value_low"] for one in own], [one["value_high"] for one in own], alpha=0.12, color=color
                )
        axis.set_xscale("log", base=4)
        axis.grid(alpha=0.3)
        if row == 0:
            axis.set_title(setting, fontsize=10)
        if column == 0:
            axis.set_ylabel(names.get(measure, f"share {measure}"), fontsize=9)
        if row == len(shown) - 1:
            axis.set_xlabel("n")
            axis.set_xticks(config["n_values"], [str(n) for n in config["n_values"]], fontsize=7)
    handles, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(place, dpi=72)


def draw_frontier(curves: dict[str, Curves], config: dict[str, Any], place: Path) -> None:
    """Gold of one property against the other at the largest n, all weights of sums beside the rules."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    # Okabe and Ito's colors, which tell themselves apart for the color-blind too.
    points = {
        "all_of, q = 0.5, means only": ("#56b4e9", "v"),
        "all_of": ("#d55e00", "o"),
        "all_of, q = 0.95, means only": ("#0072b2", "^"),
        "all_of, fitted temperature": ("#e69f00", "P"),
        "all_of, temperature 0.1, means only": ("#7f4f24", "*"),
        "all_of, means only": ("#f0e442", "s"),
        "all_of, standardized": ("#a8518a", "D"),
        "minimum, standardized, means only": ("#009e73", "<"),
        "all_of, standardized, lcb_std": ("#a8518a", "x"),
        "random": ("k", "+"),
    }
    columns = [GOLDS.index(name) for name in PROPERTIES]
    figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 4.6))
    for axis, (setting, found) in zip(axes, curves.items(), strict=True):
        for name, color, style in zip(SUMS, ("#0072b2", "#009e73", "#777777"), ("-", "--", ":"), strict=True):
            line = sweep_of(found, name)[:, :, -1].mean(1)[:, columns]
            axis.plot(line[:, 0], line[:, 1], style, color=color, marker=".", linewidth=1, label=f"{name}, all weights")
        for rule, (color, marker) in points.items():
            x, y = found[rule][:, -1].mean(0)[columns].tolist()
            axis.plot([x], [y], marker, color=color, label=rule, linestyle="")
        axis.set_title(f"{setting}; n = {config['n_values'][-1]:,}", fontsize=10)
        axis.set_xlabel(f"gold, {PROPERTIES[0]}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"gold, {PROPERTIES[1]}")
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(place, dpi=100)


def show(rows: list[dict[str, Any]], config: dict[str, Any]) -> None:
    last = config["n_values"][-1]
    for row in rows:
        if row["n"] == last and row["measure"].startswith("good in both") and row["minus"] in ("", "best raw sum"):
            print(
                f"{row['setting']:30} {row['rule']:42} {'minus ' + row['minus'] if row['minus'] else '':20} "
                f"{row['measure']:18} {row['value']:+.3f} [{row['value_low']:+.3f}, {row['value_high']:+.3f}] "
                f"{row['worlds_above_0']}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="one small world, nothing written")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    if options.fast:
        config = CONFIG | FAST
        with tempfile.TemporaryDirectory() as folder:
            worlds = [kept(0, config, Path(folder), Path(folder))]
    else:
        config = CONFIG
        worlds = [kept(seed, config, CACHE / "properties", CACHE / "rules") for seed in config["worlds"]]
    rows: list[dict[str, Any]] = []
    curves = {setting: joined(worlds, setting) for setting in config["settings"]}
    for setting, found in curves.items():
        rows += tidy(setting, found, len(worlds), config) + about_rows(setting, worlds)
    show(rows, config)
    if options.fast:
        return
    table = pa.table({key: [row[key] for row in rows] for key in rows[0]})
    for place, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.float32()))
    pq.write_table(table, RESULTS / "results.parquet", compression="zstd")
    draw_curves(rows, config, RESULTS / "curves.png")
    draw_frontier(curves, config, RESULTS / "frontier.png")


if __name__ == "__main__":
    main()
