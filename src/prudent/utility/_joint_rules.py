"""Rules that read more than the distribution of single responses: joint draws, or what each member says."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Generator, Tensor

from prudent.errors import UnsupportedError
from prudent.rewards import MemberRewards, RewardPosterior
from prudent.utility._rule import RiskRule
from prudent.utility._transform import Scale

__all__ = ["ProbBest", "Thompson", "Worst"]


@dataclass(frozen=True)
class ProbBest(RiskRule):
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

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {self.num_samples}")

    def gives(self, scale: Scale) -> Scale:
        """A probability."""
        return "probability"

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N], float64; `generator` has seed 0 by default."""
        return posterior.prob_best(self.num_samples, generator)


@dataclass(frozen=True)
class Thompson(RiskRule):
    """One joint draw of the rewards: picking the best of it picks each response as often as it may be the best.

    A response has the same draw whatever other responses are present. Needs the factor of a Gaussian.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> rewards = MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
        >>> draw = Thompson()(rewards, torch.Generator().manual_seed(1)).tolist()
        >>> draw in ([1.0, 0.0], [3.0, 4.0])
        True
    """

    name: ClassVar[str] = "thompson"

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]; `generator` has seed 0 by default."""
        return posterior.sample(1, generator)[0]


@runtime_checkable
class _OfMembers(Protocol):
    """A posterior that is made from others and may be one of members."""

    def as_members(self) -> MemberRewards | None: ...


@dataclass(frozen=True)
class Worst(RiskRule):
    """The smallest reward over the members of an ensemble (worst-case optimization), each member at its own mean.

    What is a function of members alone has members too; a curved function of members with doubts of their own has none.

    Raises when called:
        UnsupportedError: the posterior has no members.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> Worst()(MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))).tolist()
        [1.0, 0.0]
    """

    name: ClassVar[str] = "worst"
    reads_variance: ClassVar[bool] = False
    needs_members: ClassVar[bool] = True

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Utilities [N]."""
        members: RewardPosterior | None = posterior
        if isinstance(posterior, _OfMembers):
            members = posterior.as_members()
        if not isinstance(members, MemberRewards):
            raise UnsupportedError(
                f"the rule worst needs the rewards of each member, which {type(posterior).__name__} of these rewards "
                "does not have; score with an ensemble, take worst before functions of members that have doubts of "
                "their own, or take cvar with a small level"
            )
        return members.worst
