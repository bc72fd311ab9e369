"""What a reward is worth: utilities of one reward or several, made of transforms, combinations and risk rules.

A utility reads the same as text (`parse_utility`), in Python (`reward() | Center() | LogSigmoid() | LcbStd(1.0)`) and
in a file. `fit` lets it learn the references of a set of rewards; it is then a map from rewards to one number per
response.
"""

from prudent.utility._affine import shifted
from prudent.utility._building import combine, reward
from prudent.utility._center import Center
from prudent.utility._combination import Combination
from prudent.utility._combine import COMBINATIONS, AllOf, AnyOf, Ensemble, Minimum, Product, Weighted
from prudent.utility._expression import Combined, Piped, Utility
from prudent.utility._fitted import FittedUtility, TracedStep
from prudent.utility._good import LogProbabilityGood, ProbabilityAbove, ProbabilityGood
from prudent.utility._learned import LearnedError, learned_error
from prudent.utility._names import RESERVED_NAMES
from prudent.utility._rank import QuantileRank
from prudent.utility._reference import choose_references
from prudent.utility._reward_set import ONLY, RewardSet
from prudent.utility._rules import (
    RISK_RULES,
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
)
from prudent.utility._shapes import TRANSFORMS, Clip, LogSigmoid, Sigmoid, Standardize, Temperature
from prudent.utility._spec import parse_utility
from prudent.utility._strength import matched_risk_aversion
from prudent.utility._transform import PromptFeatures, Transform, TransformState, chain

__all__ = [
    "COMBINATIONS",
    "ONLY",
    "RESERVED_NAMES",
    "RISK_RULES",
    "TRANSFORMS",
    "AllOf",
    "AnyOf",
    "Center",
    "Clip",
    "Combination",
    "Combined",
    "Cvar",
    "Ensemble",
    "Entropic",
    "FittedUtility",
    "LcbStd",
    "LcbVar",
    "LearnedError",
    "LogProbabilityGood",
    "LogSigmoid",
    "Mean",
    "Minimum",
    "Piped",
    "ProbBest",
    "ProbabilityAbove",
    "ProbabilityGood",
    "Product",
    "PromptFeatures",
    "Quantile",
    "QuantileRank",
    "RewardSet",
    "Sigmoid",
    "Standardize",
    "Temperature",
    "Thompson",
    "TracedStep",
    "Transform",
    "TransformState",
    "Utility",
    "UtilityRule",
    "Weighted",
    "Worst",
    "chain",
    "choose_references",
    "combine",
    "learned_error",
    "matched_risk_aversion",
    "parse_utility",
    "reward",
    "shifted",
]
