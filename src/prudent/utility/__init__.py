"""What a reward is worth: risk rules, and the fixed reference responses that a reward is measured against."""

from prudent.utility._center import Center
from prudent.utility._combination import Combination
from prudent.utility._combine import COMBINATIONS, AllOf, AnyOf, Ensemble, Minimum, Product, Weighted
from prudent.utility._good import LogProbabilityGood, ProbabilityAbove, ProbabilityGood
from prudent.utility._learned import LearnedError, learned_error
from prudent.utility._rank import QuantileRank
from prudent.utility._reference import choose_references
from prudent.utility._rules import (
    MEMBER_RULES,
    POOL_RULES,
    RISK_RULES,
    RULES,
    Cvar,
    Entropic,
    LcbStd,
    LcbVar,
    Mean,
    ProbBest,
    Quantile,
    Thompson,
    UtilityRule,
    Worst,
    risk_rule,
)
from prudent.utility._shapes import TRANSFORMS, Clip, LogSigmoid, Sigmoid, Standardize, Temperature
from prudent.utility._strength import matched_risk_aversion
from prudent.utility._transform import PromptFeatures, Transform, TransformState, chain

__all__ = [
    "COMBINATIONS",
    "MEMBER_RULES",
    "POOL_RULES",
    "RISK_RULES",
    "RULES",
    "TRANSFORMS",
    "AllOf",
    "AnyOf",
    "Center",
    "Clip",
    "Combination",
    "Cvar",
    "Ensemble",
    "Entropic",
    "LcbStd",
    "LcbVar",
    "LearnedError",
    "LogProbabilityGood",
    "LogSigmoid",
    "Mean",
    "Minimum",
    "ProbBest",
    "ProbabilityAbove",
    "ProbabilityGood",
    "Product",
    "PromptFeatures",
    "Quantile",
    "QuantileRank",
    "Sigmoid",
    "Standardize",
    "Temperature",
    "Thompson",
    "Transform",
    "TransformState",
    "UtilityRule",
    "Weighted",
    "Worst",
    "chain",
    "choose_references",
    "learned_error",
    "matched_risk_aversion",
    "risk_rule",
]
