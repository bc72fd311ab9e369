"""Experiments: what a reward model's picks are truly worth."""

from prudent.evaluation._best_of_n import best_of_n_study
from prudent.evaluation._compare_utilities import UtilityComparison, UtilityFigures, compare_utilities
from prudent.evaluation._curve_types import Band, Curve, Estimate, Outcome
from prudent.evaluation._demo import DemoResult, run_demo
from prudent.evaluation._evaluate import evaluate
from prudent.evaluation._evaluation_types import (
    BoundFigures,
    Evaluation,
    Figure,
    GoldComparison,
    GoldFigures,
    GoldIntervals,
    PairFigures,
    SelectiveFigures,
    ShiftFigures,
    read_evaluation,
)
from prudent.evaluation._overopt import check_scored, overopt, source_of
from prudent.evaluation._overopt_types import Overoptimization, Source, check_lab, read_overopt
from prudent.evaluation._proxies import check_proxies, score_proxies
from prudent.evaluation._study_types import (
    BestOfNStudy,
    Counts,
    Disagreement,
    EnsembleFacts,
    Hacked,
    Pick,
    PickedReward,
    Reliability,
    RewardScale,
    StudySettings,
)
from prudent.evaluation._trade_off import trade_off
from prudent.evaluation._trade_off_types import TradeOff, TradeOffLine
from prudent.evaluation._utility_curve import UtilityCurve, UtilityPoint, utility_curve
from prudent.evaluation._verdict_types import LawFit, Rescue, StrengthFamily, Verdict
from prudent.evaluation.benchmarks import (
    BENCHMARKS,
    BenchmarkFigure,
    BenchmarkResult,
    read_benchmark,
    run_benchmark,
)

__all__ = [
    "BENCHMARKS",
    "Band",
    "BenchmarkFigure",
    "BenchmarkResult",
    "BestOfNStudy",
    "BoundFigures",
    "Counts",
    "Curve",
    "DemoResult",
    "Disagreement",
    "EnsembleFacts",
    "Estimate",
    "Evaluation",
    "Figure",
    "GoldComparison",
    "GoldFigures",
    "GoldIntervals",
    "Hacked",
    "LawFit",
    "Outcome",
    "Overoptimization",
    "PairFigures",
    "Pick",
    "PickedReward",
    "Reliability",
    "Rescue",
    "RewardScale",
    "SelectiveFigures",
    "ShiftFigures",
    "Source",
    "StrengthFamily",
    "StudySettings",
    "TradeOff",
    "TradeOffLine",
    "UtilityComparison",
    "UtilityCurve",
    "UtilityFigures",
    "UtilityPoint",
    "Verdict",
    "best_of_n_study",
    "check_lab",
    "check_proxies",
    "check_scored",
    "compare_utilities",
    "evaluate",
    "overopt",
    "read_benchmark",
    "read_evaluation",
    "read_overopt",
    "run_benchmark",
    "run_demo",
    "score_proxies",
    "source_of",
    "trade_off",
    "utility_curve",
]
