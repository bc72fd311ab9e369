"""How far an advantage can be trusted: by how sure it is that its sign is right."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from prudent.alignment._contrasts import centered_variance, rows_by_count
from prudent.rewards import RewardPosterior

__all__ = ["sign_weights", "signcert_weights"]


def sign_weights(rewards: RewardPosterior) -> Tensor:
    """Expected agreement of an advantage's sign with that of the true reward: 2 Phi(|z|) - 1.

    The advantage of response i is A_i = r_i - mean of the other responses of its prompt. Under the joint posterior it
    has mean m_i and variance v_i, in which what moves all responses of a prompt together cancels. The sign of m_i is
    right with probability Phi(|z_i|), z_i = m_i / sqrt(v_i), and the weight is P(right) - P(wrong): 0 for a coin toss,
    1 for a certainty. Weighted by it, the reward moves the policy where the model knows, and leaves it to
    the KL penalty where it guesses; the penalty itself must keep its strength, or the optimum is what it is without.

    Args:
        rewards: joint posterior over N responses; `group` names the prompts. The epistemic part counts, and for a
            posterior that is not Gaussian (members) the normal distribution of the same moments is taken.

    Returns:
        [N] float64 in [0, 1]; 1 where a difference is known without doubt, 0 where there is none. NaN for responses not
        scored (they count nowhere) and for a response that is the only one of its prompt: it has no advantage.

    Raises:
        UnsupportedError: the posterior is not joint (it has no factor).

    Source: the generalization of SignCert (2604.02986) to the posterior's metric; see `signcert_weights`.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> pair = GaussianRewards(torch.tensor([1.0, 0.0]), torch.ones(2), torch.tensor([4, 4]), factor=torch.eye(2))
        >>> [round(weight, 4) for weight in sign_weights(pair).tolist()]  # z = 1 / sqrt(2)
        [0.5205, 0.5205]
    """
    mean, group = rewards.mean.double(), rewards.group

    # with centered rewards c, A_i = n / (n - 1) c_i, and the factor cancels in z
    z = _distance_over_scale(mean, group, partial(centered_variance, rewards))
    return torch.erf(z / 2**0.5)


def signcert_weights(mean: Tensor, features: Tensor, group: Tensor, *, quantile: float = 0.5) -> Tensor:
    """SignCert's weights of advantages: how large a change of a linear head it takes to turn their signs.

    With reward w . h, the advantage of response j turns its sign when w moves by D_j = |A_j| / ||h_j - mean h||, where
    A_j = r_j - mean r and both means are over the prompt. The weight is max(0, 1 - radius / D_j), the radius a quantile
    of all D_j: the share `quantile` of the responses gets nothing. The plain metric of SignCert's paper, to which
    `sign_weights` puts the posterior's.

    Args:
        mean: [N] rewards; NaN for responses not scored, which count nowhere.
        features: [N, H] what the reward model's linear head reads.
        group: [N] integers, the prompt of each response.
        quantile: in [0, 1), the quantile of D_j that is the radius.

    Returns:
        [N] float64 in [0, 1]; 1 where no head could turn the sign, 0 where there is no advantage; NaN for responses not
        scored or alone in their prompt.

    Raises:
        ValueError: shapes that do not fit, or `quantile` out of range.

    Source: SignCert-PO (2604.02986), read at second hand; that the budget is a quantile of D_j is this project's
    reading.

    Example:
        >>> import torch
        >>> mean, features = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([[1.0], [-1.0], [4.0], [-4.0]])
        >>> signcert_weights(mean, features, torch.tensor([0, 0, 1, 1]), quantile=0).tolist()  # D = 1, 1, 1/4, 1/4
        [0.75, 0.75, 0.0, 0.0]
    """
    if mean.dim() != 1 or features.dim() != 2 or not len(mean) == len(features) == len(group):
        raise ValueError(
            f"mean [N], features [N, H] and group [N] must agree, got {tuple(mean.shape)}, {tuple(features.shape)}, "
            f"{tuple(group.shape)}"
        )
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile must lie in [0, 1), got {quantile}")

    def squared_scale(rows: Tensor) -> Tensor:
        own = features[rows].double()
        return (own - own.mean(1, keepdim=True)).square().sum(2)

    distance = _distance_over_scale(mean.double(), group, squared_scale)
    finite = distance[distance.isfinite()]
    if len(finite) == 0:
        return torch.where(distance.isinf(), 1.0, distance)
    weights = (1 - finite.quantile(quantile) / distance).clamp_min(0)
    return torch.where(distance == 0, 0.0, weights)


def _distance_over_scale(mean: Tensor, group: Tensor, squared_scale: Callable[[Tensor], Tensor]) -> Tensor:
    """|mean_i - mean of its prompt| over a scale, [N]: 0 where the former is 0, infinite where the latter alone is.

    `squared_scale` gives the squares for the rows [B, n] of prompts with n scored responses each. NaN for rows without
    a mean, or with none beside them.
    """
    distance = torch.full_like(mean, torch.nan)
    for rows in rows_by_count(mean, group):
        centered = (mean[rows] - mean[rows].mean(1, keepdim=True)).abs()
        distance[rows] = torch.where(centered == 0, 0.0, centered / squared_scale(rows).sqrt())
    return distance
