"""A pool in, rewards out: streaming, resumable scoring of files, and the picks made from them."""

from prudent.scoring._score import RewardCounts, ScoreSummary, score
from prudent.scoring._score_columns import ColumnReward, ColumnsSummary, score_columns
from prudent.scoring._score_members import CalibratedColumn, MembersSummary, score_members
from prudent.scoring._scored import ScoredPool, read_scored
from prudent.scoring._select import SelectSummary, select

__all__ = [
    "CalibratedColumn",
    "ColumnReward",
    "ColumnsSummary",
    "MembersSummary",
    "RewardCounts",
    "ScoreSummary",
    "ScoredPool",
    "SelectSummary",
    "read_scored",
    "score",
    "score_columns",
    "score_members",
    "select",
]
