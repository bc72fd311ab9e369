"""RewardMATH: one right solution among nine wrong ones.

References:
    Kim et al., Evaluating Robustness of Reward Models for Mathematical Reasoning,
        https://arxiv.org/abs/2410.01729, 2024.
"""

from typing import Any

import torch

from prudent.errors import DataError
from prudent.evaluation.benchmarks._answers import Answers, rank_of_right
from prudent.evaluation.benchmarks._figures import Leaf, Line
from prudent.evaluation.benchmarks._questions import Layout, Questions, size_note, texts_of

__all__ = ["REWARD_MATH", "reward_math_lines", "with_one_right"]

_NUM_SOLUTIONS = 10


def _read(row: dict[str, Any]) -> dict[str, Any]:
    prompt = row.get("problem", row.get("prompt"))
    if "solution_type" in row or "eval_solution" in row:
        kind = row.get("solution_type")
        if kind not in ("chosen", "rejected"):
            raise DataError(f"`solution_type` must be chosen or rejected, it is {kind!r}")
        return {
            "prompt": prompt,
            "prompt_id": row.get("problem_id"),
            "response": _joined(row.get("eval_solution"), "eval_solution"),
            "gold": float(kind == "chosen"),
        }
    if "is_correct" in row:
        gold = [float(bool(one)) for one in texts_of(row["is_correct"], "is_correct")]
        solutions = row.get("solutions")
        responses = texts_of(solutions, "solutions") if solutions else [None] * len(gold)
    else:
        rejected = [_joined(one, "rejected") for one in texts_of(row.get("rejected"), "rejected")]
        responses = [_joined(row.get("chosen"), "chosen"), *rejected]
        gold = [1.0] + [0.0] * len(rejected)
    if sum(gold) != 1 or len(gold) < 2:
        raise DataError(f"one right solution and some wrong ones are needed; {sum(gold):.0f} of {len(gold)} are right")
    return {"prompt": prompt, "id": row.get("id"), "responses": responses, "gold": gold}


def _joined(value: Any, field: str) -> str:
    """A solution in one text; steps stand on lines of their own, as the authors give them to classifiers."""
    if isinstance(value, str):
        return value
    steps = [step for one in texts_of(value, field) for step in ([one] if isinstance(one, str) else one)]
    if not all(isinstance(step, str) for step in steps):
        raise DataError(f"`{field}` must be a text or a list of steps")
    return "\n".join(steps)


REWARD_MATH = Layout(
    (
        frozenset({"chosen", "rejected"}),
        frozenset({"problem", "eval_solution", "solution_type", "problem_id"}),
        frozenset({"problem", "is_correct"}),
    ),
    _read,
)


def with_one_right(questions: Questions) -> Questions:
    """The same questions.

    Raises:
        DataError: a problem has not one right solution.
    """
    for place, right in enumerate(torch.split(questions.right, questions.size.tolist())):
        if float(right.sum()) != 1 or len(right) < 2:
            raise DataError(
                f"{questions.source}: the problem of row {questions.pools.rows[place]['row']} has {right.sum():.0f} "
                f"right solutions of {len(right)}; one right and some wrong ones are needed"
            )
    return questions


def reward_math_lines(answers: Answers) -> tuple[list[Line], list[str]]:
    """RewardMATH: how often the right solution ranks first, and the mean of 1 / rank; in a tie the wrong one does."""
    questions = answers.questions
    ranks = torch.tensor([rank_of_right(score, right) for score, right in answers.each], dtype=torch.float64)
    ranks = torch.where(answers.scored, ranks, torch.inf)
    confidence = answers.best_confidence()
    size = questions.size.double()
    harmonic = torch.stack([(1 / torch.arange(1, int(one) + 1, dtype=torch.float64)).sum() for one in size])
    number = len(questions)
    notes = size_note(questions.size, _NUM_SOLUTIONS, "problems", "solutions")
    accuracy = Line(
        "overall",
        "accuracy",
        number,
        Leaf((ranks == 1).double(), questions.unit, confidence),
        float((1 / size).mean()),
    )
    mrr = Leaf(1 / ranks, questions.unit, confidence)
    return [accuracy, Line("rank", "MRR", number, mrr, float((harmonic / size).mean()))], notes
