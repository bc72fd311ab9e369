"""Combinations of several rewards of the same responses into one.

Which to take follows from what the parts say. Properties that must all hold: `all_of`, the sum of log-sigmoids of
centered rewards, where one very good part cannot buy off a bad one. Properties that do have a price in one another:
`weighted`. Several models of one and the same property: `ensemble`, which keeps each as a member, or `product`, which
trusts each by its precision.

References:
    Wang et al., Transforming and Combining Rewards for Aligning Large Language Models,
        https://arxiv.org/abs/2402.00742, 2024 (all_of; any_of and minimum are its other logical forms).
    Coste et al., Reward Model Ensembles Help Mitigate Overoptimization, https://arxiv.org/abs/2310.02743, 2024
        (ensemble, with the rules mean, worst and, for ddof 0, lcb_var).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from prudent.rewards import GaussianRewards, MemberRewards, RewardPosterior, WeightedSum
from prudent.utility._combination import (
    SCALE_NAMES,
    ByResponse,
    Combination,
    OfOneProperty,
    check_alike,
    check_correlation,
    check_count,
    check_log_probabilities,
    check_weights,
)
from prudent.utility._log_any import log_any
from prudent.utility._pooled import ensemble_rewards, fuse_rewards
from prudent.utility._transform import Scale

__all__ = ["COMBINATIONS", "AllOf", "AnyOf", "Ensemble", "Minimum", "Product", "Weighted"]


@dataclass(frozen=True)
class AllOf(ByResponse):
    """All properties at once: the sum of log-probabilities, log P(all good) for judgments independent given the text.

    Attributes:
        weights: how many times each property counts (an exponent of its probability), >= 0; 1 each by default.
        correlation: of the parts' posteriors; the judgments themselves are taken as independent given the rewards. 0:
            independent, as two models are but not two functions of one reward. A number below 1: that of the normals
            behind Gaussian parts. "members": member m of every part belongs together (one seed, one resample).
        missing: "unscored", or "neutral": log 1/2, as good as the reference. With `center(q=0.85)` that is better than
            most responses are, and a missing score pays: take `center(q=0.5)`.

    Raises:
        ValueError: a parameter is out of range.

    Example:
        >>> import torch, torch.nn.functional as F
        >>> helpful, harmless = F.logsigmoid(torch.tensor([10.0, 1.0])), F.logsigmoid(torch.tensor([-5.0, 1.0]))
        >>> values = AllOf().combine_values([helpful, harmless], ["log_probability"] * 2)
        >>> [round(x, 4) for x in values.tolist()]  # the raw sums are 5 and 2
        [-5.0068, -0.6265]
    """

    weights: tuple[float, ...] | None = None
    correlation: float | Literal["members"] = 0.0
    missing: Literal["unscored", "neutral"] = "unscored"
    name: ClassVar[str] = "all_of"
    reads_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None:
            check_weights(self.weights)
            if min(self.weights) < 0:
                raise ValueError(f"weights of all_of are exponents and not negative, got {min(self.weights):g}")

    def gives(self, scales: Sequence[Scale]) -> Scale:
        """See `Combination.gives`."""
        return "log_probability"

    def _check_parts(self, scales: Sequence[Scale], values: bool) -> None:
        check_log_probabilities(self.name, scales, values)
        check_count(self.name, self.weights, scales)

    def _of_parts(self, num_parts: int) -> Callable[[Tensor], Tensor]:
        return WeightedSum(self.weights or (1.0,) * num_parts)


@dataclass(frozen=True)
class AnyOf(ByResponse):
    """At least one of several properties: log(1 - product of (1 - p)), for judgments independent given the text.

    Attributes:
        correlation: as in `AllOf`.
        missing: "unscored", or "neutral": log 1/2.

    Raises:
        ValueError: a parameter is out of range.

    Example:
        >>> import torch
        >>> halves = [torch.tensor([0.5]).log()] * 2
        >>> round(AnyOf().combine_values(halves, ["log_probability"] * 2).exp().item(), 4)
        0.75
    """

    correlation: float | Literal["members"] = 0.0
    missing: Literal["unscored", "neutral"] = "unscored"
    name: ClassVar[str] = "any_of"
    reads_variance: ClassVar[bool] = False

    def gives(self, scales: Sequence[Scale]) -> Scale:
        """See `Combination.gives`."""
        return "log_probability"

    def _check_parts(self, scales: Sequence[Scale], values: bool) -> None:
        check_log_probabilities(self.name, scales, values)

    def _of_parts(self, num_parts: int) -> Callable[[Tensor], Tensor]:
        return log_any


@dataclass(frozen=True)
class Weighted(ByResponse):
    """The sum of weights[p] * part p: every property has its price in the others.

    Attributes:
        weights: what one unit of each part is worth: a logit of a centered reward, after `standardize` one standard
            deviation of the base policy's rewards for that prompt. Any sign.
        correlation: as in `AllOf`.
        missing: "unscored", or "neutral" for parts that are centered or probabilities.

    Raises:
        ValueError: a parameter is out of range.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> parts = [GaussianRewards(torch.tensor([m]), torch.tensor([v])) for m, v in ((10.0, 1.0), (-5.0, 4.0))]
        >>> both = Weighted((1.0, 0.5)).combine(parts, ["centered"] * 2)
        >>> both.mean.item(), both.variance.item()
        (7.5, 2.0)
    """

    weights: tuple[float, ...]
    correlation: float | Literal["members"] = 0.0
    missing: Literal["unscored", "neutral"] = "unscored"
    name: ClassVar[str] = "weighted"
    reads_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self.weights)

    def gives(self, scales: Sequence[Scale]) -> Scale:
        """See `Combination.gives`."""
        return scales[0] if scales[0] in ("reward", "centered") else "number"

    def _check_parts(self, scales: Sequence[Scale], values: bool) -> None:
        check_alike(self.name, scales)
        check_count(self.name, self.weights, scales)

    def _of_parts(self, num_parts: int) -> Callable[[Tensor], Tensor]:
        return WeightedSum(self.weights)


@dataclass(frozen=True)
class Minimum(ByResponse):
    """The worst property. Levels matter, and a reward is known only up to a constant, so its parts are centered.

    Attributes:
        correlation: as in `AllOf`.
        missing: "unscored", or "neutral" for parts that are centered or probabilities.

    Raises:
        ValueError: a parameter is out of range.

    Example:
        >>> import torch
        >>> parts = [torch.tensor([10.0, 1.0]), torch.tensor([-5.0, 1.0])]
        >>> Minimum().combine_values(parts, ["centered"] * 2).tolist()
        [-5.0, 1.0]
    """

    correlation: float | Literal["members"] = 0.0
    missing: Literal["unscored", "neutral"] = "unscored"
    name: ClassVar[str] = "minimum"
    reads_variance: ClassVar[bool] = False

    def gives(self, scales: Sequence[Scale]) -> Scale:
        """See `Combination.gives`."""
        return scales[0]

    def _check_parts(self, scales: Sequence[Scale], values: bool) -> None:
        check_alike(self.name, scales)
        if scales[0] == "reward":
            before = " before the risk rule" if values else ""
            raise ValueError(
                f"part 1 of minimum is a reward, not a centered reward: center it first{before} (levels of rewards are "
                "arbitrary)"
            )

    def _of_parts(self, num_parts: int) -> Callable[[Tensor], Tensor]:
        return _smallest


@dataclass(frozen=True)
class Ensemble(OfOneProperty):
    """Several models of the same property as one ensemble, each a member at its mean.

    Then `mean`, `worst`, and `lcb_var` (with ddof=0 the UWO of 2310.02743) say what it is worth. That paper's variance
    is between the members alone; that of parts with doubts of their own also holds the average of theirs. Members of
    parts that are ensembles themselves become members of this one. A response that lacks a part is not scored. Rewards
    must be centered, as parts or after the ensemble, for all rules but the mean: models differ in their levels, which
    would decide which member is the worst and count as doubt.

    Attributes:
        ddof: 0 or 1, of the variance between the members; 0 for a single part, which must be an ensemble to have any.

    Raises:
        ValueError: ddof is something else.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> parts = [GaussianRewards(torch.tensor([m]), torch.tensor([0.5])) for m in (1.0, 3.0)]
        >>> both = Ensemble(ddof=0).combine(parts, ["centered"] * 2)
        >>> both.mean.item(), both.variance.item(), both.worst.item()
        (2.0, 1.5, 1.0)
    """

    ddof: int = 1
    name: ClassVar[str] = "ensemble"
    reads_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof must be 0 or 1, got {self.ddof}")

    def check(self, scales: Sequence[Scale], *, values: bool = False) -> None:
        """See `Combination.check`."""
        super().check(scales, values=values)
        if len(scales) == 1 and self.ddof == 1:
            raise ValueError(
                "ensemble needs several parts; the members of one ensemble with ddof=0 are ensemble(a, ddof=0)"
            )

    def combine(self, parts: Sequence[RewardPosterior], scales: Sequence[Scale]) -> MemberRewards:
        """See `Combination.combine`."""
        return ensemble_rewards(parts, self.ddof)


@dataclass(frozen=True)
class Product(OfOneProperty):
    """Several models of the same property, each trusted by its precision (generalized least squares).

    Parts are centered, since the level of a reward is arbitrary. A response that lacks a part is not scored.

    Attributes:
        correlation: 0 <= correlation < 1, of the errors of any two parts; 0 weighs by inverse variance.

    Raises:
        ValueError: the correlation is out of range.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> parts = [GaussianRewards(torch.tensor([m]), torch.tensor([v])) for m, v in ((1.0, 1.0), (6.0, 4.0))]
        >>> both = Product().combine(parts, ["centered"] * 2)
        >>> round(both.mean.item(), 4), round(both.variance.item(), 4)
        (2.0, 0.8)
    """

    correlation: float = 0.0
    name: ClassVar[str] = "product"
    reads_variance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_correlation(self.correlation)

    def check(self, scales: Sequence[Scale], *, values: bool = False) -> None:
        """See `Combination.check`."""
        super().check(scales, values=values)
        if scales[0] != "centered":
            remedy = "center it first (levels of rewards are arbitrary)" if scales[0] == "reward" else "use ensemble"
            raise ValueError(f"part 1 of {self.name} is {SCALE_NAMES[scales[0]]}, not a centered reward: {remedy}")

    def combine(self, parts: Sequence[RewardPosterior], scales: Sequence[Scale]) -> GaussianRewards:
        """See `Combination.combine`."""
        return fuse_rewards(parts, self.correlation)


COMBINATIONS: tuple[type[Combination], ...] = (AllOf, AnyOf, Weighted, Minimum, Ensemble, Product)
"""The classes of all combinations, for those that read a utility from text."""


def _smallest(parts: Tensor) -> Tensor:
    return parts.amin(0)
