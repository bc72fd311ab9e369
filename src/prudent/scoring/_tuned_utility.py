"""The strength of a rule, chosen by the gold of best-of-n on a few prompts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prudent.errors import DataError, UtilityError
from prudent.rewards import index_groups
from prudent.scoring._scored import ScoredPool, read_scored
from prudent.scoring._utilities import Model, checked_utility, rewards_to_learn_from
from prudent.selection import calibrated_strength, usual_size

__all__ = ["TunedUtility", "tune_utility"]

_WORD = re.compile(r"\bstrength\b")
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", re.DOTALL)


@dataclass(frozen=True)
class TunedUtility:
    """A utility with a strength in it that was chosen on prompts with gold.

    Attributes:
        utility: the text with the strength of highest gold.
        smallest: the text with the smallest strength whose gold is within one standard error of the highest.
        strengths: those tried, ascending.
        gold: mean over prompts of the gold of the best of n under each.
        standard_error: of that mean.
        n: candidates that picks were made from.
        num_prompts: prompts that it rests on; gold of these must not judge the choice.
    """

    utility: str
    smallest: str
    strengths: tuple[float, ...]
    gold: tuple[float, ...]
    standard_error: tuple[float, ...]
    n: int
    num_prompts: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(one) if isinstance(one, tuple) else one for name, one in vars(self).items()}


def tune_utility(
    data: str | Path | ScoredPool,
    utility: str,
    strengths: Sequence[float],
    *,
    n: int | None = None,
    all_rows: bool = False,
    model: Model | Mapping[str, Model] | None = None,
    tokens_per_batch: int | None = None,
    progress: bool = True,
) -> TunedUtility:
    """Choose a number in a utility by the gold of what it picks.

    Some 50 prompts are enough to tell strengths apart that differ much; see `prudent.selection.calibrated_strength`.

    Args:
        data: what `score` made of a pool with gold, or its path; prompts that members were calibrated on are left out.
        utility: a text with the word `strength` in place of a number, such as `center(mean) | lcb_var(strength)`.
        strengths: the numbers to try.
        n: candidates that picks will be made from, at least 2; by default as many as the smallest pool has, among
            those with at least half as many as the median pool.
        all_rows: as in `fit_utility`, and so are the others.
        model: for `center(of=learned)`.
        tokens_per_batch: padded tokens of a batch of prompts.
        progress: show a bar while prompts are read.

    Raises:
        UtilityError: the text has no word `strength`, or is no utility with a number in its place, or depends on which
            other responses are there.
        DataError: the pool has no gold, or fewer than two prompts have n candidates with gold.
        ValueError: no strengths, or one is given twice; or n is below 2, where there is nothing to choose.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"prompt_id": [0, 0, 1, 1], "reward_mean": [1.0, 2.0, 1.0, 3.0],
        ...                   "reward_variance": [0.0, 9.0, 0.0, 9.0], "gold": [1.0, 0.0, 1.0, 0.0]})
        >>> tune_utility(ScoredPool(table), "lcb_std(strength)", [0, 0.5, 1]).utility
        'lcb_std'
    """
    template = _Template(utility)
    tried = [float(one) for one in strengths]
    if not tried or len(set(tried)) < len(tried):
        raise ValueError(f"strengths must be at least one and all different, got {list(strengths)}")
    if n is not None and n < 2:
        raise ValueError(f"n must be at least 2, or there is nothing to choose from, got {n}")
    pool = data if isinstance(data, ScoredPool) else read_scored(data)
    if "gold" not in pool.table.column_names:
        raise DataError(f"{pool.source} has no gold to choose a strength by; score a pool whose rows carry `gold`")
    utilities = {one: checked_utility(template.filled(one), pool) for one in tried}
    dependent = next((one for one in utilities.values() if one.depends_on_pool), None)
    if dependent is not None:
        raise UtilityError(f"{dependent} depends on which other responses are there, so it has no curve to choose by")
    gold = pool.column("gold").masked_fill(pool.is_calibration, torch.nan)
    if n is None:
        counts = index_groups(pool.group[~gold.isnan()]).counts
        n = usual_size(counts) if len(counts) else 0
        if n < 2:
            raise DataError(f"{pool.source} has prompts with a single response with gold, so nothing to choose from")
    rewards = rewards_to_learn_from(
        pool, all_rows=all_rows, model=model, tokens_per_batch=tokens_per_batch, progress=progress
    )
    fitted = {one: expression.fit(rewards) for one, expression in utilities.items()}

    def values(strength: float) -> Tensor:
        return fitted[strength](rewards)

    found = calibrated_strength(values, gold, pool.group, n, tried, nan="exclude")
    return TunedUtility(
        utility=str(fitted[found.chosen]),
        smallest=str(fitted[found.one_standard_error]),
        strengths=tuple(found.strengths.tolist()),
        gold=tuple(found.gold.tolist()),
        standard_error=tuple(found.standard_error.tolist()),
        n=n,
        num_prompts=found.num_prompts,
    )


class _Template:
    """A utility with the word `strength` in place of a number, outside of quotes.

    Args:
        text: of it.

    Raises:
        UtilityError: the word is not there.
    """

    def __init__(self, text: str) -> None:
        self._parts = _QUOTED.split(text)  # what stands in quotes has the odd places
        if not any(_WORD.search(part) for part in self._parts[::2]):
            raise UtilityError(
                "the utility has no number to choose: write the word strength in its place, such as "
                f"'lcb_std(strength)', not '{text}'"
            )

    def filled(self, strength: float) -> str:
        """The text with a number in its place."""
        number = f"{strength:.17g}"
        return "".join(part if place % 2 else _WORD.sub(number, part) for place, part in enumerate(self._parts))
