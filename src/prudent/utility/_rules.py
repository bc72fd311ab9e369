"""Risk rules: from a posterior over rewards to one number per response, to be maximized.

A rule either needs the marginal of each response alone (`depends_on_pool` is False) or looks at the other responses of
the prompt (`depends_on_pool` is True), in which case unbiased best-of-n curves do not exist for it. Centering on
references is a transform before a rule, not part of it.

On a Gaussian posterior several rules are one rule, so that comparing them is to compare strengths:

- `quantile(level)` is `lcb_std(-Phi^-1(level))`: level 0.1 is num_std 1.2816, level 0.5 the mean.
- `cvar(level)` is `lcb_std(phi(Phi^-1(level)) / level)`: level 0.1 is num_std 1.7550.
- `entropic(a)` is `lcb_var(a / 2)`, and with kl_coef `lcb_var(1 / (2 kl_coef))`.

On ensembles and after transforms such as log_sigmoid they are different rules. There lcb_std and lcb_var read two
moments alone and may fall below the smallest value there is; the others never do. Variances of ensembles have the ddof
of the posterior; quantile, cvar, entropic and probabilities are of the members at hand (ddof 0).

How strong: num_std and level have no units. variance_weight and risk_aversion are in 1/logits, and mean the same only
where rewards are spread alike: see `matched_risk_aversion` for a strength that follows from n and the spread, kl_coef
for one that follows from the training of a policy, and `prudent.selection.calibrated_strength` for one from labels.

References:
    Coste et al., Reward Model Ensembles Help Mitigate Overoptimization, https://arxiv.org/abs/2310.02743, 2024 (worst,
        their WCO; their UWO is lcb_var on members with ddof 0).
    Yang et al., Bayesian Reward Models for LLM Alignment, https://arxiv.org/abs/2402.13210, 2024 (lcb_std, lcb_var).
    A Unifying Lens on Reward Uncertainty in RLHF, https://arxiv.org/abs/2606.09073, 2026 (entropic).
    Rockafellar and Uryasev, Optimization of Conditional Value-at-Risk, Journal of Risk 2, 2000 (cvar).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from prudent.rewards import RewardPosterior
from prudent.utility._good import LogProbabilityGood, ProbabilityAbove, ProbabilityGood
from prudent.utility._joint_rules import ProbBest, Thompson, Worst
from prudent.utility._rule import RiskRule, UtilityRule, check_not_negative

__all__ = [
    "RISK_RULES",
    "Cvar",
    "Entropic",
    "LcbStd",
    "LcbVar",
    "Mean",
    "ProbBest",
    "Quantile",
    "Thompson",
    "UtilityRule",
    "Worst",
]

_LARGEST_AVERSION = 1e100


@dataclass(frozen=True)
class Mean(RiskRule):
    """The posterior mean: indifferent to what is not known.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> Mean()(GaussianRewards(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))).tolist()
        [1.0, 2.0]
    """

    name: ClassVar[str] = "mean"
    reads_variance: ClassVar[bool] = False

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        return posterior.mean


@dataclass(frozen=True)
class LcbStd(RiskRule):
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

    def __post_init__(self) -> None:
        check_not_negative("num_std", self.num_std)

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        return posterior.mean - self.num_std * _variance(posterior, self.include_noise).sqrt()


@dataclass(frozen=True)
class LcbVar(RiskRule):
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

    def __post_init__(self) -> None:
        check_not_negative("variance_weight", self.variance_weight)

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        return posterior.mean - self.variance_weight * _variance(posterior, self.include_noise)


@dataclass(frozen=True)
class Entropic(RiskRule):
    """Entropic risk: -1/a log E exp(-a r), between the mean (a -> 0) and the worst case (a -> infinity).

    Mean - a/2 * variance on a Gaussian; exact over members too, of which a bimodal set makes it differ from that form.
    The strength that a given risk_aversion has depends on the spread of rewards, unless these are standardized: after
    `standardize` risk_aversion has no unit.

    Attributes:
        risk_aversion: a > 0, in 1/logits; 1 by default.
        kl_coef: instead of it, the coefficient of the KL term that the rewards are to be optimized with, in logits:
            a = 1 / kl_coef, the adversary's KL priced like the policy's.
        include_noise: count the aleatoric part besides the epistemic one.

    Raises:
        ValueError: a parameter is out of range, or both are given.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> rule = Entropic(risk_aversion=10.0)
        >>> round(rule(MemberRewards(torch.tensor([[0.0, 100.0]]))).item(), 4)  # close to the worst member
        0.0693
        >>> Entropic(kl_coef=0.1).strength
        10.0
    """

    risk_aversion: float | None = None
    kl_coef: float | None = None
    include_noise: bool = False
    name: ClassVar[str] = "entropic"

    def __post_init__(self) -> None:
        if self.risk_aversion is not None:
            check_not_negative("risk_aversion", self.risk_aversion)
            if self.risk_aversion == 0:
                raise ValueError("risk_aversion must be positive; the limit 0 is the rule 'mean'")
        if self.kl_coef is not None:
            if not (math.isfinite(self.kl_coef) and self.kl_coef > 0):
                raise ValueError(f"kl_coef must be positive and finite, got {self.kl_coef}")
            if self.risk_aversion is not None:
                raise ValueError("entropic takes risk_aversion or kl_coef, which is one over it, and not both")
        if self.strength > _LARGEST_AVERSION:
            raise ValueError(f"a risk aversion of {self.strength:g} is too large; its limit is the rule 'worst'")

    @property
    def strength(self) -> float:
        """The risk aversion a, whichever way it was given."""
        if self.kl_coef is not None:
            return 1 / self.kl_coef
        return 1.0 if self.risk_aversion is None else self.risk_aversion

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        cumulant = posterior.marginal(include_noise=self.include_noise).log_expected_exp(-self.strength)
        return (-cumulant / self.strength).to(posterior.mean)


@dataclass(frozen=True)
class Quantile(RiskRule):
    """A low quantile of what the reward may be.

    Attributes:
        level: share of the posterior that lies at or below it, in (0, 1). Of M equally likely members it is the
            ceil(level * M)-th smallest.
        include_noise: count the aleatoric part besides the epistemic one.

    Raises:
        ValueError: the level is out of range.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> rewards = GaussianRewards(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))
        >>> [round(x, 4) for x in Quantile(0.1)(rewards).tolist()]
        [1.0, -0.5631]
    """

    level: float = 0.1
    include_noise: bool = False
    name: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        _check_level(self.name, self.level)

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        return posterior.marginal(include_noise=self.include_noise).quantile(self.level).to(posterior.mean)


@dataclass(frozen=True)
class Cvar(RiskRule):
    """Conditional value at risk: the mean of the worst share of what the reward may be.

    Attributes:
        level: that share, in (0, 1); towards 0 the worst case, towards 1 the mean.
        include_noise: count the aleatoric part besides the epistemic one.

    Raises:
        ValueError: the level is out of range.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> Cvar(0.5)(MemberRewards(torch.tensor([[0.0, 2.0, 4.0, 6.0]]))).tolist()
        [1.0]
    """

    level: float = 0.1
    include_noise: bool = False
    name: ClassVar[str] = "cvar"

    def __post_init__(self) -> None:
        _check_level(self.name, self.level)

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        return posterior.marginal(include_noise=self.include_noise).cvar(self.level).to(posterior.mean)


RISK_RULES: tuple[type[UtilityRule], ...] = (
    Mean,
    LcbStd,
    LcbVar,
    Entropic,
    Quantile,
    Cvar,
    Worst,
    ProbBest,
    Thompson,
    ProbabilityGood,
    LogProbabilityGood,
    ProbabilityAbove,
)
"""Every risk rule, for those that read utilities from text."""


def _check_level(name: str, level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"{name}: level must be above 0 and below 1, got {level}")


def _variance(posterior: RewardPosterior, include_noise: bool) -> Tensor:
    return posterior.variance + posterior.noise if include_noise else posterior.variance
