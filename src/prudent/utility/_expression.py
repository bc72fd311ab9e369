"""Utilities: expressions over named rewards, fitted on reference responses and then a map from rewards to numbers.

A utility is a tree of three kinds of node: a reward by its name, something piped through a step (a transform of the
posterior or a risk rule that ends it), and a combination of several parts. It is written the same everywhere, see
`parse_utility`.

References:
    Wang et al., Transforming and Combining Rewards for Aligning Large Language Models,
        https://arxiv.org/abs/2402.00742, 2024.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.rewards import RewardPosterior
from prudent.utility._center import Center
from prudent.utility._combination import Combination
from prudent.utility._reward_set import ONLY, RewardSet
from prudent.utility._rules import Mean, UtilityRule
from prudent.utility._transform import PromptFeatures, Scale, Transform, TransformState

__all__ = ["Combined", "FittedUtility", "Piped", "Reward", "Step", "TracedStep", "Utility", "combine", "reward"]

Step = Transform | UtilityRule
"""What a utility can be piped through: a transform, or the risk rule that turns the posterior into a number."""


class Utility(ABC):
    """What a response is worth, as an expression over named rewards.

    `utility | step` pipes it through a transform or a risk rule; a posterior at the end counts by its mean. Utilities
    are compared and hashed by what they say.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> from prudent.utility import LcbStd
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

    def __or__(self, step: Step) -> "Piped":
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
        found = tuple(node.step for node in self.nodes() if isinstance(node, Piped) and not isinstance(node.step, Transform))
        return found if self.is_value else (*found, Mean())

    @property
    def depends_on_pool(self) -> bool:
        """Whether the value of a response changes with the other responses present."""
        return any(rule.depends_on_pool for rule in self.rules)

    @property
    def reads_variance(self) -> bool:
        """Whether it needs the variance of a reward; otherwise rewards without one count as certain."""
        by_precision = any(isinstance(node, Combined) and node.combination.name == "product" for node in self.nodes())
        return by_precision or any(rule.reads_variance for rule in self.rules)

    @property
    def needs_members(self) -> bool:
        """Whether it needs the rewards of each member of an ensemble."""
        return any(rule.needs_members for rule in self.rules) and not any(
            isinstance(node, Combined) and node.combination.name == "ensemble" for node in self.nodes()
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
        return FittedUtility(self, _Fit(RewardSet.of(references)).states(self))


@dataclass(frozen=True)
class Reward(Utility):
    """A reward by its name."""

    reward_name: str = ONLY

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
                f"{self.step.name} takes {_words(self.step.takes)}, and is given {_word(self.source.scale)}{remedy}"
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
        return f"{before}{_written(self.step)}"


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
        inside = [str(part) for part in self.parts_] + _arguments(self.combination, positional=False)
        return f"{self.combination.name}({', '.join(inside)})"


def reward(name: str = ONLY) -> Reward:
    """The reward of a name, the beginning of a utility.

    Args:
        name: what it is called in a scored file; by default the only one, whatever it is called.

    Example:
        >>> from prudent.utility import Center, LogSigmoid
        >>> str(reward("helpful") | Center(q=0.5) | LogSigmoid())
        'helpful | center(q=0.5) | log_sigmoid'
    """
    return Reward(name)


def combine(combination: Combination, *parts: Utility) -> Combined:
    """Several utilities in one.

    Args:
        combination: `AllOf()`, `AnyOf()`, `Weighted(...)`, `Minimum()`, `Ensemble()` or `Product()`.
        parts: at least one; all posteriors, or all values after a risk rule.

    Raises:
        ValueError: parts that do not go together; the part is named.

    Example:
        >>> from prudent.utility import AllOf, Center, LogSigmoid
        >>> parts = [reward(name) | Center() | LogSigmoid() for name in ("helpful", "harmless")]
        >>> str(combine(AllOf(), *parts))
        'all_of(helpful | center | log_sigmoid, harmless | center | log_sigmoid)'
    """
    if not parts:
        raise ValueError(f"{combination.name} needs at least one part")
    return Combined(combination, parts)


@dataclass(frozen=True)
class TracedStep:
    """What one step of a utility made of N responses.

    Attributes:
        source: the utility up to this step, as it is written.
        label: the step alone, or the name of the reward.
        mean: [N] posterior mean, or the value after a risk rule.
        std: [N] epistemic standard deviation; None after a risk rule.
    """

    source: str
    label: str
    mean: Tensor
    std: Tensor | None


@dataclass(frozen=True)
class FittedUtility:
    """A utility that knows its references: a map from rewards to values.

    Attributes:
        utility: what it says.
        states: what each of its transforms learned, by the utility up to that transform, as it is written.
    """

    utility: Utility
    states: Mapping[str, TransformState]

    def __str__(self) -> str:
        return str(self.utility)

    @property
    def name(self) -> str:
        """The utility as it is written."""
        return str(self.utility)

    @property
    def depends_on_pool(self) -> bool:
        """Whether the value of a response changes with the other responses present."""
        return self.utility.depends_on_pool

    def __call__(self, rewards: RewardSet | RewardPosterior, generator: Generator | None = None) -> Tensor:
        """What each response is worth.

        Args:
            rewards: of N responses, under the names that the utility reads.
            generator: source of randomness for rules that draw; seed 0 by default.

        Returns:
            [N]; NaN where a response is not scored.

        Raises:
            DataError: a reward is missing, or nothing is known of a prompt's references.
            UnsupportedError: a rule needs what the posterior does not have.
        """
        return _Apply(RewardSet.of(rewards), self.states, generator).value(self.utility)

    def trace(
        self, rewards: RewardSet | RewardPosterior, generator: Generator | None = None
    ) -> tuple[TracedStep, ...]:
        """What every step makes of the responses, in the order of the calculation; the last is the value.

        Args:
            rewards: as for a call.
            generator: as for a call.
        """
        run = _Apply(RewardSet.of(rewards), self.states, generator)
        run.value(self.utility)
        return tuple(run.steps)

    def taking(self, old: Tensor, new: Tensor) -> "FittedUtility":
        """The same under other prompt ids; see `TransformState.taking`."""
        return FittedUtility(self.utility, {path: state.taking(old, new) for path, state in self.states.items()})


class _Fit:
    """Walks a utility and lets its transforms learn; rewards of references are worked out where they are needed."""

    def __init__(self, rewards: RewardSet) -> None:
        self._rewards = rewards

    def states(self, utility: Utility) -> dict[str, TransformState]:
        self._states: dict[str, TransformState] = {}
        for node in utility.nodes():
            if isinstance(node, Reward):
                self._rewards.resolve(node.reward_name)
            if isinstance(node, Piped) and isinstance(node.step, Transform):
                self._init(node, node.step)
        return self._states

    def _init(self, node: Piped, step: Transform) -> None:
        if isinstance(step, Center):
            _check_canned(node, step, self._rewards)
        if step.needs_references:
            self._states[str(node)] = step.init(self._references(node.source), _features(node.source, self._rewards))
        else:
            self._states[str(node)] = TransformState()

    def _references(self, node: Utility) -> RewardPosterior:
        """Rewards of the reference responses, as they are at this place."""
        if isinstance(node, Reward):
            return self._rewards.reference_rewards(self._rewards.resolve(node.reward_name))
        parts = [self._references(part) for part in node.parts]
        if isinstance(node, Piped):
            assert isinstance(node.step, Transform)
            return node.step.apply(parts[0], self._states[str(node)], _features(node.source, self._rewards))
        assert isinstance(node, Combined)
        for part in parts[1:]:
            if len(part) != len(parts[0]) or bool((part.group != parts[0].group).any()):
                raise DataError(
                    f"the parts of {node.combination.name} have different reference responses, so nothing that needs "
                    "references can follow it: put it into the parts"
                )
        return node.combination.combine(parts, [part.scale for part in node.parts])


class _Apply:
    """Walks a utility over N responses, and notes what every step gave."""

    def __init__(self, rewards: RewardSet, states: Mapping[str, TransformState], generator: Generator | None) -> None:
        self._rewards = rewards
        self._states = states
        self._generator = generator
        self.steps: list[TracedStep] = []

    def value(self, utility: Utility) -> Tensor:
        """Values [N], of a posterior its mean."""
        found = self._walk(utility)
        if isinstance(found, Tensor):
            return found
        value = Mean()(found, self._generator)
        self.steps.append(TracedStep(f"{utility} | mean", "mean", value, None))
        return value

    def _walk(self, node: Utility) -> RewardPosterior | Tensor:
        found: RewardPosterior | Tensor
        if isinstance(node, Reward):
            found = self._reward(node)
        elif isinstance(node, Piped):
            found = self._piped(node)
        else:
            assert isinstance(node, Combined)
            parts, scales = [self._walk(part) for part in node.parts], [part.scale for part in node.parts]
            if node.is_value:
                found = node.combination.combine_values([part for part in parts if isinstance(part, Tensor)], scales)
            else:
                found = node.combination.combine([part for part in parts if not isinstance(part, Tensor)], scales)
        self._note(node, found)
        return found

    def _reward(self, node: Reward) -> RewardPosterior:
        return self._rewards.rewards[self._rewards.resolve(node.reward_name)]

    def _piped(self, node: Piped) -> RewardPosterior | Tensor:
        if isinstance(node.step, Center) and isinstance(node.source, Reward):
            self._note(node.source, self._reward(node.source))
            name = self._rewards.resolve(node.source.reward_name)
            source: RewardPosterior | Tensor = self._rewards.against_references.get(name, self._rewards.rewards[name])
        else:
            source = self._walk(node.source)
        assert not isinstance(source, Tensor)
        if isinstance(node.step, Transform):
            return node.step.apply(source, self._states[str(node)], _features(node.source, self._rewards))
        return node.step(source, self._generator)

    def _note(self, node: Utility, found: RewardPosterior | Tensor) -> None:
        label = _written(node.step) if isinstance(node, Piped) else str(node)
        if isinstance(node, Combined):
            label = node.combination.name
        if isinstance(found, Tensor):
            self.steps.append(TracedStep(str(node), label, found, None))
        else:
            self.steps.append(TracedStep(str(node), label, found.mean, found.variance.sqrt()))


def _check_canned(node: Piped, step: Center, rewards: RewardSet) -> None:
    """A canned response must be the one that the rewards were scored against, and be asked for where it is."""
    if not isinstance(node.source, Reward):
        if step.canned is not None:
            raise DataError("center(canned=...) must directly follow the reward that was scored against that text")
        return
    name = rewards.resolve(node.source.reward_name)
    known = rewards.canned.get(name)
    if step.canned is not None and step.canned != known:
        was = "its own responses" if known is None else f"the canned response {known!r}"
        raise DataError(
            f"center(canned={step.canned!r}): the rewards {name!r} were scored against {was}; score the pool again "
            f"with --canned {name}={step.canned!r}"
        )
    if step.canned is None and step.at is None and known is not None:
        raise DataError(
            f"the rewards {name!r} were scored against the canned response {known!r}: write "
            f"center(canned={known!r}), or score the pool without it"
        )


def _features(source: Utility, rewards: RewardSet) -> PromptFeatures | None:
    """The prompt features of the model behind a reward, for transforms that learn from them."""
    while isinstance(source, Piped):
        source = source.source
    return rewards.features.get(rewards.resolve(source.reward_name)) if isinstance(source, Reward) else None


def _arguments(piece: Step | Combination, *, positional: bool) -> list[str]:
    """The arguments that are not the defaults; the first one without its name."""
    found = []
    for place, one in enumerate(fields(piece)):
        value = getattr(piece, one.name)
        if value != one.default:
            found.append(_literal(value) if positional and place == 0 else f"{one.name}={_literal(value)}")
    return found


def _written(step: Step) -> str:
    arguments = _arguments(step, positional=True)
    return f"{step.name}({', '.join(arguments)})" if arguments else step.name


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if value.isidentifier() else json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _word(scale: Scale) -> str:
    return {
        "reward": "a reward",
        "centered": "a centered reward",
        "log_probability": "a log-probability",
        "probability": "a probability",
        "number": "another number",
    }[scale]


def _words(scales: tuple[Scale, ...]) -> str:
    return " or ".join(map(_word, scales))
