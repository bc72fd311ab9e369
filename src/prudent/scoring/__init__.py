"""A pool in, rewards out: streaming, resumable scoring of files, and the picks made from them."""

from prudent.scoring._explain import ExplainedResponse, ExplainedStep, Explanation, explain
from prudent.scoring._learned_steps import LearnedStep
from prudent.scoring._output import PartedOutput, made_with, require_apart
from prudent.scoring._saved_utility import SavedUtility, check_place, load_utility, save_utility
from prudent.scoring._score import RewardCounts, ScoreSummary, score
from prudent.scoring._score_columns import ColumnReward, ColumnsSummary, score_columns
from prudent.scoring._score_members import CalibratedColumn, MembersSummary, score_members
from prudent.scoring._scored import ScoredPool, read_numbers, read_scored
from prudent.scoring._select import SelectSummary, select
from prudent.scoring._tuned_utility import TunedUtility, tune_utility
from prudent.scoring._utilities import fit_utility, utility_for
from prudent.scoring._utility_model import UtilityModel, UtilityScores

__all__ = [
    "CalibratedColumn",
    "ColumnReward",
    "ColumnsSummary",
    "ExplainedResponse",
    "ExplainedStep",
    "Explanation",
    "LearnedStep",
    "MembersSummary",
    "PartedOutput",
    "RewardCounts",
    "SavedUtility",
    "ScoreSummary",
    "ScoredPool",
    "SelectSummary",
    "TunedUtility",
    "UtilityModel",
    "UtilityScores",
    "check_place",
    "explain",
    "fit_utility",
    "load_utility",
    "made_with",
    "read_numbers",
    "read_scored",
    "require_apart",
    "save_utility",
    "score",
    "score_columns",
    "score_members",
    "select",
    "tune_utility",
    "utility_for",
]
