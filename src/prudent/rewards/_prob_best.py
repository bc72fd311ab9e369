"""Probability of being the best response of a prompt, from joint draws."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Generator, Tensor

from prudent.rewards._groups import index_groups
from prudent.rewards._protocol import RewardPosterior
from prudent.rewards._rows import chunks, default_generator

__all__ = ["drawn_prob_best", "members_prob_best", "prob_best_from_samples", "sampled_prob_best"]

_BLOCK_ELEMENTS = 1 << 22


def sampled_prob_best(posterior: RewardPosterior, num_samples: int, generator: Generator | None) -> Tensor:
    """Share of joint draws that each response wins: [N] float64; the prompts are taken one at a time."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    generator = default_generator(generator)

    def blocks(rows: Tensor) -> Iterator[Tensor]:
        candidates = posterior[rows]
        block = max(1, _BLOCK_ELEMENTS // len(rows))
        sizes = (min(block, num_samples - start) for start in range(0, num_samples, block))
        return (candidates.sample(size, generator) for size in sizes)

    return _by_prompt(posterior.mean.isnan(), posterior.group, blocks)


def members_prob_best(members: Tensor, group: Tensor) -> Tensor:
    """Share of the members [N, M] that rank each response first of its prompt: [N] float64; NaN where a member is."""

    def blocks(rows: Tensor) -> Iterator[Tensor]:
        return (members[rows, part].T for part in chunks(members.shape[1], len(rows)))

    return _by_prompt(members.isnan().any(1), group, blocks)


def drawn_prob_best(missing: Tensor, group: Tensor, draws: Callable[[Tensor], Tensor]) -> Tensor:
    """Share of the draws [S, n] of a prompt's rows that each response wins: [N] float64; NaN where it is missing."""
    return _by_prompt(missing, group, lambda rows: iter([draws(rows)]))


def _by_prompt(missing: Tensor, group: Tensor, blocks: Callable[[Tensor], Iterator[Tensor]]) -> Tensor:
    """Shares of the draws that `blocks` has of the rows of each prompt, those left out that were not scored."""
    out = torch.full((len(missing),), torch.nan, dtype=torch.float64, device=missing.device)
    for rows in index_groups(group).rows():
        rows = rows[~missing[rows]]
        if len(rows):
            out[rows] = prob_best_from_samples(blocks(rows))
    return out


def prob_best_from_samples(blocks: Iterable[Tensor]) -> Tensor:
    """Share of the draws [S, n] (in blocks) that each of n candidates wins, ties sharing: [n] float64."""
    wins: Tensor | None = None
    total = 0
    for samples in blocks:
        # identical responses may differ in the last bits of a matrix product: they tie all the same. How far apart the
        # best two are compares with their own size: a bad response must not make good ones tie
        best_two = samples.topk(min(2, samples.shape[1]), 1).values
        slack = 8 * torch.finfo(samples.dtype).eps * best_two.abs().amax(1, keepdim=True)
        best = samples >= best_two[:, :1] - slack
        share = best.double().div_(best.sum(1, keepdim=True)).sum(0)
        wins = share if wins is None else wins + share
        total += len(samples)
    if wins is None:
        raise ValueError("no draws were given")
    return wins / total
