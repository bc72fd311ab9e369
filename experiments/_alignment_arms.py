"""The arms of offline alignment over a pool: what each makes of a block of reward models.

Arms are those of `prudent.alignment.ARMS`, and controls beside them: other variances, the variance of another
candidate, what length explains of the variance and what it does not, the variance without the reward, length and gold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from _alignment_policies import (
    GradientRule,
    Weigh,
    linear_policy,
    sign_rule,
    signcert_rule,
    weighted_advantage_policy,
)
from _alignment_pools import Judged, Pool
from torch import Tensor

from prudent.alignment import ARMS, KlForm, kl_weights
from prudent.alignment.bandit import kl_optimum, weighted_kl_optimum
from prudent.metrics import partial_out
from prudent.rewards import GaussianRewards, MemberRewards, RewardPosterior
from prudent.selection import shuffle_within_groups
from prudent.utility import RewardSet, parse_utility

ON_MEMBERS = ("entropic", "worst")
WHOLE = "sign, whole", "signcert, whole"
"""Weights on whole advantages, KL penalty included, which leave a policy with a parameter a candidate at `mean`'s
optimum, where all whole advantages are 0. Those of the library weigh the advantage of the reward alone."""
TABULAR = (
    *ARMS,
    "variance_kl, contrast",
    "variance_kl, members",
    "penalty of variance_kl",
    "variance_kl, shuffled",
    "variance_kl, length",
    "variance_kl, length out",
    "lcb, shuffled",
    "lcb, length",
    "lcb, length out",
    "least variance",
    "longest",
    "oracle",
)
LINEAR = (*ARMS, *WHOLE, "penalty of variance_kl", "variance_kl, shuffled", "lcb, shuffled", "least variance")


@dataclass(frozen=True)
class Recipe:
    """How an arm moves the policy.

    Attributes:
        utility: from coefficients of the KL penalty `[S, C]` to `[S, 1 or C, B, n]`.
        spread: `[S]` standard deviation of the utility within a prompt, the unit of the coefficients.
        kl_weight: `[S, 1, B, n]` of the penalty, or None for 1.
        kl_form: how the penalty weighs candidates.
        weigh: of advantages.
        is_whole: whether it weighs whole advantages.
    """

    utility: Callable[[Tensor], Tensor]
    spread: Tensor
    kl_weight: Tensor | None = None
    kl_form: KlForm = "constant"
    weigh: Weigh | None = None
    is_whole: bool = False

    def optimum(self, kl_coef: Tensor, log_reference: Tensor) -> Tensor:
        """The policy `[S, C, B, n]` with a parameter a candidate at which the gradient vanishes."""
        utility = self.utility(kl_coef)
        if self.weigh is not None:
            return weighted_advantage_policy(utility, kl_coef, log_reference, self.weigh)
        reference, scaled = log_reference.exp(), kl_coef[..., None, None]
        if self.kl_weight is None:
            return kl_optimum(utility, reference, scaled).float()
        return weighted_kl_optimum(utility, self.kl_weight, reference, scaled, kl_form=self.kl_form).float()

    def ascent(self, kl_coef: Tensor, features: Tensor, log_reference: Tensor, num_steps: int) -> Tensor:
        """The policy `[S, C, B, n]` with parameters shared by all prompts, by gradient ascent."""
        scaled = kl_coef[..., None, None]
        rule = GradientRule(
            self.utility(kl_coef),
            scaled if self.kl_weight is None else scaled * self.kl_weight,
            self.kl_form != "in_reward",
            self.weigh,
            self.is_whole,
        )
        return linear_policy(rule, kl_coef, features, log_reference, num_steps=num_steps)


class Block:
    """Some reward models of a pool.

    Args:
        judged: what each makes of the candidates.
        pool: the candidates.
        seeds: of the models.
        signcert_quantile: see `signcert_rule`.
    """

    def __init__(self, judged: Sequence[Judged], pool: Pool, seeds: Sequence[int], signcert_quantile: float) -> None:
        self.judged = judged
        self.pool = pool
        self.seeds = seeds
        self.signcert_quantile = signcert_quantile
        self.features = cache(pool.white_features)

    def recipe(self, name: str) -> Recipe:
        """What an arm or a control does."""
        base, _, kind = name.partition(", ")
        if name in ("longest", "oracle"):
            values = self.pool.length if name == "longest" else self.pool.gold
            return self._fixed(values.expand(len(self.judged), -1))
        if name == "penalty of variance_kl":
            weight, mean = self.weight("own"), self.mean
            return Recipe(lambda kl_coef: mean - kl_coef[..., None, None] * weight, self.spread(mean))
        if base in ("lcb", "least variance"):
            std = torch.stack([self.std(place, kind or "own") for place in range(len(self.judged))])
            return self._fixed(torch.stack([one.mean for one in self.judged]) - std if base == "lcb" else -std)
        arm = ARMS[base]
        if "{kl_coef}" in arm.utility:
            return Recipe(lambda kl_coef: self.tied(arm.utility_at, kl_coef), self.spread(self.mean))
        fixed = self._fixed(torch.stack([self.worth(place, arm.utility, base) for place in range(len(self.judged))]))
        return Recipe(
            fixed.utility,
            fixed.spread,
            kl_weight=None if arm.kl_form == "constant" else self.weight(kind or "own"),
            kl_form=arm.kl_form,
            weigh=self._weighs(arm.advantage_weight),
            is_whole=name in WHOLE,
        )

    def _fixed(self, utility: Tensor) -> Recipe:
        wide = self.pool.table(utility)[:, None]
        return Recipe(lambda kl_coef: wide, self.spread(wide))

    def _weighs(self, kind: str) -> Weigh | None:
        if kind == "none":
            return None
        return sign_rule(self.gram) if kind == "sign" else signcert_rule(self.feature_gram, self.signcert_quantile)

    @cached_property
    def mean(self) -> Tensor:
        """`[S, 1, B, n]`."""
        return self.pool.table(torch.stack([one.mean for one in self.judged]))[:, None]

    @cached_property
    def gram(self) -> Tensor:
        """`[S, B, n, n]` covariances within prompts."""
        return torch.stack([self.pool.gram(one.factor) for one in self.judged])

    @cached_property
    def feature_gram(self) -> Tensor:
        """`[1, B, n, n]`."""
        return self.pool.gram(self.pool.features)[None]

    def spread(self, wide: Tensor) -> Tensor:
        """`[S]` root of the average variance within prompts of `[S, 1, B, n]`."""
        reference = self.pool.log_reference.exp()
        mean = (reference * wide).sum(-1, keepdim=True)
        return (reference * (wide - mean).square()).sum(-1).mean((1, 2)).sqrt()

    def rewards(self, place: int, members: bool) -> RewardSet:
        """A model's posterior; all candidates are the references of their prompt."""
        one, group = self.judged[place], self.pool.group
        everything = torch.ones(len(group), dtype=torch.bool)
        if members:
            return RewardSet({"reward": MemberRewards(one.members, group)}, is_reference=everything)
        posterior: RewardPosterior = GaussianRewards(one.mean, one.variance, group)
        centered = GaussianRewards(one.mean, one.contrast_variance, group)
        return RewardSet({"reward": posterior}, against_references={"reward": centered}, is_reference=everything)

    def worth(self, place: int, utility: str, name: str) -> Tensor:
        """`[N]` by a utility as the library reads it."""
        return parse_utility(utility)(self.rewards(place, name in ON_MEMBERS))

    def tied(self, utility_at: Callable[[float], str], kl_coef: Tensor) -> Tensor:
        """`[S, C, B, n]` of a utility that knows the coefficient."""
        rows = []
        for place, coefs in enumerate(kl_coef.tolist()):
            rewards = self.rewards(place, members=True)
            rows.append(torch.stack([parse_utility(utility_at(coef))(rewards) for coef in coefs]))
        return self.pool.table(torch.stack(rows))

    def std(self, place: int, kind: str) -> Tensor:
        """`[N]` standard deviations, or what stands in for them."""
        return self._other(self.judged[place].variance.sqrt(), place, kind)

    def weight(self, kind: str) -> Tensor:
        """`[S, 1, B, n]` of the KL penalty."""
        weights = []
        for place, one in enumerate(self.judged):
            own = {"contrast": one.contrast_variance, "members": one.members.var(1)}
            weights.append(kl_weights(self._other(own.get(kind, one.variance), place, kind)))
        wide = self.pool.table(torch.stack(weights))
        # positive also where there is no candidate, since coefficients are divided by
        return torch.where(self.pool.log_reference.isfinite(), wide, 1.0)[:, None]

    def _other(self, values: Tensor, place: int, kind: str) -> Tensor:
        if kind == "shuffled":
            generator = torch.Generator().manual_seed(self.seeds[place])
            return shuffle_within_groups(values, self.pool.group, generator)
        if kind in ("length", "length out"):
            # within a prompt, the line in length or what is off it, about the prompt's average
            off = partial_out(values, self.pool.length, self.pool.group)
            centered = partial_out(values, torch.zeros_like(values), self.pool.group)
            average = values.double() - centered
            return (average + (off if kind == "length out" else centered - off)).clamp_min(0).float()
        return values
