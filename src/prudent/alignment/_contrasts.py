"""How sure the difference between a response and the others of its prompt is."""

import torch
from torch import Tensor

from prudent.rewards import RewardPosterior, index_groups

__all__ = ["centered_variance", "contrast_variance", "rows_by_count"]


def rows_by_count(mean: Tensor, group: Tensor) -> list[Tensor]:
    """Scored responses of prompts that have two or more: a tensor [B, n] of rows for each number n of responses.

    Args:
        mean: [N] rewards; NaN for responses not scored, which are left out.
        group: [N] integers, the prompt of each response.

    Example:
        >>> import torch
        >>> [rows.tolist() for rows in rows_by_count(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5, 7, 5]))]
        [[[0, 2]]]
    """
    by_count: dict[int, list[Tensor]] = {}
    for rows in index_groups(group).rows():
        scored = rows[~mean[rows].isnan()]
        if len(scored) > 1:
            by_count.setdefault(len(scored), []).append(scored)
    return [torch.stack(alike) for alike in by_count.values()]


def centered_variance(rewards: RewardPosterior, rows: Tensor) -> Tensor:
    """Variance of each reward minus the average over its prompt, from the variances of differences.

    Unlike a centered covariance matrix these lose nothing to a large part that the responses have in common.

    Args:
        rewards: joint posterior over N responses.
        rows: [B, n] of prompts with n responses each.

    Returns:
        [B, n] float64, >= 0.

    Raises:
        UnsupportedError: the posterior is not joint (it has no factor).
    """
    difference = rewards.contrast(rows[:, :, None], rows[:, None, :])[1].double()
    return (difference.mean(2) - difference.mean((1, 2), keepdim=True)[:, 0] / 2).clamp_min(0)


def contrast_variance(rewards: RewardPosterior) -> Tensor:
    """Variance of what a leave-one-out advantage is: a reward minus the average of the prompt's other responses.

    Args:
        rewards: joint posterior over N responses; `group` names the prompts.

    Returns:
        [N] float64, >= 0; NaN for responses not scored (they count nowhere), or alone in their prompt.

    Raises:
        UnsupportedError: the posterior is not joint (it has no factor).

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> pair = GaussianRewards(torch.zeros(2), torch.ones(2), factor=torch.eye(2))
        >>> contrast_variance(pair).tolist()
        [2.0, 2.0]
    """
    found = torch.full((len(rewards),), torch.nan, dtype=torch.float64, device=rewards.mean.device)
    for rows in rows_by_count(rewards.mean, rewards.group):
        count = rows.shape[1]
        found[rows] = centered_variance(rewards, rows) * (count / (count - 1)) ** 2
    return found
