"""Fitting the mean: the Bradley-Terry loss and one thin trainer on `transformers.Trainer`."""

from prudent.training._config import TrainingConfig
from prudent.training._losses import bradley_terry_loss, centering_penalty, preference_nll
from prudent.training._result import TrainingResult
from prudent.training._train import train

__all__ = [
    "TrainingConfig",
    "TrainingResult",
    "bradley_terry_loss",
    "centering_penalty",
    "preference_nll",
    "train",
]
