"""Utilities that have learned their references, and the two walks over a utility: one that learns, one that applies."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from prudent.errors import DataError, UnsupportedError
from prudent.rewards import RewardPosterior
from prudent.utility._center import Center
from prudent.utility._expression import Combined, Piped, Reward, Utility, is_contrast
from prudent.utility._reading import (
    AS_SCORED,
    JOINTLY,
    WITH_FACTOR,
    Reading,
    keeps_factor,
    read,
    read_references,
    reading_below,
)
from prudent.utility._reward_set import RewardSet
from prudent.utility._rules import Mean
from prudent.utility._statistic import factor_of
from prudent.utility._transform import PromptFeatures, Transform, TransformState
from prudent.utility._writing import written

__all__ = ["FittedUtility", "TracedStep", "fit"]


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
            generator: source of randomness for rules that draw, which go on with it one after the other; seed 0 by
                default.

        Returns:
            [N]; NaN where a response is not scored.

        Raises:
            DataError: a reward is missing, or nothing is known of a prompt's references.
            UnsupportedError: a rule needs what the posterior does not have.
        """
        return _Apply(RewardSet.of(rewards), self.states, generator, is_traced=False).value(self.utility)

    def trace(self, rewards: RewardSet | RewardPosterior, generator: Generator | None = None) -> tuple[TracedStep, ...]:
        """What every step makes of the responses, in the order of the calculation; the last is the value.

        Args:
            rewards: as for a call.
            generator: as for a call.
        """
        run = _Apply(RewardSet.of(rewards), self.states, generator, is_traced=True)
        run.value(self.utility)
        return tuple(run.steps)

    def joint(self, rewards: RewardSet | RewardPosterior) -> RewardPosterior:
        """The joint posterior that the rules judge: what the utility would be without its risk rules.

        Rewards are read as they were scored, as rules that draw read them, so that responses can be compared with each
        other; what is subtracted of a prompt's references moves the mean alone.

        Args:
            rewards: as for a call.

        Raises:
            DataError: as for a call.
            UnsupportedError: parts that end in rules do not go together without them.
        """
        try:
            source = _without_rules(self.utility)
        except ValueError as error:
            raise UnsupportedError(f"{self.utility} has no posterior of its own: without its rules, {error}") from error
        return _Apply(RewardSet.of(rewards), self.states, None, is_traced=False).posterior(source)

    def taking(self, old: Tensor, new: Tensor) -> "FittedUtility":
        """The same under other prompt ids; see `TransformState.taking`."""
        return FittedUtility(self.utility, {path: state.taking(old, new) for path, state in self.states.items()})


def fit(utility: Utility, rewards: RewardSet) -> FittedUtility:
    """Let a utility learn from the references of a set of rewards; see `Utility.fit`."""
    return FittedUtility(utility, _Fit(rewards).states(utility))


class _Fit:
    """Walks a utility and lets its transforms learn; rewards of references are worked out where they are needed."""

    def __init__(self, rewards: RewardSet) -> None:
        self._rewards = rewards
        self._of_references = {**rewards.rewards, **rewards.references}

    def states(self, utility: Utility) -> dict[str, TransformState]:
        self._states: dict[str, TransformState] = {}
        self._learn(utility, AS_SCORED)
        return self._states

    def _learn(self, node: Utility, reading: Reading) -> None:
        if isinstance(node, Reward):
            self._rewards.resolve(node.reward_name)
        below = reading_below(node, reading, has_factor=self._has_factor(node))
        for part in node.parts:
            self._learn(part, below)
        if isinstance(node, Piped) and isinstance(node.step, Transform) and str(node) not in self._states:
            _check_canned(node, node.step, self._rewards)
            self._states[str(node)] = self._state(node, node.step, below)

    def _has_factor(self, node: Utility) -> bool:
        """Whether the rewards of references that a step learns from have a factor."""
        return isinstance(node, Piped) and keeps_factor(node.source, self._of_references, self._rewards)

    def _state(self, node: Piped, step: Transform, reading: Reading) -> TransformState:
        if not step.needs_references:
            return TransformState()
        features = _features(node.source, self._rewards)
        references = self._references(node.source, reading)
        try:
            state = step.init(references, features)
            if is_contrast(step) and self._has_factor(node) and factor_of(references) is None:
                # what is stored of a contrast has no factor; rewards to come may bring theirs
                other = step.init(self._references(node.source, WITH_FACTOR), features)
                per_prompt = {**state.per_prompt, "factor": other.per_prompt["factor"]}
                state = TransformState(state.prompts, per_prompt, {**state.shared, "basis": other.shared["basis"]})
        except DataError as error:
            # a utility may have the same step on several rewards
            raise DataError(f"in '{node}': {error}") from None
        return state

    def _references(self, node: Utility, reading: Reading) -> RewardPosterior:
        """Rewards of the reference responses, as they are at this place."""
        if isinstance(node, Reward):
            return read_references(self._rewards, self._rewards.resolve(node.reward_name), reading)
        below = reading_below(node, reading, has_factor=self._has_factor(node))
        parts = [self._references(part, below) for part in node.parts]
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
    """Walks a utility over N responses, and notes what every step gave where that is asked for: moments take time."""

    def __init__(
        self,
        rewards: RewardSet,
        states: Mapping[str, TransformState],
        generator: Generator | None,
        *,
        is_traced: bool,
    ) -> None:
        self._rewards = rewards
        self._states = states
        # one for all rules, or several would draw the same numbers
        self._generator = torch.Generator().manual_seed(0) if generator is None else generator
        self._is_traced = is_traced
        self.steps: list[TracedStep] = []

    def value(self, utility: Utility) -> Tensor:
        """Values [N], of a posterior its mean."""
        found = self._walk(utility, AS_SCORED)
        if isinstance(found, Tensor):
            return found
        value = Mean()(found, self._generator)
        if self._is_traced:
            self.steps.append(TracedStep(f"{utility} | mean", "mean", value, None))
        return value

    def posterior(self, utility: Utility) -> RewardPosterior:
        """What a utility without rules makes of the rewards as they were scored."""
        found = self._walk(utility, JOINTLY)
        assert not isinstance(found, Tensor)
        return found

    def _walk(self, node: Utility, reading: Reading) -> RewardPosterior | Tensor:
        if isinstance(node, Reward):
            name = self._rewards.resolve(node.reward_name)
            self._note(node, self._rewards.rewards[name])
            return read(self._rewards, name, reading)
        below = reading_below(node, reading, has_factor=self._has_factor(node))
        parts = [self._walk(part, below) for part in node.parts]
        found: RewardPosterior | Tensor
        if isinstance(node, Piped):
            found = self._piped(node, parts[0])
        else:
            assert isinstance(node, Combined)
            scales = [part.scale for part in node.parts]
            if node.is_value:
                found = node.combination.combine_values([part for part in parts if isinstance(part, Tensor)], scales)
            else:
                found = node.combination.combine([part for part in parts if not isinstance(part, Tensor)], scales)
        self._note(node, found)
        return found

    def _has_factor(self, node: Utility) -> bool:
        """Whether what a step gets, and what it learned of the references, have factors."""
        if not (isinstance(node, Piped) and isinstance(node.step, Transform)):
            return False
        is_learned = "factor" in self._states[str(node)].per_prompt
        return is_learned and keeps_factor(node.source, self._rewards.rewards, self._rewards)

    def _piped(self, node: Piped, source: RewardPosterior | Tensor) -> RewardPosterior | Tensor:
        assert not isinstance(source, Tensor)
        if isinstance(node.step, Transform):
            return node.step.apply(source, self._states[str(node)], _features(node.source, self._rewards))
        return node.step(source, self._generator)

    def _note(self, node: Utility, found: RewardPosterior | Tensor) -> None:
        if not self._is_traced:
            return
        label = written(node.step) if isinstance(node, Piped) else str(node)
        if isinstance(node, Combined):
            label = node.combination.name
        if isinstance(found, Tensor):
            self.steps.append(TracedStep(str(node), label, found, None))
        else:
            self.steps.append(TracedStep(str(node), label, found.mean, found.variance.sqrt()))


def _without_rules(node: Utility) -> Utility:
    """The utility before its rules, or those of its parts; ValueError where such parts do not go together."""
    if not node.is_value:
        return node
    if isinstance(node, Piped):
        return node.source
    assert isinstance(node, Combined)
    return Combined(node.combination, tuple(_without_rules(part) for part in node.parts))


def _check_canned(node: Piped, step: Transform, rewards: RewardSet) -> None:
    """A canned response must be the one that the rewards were scored against, and be asked for where it is."""
    canned = step.canned if isinstance(step, Center) else None
    source = node.source
    while isinstance(source, Piped):
        source = source.source
    if canned is not None and not isinstance(source, Reward):
        raise DataError("center(canned=...) must follow the reward that was scored against that text, not a sum")
    for read_name in node.reward_names if step.needs_references else ():
        name = rewards.resolve(read_name)
        known = rewards.canned.get(name)
        if canned is not None and canned != known:
            was = "its own responses" if known is None else f"the canned response {known!r}"
            raise DataError(
                f"center(canned={canned!r}): the rewards {name!r} were scored against {was}; score the pool again "
                f"with --canned {name}={canned!r}"
            )
        if canned is None and known is not None:
            remedy = (
                f"write center(canned={known!r}), or " if isinstance(step, Center) else f"{step.name} needs others: "
            )
            raise DataError(
                f"the rewards {name!r} were scored against the canned response {known!r}: {remedy}score the pool "
                "without it"
            )


def _features(source: Utility, rewards: RewardSet) -> PromptFeatures | None:
    """The prompt features of the model behind a reward, for transforms that learn from them."""
    while isinstance(source, Piped):
        source = source.source
    return rewards.features.get(rewards.resolve(source.reward_name)) if isinstance(source, Reward) else None
