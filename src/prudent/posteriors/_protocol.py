"""What every kind of posterior can do: predict rewards with their variance for texts, and be saved beside its model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.models import EncodedTexts, RewardModel

if TYPE_CHECKING:
    from prudent.posteriors._pair_texts import PairTexts

__all__ = ["Center", "Contrasts", "Posterior", "Prediction", "check_head", "group_average"]


@dataclass(frozen=True)
class Center:
    """The average of a prompt's fixed reference responses, from which others of that prompt are centred.

    Attributes:
        mean: average reward of the reference responses.
        factor: `[F]` average of their exact factor rows (reward derivative times covariance factor).
        parts: of an ensemble of models: the same for each of its members.
    """

    mean: float
    factor: Tensor
    parts: tuple["Center", ...] = ()


@dataclass(frozen=True)
class Prediction:
    """Rewards of N texts.

    Attributes:
        mean: `[N]` float32, like all that follow (float64 of a float64 model).
        variance: `[N]` float32 exact marginal variance (epistemic); NaN where the model has no posterior.
        noise: `[N]` float32 aleatoric variance.
        reference_mean: `[N]` float32 average reward of the reference responses of the text's prompt; NaN without any.
        centered_variance: `[N]` float32 exact variance of the reward minus that average; NaN without any.
        factor: `[N, K]` float32 factor for storage, or None when it was not asked for. Where there are members it is
            that of the covariance within members, and None where they have none.
        members: `[N, M]` rewards by each member of an ensemble; None where there is no ensemble.
        within_variance: `[N]` the part of `variance` that is the members' own, averaged; None where they have none.
    """

    mean: Tensor
    variance: Tensor
    noise: Tensor
    reference_mean: Tensor
    centered_variance: Tensor
    factor: Tensor | None
    members: Tensor | None = None
    within_variance: Tensor | None = None


@dataclass(frozen=True)
class Contrasts:
    """What is known of r(chosen) - r(rejected) of P pairs.

    Attributes:
        mean: `[P]` float64.
        variance: `[P]` float64 exact epistemic variance; NaN where the model has no posterior.
        noise: `[P]` float64 aleatoric variance, both texts' together; 0 for a text against itself.
    """

    mean: Tensor
    variance: Tensor
    noise: Tensor


class Posterior(Protocol):
    """A posterior over the rewards of one model."""

    @property
    def kind(self) -> str:
        """The word by which `fit` makes it."""

    @property
    def basis_id(self) -> str | None:
        """Names the basis of stored factors; factors of different bases cannot be mixed."""

    @property
    def has_variance(self) -> bool:
        """False for a model without a posterior, whose variance is not known."""

    @property
    def factor_size(self) -> int:
        """K, columns of a stored factor; 0 where there is none."""

    @property
    def num_members(self) -> int:
        """M where the posterior is a set of members, whose deviations are then the first columns of `exact`; else 0."""

    def predict(
        self,
        model: RewardModel,
        encoded: EncodedTexts,
        *,
        group: Tensor,
        reference_weight: Tensor,
        centers: Mapping[int, Center] | None = None,
        with_factor: bool = False,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Prediction:
        """Rewards of N texts.

        Args:
            model: the reward model this posterior was fitted on.
            encoded: N texts.
            group: `[N]` prompt of each text.
            reference_weight: `[N]` how often each text stands in its prompt's reference set; mostly 0, or 1.
            centers: for prompts whose reference responses are not among these texts.
            with_factor: also the factor for storage.
            tokens_per_batch: padded tokens of a batch.
            advance: called with the number of texts done.
        """

    def contrasts(
        self,
        model: RewardModel,
        pairs: "PairTexts",
        *,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Contrasts:
        """Differences of rewards of pairs.

        Args:
            model: the reward model.
            pairs: from `encode_pairs`.
            tokens_per_batch: padded tokens of a batch.
            advance: called with the number of pairs done.

        Raises:
            PosteriorError: a reward is not finite; the row is named.
        """

    def exact(self, model: RewardModel, encoded: EncodedTexts) -> tuple[Tensor, Tensor]:
        """Mean `[n]` and exact factor `[n, F]` of a few texts: inner products of its rows are their covariances.

        F may be as large as the number of weights; this is for the candidates or references of one prompt. Members
        come first: the deviations of the M members from their mean over sqrt(M - 1).
        """

    def check_model(self, model: RewardModel) -> object:
        """Make sure that the model is the one fitted on, as far as its shape and head say.

        Raises:
            PosteriorError: it is another.
        """

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors for `posterior.safetensors` and entries of `posterior_config.json`."""


def check_head(weight: Tensor, model: RewardModel) -> None:
    """Make sure that a model's head is the one that a posterior has.

    Raises:
        PosteriorError: it is another.
    """
    difference = float((model.head_values()[0] - weight.to(torch.float32)).abs().max())
    # Loading in half precision rounds the head; a refitted or retrained head differs by far more.
    if difference > 0.01 * float(weight.abs().max()):
        raise PosteriorError("the reward head changed after the posterior was fitted; fit it again")


def group_average(values: Tensor, group: Tensor, weight: Tensor, size: int) -> Tensor:
    """Weighted averages over the rows of each group.

    Args:
        values: `[N, F]`.
        group: `[N]` in 0..size-1.
        weight: `[N]` not negative.
        size: number of groups.

    Returns:
        `[size, F]` averages, NaN for a group whose weights are all zero.
    """
    rows = torch.nonzero(weight).flatten()
    weights = weight[rows].to(values)
    total = values.new_zeros(size, values.shape[1]).index_add_(0, group[rows], values[rows] * weights.unsqueeze(1))
    return total / values.new_zeros(size).index_add_(0, group[rows], weights).unsqueeze(1)
