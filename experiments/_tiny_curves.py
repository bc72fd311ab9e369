"""What the held-out sentences of a run say of every look, and of arms at equal distance from the first policy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from prudent.metrics import (
    Interval,
    bootstrap,
    bootstrap_difference,
    bootstrap_statistic,
    fit_scaling_law,
    wilson_interval,
)

MEASURES = ("gold", "proxy", "proxy_std", "words", "tokens", "cut", "below_proxy", "below_gold", "worse_prompts")
"""Of a look: gold minus that of the first policy; the proxy likewise, in its standard deviations within prompts of the
first policy; the posterior's std in the same unit; words; tokens; share of sentences that were cut; shares of sentences
whose proxy and whose gold are below the 0.85 quantile of the first policy's to their prompt, which is what the
log-sigmoid is centered on; share of prompts whose sentences have less gold on average than those of the first
policy."""

QUANTILE = 0.85
FARTHEST = 10.0
"""Square root of the KL that stands for a peak that never comes."""

Values = NDArray[np.float64]
Looks = list[dict[str, Any]]


def look_measures(samples: pa.Table, prompts: Sequence[str], gold: Values, proxy: Values) -> Looks:
    """A row a look, by step.

    Args:
        samples: of `align`, completions of held-out prompts at every look.
        prompts: of each sentence of the first policy.
        gold: of each.
        proxy: of each.
    """
    number = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    of = np.array([number[prompt] for prompt in prompts])
    own = np.array([number[prompt] for prompt in samples["prompt"].to_pylist()])
    means = [_by_prompt(values, of, np.mean) for values in (gold, proxy)]
    bars = [_by_prompt(values, of, lambda one: np.quantile(one, QUANTILE)) for values in (gold, proxy)]
    unit = float(np.sqrt(np.mean((proxy - means[1][of]) ** 2)))
    column = {name: samples[name].to_numpy(zero_copy_only=False) for name in samples.column_names if name != "prompt"}
    words = np.array([len(text.split()) for text in column["response"]])
    looks: Looks = []
    for step in np.unique(column["step"]):
        here = column["step"] == step
        worth, reward, place = column["gold"][here], column["reward_mean"][here], own[here]
        kl = float(column["kl"][here].mean())
        looks.append(
            {
                "step": int(step),
                "root_kl": max(kl, 0.0) ** 0.5,
                "gold": float(np.mean(worth - means[0][place])),
                "proxy": float(np.mean(reward - means[1][place])) / unit,
                "proxy_std": float(column["reward_std"][here].mean()) / unit,
                "words": float(words[here].mean()),
                "tokens": float(column["num_tokens"][here].mean()),
                "cut": float(column["is_cut"][here].mean()),
                "below_proxy": float(np.mean(reward < bars[1][place])),
                "below_gold": float(np.mean(worth < bars[0][place])),
                "worse_prompts": float(np.mean(_by_prompt(worth - means[0][place], place, np.mean) < 0)),
            }
        )
    return looks


def _by_prompt(values: Values, place: NDArray[np.int64], statistic: Any) -> Values:
    return np.array([statistic(values[place == number]) for number in np.unique(place)])


def at_root_kl(looks: Looks, points: Sequence[float]) -> dict[str, Values]:
    """Every measure at given square roots of the KL, linear between neighboring looks; NaN beyond the farthest.

    Looks are ordered by their KL, not by their step: what is compared is what a run is like at that distance.
    """
    ordered = sorted(looks, key=lambda look: look["root_kl"])
    reached = [look["root_kl"] for look in ordered]
    return {
        measure: np.interp(points, reached, [look[measure] for look in ordered], right=np.nan) for measure in MEASURES
    }


def at_the_end(looks: Looks) -> dict[str, Values]:
    """Every measure, and the root of the KL, at the last look."""
    last = max(looks, key=lambda look: look["step"])
    return {measure: np.array([last[measure]]) for measure in ("root_kl", *MEASURES)}


def compared_rows(
    runs_of: Mapping[str, Sequence[Mapping[str, Values]]],
    points: Sequence[float],
    *,
    num_resamples: int,
    table: str = "matched",
) -> list[dict[str, Any]]:
    """Arms side by side, with 95 % intervals over seeds; differences from `mean` are paired by seed.

    Args:
        runs_of: by arm, for every seed what `at_root_kl` gives, or `at_the_end`.
        points: square roots of the KL. Where there are several, the average over those that every run of every arm
            reaches is told too, as `root_kl` NaN. For the end: NaN alone.
        num_resamples: of the seeds.
        table: what the rows are to be called; those of differences are `<table>, minus mean`.
    """
    rows: list[dict[str, Any]] = []
    measures = list(next(iter(runs_of.values()))[0])
    common = ~np.isnan([one["gold"] for runs in runs_of.values() for one in runs]).any(0)
    values = {
        arm: {measure: _with_average(np.array([one[measure] for one in runs]), common) for measure in measures}
        for arm, runs in runs_of.items()
    }
    places = [*points, float("nan")] if len(points) > 1 else list(points)
    minus = f"{table}, minus mean"

    def add(kind: str, arm: str, measure: str, point: int, found: tuple[float, float, float], count: int) -> None:
        value, low, high = found
        if not np.isfinite(value):  # no seed has it
            return
        rows.append(
            {
                "table": kind,
                "arm": arm,
                "root_kl": places[point],
                "measure": measure,
                "value": value,
                "low": low,
                "high": high,
                "num_seeds": count,
            }
        )

    for arm, own in values.items():
        for measure in measures:
            found = bootstrap(own[measure], num_resamples=num_resamples)
            for point in range(len(places)):
                add(table, arm, measure, point, _at(found, point), _present(own[measure][:, point]))
                if arm != "mean":
                    pair = torch.stack([own[measure][:, point], values["mean"][measure][:, point]])
                    both = pair[:, ~pair.isnan().any(0)]
                    if both.shape[1] > 1:
                        difference = bootstrap_difference(both[0], both[1], num_resamples=num_resamples)
                        add(minus, arm, measure, point, _at(difference), both.shape[1])
        if len(points) > 1:
            for name, found in _law(own["gold"][:, :-1], points, num_resamples).items():
                add("law", arm, name, len(points), found, len(own["gold"]))
        for point in range(len(places)):
            gold = own["gold"][:, point]
            known = gold[~gold.isnan()]
            if len(known) > 1:
                share = float((known < 0).double().mean())
                low, high = wilson_interval(share, len(known))
                add(table, arm, "gold below the first policy's", point, (share, low, high), len(known))
                add(table, arm, "std of gold", point, _spread(known[None], num_resamples), len(known))
            if arm != "mean":
                pair = torch.stack([gold, values["mean"]["gold"][:, point]])
                both = pair[:, ~pair.isnan().any(0)]
                if both.shape[1] > 1:
                    add(minus, arm, "std of gold", point, _spread(both, num_resamples), both.shape[1])
                    lead = bootstrap_difference(
                        (both[0] < 0).double(), (both[1] < 0).double(), num_resamples=num_resamples
                    )
                    add(minus, arm, "gold below the first policy's", point, _at(lead), both.shape[1])
    return rows


def _law(gold: torch.Tensor, points: Sequence[float], num_resamples: int) -> dict[str, tuple[float, float, float]]:
    """R(d) = d (alpha - beta ln d) fitted to the mean gold over seeds, at the points that all of them reach."""
    common = ~gold.isnan().any(0)
    known, kl = gold[:, common], torch.tensor(points, dtype=torch.float64)[common].square()
    if len(known) < 2 or len(kl) < 2:
        return {}

    def statistic(rows: torch.Tensor) -> torch.Tensor:
        law = fit_scaling_law(kl, known[rows].mean(0), "rl")
        peak = law.peak_kl.sqrt().nan_to_num(FARTHEST).clamp(max=FARTHEST)
        return torch.stack([law.alpha, law.beta, peak, law.r_squared])

    found = bootstrap_statistic(statistic, torch.arange(len(known)), num_resamples=num_resamples)
    names = ("alpha", "beta", "root_kl of the peak", "r_squared")
    return {name: _at(found, place) for place, name in enumerate(names)}


def _with_average(values: Values, common: NDArray[np.bool_]) -> torch.Tensor:
    """`[S, L + 1]`: the last column is the average over the points that all reach; NaN where there is none."""
    average = values[:, common].mean(1, keepdims=True) if common.any() else np.full((len(values), 1), np.nan)
    return torch.from_numpy(np.concatenate([values, average], 1))


def _present(values: torch.Tensor) -> int:
    return int((~values.isnan()).sum())


def _at(found: Interval, point: int | None = None) -> tuple[float, float, float]:
    parts = (found.estimate, found.low, found.high)
    value, low, high = (float(one if point is None else one[point]) for one in parts)
    return value, low, high


def _spread(gold: torch.Tensor, num_resamples: int) -> tuple[float, float, float]:
    """Standard deviation over seeds (ddof 1) of gold `[1, S]`, or of the first row minus that of the second."""

    def statistic(rows: torch.Tensor) -> torch.Tensor:
        spread = gold[:, rows].std(1)
        return spread[0] if len(spread) == 1 else spread[0] - spread[1]

    return _at(bootstrap_statistic(statistic, torch.arange(gold.shape[1]), num_resamples=num_resamples))
