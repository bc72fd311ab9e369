"""How sure a reward model is: posteriors over its rewards, fitted on preferences and saved beside it."""

from prudent.posteriors._fit import FitResult, PosteriorKind, fit
from prudent.posteriors._last_layer import HeadChoice, LastLayerPosterior
from prudent.posteriors._logistic import LogisticPosterior, fit_logistic, maximize_evidence
from prudent.posteriors._plain import PlainRewards
from prudent.posteriors._protocol import Center, Posterior, Prediction
from prudent.posteriors._store import load_model_and_posterior, load_posterior, save_posterior

__all__ = [
    "Center",
    "FitResult",
    "HeadChoice",
    "LastLayerPosterior",
    "LogisticPosterior",
    "PlainRewards",
    "Posterior",
    "PosteriorKind",
    "Prediction",
    "fit",
    "fit_logistic",
    "load_model_and_posterior",
    "load_posterior",
    "maximize_evidence",
    "save_posterior",
]
