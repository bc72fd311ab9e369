"""What a risk rule is: the end of a utility, a map from a posterior over rewards to one number per response."""

import math
from typing import ClassVar, Protocol, runtime_checkable

from torch import Generator, Tensor

from prudent.rewards import RewardPosterior
from prudent.utility._transform import Scale

__all__ = ["ANY_SCALE", "RiskRule", "UtilityRule", "check_not_negative"]

ANY_SCALE: tuple[Scale, ...] = ("reward", "centered", "log_probability", "probability", "number")
"""Every kind of number there is."""


@runtime_checkable
class UtilityRule(Protocol):
    """A map from a posterior over N responses to N values, to be maximized; NaN in (not scored), NaN out."""

    @property
    def name(self) -> str:
        """What it is called in a utility."""

    @property
    def depends_on_pool(self) -> bool:
        """Whether the value of a response changes with the other responses present."""

    @property
    def reads_variance(self) -> bool:
        """Whether it reads more of a posterior than its mean or its members."""

    @property
    def needs_members(self) -> bool:
        """Whether it needs the rewards of each member of an ensemble."""

    @property
    def takes(self) -> tuple[Scale, ...]:
        """Scales that it makes sense on."""

    def gives(self, scale: Scale) -> Scale:
        """The scale of its values, given that of the posterior."""

    def __call__(self, posterior: RewardPosterior, generator: Generator | None = None) -> Tensor:
        """Values [N]; `generator` serves rules that draw."""


class RiskRule:
    """What most rules say of themselves: a value in the units of the posterior, read from single responses."""

    depends_on_pool: ClassVar[bool] = False
    reads_variance: ClassVar[bool] = True
    needs_members: ClassVar[bool] = False
    takes: ClassVar[tuple[Scale, ...]] = ANY_SCALE

    def gives(self, scale: Scale) -> Scale:
        """The scale it is given."""
        return scale


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless `value` is finite and at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value}")
