"""What a reward is worth: risk rules, and the fixed reference responses that a reward is measured against."""

from prudent.utility._center import Center
from prudent.utility._learned import LearnedError, learned_error
from prudent.utility._reference import choose_references
from prudent.utility._rules import (
    MEMBER_RULES,
    POOL_RULES,
    RULES,
    Entropic,
    LcbStd,
    LcbVar,
    Mean,
    ProbBest,
    UtilityRule,
    Worst,
    risk_rule,
)
from prudent.utility._shapes import TRANSFORMS, Clip, LogSigmoid, QuantileRank, Sigmoid, Standardize, Temperature
from prudent.utility._transform import PromptFeatures, Transform, TransformState, chain

__all__ = [
    "MEMBER_RULES",
    "POOL_RULES",
    "RULES",
    "TRANSFORMS",
    "Center",
    "Clip",
    "Entropic",
    "LcbStd",
    "LcbVar",
    "LearnedError",
    "LogSigmoid",
    "Mean",
    "ProbBest",
    "PromptFeatures",
    "QuantileRank",
    "Sigmoid",
    "Standardize",
    "Temperature",
    "Transform",
    "TransformState",
    "UtilityRule",
    "Worst",
    "chain",
    "choose_references",
    "learned_error",
    "risk_rule",
]
