"""Move a policy by rewards that may be wrong: in closed form, over a stored pool, and by reinforcement learning."""

from prudent.alignment._arms import ARMS, AdvantageWeight, Arm, KlForm, parse_arm

__all__ = ["ARMS", "AdvantageWeight", "Arm", "KlForm", "parse_arm"]
