"""Other figures of the same completions as reward functions of their own, for a weight of 0."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from prudent.alignment._contrasts import contrast_variance
from prudent.alignment._reward_measures import numbers
from prudent.alignment._sign_weights import sign_weights, signcert_weights
from prudent.errors import UnsupportedError
from prudent.models import Message

if TYPE_CHECKING:
    from prudent.alignment._reward import PrudentReward

__all__ = ["RewardColumn"]

ColumnKind = Literal["variance", "contrast_variance", "sign", "signcert"]


class RewardColumn:
    """A reward function that gives another figure of the same completions; see `PrudentReward.variance_column`.

    Args:
        reward: what reads them.
        kind: the figure.
        name: under which trainers log it.
    """

    def __init__(self, reward: "PrudentReward", kind: ColumnKind, name: str) -> None:
        self.reward = reward
        self.kind = kind
        self.__name__ = name

    def __call__(
        self,
        prompts: Sequence[str | Sequence[Message]],
        completions: Sequence[str | Sequence[Message]],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The figure of each completion; None where it is not applicable, or a weight is not defined.

        Raises:
            UnsupportedError: the model has no posterior, or one that cannot compare completions.
        """
        found = self.reward.measure(prompts, completions, completion_ids)
        if found.posterior is None:
            if not bool(found.is_applicable.any()):
                return [None] * len(found)
            if self.kind != "signcert":
                raise UnsupportedError(
                    f"the reward model has no variance for {self.__name__!r}: fit a posterior (`prudent fit`), or take "
                    "an ensemble"
                )
        if self.kind == "variance":
            return numbers(found.std.square())
        if self.kind == "contrast_variance":
            assert found.posterior is not None
            return numbers(found.spread(contrast_variance(found.posterior)))
        if self.kind == "sign":
            assert found.posterior is not None
            return numbers(found.spread(sign_weights(found.posterior)))
        assert found.embedding is not None
        rows = found.is_applicable
        weights = signcert_weights(found.mean[rows], found.embedding.float(), found.group[rows])
        return numbers(found.spread(weights))
