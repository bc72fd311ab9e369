"""What a reward is worth: risk rules, and the fixed reference responses that a reward is measured against."""

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

__all__ = [
    "MEMBER_RULES",
    "POOL_RULES",
    "RULES",
    "Entropic",
    "LcbStd",
    "LcbVar",
    "Mean",
    "ProbBest",
    "UtilityRule",
    "Worst",
    "choose_references",
    "risk_rule",
]
