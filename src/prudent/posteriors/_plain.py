"""A reward model without a posterior: rewards are known, their variance is not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.models import EncodedTexts, RewardModel
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._protocol import Center, Contrasts, Prediction, group_average

__all__ = ["PlainRewards", "plain_prediction"]


@dataclass(frozen=True)
class PlainRewards:
    """The rewards of the model's own head; every variance is NaN, "not known"."""

    @property
    def kind(self) -> str:
        """`none`."""
        return "none"

    @property
    def basis_id(self) -> None:
        """There is no factor, so no basis."""
        return

    @property
    def has_variance(self) -> bool:
        """False."""
        return False

    @property
    def factor_size(self) -> int:
        """Zero."""
        return 0

    @property
    def num_members(self) -> int:
        """Zero."""
        return 0

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
        """See `prudent.posteriors.Posterior.predict`.

        Raises:
            PosteriorError: a factor was asked for.
        """
        if with_factor:
            raise PosteriorError("a factor needs a posterior, and this model has none; fit one with `prudent fit`")
        mean = model.features(encoded, tokens_per_batch=tokens_per_batch, advance=advance)[1]
        return plain_prediction(mean, group, reference_weight, centers or {})

    def contrasts(
        self,
        model: RewardModel,
        pairs: PairTexts,
        *,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Contrasts:
        """See `prudent.posteriors.Posterior.contrasts`."""
        _, mean = pairs.contrasts_of_features(model, "head", tokens_per_batch, advance)
        return Contrasts(mean, torch.full_like(mean, torch.nan), torch.zeros_like(mean))

    def exact(self, model: RewardModel, encoded: EncodedTexts) -> tuple[Tensor, Tensor]:
        """See `prudent.posteriors.Posterior.exact`; the factor has no columns."""
        return model.features(encoded)[1], torch.zeros(len(encoded), 0)

    def check_model(self, model: RewardModel) -> None:
        """Any model has plain rewards."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """There is nothing to save."""
        return {}, {"kind": self.kind}


def plain_prediction(
    mean: Tensor, group: Tensor, reference_weight: Tensor, centers: Mapping[int, Center]
) -> Prediction:
    """What is known of texts from their rewards alone; arguments as of `Posterior.predict`."""
    unique, local = torch.unique(group, return_inverse=True)
    average = group_average(mean.unsqueeze(1), local, reference_weight, len(unique)).squeeze(1)
    for position, key in enumerate(unique.tolist()):
        if key in centers:
            average[position] = centers[key].mean
    unknown = torch.full_like(mean, torch.nan)
    return Prediction(mean, unknown, torch.zeros_like(mean), average[local], unknown, None)
