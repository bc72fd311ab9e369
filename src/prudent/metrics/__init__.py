"""Is it true: pair metrics, calibration, bounds, selective risk, gold coverage, bootstrap, statistics in prompts."""

from prudent.metrics._auroc import auroc
from prudent.metrics._bootstrap import (
    Interval,
    bootstrap,
    bootstrap_counts,
    bootstrap_difference,
    bootstrap_statistic,
)
from prudent.metrics._bounds import RankingRates, bound_calibration_error, ranking_rates, ranking_score
from prudent.metrics._calibration import ReliabilityBin, expected_calibration_error, reliability, wilson_interval
from prudent.metrics._gold import GoldCalibration, GoldCoverage, fit_gold_calibration, gold_coverage
from prudent.metrics._pairs import PairMetrics, PairScores, pair_metrics, pair_scores
from prudent.metrics._risk_coverage import RiskCoverage, area_under_risk_coverage, risk_coverage
from prudent.metrics._scaling_law import LawForm, ScalingLaw, fit_scaling_law
from prudent.metrics._search import golden_section, minimize_on_log_scale
from prudent.metrics._student import student_reach
from prudent.metrics._temperature import MAX_LOGIT_TEMPERATURE, MIN_LOGIT_TEMPERATURE, fit_logit_temperature
from prudent.metrics._within import partial_out, spearman_within, zscore_within

__all__ = [
    "MAX_LOGIT_TEMPERATURE",
    "MIN_LOGIT_TEMPERATURE",
    "GoldCalibration",
    "GoldCoverage",
    "Interval",
    "LawForm",
    "PairMetrics",
    "PairScores",
    "RankingRates",
    "ReliabilityBin",
    "RiskCoverage",
    "ScalingLaw",
    "area_under_risk_coverage",
    "auroc",
    "bootstrap",
    "bootstrap_counts",
    "bootstrap_difference",
    "bootstrap_statistic",
    "bound_calibration_error",
    "expected_calibration_error",
    "fit_gold_calibration",
    "fit_logit_temperature",
    "fit_scaling_law",
    "gold_coverage",
    "golden_section",
    "minimize_on_log_scale",
    "pair_metrics",
    "pair_scores",
    "partial_out",
    "ranking_rates",
    "ranking_score",
    "reliability",
    "risk_coverage",
    "spearman_within",
    "student_reach",
    "wilson_interval",
    "zscore_within",
]
