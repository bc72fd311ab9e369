"""Is it true: pair metrics, calibration, bootstrap over prompts, and statistics within prompts."""

from prudent.metrics._bootstrap import Interval, bootstrap, bootstrap_difference, bootstrap_statistic
from prudent.metrics._calibration import ReliabilityBin, expected_calibration_error, reliability
from prudent.metrics._pairs import PairMetrics, PairScores, pair_metrics, pair_scores
from prudent.metrics._within import partial_out, spearman_within, zscore_within

__all__ = [
    "Interval",
    "PairMetrics",
    "PairScores",
    "ReliabilityBin",
    "bootstrap",
    "bootstrap_difference",
    "bootstrap_statistic",
    "expected_calibration_error",
    "pair_metrics",
    "pair_scores",
    "partial_out",
    "reliability",
    "spearman_within",
    "zscore_within",
]
