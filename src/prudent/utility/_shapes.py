"""Shapes of rewards: standardized, in logits, as a log-probability or a probability, or clipped.

References:
    Wang et al., Transforming and Combining Rewards for Aligning Large Language Models,
        https://arxiv.org/abs/2402.00742, 2024 (log_sigmoid of a centered reward).
    Fu et al., Reward Shaping to Mitigate Reward Hacking in RLHF, https://arxiv.org/abs/2502.18770, 2025 (sigmoid).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from prudent.rewards import RewardPosterior, TransformedRewards
from prudent.utility._affine import affine
from prudent.utility._center import Center
from prudent.utility._rank import QuantileRank
from prudent.utility._statistic import (
    as_state,
    by_prompt,
    mean_tensors,
    place_of,
    pooled_spread,
    positive_spread,
    scored_rows,
    shift_from,
    take,
)
from prudent.utility._transform import PromptFeatures, Scale, Transform, TransformState

__all__ = ["TRANSFORMS", "Clip", "LogSigmoid", "Sigmoid", "Standardize", "Temperature"]


class _Stateless:
    """A transform that needs to know nothing of reference responses."""

    needs_references: ClassVar[bool] = False

    def init(self, references: RewardPosterior, features: PromptFeatures | None = None) -> TransformState:
        """An empty state."""
        return TransformState()


@dataclass(frozen=True)
class Standardize:
    """(r - mean) / std of the reference rewards (ddof 1), so that rewards of several models have one spread.

    The mean, of the prompt's own references, is subtracted as `Center("mean")` does it, and the standard deviation,
    that of the posterior means, is taken as known: Gaussians stay Gaussian. All members of an ensemble are divided by
    one standard deviation, that of their average, so that what they disagree about stays. The unit then is a standard
    deviation of the base policy's rewards and no logit: sigma of it, in `log_sigmoid`, is no Bradley-Terry probability.

    Attributes:
        of: where the standard deviation is from. "prompt": the references of the response's own prompt. "all": those of
            all prompts, each about the mean of its prompt, since levels of prompts mean nothing (divided by the number
            of references less that of prompts).

    Raises:
        ValueError: another `of`.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> rewards = GaussianRewards(torch.tensor([1.0, 3.0, 5.0]), torch.full((3,), 4.0))
        >>> transform = Standardize()
        >>> standardized = transform.apply(rewards, transform.init(rewards))
        >>> standardized.mean.tolist(), standardized.variance.tolist()
        ([-1.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    """

    of: Literal["prompt", "all"] = "prompt"
    name: ClassVar[str] = "standardize"
    takes: ClassVar[tuple[Scale, ...]] = ("reward", "centered", "number")
    needs_references: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.of not in ("prompt", "all"):
            raise ValueError(f"standardize: of must be prompt or all, got {self.of!r}")

    def gives(self, scale: Scale) -> Scale:
        """Relative to the mean of the references."""
        return "centered"

    def init(self, references: RewardPosterior, features: PromptFeatures | None = None) -> TransformState:
        """Find mean and standard deviation.

        Raises:
            DataError: no reference is scored, or those of a prompt do not differ; it is named.
        """
        scored = scored_rows(references, self.name)
        index = by_prompt(scored, pooled=False)
        tensors = mean_tensors(scored, index)
        if self.of == "all":
            return as_state(tensors, index, False, scored, {"std": pooled_spread(scored, index, self.name)})
        remedy = "take the standard deviation over all prompts (of=all)"
        return as_state(tensors | {"std": positive_spread(scored, index, self.name, remedy)}, index, False, scored)

    def apply(
        self, posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None = None
    ) -> RewardPosterior:
        """Standardized rewards of N responses; for errors see `Center.apply`."""
        place = place_of(posterior, state, self.name)
        return affine(posterior, shift_from(posterior, state, place), 1 / take(state, "std", place))


@dataclass(frozen=True)
class Temperature(_Stateless):
    """r / value, by which rewards that are not in logits come to be.

    Attributes:
        value: temperature, positive; the one fitted on held-out pairs makes sigma(r_i - r_j) a probability.

    Raises:
        ValueError: it is not positive and finite.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> rewards = Temperature(2.0).apply(GaussianRewards(torch.tensor([4.0]), torch.ones(1)), TransformState())
        >>> rewards.mean.tolist(), rewards.variance.tolist()
        ([2.0], [0.25])
    """

    value: float
    name: ClassVar[str] = "temperature"
    takes: ClassVar[tuple[Scale, ...]] = ("reward", "centered", "number")

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise ValueError(f"temperature: value must be positive and finite, got {self.value}")

    def gives(self, scale: Scale) -> Scale:
        """The scale it is given."""
        return scale

    def apply(
        self, posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None = None
    ) -> RewardPosterior:
        """Rewards divided by `value`."""
        return affine(posterior, scale=1 / self.value)


@dataclass(frozen=True)
class LogSigmoid(_Stateless):
    """log sigma(r), of a centered reward the log-probability of being preferred to the reference (LSC).

    Slope 1 far below the reference, one half at it, none far above: no pay-off for extreme rewards, and sums over
    properties mean AND. Picking one of n by a single reward is unchanged by it. Its posterior is not Gaussian: the
    mean is E log sigma(r), below log E sigma(r), which is what `log_probability_good` of the centered reward gives.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> rewards = LogSigmoid().apply(MemberRewards(torch.zeros(1, 2)), TransformState())
        >>> round(rewards.mean.item(), 4)
        -0.6931
    """

    name: ClassVar[str] = "log_sigmoid"
    takes: ClassVar[tuple[Scale, ...]] = ("centered",)

    def gives(self, scale: Scale) -> Scale:
        """A log-probability."""
        return "log_probability"

    def apply(
        self, posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None = None
    ) -> RewardPosterior:
        """Log-probabilities of N responses."""
        return TransformedRewards(posterior, log_sigmoid, increasing=True)


@dataclass(frozen=True)
class Sigmoid(_Stateless):
    """sigma(r), of a centered reward the probability of being preferred to the reference; bounded on both sides.

    Its posterior mean is E sigma(r), which `probability_good` of the centered reward gives too. PAR of 2502.18770
    averages sigma(r - r_m) over reference responses m: that is this for one reference (`center(canned=...)`); for
    several this is sigma of the difference from one level instead.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> Sigmoid().apply(MemberRewards(torch.zeros(1, 2)), TransformState()).mean.tolist()
        [0.5]
    """

    name: ClassVar[str] = "sigmoid"
    takes: ClassVar[tuple[Scale, ...]] = ("centered",)

    def gives(self, scale: Scale) -> Scale:
        """A probability."""
        return "probability"

    def apply(
        self, posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None = None
    ) -> RewardPosterior:
        """Probabilities of N responses."""
        return TransformedRewards(posterior, torch.sigmoid, increasing=True)


@dataclass(frozen=True)
class Clip(_Stateless):
    """Values below `low` become `low`, those above `high` become `high`.

    Attributes:
        low: the smallest value there can be.
        high: the largest.

    Raises:
        ValueError: low is not below high, or neither is given.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> Clip(-1.0, 1.0).apply(MemberRewards(torch.tensor([[0.5, 3.0]])), TransformState()).mean.tolist()
        [0.75]
    """

    low: float = -math.inf
    high: float = math.inf
    name: ClassVar[str] = "clip"
    takes: ClassVar[tuple[Scale, ...]] = ("reward", "centered", "log_probability", "probability", "number")

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"clip: low must be below high, got {self.low} and {self.high}")
        if math.isinf(self.low) and math.isinf(self.high):
            raise ValueError("clip: give low, high or both")

    def gives(self, scale: Scale) -> Scale:
        """The scale it is given."""
        return scale

    def apply(
        self, posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None = None
    ) -> RewardPosterior:
        """Clipped values of N responses."""
        return TransformedRewards(posterior, Clipped(self.low, self.high), increasing=True)


TRANSFORMS: tuple[type[Transform], ...] = (
    Center,
    Standardize,
    Temperature,
    LogSigmoid,
    Sigmoid,
    Clip,
    QuantileRank,
)
"""Every transform, for those that read utilities from text."""


# Functions of draws are compared and pickled by name, which a lambda could not be.


def log_sigmoid(draws: Tensor) -> Tensor:
    """Log-sigmoid of draws [S, N]."""
    return F.logsigmoid(draws)


@dataclass(frozen=True)
class Clipped:
    """Draws [S, N] between two bounds."""

    low: float
    high: float

    def __call__(self, draws: Tensor) -> Tensor:
        return draws.clamp(self.low, self.high)
