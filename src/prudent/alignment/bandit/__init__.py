"""One prompt, finitely many responses, rewards known up to a normal error: optimal policies and their risk.

What an optimum by estimated rewards gains, and how often it is truly worse than the reference policy, can be
calculated here. `alignment` moves language models by the same objectives.

Example:
    >>> import torch
    >>> reward, variance = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([4.0, 1.0, 1.0])
    >>> squared_norm_risk(reward, variance) > variance_aware_risk(reward, variance)
    True
"""

from prudent.alignment.bandit._hyperplane import precision_centered, squared_norm_optimum, variance_aware_optimum
from prudent.alignment.bandit._kl import kl_divergence, kl_optimum, weighted_kl_optimum
from prudent.alignment.bandit._risk import SimulatedRisk, simulate_risk, squared_norm_risk, variance_aware_risk
from prudent.alignment.bandit._simplex import independent_simplex_optima, simplex_optimum

__all__ = [
    "SimulatedRisk",
    "independent_simplex_optima",
    "kl_divergence",
    "kl_optimum",
    "precision_centered",
    "simplex_optimum",
    "simulate_risk",
    "squared_norm_optimum",
    "squared_norm_risk",
    "variance_aware_optimum",
    "variance_aware_risk",
    "weighted_kl_optimum",
]
