"""Losses of preferences: Bradley-Terry with margins, soft labels, flips and a constant that is free; classification."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["bradley_terry_loss", "centering_penalty", "classification_loss", "preference_nll"]


def preference_nll(
    chosen: Tensor,
    rejected: Tensor,
    *,
    margin: Tensor | None = None,
    p_chosen: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of each preference under Bradley-Terry.

    With z = chosen - rejected - margin and a target t, it is `-t log sigmoid(z) - (1 - t) log sigmoid(-z)`. The target
    is `p_chosen` (1 where there is none), moved towards its opposite by label smoothing: t = (1 - s) p + s (1 - p),
    which is the likelihood of labels that were flipped with probability s. With hard labels and no smoothing this is
    TRL's `-logsigmoid(chosen - rejected - margin)`. Both terms are taken by `logsigmoid`, so that nothing overflows or
    cancels however far apart the rewards are.

    Args:
        chosen: `[b]` rewards of the preferred responses.
        rejected: `[b]` rewards of the others.
        margin: `[b]` by how much the preferred one should win, in units of reward; any finite number.
        p_chosen: `[b]` probability in [0, 1] that the response called chosen is the better one.
        label_smoothing: s in [0, 0.5).

    Returns:
        `[b]` nats, not negative.

    Example:
        >>> import torch
        >>> preference_nll(torch.tensor([0.0]), torch.tensor([0.0]))
        tensor([0.6931])
    """
    logit = chosen - rejected if margin is None else chosen - rejected - margin
    if p_chosen is None and label_smoothing == 0.0:
        return -F.logsigmoid(logit)
    target = _target(p_chosen, label_smoothing)
    return -target * F.logsigmoid(logit) - (1.0 - target) * F.logsigmoid(-logit)


def centering_penalty(chosen: Tensor, rejected: Tensor) -> Tensor:
    """`mean((chosen + rejected)^2)`, which fixes the constant that preferences leave free (Eisenstein et al. 2023).

    Args:
        chosen: `[b]` rewards of the preferred responses.
        rejected: `[b]` rewards of the others.

    Returns:
        A scalar, in units of reward squared.

    Example:
        >>> import torch
        >>> centering_penalty(torch.tensor([1.0, 2.0]), torch.tensor([1.0, -2.0]))
        tensor(2.)
    """
    return (chosen + rejected).square().mean()


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    margin: Tensor | None = None,
    p_chosen: Tensor | None = None,
    label_smoothing: float = 0.0,
    center_rewards_coefficient: float = 0.0,
) -> Tensor:
    """The training loss of a batch: mean `preference_nll` plus a multiple of `centering_penalty`.

    Args:
        chosen: `[b]` rewards of the preferred responses.
        rejected: `[b]` rewards of the others.
        margin: see `preference_nll`.
        p_chosen: see `preference_nll`.
        label_smoothing: see `preference_nll`.
        center_rewards_coefficient: weight of the penalty, not negative; TRL's documentation suggests 0.01.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> chosen, rejected = torch.tensor([1.0]), torch.tensor([1.0])
        >>> bradley_terry_loss(chosen, rejected, center_rewards_coefficient=0.01)
        tensor(0.7331)
    """
    loss = preference_nll(chosen, rejected, margin=margin, p_chosen=p_chosen, label_smoothing=label_smoothing).mean()
    if center_rewards_coefficient:
        loss = loss + center_rewards_coefficient * centering_penalty(chosen, rejected)
    return loss


def classification_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    p_chosen: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The order-consistent classification loss of a batch: each response alone is classified as winner or loser.

    With t the target of `preference_nll` it is the mean over the 2 b responses of
    `-t log sigmoid(chosen) - (1 - t) log sigmoid(-chosen)` and
    `-(1 - t) log sigmoid(rejected) - t log sigmoid(-rejected)`: half the sum of Sun, Shen and Ton (2411.04991,
    L_clf), so that rewards of zero cost log 2 here as under Bradley-Terry. Posteriors, whose prior weighs against the
    likelihood of all data, take the sum (`fit_heads(kind="classification")`). Of a misordered pair at least one
    response is misclassified, whatever the threshold.

    Args:
        chosen: `[b]` rewards of the preferred responses: log-odds of winning a comparison.
        rejected: `[b]` rewards of the others.
        p_chosen: see `preference_nll`.
        label_smoothing: see `preference_nll`.

    Returns:
        A scalar, nats a response.

    Example:
        >>> import torch
        >>> classification_loss(torch.tensor([0.0, 2.0]), torch.tensor([0.0, -2.0]))
        tensor(0.4100)
    """
    target = _target(p_chosen, label_smoothing)
    won = -target * F.logsigmoid(chosen) - (1.0 - target) * F.logsigmoid(-chosen)
    lost = -(1.0 - target) * F.logsigmoid(rejected) - target * F.logsigmoid(-rejected)
    return (won + lost).mean() / 2


def _target(p_chosen: Tensor | None, label_smoothing: float) -> float | Tensor:
    target: float | Tensor = 1.0 if p_chosen is None else p_chosen
    return target * (1.0 - label_smoothing) + (1.0 - target) * label_smoothing
