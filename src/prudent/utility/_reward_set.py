"""The rewards of responses by one or several models, as utilities read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.rewards import RewardPosterior
from prudent.utility._transform import PromptFeatures

__all__ = ["ONLY", "RewardSet"]

ONLY = "reward"
"""What the reward is called where there is only one, whatever its name."""


@dataclass(frozen=True)
class RewardSet:
    """N responses and their rewards by name.

    Attributes:
        rewards: a posterior over the N responses for each name, all with the same prompt ids.
        against_references: where known: the same rewards with the variance of their contrast with the prompt's
            reference responses, which leaves out what a pair likelihood does not identify. Steps that subtract the
            prompt's references read these.
        is_reference: [N] booleans, the rows that are reference responses; None where it is not known.
        references: rewards of reference responses that are no rows here, by name: of a canned response for instance.
        canned: the text of the canned response that `references` holds the reward of, by name.
        features: of the prompts, by name of the reward whose model gave them.

    Raises:
        ValueError: there is no reward, or the rewards are not of the same responses.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> helpful = GaussianRewards(torch.tensor([1.0, 2.0]), torch.ones(2))
        >>> harmless = GaussianRewards(torch.tensor([0.0, -1.0]), torch.ones(2))
        >>> RewardSet({"helpful": helpful, "harmless": harmless}).names
        ('helpful', 'harmless')
    """

    rewards: Mapping[str, RewardPosterior]
    against_references: Mapping[str, RewardPosterior] = field(default_factory=dict)
    is_reference: Tensor | None = None
    references: Mapping[str, RewardPosterior] = field(default_factory=dict)
    canned: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, PromptFeatures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("a set of rewards needs at least one")
        group = self.group
        for name, posterior in (*self.rewards.items(), *self.against_references.items()):
            if len(posterior) != len(group) or bool((posterior.group != group).any()):
                raise ValueError(f"the rewards {name!r} are of other responses than {self.names[0]!r}")
        if self.is_reference is not None and self.is_reference.shape != group.shape:
            raise ValueError(f"is_reference must have shape [{len(group)}], got {list(self.is_reference.shape)}")

    @classmethod
    def of(cls, rewards: "RewardSet | RewardPosterior") -> "RewardSet":
        """The set of a single posterior; a set is returned as it is."""
        return rewards if isinstance(rewards, RewardSet) else cls({ONLY: rewards})

    @property
    def names(self) -> tuple[str, ...]:
        """What the rewards are called."""
        return tuple(self.rewards)

    @property
    def group(self) -> Tensor:
        """[N] int64, the prompt of each response."""
        return next(iter(self.rewards.values())).group

    @property
    def is_scored(self) -> Tensor:
        """[N] booleans, whether any reward of the response is known."""
        return torch.stack([~posterior.mean.isnan() for posterior in self.rewards.values()]).any(0)

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, rows: slice | Tensor) -> "RewardSet":
        return replace(
            self,
            rewards={name: posterior[rows] for name, posterior in self.rewards.items()},
            against_references={name: posterior[rows] for name, posterior in self.against_references.items()},
            is_reference=None if self.is_reference is None else self.is_reference[rows],
        )

    def resolve(self, name: str) -> str:
        """The name in this set that a utility means: `reward` is the only one, whatever it is called.

        Raises:
            DataError: there is none of that name, or several where one is meant.
        """
        if name in self.rewards:
            return name
        if name == ONLY:
            if len(self.rewards) == 1:
                return self.names[0]
            raise DataError(
                f"there are several rewards, {', '.join(self.names)}: say in the utility which one is meant, such as "
                f"'{self.names[0]} | lcb_std', or what they are worth together, such as "
                f"'all_of({self.names[0]} | center | log_sigmoid, {self.names[1]} | center | log_sigmoid)'"
            )
        raise DataError(f"there is no reward {name!r} here; there is {', '.join(self.names)}")

    def version(self, name: str, *, contrast: bool) -> RewardPosterior:
        """Rewards as they were scored, or, where it is known, with the variance of their contrast with the references.

        Args:
            name: as in `names`.
            contrast: which of the two.
        """
        scored = self.rewards[name]
        return self.against_references.get(name, scored) if contrast else scored

    def reference_rewards(self, name: str, *, contrast: bool = False) -> RewardPosterior:
        """Rewards of the reference responses.

        Args:
            name: as in `names`.
            contrast: as in `version`.

        Raises:
            DataError: it is not known which responses are references.
        """
        if name in self.references:
            return self.references[name]
        if self.is_reference is None:
            raise DataError(
                f"it is not known which responses are the references of {name!r}: score the pool with `prudent score`, "
                "which marks them in a column is_reference, or write center(at=NUMBER)"
            )
        return self.version(name, contrast=contrast)[self.is_reference]
