"""Rules that turn a posterior over rewards into one number per response, to be maximised.

A rule either needs the marginal of each response alone (`depends_on_pool` is False) or looks at the other responses of
the prompt (`depends_on_pool` is True), in which case unbiased best-of-n curves do not exist for it. Centering on a
fixed reference set is a property of the posterior given to a rule, not of the rule.

On a Gaussian, `Entropic(a)` is `LcbVar(a / 2)`; they differ on other posteriors only.

References:
    Coste et al., Reward Model Ensembles Help Mitigate Overoptimization, https://arxiv.org/abs/2310.02743, 2024 (worst,
        their WCO; their UWO is lcb_var on members with ddof 0).
    Yang et al., Bayesian Reward Models for LLM Alignment, https://arxiv.org/abs/2402.13210, 2024 (lcb_std, lcb_var).
    A Unifying Lens on Reward Uncertainty in RLHF, https://arxiv.org/abs/2606.09073, 2026 (entropic).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Generator, Tensor

from prudent.errors import UnsupportedError
from prudent.rewards import MemberRewards, RewardPosterior

__all__ = [
    "MEMBER_RULES",
    "POOL_RULES",
    "RULES",
    "Entropic",
    "LcbStd",
    "LcbVar",
    "Mean",
    "ProbBest",
    "UtilityRule",
    "Worst",
    "risk_rule",
]

RULES = ("mean", "lcb_std", "lcb_var", "entropic")
"""Names of the rules that need only the marginal of each response."""
POOL_RULES = ("prob_best",)
"""Names of the rules whose value for a response depends on the other responses of its prompt."""
MEMBER_RULES = ("worst",)
"""Names of the rules that need the rewards of each member of an ensemble."""


class UtilityRule(Protocol):
    """A map from a posterior over N responses to N utilities; NaN in (not scored), NaN out."""

    @property
    def name(self) -> str:
        """The name that `risk_rule` knows it by."""

    @property
    def depends_on_pool(self) -> bool:
        """Whether the utility of a response changes with the other responses present."""

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]; `generator` serves rules that draw."""


@dataclass(frozen=True)
class Mean:
    """The posterior mean: indifferent to what is not known.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> Mean()(GaussianRewards(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))).tolist()
        [1.0, 2.0]
    """

    name: ClassVar[str] = "mean"
    depends_on_pool: ClassVar[bool] = False

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        return posterior.mean


@dataclass(frozen=True)
class LcbStd:
    """Lower confidence bound: mean - num_std * std.

    Attributes:
        num_std: how many standard deviations to subtract, >= 0.
        include_noise: count the aleatoric variance besides the epistemic one.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> LcbStd(num_std=1.0)(GaussianRewards(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))).tolist()
        [1.0, 0.0]
    """

    num_std: float = 1.0
    include_noise: bool = False
    name: ClassVar[str] = "lcb_std"
    depends_on_pool: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("num_std", self.num_std)

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        return posterior.mean - self.num_std * _variance(posterior, self.include_noise).sqrt()


@dataclass(frozen=True)
class LcbVar:
    """Mean minus a multiple of the variance; milder than `LcbStd` where the variance is small, harsher where large.

    Attributes:
        variance_weight: what is subtracted per unit of variance, >= 0, in 1/logits.
        include_noise: count the aleatoric variance besides the epistemic one.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> LcbVar(variance_weight=0.5)(GaussianRewards(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))).tolist()
        [1.0, 0.0]
    """

    variance_weight: float = 1.0
    include_noise: bool = False
    name: ClassVar[str] = "lcb_var"
    depends_on_pool: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("variance_weight", self.variance_weight)

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        return posterior.mean - self.variance_weight * _variance(posterior, self.include_noise)


@dataclass(frozen=True)
class Entropic:
    """Entropic risk: -1/a log E exp(-a r), between the mean (a -> 0) and the worst case (a -> infinity).

    Mean - a/2 * variance on a Gaussian; exact over the members of `MemberRewards`; over draws on `TransformedRewards`.

    Attributes:
        risk_aversion: a > 0, in 1/logits.
        include_noise: count the aleatoric part besides the epistemic one.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> rule = Entropic(risk_aversion=10.0)
        >>> round(rule(MemberRewards(torch.tensor([[0.0, 100.0]]))).item(), 4)  # close to the worst member
        0.0693
    """

    risk_aversion: float = 1.0
    include_noise: bool = False
    name: ClassVar[str] = "entropic"
    depends_on_pool: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("risk_aversion", self.risk_aversion)
        if self.risk_aversion == 0:
            raise ValueError("risk_aversion must be positive; the limit 0 is the rule 'mean'")

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        cumulant = posterior.marginal(include_noise=self.include_noise).log_expected_exp(-self.risk_aversion)
        return (-cumulant / self.risk_aversion).to(posterior.mean)


@dataclass(frozen=True)
class ProbBest:
    """The probability of being the best response of the prompt, by joint draws.

    It depends on the pool: adding a near copy of a response halves its value.

    Attributes:
        num_samples: joint draws behind each probability.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> ProbBest()(MemberRewards(torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]]))).tolist()
        [0.6666666666666666, 0.3333333333333333]
    """

    num_samples: int = 1024
    name: ClassVar[str] = "prob_best"
    depends_on_pool: ClassVar[bool] = True

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N], float64; `generator` has seed 0 by default."""
        return posterior.prob_best(self.num_samples, generator)


@dataclass(frozen=True)
class Worst:
    """The smallest reward over the members of an ensemble (worst-case optimization), each member at its own mean.

    Raises when called:
        UnsupportedError: the posterior has no members.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> Worst()(MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))).tolist()
        [1.0, 0.0]
    """

    name: ClassVar[str] = "worst"
    depends_on_pool: ClassVar[bool] = False

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        if not isinstance(posterior, MemberRewards):
            raise UnsupportedError(
                f"the rule worst needs the rewards of each member, which {type(posterior).__name__} does not have; "
                "score with an ensemble, or take entropic with a large risk aversion"
            )
        return posterior.worst


def risk_rule(
    name: str,
    *,
    num_std: float = 1.0,
    variance_weight: float = 1.0,
    risk_aversion: float = 1.0,
    include_noise: bool = False,
) -> UtilityRule:
    """The rule of a name, as the command line and configuration files give it.

    Args:
        name: one of `RULES` ("mean", "lcb_std", "lcb_var", "entropic"), `POOL_RULES` ("prob_best") or `MEMBER_RULES`
            ("worst").
        num_std: for lcb_std, standard deviations to subtract, >= 0.
        variance_weight: for lcb_var, what is subtracted per unit of variance, >= 0.
        risk_aversion: for entropic, a > 0 in -1/a log E exp(-a r).
        include_noise: count the aleatoric variance too (mean, prob_best and worst do not use it).

    Returns:
        A callable from a posterior to utilities [N].

    Raises:
        ValueError: the name is not known, or the parameter of that rule is out of range.

    Example:
        >>> risk_rule("lcb_std", num_std=2.0)
        LcbStd(num_std=2.0, include_noise=False)
    """
    match name:
        case "mean":
            return Mean()
        case "lcb_std":
            return LcbStd(num_std, include_noise)
        case "lcb_var":
            return LcbVar(variance_weight, include_noise)
        case "entropic":
            return Entropic(risk_aversion, include_noise)
        case "prob_best":
            return ProbBest()
        case "worst":
            return Worst()
    raise ValueError(f"unknown rule {name!r}: choose one of {', '.join((*RULES, *POOL_RULES, *MEMBER_RULES))}")


def _check(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def _variance(posterior: RewardPosterior, include_noise: bool) -> Tensor:
    return posterior.variance + posterior.noise if include_noise else posterior.variance
