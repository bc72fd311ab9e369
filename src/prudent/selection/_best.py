"""The best of the candidates of each prompt."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.rewards import index_groups
from prudent.selection._scored import NanPolicy, scored_rows

__all__ = ["Selection", "best_of_n", "shuffle_within_groups"]


@dataclass(frozen=True)
class Selection:
    """One response for each of B prompts, in ascending order of the prompt ids.

    Attributes:
        group: [B] int64, the prompt ids.
        index: [B] int64, row of the picked response.
        utility: [B], its utility.
        num_candidates: [B] int64, scored candidates it was picked from.
        num_tied: [B] int64, candidates that share the highest utility, the picked one included.
        num_excluded: [B] int64, candidates left out because they are not scored.
    """

    group: Tensor
    index: Tensor
    utility: Tensor
    num_candidates: Tensor
    num_tied: Tensor
    num_excluded: Tensor


def best_of_n(
    utility: Tensor, group: Tensor, *, generator: Generator | None = None, nan: NanPolicy = "error"
) -> Selection:
    """Pick the candidate of highest utility for every prompt.

    Ties are broken uniformly at random, never by the file's order: some pools are ordered by the quality of the model
    that wrote them.

    Args:
        utility: [N] utilities, from a rule; NaN where a response is not scored.
        group: [N] integer prompt ids, in any order.
        generator: source of the tie-breaking; seed 0 by default.
        nan: "error" to refuse unscored responses, "exclude" to leave them out and count them.

    Returns:
        The picks, one a prompt.

    Raises:
        DataError: a response is not scored and nan is "error", or a prompt has no scored response at all.
        ValueError: shapes do not agree.

    Example:
        >>> import torch
        >>> picks = best_of_n(torch.tensor([0.1, 0.7, 0.3]), torch.tensor([4, 4, 9]))
        >>> picks.group.tolist(), picks.index.tolist(), picks.num_tied.tolist()
        ([4, 9], [1, 2], [1, 1])
    """
    keep = scored_rows(utility, group, nan)
    index = index_groups(group)
    num_candidates = index.sum(keep.long())
    if bool((num_candidates == 0).any()):
        raise DataError(f"prompt {int(index.ids[num_candidates == 0][0])} has no scored response to pick from")
    rows = keep.nonzero()[:, 0]
    position = index.position[rows]
    highest = utility.new_full((len(index.ids),), -torch.inf).scatter_reduce_(0, position, utility[rows], "amax")
    rows = rows[utility[rows] == highest[position]]
    position = index.position[rows]
    # the tied row with the highest random rank wins
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    rank = torch.randperm(len(rows), generator=generator, device=generator.device).to(rows.device)
    top = rank.new_full((len(index.ids),), -1).scatter_reduce_(0, position, rank, "amax")
    winner = rank == top[position]
    picked = torch.empty_like(index.ids)
    picked[position[winner]] = rows[winner]
    return Selection(
        index.ids,
        picked,
        utility[picked],
        num_candidates,
        torch.bincount(position, minlength=len(index.ids)),
        index.counts - num_candidates,
    )


def shuffle_within_groups(values: Tensor, group: Tensor, generator: Generator | None = None) -> Tensor:
    """Permute values among the candidates of each prompt: the control that a variance must beat.

    If a rule does as well with the variances of a prompt shuffled, it gained from shrinkage and not from knowing which
    response is uncertain.

    Args:
        values: [N, ...] what to permute (rows move as a whole).
        group: [N] integer prompt ids.
        generator: source of randomness; seed 0 by default.

    Returns:
        The permuted values, same shape.

    Raises:
        ValueError: lengths do not agree.

    Example:
        >>> import torch
        >>> shuffled = shuffle_within_groups(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1]))
        >>> sorted(shuffled[:2].tolist()), shuffled[2].item()
        ([1.0, 2.0], 3.0)
    """
    if len(values) != len(group):
        raise ValueError(f"values has {len(values)} rows where group has {len(group)}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    index = index_groups(group)
    shuffled = torch.randperm(len(group), generator=generator, device=generator.device).to(values.device)
    source = shuffled[torch.argsort(index.position[shuffled], stable=True)]
    if index.order is None:
        return values[source]
    out = torch.empty_like(values)
    out[index.order] = values[source]
    return out
