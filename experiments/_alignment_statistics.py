"""Statistics over reward models and prompts of policies at equal KL, with intervals, and differences to one arm.

What is resampled are the reward models and the prompts of each pool, each independently; the same draws serve all arms,
so that differences are paired. Five worlds are too few to be resampled: they are what they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LEVEL = 0.95


def shares(count: int, num_resamples: int, generator: torch.Generator) -> Tensor:
    """`[1 + R, count]` weights of a bootstrap; the first ones are equal."""
    drawn = torch.randint(count, (num_resamples, count), generator=generator)
    counted = torch.zeros(num_resamples, count).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float32))
    return torch.cat([torch.ones(1, count), counted]) / count


def of_pool(outcome: Mapping[str, Tensor], seeds: Tensor, prompts: Tensor) -> dict[str, Tensor]:
    """Statistics `[R, ...]` of one pool.

    Args:
        outcome: `[S, B, ...]` each: `gain` in gold over the reference policy, and others that are averaged.
        seeds: `[R, S]` weights.
        prompts: `[R, B]` weights.
    """
    found = {}
    for name, values in outcome.items():
        flat = values.float().flatten(2)
        by_seed = torch.einsum("rb,sbc->rsc", prompts, flat)
        found[name] = torch.einsum("rs,rsc->rc", seeds, by_seed)
        if name == "gain":
            found["run_std"] = _std(seeds[:, None], by_seed)[:, 0]
            # of a reward model, whose policy is then used on many prompts; and of one prompt
            found["run_below"] = torch.einsum("rs,rsc->rc", seeds, _is_below(by_seed))
            found["prompt_below"] = torch.einsum("rs,rb,sbc->rc", seeds, prompts, _is_below(flat))
            squares = torch.einsum("rs,sbc->rbc", seeds, flat.square())
            centers = torch.einsum("rs,sbc->rbc", seeds, flat)
            std = (squares - centers.square()).clamp_min(0).sqrt()
            found["prompt_std"] = torch.einsum("rb,rbc->rc", prompts, std)
    return {name: values.unflatten(1, outcome["gain"].shape[2:]) for name, values in found.items()}


def _std(seeds: Tensor, values: Tensor) -> Tensor:
    mean = seeds @ values
    return (seeds @ (values - mean).square()).sqrt()


def _is_below(gain: Tensor) -> Tensor:
    return torch.where(gain.isnan(), gain, (gain < 0).float())


def rows(
    outcomes: Sequence[Mapping[str, Tensor]], arms: Sequence[str], targets: Sequence[float], num_resamples: int
) -> list[dict[str, Any]]:
    """A row for each statistic, arm and KL, averaged over the pools.

    Args:
        outcomes: of each pool, tensors `[S, B, A, T]`.
        arms: A names, the first of which is what others are compared with.
        targets: T values of KL.
        num_resamples: of the bootstrap.
    """
    generator = torch.Generator().manual_seed(0)
    parts = []
    for outcome in outcomes:
        count = outcome["gain"].shape[:2]
        weights = [shares(size, num_resamples, generator) for size in count]
        # by chunks of resamples: [R, S, A T] numbers at once
        chunks = [of_pool(outcome, *pair) for pair in zip(*(weight.split(100) for weight in weights), strict=True)]
        parts.append({name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})
    table = []
    for name in parts[0]:
        values = torch.stack([part[name] for part in parts]).mean(0)
        minus = values - values[:, :1]
        for column, arm in enumerate(arms):
            for line, target in enumerate(targets):
                row = {"arm": arm, "kl": target, "statistic": name}
                row |= interval(values[:, column, line])
                row |= {f"minus_mean_{key}": value for key, value in interval(minus[:, column, line]).items()}
                table.append(row)
    return table


def interval(draws: Tensor) -> dict[str, float]:
    """The first of the draws `[1 + R]` with the percentile interval of the others."""
    if bool(draws.isnan().any()):
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(draws[1:], torch.tensor([tail, 1 - tail])).tolist()
    return {"value": float(draws[0]), "low": low, "high": high}
