"""What the gain of a variance is not: the same doubts of other responses, doubts that are length, doubts without it.

Every control changes what rewards know of their own doubts, never their means, and hands them to the same utility.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from prudent.evaluation._study_curves import shuffled_key
from prudent.evaluation._study_drawing import Block, Maker
from prudent.evaluation._study_pool import with_mean
from prudent.evaluation._study_utilities import StudiedUtility
from prudent.metrics import partial_out
from prudent.rewards import GaussianRewards, MemberRewards, RewardPosterior, index_groups
from prudent.selection import shuffle_within_groups
from prudent.utility import RewardSet

__all__ = [
    "CHANGES",
    "Change",
    "changed_utilities",
    "length_as_variance",
    "length_out_of_variance",
    "ranked_by_length",
    "shuffle_doubts",
    "without_length",
]


@dataclass(frozen=True)
class Change:
    """A control of doubts.

    Attributes:
        start: of the keys of its curves.
        label: what follows the label of the utility in a picture.
        needs_length: lengths must be known.
        of_variance: variances `[n]`, lengths `[n]`, prompts `[n]` -> other variances.
        of_rewards: rewards of n responses, lengths `[n]`, prompts `[n]` -> the same means with other doubts.
    """

    start: str
    label: str
    needs_length: bool
    of_variance: Callable[[Tensor, Tensor, Tensor, Generator], Tensor]
    of_rewards: Callable[[RewardSet, Tensor, Tensor, Generator], RewardSet]


def shuffle_doubts(rewards: RewardSet, group: Tensor, generator: Generator) -> RewardSet:
    """The same means, each with the deviations of another candidate of its prompt.

    Of a Gaussian these are its variance and factor, of an ensemble what its members say minus their average. Rewards of
    the same candidates are permuted alike, and their contrasts with the references too; one that is missing for some is
    permuted among those that have it.

    Args:
        rewards: Of N candidates.
        group: `[N]` their prompts.
        generator: Source of the permutation.
    """
    start = generator.get_state()

    def moved(one: RewardPosterior) -> RewardPosterior:
        generator.set_state(start)
        has_it = (~one.mean.isnan()).long()
        source = shuffle_within_groups(torch.arange(len(group)), 2 * group + has_it, generator)
        return with_mean(one[source], one.mean)

    return _each(rewards, moved)


def length_as_variance(rewards: RewardSet, length: Tensor, group: Tensor, generator: Generator) -> RewardSet:
    """The same means, each with the deviations of that candidate of its prompt whose variance has its length's rank.

    Args:
        rewards: Of N candidates.
        length: `[N]` of the responses.
        group: `[N]` their prompts.
        generator: Breaks ties, of lengths and of variances.
    """

    def moved(one: RewardPosterior) -> RewardPosterior:
        # responses without the reward keep to themselves
        place = 2 * group + (~one.mean.isnan()).long()
        return with_mean(one[_same_rank(one.variance, length, place, generator)], one.mean)

    return _each(rewards, moved)


def length_out_of_variance(rewards: RewardSet, length: Tensor, group: Tensor, generator: Generator) -> RewardSet:
    """The same means, each with its deviations scaled to the variance that `without_length` leaves.

    Args:
        rewards: Of N candidates.
        length: `[N]` of the responses.
        group: `[N]` their prompts.
        generator: Unused: nothing is drawn.
    """

    def moved(one: RewardPosterior) -> RewardPosterior:
        return _with_variance(one, without_length(one.variance, length, group, generator))

    return _each(rewards, moved)


def ranked_by_length(variance: Tensor, length: Tensor, group: Tensor, generator: Generator) -> Tensor:
    """The variances `[N]` of each prompt, the largest given to its longest response, and so on down.

    Args:
        variance: `[N]`.
        length: `[N]` of the responses.
        group: `[N]` their prompts.
        generator: Breaks ties.
    """
    return variance[_same_rank(variance, length, group, generator)]


def without_length(variance: Tensor, length: Tensor, group: Tensor, generator: Generator) -> Tensor:
    """Variances `[N]` with length partialled out within each prompt: positive, and on average as large as before.

    What the line leaves is kept from falling below the smallest variance of the prompt, before it is rescaled.

    Args:
        variance: `[N]`; NaN where it is not known.
        length: `[N]` of the responses.
        group: `[N]` their prompts.
        generator: Unused: nothing is drawn.
    """
    index = index_groups(group)
    known = ~variance.isnan()
    count = index.sum(known.double())

    def average(values: Tensor) -> Tensor:
        return (index.sum(torch.where(known, values.double(), 0.0)) / count)[index.position]

    mean = average(variance)
    smallest = torch.full((len(index.ids),), torch.inf, dtype=torch.float64)
    smallest = smallest.scatter_reduce_(0, index.position[known], variance[known].double(), "amin")[index.position]
    left = torch.maximum(partial_out(variance, length, group) + mean, smallest)
    average_left = average(left)
    return torch.where(average_left > 0, left * mean / average_left, variance.double()).to(variance)


def _shuffled(variance: Tensor, length: Tensor, group: Tensor, generator: Generator) -> Tensor:
    return shuffle_within_groups(variance, group, generator)


def _shuffled_doubts(rewards: RewardSet, length: Tensor, group: Tensor, generator: Generator) -> RewardSet:
    return shuffle_doubts(rewards, group, generator)


CHANGES = (
    Change(shuffled_key(""), "shuffled", False, _shuffled, _shuffled_doubts),
    Change("length as variance: ", "length as variance", True, ranked_by_length, length_as_variance),
    Change("length out of variance: ", "length out of variance", True, without_length, length_out_of_variance),
)


def changed_utilities(
    studied: Sequence[StudiedUtility],
    rewards: RewardSet,
    length: Tensor | None,
    changes: Mapping[str, int],
    seed: int,
) -> Maker:
    """The values of utilities after each of several changes of the doubts that they read.

    Args:
        studied: the utilities.
        rewards: of the N candidates.
        length: `[N]` of the responses; None where no change needs it.
        changes: how often each is made, by its start.
        seed: of what is drawn.
    """

    def made(block: Block) -> Iterator[tuple[str, Tensor]]:
        own = rewards[block.rows]
        lengths = torch.zeros(len(block.group)) if length is None else length[block.rows]
        generator = block.generator(seed)
        for change in CHANGES:
            for _ in range(changes.get(change.start, 0)):
                changed = change.of_rewards(own, lengths, block.group, generator)
                for one in studied:
                    yield f"{change.start}{one.key}", one.fitted(changed, generator).double()

    return made


def _each(rewards: RewardSet, moved: Callable[[RewardPosterior], RewardPosterior]) -> RewardSet:
    return replace(
        rewards,
        rewards={name: moved(one) for name, one in rewards.rewards.items()},
        against_references={name: moved(one) for name, one in rewards.against_references.items()},
    )


def _same_rank(variance: Tensor, length: Tensor, group: Tensor, generator: Generator) -> Tensor:
    """For each row `[N]` the row of its prompt whose variance has the rank that its length has."""
    ranked = [_ranked(values, group, generator) for values in (variance, length)]
    source = torch.empty_like(ranked[0])
    source[ranked[1]] = ranked[0]
    return source


def _ranked(values: Tensor, group: Tensor, generator: Generator) -> Tensor:
    """Rows prompt by prompt, in ascending order of values `[N]`, ties in random order."""
    index = index_groups(group)
    rows = torch.arange(len(values)) if index.order is None else index.order
    starts = index.counts.cumsum(0) - index.counts
    found = torch.empty_like(rows)
    for size in torch.unique(index.counts).tolist():
        places = starts[index.counts == size][:, None] + torch.arange(size)
        # one order of the places serves all prompts: it breaks ties by chance, and not by where they stand
        pools = rows[places[:, torch.randperm(size, generator=generator)]]
        order = torch.from_numpy(np.argsort(values[pools].numpy(), axis=1))
        found[places] = pools.gather(1, order)
    return found


def _with_variance(one: RewardPosterior, variance: Tensor) -> RewardPosterior:
    """Deviations of every response scaled to another variance; those of a response without any stay none."""
    scale = torch.where(one.variance > 0, variance / one.variance, 1.0).sqrt()
    if isinstance(one, MemberRewards):
        mean, within = one.mean, one.within_variance
        factor = one.within_factor
        return MemberRewards(
            mean[:, None] + (one.members - mean[:, None]) * scale[:, None],
            one.group,
            one.ddof,
            one.basis_id,
            within_variance=None if within is None else within * scale.square(),
            within_factor=None if factor is None else factor * scale[:, None].to(factor.dtype),
            noise=one.noise,
            text_id=one.text_id,
        )
    assert isinstance(one, GaussianRewards)
    return GaussianRewards(
        one.mean,
        variance,
        one.group,
        None if one.factor is None else one.factor * scale[:, None].to(one.factor.dtype),
        one.noise,
        one.text_id,
        one.basis_id,
    )
