"""From folders, hub names or loaded models to what scores."""

from collections.abc import Mapping
from pathlib import Path

import torch

from prudent.errors import ModelError, PrudentError
from prudent.models import RewardModel, load_reward_models
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._ensemble_places import ensemble_folder, is_ensemble, member_folder
from prudent.posteriors._ensemble_store import load_ensemble, saved_members
from prudent.posteriors._protocol import Posterior
from prudent.posteriors._scorer import ModelScorer
from prudent.posteriors._store import load_posterior

__all__ = ["is_joint", "load_scorer", "load_scorers"]


def load_scorer(
    model: str | Path | RewardModel | ModelScorer | EnsembleScorer,
    posterior: Posterior | None = None,
    *,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
) -> ModelScorer | EnsembleScorer:
    """A reward model with its posterior, or an ensemble of reward models, ready to score.

    Args:
        model: a folder or hub name (of a model, or of an ensemble), a loaded model, or what is ready to score.
        posterior: instead of the one beside the model; needed for a loaded model.
        max_length: tokens a text may have, for what is loaded here; by default what the folder says.
        dtype: of its weights, as in `RewardModel.from_pretrained`.

    Raises:
        ModelError: a model cannot be loaded, or has neither a trained head nor a posterior.
        PosteriorError: a posterior does not belong to its model, or a member changed after the ensemble was made.
        ValueError: a loaded model without a posterior, or a posterior for what has one.

    Example:
        >>> scorer = load_scorer("rm-posterior")  # doctest: +SKIP
        >>> scorer.kind  # doctest: +SKIP
        'ekfac'
    """
    if isinstance(model, ModelScorer | EnsembleScorer):
        if posterior is not None:
            raise ValueError("what is ready to score has its posterior; leave posterior out")
        return model
    if isinstance(model, RewardModel):
        if posterior is None:
            raise ValueError("a loaded model needs its posterior given too (PlainRewards() for none)")
        return _scorer(model, posterior)
    if is_ensemble(model):
        if posterior is not None:
            raise ValueError("an ensemble's posterior is its members; leave posterior out")
        return load_ensemble(model, max_length=max_length, dtype=dtype)
    loaded = RewardModel.from_pretrained(model, max_length=max_length, dtype=dtype)
    return _scorer(loaded, posterior or load_posterior(model, loaded))


def is_joint(scorer: ModelScorer | EnsembleScorer) -> bool:
    """Whether scored responses can be compared: their posterior is stored as members, a factor, or both.

    A factor can then be asked for. The variance of members that have posteriors without a factor is known alone, and
    so is that of none.

    Example:
        >>> is_joint(load_scorer("rm-posterior"))  # doctest: +SKIP
        True
    """
    if isinstance(scorer, ModelScorer):
        return scorer.has_variance
    own = [member.scorer for member in scorer.members if member.scorer.has_variance]
    return all(one.posterior.factor_size > 0 for one in own)


def load_scorers(
    models: Mapping[str, str | Path | RewardModel | ModelScorer | EnsembleScorer],
    *,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
) -> dict[str, ModelScorer | EnsembleScorer]:
    """Several models ready to score; all that are adapters of one base, members of ensembles too, share it in memory.

    Args:
        models: by name; each as `load_scorer` takes it.
        max_length: tokens a text may have, for what is loaded here; by default what the folders say.
        dtype: of the weights of what is loaded here.

    Raises:
        ModelError: as `load_scorer`; the name is told.
        PosteriorError: likewise.
        ValueError: a loaded model, whose posterior is not known; give `ModelScorer(model, posterior)`.

    Example:
        >>> scorers = load_scorers({"helpful": "rm-helpful", "harmless": "rm-harmless"})  # doctest: +SKIP
        >>> scorers["helpful"].model.model is scorers["harmless"].model.model  # doctest: +SKIP
        True
    """
    folders = {name: _folders(name, model) for name, model in models.items() if isinstance(model, str | Path)}
    together = [folder for some in folders.values() for folder in some]
    loaded = iter(load_reward_models(together, max_length=max_length, dtype=dtype))
    found: dict[str, ModelScorer | EnsembleScorer] = {}
    for name, model in models.items():
        own = [next(loaded) for _ in folders.get(name, [])]
        try:
            if not isinstance(model, str | Path):
                found[name] = load_scorer(model)
            elif is_ensemble(model):
                found[name] = load_ensemble(model, max_length=max_length, dtype=dtype, models=own)
            else:
                found[name] = _scorer(own[0], load_posterior(model, own[0]))
        except PrudentError as error:
            raise type(error)(f"{name}: {error}") from error
    return found


def _folders(name: str, model: str | Path) -> list[str]:
    """Where the models are that a name or folder stands for."""
    try:
        if not is_ensemble(model):
            return [str(model)]
        return [member_folder(member) for member in saved_members(ensemble_folder(model))]
    except PrudentError as error:
        raise type(error)(f"{name}: {error}") from error


def _scorer(model: RewardModel, posterior: Posterior) -> ModelScorer:
    if model.head_is_new and not posterior.has_variance:
        raise ModelError(
            "the model's head was never trained, its rewards mean nothing; train it or fit a posterior first"
        )
    return ModelScorer(model, posterior)
