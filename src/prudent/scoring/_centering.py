"""Rewards of an ensemble's members, each relative to what that member says of the prompt's reference set."""

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.rewards import MemberRewards, index_groups

__all__ = ["center_members"]

_TOLERANCE = 1e-3


def center_members(
    rewards: MemberRewards, is_reference: Tensor, reference: Tensor, variance: Tensor, source: str
) -> MemberRewards:
    """Subtract from each member its own average over the reference rows of the prompt.

    The variance within members becomes what the stored variance holds besides the one between the centered members.

    Args:
        rewards: N rewards as they were scored.
        is_reference: `[N]` bool, the reference rows; a text that stands there twice counts twice.
        reference: `[N]` average over the members and the prompt's reference rows, as scoring stored it.
        variance: `[N]` variance of the reward minus that average, as scoring stored it.
        source: where the rows came from, for messages.

    Returns:
        N centered rewards, float64, without a factor.

    Raises:
        DataError: the rows and what is stored do not belong together: reference rows are gone, or members changed.
    """
    index = index_groups(rewards.group)
    members = rewards.members.double()
    # Rows that were not scored are NaN, which a weight of zero would keep.
    total = index.sum(torch.where(is_reference[:, None], members, 0.0))
    center = (total / index.sum(is_reference.double())[:, None])[index.position]
    size = 1 + members.abs().amax(1).nan_to_num()
    _require(rewards, reference, (center.mean(1) - reference).abs() <= _TOLERANCE * size, source)
    members = members - center
    within = None
    if not rewards.is_discrete:
        between = members.var(1, correction=rewards.ddof)
        within = variance - between
        # Members are stored in single precision.
        _require(rewards, within, within >= -(_TOLERANCE * (variance + between) + 1e-9 * size.square()), source)
        within = within.clamp(min=0)
    return MemberRewards(
        members,
        rewards.group,
        rewards.ddof,
        rewards.basis_id,
        within_variance=within,
        noise=rewards.noise.double(),
        text_id=rewards.text_id,
    )


def _require(rewards: MemberRewards, known: Tensor, fits: Tensor, source: str) -> None:
    faulty = (known.isfinite() & ~fits).nonzero().flatten()
    if len(faulty):
        raise DataError(
            f"{source}: prompt {int(rewards.group[faulty[0]])} lacks rows of its reference set, or its members were "
            "changed, so they cannot be centered; take the rows of whole prompts, as they were scored, or drop the "
            "column is_reference to do without centering"
        )
