"""Whether several posteriors are of the same responses."""

from collections.abc import Sequence

from prudent.rewards._protocol import RewardPosterior

__all__ = ["check_same_responses"]


def check_same_responses(parts: Sequence[RewardPosterior]) -> None:
    """Raise ValueError, with the number of the part, unless all are of the same responses.

    Args:
        parts: posteriors of several rewards, at least one.

    Raises:
        ValueError: there are none, or their prompt ids differ.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> check_same_responses([MemberRewards(torch.zeros(2, 3)), MemberRewards(torch.ones(2, 4))])
    """
    if not parts:
        raise ValueError("nothing to combine")
    for place, part in enumerate(parts[1:], 2):
        if len(part) != len(parts[0]) or bool((part.group != parts[0].group).any()):
            raise ValueError(f"part {place} is of other responses than part 1: their prompt ids differ")
