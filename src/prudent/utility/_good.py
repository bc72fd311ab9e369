"""Rules that give probabilities: of being preferred to the reference, and of being above a threshold.

Of a centered reward r - r_ref, sigma(r - r_ref) is the probability that a Bradley-Terry judge prefers the response to
the reference. What doubt about the reward makes of it depends on where the average is taken:

- `probability_good`, E sigma(r): the probability itself, doubt counted. Pulled towards a half on both sides.
- `log_probability_good`, log E sigma(r): its logarithm, the Bayesian form of the log-sigmoid-centered reward. The order
  of responses is that of `probability_good`. Doubt costs where the mean is above the reference and *pays* where it is
  below; it is not a pessimistic rule there.
- `log_sigmoid | mean`, E log sigma(r): doubt costs everywhere, since log sigma is concave; never above the second.

References:
    Wang et al., Transforming and Combining Rewards for Aligning Large Language Models,
        https://arxiv.org/abs/2402.00742, 2024, equation 5 (log sigma of a centered reward).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor

from prudent.rewards import RewardPosterior, probit_log_sigmoid
from prudent.utility._rule import RiskRule
from prudent.utility._transform import Scale

__all__ = ["LogProbabilityGood", "ProbabilityAbove", "ProbabilityGood"]


@dataclass(frozen=True)
class ProbabilityGood(RiskRule):
    """E sigma(r) of a centered reward: the probability that the response is preferred to the reference.

    Attributes:
        include_noise: count the aleatoric part besides the epistemic one.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> centered = GaussianRewards(torch.tensor([2.0, 2.0, -2.0]), torch.tensor([0.0, 16.0, 16.0]))
        >>> [round(x, 4) for x in ProbabilityGood()(centered).tolist()]
        [0.8808, 0.6762, 0.3238]
    """

    include_noise: bool = False
    name: ClassVar[str] = "probability_good"
    takes: ClassVar[tuple[Scale, ...]] = ("centered",)

    def gives(self, scale: Scale) -> Scale:
        """A probability."""
        return "probability"

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Probabilities [N], float64."""
        return posterior.marginal(include_noise=self.include_noise).log_expected_sigmoid().exp()


@dataclass(frozen=True)
class LogProbabilityGood(RiskRule):
    """Log E sigma(r) of a centered reward; see the module for where it is cautious and where it is not.

    Attributes:
        form: "exact", or "probit": log sigma(m / sqrt(1 + pi v / 8)) of mean and variance, off by 0.02 at most for
            m > 0 of a Gaussian, but far too high where the response is clearly worse than the reference.
        include_noise: count the aleatoric part besides the epistemic one.

    Raises:
        ValueError: another form.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> centered = GaussianRewards(torch.tensor([2.0, 2.0, -40.0]), torch.tensor([0.0, 16.0, 16.0]))
        >>> [round(x, 4) for x in LogProbabilityGood()(centered).tolist()]
        [-0.1269, -0.3913, -32.0]
        >>> [round(x, 4) for x in LogProbabilityGood("probit")(centered).tolist()]
        [-0.1269, -0.3897, -14.8217]
    """

    form: Literal["exact", "probit"] = "exact"
    include_noise: bool = False
    name: ClassVar[str] = "log_probability_good"
    takes: ClassVar[tuple[Scale, ...]] = ("centered",)

    def __post_init__(self) -> None:
        if self.form not in ("exact", "probit"):
            raise ValueError(f"log_probability_good: form must be exact or probit, got {self.form!r}")

    def gives(self, scale: Scale) -> Scale:
        """A log-probability."""
        return "log_probability"

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Log-probabilities [N], float64."""
        if self.form == "probit":
            noise = posterior.noise if self.include_noise else 0.0
            return probit_log_sigmoid(posterior.mean, posterior.variance + noise)
        return posterior.marginal(include_noise=self.include_noise).log_expected_sigmoid()


@dataclass(frozen=True)
class ProbabilityAbove(RiskRule):
    """P(r > threshold) of a centered reward: how sure it is that it is large enough, whatever it is beyond.

    Attributes:
        threshold: in the units of the reward; 0 is the reference.
        include_noise: count the aleatoric part besides the epistemic one.

    Raises:
        ValueError: the threshold is not a finite number.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> centered = GaussianRewards(torch.tensor([2.0, 2.0, 0.0]), torch.tensor([0.0, 16.0, 16.0]))
        >>> [round(x, 4) for x in ProbabilityAbove()(centered).tolist()]
        [1.0, 0.6915, 0.5]
    """

    threshold: float = 0.0
    include_noise: bool = False
    name: ClassVar[str] = "probability_above"
    takes: ClassVar[tuple[Scale, ...]] = ("centered",)

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise ValueError(f"probability_above: threshold must be finite, got {self.threshold}")

    def gives(self, scale: Scale) -> Scale:
        """A probability."""
        return "probability"

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Probabilities [N], float64; exact ties count a half."""
        return posterior.marginal(include_noise=self.include_noise).prob_above(self.threshold)
