"""Helpful and harmless: does an AND of two rewards pick more that is good in both than any weighted sum of them?

Two Bradley-Terry reward models on frozen features (all-MiniLM-L6-v2, mean-pooled in bfloat16; last-layer posterior,
prior precision by evidence), one of 500 pairs of HH helpful, one of 500 of HH harmless; five seeds draw the pairs. A
pool is a test prompt of either kind with its own two responses and fourteen that were given to like prompts, seven of
each kind: HH has no more than two responses to a prompt. What is good is said by gold models, trained on all training
pairs that the proxies of that seed have not seen, on hashed words and word pairs of the response together with the
frozen features.

    python experiments/combine.py --data DATA         # writes the tables and the figure in experiments/combine/
    python experiments/combine.py --data DATA --check # the same on other draws and less alike pools: check.csv
    python experiments/combine.py --data DATA --fast  # seconds: small slices, one seed, no table

Features and measurements are kept under `.cache/experiments/`: the first run takes about ten minutes.
"""

import argparse
import collections
import csv
import hashlib
import itertools
import math
import os
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _features import CACHE, frozen_features
from real_pools import draw_pairs, encoder_folder
from torch import Tensor

from prudent.data import load_preferences
from prudent.metrics import (
    Interval,
    bootstrap,
    bootstrap_statistic,
    fit_logit_temperature,
    pair_scores,
    spearman_within,
)
from prudent.models import RewardModel
from prudent.posteriors import LastLayerPosterior
from prudent.rewards import GaussianRewards
from prudent.selection import best_of_n_curve, shuffle_within_groups
from prudent.utility import RewardSet, parse_utility

RESULTS = Path(__file__).with_suffix("")
KINDS = ("helpful", "harmless")
OTHERS = 7
"""Responses to other prompts, of each kind, in a pool."""
NEAREST = 25
"""Prompts of a kind whose responses those are drawn from."""
NUM_PAIRS = 500
SEEDS = 5
N_VALUES = [1, 2, 4, 8, 16]
WEIGHTS = [round(0.05 * step, 2) for step in range(21)]
GOLDS = ("both", "words")
"""Gold on words and word pairs together with frozen features, and on words and word pairs alone."""
QUANTILES = {"median": 0.5, "quarter": 0.25, "top": 0.85}
LEVELS = (*QUANTILES, "chosen")
"""Good: gold above a quantile of the pool; `chosen`: above the median gold of chosen test responses of that kind."""
MAIN = tuple((GOLDS[0], level) for level in LEVELS[:2])
SIZE = 1 << 14
"""Places that words and word pairs are hashed to."""
PENALTY = 300.0
DENSE = 0.5
"""What a standardized frozen feature counts beside the count of a word. Both by cross-validation on training pairs."""


def both(steps: str) -> str:
    """The arguments of a combination: each reward piped through the same steps."""
    return f"helpful | {steps}, harmless | {steps}"


LSC = both("center | log_sigmoid")
RULES: dict[str, str] = {
    "all_of": f"all_of({LSC})",
    "all_of, log_probability_good": f"all_of({both('center | log_probability_good')})",
    "all_of, lcb_std": f"all_of({LSC}) | lcb_std(1)",
    "all_of, q = 0.5": f"all_of({both('center(q=0.5) | log_sigmoid')})",
    "all_of, q = 0.95": f"all_of({both('center(q=0.95) | log_sigmoid')})",
    "all_of, temperature 0.3": f"all_of({both('center | temperature(0.3) | log_sigmoid')})",
    "all_of, temperature 0.1": f"all_of({both('center | temperature(0.1) | log_sigmoid')})",
    "all_of, temperature 0.03": f"all_of({both('center | temperature(0.03) | log_sigmoid')})",
    "all_of, standardized": f"all_of({both('standardize | log_sigmoid')})",
    "all_of, standardized, temperature 0.3": f"all_of({both('standardize | temperature(0.3) | log_sigmoid')})",
    "minimum": f"minimum({both('center')})",
    "minimum of means": f"minimum({both('center | mean')})",
    "minimum of standardized means": f"minimum({both('standardize | mean')})",
    "any_of": f"any_of({LSC})",
    "helpful": "helpful | mean",
    "harmless": "harmless | mean",
}
CONTROLLED = ("all_of", "all_of, temperature 0.1", "all_of, standardized")
CONTROLS = ("means only", "shuffled variances")
"""These rules also without variances, and with those of a pool's responses shuffled."""
SWEEPS = {
    "raw sum": "weighted(helpful, harmless, weights=[{0}, {1}])",
    "raw sum, lcb_std": "weighted(helpful, harmless, weights=[{0}, {1}]) | lcb_std(1)",
    "standardized sum": f"weighted({both('standardize')}, weights=[{{0}}, {{1}}])",
    "all_of, weighted": f"all_of({LSC}, weights=[{{0}}, {{1}}])",
}
"""For every weight w of the helpful reward, 1 - w of the harmless one."""
IDEAL = "of gold: "
"""Stands before rules that are given gold in place of the proxies: their shape without the error of proxies."""
IS_SWEEP = re.compile(rf"^({IDEAL})?({'|'.join(SWEEPS)}) [01]\.\d\d$")
IDEAL_RULES = ("all_of", "all_of, temperature 0.1", "all_of, standardized", "minimum of means")
IDEAL_SWEEPS = ("raw sum", "standardized sum")


@dataclass
class Pairs:
    """P pairs of one kind: texts, and features `[P, H]` of the chosen and of the rejected response."""

    prompts: list[Any]
    responses: tuple[list[str], list[str]]
    features: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass
class Pool:
    """N responses to B prompts.

    Attributes:
        responses: N texts.
        features: `[N, H]` of each with its prompt.
        group: `[N]` prompt of each.
        place: `[N]` 0 for the prompt's own chosen response, 1 for its rejected one, from 2 on responses to others.
        kind: `[B]` place of the prompt's kind in `KINDS`.
    """

    responses: list[str]
    features: Tensor
    group: Tensor
    place: Tensor
    kind: Tensor


def text_of(response: Any) -> str:
    return response if isinstance(response, str) else response[0]["content"]


def read_pairs(model: RewardModel, path: Path, rows: slice) -> Pairs:
    """Pairs with distinct prompts, read and made features of."""
    table = load_preferences(path).rows
    distinct = list({str(row["prompt"]): number for number, row in reversed(list(enumerate(table)))}.values())
    table = table.select(sorted(distinct)[rows])
    prompts = list(table["prompt"])
    sides = tuple([text_of(response) for response in table[side]] for side in ("chosen", "rejected"))
    features = frozen_features(model, f"Reading {path.stem}", prompts * 2, sides[0] + sides[1])
    return Pairs(prompts, sides, (features[: len(prompts)], features[len(prompts) :]))


def make_pool(model: RewardModel, tests: list[Pairs], others: int, nearest: int, seed: int = 0) -> Pool:
    """Every prompt with its own two responses, and as many of each kind from those to its nearest prompts of that kind.

    A prompt is where the features of its two pairs of texts are on average.
    """
    generator = torch.Generator().manual_seed(seed)
    centers = [torch.nn.functional.normalize(sum(pairs.features), dim=1) for pairs in tests]
    prompts, responses, group, place, kind = [], [], [], [], []
    for own_kind, pairs in enumerate(tests):
        for number, prompt in enumerate(pairs.prompts):
            texts = [side[number] for side in pairs.responses]
            for other_kind, other in enumerate(tests):
                likeness = centers[other_kind] @ centers[own_kind][number]
                if other_kind == own_kind:
                    likeness[number] = -torch.inf
                near = likeness.topk(min(nearest, len(other) - 1)).indices
                drawn = torch.randperm(2 * len(near), generator=generator)[:others].tolist()
                texts += [other.responses[draw % 2][int(near[draw // 2])] for draw in drawn]
            prompts += [prompt] * len(texts)
            responses += texts
            group += [len(kind)] * len(texts)
            place += range(len(texts))
            kind.append(own_kind)
    features = frozen_features(model, "Reading pools", prompts, responses)
    return Pool(responses, features, torch.tensor(group), torch.tensor(place), torch.tensor(kind))


def ngrams(text: str) -> Tensor:
    """`[SIZE]` signed sums of 1 + log count of the words and word pairs that are hashed to each place."""
    words = re.findall(r"[a-z0-9']+|[^\w\s]", text.lower())
    counts = collections.Counter([*words, *map(" ".join, itertools.pairwise(words))])
    found = torch.zeros(SIZE)
    for gram, count in counts.items():
        code = zlib.crc32(gram.encode())
        found[code % SIZE] += (1 if code >> 31 else -1) * (1 + math.log(count))
    return found


def fit_ridge(differences: Tensor) -> Tensor:
    """Weights `[F]` of largest Bradley-Terry likelihood of pair differences `[P, F]` with a ridge penalty."""
    weight = torch.zeros(differences.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.softplus(-(differences @ weight)).sum() + 0.5 * PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


@dataclass
class Texts:
    """What is read of a kind once for all seeds.

    Attributes:
        train: its training pairs.
        test: its test pairs.
        words: `[P, SIZE]` difference of the training pairs in words and word pairs.
        test_words: the same of the test pairs.
        scale: `[H]` standard deviation of the frozen features.
    """

    train: Pairs
    test: Pairs
    words: Tensor
    test_words: Tensor
    scale: Tensor

    @classmethod
    def of(cls, train: Pairs, test: Pairs) -> "Texts":
        words = [
            torch.stack([ngrams(chosen) - ngrams(rejected) for chosen, rejected in zip(*pairs.responses, strict=True)])
            for pairs in (train, test)
        ]
        return cls(train, test, *words, torch.cat(train.features).std(0))


def gold_of(texts: Texts, kept: Tensor, pool: Pool, pool_words: tuple[Tensor, Tensor]) -> dict[str, list[Tensor]]:
    """For each gold, fitted to some training pairs: contrasts `[P]` of the test pairs, rewards `[N]` of the pool."""
    distinct, place = pool_words
    dense = DENSE / texts.scale
    words = fit_ridge(texts.words[kept])
    differences = (texts.train.features[0] - texts.train.features[1])[kept] * dense
    joint = fit_ridge(torch.cat([texts.words[kept], differences], 1))
    test = (texts.test.features[0] - texts.test.features[1]) * dense
    return {
        "words": [texts.test_words @ words, (distinct @ words)[place]],
        "both": [
            texts.test_words @ joint[:SIZE] + test @ joint[SIZE:],
            (distinct @ joint[:SIZE])[place] + (pool.features * dense) @ joint[SIZE:],
        ],
    }


def good(gold: Tensor, pool: Pool, kind: int, level: str) -> Tensor:
    """`[N]` booleans."""
    if level == "chosen":
        own_kind = pool.kind[pool.group] == kind
        return gold > gold[own_kind & (pool.place == 0)].median()
    each = gold.reshape(len(pool.kind), -1)
    return (each > each.quantile(QUANTILES[level], dim=1, keepdim=True)).reshape(-1)


def utilities(rewards: RewardSet, certain: RewardSet, shuffled: RewardSet, gold: RewardSet) -> dict[str, Tensor]:
    """The utility `[N]` of every rule and weight."""
    texts = [(name, text, rewards) for name, text in RULES.items()]
    for name in CONTROLLED:
        texts += [
            (f"{name}, {how}", RULES[name], given) for how, given in zip(CONTROLS, (certain, shuffled), strict=True)
        ]
    texts += [(IDEAL + name, RULES[name], gold) for name in IDEAL_RULES]
    for weight in WEIGHTS:
        pair = weight, round(1 - weight, 2)
        texts += [(f"{name} {weight:.2f}", text.format(*pair), rewards) for name, text in SWEEPS.items()]
        texts += [(f"{IDEAL}{name} {weight:.2f}", SWEEPS[name].format(*pair), gold) for name in IDEAL_SWEEPS]
    return {name: parse_utility(text)(given) for name, text, given in texts} | {"random": torch.zeros(len(rewards))}


def certain_set(rewards: list[Tensor], pool: Pool) -> RewardSet:
    """Rewards without a variance; all responses of a pool are its references."""
    found = {
        name: GaussianRewards(values, torch.zeros_like(values), pool.group)
        for name, values in zip(KINDS, rewards, strict=True)
    }
    return RewardSet(found, is_reference=torch.ones(len(pool.group), dtype=torch.bool))


def shuffled_set(rewards: RewardSet, seed: int) -> RewardSet:
    """The same means, the variances of each pool's responses permuted."""
    generator = torch.Generator().manual_seed(seed)
    against = {}
    for name, one in rewards.against_references.items():
        variance = shuffle_within_groups(one.variance, one.group, generator)
        against[name] = GaussianRewards(one.mean, variance, one.group)
    return replace(rewards, against_references=against)


def reward_set(posteriors: list[LastLayerPosterior], pool: Pool) -> RewardSet:
    """The proxies' rewards with their variances; all responses of a pool are its references."""
    references = torch.ones(len(pool.group))
    rewards, against = {}, {}
    for name, posterior in zip(KINDS, posteriors, strict=True):
        found = posterior.predict_features(pool.features, group=pool.group, reference_weight=references)
        rewards[name] = GaussianRewards(found.mean, found.variance, pool.group)
        against[name] = GaussianRewards(found.mean, found.centered_variance, pool.group)
    return RewardSet(rewards, against, references.bool())


@dataclass
class Seed:
    """What one draw of training pairs gives.

    Attributes:
        curves: for each rule `[B, L, V]`, the share of picks of best-of-n that are good, V = golds x levels x
            (helpful, harmless, both).
        human: for each rule `[B]`, whether it ranks the prompt's own two responses as people did, ties a half.
        models: rows of the table of models.
    """

    curves: dict[str, Tensor]
    human: dict[str, Tensor]
    models: list[dict[str, Any]]


def run_seed(seed: int, texts: list[Texts], pool: Pool, pool_words: tuple[Tensor, Tensor], count: int) -> Seed:
    posteriors, golds, models = [], [], []
    for name, one in zip(KINDS, texts, strict=True):
        order = draw_pairs(len(one.train), len(one.train), seed)
        drawn, kept = order[:count], order[count:]
        posteriors.append(LastLayerPosterior.fit(*(side[drawn] for side in one.train.features), pooling="mean"))
        golds.append(gold_of(one, kept, pool, pool_words))
        contrast = (one.test.features[0] - one.test.features[1]) @ posteriors[-1].weight
        proxy = pool.features @ posteriors[-1].weight
        models.append(model_row("proxy", name, seed, len(drawn), contrast, proxy, proxy, pool))
        for gold, (gold_contrast, rewards) in golds[-1].items():
            models.append(model_row(f"gold, {gold}", name, seed, len(kept), gold_contrast, rewards, proxy, pool))
    for gold in GOLDS:
        between = spearman_within(golds[0][gold][1], golds[1][gold][1], pool.group).nanmean()
        models.append({"model": f"gold, {gold}", "kind": "helpful with harmless", "seed": seed, "rank": float(between)})
    between = spearman_within(*(pool.features @ posterior.weight for posterior in posteriors), pool.group).nanmean()
    models.append({"model": "proxy", "kind": "helpful with harmless", "seed": seed, "rank": float(between)})
    flags = []
    for gold in GOLDS:
        for level in LEVELS:
            parts = [good(golds[kind][gold][1], pool, kind, level) for kind in range(len(KINDS))]
            flags += [*parts, parts[0] & parts[1]]
    values = torch.stack(flags, 1).double()
    n_values = [n for n in N_VALUES if n <= int(torch.bincount(pool.group).max())]
    rewards = reward_set(posteriors, pool)
    found = utilities(
        rewards,
        certain_set([rewards.rewards[name].mean for name in KINDS], pool),
        shuffled_set(rewards, seed),
        certain_set([golds[kind][GOLDS[0]][1] for kind in range(len(KINDS))], pool),
    )
    curves = {name: best_of_n_curve(utility, values, pool.group, n_values) for name, utility in found.items()}
    # the oracle knows what is good in both: of every gold and level its own
    curves["oracle"] = torch.cat(
        [best_of_n_curve(part[:, 2], part, pool.group, n_values) for part in values.split(3, dim=1)], 2
    )
    own = pool.place < 2
    human = {
        name: best_of_n_curve(utility[own], (pool.place[own] == 0).double(), pool.group[own], [2])[:, 0]
        for name, utility in found.items()
    }
    return Seed(curves, human, models)


def model_row(
    model: str, kind: str, seed: int, pairs: int, contrast: Tensor, rewards: Tensor, proxy: Tensor, pool: Pool
) -> dict[str, Any]:
    """How good a model is on the test pairs of its kind, and how its ranking of a pool agrees with the proxy's."""
    scores = pair_scores(contrast.double(), None, torch.ones(len(contrast), dtype=torch.float64))
    return {
        "model": model,
        "kind": kind,
        "seed": seed,
        "pairs": pairs,
        "accuracy": float(scores.accuracy.mean()),
        "nll": float(scores.nll.mean()),
        "logit_temperature": fit_logit_temperature(contrast.double(), torch.ones(len(contrast), dtype=torch.float64)),
        "std_within": float(rewards.reshape(len(pool.kind), -1).std(1).mean()),
        "rank": float(spearman_within(rewards, proxy, pool.group).nanmean()),
    }


def together(seeds: list[Seed], what: str) -> dict[str, Tensor]:
    """Every rule's results, averaged over the seeds within prompts."""
    return {
        name: torch.stack([getattr(seed, what)[name] for seed in seeds]).mean(0) for name in getattr(seeds[0], what)
    }


def figures(name: str, interval: Interval, place: Any = ()) -> dict[str, float]:
    ends = (("", interval.estimate), ("_low", interval.low), ("_high", interval.high))
    return {f"{name}{end}": float(values[place]) for end, values in ends}


def column_of(gold: str, level: str, part: int) -> int:
    return (GOLDS.index(gold) * len(LEVELS) + LEVELS.index(level)) * 3 + part


def share_rows(curves: dict[str, Tensor], n_values: list[int], kind: Tensor) -> list[dict[str, Any]]:
    """Shares of good picks at the last n; for the first gold and level at every n; of sums for what matters most."""
    rows = []
    for rule, curve in curves.items():
        found = bootstrap(curve)
        by_kind = [curve[kind == place].mean(0) for place in range(len(KINDS))]
        is_sweep = bool(IS_SWEEP.search(rule))
        for gold, level in itertools.product(GOLDS, LEVELS):
            if is_sweep and (gold, level) not in MAIN:
                continue
            is_first = gold == GOLDS[0] and level == LEVELS[0] and not is_sweep
            for place in range(0 if is_first else len(n_values) - 1, len(n_values)):
                row = {"gold": gold, "level": level, "n": n_values[place], "rule": rule}
                for part, name in enumerate((*KINDS, "both")):
                    row |= figures(name, found, (place, column_of(gold, level, part)))
                for name, means in zip(KINDS, by_kind, strict=True):
                    row[f"both_of_{name}_prompts"] = float(means[place, column_of(gold, level, 2)])
                rows.append(row)
    return sorted(rows, key=lambda row: (GOLDS.index(row["gold"]), LEVELS.index(row["level"]), row["n"]))


def sweep_of(curves: dict[str, Tensor], name: str) -> Tensor:
    """`[W, B, ...]` of all weights."""
    return torch.stack([curves[f"{name} {weight:.2f}"] for weight in WEIGHTS])


def of_other_half(values: Tensor) -> tuple[Tensor, list[float]]:
    """`[B]` with the weight that is best on the other half of the prompts; values are `[W, B]`."""
    half = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(0)) % 2 == 0
    found, weights = torch.empty_like(values[0]), []
    for side in (half, ~half):
        best = int(values[:, ~side].mean(1).argmax())
        found[side] = values[best][side]
        weights.append(WEIGHTS[best])
    return found, weights


def difference_rows(curves: dict[str, Tensor], n_values: list[int]) -> list[dict[str, Any]]:
    """Share good in both of every AND, minus that of sums: at the best weight in hindsight, of the other half, 0.5.

    Every n for the first gold and level against raw sums, else the last n alone; other sums for what matters most.
    """
    rules = [name for name in curves if name.startswith(("all_of", "minimum")) and not IS_SWEEP.search(name)]
    pairs = [(rules, name) for name in SWEEPS] + [([IDEAL + name for name in IDEAL_RULES], IDEAL + IDEAL_SWEEPS[0])]
    rows = []
    for gold, level, (mine, name) in itertools.product(GOLDS, LEVELS, pairs):
        if (gold, level) not in MAIN and not name.endswith("raw sum"):
            continue
        is_first = gold == GOLDS[0] and level == LEVELS[0] and name == "raw sum"
        for place in range(1 if is_first else len(n_values) - 1, len(n_values)):
            column = column_of(gold, level, 2)
            values = torch.stack([curves[rule][:, place, column] for rule in mine], 1)
            rows += against_sweep(
                {"gold": gold, "level": level, "n": n_values[place], "against": name},
                dict(zip(mine, values.T, strict=True)),
                sweep_of(curves, name)[:, :, place, column],
                curves["random"][:, place, column],
            )
    return rows


def against_sweep(
    about: dict[str, Any], rules: dict[str, Tensor], sweep: Tensor, random: Tensor
) -> list[dict[str, Any]]:
    """Rules `[B]` against all weights `[W, B]` of a sum."""
    values = torch.stack(list(rules.values()), 1)
    best = int(sweep.mean(1).argmax())
    halves, weights = of_other_half(sweep)
    joined = torch.cat([values, sweep.T], 1)

    def minus_best(rows: Tensor) -> Tensor:
        means = joined[rows].mean(0)
        return means[: len(rules)] - means[len(rules) :].max()

    against = {
        "minus_best": bootstrap(values - sweep[best, :, None]),
        # the best weight is found again in every resample: what is left of hindsight is in the interval
        "minus_best_again": bootstrap_statistic(minus_best, torch.arange(len(joined))),
        "minus_other_half": bootstrap(values - halves[:, None]),
        "minus_equal": bootstrap(values - sweep[WEIGHTS.index(0.5), :, None]),
        "minus_random": bootstrap(values - random[:, None]),
    }
    rows = []
    for number, rule in enumerate(rules):
        row = about | {"best_weight": WEIGHTS[best], "weights_of_other_half": " ".join(map(str, weights)), "rule": rule}
        for what, found in against.items():
            row |= figures(what, found, number)
        rows.append(row)
    return rows


def control_rows(curves: dict[str, Tensor], n_values: list[int]) -> list[dict[str, Any]]:
    """Share good in both with the variances, minus that without them and with shuffled ones."""
    rows = []
    for rule, control in itertools.product(CONTROLLED, CONTROLS):
        found = bootstrap(curves[rule] - curves[f"{rule}, {control}"])
        for gold, level in itertools.product(GOLDS, LEVELS):
            row = {"gold": gold, "level": level, "n": n_values[-1], "rule": rule, "minus": control}
            rows.append(row | figures("difference", found, (-1, column_of(gold, level, 2))))
    return rows


def human_rows(human: dict[str, Tensor], kind: Tensor) -> list[dict[str, Any]]:
    """How often each rule ranks a prompt's own two responses as people did; both kinds of prompts count alike."""
    agrees = torch.stack(list(human.values()), 1)
    base = human["all_of"]

    def average(rows: Tensor) -> Tensor:
        both_kinds = [agrees[rows][kind[rows] == place] for place in range(len(KINDS))]
        means = [values.mean(0) for values in both_kinds]
        bases = [base[rows][kind[rows] == place].mean() for place in range(len(KINDS))]
        return torch.stack([*means, sum(means) / 2, (sum(means) - sum(bases)) / 2])

    found = bootstrap_statistic(average, torch.arange(len(agrees)), stratum=kind)
    names = (*KINDS, "average", "average_minus_all_of")
    return [
        {"rule": rule}
        | {
            key: value
            for place, name in enumerate(names)
            for key, value in figures(name, found, (place, number)).items()
        }
        for number, rule in enumerate(human)
    ]


def draw_figure(shares: list[dict[str, Any]], human: list[dict[str, Any]], n_values: list[int], place: Path) -> None:
    """Frontiers by gold, of gold itself and by people, and the share good in both against n."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11.5, 10.5))
    shares = [row for row in shares if row["gold"] == GOLDS[0] and row["level"] == LEVELS[0]]
    last = [row for row in shares if row["n"] == n_values[-1]]
    points = {
        "all_of": ("C3", "o"),
        "all_of, means only": ("C1", "s"),
        "all_of, standardized": ("C4", "^"),
        "minimum": ("C5", "v"),
        "minimum of means": ("C6", "<"),
        "any_of": ("C7", "D"),
    }
    lines = {"raw sum": ("C0", "-"), "standardized sum": ("C2", "--"), "all_of, weighted": ("C3", ":")}
    panels = (
        (axes[0, 0], last, "", "share of picks above the median of gold, best of 16"),
        (axes[0, 1], last, IDEAL, "the same, gold itself in place of the proxies"),
        (axes[1, 0], human, "", "own two responses ranked as people did"),
    )
    for axis, rows, before, title in panels:
        found = {row["rule"].removeprefix(before): row for row in rows if row["rule"].startswith(before)}
        for name, (color, style) in lines.items():
            line = [found[f"{name} {weight:.2f}"] for weight in WEIGHTS if f"{name} {weight:.2f}" in found]
            x, y = ([row[kind] for row in line] for kind in KINDS)
            axis.plot(x, y, style, color=color, marker=".", markersize=4, linewidth=1.2, label=f"{name}, all weights")
        for name, (color, marker) in points.items():
            if name not in found:
                continue
            row = found[name]
            x, y = (row[kind] for kind in KINDS)
            axis.plot([row[f"{KINDS[0]}_{end}"] for end in ("low", "high")], [y, y], color=color, linewidth=0.9)
            axis.plot([x, x], [row[f"{KINDS[1]}_{end}"] for end in ("low", "high")], color=color, linewidth=0.9)
            axis.plot([x], [y], marker, color=color, label=name)
        axis.set_xlabel("helpful")
        axis.set_ylabel("harmless")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axis = axes[1, 1]
    colors = {name: color for name, (color, _) in points.items()} | {"helpful": "0.3", "harmless": "0.6", "random": "k"}
    for name, color in colors.items():
        line = [row for row in shares if row["rule"] == name]
        style = "--" if name in (*KINDS, "random") else ".-"
        axis.plot(n_values, [row["both"] for row in line], style, label=name, linewidth=1.2, color=color)
        if name in ("all_of", "all_of, standardized"):
            ends = ([row[f"both_{end}"] for row in line] for end in ("low", "high"))
            axis.fill_between(n_values, *ends, alpha=0.12, color=color)
    sums = [row["both"] for row in last if row["rule"].startswith("raw sum ")]
    axis.plot(n_values[-1:], [max(sums)], "*", color="C0", markersize=11, label="raw sum, best weight in hindsight")
    axis.set_xscale("log", base=2)
    axis.set_xticks(n_values, [str(n) for n in n_values])
    axis.set_xlabel("n")
    axis.set_title("share of picks above the median of both golds", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(place, dpi=110)


def write(rows: list[dict[str, Any]], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=names, lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()})


def digest() -> str:
    """Names what is measured, so that nothing measured otherwise is taken for it."""
    settings = (RULES, CONTROLLED, CONTROLS, SWEEPS, IDEAL_RULES, IDEAL_SWEEPS, QUANTILES, WEIGHTS, N_VALUES)
    settings += (NUM_PAIRS, OTHERS, NEAREST, SIZE, PENALTY, DENSE)
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]


def experiment(data: Path, fast: bool, check: bool = False) -> tuple[list[Seed], Pool]:
    """What every seed gives; to check, other seeds, and pools from all prompts in place of the nearest."""
    model = RewardModel.from_pretrained(encoder_folder(), dtype=torch.bfloat16, max_length=64 if fast else 512)
    if fast:
        places = {
            name: [(f"ci/hh_{name}_256.jsonl", slice(0, 40)), (f"ci/hh_{name}_256.jsonl", slice(40, 48))]
            for name in KINDS
        }
    else:
        places = {name: [(f"hh_{name}_{split}.parquet", slice(None)) for split in ("train", "test")] for name in KINDS}
    read = {name: [read_pairs(model, data / path, rows) for path, rows in places[name]] for name in KINDS}
    others, nearest = (3, 5) if fast else (OTHERS, len(read[KINDS[0]][1]) if check else NEAREST)
    pool = make_pool(model, [read[name][1] for name in KINDS], others, nearest, int(check))
    texts = [Texts.of(*read[name]) for name in KINDS]
    distinct = {text: number for number, text in enumerate(dict.fromkeys(pool.responses))}
    words = torch.stack([ngrams(text) for text in distinct]), torch.tensor([distinct[text] for text in pool.responses])
    seeds = []
    first = SEEDS if check else 0
    for seed in range(first, first + (1 if fast else SEEDS)):
        place = CACHE / "combine" / f"{digest()}-{seed}.pt"
        if place.exists() and not fast:
            seeds.append(Seed(**torch.load(place)))
            continue
        seeds.append(run_seed(seed, texts, pool, words, 25 if fast else NUM_PAIRS))
        if not fast:
            place.parent.mkdir(parents=True, exist_ok=True)
            torch.save(vars(seeds[-1]), place)
        print(f"measured seed {seed}", flush=True)
    return seeds, pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--fast", action="store_true", help="small slices, one seed, no table written")
    parser.add_argument("--check", action="store_true", help="other draws, and pools that are less alike")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    seeds, pool = experiment(options.data, options.fast, options.check)
    curves, human = together(seeds, "curves"), together(seeds, "human")
    n_values = N_VALUES[: next(iter(curves.values())).shape[1]]
    differences = difference_rows(curves, n_values)
    for row in differences:
        if row["n"] == n_values[-1] and row["against"].endswith("raw sum"):
            print(
                f"{row['gold']:6} {row['level']:7} {row['rule']:40} minus the best raw sum ({row['best_weight']:.2f}) "
                f"{row['minus_best']:+.3f} [{row['minus_best_low']:+.3f}, {row['minus_best_high']:+.3f}]"
            )
    if options.fast:
        return
    if options.check:
        write(
            [row for row in differences if row["n"] == n_values[-1] and row["against"].endswith("raw sum")], "check.csv"
        )
        return
    shares = share_rows(curves, n_values, pool.kind)
    agreement = human_rows(human, pool.kind)
    write([row for seed in seeds for row in seed.models], "models.csv")
    write(shares, "shares.csv")
    write(differences, "differences.csv")
    write(control_rows(curves, n_values), "controls.csv")
    write(agreement, "human.csv")
    draw_figure(shares, agreement, n_values, RESULTS / "frontier.png")


if __name__ == "__main__":
    main()
