"""Which kind of posterior should a user take? Every kind on the same pairs, by the same measures, with its cost.

Frozen features (all-MiniLM-L6-v2, mean-pooled in bfloat16): 1,000 pairs, five seeds. LoRA (rank 8 on query and value,
three epochs of 500 pairs): three seeds, three adapters each; the first of them is the model of `posteriors.py`. Three
preference sets; held-out pairs of the same set, and pairs of the other two sets as shifted ones.

    python experiments/kinds.py --data DATA              # trains what is missing, measures, writes tables and figure
    python experiments/kinds.py --data DATA --only frozen  # minutes, no training
    python experiments/kinds.py --cost                   # seconds of fitting and scoring as ratios, on a quiet machine
    python experiments/kinds.py --data DATA --fast       # seconds: few pairs, no table

Models and measurements are kept under `.cache/experiments/`, one by one, so that an interrupted run goes on.
"""

import argparse
import csv
import hashlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _features import CACHE, frozen_features
from real_pools import encoder_folder, labels_of
from torch import Tensor

from posteriors import FAST_SETS, SETS, rows_of, show
from prudent.data import load_pools
from prudent.metrics import (
    area_under_risk_coverage,
    auroc,
    bootstrap,
    bootstrap_difference,
    bootstrap_statistic,
    bound_calibration_error,
    expected_calibration_error,
    fit_logit_temperature,
    pair_scores,
    ranking_score,
)
from prudent.models import RewardModel
from prudent.posteriors import (
    EnsembleMember,
    EnsembleScorer,
    LastLayerPosterior,
    encode_pairs,
    fit_heads,
    fit_lora_laplace,
    fit_quantile_heads,
    load_members,
)
from prudent.training import TrainingConfig, train

RESULTS = Path(__file__).with_suffix("")
HEADS: dict[str, dict[str, Any]] = {
    "heads": {},
    "heads, no bootstrap": {"bootstrap": False},
    "heads, MLP": {"architecture": "mlp"},
    "classification": {"kind": "classification"},
    "mean_variance": {"kind": "mean_variance"},
}
MEMBERS = 3
POOL = "ae_bon_train.parquet"


@dataclass
class Found:
    """What a kind says of P pairs: `[P]` float64 each; `bound` is the sum of both rewards' standard deviations."""

    mean: Tensor
    variance: Tensor | None
    noise: Tensor | None = None
    bound: Tensor | None = None


@dataclass
class Pairs:
    """Pairs of a set: labels and prompts, and what they are read from."""

    label: Tensor
    group: Tensor
    rows: Any
    features: tuple[Tensor, Tensor] | None = None


def prompt_of_each(rows: Any) -> Tensor:
    """`[P]` a number for each prompt, the same in every draw."""
    digests = [hashlib.sha256(str(row["prompt"]).encode()).digest() for row in rows]
    return torch.tensor([int.from_bytes(digest[:7], "big") for digest in digests])


def pairs_of(rows: Any, model: RewardModel | None) -> Pairs:
    group = prompt_of_each(rows)
    if model is None:
        return Pairs(labels_of(rows), group, rows)
    texts = [(row["prompt"], row[side]) for side in ("chosen", "rejected") for row in rows]
    features = frozen_features(model, "Reading", [prompt for prompt, _ in texts], [response for _, response in texts])
    return Pairs(labels_of(rows), group, rows, (features[: len(rows)], features[len(rows) :]))


def frozen_kinds(train_pairs: Pairs, scores: tuple[Tensor, Tensor, Tensor] | None, seed: int) -> dict[str, Callable]:
    """For each kind a function from the features of pairs to what it says of them."""
    chosen, rejected = train_pairs.features
    label, group = train_pairs.label, train_pairs.group
    last = LastLayerPosterior.fit(chosen, rejected, label=label, pooling="mean")

    def by_last_layer(chosen: Tensor, rejected: Tensor) -> Found:
        mean = ((chosen - rejected) @ last.weight).double()
        factors = [last.exact_factor(side).double() for side in (chosen, rejected)]
        return Found(
            mean,
            (factors[0] - factors[1]).square().sum(1),
            torch.zeros_like(mean),
            sum(factor.square().sum(1).sqrt() for factor in factors),
        )

    def by_mean(chosen: Tensor, rejected: Tensor) -> Found:
        return Found(by_last_layer(chosen, rejected).mean, None)

    found: dict[str, Callable] = {"mean alone": by_mean, "last_layer": by_last_layer}
    fitted = {
        name: fit_heads(chosen, rejected, label=label, group=group, pooling="mean", seed=seed, **options)
        for name, options in HEADS.items()
    }
    if scores is not None:
        features, values, prompts = scores
        posterior = fit_quantile_heads(features, values, group=prompts, pooling="mean", seed=seed)
        # Scores become logits by the factor that the training pairs prefer.
        places = torch.arange(len(chosen))
        both = torch.cat([chosen, rejected])
        fitted["quantile"] = posterior.with_logit_scale_for(both, places, places + len(chosen), label)
    for name, posterior in fitted.items():

        def by_heads(chosen: Tensor, rejected: Tensor, posterior: Any = posterior) -> Found:
            (first, noise), (second, other) = (posterior.members_and_noise(side) for side in (chosen, rejected))
            both = first.double() - second.double()
            bound = first.double().std(1) + second.double().std(1)
            return Found(both.mean(1), both.var(1), (noise + other).double(), bound)

        found[name] = by_heads
    return found


def scores_of(data: Path, model: RewardModel, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features `[N, H]`, gold `[N]` and prompt `[N]` of as many responses as the pairs have."""
    prompts, responses, gold, group = [], [], [], []
    for number, row in enumerate(load_pools(data / POOL, drop="is_baseline").rows):
        prompts += [row["prompt"]] * len(row["responses"])
        responses += row["responses"]
        gold += row["gold"]
        group += [number] * len(row["responses"])
    chosen = torch.randperm(len(gold), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    features = frozen_features(
        model, "Reading pools", [prompts[row] for row in chosen], [responses[row] for row in chosen]
    )
    return features, torch.tensor(gold)[chosen], torch.tensor(group)[chosen]


def measure_frozen(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    sets = FAST_SETS if arguments.fast else SETS
    count, own, other = (40, 30, 10) if arguments.fast else (1000, 300, 150)
    base = str(arguments.data / "tiny_lm_stories260K") if arguments.fast else encoder_folder()
    model = RewardModel.from_pretrained(base, dtype=torch.bfloat16, max_length=64 if arguments.fast else 512)
    train_pairs = pairs_of(rows_of(arguments.data / sets[name][0], count, seed), model)
    scores = None
    if name == "ae" and not arguments.fast:
        scores = scores_of(arguments.data, model, 2 * count, seed)
    kinds = frozen_kinds(train_pairs, scores, seed)
    held_out = {
        place: pairs_of(rows_of(arguments.data / test, own if place == name else other, 100 + seed), model)
        for place, (_, test) in sets.items()
    }
    return {
        place: {
            "label": pairs.label,
            "group": pairs.group,
            "found": {kind: vars(say(*pairs.features)) for kind, say in kinds.items()},
        }
        for place, pairs in held_out.items()
    }


def member_folder(arguments: argparse.Namespace, name: str, seed: int, member: int) -> Path:
    return arguments.models / (f"{name}-{seed}" if member == 0 else f"{name}-{seed}-m{member}")


def trained_members(name: str, seed: int, arguments: argparse.Namespace) -> list[RewardModel]:
    """The adapters of one draw, trained where they are missing: seeds of head, adapter and order differ."""
    sets = FAST_SETS if arguments.fast else SETS
    first = member_folder(arguments, name, seed, 0)
    pairs = first.with_suffix(".jsonl")
    pairs.parent.mkdir(parents=True, exist_ok=True)
    if not pairs.exists():
        rows_of(arguments.data / sets[name][0], 16 if arguments.fast else 500, seed).to_json(pairs)
    base = str(arguments.data / "tiny_lm_stories260K") if arguments.fast else encoder_folder()
    models = []
    for member in range(MEMBERS):
        place = member_folder(arguments, name, seed, member)
        if not (place / "training_result.json").exists():
            config = TrainingConfig(
                max_length=64 if arguments.fast else 192,
                num_train_epochs=1 if arguments.fast else 3,
                seed=seed + 100 * member,
                use_cpu=True,
                bf16=member > 0,
            )
            train(base, pairs, place, config=config, progress=False)
        models.append(RewardModel.from_pretrained(place, dtype=torch.bfloat16))
    return models


def measure_lora(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every member's rewards and its variances by its own Laplace posterior, put together in all ways."""
    sets = FAST_SETS if arguments.fast else SETS
    own, other = (20, 10) if arguments.fast else (300, 100)
    held_out = {
        place: pairs_of(rows_of(arguments.data / test, own if place == name else other, 100 + seed), None)
        for place, (_, test) in sets.items()
    }
    models = trained_members(name, seed, arguments)
    rows = rows_of(arguments.data / sets[name][0], 16 if arguments.fast else 500, seed)
    means: dict[str, list[Tensor]] = {place: [] for place in sets}
    variances: dict[str, list[Tensor]] = {place: [] for place in sets}
    rewards: dict[str, list[tuple[Tensor, Tensor]]] = {place: [] for place in sets}
    last: dict[str, Tensor] = {}
    for number, model in enumerate(models):
        pairs = encode_pairs(model, rows)
        posterior, _ = fit_lora_laplace(model, pairs, "ekfac")
        if number == 0:
            features = model.features(pairs.encoded)[0]
            head = LastLayerPosterior.fit(
                features[pairs.chosen],
                features[pairs.rejected],
                label=pairs.label,
                head="kept",
                head_weight=model.head_values()[0],
            )
        for place, kept in held_out.items():
            texts = encode_pairs(model, kept.rows)
            found = posterior.contrasts(model, texts)
            means[place].append(found.mean)
            variances[place].append(found.variance)
            features, values = model.features(texts.encoded)
            rewards[place].append((values[texts.chosen].double(), values[texts.rejected].double()))
            if number == 0:
                difference = features[texts.chosen] - features[texts.rejected]
                last[place] = (difference @ head.covariance_factor).square().sum(1).double()
    result = {}
    for place, kept in held_out.items():
        mean, variance = torch.stack(means[place], 1), torch.stack(variances[place], 1)
        sides = [torch.stack(side, 1) for side in zip(*rewards[place], strict=True)]
        none = torch.zeros(len(mean), dtype=torch.float64)
        bound = sides[0].std(1) + sides[1].std(1)
        found = {
            "mean alone": Found(mean[:, 0], None),
            "last_layer": Found(mean[:, 0], last[place], none),
            "ekfac": Found(mean[:, 0], variance[:, 0], none),
            "adapters, mean alone": Found(mean.mean(1), None),
            "adapters": Found(mean.mean(1), mean.var(1), none, bound),
            "adapters, ekfac each": Found(mean.mean(1), mean.var(1) + variance.mean(1), none),
        }
        result[place] = {
            "label": kept.label,
            "group": kept.group,
            "found": {kind: vars(one) for kind, one in found.items()},
        }
    return result


def kept(family: str, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What was measured of a draw, from the file that keeps it where there is one."""
    place = CACHE / "kinds" / f"{family}-{name}-{seed}.pt"
    if place.exists() and not arguments.fast:
        result: dict[str, Any] = torch.load(place)
        rows = rows_of(arguments.data / SETS[name][1], len(result[name]["label"]), 100 + seed)
        result[name]["group"] = prompt_of_each(rows)
        return result
    result = (measure_frozen if family == "frozen" else measure_lora)(name, seed, arguments)
    if not arguments.fast:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(result, place)
    return result


def quality_rows(family: str, results: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Measures of each kind on each set, all seeds together, with intervals over prompts."""
    rows = []
    for name in dict.fromkeys(name for name, _ in results):
        draws = [(seed, result) for (other, seed), result in results.items() if other == name]
        for kind in draws[0][1][name]["found"]:
            parts: dict[str, list[Tensor]] = {}
            shifts, scores, bounds = [], [], []
            for _, result in draws:
                own = result[name]
                found, label = Found(**own["found"][kind]), own["label"]
                plain = Found(**own["found"]["mean alone"])
                total = None if found.variance is None else found.variance + found.noise
                both = pair_scores(found.mean, total, label)
                for key, value in {
                    "nll": both.nll,
                    "nll_plain": pair_scores(plain.mean, None, label).nll,
                    "nll_scaled": crossed_nll(plain.mean, label, own["group"]),
                    "nll_own_mean": pair_scores(found.mean, None, label).nll,
                    "probability": both.probability,
                    "label": label,
                    "confidence": both.logit.abs(),
                    "error": 1 - both.accuracy,
                    "group": own["group"],
                }.items():
                    parts.setdefault(key, []).append(value)
                if found.variance is not None:
                    elsewhere = [other["found"][kind]["variance"] for place, other in result.items() if place != name]
                    shifts.append(auroc(torch.cat(elsewhere), found.variance))
                    half = found.variance.sqrt()
                    scores.append(
                        (ranking_score(found.mean, half, label), bound_calibration_error(found.mean, half, label))
                    )
                    if found.bound is not None:
                        pair = (found.mean, found.bound, label)
                        bounds.append((ranking_score(*pair), bound_calibration_error(*pair)))
            joined = {key: torch.cat(value) for key, value in parts.items()}
            against = bootstrap_difference(joined["nll"], joined["nll_plain"], joined["group"])
            scaled = bootstrap_difference(joined["nll"], joined["nll_scaled"], joined["group"])
            gain = bootstrap_difference(joined["nll"], joined["nll_own_mean"], joined["group"])
            accuracy = bootstrap(1 - joined["error"], joined["group"])
            area = bootstrap_statistic(
                lambda rows, joined=joined: torch.tensor(
                    area_under_risk_coverage(joined["confidence"][rows], joined["error"][rows])
                ),
                joined["group"],
                num_resamples=300,
            )
            rows.append(
                {
                    "family": family,
                    "trained_on": name,
                    "kind": kind,
                    "seeds": len(draws),
                    "pairs": len(joined["nll"]),
                    **figures("accuracy", accuracy),
                    "nll": float(joined["nll"].mean()),
                    **figures("nll_minus_mean", against),
                    **figures("nll_minus_scaled_mean", scaled),
                    **figures("nll_minus_own_mean", gain),
                    "ece": expected_calibration_error(joined["probability"], joined["label"]),
                    **figures("aurc", area),
                    "auroc_shift": average(shifts),
                    "ranking_score": average([score for score, _ in scores]),
                    "bound_calibration_error": average([error for _, error in scores]),
                    "ranking_score_by_marginals": average([score for score, _ in bounds]),
                    "bound_calibration_error_by_marginals": average([error for _, error in bounds]),
                }
            )
    return rows


def judged(mean: Tensor, half_width: Tensor, label: Tensor) -> tuple[float, float]:
    """RewardUQ's ranking score and bound calibration error."""
    return ranking_score(mean, half_width, label), bound_calibration_error(mean, half_width, label)


def crossed_nll(mean: Tensor, label: Tensor, group: Tensor) -> Tensor:
    """Of the mean over a logit temperature, each half of the prompts by that of the other half."""
    half = group % 2 == 0
    nll = torch.empty_like(mean)
    for side in (half, ~half):
        nll[side] = pair_scores(mean[side] / fit_logit_temperature(mean[~side], label[~side]), None, label[side]).nll
    return nll


def figures(name: str, interval: Any) -> dict[str, float]:
    return {name: float(interval.estimate), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}


def average(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def cost_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Processor time to fit on 1,000 pairs and to score, as ratios to a model that knows no variance.

    Forward passes are timed on 64 pairs of HH helpful and scaled up; training on 24 steps of it.
    """
    rows = rows_of(arguments.data / SETS["hh"][0], 64, 0)
    frozen = RewardModel.from_pretrained(encoder_folder(), max_length=192)
    pairs = encode_pairs(frozen, rows)
    frozen.features(pairs.encoded, pooling="mean")  # warm
    forward, (features, _) = seconds_of(lambda: frozen.features(pairs.encoded, pooling="mean"))
    scale = 1000 / len(rows)
    generator = torch.Generator().manual_seed(0)
    spread = features.std(0)
    chosen, rejected = (features.mean(0) + spread * torch.randn(1000, len(spread), generator=generator) for _ in "ab")
    many = torch.cat([features] * 8)
    plain_fit, _ = seconds_of(lambda: LastLayerPosterior.fit(chosen, rejected, prior_precision=100.0, pooling="mean"))
    found = [{"family": "frozen", "kind": "mean alone", "fit": 1.0, "score": 1.0}]
    makers: dict[str, Callable[[], Any]] = {
        "last_layer": lambda: LastLayerPosterior.fit(chosen, rejected, pooling="mean")
    }
    for name, options in HEADS.items():
        makers[name] = lambda options=options: fit_heads(chosen, rejected, pooling="mean", **options)
    scores = features.new_tensor(range(2000))[torch.randperm(2000, generator=generator)]
    makers["quantile"] = lambda: fit_quantile_heads(torch.cat([chosen, rejected]), scores, pooling="mean")
    none = torch.zeros(len(many), dtype=torch.long)
    for name, make in makers.items():
        fitting, posterior = seconds_of(make)
        scoring, _ = seconds_of(
            lambda posterior=posterior: posterior.predict_features(many, group=none, reference_weight=none.float())
        )
        found.append(
            {
                "family": "frozen",
                "kind": name,
                "fit": (scale * forward + fitting) / (scale * forward + plain_fit),
                "score": 1 + scoring / (8 * forward),
            }
        )
    place = CACHE / "kinds" / "cost"
    members = [member_folder(arguments, "hh", 0, member) for member in range(MEMBERS)]
    model = RewardModel.from_pretrained(members[0], max_length=192)
    model.features(pairs.encoded)
    forward, _ = seconds_of(lambda: model.features(pairs.encoded))
    place.parent.mkdir(parents=True, exist_ok=True)
    rows.to_json(place.with_suffix(".jsonl"))
    config = TrainingConfig(max_length=192, max_steps=24, use_cpu=True, save_steps=24)
    training, _ = seconds_of(
        lambda: train(
            encoder_folder(), place.with_suffix(".jsonl"), place, config=config, overwrite=True, progress=False
        )
    )
    trained = 3 * 1000 / (24 * config.per_device_train_batch_size) * training  # three epochs of 1,000 pairs
    kept = {"label": pairs.label, "head": "kept", "head_weight": model.head_values()[0]}
    fits = {
        "last_layer": (
            forward
            + seconds_of(lambda: LastLayerPosterior.fit(features[pairs.chosen], features[pairs.rejected], **kept))[0]
        ),
        "ekfac": seconds_of(lambda: fit_lora_laplace(model, pairs, "ekfac"))[0],
    }
    posterior, _ = fit_lora_laplace(model, pairs, "ekfac")
    group = torch.arange(len(pairs.encoded))
    predicting, _ = seconds_of(
        lambda: posterior.predict(model, pairs.encoded, group=group, reference_weight=torch.zeros(len(group)))
    )
    loaded = load_members([EnsembleMember(folder.name, folder) for folder in members], max_length=192)
    scorer = EnsembleScorer(loaded)
    texts = scorer.encode([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    single, _ = seconds_of(lambda: model.features(texts.parts[0]))
    group = torch.arange(len(texts))
    together, _ = seconds_of(lambda: scorer.predict(texts, group=group, reference_weight=torch.zeros(len(group))))
    found += [
        {"family": "lora", "kind": "mean alone", "fit": 1.0, "score": 1.0},
        {"family": "lora", "kind": "last_layer", "fit": 1 + scale * fits["last_layer"] / trained, "score": 1.0},
        {"family": "lora", "kind": "ekfac", "fit": 1 + scale * fits["ekfac"] / trained, "score": predicting / forward},
        {"family": "lora", "kind": "adapters, mean alone", "fit": float(MEMBERS), "score": together / single},
        {"family": "lora", "kind": "adapters", "fit": float(MEMBERS), "score": together / single},
        {
            "family": "lora",
            "kind": "adapters, ekfac each",
            "fit": MEMBERS * (1 + scale * fits["ekfac"] / trained),
            "score": MEMBERS * predicting / forward,
        },
    ]
    return found


def draw_figure(quality: list[dict[str, Any]], costs: list[dict[str, Any]], place: Path) -> None:
    """Negative log-likelihood against the plain mean's, over the cost of scoring; a panel a set."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    score = {(row["family"], row["kind"]): float(row["score"]) for row in costs}
    names = list(dict.fromkeys(row["trained_on"] for row in quality))
    kinds = [kind for kind in dict.fromkeys((row["family"], row["kind"]) for row in quality) if kind[1] != "mean alone"]
    colors = dict(zip(kinds, plt.get_cmap("tab20").colors, strict=False))
    figure, axes = plt.subplots(1, len(names), figsize=(4.4 * len(names), 4.6), sharey=True)
    for axis, name in zip(axes, names, strict=True):
        axis.axhline(0, color="0.7", linewidth=1)
        for family, kind in kinds:
            row = next((r for r in quality if (r["family"], r["kind"], r["trained_on"]) == (family, kind, name)), None)
            if row is None:
                continue
            value, low, high = (float(row[f"nll_minus_mean{end}"]) for end in ("", "_low", "_high"))
            alike = [one for one in kinds if abs(score[one] / score[family, kind] - 1) < 0.01]
            shift = 0.025 * (alike.index((family, kind)) - (len(alike) - 1) / 2)
            axis.errorbar(
                score[family, kind] * (1 + shift),
                value,
                [[value - low], [high - value]],
                fmt="o" if family == "frozen" else "s",
                color=colors[family, kind],
                label=f"{kind} ({'frozen features' if family == 'frozen' else 'LoRA'})",
                capsize=2,
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axis.set_title({"wmt": "WMT19 lt-en", "hh": "HH helpful", "ae": "AlpacaEval"}.get(name, name))
        axis.set_xlabel("cost of scoring, forward passes\n(points of one cost are shifted apart)")
    axes[0].set_ylabel("held-out NLL minus the mean's, nats\n(negative is better)")
    handles = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.2, 1, 1))
    figure.savefig(place, dpi=150)


def write(rows: list[dict[str, Any]], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})


def read(name: str) -> list[dict[str, Any]]:
    with (RESULTS / name).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PRUDENT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--only", choices=["frozen", "lora"])
    parser.add_argument("--cost", action="store_true", help="measure costs alone")
    parser.add_argument("--models", type=Path, default=CACHE / "lora", help="where trained models are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cost:
        costs = cost_rows(arguments)
        show(costs)
        write(costs, "cost.csv")
    else:
        rows: list[dict[str, Any]] = []
        for family, seeds in (("frozen", 5), ("lora", 3)):
            if arguments.only not in (None, family):
                continue
            results = {}
            for seed in range(1 if arguments.fast else seeds):
                for name in FAST_SETS if arguments.fast else SETS:
                    results[name, seed] = kept(family, name, seed, arguments)
                    print(f"measured {family} {name}-{seed}", flush=True)
            rows += quality_rows(family, results)
        show(rows)
        if arguments.fast:
            return
        if arguments.only is None:
            write(rows, "quality.csv")
    if (RESULTS / "cost.csv").exists() and (RESULTS / "quality.csv").exists():
        draw_figure(read("quality.csv"), read("cost.csv"), RESULTS / "quality_and_cost.png")


if __name__ == "__main__":
    main()
