"""Pairs of responses to one prompt that an absolute score orders."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def draw_ordered_pairs(
    scores: ArrayLike, most: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of the n responses to a prompt whose scores differ: all of them, or some drawn where there are too many.

    Memory is of the order of n: the pairs, up to n^2 / 2 of them, are numbered and only the drawn ones made.

    Args:
        scores: n absolute scores; a response without a finite one is in no pair.
        most: pairs at most; so many are drawn without replacement where there are more.
        generator: of the draw.

    Returns:
        Places of the better and of the worse responses, P each.

    Example:
        >>> better, worse = draw_ordered_pairs([1.0, 3.0, 1.0], 64, np.random.default_rng(0))
        >>> better.tolist(), worse.tolist()
        ([1, 1], [0, 2])
    """
    values = np.asarray(scores, dtype=np.float64)
    places = np.flatnonzero(np.isfinite(values))
    order = places[np.argsort(values[places], kind="stable")]
    ascending = values[order]
    # The response at place i of the order beats all before the first of its own score.
    num_below = np.searchsorted(ascending, ascending, side="left")
    ends = np.cumsum(num_below)
    total = int(ends[-1]) if len(ends) else 0
    drawn = np.arange(total) if total <= most else np.sort(generator.choice(total, most, replace=False))
    winner = np.searchsorted(ends, drawn, side="right")
    loser = drawn - (ends - num_below)[winner]
    return order[winner], order[loser]
