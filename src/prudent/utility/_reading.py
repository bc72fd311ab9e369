"""Which version of a reward a utility reads: as it was scored, or with the doubts about its difference to references.

A step that subtracts the prompt's references makes a reward the contrast with them, whatever affine steps stand between
the reward and that step. So what is read of a reward depends on the steps above it, and the utility is walked from its
end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from prudent.rewards import GaussianRewards, MemberRewards, RewardPosterior
from prudent.utility._center import Center
from prudent.utility._combine import Product, Weighted
from prudent.utility._expression import Combined, Piped, Reward, Utility, is_contrast
from prudent.utility._reward_set import RewardSet
from prudent.utility._rules import Thompson
from prudent.utility._shapes import Standardize, Temperature
from prudent.utility._statistic import factor_of
from prudent.utility._transform import Transform

__all__ = ["AS_SCORED", "JOINTLY", "WITH_FACTOR", "Reading", "keeps_factor", "read", "read_references", "reading_below"]


@dataclass(frozen=True)
class Reading:
    """How the rewards below a node are read.

    Attributes:
        version: "scored", as they were scored; "contrast", with the variance of their contrast with the references,
            where it is stored; "factor", as scored, since the step above makes the contrast from their factor.
        is_joint: a rule above draws jointly, which needs the rewards as scored where those can be drawn.
    """

    version: Literal["scored", "contrast", "factor"] = "scored"
    is_joint: bool = False


AS_SCORED = Reading()
"""At the end of a utility."""
WITH_FACTOR = Reading("factor")
"""Below a step that makes the contrast from factors."""
JOINTLY = Reading(is_joint=True)
"""Below a rule that draws jointly."""


def reading_below(node: Utility, reading: Reading, *, has_factor: bool) -> Reading:
    """How the parts of a node are read.

    Args:
        node: of a utility.
        reading: how the node itself is read.
        has_factor: what the node gets of the responses and of the references has a factor.
    """
    if not isinstance(node, Piped):
        return reading
    step = node.step
    if not isinstance(step, Transform):
        return replace(reading, is_joint=step.depends_on_pool or isinstance(step, Thompson))
    # the last contrast is what counts: any reference that was subtracted before it cancels
    if reading.version != "scored" or not is_contrast(step):
        return reading
    return replace(reading, version="factor" if has_factor and _is_of_order(step) else "contrast")


def read(rewards: RewardSet, name: str, reading: Reading) -> RewardPosterior:
    """The reward of N responses, in the version that is read; `name` as in `RewardSet.names`."""
    return rewards.version(name, contrast=_is_read_as_contrast(rewards.rewards[name], reading))


def read_references(rewards: RewardSet, name: str, reading: Reading) -> RewardPosterior:
    """The same of the reference responses; see `RewardSet.reference_rewards`."""
    return rewards.reference_rewards(name, contrast=_is_read_as_contrast(rewards.rewards[name], reading))


def keeps_factor(node: Utility, rewards: Mapping[str, RewardPosterior], names: RewardSet) -> bool:
    """Whether the rewards have factors and the steps up to a node keep them.

    Args:
        node: of a utility.
        rewards: by name.
        names: says which of them a name means.
    """
    if isinstance(node, Reward):
        return factor_of(rewards[names.resolve(node.reward_name)]) is not None
    if isinstance(node, Piped):
        is_affine = isinstance(node.step, Center | Standardize | Temperature)
        return is_affine and keeps_factor(node.source, rewards, names)
    assert isinstance(node, Combined)
    combination = node.combination
    return (
        isinstance(combination, Weighted | Product)
        and combination.correlation == 0
        and all(isinstance(rewards[names.resolve(name)], GaussianRewards) for name in node.reward_names)
        and all(keeps_factor(part, rewards, names) for part in node.parts)
    )


def _is_of_order(step: Transform) -> bool:
    """Whether a contrast is with single reference responses by their rank, and not with the average that is stored."""
    return isinstance(step, Center) and step.canned is None and (step.statistic, step.fit) == ("quantile", "empirical")


def _is_read_as_contrast(scored: RewardPosterior, reading: Reading) -> bool:
    return reading.version == "contrast" and not (reading.is_joint and _can_be_drawn(scored))


def _can_be_drawn(posterior: RewardPosterior) -> bool:
    if isinstance(posterior, MemberRewards):
        return posterior.is_discrete or posterior.within_factor is not None
    return not isinstance(posterior, GaussianRewards) or posterior.factor is not None
