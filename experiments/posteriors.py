"""How good is each structure of curvature, and does any posterior predict held-out pairs better than the mean alone?

Nine LoRA reward models (all-MiniLM-L6-v2, rank 8 on query and value; three preference sets, three seeds, 500 pairs,
three epochs). For each, the gradients of pair differences are read once; every posterior is then made from them by
prudent's own code, and compared with the exact posterior of all weights, which 500 pairs allow in its dual form (a
matrix of 500 x 500).

    python experiments/posteriors.py --data DATA         # trains what is missing, measures, writes the tables
    python experiments/posteriors.py --data DATA --fast  # seconds: a tiny language model, few pairs, no table

Models and measurements are kept under `.cache/experiments/`, one by one, so that an interrupted run goes on.
"""

import argparse
import csv
import math
import os
from pathlib import Path
from typing import Any

import torch
from _features import CACHE
from real_pools import draw_pairs, encoder_folder
from torch import Tensor

from prudent.data import load_preferences
from prudent.metrics import (
    area_under_risk_coverage,
    auroc,
    bootstrap_difference,
    expected_calibration_error,
    fit_logit_temperature,
    minimize_on_log_scale,
    pair_scores,
)
from prudent.models import RewardModel
from prudent.posteriors import LastLayerPosterior, PairTexts, encode_pairs, fit_lora_laplace
from prudent.posteriors._blocks import LinearBlock, find_blocks
from prudent.posteriors._curvature import BlockCurvature
from prudent.posteriors._evidence import log_evidence, maximize_prior_precision
from prudent.posteriors._gradients import RewardGradients, weight_gradients
from prudent.posteriors._held_out import PRIOR_SCALES
from prudent.posteriors._lora_fit import _BASIS_PAIRS, DEFAULT_MAX_RANK
from prudent.posteriors._pair_pass import PairBatch, PairSums
from prudent.posteriors._projection import Projection
from prudent.posteriors._sums import EigenvalueSums, FactorSums
from prudent.training import TrainingConfig, train

RESULTS = Path(__file__).with_suffix("")
SETS = {
    "wmt": ("wmt19_lten_train.parquet", "wmt19_lten_test.parquet"),
    "hh": ("hh_helpful_train.parquet", "hh_helpful_test.parquet"),
    "ae": ("ae_pairs_train.parquet", "ae_pairs_test.parquet"),
}
FAST_SETS = {
    "wmt": ("ci/hh_harmless_256.jsonl", "ci/hh_harmless_256.jsonl"),
    "hh": ("ci/hh_helpful_256.jsonl", "ci/hh_helpful_256.jsonl"),
}
KINDS = ["last_layer", "kron", "pair_kron", "ekfac", "diag", "full"]
SCALES = torch.tensor(PRIOR_SCALES, dtype=torch.float64)


def rows_of(path: Path, count: int, seed: int) -> Any:
    rows = load_preferences(path).rows
    return rows.select(draw_pairs(min(count, len(rows)), len(rows), seed).tolist())


def trained(base: str, rows: Any, place: Path, seed: int, epochs: float) -> RewardModel:
    """The reward model of a draw, trained unless it is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not (place / "training_result.json").exists():
        rows.to_json(place.with_suffix(".jsonl"))
        config = TrainingConfig(max_length=192, num_train_epochs=epochs, seed=seed, use_cpu=True)
        train(base, place.with_suffix(".jsonl"), place, config=config)
    return RewardModel.from_pretrained(place)


class Gradients:
    """Gradients of both rewards of M pairs: `parts[b]` is `[2, M, m, n]` float32, chosen first."""

    def __init__(self, model: RewardModel, blocks: list[LinearBlock], pairs: PairTexts) -> None:
        self.parts = [torch.empty(2, len(pairs), *block.shape) for block in blocks]
        self.contrast = torch.empty(len(pairs), dtype=torch.float64)
        with RewardGradients(model, blocks) as gradients:
            for positions, batch in pairs.batches(model, torch.arange(len(pairs)), None):
                chosen, rejected = gradients.forward(batch).double().chunk(2)
                self.contrast[positions] = chosen - rejected

                def take(index: int, inputs: Tensor, output: Tensor, positions: Tensor = positions) -> None:
                    each = weight_gradients(blocks[index], inputs, output)
                    self.parts[index][0, positions], self.parts[index][1, positions] = each.chunk(2)

                gradients.backward(take)

    def differences(self) -> list[Tensor]:
        """`[M, m, n]` float64 of each block, chosen minus rejected."""
        return [(part[0] - part[1]).double() for part in self.parts]

    def replay(self, sums: PairSums, curvature: Tensor, subset: Tensor) -> None:
        """Give the gradients to sums as a pass would, each matrix as the product of itself and an identity."""
        for index, part in enumerate(self.parts):
            each = part[:, subset].flatten(0, 1)
            rows, columns = each.shape[1:]
            identity = torch.eye(min(rows, columns)).expand(len(each), -1, -1)
            inputs, outputs = (each, identity) if rows <= columns else (identity, each.transpose(1, 2))
            mask = torch.ones(len(each), min(rows, columns))
            sums.add(index, inputs, outputs, PairBatch(curvature[subset], 0.0, mask))


def contrast_variances(blocks: list[BlockCurvature], priors: tuple[float, ...], differences: list[Tensor]) -> Tensor:
    """`[P, G]` variance of each difference with all prior precisions multiplied by each of the scales."""
    total = torch.zeros(len(differences[0]), len(SCALES), dtype=torch.float64)
    for block, prior, part in zip(blocks, priors, differences, strict=True):
        inside, outside = block.energies(part)
        total += inside.flatten(1) @ (block.eigenvalues.flatten().unsqueeze(1) + prior * SCALES).reciprocal()
        if outside is not None and block.remainder is not None:
            total += outside @ (block.remainder.unsqueeze(1) + prior * SCALES).reciprocal()
    return total


class Dual:
    """The exact posterior of all weights, from the inner products of the weighted pair differences."""

    def __init__(self, differences: list[Tensor], curvature: Tensor) -> None:
        self._rows = torch.cat([part.flatten(1) for part in differences], 1) * curvature.sqrt().unsqueeze(1)
        values, self._vectors = torch.linalg.eigh(self._rows @ self._rows.T)
        self.eigenvalues = values.clamp_min(0)

    def log_evidence(self, prior: float, squared_norm: float, log_likelihood: float) -> float:
        return log_likelihood - 0.5 * prior * squared_norm - 0.5 * float(torch.log1p(self.eigenvalues / prior).sum())

    def variances(self, prior: float, differences: list[Tensor]) -> Tensor:
        flat = torch.cat([part.flatten(1) for part in differences], 1)
        inner = (flat @ (self._rows.T @ self._vectors)).square()
        scaled = prior * SCALES
        explained = inner @ (self.eigenvalues.unsqueeze(1) + scaled).reciprocal()
        return (flat.square().sum(1, keepdim=True) - explained) / scaled


def make_posteriors(
    model: RewardModel, pairs: PairTexts, read: Gradients, sets: dict[str, list[Tensor]], rank: int, seed: int
) -> dict[str, dict[str, Any]]:
    """For each kind its evidence, prior precision, and the contrast variances of each set of pairs."""
    blocks = find_blocks(model)
    norms = [float(block.value().square().sum()) for block in blocks]
    chance = torch.sigmoid(read.contrast - pairs.margin)
    curvature = chance * (1 - chance)
    differences = read.differences()
    like = torch.zeros(())
    everything = torch.arange(len(pairs))
    kron, _ = fit_lora_laplace(model, pairs, "kron", max_rank=rank)
    likelihood = kron.log_likelihood
    basis_pairs = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:_BASIS_PAIRS].sort().values
    some, factors = FactorSums(blocks, rank, like), FactorSums(blocks, rank, like)
    read.replay(some, curvature, basis_pairs)
    read.replay(factors, curvature, everything)
    ekfac = EigenvalueSums(blocks, some.curvatures()[0], like)
    diagonal = EigenvalueSums(blocks, EigenvalueSums.identity(blocks, like), like)
    for sums in (ekfac, diagonal):
        read.replay(sums, curvature, everything)
    found: dict[str, dict[str, Any]] = {}
    double = torch.zeros((), dtype=torch.float64)
    structures = {
        "kron": list(kron.blocks),
        "pair_kron": factors.curvatures()[0],
        "ekfac": ekfac.curvatures(),
        "diag": diagonal.curvatures(),
    }
    for kind, curved in structures.items():
        exact = [block.to(double) for block in curved]
        for name, per_layer in ((kind, False), (f"{kind}, a prior per layer", True)):
            priors = maximize_prior_precision(exact, norms, per_layer=per_layer)
            found[name] = {
                "evidence": log_evidence(exact, norms, likelihood, priors),
                "prior_precision": math.exp(sum(map(math.log, priors)) / len(priors)),
                "trace": sum(block.trace() for block in exact),
                "variance": {name: contrast_variances(exact, priors, part) for name, part in sets.items()},
            }
    dual = Dual(differences, curvature)
    prior = minimize_on_log_scale(lambda value: -dual.log_evidence(value, sum(norms), likelihood), 1e-4, 1e8)
    found["full"] = {
        "evidence": dual.log_evidence(prior, sum(norms), likelihood),
        "prior_precision": prior,
        "trace": float(dual.eigenvalues.sum()),
        "variance": {name: dual.variances(prior, part) for name, part in sets.items()},
    }
    chosen, rejected = read.parts[-1][:, :, 0]
    options: dict[str, Any] = {"label": pairs.label, "margin": pairs.margin, "head": "kept"}
    last = LastLayerPosterior.fit(chosen, rejected, head_weight=model.head_values()[0], **options)
    variances: dict[str, list[Tensor]] = {name: [] for name in sets}
    for scale in PRIOR_SCALES:
        fitted = LastLayerPosterior.fit(
            chosen,
            rejected,
            head_weight=model.head_values()[0],
            prior_precision=scale * last.prior_precision,
            **options,
        )
        for name, part in sets.items():
            factor = fitted.covariance_factor.double()
            variances[name].append((part[-1][:, 0] @ factor).square().sum(1))
    found["last_layer"] = {
        "evidence": last.log_marginal_likelihood,
        "prior_precision": last.prior_precision,
        "trace": math.nan,
        "variance": {name: torch.stack(columns, 1) for name, columns in variances.items()},
    }
    return found


def measure(place: Path, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the tables need from one model; kept."""
    kept = CACHE / "posteriors" / f"{name}-{seed}{'-fast' if arguments.fast else ''}.pt"
    if kept.exists() and not arguments.fast:
        result: dict[str, Any] = torch.load(kept)
        return result
    sets = FAST_SETS if arguments.fast else SETS
    num_pairs, num_own, num_other = (40, 30, 20) if arguments.fast else (500, 300, 100)
    base = str(arguments.data / "tiny_lm_stories260K") if arguments.fast else encoder_folder()
    rows = rows_of(arguments.data / sets[name][0], num_pairs, seed)
    model = trained(base, rows, place, seed, 1 if arguments.fast else 3)
    blocks = find_blocks(model)
    pairs = encode_pairs(model, rows)
    read = Gradients(model, blocks, pairs)
    label, mean, group, differences = {}, {}, {}, {}
    for other, (_, test) in sets.items():
        test_rows = rows_of(arguments.data / test, num_own if other == name else num_other, 100 + seed)
        texts = encode_pairs(model, test_rows)
        part = Gradients(model, blocks, texts)
        label[other], mean[other], differences[other] = texts.label, part.contrast, part.differences()
        prompts: dict[str, int] = {}
        group[other] = torch.tensor([prompts.setdefault(str(row["prompt"]), len(prompts)) for row in test_rows])
    found = make_posteriors(model, pairs, read, differences, DEFAULT_MAX_RANK, seed)
    result = {"label": label, "mean": mean, "group": group, "found": found}
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, kept)
    return result


def rank_correlation(first: Tensor, second: Tensor) -> float:
    ranks = torch.stack([first.argsort().argsort().double(), second.argsort().argsort().double()])
    return float(torch.corrcoef(ranks)[0, 1])


def projection_row(place: Path, name: str, data: Path, fast: bool) -> dict[str, Any]:
    """Error of the contrast variances that a stored factor of 256 columns gives, over all pairs of some texts."""
    model = RewardModel.from_pretrained(place)
    blocks = find_blocks(model)
    rows = rows_of(data / (FAST_SETS if fast else SETS)[name][0], 40 if fast else 256, 0)
    posterior, _ = fit_lora_laplace(model, encode_pairs(model, rows), "ekfac")
    count = 15 if fast else 250
    part = Gradients(
        model, blocks, encode_pairs(model, rows_of(data / SETS[name][1], count, 100) if not fast else rows)
    )
    exact = torch.zeros(2 * len(part.contrast), 2 * len(part.contrast), dtype=torch.float64)
    sketch = torch.zeros(len(exact), posterior.factor_size)
    for seed, (block, gradients, prior) in enumerate(
        zip(posterior.blocks, part.parts, posterior.prior_precisions, strict=True)
    ):
        whitened = block.whiten(gradients.flatten(0, 1), prior)
        exact += (whitened @ whitened.T).double()
        sketch += Projection(whitened.shape[1], posterior.factor_size, seed, whitened)(whitened)
    stored = (sketch @ sketch.T).double()
    first, second = torch.triu_indices(len(exact), len(exact), 1)
    variances = [m.diagonal()[first] + m.diagonal()[second] - 2 * m[first, second] for m in (exact, stored)]
    apart = variances[0] > 1e-6 * variances[0].max()  # equal texts have no contrast
    ratio = (variances[1] / variances[0])[apart]
    return {
        "trained_on": name,
        "texts": len(exact),
        "contrasts": len(ratio),
        "columns": posterior.factor_size,
        "mean_ratio": float(ratio.mean()),
        "std_ratio": float(ratio.std()),
        "bound": (2 / posterior.factor_size) ** 0.5,
        "smallest": float(ratio.min()),
        "largest": float(ratio.max()),
        "top_1_percent_ratio": float(ratio[variances[1][apart].topk(max(1, len(ratio) // 100)).indices].mean()),
    }


def structure_rows(results: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """How near each structure's contrast variance is to the exact posterior's, model by model."""
    own = PRIOR_SCALES.index(1.0)
    rows = []
    for (name, seed), result in results.items():
        exact = result["found"]["full"]["variance"][name][:, own]
        for kind, found in result["found"].items():
            variance = found["variance"][name][:, own]
            apart = exact > 1e-6 * exact.max()  # equal texts have no contrast
            ratio = (variance[apart] / exact[apart]).log()
            rows.append(
                {
                    "trained_on": name,
                    "seed": seed,
                    "kind": kind,
                    "log_marginal_likelihood": found["evidence"],
                    "prior_precision": found["prior_precision"],
                    "trace_ratio": found["trace"] / result["found"]["full"]["trace"],
                    "rank_correlation": rank_correlation(variance, exact),
                    "log_ratio_mean": float(ratio.mean()),
                    "log_ratio_std": float(ratio.std()),
                }
            )
    return rows


def crossed(mean: Tensor, variance: Tensor, label: Tensor, group: Tensor) -> tuple[Tensor, Tensor, float]:
    """Held-out choice without double use: each half of the prompts takes the scale and temperature of the other half.

    Returns:
        Variance `[P]` at the chosen scale, logit temperature `[P]`, and the geometric mean of the two scales.
    """
    half = group % 2 == 0
    picked, temperature = torch.empty_like(mean), torch.empty_like(mean)
    logs = 0.0
    for side in (half, ~half):
        nll = [float(pair_scores(mean[~side], column[~side], label[~side]).nll.mean()) for column in variance.unbind(1)]
        best = nll.index(min(nll))
        logs += math.log(PRIOR_SCALES[best]) / 2
        picked[side] = variance[side, best]
        temperature[side] = fit_logit_temperature(mean[~side], label[~side])
    return picked, temperature, math.exp(logs)


def calibration_rows(results: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """How each posterior predicts held-out pairs of its own set, and whether its variance notices another set."""
    own = PRIOR_SCALES.index(1.0)
    rows = []
    for name in dict.fromkeys(name for name, _ in results):
        chosen = {seed: result for (other, seed), result in results.items() if other == name}
        kinds = ["mean alone", "mean, logit temperature", *next(iter(chosen.values()))["found"]]
        for kind in kinds:
            for by in ("evidence", "held_out") if not kind.startswith("mean") else ("",):
                figures: dict[str, list[Tensor]] = {}
                shifts: list[float] = []
                scales: list[float] = []
                for seed, result in chosen.items():
                    mean, label, group = (result[key][name] for key in ("mean", "label", "group"))
                    shown, variance = mean, None
                    if kind == "mean, logit temperature":
                        shown = mean / crossed(mean, mean.new_zeros(len(mean), len(SCALES)), label, group)[1]
                    elif by:
                        every = result["found"][kind]["variance"]
                        variance = every[name][:, own]
                        if by == "held_out":
                            variance, _, scale = crossed(mean, every[name], label, group)
                            scales.append(scale)
                        others = torch.cat([every[other][:, own] for other in result["mean"] if other != name])
                        shifts.append(auroc(others, every[name][:, own]))
                    scores = pair_scores(shown, variance, label)
                    confidence = (scores.probability - 0.5).abs()
                    parts = {
                        "nll": scores.nll,
                        "nll_mean": pair_scores(mean, None, label).nll,
                        "brier": scores.brier,
                        "probability": scores.probability,
                        "label": label,
                        "confidence": confidence,
                        "error": 1 - scores.accuracy,
                        "group": group + 10_000 * seed,
                    }
                    for key, value in parts.items():
                        figures.setdefault(key, []).append(value)
                joined = {key: torch.cat(value) for key, value in figures.items()}
                against = bootstrap_difference(joined["nll"], joined["nll_mean"], joined["group"])
                rows.append(
                    {
                        "trained_on": name,
                        "kind": kind,
                        "prior_by": by,
                        "pairs": len(joined["nll"]),
                        "accuracy": float(1 - joined["error"].mean()),
                        "nll": float(joined["nll"].mean()),
                        "nll_minus_mean": float(against.estimate),
                        "low": float(against.low),
                        "high": float(against.high),
                        "brier": float(joined["brier"].mean()),
                        "ece": expected_calibration_error(joined["probability"], joined["label"]),
                        "aurc": area_under_risk_coverage(joined["confidence"], joined["error"]),
                        "auroc_shift": sum(shifts) / len(shifts) if shifts else math.nan,
                        "prior_scale": math.exp(sum(map(math.log, scales)) / len(scales)) if scales else math.nan,
                    }
                )
    return rows


def write(rows: list[dict[str, Any]], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})


def show(rows: list[dict[str, Any]]) -> None:
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PRUDENT_SHARED_DATA", "../shared/data")))
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--models", type=Path, default=CACHE / "lora", help="where trained models are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for seed in range(1 if arguments.fast else 3):
        for name in FAST_SETS if arguments.fast else SETS:
            results[name, seed] = measure(arguments.models / f"{name}-{seed}", name, seed, arguments)
            print(f"measured {name}-{seed}", flush=True)
    structures, calibration = structure_rows(results), calibration_rows(results)
    sets = FAST_SETS if arguments.fast else SETS
    projections = [
        projection_row(arguments.models / f"{name}-0", name, arguments.data, arguments.fast) for name in sets
    ]
    for table in (structures, calibration, projections):
        show(table)
    if not arguments.fast:
        write(projections, "projection.csv")
        write(structures, "structures.csv")
        write(calibration, "calibration.csv")


if __name__ == "__main__":
    main()
