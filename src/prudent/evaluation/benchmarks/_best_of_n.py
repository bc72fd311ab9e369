"""Best-of-n correctness: how often the highest-scored of n samples is right, as n grows.

References:
    Frick et al., How to Evaluate Reward Models for RLHF (PPE), https://arxiv.org/abs/2410.14872, 2024.
    Nakano et al., WebGPT, https://arxiv.org/abs/2112.09332, 2021, appendix I (averages over all subsets of n).
"""

import re
from typing import Any

import torch

from prudent.errors import DataError
from prudent.evaluation.benchmarks._answers import Answers
from prudent.evaluation.benchmarks._figures import Leaf, Line
from prudent.evaluation.benchmarks._questions import Layout, texts_of
from prudent.metrics import auroc
from prudent.selection import best_of_n_curve, usual_size

__all__ = ["BEST_OF_N", "best_of_n_lines"]


def _read(row: dict[str, Any]) -> dict[str, Any]:
    labels = {name: row.get(name) for name in ("prompt", "prompt_id", "subset", "id") if row.get(name) is not None}
    if "response_1" in row:
        names = sorted((name for name in row if re.fullmatch(r"response_\d+", name)), key=lambda name: int(name[9:]))
        responses, gold = [row[name] for name in names], texts_of(row.get("scores"), "scores")
    elif "responses" in row:
        gold = texts_of(row.get("gold"), "gold")
        responses = texts_of(row["responses"], "responses") if row["responses"] else [None] * len(gold)
    else:
        return {**labels, "response": row.get("response"), "gold": _right(row.get("gold"))}
    return {**labels, "responses": responses, "gold": [_right(one) for one in gold]}


def _right(value: Any) -> float:
    if value not in (0, 1):
        raise DataError(f"`gold` must be 0 (wrong) or 1 (right) for every response; it is {value!r}")
    return float(value)


BEST_OF_N = Layout(
    (
        frozenset({"prompt", "responses", "gold"}),
        frozenset({"prompt", "response", "gold"}),
        frozenset({"prompt", "response_1", "scores"}),
    ),
    _read,
)


def best_of_n_lines(answers: Answers) -> tuple[list[Line], list[str]]:
    """The best of all samples, the best of n, what an oracle would reach, and AUROC within prompts."""
    questions = answers.questions
    unit, right = questions.unit, questions.right
    group = torch.arange(len(questions)).repeat_interleave(questions.size)
    share = torch.tensor([float(one.mean()) for _, one in answers.each], dtype=torch.float64)
    chance = float(share.mean())
    credit, confidence = answers.best_credit(), answers.best_confidence()
    lines = [Line("overall", "best of all samples", len(questions), Leaf(credit, unit, confidence), chance)]
    for name, number in questions.counts().items():
        rows = questions.of_subset(name)
        leaf = Leaf(credit[rows], unit[rows], confidence.select(rows))
        lines.append(Line("subset", name, number, leaf, float(share[rows].mean())))
    most = usual_size(questions.size)
    n_values = list(range(1, most + 1))
    # what is not scored is picked last
    ranked = torch.where(answers.score.isfinite(), answers.score, -torch.inf)
    picked = best_of_n_curve(ranked, right, group, n_values)
    oracle = best_of_n_curve(right, right, group, n_values)
    there = ~picked[:, -1].isnan()
    for curve, name in ((picked, "n"), (oracle, "oracle n")):
        for n in sorted({n for n in n_values if n & (n - 1) == 0} | {most}):
            has = ~curve[:, n - 1].isnan()
            lines.append(Line(name, str(n), int(has.sum()), Leaf(curve[has, n - 1], unit[has]), chance))
    number = int(there.sum())
    of_all = {
        "mean over n": picked[there].mean(1),
        "loss to oracle, mean over n": (oracle - picked)[there].mean(1),
        f"loss to oracle at n = {most}": (oracle - picked)[there][:, -1],
    }
    lines += [Line("curve", name, number, Leaf(values, unit[there])) for name, values in of_all.items()]
    both = [place for place, (_, one) in enumerate(answers.each) if 0 < float(one.sum()) < len(one)]
    mixed = [place for place in both if bool(answers.scored[place])]
    areas = [auroc(score[one > 0], score[one == 0]) for score, one in (answers.each[place] for place in mixed)]
    if mixed:
        leaf = Leaf(torch.tensor(areas, dtype=torch.float64), unit[mixed])
        lines.append(Line("AUROC", "within prompts", len(mixed), leaf, 0.5))
    notes = []
    if number < len(questions):
        notes.append(
            f"prompts with fewer than {most} samples, left out of the curve's averages: {len(questions) - number:,}"
        )
    if len(both) < len(questions):
        notes.append(
            f"prompts whose samples are all right or all wrong, which have no AUROC: {len(questions) - len(both):,}"
        )
    if len(mixed) < len(both):
        notes.append(f"prompts with a sample that is not scored, left out of AUROC: {len(both) - len(mixed):,}")
    return lines, notes
