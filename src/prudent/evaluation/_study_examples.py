"""Prompts on which utilities pick different responses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from prudent.evaluation._study_pool import StudyPool
from prudent.evaluation._study_types import Disagreement, Pick, PickedReward
from prudent.metrics import zscore_within

__all__ = ["disagreements"]


def disagreements(
    pool: StudyPool, picks: Mapping[str, Tensor], *, num_examples: int, max_characters: int
) -> tuple[Disagreement, ...]:
    """The prompts whose picks lie farthest apart, one record each.

    Apart in posterior standard deviation where there is one reward that has it; else in the mean of any reward, in
    standard deviations of the prompt's candidates. Gold plays no part in the choice: examples chosen by their outcome
    would prove whatever one likes.

    Args:
        pool: The candidates.
        picks: Key of a utility to the row that it picks from each whole pool `[B]`.
        num_examples: At most so many prompts.
        max_characters: Longer texts are cut, and the number of characters left out is recorded.
    """
    if "response" not in pool.table.column_names or len(picks) < 2:
        return ()
    rows = torch.stack(list(picks.values()))  # [utilities, B]
    apart = _places(pool)[:, rows]  # [P, utilities, B]
    spread = (apart.amax(1) - apart.amin(1)).amax(0)
    order = spread.argsort(descending=True, stable=True)[:num_examples]
    found = []
    for prompt in order.tolist():
        by_row: dict[int, list[str]] = {}
        for key, row in zip(picks, rows[:, prompt].tolist(), strict=True):
            by_row.setdefault(row, []).append(key)
        if len(by_row) < 2:
            continue
        members = (pool.group == prompt).nonzero().squeeze(1)
        text, _ = _cut(pool.texts("prompt", int(members[0])), max_characters)
        found.append(
            Disagreement(
                prompt_id=int(pool.table["prompt_id"][int(members[0])].as_py()),
                prompt=text,
                pool_size=len(members),
                picks=tuple(_pick(pool, tuple(keys), row, members, max_characters) for row, keys in by_row.items()),
            )
        )
    return tuple(found)


def _places(pool: StudyPool) -> Tensor:
    """Where each candidate lies, in what picks are to be told apart by: `[P, N]`."""
    if pool.only is not None and pool.only.variance is not None:
        return pool.only.variance.clamp(min=0).sqrt()[None]
    means = [zscore_within(one.mean, pool.group) for one in pool.by_name.values()]
    return torch.stack(means).nan_to_num()


def _pick(pool: StudyPool, keys: tuple[str, ...], row: int, members: Tensor, max_characters: int) -> Pick:
    text, cut = _cut(pool.texts("response", row), max_characters)
    gold = pool.scales.get("gold")
    columns = pool.table.column_names
    return Pick(
        utilities=keys,
        response_id=int(pool.table["response_id"][row].as_py()) if "response_id" in columns else row - int(members[0]),
        text=text,
        cut=cut,
        rewards={
            name: PickedReward(float(one.mean[row]), _std(one.variance, row), _std(one.centered_variance, row))
            for name, one in pool.by_name.items()
            if bool(one.mean[row].isfinite())
        },
        gold=None if gold is None else float(gold[row]),
        gold_rank=None if gold is None else 1 + int((gold[members] > gold[row]).sum()),
        length=None if pool.length is None else int(pool.length[row]),
    )


def _std(variance: Tensor | None, row: int) -> float | None:
    if variance is None or not bool(variance[row].isfinite()):
        return None
    return float(variance[row].clamp(min=0).sqrt())


def _cut(text: str, max_characters: int) -> tuple[str, int]:
    return text[:max_characters], max(0, len(text) - max_characters)
