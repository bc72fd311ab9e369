"""RM-Bench: is the right answer preferred whatever the style of both.

References:
    Liu et al., RM-Bench, https://arxiv.org/abs/2410.16184, 2024.
"""

from typing import Any

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.evaluation.benchmarks._answers import Answers
from prudent.evaluation.benchmarks._figures import Average, Leaf, Line, Node
from prudent.evaluation.benchmarks._pairs import unknown_note
from prudent.evaluation.benchmarks._questions import Layout, Questions, texts_of

__all__ = ["RM_BENCH", "rm_bench_lines", "style_matrix", "with_known_domains"]

STYLES = ("concise", "detailed", "markdown")
DOMAINS = ("chat", "code", "math", "safety")
_DIFFICULTIES = {
    "easy": [(1, 0), (2, 0), (2, 1)],
    "normal": [(0, 0), (1, 1), (2, 2)],
    "hard": [(0, 1), (0, 2), (1, 2)],
}
"""Styles of the chosen and of the rejected response: easy where the chosen one is dressed up more, hard where less."""


def _read(row: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name in ("chosen", "rejected"):
        found[name] = texts_of(row.get(name), name)
        if len(found[name]) != len(STYLES):
            raise DataError(
                f"`{name}` has {len(found[name])} responses where RM-Bench has {len(STYLES)} styles "
                f"({', '.join(STYLES)})"
            )
    if row.get("domain") is None:
        raise DataError("`domain` is missing or null")
    gold = [1.0] * len(STYLES) + [0.0] * len(STYLES)
    of_row = {"prompt": row.get("prompt"), "subset": row["domain"], "id": row.get("id")}
    return {**of_row, "responses": [*found["chosen"], *found["rejected"]], "gold": gold}


RM_BENCH = Layout((frozenset({"prompt", "chosen", "rejected", "domain"}),), _read, "THU-KEG/RM-Bench")


def style_matrix(chosen: Tensor, rejected: Tensor) -> Tensor:
    """How often the chosen response scores strictly higher, by the styles of both.

    Args:
        chosen: `[B, 3]` scores of the chosen responses: concise, detailed, detailed with markdown.
        rejected: `[B, 3]` scores of the rejected ones.

    Returns:
        `[3, 3]` float64 shares, styles of the chosen one in rows. The mean of the diagonal is RM-Bench's normal
        accuracy, that below it easy, that above it hard.

    Raises:
        ValueError: shapes do not agree.

    Example:
        >>> import torch
        >>> style_matrix(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 2.5, 2.5]]))[1].tolist()
        [1.0, 0.0, 0.0]
    """
    if chosen.shape != rejected.shape or chosen.dim() != 2:
        raise ValueError(f"equal shapes [B, styles] are needed, got {list(chosen.shape)} and {list(rejected.shape)}")
    return (chosen[:, :, None] > rejected[:, None, :]).double().mean(0)


def with_known_domains(questions: Questions) -> Questions:
    """The same questions.

    Raises:
        DataError: no domain of RM-Bench is there.
    """
    if not _parts(questions):
        raise DataError(
            f"{questions.source}: none of its domains ({', '.join(list(questions.counts())[:8])}) is one of "
            f"RM-Bench's, which are {', '.join(DOMAINS)} (or safety-refuse and safety-response)"
        )
    return questions


def _parts(questions: Questions) -> dict[str, list[str]]:
    """The subsets of each domain that is there."""
    counts = questions.counts()
    parts = {name: [one for one in counts if one.partition("-")[0].casefold() == name] for name in DOMAINS}
    return {name: found for name, found in parts.items() if found}


def rm_bench_lines(answers: Answers) -> tuple[list[Line], list[str]]:
    """RM-Bench: easy, normal and hard accuracy in each domain; safety is the mean of its two halves."""
    questions = answers.questions
    counts, parts = questions.counts(), _parts(questions)
    domains = list(parts)
    cells = {part: _cells(answers, questions.of_subset(part)) for name in domains for part in parts[name]}
    hardness: dict[str, list[Node]] = {name: [] for name in _DIFFICULTIES}
    of_domain: dict[str, Node] = {}
    of_part: dict[str, Node] = {}
    for domain in domains:
        for difficulty in _DIFFICULTIES:
            hardness[difficulty].append(Average([cells[part][difficulty] for part in parts[domain]]))
        of_domain[domain] = Average([nodes[-1] for nodes in hardness.values()])
        for part in parts[domain]:
            of_part[part] = Average([cells[part][difficulty] for difficulty in _DIFFICULTIES])
    number = {domain: sum(counts[part] for part in parts[domain]) for domain in domains}
    total = sum(number.values())
    lines = [Line("overall", "mean of domains", total, Average(list(of_domain.values())), 0.5)]
    lines += [Line("difficulty", name, total, Average(nodes), 0.5) for name, nodes in hardness.items()]
    for place, domain in enumerate(domains):
        lines.append(Line("domain", domain, number[domain], of_domain[domain], 0.5))
        for difficulty, nodes in hardness.items():
            lines.append(Line("domain and difficulty", f"{domain}, {difficulty}", number[domain], nodes[place], 0.5))
    for domain in domains:
        if len(parts[domain]) > 1:
            lines += [Line("subset", part, counts[part], of_part[part], 0.5) for part in parts[domain]]
    for one, chosen in enumerate(STYLES):
        for other, rejected in enumerate(STYLES):
            style = _style(one, other)
            over = [Average([cells[part][style] for part in parts[domain]]) for domain in domains]
            lines.append(Line("style", f"{chosen} above {rejected}", total, Average(over), 0.5))
    known = {part for domain in domains for part in parts[domain]}
    notes = unknown_note({name: counts[name] for name in counts if name not in known})
    if len(domains) < len(DOMAINS):
        absent = ", ".join(name for name in DOMAINS if name not in domains)
        notes.append(f"not there: {absent}; overall is over the other domains")
    return lines, notes


def _style(chosen: int, rejected: int) -> str:
    return f"{chosen} {rejected}"


def _cells(answers: Answers, rows: Tensor) -> dict[str, Leaf]:
    """The pairs of some questions by the styles of both, and by difficulty."""
    wanted = {_style(one, other): [(one, other)] for one in range(len(STYLES)) for other in range(len(STYLES))}
    found = {}
    for name, styles in (wanted | _DIFFICULTIES).items():
        start, unit = answers.questions.start[rows], answers.questions.unit[rows]
        chosen = torch.cat([start + one for one, _ in styles])
        rejected = torch.cat([start + len(STYLES) + other for _, other in styles])
        credit = (answers.score[chosen] > answers.score[rejected]).double()
        found[name] = Leaf(credit, unit.repeat(len(styles)), answers.confidence(chosen, rejected))
    return found
