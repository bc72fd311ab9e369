"""Utilities: expressions over named rewards, fitted on reference responses and then a map from rewards to numbers.

A utility is a tree of three kinds of node: a reward by its name, something piped through a step (a transform of the
posterior or a risk rule that ends it), and a combination of several parts. It is written the same everywhere, see
`parse_utility`.

References:
    Wang et al., Transforming and Combining Rewards for Aligning Large Language Models,
        https://arxiv.org/abs/2402.00742, 2024.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from torch import Generator, Tensor

from prudent.rewards import RewardPosterior
from prudent.utility._center import Center
from prudent.utility._combination import Combination
from prudent.utility._names import check_reward_name
from prudent.utility._rank import QuantileRank
from prudent.utility._reward_set import ONLY, RewardSet
from prudent.utility._rule import UtilityRule
from prudent.utility._rules import Mean, Thompson
from prudent.utility._shapes import Standardize
from prudent.utility._transform import Chain, Scale, Transform
from prudent.utility._writing import Step, in_words, written, written_arguments

if TYPE_CHECKING:
    from prudent.utility._fitted import FittedUtility

__all__ = ["Combined", "Piped", "Reward", "Utility", "is_contrast"]


class Utility(ABC):
    """What a response is worth, as an expression over named rewards.

    `utility | step` pipes it through a transform or a risk rule; a posterior at the end counts by its mean. Utilities
    are compared and hashed by what they say.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> from prudent.utility import LcbStd, reward
        >>> rewards = GaussianRewards(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))
        >>> utility = reward() | LcbStd(1.0)
        >>> str(utility), utility(rewards).tolist()
        ('lcb_std', [1.0, 0.0])
    """

    @property
    @abstractmethod
    def scale(self) -> Scale:
        """What its value measures."""

    @property
    @abstractmethod
    def is_value(self) -> bool:
        """Whether a risk rule has been applied, so that there is one number a response and no posterior any more."""

    @property
    @abstractmethod
    def parts(self) -> "tuple[Utility, ...]":
        """The utilities that this one is made from."""

    @abstractmethod
    def __str__(self) -> str:
        """The utility as it is written, in one form whoever wrote it."""

    def __or__(self, step: Step | Chain) -> "Utility":
        if isinstance(step, Chain):
            return reduce(Piped, step.transforms, self)
        if isinstance(step, type) or not isinstance(step, Transform | UtilityRule):
            raise TypeError(f"a utility is piped through a step such as Center() or LcbStd(1.0), not {step!r}")
        return Piped(self, step)

    def __call__(self, rewards: RewardSet | RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Values [N], with references among these responses themselves; see `FittedUtility.__call__`."""
        return self.fit(rewards)(rewards, generator)

    @property
    def name(self) -> str:
        """The utility as it is written."""
        return str(self)

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The rewards it reads, in the order in which they appear."""
        return tuple(dict.fromkeys(node.reward_name for node in self.nodes() if isinstance(node, Reward)))

    @property
    def rules(self) -> tuple[UtilityRule, ...]:
        """The risk rules in it, the implied mean at the end included."""
        found = tuple(
            node.step for node in self.nodes() if isinstance(node, Piped) and not isinstance(node.step, Transform)
        )
        return found if self.is_value else (*found, Mean())

    @property
    def depends_on_pool(self) -> bool:
        """Whether the value of a response changes with the other responses present."""
        return any(rule.depends_on_pool for rule in self.rules)

    @property
    def reads_variance(self) -> bool:
        """Whether a rule or a combination in it reads a variance, if only that between the parts of an ensemble."""
        by_precision = any(isinstance(node, Combined) and node.combination.reads_variance for node in self.nodes())
        return by_precision or any(rule.reads_variance for rule in self.rules)

    @property
    def needs_variance_of(self) -> frozenset[str]:
        """Names of the rewards whose variance must be known for it to mean what it says; others may count as certain.

        An ensemble of several rewards brings a variance of its own, that between them.
        """
        return frozenset(_needing_variance(self, is_read=False))

    @property
    def reads_contrast(self) -> bool:
        """Whether it reads every reward as its difference to the references of the prompt, doubts included.

        Their constant, which a pair likelihood does not identify, is then in no variance.
        """
        return all(_contrasts(self, is_contrasted=False))

    @property
    def draws(self) -> bool:
        """Whether values are random, another draw each time."""
        return any(isinstance(rule, Thompson) for rule in self.rules)

    @property
    def needs_members(self) -> bool:
        """Whether it needs the rewards of each member of an ensemble, and does not make the members itself."""
        return any(
            isinstance(node, Piped)
            and not isinstance(node.step, Transform)
            and node.step.needs_members
            and not _is_of_ensembles(node.source)
            for node in self.nodes()
        )

    @property
    def centers(self) -> tuple[Center, ...]:
        """The `center` steps in it."""
        return tuple(node.step for node in self.nodes() if isinstance(node, Piped) and isinstance(node.step, Center))

    def nodes(self) -> "Iterator[Utility]":
        """Every node of the tree, parts before what is made from them."""
        for part in self.parts:
            yield from part.nodes()
        yield self

    def fit(self, references: RewardSet | RewardPosterior) -> "FittedUtility":
        """Learn what the transforms must know of the reference responses.

        Args:
            references: rewards with some rows marked as reference responses, or with references beside them; for
                utilities that need none, anything with the same names.

        Returns:
            The utility with its states.

        Raises:
            DataError: a reward is missing, or references are needed and not known.
        """
        from prudent.utility._fitted import fit  # which needs the classes of this module

        return fit(self, RewardSet.of(references))


@dataclass(frozen=True)
class Reward(Utility):
    """A reward by its name.

    Raises:
        ValueError: a utility cannot have such a name in it.
    """

    reward_name: str = ONLY

    def __post_init__(self) -> None:
        check_reward_name(self.reward_name)

    @property
    def scale(self) -> Scale:
        """See `Utility.scale`."""
        return "reward"

    @property
    def is_value(self) -> bool:
        """See `Utility.is_value`."""
        return False

    @property
    def parts(self) -> tuple[Utility, ...]:
        """None."""
        return ()

    def __str__(self) -> str:
        return self.reward_name


@dataclass(frozen=True)
class Piped(Utility):
    """A utility piped through a step.

    Raises:
        ValueError: a step after a risk rule, or one on a scale that it does not make sense on.
    """

    source: Utility
    step: Step

    def __post_init__(self) -> None:
        if self.source.is_value:
            raise ValueError(
                f"{self.step.name} comes after a risk rule, which leaves one number and no posterior: put it before"
            )
        if self.source.scale not in self.step.takes:
            remedy = "; center it first" if "centered" in self.step.takes and self.source.scale == "reward" else ""
            raise ValueError(
                f"{self.step.name} takes {in_words(*self.step.takes)}, and is given {in_words(self.source.scale)}"
                f"{remedy}"
            )

    @property
    def scale(self) -> Scale:
        """See `Utility.scale`."""
        return self.step.gives(self.source.scale)

    @property
    def is_value(self) -> bool:
        """See `Utility.is_value`."""
        return not isinstance(self.step, Transform)

    @property
    def parts(self) -> tuple[Utility, ...]:
        """The source."""
        return (self.source,)

    def __str__(self) -> str:
        before = "" if self.source == Reward() else f"{self.source} | "
        return f"{before}{written(self.step)}"


@dataclass(frozen=True)
class Combined(Utility):
    """Several utilities in one.

    Raises:
        ValueError: parts that do not go together.
    """

    combination: Combination
    parts_: tuple[Utility, ...]

    def __post_init__(self) -> None:
        if len({part.is_value for part in self.parts_}) > 1:
            place = next(place for place, part in enumerate(self.parts_, 1) if part.is_value)
            raise ValueError(
                f"part {place} of {self.combination.name} ends in a risk rule and another part does not: apply the rule"
                " to all parts, or to the combination"
            )
        self.combination.check([part.scale for part in self.parts_], values=self.is_value)
        if not self.is_value and getattr(self.combination, "correlation", None) == 0:
            self._check_no_reward_twice()

    def _check_no_reward_twice(self) -> None:
        """Doubts of two functions of one reward are no independent doubts."""
        before: set[str] = set()
        for place, part in enumerate(self.parts_, 1):
            shared = sorted(before & set(part.reward_names))
            if shared:
                raise ValueError(
                    f"part {place} of {self.combination.name} reads {shared[0]!r}, as a part before it does, and they "
                    "would count as independent: apply a rule to each part (such as mean), or say their correlation"
                )
            before |= set(part.reward_names)

    @property
    def scale(self) -> Scale:
        """See `Utility.scale`."""
        return self.combination.gives([part.scale for part in self.parts_])

    @property
    def is_value(self) -> bool:
        """See `Utility.is_value`."""
        return self.parts_[0].is_value

    @property
    def parts(self) -> tuple[Utility, ...]:
        """What is combined."""
        return self.parts_

    def __str__(self) -> str:
        inside = [str(part) for part in self.parts_] + written_arguments(self.combination, positional=False)
        return f"{self.combination.name}({', '.join(inside)})"


def is_contrast(step: Step) -> bool:
    """Whether what a step makes of a reward is its difference to the references of its own prompt."""
    if isinstance(step, Center):
        return step.at is None and step.of == "prompt"
    return isinstance(step, QuantileRank | Standardize)


def _needing_variance(utility: Utility, *, is_read: bool) -> Iterator[str]:
    """Names in `Utility.needs_variance_of`; `is_read`: what follows reads the variance."""
    if isinstance(utility, Piped):
        is_read = is_read or (not isinstance(utility.step, Transform) and utility.step.reads_variance)
    if isinstance(utility, Combined):
        is_read = utility.combination.name != "ensemble" and (is_read or utility.combination.reads_variance)
    if isinstance(utility, Reward) and is_read:
        yield utility.reward_name
    for part in utility.parts:
        yield from _needing_variance(part, is_read=is_read)


def _contrasts(utility: Utility, *, is_contrasted: bool) -> Iterator[bool]:
    """Of every reward in a utility whether a later step makes it a contrast."""
    if isinstance(utility, Reward):
        yield is_contrasted
    is_contrasted = is_contrasted or (isinstance(utility, Piped) and is_contrast(utility.step))
    for part in utility.parts:
        yield from _contrasts(part, is_contrasted=is_contrasted)


def _is_of_ensembles(utility: Utility) -> bool:
    """Whether every reward in it goes through an `ensemble`."""
    if isinstance(utility, Combined) and utility.combination.name == "ensemble":
        return True
    return bool(utility.parts) and all(map(_is_of_ensembles, utility.parts))
