"""Fitting the mean: losses of preferences and one thin trainer on `transformers.Trainer`."""

from prudent.training._config import LossName, TrainingConfig
from prudent.training._losses import bradley_terry_loss, centering_penalty, classification_loss, preference_nll
from prudent.training._members import train_members
from prudent.training._result import TrainingResult
from prudent.training._run import data_digest
from prudent.training._train import load_training_pairs, train

__all__ = [
    "LossName",
    "TrainingConfig",
    "TrainingResult",
    "bradley_terry_loss",
    "centering_penalty",
    "classification_loss",
    "data_digest",
    "load_training_pairs",
    "preference_nll",
    "train",
    "train_members",
]
