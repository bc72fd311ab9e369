"""Do preference strengths find flipped labels, how many are there, and does mending them help?

On the embedded world, where the truth is known: a proxy learns from comparisons, a quarter of them flipped, and the
comparisons of other prompts, a quarter of them flipped as well, are judged by heads on its features, or on those of the
base model that has never seen a comparison. On real pairs: a frozen sentence encoder (all-MiniLM-L6-v2, mean-pooled in
bfloat16), a quarter of the labels flipped, and a last-layer head on what each treatment makes of them, tested on pairs
as they are. Heads are cross-fitted by prompt unless a row says otherwise.

    python experiments/clean.py --data DATA          # writes experiments/clean/*.csv; the world's models are kept
    python experiments/clean.py --data DATA --fast   # little of everything, writes no table
"""

import argparse
import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _features import CACHE, frozen_features
from real_pools import draw_pairs, encoder_folder, labels_of
from torch import Tensor

from prudent.data import World, load_preferences, pretrain_world_base
from prudent.metrics import auroc, bootstrap, bootstrap_difference, pair_scores
from prudent.models import Pooling, RewardModel, atomic_folder
from prudent.posteriors import (
    LastLayerPosterior,
    PairStrength,
    cross_fitted_strength,
    fit_flips,
    fit_heads,
    suspects,
    treat,
)
from prudent.rewards import expected_sigmoid
from prudent.training import TrainingConfig, train

RESULTS = Path(__file__).with_suffix("")
FLIP = 0.25
CLEAR = 1.0
"""Logits by which true rewards differ in a clear pair."""
NUM_MEMBERS = 5
PROXY = TrainingConfig(lora=False, learning_rate=1e-3, num_train_epochs=2, per_device_train_batch_size=16)
SETS = {
    "hh": ("hh_helpful_train.parquet", "hh_helpful_test.parquet"),
    "wmt": ("wmt19_lten_train.parquet", "wmt19_lten_test.parquet"),
    "ae": ("ae_pairs_train.parquet", "ae_pairs_test.parquet"),
}
FAST_SETS = {"hh": ("ci/hh_helpful_256.jsonl", "ci/hh_helpful_256.jsonl")}
THRESHOLDS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
SHARES = [0.1, 0.2, 0.25, 0.3]


@dataclass
class Pairs:
    """P pairs as labelled, with features of both sides.

    Attributes:
        chosen: `[P, H]`.
        rejected: `[P, H]`.
        label: `[P]` float64, of the pair as it stands here.
        prompt: `[P]` number of its prompt.
    """

    chosen: Tensor
    rejected: Tensor
    label: Tensor
    prompt: Tensor

    def turned(self, where: Tensor) -> "Pairs":
        """Chosen and rejected exchanged in some pairs, which is what a flipped label is."""
        side = where.unsqueeze(1)
        return Pairs(
            torch.where(side, self.rejected, self.chosen),
            torch.where(side, self.chosen, self.rejected),
            self.label,
            self.prompt,
        )

    def select(self, rows: Tensor) -> "Pairs":
        return Pairs(self.chosen[rows], self.rejected[rows], self.label[rows], self.prompt[rows])

    def strength(self, seed: int) -> PairStrength:
        count = len(self.label)
        features, first = torch.cat([self.chosen, self.rejected]), torch.arange(count)
        return cross_fitted_strength(
            features, first, first + count, self.prompt, label=self.label, num_members=NUM_MEMBERS, seed=seed
        )

    def in_sample_strength(self, seed: int) -> PairStrength:
        """By heads that saw the very labels they judge."""
        heads = fit_heads(
            self.chosen, self.rejected, label=self.label, group=self.prompt, num_members=NUM_MEMBERS, seed=seed
        )
        members = (heads.members_of(self.chosen) - heads.members_of(self.rejected)).double()
        return PairStrength(members.mean(1), members.std(1, correction=0), NUM_MEMBERS)


def draw_flips(count: int, seed: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < FLIP


def detection(strength: PairStrength, flipped: Tensor, label: Tensor) -> dict[str, float]:
    """How well strengths find the flips, and what they say of their number."""
    model = fit_flips(strength.mean, strength.std, label)
    probability = model.prob_flipped(strength.mean, strength.std, label)
    suspect = suspects(strength.mean, probability)
    return {
        "auroc": auroc(-strength.mean[flipped], -strength.mean[~flipped]),
        "auroc_prob_flipped": auroc(probability[flipped], probability[~flipped]),
        "flip_rate": model.flip_rate,
        "flip_rate_low": model.flip_rate_low,
        "flip_rate_high": model.flip_rate_high,
        "log_likelihood_ratio": model.log_likelihood_ratio,
        "true_flip_rate": float(flipped.double().mean()),
        "suspect": float(suspect.double().mean()),
        "flipped_after": float((suspect ^ flipped).double().mean()),
    }


class WorldPairs:
    """Comparisons of one world, cut by prompt into those that a proxy learns from and those that are judged.

    Two thirds of the prompts teach, one third is judged. All are labelled by the true reward, pairs of equal reward
    left out, and a quarter of the labels is flipped.
    """

    def __init__(self, seed: int, num_learned: int, num_judged: int, num_texts: int, folder: Path) -> None:
        self.world, self.seed, self.folder, self._num_texts = World(seed), seed, folder, num_texts
        # The world's prompts begin again after 3,564.
        total = 3564 * -(-max(3 * num_learned // 2, 3 * num_judged) // 3564)
        rows = self.world.preferences(total, flip=0.0)
        gold = torch.tensor(rows["gold_chosen"]) - torch.tensor(rows["gold_rejected"])
        flipped = draw_flips(total, 5 + seed)
        teaches = torch.arange(total) % 3564 < 2376
        learned, judged = (
            torch.nonzero(mask & (gold != 0)).flatten()[:count]
            for mask, count in ((teaches, num_learned), (~teaches, num_judged))
        )
        self.gold, self.flipped = gold[judged], flipped[judged]
        self.judged = rows.select(judged.tolist())
        turned = (gold < 0) ^ flipped
        self._learned = [
            {
                "prompt": row["prompt"],
                "chosen": row["rejected" if turn else "chosen"],
                "rejected": row["chosen" if turn else "rejected"],
            }
            for row, turn in zip(rows.select(learned.tolist()), turned[learned].tolist(), strict=True)
        ]

    def base(self) -> Path:
        place = self.folder / f"base-{self.seed}-{self._num_texts}"
        if not place.exists():
            with atomic_folder(place) as temporary:
                assert temporary is not None
                pretrain_world_base(self.world, temporary, num_texts=self._num_texts)
        return place

    def proxy(self) -> Path:
        place = self.folder / f"proxy-{self.seed}-{len(self._learned)}"
        if not place.exists():
            train(self.base(), self._learned, place, config=PROXY)
        return place

    def pairs(self, model: Path, pooling: Pooling) -> Pairs:
        """The judged pairs as Bradley-Terry people label them, with features of a model."""
        loaded = RewardModel.from_pretrained(model)
        prompts = list(self.judged["prompt"])
        sides = [
            loaded.features(loaded.encode(prompts, list(self.judged[side])), pooling=pooling, tokens_per_batch=8192)[0]
            for side in ("chosen", "rejected")
        ]
        numbers: dict[str, int] = {}
        prompt = [numbers.setdefault(str(one), len(numbers)) for one in prompts]
        return Pairs(*sides, torch.ones(len(prompts), dtype=torch.float64), torch.tensor(prompt))


def world_rows(
    seed: int, sizes: tuple[int, int, int], folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table of detection in one world, and that of thresholds."""
    world = WorldPairs(seed, *sizes, folder)
    rows: list[dict[str, Any]] = []
    thresholds: list[dict[str, Any]] = []
    flipped = world.flipped
    clear = world.gold.abs() >= CLEAR
    for features, place, pooling in (("base", world.base(), "mean"), ("proxy", world.proxy(), "head")):
        as_people_say = world.pairs(place, pooling)  # type: ignore[arg-type]
        for labels, clean in (("gold", as_people_say.turned(world.gold < 0)), ("Bradley-Terry", as_people_say)):
            noisy = clean.turned(flipped)
            for fitted, strength in (
                ("cross-fitted", noisy.strength(seed)),
                ("in-sample", noisy.in_sample_strength(seed)),
            ):
                found = detection(strength, flipped, noisy.label)
                found["auroc_clear"] = auroc(-strength.mean[flipped & clear], -strength.mean[~flipped & clear])
                base = {"world": seed, "features": features, "labels": labels, "heads": fitted, "pairs": len(flipped)}
                base["clear_pairs"] = int(clear.sum())
                rows.append({**base, **found})
                print(rows[-1], flush=True)
                if (fitted, features) == ("cross-fitted", "proxy"):
                    thresholds += [{**base, **row} for row in threshold_rows(strength, flipped, noisy.label)]
    return rows, thresholds


def threshold_rows(strength: PairStrength, flipped: Tensor, label: Tensor) -> list[dict[str, Any]]:
    """Labels that are wrong after flipping, by the rule that says which to flip."""
    model = fit_flips(strength.mean, strength.std, label)
    probability = model.prob_flipped(strength.mean, strength.std, label)
    rules = [("threshold", value, {"threshold": value}) for value in THRESHOLDS]
    rules += [("bottom share", value, {"bottom_share": value}) for value in SHARES]
    rows = []
    for rule, value, options in rules:
        suspect = suspects(strength.mean, probability, **options)
        rows.append(
            {
                "rule": rule,
                "value": value,
                "suspect": float(suspect.double().mean()),
                "precision": float(flipped[suspect].double().mean()) if bool(suspect.any()) else float("nan"),
                "recall": float(suspect[flipped].double().mean()),
                "flipped_after": float((suspect ^ flipped).double().mean()),
            }
        )
    return rows


def treated_sets(noisy: Pairs, flipped: Tensor, strength: PairStrength) -> dict[str, tuple[Pairs, Tensor | None]]:
    """What a head is trained on, by name: pairs, and margins where there are any."""
    model = fit_flips(strength.mean, strength.std, noisy.label)
    probability = model.prob_flipped(strength.mean, strength.std, noisy.label)
    suspect = suspects(strength.mean, probability)
    if 2 * int(suspect.sum()) > len(suspect):  # more than half: `clean` refuses, so the labels stay as they are
        suspect = torch.zeros_like(suspect)
    weakest = suspects(strength.mean, probability, bottom_share=0.1)
    none = torch.zeros(len(flipped))
    found: dict[str, tuple[Pairs, Tensor | None]] = {
        "no flips": (noisy.turned(flipped), None),
        "flipped labels": (noisy, None),
        "flips known, dropped": (noisy.select(~flipped), None),
    }
    for name, which in (("", suspect), (", bottom 10 %", weakest)):
        for treatment in ("flip", "drop"):
            done = treat(treatment, which, strength.mean, probability, noisy.label, none)  # type: ignore[arg-type]
            found[treatment + name] = (noisy.turned(done.flipped).select(done.kept), None)
    for treatment in ("soft", "margin"):
        done = treat(treatment, suspect, strength.mean, probability, noisy.label, none)  # type: ignore[arg-type]
        pairs = Pairs(noisy.chosen, noisy.rejected, done.label, noisy.prompt)
        found[treatment] = (pairs, done.margin if treatment == "margin" else None)
    assert strength.std is not None
    by_ensemble = expected_sigmoid(model.scale * strength.mean, (model.scale * strength.std).square())
    found["soft by the ensemble alone"] = (Pairs(noisy.chosen, noisy.rejected, by_ensemble, noisy.prompt), None)
    return found


def real_pairs(model: RewardModel, name: str, path: Path, count: int | None) -> Pairs:
    rows = load_preferences(path).rows
    if count is not None and count < len(rows):
        # The draws of other experiments, whose features are there already.
        draws = torch.cat([draw_pairs(1000, len(rows), seed) for seed in range(-(-count // 1000))])
        drawn = draws if name != "wmt" else draw_pairs(count, len(rows), 0)
        rows = rows.select(sorted(set(drawn.tolist()))[:count])
    prompts = list(rows["prompt"])
    features = frozen_features(model, name, prompts * 2, [*rows["chosen"], *rows["rejected"]])
    numbers: dict[str, int] = {}
    prompt = [numbers.setdefault(str(one), len(numbers)) for one in prompts]
    return Pairs(features[: len(prompts)], features[len(prompts) :], labels_of(rows), torch.tensor(prompt))


def real_rows(
    data: Path, num_pairs: int, num_seeds: int, *, fast: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tables of detection and of what heads trained on each treatment are worth, on real pairs."""
    model = RewardModel.from_pretrained(encoder_folder(), dtype=torch.bfloat16, max_length=64 if fast else None)
    detected: list[dict[str, Any]] = []
    trained: list[dict[str, Any]] = []
    for name, (source, held_out) in (FAST_SETS if fast else SETS).items():
        clean = real_pairs(model, name, data / source, num_pairs)
        test = real_pairs(model, name, data / held_out, 1000 if name == "wmt" else None)
        values: dict[str, dict[str, list[Tensor]]] = {}
        for seed in range(num_seeds):
            flipped = draw_flips(len(clean.label), 5000 + seed)
            noisy = clean.turned(flipped)
            judged = {"cross-fitted": noisy.strength(seed)}
            if seed == 0:  # what it would look like without folds
                judged["in-sample"] = noisy.in_sample_strength(seed)
            for heads, strength in judged.items():
                found = detection(strength, flipped, noisy.label)
                detected.append({"set": name, "seed": seed, "heads": heads, "pairs": len(flipped), **found})
                print(detected[-1], flush=True)
            for treatment, (pairs, margin) in treated_sets(noisy, flipped, judged["cross-fitted"]).items():
                head = LastLayerPosterior.fit(
                    pairs.chosen, pairs.rejected, label=pairs.label, margin=margin, pooling="mean"
                )
                scores = pair_scores(((test.chosen - test.rejected) @ head.weight).double(), None, test.label)
                kept = values.setdefault(treatment, {"accuracy": [], "nll": []})
                kept["accuracy"].append(scores.accuracy)
                kept["nll"].append(scores.nll)
        trained += trained_rows(name, values, test.prompt)
        for row in trained[-len(values) :]:
            print(row, flush=True)
    return detected, trained


def trained_rows(name: str, values: dict[str, dict[str, list[Tensor]]], prompt: Tensor) -> list[dict[str, Any]]:
    """A row a treatment: averages over seeds, 95 % bootstrap over prompts, differences to the flipped labels."""
    rows = []
    for treatment, kept in values.items():
        row: dict[str, Any] = {"set": name, "trained_on": treatment, "seeds": len(kept["nll"])}
        for figure in ("accuracy", "nll"):
            over_seeds = torch.stack(kept[figure])
            average, untreated = over_seeds.mean(0), torch.stack(values["flipped labels"][figure]).mean(0)
            interval = bootstrap(average, prompt)
            against = bootstrap_difference(average, untreated, prompt)
            row |= {
                figure: float(interval.estimate),
                f"{figure}_low": float(interval.low),
                f"{figure}_high": float(interval.high),
                f"{figure}_gain": float(against.estimate),
                f"{figure}_gain_low": float(against.low),
                f"{figure}_gain_high": float(against.high),
                f"{figure}_std_over_seeds": float(over_seeds.mean(1).std()) if len(over_seeds) > 1 else float("nan"),
            }
        rows.append(row)
    return rows


def write(rows: list[dict[str, Any]], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the real data; without it the world alone")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--only", choices=["world", "real"], help="one half of it")
    parser.add_argument("--worlds", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    if arguments.only != "real":
        sizes = (60, 90, 200) if arguments.fast else (12_000, 3_000, 16_000)
        folder = CACHE / "clean-fast" if arguments.fast else CACHE / "clean"
        tables = [world_rows(seed, sizes, folder) for seed in range(arguments.worlds)]
        if not arguments.fast:
            write([row for table, _ in tables for row in table], "world.csv")
            write([row for _, table in tables for row in table], "thresholds.csv")
    if arguments.only != "world":
        detected, trained = real_rows(
            arguments.data, 200 if arguments.fast else 2000, 1 if arguments.fast else 5, fast=arguments.fast
        )
        if not arguments.fast:
            write(detected, "real_detection.csv")
            write(trained, "real_trained.csv")


if __name__ == "__main__":
    main()
