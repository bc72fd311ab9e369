"""What a reward is worth: risk rules, and the fixed reference responses that a reward is measured against."""

from prudent.utility._reference import choose_references
from prudent.utility._rules import (
    POOL_RULES,
    RULES,
    Entropic,
    LcbStd,
    LcbVar,
    Mean,
    ProbBest,
    UtilityRule,
    risk_rule,
)

__all__ = [
    "POOL_RULES",
    "RULES",
    "Entropic",
    "LcbStd",
    "LcbVar",
    "Mean",
    "ProbBest",
    "UtilityRule",
    "choose_references",
    "risk_rule",
]
