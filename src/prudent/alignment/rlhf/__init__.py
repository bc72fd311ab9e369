"""Reinforcement learning by TRL with rewards that may be wrong; needs the extra `align`."""

from prudent.errors import PrudentError

try:
    import trl  # noqa: F401
except ImportError as error:
    raise PrudentError(
        'TRL is not installed: pip install "prudent[align]", or in a clone pip install -e ".[align]"'
    ) from error

from prudent.alignment.rlhf._align import align
from prudent.alignment.rlhf._align_config import Algorithm, AlignConfig
from prudent.alignment.rlhf._align_result import AlignSummary
from prudent.alignment.rlhf._columns import MeasuredReward, VarianceOf
from prudent.alignment.rlhf._grpo import VarianceAwareGRPOTrainer
from prudent.alignment.rlhf._policy_kl import sequence_kl, token_kl
from prudent.alignment.rlhf._rloo import VarianceAwareRLOOTrainer

__all__ = [
    "Algorithm",
    "AlignConfig",
    "AlignSummary",
    "MeasuredReward",
    "VarianceAwareGRPOTrainer",
    "VarianceAwareRLOOTrainer",
    "VarianceOf",
    "align",
    "sequence_kl",
    "token_kl",
]
