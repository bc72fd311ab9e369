"""Utilities that have learned their references, and the two walks over a utility: one that learns, one that applies."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.rewards import RewardPosterior
from prudent.utility._center import Center
from prudent.utility._expression import Combined, Piped, Reward, Utility
from prudent.utility._rank import QuantileRank
from prudent.utility._reward_set import RewardSet
from prudent.utility._rules import Mean
from prudent.utility._shapes import Standardize
from prudent.utility._transform import PromptFeatures, Transform, TransformState
from prudent.utility._writing import Step, written

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
            generator: source of randomness for rules that draw; seed 0 by default.

        Returns:
            [N]; NaN where a response is not scored.

        Raises:
            DataError: a reward is missing, or nothing is known of a prompt's references.
            UnsupportedError: a rule needs what the posterior does not have.
        """
        return _Apply(_as_read(self.utility, rewards), self.states, generator, is_traced=False).value(self.utility)

    def trace(self, rewards: RewardSet | RewardPosterior, generator: Generator | None = None) -> tuple[TracedStep, ...]:
        """What every step makes of the responses, in the order of the calculation; the last is the value.

        Args:
            rewards: as for a call.
            generator: as for a call.
        """
        run = _Apply(_as_read(self.utility, rewards), self.states, generator, is_traced=True)
        run.value(self.utility)
        return tuple(run.steps)

    def taking(self, old: Tensor, new: Tensor) -> "FittedUtility":
        """The same under other prompt ids; see `TransformState.taking`."""
        return FittedUtility(self.utility, {path: state.taking(old, new) for path, state in self.states.items()})


def fit(utility: Utility, rewards: RewardSet) -> FittedUtility:
    """Let a utility learn from the references of a set of rewards; see `Utility.fit`."""
    return FittedUtility(utility, _Fit(_as_read(utility, rewards)).states(utility))


def _as_read(utility: Utility, rewards: RewardSet | RewardPosterior) -> RewardSet:
    """The rewards as a utility reads them: joint draws need the factor, which those against the references lack."""
    found = RewardSet.of(rewards)
    return replace(found, against_references={}) if utility.depends_on_pool or utility.draws else found


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
        if not step.needs_references:
            self._states[str(node)] = TransformState()
            return
        references = self._references(node.source)
        try:
            self._states[str(node)] = step.init(references, _features(node.source, self._rewards))
        except DataError as error:
            # a utility may have the same step on several rewards
            raise DataError(f"in '{node}': {error}") from None

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
        self._generator = generator
        self._is_traced = is_traced
        self.steps: list[TracedStep] = []

    def value(self, utility: Utility) -> Tensor:
        """Values [N], of a posterior its mean."""
        found = self._walk(utility)
        if isinstance(found, Tensor):
            return found
        value = Mean()(found, self._generator)
        if self._is_traced:
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
        if isinstance(node.source, Reward) and _is_contrast(node.step):
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
        if not self._is_traced:
            return
        label = written(node.step) if isinstance(node, Piped) else str(node)
        if isinstance(node, Combined):
            label = node.combination.name
        if isinstance(found, Tensor):
            self.steps.append(TracedStep(str(node), label, found, None))
        else:
            self.steps.append(TracedStep(str(node), label, found.mean, found.variance.sqrt()))


def _is_contrast(step: Step) -> bool:
    """Whether what a step makes of a reward is its difference to the references of its own prompt."""
    if isinstance(step, Center):
        return step.at is None and step.of != "all"
    return isinstance(step, QuantileRank) or (isinstance(step, Standardize) and step.of == "prompt")


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
