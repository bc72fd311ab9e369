"""The value that flows through prudent: joint posteriors over rewards.

A Bradley-Terry reward is known only up to a constant per prompt, so what is kept is a *joint* posterior over
N responses (flat; `group[i]` names the prompt of response i) from which any two responses can be compared
later without running the model again. `RewardPosterior` is the protocol; `GaussianRewards`, `MemberRewards`,
`TransformedRewards` (a function of one posterior) and `CombinedRewards` (a function of several) are its kinds.
The distribution of every single response, which needs no joint posterior, is its `marginal()`.
"""

from prudent.rewards._combined import CombinedRewards
from prudent.rewards._concatenate import concatenate, from_arrow
from prudent.rewards._elementwise import Elementwise, WeightedSum
from prudent.rewards._gaussian import GaussianRewards
from prudent.rewards._groups import GroupIndex, index_groups
from prudent.rewards._marginal import DrawnMarginal, Marginal
from prudent.rewards._members import MemberRewards
from prudent.rewards._mixture import NormalMixture
from prudent.rewards._protocol import RewardPosterior
from prudent.rewards._pushed import PushedMarginal
from prudent.rewards._same import check_same_responses
from prudent.rewards._sigmoid import (
    expected_log_sigmoid,
    expected_sigmoid,
    log_expected_sigmoid,
    normal_greater,
    probit_log_sigmoid,
)
from prudent.rewards._transformed import TransformedRewards

__all__ = [
    "CombinedRewards",
    "DrawnMarginal",
    "Elementwise",
    "GaussianRewards",
    "GroupIndex",
    "Marginal",
    "MemberRewards",
    "NormalMixture",
    "PushedMarginal",
    "RewardPosterior",
    "TransformedRewards",
    "WeightedSum",
    "check_same_responses",
    "concatenate",
    "expected_log_sigmoid",
    "expected_sigmoid",
    "from_arrow",
    "index_groups",
    "log_expected_sigmoid",
    "normal_greater",
    "probit_log_sigmoid",
]
