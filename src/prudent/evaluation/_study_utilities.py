"""The utilities of a study: which are compared by default, what they are called, and which variance they read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prudent.errors import DataError, UtilityError
from prudent.rewards import MemberRewards, RewardPosterior
from prudent.scoring import ScoredPool, utility_for
from prudent.utility import (
    AllOf,
    AnyOf,
    Center,
    Combined,
    Ensemble,
    Entropic,
    FittedUtility,
    LcbStd,
    LcbVar,
    LogSigmoid,
    Mean,
    Minimum,
    Piped,
    RewardSet,
    Standardize,
    Temperature,
    Transform,
    Utility,
    UtilityRule,
    Weighted,
    Worst,
    combine,
    reward,
)

__all__ = ["AnyUtility", "StudiedUtility", "is_affine", "studied_utilities"]

AnyUtility = str | Utility | FittedUtility

_STRAIGHT = (Center, Standardize, Temperature)
_TAKEN = (
    "longest",
    "random",
    "oracle",
    "oracle n",
    "hedged n",
    "top_k",
    "soft",
    "pessimism",
    "mbr",
    "consensus",
    "uwo",
)
_TAKEN_STARTS = ("shuffled: ", "length as variance: ", "length out of variance: ")


@dataclass(frozen=True)
class StudiedUtility:
    """A utility and its place among the others."""

    key: str
    fitted: FittedUtility
    variance: str | None
    """The variance that it reads: `marginal`, `centered`, or None."""
    beside: str | None
    """Key of the same utility without its `center`; None where there is none."""

    @property
    def has_shuffle(self) -> bool:
        """Whether permuting what each reward knows of its own doubts permutes all that this one reads of doubts.

        The doubts of `ensemble(a, b)` lie between the means of rewards, which stay where they are.
        """
        nodes = self.fitted.utility.nodes()
        joins = any(isinstance(node, Combined) and isinstance(node.combination, Ensemble) for node in nodes)
        return self.variance is not None and not joins


def studied_utilities(
    pool: ScoredPool,
    utilities: Sequence[AnyUtility] | Mapping[str, AnyUtility] | None,
    rewards: RewardSet | None = None,
) -> tuple[StudiedUtility, ...]:
    """Fit the utilities on a pool's own references.

    Args:
        pool: All rows.
        utilities: As `best_of_n_study` takes them.
        rewards: Those of the pool, where they are at hand.

    Raises:
        UtilityError: A text is no utility, a label is that of a control or a baseline, or there is none.
        DataError: The pool lacks what one needs.
    """
    if isinstance(utilities, str | Utility | FittedUtility):
        raise TypeError(f"utilities must be several, in a list or by name, got {utilities}")
    rewards = pool.reward_set() if rewards is None else rewards
    if utilities is None:
        utilities = _default_utilities(pool, rewards)
    if isinstance(utilities, Mapping):
        fitted = {label: utility_for(pool, one, rewards=rewards) for label, one in utilities.items()}
    else:
        fitted = {one.name: one for one in (utility_for(pool, given, rewards=rewards) for given in utilities)}
    if not fitted:
        raise UtilityError("there is no utility to study; leave utilities out for those that are usual")
    for key, one in fitted.items():
        if key in _TAKEN or key.startswith(_TAKEN_STARTS) or key.endswith(", tuned"):
            raise UtilityError(f"{key!r} is what a control or a baseline is called; call the utility {one} otherwise")
    keys = {one.name: key for key, one in fitted.items()}
    return tuple(
        StudiedUtility(key, one, _variance(one.utility, rewards), _key_of_marginal(one.utility, rewards, keys))
        for key, one in fitted.items()
    )


def is_affine(utility: Utility) -> bool:
    """Whether a Gaussian reward is still Gaussian where the risk rule of a single reward is applied."""
    source = utility.source if isinstance(utility, Piped) and utility.is_value else utility
    while isinstance(source, Piped):
        if not isinstance(source.step, _STRAIGHT):
            return False
        source = source.source
    return not source.parts


def _default_utilities(pool: ScoredPool, rewards: RewardSet) -> dict[str, AnyUtility]:
    if len(rewards.names) > 1:
        try:
            return _of_several(rewards)
        except ValueError as error:  # of columns made elsewhere
            raise DataError(f"{pool.source}: {error}; rename the columns of that reward") from None
    (name,) = rewards.names
    rules: list[UtilityRule] = [LcbStd(), LcbVar(), Entropic()] if pool.has_variance else []
    if isinstance(rewards.rewards[name], MemberRewards):
        rules.append(Worst())
    found: dict[str, AnyUtility] = {rule.name: reward() | rule for rule in (Mean(), *rules)}
    if name in rewards.against_references:
        # a canned text may be long
        center = "center(canned)" if name in rewards.canned else "center(mean)"
        for rule in rules:
            found[f"{center} | {rule.name}"] = reward() | _center(rewards, name, Center("mean")) | rule
    return found


def _of_several(rewards: RewardSet) -> dict[str, AnyUtility]:
    """Each reward alone, and the ways to have all of them; under short names, since they are long when written out."""
    alone = {name: reward(name) for name in rewards.names}
    weighted = Weighted((1.0,) * len(alone))
    found: dict[str, AnyUtility] = {f"{name} alone": one | Mean() for name, one in alone.items()}
    if rewards.is_reference is None and not set(rewards.names) <= set(rewards.references):
        return found | {"sum": combine(weighted, *alone.values()) | Mean()}
    centered = [one | _center(rewards, name, Center()) for name, one in alone.items()]
    standardized = combine(weighted, *(one | Standardize() for one in alone.values())) | Mean()
    try:
        standardized.fit(rewards)
        found["standardized sum"] = standardized
        parts = [one | Standardize() | LogSigmoid() for one in alone.values()]
        found["all_of, standardized"] = combine(AllOf(), *parts) | Mean()
    except DataError:  # a single reference, as a canned one is, has no spread
        found["sum"] = combine(weighted, *centered) | Mean()
    return found | {
        "all_of": combine(AllOf(), *(one | LogSigmoid() for one in centered)) | Mean(),
        "minimum": combine(Minimum(), *centered) | Mean(),
    }


def _center(rewards: RewardSet, name: str, otherwise: Center) -> Center:
    """What a reward is centered on: the canned response, where it was scored against one."""
    return Center(canned=rewards.canned[name]) if name in rewards.canned else otherwise


def _reads_doubts(utility: Utility, rewards: RewardSet) -> bool:
    """Whether it sees how sure a reward is: by its variance, by what every member says, or by the mean of a curve."""
    if utility.reads_variance or utility.needs_members:
        return True
    doubted = (rewards.rewards[rewards.resolve(name)].variance > 0 for name in utility.reward_names)
    return any(map(_is_curved, utility.nodes())) and any(bool(found.any()) for found in doubted)


def _is_curved(node: Utility) -> bool:
    """Whether the mean of what a node gives depends on the variance of what it gets."""
    if isinstance(node, Piped):
        return isinstance(node.step, Transform) and not isinstance(node.step, _STRAIGHT)
    return isinstance(node, Combined) and not node.is_value and isinstance(node.combination, AnyOf | Minimum)


def _variance(utility: Utility, rewards: RewardSet) -> str | None:
    """Which variance it reads: `centered` where every reward is read as its contrast with the references."""
    if not _reads_doubts(utility, rewards):
        return None
    names = map(rewards.resolve, utility.reward_names)
    is_known = all(name in rewards.against_references or _makes_contrasts(rewards.rewards[name]) for name in names)
    return "centered" if utility.reads_contrast and is_known else "marginal"


def _makes_contrasts(posterior: RewardPosterior) -> bool:
    """Whether the variance of a contrast follows from the posterior itself: by its members, or by a factor."""
    return isinstance(posterior, MemberRewards) or getattr(posterior, "factor", None) is not None


def _key_of_marginal(utility: Utility, rewards: RewardSet, keys: Mapping[str, str]) -> str | None:
    """The key of the same utility without its `center`, among those of others by their text."""
    if not (utility.centers and _variance(utility, rewards) == "centered"):
        return None
    try:
        return keys.get(str(_without_center(utility)))
    except ValueError:  # a step after it needs what is centered
        return None


def _without_center(utility: Utility) -> Utility:
    if isinstance(utility, Piped):
        source = _without_center(utility.source)
        return source if isinstance(utility.step, Center) else Piped(source, utility.step)
    if isinstance(utility, Combined):
        return Combined(utility.combination, tuple(_without_center(part) for part in utility.parts))
    return utility
