"""What a transform of rewards is, what it remembers of the reference responses, and chains of transforms.

In the manner of optax: `init` looks at the rewards of reference responses and returns a state, `apply` maps rewards
with that state and changes nothing. A state is tensors alone, so that it can be stored beside a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.rewards import RewardPosterior

__all__ = ["Chain", "PromptFeatures", "Scale", "Transform", "TransformState", "chain"]

Scale = Literal["reward", "centered", "log_probability", "probability", "number"]
"""What a value measures: a reward known up to a constant per prompt, one relative to a reference, the logarithm of a
probability or a probability, or any other number."""


@dataclass(frozen=True)
class PromptFeatures:
    """What is known of prompts themselves, for references that are learned.

    Attributes:
        prompts: [B] int64 prompt ids, ascending.
        values: [B, H] features of each.

    Raises:
        ValueError: shapes do not agree, or ids do not ascend.
    """

    prompts: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.prompts.shape != self.values.shape[:1]:
            raise ValueError(
                f"features need prompts [B] and values [B, H], got {list(self.prompts.shape)} and "
                f"{list(self.values.shape)}"
            )
        if bool((self.prompts[1:] <= self.prompts[:-1]).any()):
            raise ValueError("the prompt ids of features must ascend")


@dataclass(frozen=True)
class TransformState:
    """What a transform learned from reference rewards.

    Attributes:
        prompts: [B] int64 ids of the prompts that `per_prompt` has rows for, ascending; empty where nothing is.
        per_prompt: tensors [B, ...] by name, a row a prompt.
        shared: tensors by name that serve all prompts.

    Raises:
        ValueError: a tensor of `per_prompt` has another number of rows, or ids do not ascend.
    """

    prompts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    per_prompt: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.per_prompt.items():
            if len(values) != len(self.prompts):
                raise ValueError(f"{name} has {len(values)} rows for {len(self.prompts)} prompts")
        if bool((self.prompts[1:] <= self.prompts[:-1]).any()):
            raise ValueError("the prompt ids of a state must ascend")

    def position(self, group: Tensor, what: str) -> Tensor:
        """The row of each response's prompt.

        Args:
            group: [N] prompt ids.
            what: names the transform, for the message.

        Returns:
            [N] int64 places in `prompts`.

        Raises:
            DataError: a prompt is not known.
        """
        known = self.prompts.to(group.device)
        place = torch.searchsorted(known, group).clamp(max=max(0, len(known) - 1))
        unknown = torch.ones_like(group, dtype=torch.bool) if len(known) == 0 else known[place] != group
        if bool(unknown.any()):
            raise DataError(
                f"{what} has no reference responses for prompt {int(group[unknown][0])} "
                f"({len(torch.unique(group[unknown]))} such prompts): fit the utility on responses to these prompts "
                "too, or center on one reference for all, center(of=all), or on a learned one, center(of=learned)"
            )
        return place

    def taking(self, old: Tensor, new: Tensor) -> "TransformState":
        """The state under other prompt ids.

        Args:
            old: [P] ids in `prompts`; those that are not there are left out. One may stand there several times.
            new: [P] what each is called from now on, all different.
        """
        if not self.per_prompt:
            return self
        place = torch.searchsorted(self.prompts, old).clamp(max=max(0, len(self.prompts) - 1))
        found = torch.zeros_like(old, dtype=torch.bool) if len(self.prompts) == 0 else self.prompts[place] == old
        names, order = new[found].sort()
        rows = place[found][order]
        return TransformState(names, {name: values[rows] for name, values in self.per_prompt.items()}, self.shared)


@runtime_checkable
class Transform(Protocol):
    """A map from rewards to rewards that may depend on the rewards of reference responses.

    What it does to one response depends on that response and the state alone, never on the other responses at hand.
    """

    name: ClassVar[str]
    """What it is called in a utility."""
    takes: ClassVar[tuple[Scale, ...]]
    """Scales that it makes sense on."""

    @property
    def needs_references(self) -> bool:
        """Whether `init` looks at the reference rewards; otherwise its state is empty."""

    def gives(self, scale: Scale) -> Scale:
        """The scale of what it returns, given that of what it takes."""

    def init(self, references: RewardPosterior, features: PromptFeatures | None = None) -> TransformState:
        """Learn from reference responses.

        Args:
            references: rewards of responses of the base policy, with the prompt ids that `apply` will meet.
            features: of the prompts, for transforms that learn from them.
        """

    def apply(
        self, posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None = None
    ) -> RewardPosterior:
        """Transformed rewards of N responses; NaN (not scored) stays NaN.

        Raises:
            DataError: the state knows nothing of a prompt, and needs to.
        """


@dataclass(frozen=True)
class Chain:
    """Transforms one after the other; each learns from what those before it made of the references.

    Attributes:
        transforms: at least one.
    """

    transforms: tuple[Transform, ...]

    def init(self, references: RewardPosterior, features: PromptFeatures | None = None) -> tuple[TransformState, ...]:
        """The state of each; see `Transform.init`."""
        states: list[TransformState] = []
        for transform in self.transforms:
            states.append(transform.init(references, features))
            references = transform.apply(references, states[-1], features)
        return tuple(states)

    def apply(
        self,
        posterior: RewardPosterior,
        state: tuple[TransformState, ...],
        features: PromptFeatures | None = None,
    ) -> RewardPosterior:
        """Transformed rewards; see `Transform.apply`."""
        for transform, one in zip(self.transforms, state, strict=True):
            posterior = transform.apply(posterior, one, features)
        return posterior


def chain(*transforms: Transform) -> Chain:
    """Apply transforms in order, each fitted on what those before it made of the reference rewards.

    Args:
        transforms: at least one.

    Returns:
        Something with `init` and `apply`, whose state is a tuple of states.

    Raises:
        ValueError: there is none, or one takes another scale than the one before it gives.
    """
    if not transforms:
        raise ValueError("chain needs at least one transform")
    scale: Scale = "reward"
    for transform in transforms:
        if scale not in transform.takes:
            raise ValueError(f"{transform.name} takes {' or '.join(transform.takes)}, and is given {scale}")
        scale = transform.gives(scale)
    return Chain(transforms)
