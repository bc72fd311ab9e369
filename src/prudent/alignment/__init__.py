"""Move a policy by rewards that may be wrong: in closed form, over a stored pool, and by reinforcement learning."""

from prudent.alignment._arms import ARMS, AdvantageWeight, Arm, KlForm, parse_arm
from prudent.alignment._early_stop import EarlyStopAdvice, early_stop_advice
from prudent.alignment._exports import OpenRLHFReward, VerlReward
from prudent.alignment._kl_weights import kl_weights
from prudent.alignment._reward import PrudentReward
from prudent.alignment._reward_columns import RewardColumn
from prudent.alignment._reward_file import RewardFile, write_reward_file
from prudent.alignment._reward_measures import RewardMeasures
from prudent.alignment._reweight import Reweighted, reweight
from prudent.alignment._reweight_pool import ReweightSummary, reweight_pool
from prudent.alignment._sign_weights import sign_weights, signcert_weights

__all__ = [
    "ARMS",
    "AdvantageWeight",
    "Arm",
    "EarlyStopAdvice",
    "KlForm",
    "OpenRLHFReward",
    "PrudentReward",
    "RewardColumn",
    "RewardFile",
    "RewardMeasures",
    "ReweightSummary",
    "Reweighted",
    "VerlReward",
    "early_stop_advice",
    "kl_weights",
    "parse_arm",
    "reweight",
    "reweight_pool",
    "sign_weights",
    "signcert_weights",
    "write_reward_file",
]
