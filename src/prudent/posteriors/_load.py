"""From a folder, a hub name or a loaded model to something that scores."""

from pathlib import Path

import torch

from prudent.errors import ModelError
from prudent.models import RewardModel
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._ensemble_places import is_ensemble
from prudent.posteriors._ensemble_store import load_ensemble
from prudent.posteriors._protocol import Posterior
from prudent.posteriors._scorer import ModelScorer
from prudent.posteriors._store import load_posterior

__all__ = ["load_scorer"]


def load_scorer(
    model: str | Path | RewardModel | EnsembleScorer,
    posterior: Posterior | None = None,
    *,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
) -> ModelScorer | EnsembleScorer:
    """A reward model with its posterior, or an ensemble of reward models, ready to score.

    Args:
        model: a folder or hub name (of a model, or of an ensemble), a loaded model, or a loaded ensemble.
        posterior: instead of the one beside the model; needed for a loaded model.
        max_length: tokens a text may have, for what is loaded here; by default what the folder says.
        dtype: of its weights, as in `RewardModel.from_pretrained`.

    Raises:
        ModelError: a model cannot be loaded, or has neither a trained head nor a posterior.
        PosteriorError: a posterior does not belong to its model, or a member changed after the ensemble was made.
        ValueError: a loaded model without a posterior, or a posterior for an ensemble.

    Example:
        >>> scorer = load_scorer("rm-posterior")  # doctest: +SKIP
        >>> scorer.kind  # doctest: +SKIP
        'ekfac'
    """
    if isinstance(model, EnsembleScorer) or (not isinstance(model, RewardModel) and is_ensemble(model)):
        if posterior is not None:
            raise ValueError("an ensemble's posterior is its members; leave posterior out")
        if isinstance(model, EnsembleScorer):
            return model
        return load_ensemble(model, max_length=max_length, dtype=dtype)
    if isinstance(model, RewardModel):
        if posterior is None:
            raise ValueError("a loaded model needs its posterior given too (PlainRewards() for none)")
        loaded = model
    else:
        loaded = RewardModel.from_pretrained(model, max_length=max_length, dtype=dtype)
        posterior = posterior or load_posterior(model, loaded)
    if loaded.head_is_new and not posterior.has_variance:
        raise ModelError(
            "the model's head was never trained, its rewards mean nothing; train it or fit a posterior first"
        )
    return ModelScorer(loaded, posterior)
