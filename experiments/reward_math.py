"""Several models of one property: which rule should put them together?

Real scores of public models for ten solutions, one right, of 238 problems (RewardMATH): nine scalar reward models, and
for comparison eight scores of process reward models and nine LLM judges. Each model is put on the scale of logits by
pairs of right and wrong solutions of half of the problems, or left out where no scale makes it better than a coin;
every rule is then tested on the other half. Five random splits, each half once for calibration and once for the test;
then the same with a tenth of the problems for calibration. Solutions that a rule gives one value count as ranked at
random among them.

    python experiments/reward_math.py --data DATA         # writes tables and figure in experiments/reward_math/
    python experiments/reward_math.py --data DATA --fast  # seconds: 32 problems, one split, no table
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prudent.data import load_pools
from prudent.errors import PosteriorError
from prudent.metrics import bootstrap, bootstrap_difference
from prudent.posteriors import LastLayerPosterior, MemberCalibration, calibrate_member
from prudent.rewards import GaussianRewards
from prudent.utility import RewardSet, parse_utility

RESULTS = Path(__file__).with_suffix("")
FAMILIES = {"rm": "scalar reward models", "prm": "process reward models", "judge": "LLM judges"}
SPLITS = 5
FOLDS = (2, 10)
"""Calibration on one of so many folds of the problems, twice a split, and tests on the others."""
RULES = {
    "mean": "ensemble({centered}) | mean",
    "median": "ensemble({centered}) | quantile(0.5)",
    "worst": "ensemble({centered}) | worst",
    "cvar, 0.5": "ensemble({centered}) | cvar(0.5)",
    "lcb_std, 1": "ensemble({centered}) | lcb_std(1)",
    "UWO, 0.1": "ensemble({centered}, ddof=0) | lcb_var(0.1)",
    "UWO, 0.5": "ensemble({centered}, ddof=0) | lcb_var(0.5)",
    "UWO, 1": "ensemble({centered}, ddof=0) | lcb_var(1)",
    "median, levels kept": "ensemble({levels}) | quantile(0.5)",
    "worst, levels kept": "ensemble({levels}) | worst",
    "UWO, 0.5, levels kept": "ensemble({levels}, ddof=0) | lcb_var(0.5)",
    "entropic, 0.25": "ensemble({centered}) | entropic(0.25)",
    "entropic, 1": "ensemble({centered}) | entropic(1)",
    "entropic, 4": "ensemble({centered}) | entropic(4)",
    "probability_good": "ensemble({centered}) | probability_good",
    "log_probability_good": "ensemble({centered}) | log_probability_good",
    "log_probability_good, q = 0.85": "ensemble({high}) | log_probability_good",
    "prob_best": "ensemble({centered}) | prob_best",
    "all_of": "all_of({centered_log_sigmoid})",
    "all_of, q = 0.85": "all_of({high_log_sigmoid})",
    "any_of": "any_of({centered_log_sigmoid})",
    "any_of, q = 0.85": "any_of({high_log_sigmoid})",
    "minimum, q = 0.85": "minimum({high})",
    "mean of ranks": "ensemble({ranked}) | mean",
    "mean of z-scores": "ensemble({standardized}) | mean",
}
PARTS = {
    "centered": "center(mean)",
    "high": "center(q=0.85)",
    "centered_log_sigmoid": "center(mean) | log_sigmoid",
    "high_log_sigmoid": "center(q=0.85) | log_sigmoid",
    "ranked": "quantile_rank",
    "standardized": "center(mean) | standardize(of=all)",
}
ALL_MODELS = {
    "all models, mean of z-scores": "ensemble({standardized}) | mean",
    "all models, median of z-scores": "ensemble({standardized}) | quantile(0.5)",
    "all models, worst z-score": "ensemble({standardized}) | worst",
    "all models, mean of ranks": "ensemble({ranked}) | mean",
}
"""Without calibration, so that models which rank against the labels are among them."""


@dataclass
class Problems:
    """B problems with n solutions.

    Attributes:
        scores: for each model `[B, n]`, larger is better.
        right: `[B, n]` booleans, one true a problem.
    """

    scores: dict[str, Tensor]
    right: Tensor

    def __len__(self) -> int:
        return len(self.right)

    def taking(self, rows: Tensor) -> "Problems":
        return Problems({name: values[rows] for name, values in self.scores.items()}, self.right[rows])


def load(path: Path, family: str) -> Problems:
    """The scores of a family of models."""

    def adapt(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"prompt": row["problem"], "responses": row["solution_model"], "gold": row["is_correct"]}

    rows = load_pools(path, adapt=adapt).rows
    names = [name for name in rows.column_names if name.startswith(f"{family}_")]
    right = torch.tensor(rows["gold"]) > 0
    if bool((right.sum(1) != 1).any()):
        raise ValueError("a problem does not have exactly one right solution")
    return Problems({name.removeprefix(f"{family}_"): torch.tensor(rows[name]).double() for name in names}, right)


def placed(values: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Probability `[B]` that the right solution comes first, and its mean reciprocal rank, ties broken at random."""
    own = values[right].unsqueeze(1)
    above, tied = (values > own).sum(1), (values == own).sum(1)
    reciprocal = [float((1 / torch.arange(a + 1, a + t + 1)).mean()) for a, t in zip(above, tied, strict=True)]
    first = torch.where(above == 0, 1 / tied, torch.zeros_like(tied, dtype=torch.float64))
    return first.double(), torch.tensor(reciprocal, dtype=torch.float64)


def offset(values: Tensor, right: Tensor) -> Tensor:
    """What makes the mean over the pairs zero, as `prudent.scoring.score_members` has it."""
    return -(values[right].mean() + values[~right].mean()) / 2


def contrasts(values: Tensor, right: Tensor) -> Tensor:
    """`[B * (n - 1)]` value of the right solution minus each wrong one's."""
    return (values[right].unsqueeze(1) - values[~right].reshape(len(values), -1)).reshape(-1)


def calibrated(problems: Problems) -> dict[str, MemberCalibration]:
    """The models that pairs of these problems give a scale to."""
    group = torch.arange(len(problems)).repeat_interleave(problems.right.shape[1] - 1)
    found = {}
    for name, values in problems.scores.items():
        try:
            found[name] = calibrate_member(name, contrasts(values, problems.right), None, group)
        except PosteriorError:
            continue
    return found


def reward_set(scores: dict[str, Tensor], variance: dict[str, float]) -> RewardSet:
    """Every model a reward of its own; all solutions of a problem are its references."""
    shape = next(iter(scores.values())).shape
    group = torch.arange(shape[0]).repeat_interleave(shape[1])
    rewards = {
        name: GaussianRewards(values.reshape(-1), torch.full_like(values.reshape(-1), variance.get(name, 0.0)), group)
        for name, values in scores.items()
    }
    return RewardSet(rewards, is_reference=torch.ones(len(group), dtype=torch.bool))


def written(rule: str, names: list[str]) -> str:
    parts = {part: ", ".join(f"{name} | {steps}" for name in names) for part, steps in PARTS.items()}
    return rule.format(levels=", ".join(names), **parts)


def learned_weights(scores: dict[str, Tensor], right: Tensor) -> list[float]:
    """Of a Bradley-Terry model on the models' scores, its prior precision by evidence; scores in one unit."""
    columns = torch.stack([contrasts(values, right) for values in scores.values()], 1)
    posterior = LastLayerPosterior.fit(columns / 2, -columns / 2, pooling="mean", standardize=False)
    return [round(float(weight), 6) for weight in posterior.weight]


def of_split(problems: Problems, fitted: Tensor, tested: Tensor) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """For every rule both figures `[b]` of the tested problems, calibrated on the fitted ones; and the models kept."""
    train, test = problems.taking(fitted), problems.taking(tested)
    found = calibrated(train)
    names = list(found)
    logits, train_logits = ({name: found[name].scale * one.scores[name] for name in names} for one in (test, train))
    logits = {name: logits[name] + offset(train_logits[name], train.right) for name in names}
    values = {rule: parse_utility(written(text, names))(reward_set(logits, {})) for rule, text in RULES.items()}
    everyone = list(problems.scores)
    for rule, text in ALL_MODELS.items():
        values[rule] = parse_utility(written(text, everyone))(reward_set(test.scores, {}))
    weights = learned_weights(train_logits, train.right)
    values["learned weights"] = parse_utility(f"weighted({written('{centered}', names)}, weights={weights})")(
        reward_set(logits, {})
    )
    # each model as an estimate of one quantity, in which right and wrong solutions are 1 apart on average
    gaps = {name: contrasts(train_logits[name], train.right) for name in names}
    unit = {name: float(gap.mean()) for name, gap in gaps.items()}
    variance = {name: float(gap.var()) / unit[name] ** 2 / 2 for name, gap in gaps.items()}
    between = torch.corrcoef(torch.stack(list(gaps.values())))
    apart = float((between.sum() - len(names)) / (len(names) * (len(names) - 1)))
    estimates = reward_set({name: logits[name] / unit[name] for name in names}, variance)
    centered = written("{centered}", names)
    values["product"] = parse_utility(f"product({centered})")(estimates)
    values["product, correlated"] = parse_utility(f"product({centered}, correlation={max(0.0, apart):.3f})")(estimates)
    best = max(names, key=lambda name: float(placed(train.scores[name], train.right)[0].mean()))
    values["best model of the other half"] = test.scores[best].reshape(-1)
    figures = {rule: placed(value.reshape(test.right.shape), test.right) for rule, value in values.items()}
    # of models that tie, the chance that any of several picks rightly is not known: the best of them counts
    singles = torch.stack([torch.stack(placed(test.scores[name], test.right)) for name in names])
    figures["oracle, any model kept"] = tuple(singles.amax(0))
    return figures, names


def run(problems: Problems, num_folds: int, num_splits: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """For every rule `[fits, B, 2]` accuracy and reciprocal rank; the share of fits in which each model was kept."""
    results: dict[str, Tensor] = {}
    kept = dict.fromkeys(problems.scores, 0.0)
    num_fits = 2 * num_splits
    for fit in range(num_fits):
        order = torch.randperm(len(problems), generator=torch.Generator().manual_seed(fit // 2))
        fold = torch.arange(len(order)) * num_folds // len(order) == fit % 2
        tested = order[~fold]
        found, names = of_split(problems, order[fold], tested)
        for rule, columns in found.items():
            empty = torch.full((num_fits, len(problems), 2), torch.nan, dtype=torch.float64)
            results.setdefault(rule, empty)[fit, tested] = torch.stack(columns, 1)
        for name in names:
            kept[name] += 1 / num_fits
    singles = {name: torch.stack(placed(values, problems.right), 1) for name, values in problems.scores.items()}
    best = max(singles, key=lambda name: float(singles[name][:, 0].mean()))
    results["best model in hindsight"] = singles[best].expand(num_fits, -1, -1)
    size = problems.right.shape[1]
    chance = torch.tensor([1 / size, float((1 / torch.arange(1, size + 1)).mean())], dtype=torch.float64)
    results["random"] = chance.expand(num_fits, len(problems), 2)
    return results, kept


def figures(name: str, interval: Any) -> dict[str, float]:
    return {name: float(interval.estimate), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}


def rule_rows(family: str, num_calibration: int, results: dict[str, Tensor]) -> list[dict[str, Any]]:
    rows = []
    for rule, values in results.items():
        row: dict[str, Any] = {"family": family, "calibration_problems": num_calibration, "rule": rule}
        for place, figure in enumerate(("accuracy", "mrr")):
            mine, base = values[:, :, place], results["mean"][:, :, place]
            row |= figures(figure, bootstrap(mine.nanmean(0)))
            row[f"{figure}_std_over_fits"] = float(mine.nanmean(1).std())
            row |= figures(f"{figure}_minus_mean", bootstrap_difference(mine.nanmean(0), base.nanmean(0)))
        rows.append(row)
    return rows


def model_rows(family: str, problems: Problems, kept: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    rows = []
    for name, values in problems.scores.items():
        first, reciprocal = placed(values, problems.right)
        contrast = contrasts(values, problems.right)
        ranked = float(((contrast > 0) + 0.5 * (contrast == 0)).double().mean())
        row = {"family": family, "model": name} | {f"kept_of_{count}": found[name] for count, found in kept.items()}
        row |= {"pair_accuracy": ranked, "accuracy": float(first.mean()), "mrr": float(reciprocal.mean())}
        rows.append(row)
    return rows


def draw_figure(rows: list[dict[str, Any]], place: Path) -> None:
    """Accuracy of every rule with its interval, calibrated on half of the problems, a panel a family."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row["calibration_problems"] == rows[0]["calibration_problems"]]
    order = [row["rule"] for row in rows if row["family"] == next(iter(FAMILIES))]
    order.sort(key=lambda rule: next(float(row["accuracy"]) for row in rows if row["rule"] == rule))
    bounds = {"random", "oracle, any model kept", "best model in hindsight", "best model of the other half"}
    figure, axes = plt.subplots(1, len(FAMILIES), figsize=(13.5, 7), sharey=True)
    for axis, (family, title) in zip(axes, FAMILIES.items(), strict=True):
        found = {row["rule"]: row for row in rows if row["family"] == family}
        axis.axvline(float(found["mean"]["accuracy"]), color="0.7", linewidth=1)
        for height, rule in enumerate(order):
            value, low, high = (float(found[rule][f"accuracy{end}"]) for end in ("", "_low", "_high"))
            color = "0.5" if rule in bounds else "C1" if rule.startswith("all models") else "C0"
            axis.plot([low, high], [height, height], "|-", color=color, linewidth=1.2)
            axis.plot([value], [height], "o", color=color, markersize=5)
        axis.set_yticks(range(len(order)), order, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("right solution of ten first")
        axis.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(place, dpi=130)


def write(rows: list[dict[str, Any]], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()})


def experiment(
    path: Path, num_splits: int, folds: tuple[int, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of rules, behind those of the families their average, and rows of models."""
    results: dict[int, dict[str, dict[str, Tensor]]] = {}
    models = []
    for family in FAMILIES:
        problems = load(path, family)
        kept = {}
        for num_folds in folds:
            count = round(len(problems) / num_folds)
            results.setdefault(count, {})[family], kept[count] = run(problems, num_folds, num_splits)
        models += model_rows(family, problems, kept)
    rules = []
    for count, found in results.items():
        found["average"] = {
            rule: torch.stack([one[rule] for one in found.values()]).mean(0) for rule in found[next(iter(FAMILIES))]
        }
        for family, one in found.items():
            rules += rule_rows(family, count, one)
    return rules, models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--fast", action="store_true", help="32 problems, one split, no table written")
    options = parser.parse_args()
    path = options.data / ("ci/rewardmath_scores_32.jsonl" if options.fast else "rewardmath_scores_dev.parquet")
    rules, models = experiment(path, 1, FOLDS[:1]) if options.fast else experiment(path, SPLITS, FOLDS)
    for row in rules:
        print(
            f"{row['family']:7} {row['calibration_problems']:3} {row['rule']:32} {row['accuracy']:.3f} "
            f"[{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]  minus mean {row['accuracy_minus_mean']:+.3f} "
            f"[{row['accuracy_minus_mean_low']:+.3f}, {row['accuracy_minus_mean_high']:+.3f}]  MRR {row['mrr']:.3f}"
        )
    for row in models:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    if not options.fast:
        write(rules, "rules.csv")
        write(models, "models.csv")
        draw_figure(rules, RESULTS / "rules.png")


if __name__ == "__main__":
    main()
