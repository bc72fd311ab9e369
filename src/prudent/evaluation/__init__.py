"""Experiments: what a reward model's picks are truly worth."""

from prudent.evaluation._best_of_n import best_of_n_study
from prudent.evaluation._evaluate import Evaluation, Figure, PairFigures, evaluate
from prudent.evaluation._study_types import (
    Band,
    BestOfNStudy,
    Counts,
    Curve,
    Disagreement,
    Estimate,
    Outcome,
    Pick,
    Reliability,
    StudySettings,
)

__all__ = [
    "Band",
    "BestOfNStudy",
    "Counts",
    "Curve",
    "Disagreement",
    "Estimate",
    "Evaluation",
    "Figure",
    "Outcome",
    "PairFigures",
    "Pick",
    "Reliability",
    "StudySettings",
    "best_of_n_study",
    "evaluate",
]
