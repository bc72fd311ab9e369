"""Rewards of the candidates under each posterior, and the gold curves of best-of-n on them, prompt by prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from prudent.posteriors import LastLayerPosterior, Prediction
from prudent.selection import best_of_n_curve, shuffle_within_groups

VARIANCES = ("marginal", "centered")
RULES = ("lcb_std", "lcb_var")


@dataclass(frozen=True)
class Rewards:
    """What one proxy says of N candidates.

    Attributes:
        mean: `[N]`.
        variance: by name: `marginal` `[N]`, `centered` `[N]` (of the reward minus that of the prompt's references).
        members: `[N, M]` rewards minus each member's own average over the references; None for a single model.
    """

    mean: Tensor
    variance: Mapping[str, Tensor]
    members: Tensor | None = None

    def strength_unit(self, rule: str, variance: str, group: Tensor) -> float:
        """The strength at which a typical penalty is as large as rewards spread within a prompt."""
        spread = torch.stack([self.mean[group == prompt].double().std() for prompt in group.unique()]).mean()
        typical = self.variance[variance].double().median()
        return float(spread / (typical.sqrt() if rule == "lcb_std" else typical))

    def value(self, rule: str, variance: str, strength: float, doubt: Tensor | None = None) -> Tensor:
        """`[N]` float64 `lcb_std(strength)` or `lcb_var(strength)`; `doubt` stands for the variance where given."""
        known = (self.variance[variance] if doubt is None else doubt).double().clamp_min(0)
        return self.mean.double() - strength * (known.sqrt() if rule == "lcb_std" else known)


def single(found: Prediction) -> Rewards:
    """The rewards of one model."""
    return Rewards(found.mean, {"marginal": found.variance, "centered": found.centered_variance})


def ensemble(found: Sequence[Prediction]) -> Rewards:
    """Several models as one, by the law of total variance, as `prudent.posteriors.EnsembleScorer` joins them."""
    members = torch.stack([one.mean for one in found], 1)
    deviations = members - torch.stack([one.reference_mean for one in found], 1)
    within = torch.stack([one.variance for one in found], 1).mean(1)
    centered = torch.stack([one.centered_variance for one in found], 1).mean(1)
    variance = {"marginal": members.var(1) + within, "centered": deviations.var(1) + centered}
    return Rewards(members.mean(1), variance, deviations)


def last_layer(read: Mapping[str, Tensor], head: str, group: Tensor, is_reference: Tensor) -> Prediction:
    """The candidates under a last-layer posterior: `refit`, the head of highest evidence, or `kept`, as trained."""
    weight = {"head_weight": read["head"]} if head == "kept" else {}
    posterior = LastLayerPosterior.fit(read["chosen"], read["rejected"], head=head, **weight)
    return posterior.predict_features(read["pool"], group=group, reference_weight=is_reference.float())


@dataclass(frozen=True)
class Candidates:
    """N candidates of some prompts.

    Attributes:
        gold: `[N]`.
        length: `[N]` characters.
        group: `[N]` prompts.
        is_reference: `[N]`.
        n_values: ascending.
    """

    gold: Tensor
    length: Tensor
    group: Tensor
    is_reference: Tensor
    n_values: Sequence[int]

    def curve(self, value: Tensor) -> Tensor:
        """Gold `[B, L]` of the best of n."""
        return best_of_n_curve(value.double(), self.gold, self.group, self.n_values)


def candidates(table: pa.Table, n_values: Sequence[int]) -> Candidates:
    """A block of candidates as tensors."""
    columns = [torch.from_numpy(table[name].to_numpy().copy()) for name in ("gold", "length", "prompt_id")]
    is_reference = torch.from_numpy(table["is_reference"].to_numpy(zero_copy_only=False).copy())
    return Candidates(columns[0].double(), columns[1].double(), columns[2], is_reference, n_values)


def rule_curves(
    rewards: Rewards,
    pool: Candidates,
    strengths: Sequence[float],
    *,
    num_shuffles: int,
    seed: int,
) -> dict[str, Tensor]:
    """Gold curves `[B, L]`: `mean`, and `RULE/VARIANCE/STRENGTH` at strengths in units of `strength_unit`.

    `shuffled/...` are the same after the variances were permuted among the candidates of each prompt, averaged over
    permutations; `least/VARIANCE` picks the smallest variance, whatever the mean; `proxy` is what the mean itself says
    of its pick, less its average over the pool.
    """
    found = {"mean": pool.curve(rewards.mean)}
    proxy = best_of_n_curve(rewards.mean.double(), rewards.mean.double(), pool.group, pool.n_values)
    found["proxy"] = proxy - proxy[:, :1]
    generator = torch.Generator().manual_seed(seed)
    for variance in VARIANCES:
        found[f"least/{variance}"] = pool.curve(-rewards.variance[variance])
        permuted = [
            shuffle_within_groups(rewards.variance[variance], pool.group, generator) for _ in range(num_shuffles)
        ]
        for rule in RULES:
            unit = rewards.strength_unit(rule, variance, pool.group)
            for strength in strengths:
                key = f"{rule}/{variance}/{strength:g}"
                found[key] = pool.curve(rewards.value(rule, variance, strength * unit))
                if permuted:
                    curves = [pool.curve(rewards.value(rule, variance, strength * unit, doubt)) for doubt in permuted]
                    found[f"shuffled/{key}"] = torch.stack(curves).mean(0)
    return found


def control_curves(pool: Candidates) -> dict[str, Tensor]:
    """Gold curves that no proxy has a part in."""
    random = torch.stack([pool.gold[pool.group == prompt].mean() for prompt in pool.group.unique()])
    return {
        "random": random[:, None].expand(-1, len(pool.n_values)).clone(),
        "longest": pool.curve(pool.length),
        "oracle": pool.curve(pool.gold),
    }
