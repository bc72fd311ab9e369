"""Who judges pairs: heads on the features of a model, or a model or ensemble as it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prudent.errors import ModelError, UnsupportedError
from prudent.models import Pooling, RewardModel
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._ensemble_places import is_ensemble
from prudent.posteriors._load import load_scorer
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._plain import PlainRewards
from prudent.posteriors._scorer import ModelScorer
from prudent.posteriors._store import load_posterior

__all__ = ["Judge", "load_judge"]


@dataclass(frozen=True)
class Judge:
    """A loaded model and how it judges.

    Attributes:
        scorer: the model with its posterior, or the ensemble.
        cross_fit: heads are trained on its features.
        pooling: what those heads read.
        is_trained: it has rewards of its own, learned from some preferences.
    """

    scorer: ModelScorer | EnsembleScorer
    cross_fit: bool
    pooling: Pooling
    is_trained: bool

    def features(self, pairs: PairTexts, tokens_per_batch: int | None, advance: Callable[[int], None]) -> Tensor:
        """Features `[n, H]` float32 of the texts of some pairs, each read once.

        Raises:
            PosteriorError: one is not finite; the row of its pair is named.
        """
        assert isinstance(self.scorer, ModelScorer)  # an ensemble is not cross-fitted
        features, _ = pairs.features(self.scorer.model, self.pooling, tokens_per_batch, advance)
        total = features.sum(1)
        pairs.require_finite(total[pairs.chosen] + total[pairs.rejected], torch.arange(len(pairs)), "feature")
        return features


def load_judge(
    model: str | Path | RewardModel | EnsembleScorer,
    *,
    cross_fit: bool | None = None,
    pooling: Pooling | None = None,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
    seed: int = 0,
) -> Judge:
    """Load what judges.

    Args:
        model: a folder, a hub name, a loaded model (without a posterior), or a loaded ensemble.
        cross_fit: by default unless the model is an ensemble or has a posterior.
        pooling: by default the mean over tokens for a base model, else what its head reads.
        max_length: tokens a text may have.
        dtype: of the weights.
        seed: of what is new in a base model.

    Raises:
        ModelError: it cannot be loaded, or is to judge with a head that was never trained.
        UnsupportedError: an ensemble is to be cross-fitted.
    """
    if isinstance(model, EnsembleScorer) or (not isinstance(model, RewardModel) and is_ensemble(model)):
        if cross_fit:
            raise UnsupportedError(
                "an ensemble judges as it is; heads are cross-fitted on the features of one model, so give one model"
            )
        return Judge(load_scorer(model, max_length=max_length, dtype=dtype), False, "head", True)
    if isinstance(model, RewardModel):
        scorer = ModelScorer(model, PlainRewards())
    else:
        loaded = RewardModel.from_pretrained(model, max_length=max_length, dtype=dtype, seed=seed)
        scorer = ModelScorer(loaded, load_posterior(model, loaded))
    is_trained = scorer.has_variance or not scorer.model.head_is_new
    crossed = not scorer.has_variance if cross_fit is None else cross_fit
    if not crossed and not is_trained:
        raise ModelError(
            "the model's head was never trained, so it cannot judge as it is; let heads be cross-fitted on its features"
            " (--cross-fit), or give a reward model"
        )
    return Judge(scorer, crossed, pooling or ("head" if is_trained else "mean"), is_trained)
