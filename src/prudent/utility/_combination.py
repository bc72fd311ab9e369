"""What a combination of rewards is, and what the several combinations share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from prudent.rewards import Elementwise, RewardPosterior
from prudent.utility._pooled import combine_rewards
from prudent.utility._transform import Scale

__all__ = [
    "SCALE_NAMES",
    "ByResponse",
    "Combination",
    "OfOneProperty",
    "check_alike",
    "check_correlation",
    "check_count",
    "check_log_probabilities",
    "check_weights",
]

SCALE_NAMES: Mapping[Scale, str] = {
    "reward": "a reward",
    "centered": "a centered reward",
    "log_probability": "a log-probability",
    "probability": "a probability",
    "number": "a number without a unit",
}
_NEUTRAL: Mapping[Scale, float] = {"centered": 0.0, "log_probability": -math.log(2), "probability": 0.5}
_TO_LOG_PROBABILITY: Mapping[Scale, str] = {
    "reward": "pipe it through center | log_sigmoid",
    "centered": "pipe it through log_sigmoid",
    "probability": "take log_sigmoid in place of sigmoid",
}


@runtime_checkable
class Combination(Protocol):
    """A map from several rewards of the same N responses to one."""

    name: ClassVar[str]
    """What it is called in a utility."""
    reads_variance: ClassVar[bool]
    """Whether it weighs by the variances of the parts, so that they must be known."""

    def check(self, scales: Sequence[Scale], *, values: bool = False) -> None:
        """Raise ValueError, beginning with the part's number, unless parts of these scales go together.

        Args:
            scales: of each part.
            values: the parts are numbers after a risk rule, not posteriors.
        """

    def gives(self, scales: Sequence[Scale]) -> Scale:
        """The scale of the combination of parts that `check` lets pass."""

    def combine(self, parts: Sequence[RewardPosterior], scales: Sequence[Scale]) -> RewardPosterior:
        """The combined posterior of parts of scales that `check` lets pass.

        Raises:
            ValueError: the parts are of different responses.
            UnsupportedError: the parts are not of a kind that this can combine.
        """

    def combine_values(self, parts: Sequence[Tensor], scales: Sequence[Scale]) -> Tensor:
        """The combined values [N] of parts [N] that a risk rule has made numbers; NaN is missing."""


class ByResponse(ABC):
    """What the combinations share that are a function of the parts, response by response.

    Attributes:
        correlation: of the parts of one response. 0: independent. A number below 1: that of the normals behind the
            parts. "members": the parts are ensembles, and member m of each belongs together (one seed, one resample).
        missing: what becomes of a response that lacks a part. "unscored": it has no value. "neutral": the part counts
            as being exactly at its reference (log 1/2, 1/2 or 0), with no variance, where another part is there.
    """

    name: ClassVar[str]
    correlation: float | Literal["members"]
    missing: Literal["unscored", "neutral"]

    def __post_init__(self) -> None:
        if self.correlation != "members":
            check_correlation(self.correlation)
        if self.missing not in ("unscored", "neutral"):
            raise ValueError(f"missing must be unscored or neutral, got {self.missing!r}")

    def check(self, scales: Sequence[Scale], *, values: bool = False) -> None:
        """See `Combination.check`."""
        self._check_parts(scales, values)
        if values and self.correlation != 0:
            raise ValueError(
                f"{self.name} combines numbers after a risk rule, which have no correlation: leave correlation out, "
                "or apply the rule to the combination"
            )
        if self.missing == "neutral" and scales[0] not in _NEUTRAL:
            center = "center it first, or " if scales[0] == "reward" else ""
            raise ValueError(
                f"part 1 of {self.name} is {SCALE_NAMES[scales[0]]}, which has no neutral value to count where it is "
                f"missing: {center}take missing=unscored"
            )

    def combine(self, parts: Sequence[RewardPosterior], scales: Sequence[Scale]) -> RewardPosterior:
        """See `Combination.combine`."""
        return combine_rewards(parts, self._function(scales), self.correlation)

    def combine_values(self, parts: Sequence[Tensor], scales: Sequence[Scale]) -> Tensor:
        """See `Combination.combine_values`."""
        return self._function(scales)(torch.stack(tuple(parts)))

    def _function(self, scales: Sequence[Scale]) -> Elementwise:
        return Elementwise(self._of_parts(len(scales)), _NEUTRAL[scales[0]] if self.missing == "neutral" else None)

    @abstractmethod
    def _check_parts(self, scales: Sequence[Scale], values: bool) -> None:
        """Raise ValueError unless the scales and the number of parts are right."""

    @abstractmethod
    def _of_parts(self, num_parts: int) -> Callable[[Tensor], Tensor]:
        """The function of the parts [P, ...]."""


class OfOneProperty(ABC):
    """What the combinations share that read several models of the same property, a posterior each."""

    name: ClassVar[str]

    def check(self, scales: Sequence[Scale], *, values: bool = False) -> None:
        """See `Combination.check`."""
        if values:
            raise ValueError(
                f"part 1 of {self.name} ends in a risk rule, and {self.name} needs posteriors: apply the rule to the "
                "combination"
            )
        check_alike(self.name, scales)

    def gives(self, scales: Sequence[Scale]) -> Scale:
        """See `Combination.gives`."""
        return scales[0]

    def combine_values(self, parts: Sequence[Tensor], scales: Sequence[Scale]) -> Tensor:
        """Not possible.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.name} needs posteriors, not numbers")


def check_correlation(correlation: float) -> None:
    """Raise ValueError unless it is at least 0 and below 1."""
    if not isinstance(correlation, int | float) or not 0 <= correlation < 1:
        raise ValueError(f"correlation must be at least 0 and below 1, got {correlation!r}")


def check_weights(weights: tuple[float, ...]) -> None:
    """Raise ValueError unless there are weights and all are finite."""
    if not weights or not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights must be finite numbers, one a part, got {list(weights)}")


def check_count(name: str, weights: tuple[float, ...] | None, scales: Sequence[Scale]) -> None:
    """Raise ValueError unless there is one weight a part."""
    if weights is not None and len(weights) != len(scales):
        raise ValueError(f"weights of {name} must be {len(scales)} numbers, one a part, got {len(weights)}")


def check_alike(name: str, scales: Sequence[Scale]) -> None:
    """Raise ValueError, with the number of the part, unless all have one scale."""
    for place, scale in enumerate(scales[1:], 2):
        if scale != scales[0]:
            raise ValueError(
                f"part {place} of {name} is {SCALE_NAMES[scale]} and part 1 is {SCALE_NAMES[scales[0]]}: bring all "
                "parts to the same scale"
            )


def check_log_probabilities(name: str, scales: Sequence[Scale], values: bool) -> None:
    """Raise ValueError, with the number of the part and a remedy, unless all are log-probabilities."""
    for place, scale in enumerate(scales, 1):
        if scale != "log_probability":
            remedy = _TO_LOG_PROBABILITY.get(scale)
            if remedy is not None and values:
                remedy += " before the risk rule"
            remedy = "use weighted" if remedy is None else f"{remedy}, or use weighted"
            raise ValueError(f"part {place} of {name} is {SCALE_NAMES[scale]}, not a log-probability: {remedy}")
