"""Fitting the mean: losses of preferences and one thin trainer on `transformers.Trainer`."""

from prudent.training._config import LossName, TrainingConfig, require_integrations
from prudent.training._losses import bradley_terry_loss, centering_penalty, classification_loss, preference_nll
from prudent.training._members import train_members
from prudent.training._result import TrainingResult
from prudent.training._resumable import CheckpointCallback, ResumableTrainer, require_finite_weights
from prudent.training._run import RunFolder, data_digest, model_identity, write_error
from prudent.training._train import load_training_pairs, own_random_state, require_apart, train

__all__ = [
    "CheckpointCallback",
    "LossName",
    "ResumableTrainer",
    "RunFolder",
    "TrainingConfig",
    "TrainingResult",
    "bradley_terry_loss",
    "centering_penalty",
    "classification_loss",
    "data_digest",
    "load_training_pairs",
    "model_identity",
    "own_random_state",
    "preference_nll",
    "require_apart",
    "require_finite_weights",
    "require_integrations",
    "train",
    "train_members",
    "write_error",
]
