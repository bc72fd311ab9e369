"""RewardUQ's protocol on frozen features: are prudent's bounds better than those of a head as that paper fits it?

Frozen all-MiniLM-L6-v2, mean-pooled in bfloat16; four preference sets, five draws of 1,000 pairs each, and 400 pairs of
other prompts to choose settings by, as the paper does: calibrated enough, then the best ranking score. Judged on the
whole test file and on a benchmark of other people's pairs. BAY-LIN, the paper's best method in most settings, is mended
one thing at a time; ENS-MLP stands beside prudent's ensembles of heads; LoRA posteriors come from `kinds.py`.

    python experiments/rewarduq.py --data DATA         # measures what is missing, writes the table and the figure
    python experiments/rewarduq.py --data DATA --fast  # seconds: small slices, nothing written

Features and measurements are kept under `.cache/experiments/`, one by one, so that an interrupted run goes on.
"""

import argparse
import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import kinds
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from _features import CACHE
from _rewarduq_heads import (
    LinearHead,
    Said,
    bay_lin,
    fit_mlp_ensemble,
    fit_weight,
    of_last_layer,
    said_by_members,
)
from real_pools import draw_pairs, encoder_folder
from torch import Tensor

from prudent.data import load_preferences
from prudent.metrics import (
    bootstrap_counts,
    bound_calibration_error,
    expected_calibration_error,
    pair_scores,
    ranking_score,
)
from prudent.models import RewardModel, atomic_file
from prudent.posteriors import LastLayerPosterior, fit_heads

RESULTS = Path(__file__).with_suffix("")
CONFIG: dict[str, Any] = yaml.safe_load((RESULTS / "config.yaml").read_text())
TUNING_SHARE = 0.2
"""Of the prompts, from which the pairs to choose by are drawn."""
OPTIONS: dict[str, dict[str, bool]] = {
    "": {},
    ", weighted": {"weighted": True},
    ", P l2": {"scaled": True},
    ", centered": {"centered": True},
    ", weighted, P l2": {"weighted": True, "scaled": True},
}
BINS = 20
BALANCE = 0.2
METRICS = ("accuracy", "nll of the mean", "nll", "ece of the mean", "ece", "ranking score", "bound error")
DEFAULT = "BAY-LIN"


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        heads: name that measurements go by; several settings of it are chosen between.
        bounds: "apart" as the paper has them, or "difference".
        std_beta: half the width of an interval, in standard deviations, where it is not chosen.
    """

    heads: str
    bounds: str
    std_beta: float


def methods() -> dict[str, Method]:
    one, many = CONFIG["std_beta"], CONFIG["ensemble"]["std_beta"]
    return {
        DEFAULT: Method("BAY-LIN", "apart", one),
        "BAY-LIN, weighted": Method("BAY-LIN, weighted", "apart", one),
        "BAY-LIN, P l2": Method("BAY-LIN, P l2", "apart", one),
        "BAY-LIN, centered": Method("BAY-LIN, centered", "apart", one),
        "BAY-LIN, difference": Method("BAY-LIN", "difference", one),
        "BAY-LIN, weighted, P l2": Method("BAY-LIN, weighted, P l2", "apart", one),
        "BAY-LIN, all three": Method("BAY-LIN, weighted, P l2", "difference", one),
        "last_layer, apart": Method("last_layer", "apart", one),
        "last_layer": Method("last_layer", "difference", one),
        "heads": Method("heads", "difference", one),
        "ENS-MLP": Method("ENS-MLP", "apart", many),
        "ENS-MLP, difference": Method("ENS-MLP", "difference", many),
    }


@dataclass(frozen=True)
class Drawn:
    """Places in a file of the pairs to train on, the first of which make smaller sets, and of those to choose by."""

    train: Tensor
    tuning: Tensor


def draw(group: Tensor, seed: int, tuning: int) -> Drawn:
    """Split a file by prompts."""
    prompts = group.unique()
    order = prompts[draw_pairs(len(prompts), len(prompts), seed)]
    held = torch.isin(group, order[: round(TUNING_SHARE * len(prompts))])
    rows = draw_pairs(len(group), len(group), seed)
    return Drawn(rows[~held[rows]], rows[held[rows]][:tuning])


def linear_heads(chosen: Tensor, rejected: Tensor, label: Tensor) -> dict[str, LinearHead]:
    """Every linear head, `NAME | SETTING`."""
    found = {}
    for l2 in CONFIG["l2"]:
        weight = fit_weight(chosen, rejected, label, l2)
        for name, options in OPTIONS.items():
            found[f"BAY-LIN{name} | l2 {l2:g}"] = bay_lin(weight, chosen, rejected, l2, **options)
    posterior = LastLayerPosterior.fit(chosen, rejected, label=label, pooling="mean")
    return found | {f"last_layer | prior {posterior.prior_precision:.3g}": of_last_layer(posterior)}


def ensembles(
    chosen: Tensor, rejected: Tensor, label: Tensor, group: Tensor, options: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Every ensemble, as a function that says what it says of pairs."""
    found: dict[str, Any] = {}
    for rate in options["learning_rates"]:
        found[f"ENS-MLP | rate {rate:g}"] = fit_mlp_ensemble(chosen, rejected, label, rate, options, seed).say
    posterior = fit_heads(
        chosen, rejected, label=label, group=group, num_members=options["heads"], pooling="mean", seed=seed
    )
    found["heads | "] = lambda chosen, rejected: said_by_members(
        posterior.members_of(chosen), posterior.members_of(rejected)
    )
    return found


def measure(
    read: dict[str, kinds.Pairs], seed: int, sizes: list[int], tuning: int, options: dict[str, Any]
) -> dict[int, dict[str, dict[str, Any]]]:
    """For each number of training pairs, and each of tuning, test and elsewhere, what every head says."""
    train = read["train"]
    assert train.features is not None
    drawn = draw(train.group, seed, tuning)
    tuned = kinds.Pairs(
        train.label[drawn.tuning], train.group[drawn.tuning], None, tuple(x[drawn.tuning] for x in train.features)
    )
    places = {"tuning": tuned, "test": read["test"], "elsewhere": read["elsewhere"]}
    result: dict[int, dict[str, dict[str, Any]]] = {}
    for number, size in enumerate(sizes):
        rows = drawn.train[:size]
        chosen, rejected = (side[rows] for side in train.features)
        said = {name: head.say for name, head in linear_heads(chosen, rejected, train.label[rows]).items()}
        if number == 0:
            said |= ensembles(chosen, rejected, train.label[rows], train.group[rows], options, seed)
        result[size] = {
            place: {
                "label": pairs.label,
                "group": pairs.group,
                "said": {name: vars(say(*pairs.features)) for name, say in said.items()},
            }
            for place, pairs in places.items()
        }
    return result


def components(mean: Tensor, variance: Tensor, half_width: Tensor, label: Tensor) -> Tensor:
    """What every pair adds to sums that the figures are functions of, `[P, 8 + 2 x 10 + 20]`; see `figures_of`."""
    plain, moderated = pair_scores(mean, None, label), pair_scores(mean, variance, label)
    true = plain.accuracy
    sure = (mean.abs() > half_width).double()
    one = torch.ones_like(true)
    parts = [torch.stack([one, true, plain.nll, moderated.nll, sure * true, sure * (1 - true), true, 1 - true], 1)]
    for scores in (plain, moderated):
        confidence = torch.maximum(scores.probability, 1 - scores.probability)
        parts.append(binned(confidence - true, (confidence - 0.5) * BINS, BINS // 2))
    lower = torch.sigmoid(mean - half_width), torch.sigmoid(-mean - half_width)
    parts.append(binned(lower[0] - label, lower[0] * BINS, BINS) + binned(lower[1] - 1 + label, lower[1] * BINS, BINS))
    return torch.cat(parts, 1)


def binned(values: Tensor, places: Tensor, count: int) -> Tensor:
    """`[P, count]`, each value in the column of its bin."""
    bins = places.long().clamp(max=count - 1)
    return torch.zeros(len(values), count, dtype=torch.float64).scatter_(1, bins[:, None], values[:, None])


def figures_of(sums: Tensor) -> Tensor:
    """`[..., metrics]` in the order of `METRICS`, of sums over pairs `[..., components]`.

    Calibration errors are those of twenty bins of the symmetrized set, as the paper's code has them.
    """
    rates = sums / sums[..., :1]
    _, accuracy, nll, moderated, sure_true, sure_false, true, false = rates[..., :8].unbind(-1)
    half = BINS // 2
    eces = [rates[..., 8 + start : 8 + start + half].abs().sum(-1) for start in (0, half)]
    score = sure_true / (true + BALANCE * false) - sure_false / (false + BALANCE * true)
    bound = rates[..., 8 + BINS :].clamp(min=0).sum(-1) / 2
    return torch.stack([accuracy, nll, moderated, *eces, score, bound], -1)


def by_prompt(parts: Tensor, group: Tensor) -> Tensor:
    """`[B, ...]` sums over the pairs of each prompt."""
    _, place = torch.unique(group, return_inverse=True)
    return parts.new_zeros(int(place.max()) + 1, *parts.shape[1:]).index_add_(0, place, parts)


def widths(said: Said, bounds: str) -> tuple[Tensor, Tensor]:
    """Half-width at one standard deviation, and the variance of the difference that goes with it."""
    return (said.apart, said.independent) if bounds == "apart" else (said.variance.sqrt(), said.variance)


def choose(tuning: dict[str, Any], method: Method, std_betas: list[float]) -> tuple[str, float]:
    """Settings and width by the paper's rule; where nothing is calibrated enough, the best calibrated."""
    names = [name for name in tuning["said"] if name.split(" | ")[0] == method.heads]
    best: tuple[tuple[float, ...], str, float] | None = None
    for name in names:
        said = Said(**tuning["said"][name])
        half, _ = widths(said, method.bounds)
        chance = torch.sigmoid(said.mean)
        ece = expected_calibration_error(chance, tuning["label"], num_bins=BINS // 2, binning="equal_width")
        for std_beta in std_betas:
            given = said.mean, std_beta * half, tuning["label"]
            # how far from calibrated, then the score
            misses = max(0.0, ece - CONFIG["max_ece"])
            misses += max(0.0, bound_calibration_error(*given) - CONFIG["max_bound_error"])
            key = (-misses, ranking_score(*given))
            if best is None or key > best[0]:
                best = key, name, std_beta
    assert best is not None
    return best[1], best[2]


def judge(draws: list[dict[str, Any]], place: str, about: dict[str, Any], *, tuned: bool) -> list[dict[str, Any]]:
    """Rows of every method on one set: means over the draws, which share their pairs, with intervals over prompts."""
    known = {name.split(" | ")[0] for name in draws[0]["test"]["said"]}
    table = {name: method for name, method in methods().items() if method.heads in known}
    label, group = draws[0][place]["label"], draws[0][place]["group"]
    parts: list[Tensor] = []
    chosen: dict[str, list[str]] = {}
    for name, method in table.items():
        for one in draws:
            picked, std_beta = choose(one["tuning"], method, CONFIG["bounds"] if tuned else [method.std_beta])
            said = Said(**one[place]["said"][picked])
            half, variance = widths(said, method.bounds)
            parts.append(by_prompt(components(said.mean, variance, std_beta * half, label), group))
            chosen.setdefault(name, []).append(f"{picked.split(' | ')[1]} x {std_beta:g}")
    stacked = torch.stack(parts, 1)
    default = list(table).index(DEFAULT)

    def statistic(counts: Tensor) -> Tensor:
        sums = (counts @ stacked.flatten(1)).reshape(len(counts), len(table), len(draws), -1)
        values = figures_of(sums).mean(2)
        return torch.stack([values, values - values[:, default : default + 1]], 1)

    found = bootstrap_counts(statistic, len(stacked))
    ends = {"": found.estimate, "_low": found.low, "_high": found.high}
    return [
        about
        | {"bounds": "chosen" if tuned else "as published", "method": name, "metric": metric}
        | {f"value{end}": float(values[0, row, column]) for end, values in ends.items()}
        | {f"minus_default{end}": float(values[1, row, column]) for end, values in ends.items()}
        | {"chosen": ", ".join(chosen[name])}
        for row, name in enumerate(table)
        for column, metric in enumerate(METRICS)
    ]


def mean_figures(sums: Tensor, counts: Tensor) -> Tensor:
    """`[R, metrics]`, averages of the draws' figures in resamples `[R, B]` of prompts, from sums `[B, draws, ...]`."""
    return figures_of((counts @ sums.flatten(1)).reshape(len(counts), *sums.shape[1:])).mean(1)


def frontier_rows(draws: list[dict[str, Any]], about: dict[str, Any]) -> list[dict[str, Any]]:
    """Ranking score and bound error on the test pairs at every width, settings chosen at the published one."""
    rows = []
    for name, method in methods().items():
        if not any(key.split(" | ")[0] == method.heads for key in draws[0]["test"]["said"]):
            continue
        for std_beta in CONFIG["bounds"]:
            values = []
            for one in draws:
                picked, _ = choose(one["tuning"], method, [method.std_beta])
                said, label = Said(**one["test"]["said"][picked]), one["test"]["label"]
                half = std_beta * widths(said, method.bounds)[0]
                values.append([ranking_score(said.mean, half, label), bound_calibration_error(said.mean, half, label)])
            for metric, value in zip(METRICS[-2:], torch.tensor(values).mean(0).tolist(), strict=True):
                rows.append(about | {"bounds": f"{std_beta:g}", "method": name, "metric": metric, "value": value})
    return rows


def lora_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """LoRA posteriors of 500 pairs by the same measures; the width chosen on the other half of the prompts."""
    rows = []
    for name in kinds.SETS:
        draws = [kinds.kept("lora", name, seed, arguments)[name] for seed in range(3)]
        for kind in draws[0]["found"]:
            if draws[0]["found"][kind]["variance"] is None:
                continue
            parts: dict[str, list[Tensor]] = {"as published": [], "chosen": []}
            _, groups = torch.unique(torch.cat([one["group"] for one in draws]), return_inverse=True)
            for one, group in zip(draws, groups.split([len(one["group"]) for one in draws]), strict=True):
                found = kinds.Found(**one["found"][kind])
                width, half = found.variance.sqrt(), one["group"] % 2 == 0
                scale = torch.empty_like(width)
                for side in (half, ~half):
                    scale[side] = widest_needed(found.mean[~side], width[~side], one["label"][~side])
                for bounds, std_beta in (("as published", CONFIG["std_beta"]), ("chosen", scale)):
                    each = components(found.mean, found.variance, std_beta * width, one["label"])
                    parts[bounds].append(
                        each.new_zeros(int(groups.max()) + 1, each.shape[1]).index_add_(0, group, each)
                    )
            for bounds, each in parts.items():
                interval = bootstrap_counts(partial(mean_figures, torch.stack(each, 1)), len(each[0]))
                about = {"family": "lora", "trained_on": name, "judged_on": "test", "pairs": 500, "bounds": bounds}
                rows += [
                    about
                    | {"method": kind, "metric": metric}
                    | {"value": float(interval.estimate[place])}
                    | {"value_low": float(interval.low[place]), "value_high": float(interval.high[place])}
                    for place, metric in enumerate(METRICS)
                ]
    return rows


def widest_needed(mean: Tensor, width: Tensor, label: Tensor) -> float:
    """Of the widths to choose from, the one of best ranking score whose bound error is small enough."""
    found = [
        (ranking_score(mean, std_beta * width, label), std_beta)
        for std_beta in CONFIG["bounds"]
        if bound_calibration_error(mean, std_beta * width, label) <= CONFIG["max_bound_error"]
    ]
    return max(found)[1] if found else max(CONFIG["bounds"])


def read_sets(data: Path, name: str, model: RewardModel, *, fast: bool) -> dict[str, kinds.Pairs]:
    files = dict(zip(("train", "test"), CONFIG["sets"][name], strict=True)) | {"elsewhere": CONFIG["elsewhere"]}
    if fast:
        files = dict.fromkeys(files, "ci/hh_helpful_256.jsonl")
    found = {}
    for place, file in files.items():
        rows = load_preferences(data / file, on_bad="skip").rows
        if fast:
            rows = rows.select(range(60) if place == "train" else range(60, 80))
        found[place] = kinds.pairs_of(rows, model)
    return found


def place_of(name: str, seed: int) -> Path:
    """Where measurements of a draw are kept; named by the settings, so that nothing measured otherwise is taken."""
    settings = [CONFIG[key] for key in ("sets", "elsewhere", "pairs", "more_pairs", "tuning_pairs", "l2", "ensemble")]
    digest = hashlib.sha256(repr((settings, OPTIONS, TUNING_SHARE)).encode()).hexdigest()[:12]
    return CACHE / "rewarduq" / f"{name}-{seed}-{digest}.pt"


def kept(data: Path, name: str, read: dict[str, kinds.Pairs] | None, seed: int) -> Any:
    place = place_of(name, seed)
    if not place.exists():
        assert read is not None
        sizes = [CONFIG["pairs"], *CONFIG["more_pairs"]]
        available = len(draw(read["train"].group, seed, 0).train)
        sizes = [size for size in sizes if size <= available]
        found = measure(read, seed, sizes, CONFIG["tuning_pairs"], CONFIG["ensemble"])
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(place) as temporary:
            torch.save(found, temporary)
        print(f"measured {name}, seed {seed}", flush=True)
    return torch.load(place, weights_only=True)


def draw_figure(rows: list[dict[str, Any]], place: Path) -> None:
    """Ranking score against bound error over all widths; a panel a set."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    # Okabe and Ito's colors, which tell themselves apart for the color-blind too.
    lines = {
        "BAY-LIN": ("#0072b2", "o"),
        "BAY-LIN, centered": ("#56b4e9", "x"),
        "BAY-LIN, difference": ("#009e73", "s"),
        "BAY-LIN, all three": ("#e69f00", "^"),
        "last_layer": ("#d55e00", "D"),
        "heads": ("#a8518a", "v"),
        "ENS-MLP": ("#777777", "<"),
    }
    called = {
        "ae_pairs": "AlpacaEval pairs",
        "hh_helpful": "HH helpful",
        "hh_harmless": "HH harmless",
        "wmt19": "WMT19 lt-en",
    }
    names = list(dict.fromkeys(row["trained_on"] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 4.4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for method, (color, marker) in lines.items():
            own = [row for row in rows if row["trained_on"] == name and row["method"] == method]
            points = {metric: [row["value"] for row in own if row["metric"] == metric] for metric in METRICS[-2:]}
            axis.plot(
                points["bound error"],
                points["ranking score"],
                color=color,
                marker=marker,
                markersize=3.5,
                linewidth=1.1,
                label=method,
            )
        axis.axvline(CONFIG["max_bound_error"], color="0.6", linestyle="--", linewidth=0.8)
        axis.set_xlabel("bound calibration error")
        axis.locator_params(axis="x", nbins=5)
        axis.set_title(called.get(name, name))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("ranking score (balance 0.2)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=8, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(place, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--fast", action="store_true", help="small slices, nothing written")
    parser.add_argument("--measure", action="store_true", help="no table: measure what is missing")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    if options.fast:
        rows = fast_rows(options.data)
        show(rows)
        return
    model = RewardModel.from_pretrained(encoder_folder(), dtype=torch.bfloat16, max_length=512)
    rows, frontier = [], []
    for name in CONFIG["sets"]:
        places = [place_of(name, seed) for seed in range(CONFIG["seeds"])]
        read = None if all(place.exists() for place in places) else read_sets(options.data, name, model, fast=False)
        draws = [kept(options.data, name, read, seed) for seed in range(CONFIG["seeds"])]
        if options.measure:
            continue
        for size in draws[0]:
            own = [one[size] for one in draws]
            for place in ("test", "elsewhere"):
                if place == "elsewhere" and size != CONFIG["pairs"]:
                    continue
                for tuned in (False, True):
                    about = {"family": "frozen", "trained_on": name, "judged_on": place, "pairs": size}
                    rows += judge(own, place, about, tuned=tuned)
            print(f"judged {name}, {size} pairs", flush=True)
        frontier += frontier_rows(
            [one[CONFIG["pairs"]] for one in draws],
            {"family": "frozen, all widths", "trained_on": name, "judged_on": "test", "pairs": CONFIG["pairs"]},
        )
    if options.measure:
        return
    rows += lora_rows(argparse.Namespace(data=options.data, fast=False, models=CACHE / "lora"))
    columns = list(dict.fromkeys(key for row in [*rows, *frontier] for key in row))
    table = pa.table({key: [row.get(key) for row in [*rows, *frontier]] for key in columns})
    pq.write_table(table, RESULTS / "results.parquet", compression="zstd")
    draw_figure(frontier, RESULTS / "frontier.png")
    show(rows)


def fast_rows(data: Path) -> list[dict[str, Any]]:
    """Everything on two draws of 40 pairs of a small slice."""
    model = RewardModel.from_pretrained(encoder_folder(), dtype=torch.bfloat16, max_length=64)
    read = read_sets(data, "hh_helpful", model, fast=True)
    options = CONFIG["ensemble"] | {"steps": 5, "heads": 3, "hidden": 8}
    draws = [measure(read, seed, [40], 15, options)[40] for seed in range(2)]
    about = {"family": "frozen", "trained_on": "slice", "judged_on": "test", "pairs": 40}
    return judge(draws, "test", about, tuned=False)


def show(rows: list[dict[str, Any]]) -> None:
    """A line a method and set."""
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("family", "trained_on", "judged_on", "pairs", "bounds", "method"))
        lines.setdefault(key, {})[row["metric"]] = f"{row['value']:.4f}"
    for key, values in lines.items():
        print(" ".join(map(str, key)).ljust(70), "  ".join(f"{values[metric]:>8}" for metric in METRICS))


if __name__ == "__main__":
    main()
