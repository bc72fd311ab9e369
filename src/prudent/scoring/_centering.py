"""Rewards of an ensemble's members, and what each member says of the prompt's references."""

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.rewards import MemberRewards, index_groups

__all__ = ["against_references", "average_of_references"]

_TOLERANCE = 1e-3


def average_of_references(values: Tensor, group: Tensor, is_reference: Tensor) -> Tensor:
    """The average over the reference rows of each row's prompt; a text that stands there twice counts twice.

    Args:
        values: `[N, M]`; rows of NaN, not scored, are left out.
        group: `[N]` prompts.
        is_reference: `[N]` bool.

    Returns:
        `[N, M]` float64; NaN where the prompt has none.
    """
    index = index_groups(group)
    values = values.double()
    counted = is_reference & ~values.isnan().any(1)
    # Rows that do not count may be NaN, which a weight of zero would keep.
    total = index.sum(torch.where(counted[:, None], values, 0.0))
    return (total / index.sum(counted.double())[:, None])[index.position]


def against_references(
    rewards: MemberRewards, center: Tensor, reference: Tensor, variance: Tensor, source: str
) -> MemberRewards:
    """Members whose own variance is that of the contrast with the references.

    The variance within members becomes what the stored variance holds besides the one between the members' contrasts.

    Args:
        rewards: N rewards as they were scored.
        center: `[N, M]` what each member says of the references of a row's prompt, averaged.
        reference: `[N]` that averaged over the members, as scoring stored it.
        variance: `[N]` variance of the reward minus that average, as scoring stored it.
        source: where the rows came from, for messages.

    Returns:
        N rewards, float64, without a factor.

    Raises:
        DataError: the rows and what is stored do not belong together: reference rows are gone, or members changed.
    """
    members = rewards.members.double()
    size = 1 + members.abs().amax(1).nan_to_num()
    _require(rewards, reference, (center.mean(1) - reference).abs() <= _TOLERANCE * size, source)
    contrast = members - center
    within = None
    if not rewards.is_discrete:
        between = contrast.var(1, correction=rewards.ddof)
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
