"""Other ways to pick one of n, by values at several strengths or by likeness, drawn on the pool of one seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prudent.evaluation._study_curves import Drawn
from prudent.evaluation._study_drawing import Block, Drawer, group_mean
from prudent.evaluation._study_families import Family, rounded, spread_within
from prudent.selection import MinimumBayesRisk, Pessimism, SoftBestOfN, Strategy, TopK, strategy_curve

__all__ = ["strategy_families"]

Array = NDArray[np.float64]

_TEMPERATURES = tuple(0.03 * 10 ** (0.5 * step) for step in range(6))
_PENALTIES = tuple(0.001 * 6**step for step in range(6))
_WEIGHTS = tuple(0.1 * 10 ** (0.6 * step) for step in range(6))
"""In units of the spread of the values, from all but best-of-n to all but a random pick, or the most alike."""

_APART = 1e-6
"""Cosines that differ by less are the same in single precision."""


@dataclass(frozen=True)
class _Strengths:
    """The strengths of one kind of strategy; `relative` is in units of the spread of the values, or None."""

    key: str
    parameter: str
    strengths: tuple[float, ...]
    relative: tuple[float, ...] | None
    strategies: tuple[Strategy, ...]


def strategy_families(
    drawer: Drawer,
    first: Drawn,
    utility: Tensor | None,
    *,
    embedding: Callable[[slice], Tensor] | None,
    num_resamples: int,
    seed: int,
    advance: Callable[[int], None] | None,
) -> tuple[list[Family], Drawn | None]:
    """Uniform top-k, soft best-of-n, pessimism and minimum Bayes risk on the values of a utility, and consensus.

    Consensus picks the candidate most like all that are present, whatever the utility: what minimum Bayes risk tends to
    as its weight grows. It is drawn on the same subsets.

    Args:
        drawer: of the pool.
        first: the curve of that utility.
        utility: `[N]` the values, or None; there are no families where they are infinite or all the same.
        embedding: gives `[n, D]` of the responses of some rows; minimum Bayes risk and consensus need it.
        num_resamples: subsets drawn where a strategy has no closed form.
        seed: of these draws.
        advance: called with the number of prompts done.

    Returns:
        The families; and consensus, or None where no response is more alike than another.
    """
    spread = math.nan if utility is None else spread_within(utility, drawer.pool.group)
    apart = 0.0 if embedding is None else _spread_of_similarity(drawer, embedding)
    values = utility if math.isfinite(spread) and spread > 0 else None
    families = [] if values is None else _families(drawer, spread, apart)
    strategies = [strategy for family in families for strategy in family.strategies]
    if apart > _APART:
        strategies.append(MinimumBayesRisk(math.inf))
    if not strategies:
        return [], None

    def of_block(block: Block) -> dict[str, Array]:
        own = None if values is None else values[block.rows]
        columns = drawer.columns(block, own)
        found = strategy_curve(
            strategies,
            torch.zeros(len(block.group)) if own is None else own,
            torch.stack(list(columns.values()), dim=1),
            block.group,
            drawer.grid,
            embedding=None if embedding is None else embedding(block.rows),
            num_resamples=num_resamples,
            generator=block.generator(seed),
            advance=advance,
        )
        means = {name: found.mean[..., c].numpy() for c, name in enumerate(columns)}
        errors = {f"error of {name}": found.standard_error[..., c].numpy() for c, name in enumerate(columns)}
        return means | errors

    drawn = drawer.over_blocks(of_block)
    names = [name for name in drawn if not name.startswith("error of ")]
    result, start = [], 0
    for family in families:
        places = slice(start, start := start + len(family.strategies))
        result.append(
            Family(
                family.key,
                family.parameter,
                family.strengths,
                family.relative,
                tuple(strategy.text for strategy in family.strategies),
                len(family.strategies) // 2,
                {name: drawn[name][places] for name in names},
                None if family.key == TopK.name else {name: drawn[f"error of {name}"][places] for name in names},
                utility=first.utility,
                variance=first.variance,
            )
        )
    if len(strategies) == start:
        return result, None
    consensus = Drawn(
        "consensus",
        "consensus",
        "baseline",
        {name: drawn[name][-1] for name in names},
        utility=None if values is None else first.utility,
        strategy=None if values is None else strategies[-1].text,
        error={name: drawn[f"error of {name}"][-1] for name in names},
    )
    return result, consensus


def _families(drawer: Drawer, spread: float, apart: float) -> list[_Strengths]:
    """The strategies for values of a spread within prompts, and for average cosines of another."""
    families = []
    # from the best half on, in fewer, larger steps where a pool is large: beyond the pool they are all best-of-n
    step = 4 if drawer.grid[-1] > 256 else 2
    shares = [one for one in sorted({2, *(step**power for power in range(1, 32))}) if one < drawer.grid[-1]]
    if shares:
        families.append(
            _Strengths(TopK.name, "share_of", tuple(map(float, shares)), None, tuple(TopK(one) for one in shares))
        )
    temperatures = tuple(rounded(size * spread) for size in _TEMPERATURES)
    soft = tuple(SoftBestOfN(one) for one in temperatures)
    families.append(_Strengths(SoftBestOfN.name, "temperature", temperatures, _TEMPERATURES, soft))
    penalties = tuple(rounded(size * spread) for size in _PENALTIES)
    pessimism = tuple(Pessimism(one) for one in penalties)
    families.append(_Strengths(Pessimism.name, "penalty", penalties, _PENALTIES, pessimism))
    if apart > _APART:
        weights = tuple(rounded(size * spread / apart) for size in _WEIGHTS)
        mbr = tuple(MinimumBayesRisk(one) for one in weights)
        families.append(_Strengths(MinimumBayesRisk.name, "weight", weights, _WEIGHTS, mbr))
    return families


def _spread_of_similarity(drawer: Drawer, embedding: Callable[[slice], Tensor]) -> float:
    """Standard deviation within a prompt of the average cosine to all of its candidates, averaged over prompts."""

    def of_block(block: Block) -> dict[str, Array]:
        direction = torch.nn.functional.normalize(embedding(block.rows), dim=1)
        similarity = (direction * group_mean(direction, block.group)[block.group]).sum(1)
        around = similarity - group_mean(similarity, block.group)[block.group]
        return {"std": group_mean(around.square(), block.group).sqrt()[:, None].numpy()}

    return float(drawer.over_blocks(of_block)["std"].mean())
