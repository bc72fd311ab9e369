"""Pools as rules see them: with the variance of a reward or of its contrast, and with doubts shuffled."""

from dataclasses import dataclass, field
from typing import Any

import torch
from _references import reference_means
from _rule_families import Scale, View
from _rule_pools import ScoredPools
from torch import Tensor

from prudent.rewards import GaussianRewards, MemberRewards
from prudent.selection import best_of_n_curve, shuffle_within_groups
from prudent.utility import RewardSet, parse_utility

ROWS_AT_ONCE = 32_768


@dataclass
class Draw:
    """One draw of training pairs, or one world.

    Attributes:
        setting: what its curves are averaged with.
        seed: of the draw.
        pools: candidates under both posteriors.
        n_values: ascending.
        is_own: its prompts are no other draw's, as in a world of its own.
        grid_step: every how many of the strengths are tried.
    """

    setting: str
    seed: int
    pools: ScoredPools
    n_values: list[int]
    is_own: bool
    grid_step: int = 1
    _sets: dict[tuple[str, View], RewardSet] = field(default_factory=dict)

    @property
    def gold(self) -> Tensor:
        """`[N]` on the first of its scales."""
        return next(iter(self.pools.gold.values()))

    def rewards(self, posterior: str, view: View) -> RewardSet:
        """The rewards as a view has them: `marginal` ones are shifted by their reference, which counts as known."""
        if (posterior, view) not in self._sets:
            whole = self.pools.rewards[posterior]
            self._sets[posterior, view] = whole if view == "centered" else marginal(whole)
        return self._sets[posterior, view]

    def values(self, posterior: str, view: View, text: str) -> Tensor:
        """`[N]` what each response is worth."""
        return apply_in_parts(text, self.rewards(posterior, view), self.seed)

    def scale(self, posterior: str, view: View) -> Scale:
        rewards = self.rewards(posterior, view)
        reward = rewards.rewards["reward"]
        assert rewards.is_reference is not None
        mean, group = reward.mean[rewards.is_reference].double(), reward.group[rewards.is_reference]
        spread = torch.stack([mean[group == prompt].var() for prompt in group.unique()]).mean().sqrt()
        return Scale(float(spread), float(_contrast_variance(rewards, view).double().mean().sqrt()))

    def curves(self, values: Tensor, rows: Tensor | None = None) -> dict[str, Tensor]:
        """Gold `[B, L]` of best-of-n, by the name of its scale."""
        both = torch.stack(list(self.pools.gold.values()), 1)
        group = self.pools.group
        if rows is not None:
            values, both, group = values[rows], both[rows], group[rows]
        found = best_of_n_curve(values.double(), both, group, self.n_values)
        return {name: found[..., place] for place, name in enumerate(self.pools.gold)}

    def half(self, fold: int) -> Tensor:
        """`[B]` booleans, the prompts of one half."""
        count = int(self.pools.group.max()) + 1
        order = torch.randperm(count, generator=torch.Generator().manual_seed(100 + self.seed))
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[order[: count // 2] if fold == 0 else order[count // 2 :]] = True
        return chosen


def apply_in_parts(text: str, rewards: RewardSet, seed: int = 0) -> Tensor:
    """Values of a utility fitted on all rows, a part of them at a time: quadrature takes much memory."""
    utility = parse_utility(text)
    fitted = utility.fit(rewards)
    generator = torch.Generator().manual_seed(seed)
    if any(rule.name == "thompson" for rule in utility.rules):  # one joint draw
        return fitted(rewards, generator)
    parts = range(0, len(rewards), ROWS_AT_ONCE)
    return torch.cat([fitted(rewards[start : start + ROWS_AT_ONCE], generator) for start in parts])


def _reference_means(rewards: RewardSet) -> Tensor:
    """`[N]` average of the posterior means of each prompt's references."""
    assert rewards.is_reference is not None
    reward = rewards.rewards["reward"]
    return reference_means(reward.mean.double(), reward.group, rewards.is_reference)


def marginal(rewards: RewardSet) -> RewardSet:
    reward, shift = rewards.rewards["reward"], _reference_means(rewards)
    if isinstance(reward, MemberRewards):
        moved: Any = MemberRewards(reward.members - shift[:, None], reward.group, reward.ddof, reward.basis_id)
    else:
        moved = GaussianRewards(reward.mean.double() - shift, reward.variance.double(), reward.group, reward.factor)
    return RewardSet({"reward": moved}, is_reference=rewards.is_reference)


def _members_against_reference(rewards: RewardSet) -> Tensor:
    """`[N, M]` each member's rewards minus its own average over the references."""
    reward = rewards.rewards["reward"]
    assert isinstance(reward, MemberRewards)
    assert rewards.is_reference is not None
    return reward.members - reference_means(reward.members, reward.group, rewards.is_reference)


def _contrast_variance(rewards: RewardSet, view: View) -> Tensor:
    reward = rewards.rewards["reward"]
    if view == "marginal":
        return reward.variance
    if isinstance(reward, MemberRewards):
        return _members_against_reference(rewards).var(1)
    return rewards.against_references["reward"].variance


def shuffled(rewards: RewardSet, view: View, seed: int) -> RewardSet:
    """The same means, with what is not known of each response given to another one of its prompt; no reference left."""
    generator = torch.Generator().manual_seed(seed)
    if view == "marginal":
        reward = rewards.rewards["reward"]
    else:
        whole = rewards.rewards["reward"]
        if isinstance(whole, MemberRewards):
            reward = MemberRewards(_members_against_reference(rewards), whole.group, whole.ddof)
        else:
            mean = whole.mean.double() - _reference_means(rewards)
            reward = GaussianRewards(mean, _contrast_variance(rewards, view).double(), whole.group)
    if isinstance(reward, MemberRewards):
        mean = reward.members.mean(1, keepdim=True)
        doubts = shuffle_within_groups(reward.members - mean, reward.group, generator)
        moved: Any = MemberRewards(mean + doubts, reward.group, reward.ddof)
    else:
        moved = GaussianRewards(
            reward.mean, shuffle_within_groups(reward.variance, reward.group, generator), reward.group
        )
    return RewardSet({"reward": moved}, is_reference=rewards.is_reference)
