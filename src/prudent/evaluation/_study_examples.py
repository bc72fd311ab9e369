"""Prompts on which rules pick different responses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from prudent.evaluation._study_pool import StudyPool
from prudent.evaluation._study_types import Disagreement, Pick

__all__ = ["disagreements"]


def disagreements(
    pool: StudyPool, picks: Mapping[str, Tensor], *, num_examples: int, max_characters: int
) -> tuple[Disagreement, ...]:
    """The prompts whose picks lie farthest apart in posterior standard deviation, one record each.

    Gold plays no part in the choice: examples chosen by their outcome would prove whatever one likes.

    Args:
        pool: The candidates.
        picks: Rule to the row that it picks from each whole pool `[B]`.
        num_examples: At most so many prompts.
        max_characters: Longer texts are cut, and the number of characters left out is recorded.
    """
    if "response" not in pool.table.column_names or len(picks) < 2:
        return ()
    std = pool.marginal.variance.double().clamp(min=0).sqrt()
    rows = torch.stack(list(picks.values()))  # [rules, B]
    spread = std[rows].amax(0) - std[rows].amin(0)
    order = spread.argsort(descending=True, stable=True)[:num_examples]
    found = []
    for prompt in order.tolist():
        by_row: dict[int, list[str]] = {}
        for rule, row in zip(picks, rows[:, prompt].tolist(), strict=True):
            by_row.setdefault(row, []).append(rule)
        if len(by_row) < 2:
            continue
        members = (pool.group == prompt).nonzero().squeeze(1)
        text, _ = _cut(pool.texts("prompt", int(members[0])), max_characters)
        found.append(
            Disagreement(
                prompt_id=int(pool.table["prompt_id"][int(members[0])].as_py()),
                prompt=text,
                pool_size=len(members),
                picks=tuple(_pick(pool, tuple(rules), row, members, max_characters) for row, rules in by_row.items()),
            )
        )
    return tuple(found)


def _pick(pool: StudyPool, rules: tuple[str, ...], row: int, members: Tensor, max_characters: int) -> Pick:
    text, cut = _cut(pool.texts("response", row), max_characters)
    gold = pool.scales.get("gold")
    columns = pool.table.column_names
    return Pick(
        rules=rules,
        response_id=int(pool.table["response_id"][row].as_py()) if "response_id" in columns else row - int(members[0]),
        text=text,
        cut=cut,
        mean=float(pool.marginal.mean[row]),
        std=float(pool.marginal.variance[row].clamp(min=0).sqrt()),
        centered_std=None if pool.centered is None else float(pool.centered.variance[row].clamp(min=0).sqrt()),
        gold=None if gold is None else float(gold[row]),
        gold_rank=None if gold is None else 1 + int((gold[members] > gold[row]).sum()),
        length=None if pool.length is None else int(pool.length[row]),
    )


def _cut(text: str, max_characters: int) -> tuple[str, int]:
    return text[:max_characters], max(0, len(text) - max_characters)
