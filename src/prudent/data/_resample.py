"""The bootstrap of preferences: prompts drawn with replacement, each with all of its pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from datasets import Dataset

from prudent.data._leak import prompt_digests
from prudent.data._preferences import Preferences
from prudent.errors import DataError


def resample_prompts(preferences: Preferences, seed: int) -> Preferences:
    """As many prompts as there are, drawn with replacement; a prompt drawn twice brings its pairs twice.

    Pairs of one prompt depend on each other, so that drawing single pairs would make resamples too alike. Prompts are
    equal when their messages are, apart from white space at their ends.

    Args:
        preferences: Pairs held in memory, of two prompts or more.
        seed: Of the draws; the same seed draws the same prompts.

    Returns:
        The pairs of the prompts drawn. Where prompts have different numbers of pairs, there may be more or fewer pairs
        than before. The rows keep the number they have in the source.

    Raises:
        DataError: There are fewer than two prompts, or the pairs are a stream.

    Example:
        >>> from prudent.data import load_preferences
        >>> rows = [{"prompt": f"Name {n}.", "chosen": "Yes.", "rejected": "No."} for n in range(4)]
        >>> resample_prompts(load_preferences(rows), seed=0).rows["row"][:]
        [0, 1, 3, 3]
    """
    source = preferences.summary.source
    if not isinstance(preferences.rows, Dataset):
        raise DataError(f"{source}: a stream cannot be resampled; read it without streaming")
    positions: dict[bytes, list[int]] = {}
    for position, (digest, _) in enumerate(prompt_digests(preferences)):
        positions.setdefault(digest, []).append(position)
    groups = list(positions.values())
    if len(groups) < 2:
        raise DataError(
            f"{source}: all {len(preferences):,} pairs have the same prompt, so prompts cannot be resampled"
        )
    # A stream of its own: the same seed also draws the order of training.
    generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    drawn = np.sort(generator.integers(len(groups), size=len(groups)))
    chosen = [position for group in drawn for position in groups[group]]
    summary = replace(preferences.summary, source=f"{source} (prompts resampled by seed {seed})", num_rows=len(chosen))
    return Preferences(preferences.rows.select(chosen), summary)
