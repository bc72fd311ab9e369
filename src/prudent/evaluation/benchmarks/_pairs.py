"""Pairs by subset: RewardBench with its sections, and any preferences that name their subsets.

References:
    Lambert et al., RewardBench, https://arxiv.org/abs/2403.13787, 2024.
"""

from dataclasses import replace
from typing import Any

import torch

from prudent.data import DataSource, OnBad, Pools, Preferences, load_pools, load_preferences, read_rows
from prudent.errors import DataError
from prudent.evaluation.benchmarks._answers import Answers
from prudent.evaluation.benchmarks._figures import Average, Leaf, Line
from prudent.evaluation.benchmarks._questions import GIVEN, Layout, Questions, scores_of
from prudent.metrics import pair_scores

__all__ = [
    "REWARDBENCH",
    "SECTIONS",
    "SUBSETS",
    "rewardbench_lines",
    "subsets_lines",
    "unknown_note",
    "with_known_subsets",
]

SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        # 447 pairs that weigh as much as the six programming languages together
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
"""The sections of RewardBench, and how much each of their subsets weighs in them."""


def _read_pair(row: dict[str, Any]) -> dict[str, Any]:
    for field in ("prompt", "chosen", "rejected", "subset"):
        if row.get(field) is None:
            raise DataError(f"`{field}` is missing or null")
    found = {name: row.get(name) for name in ("prompt", "subset", "id")}
    return {**found, "responses": [_reply(row["chosen"]), _reply(row["rejected"])], "gold": [1.0, 0.0]}


def _reply(value: Any) -> Any:
    """What a single message says, which may be nothing: a benchmark leaves no pair out. Other forms as they are."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return value[0].get("content", value)
    return value


REWARDBENCH = Layout(
    (frozenset({"prompt", "chosen", "rejected", "subset"}),), _read_pair, "allenai/reward-bench", "filtered"
)


_SHOWN = 5
"""Faults that a message names."""
_KNOWN = {name for subsets in SECTIONS.values() for name in subsets}


def with_known_subsets(questions: Questions) -> Questions:
    """The same questions.

    Raises:
        DataError: no subset of RewardBench is there.
    """
    counts = questions.counts()
    if not _KNOWN & set(counts):
        raise DataError(
            f"{questions.source}: none of its subsets ({', '.join(list(counts)[:8])}) is one of RewardBench's; "
            "for preferences with subsets of their own use the benchmark `subsets`"
        )
    return questions


def rewardbench_lines(answers: Answers) -> tuple[list[Line], list[str]]:
    """RewardBench: a pair is won where the chosen one scores strictly higher."""
    leaves = _leaves(answers, _wins(answers))
    counts = answers.questions.counts()
    sections, lines, notes = {}, [], []
    for section, weights in SECTIONS.items():
        there = {name: weight for name, weight in weights.items() if name in leaves}
        if there:
            sections[section] = Average([leaves[name] for name in there], list(there.values()))
            number = sum(counts[name] for name in there)
            lines.append(Line("section", section, number, sections[section], 0.5))
    names = [name for subsets in SECTIONS.values() for name in subsets if name in leaves]
    names += [name for name in leaves if name not in _KNOWN]
    lines += [Line("subset", name, counts[name], leaves[name], 0.5) for name in names]
    absent = _KNOWN - set(leaves)
    if absent:
        where = "" if len(sections) == len(SECTIONS) else f"; overall is over {', '.join(sections)}"
        notes.append(f"{len(absent)} of {len(_KNOWN)} subsets are not there, sections are over the others{where}")
    notes += unknown_note({name: counts[name] for name in counts if name not in _KNOWN})
    number = sum(counts[name] for name in counts if name in _KNOWN)
    return [Line("overall", "mean of sections", number, Average(list(sections.values())), 0.5), *lines], notes


def subsets_lines(answers: Answers) -> tuple[list[Line], list[str]]:
    """Accuracy by subset as `evaluate` counts it: a tie is half a win, a soft label its share."""
    questions = answers.questions
    difference = answers.score[questions.start] - answers.score[questions.start + 1]
    # a pair that is not scored is lost whatever its label
    accuracy = pair_scores(difference.nan_to_num(0.0, posinf=0.0, neginf=0.0), None, questions.right[questions.start])
    credit = torch.where(answers.scored, accuracy.accuracy, 0.0)
    leaves = _leaves(answers, credit)
    counts = questions.counts()
    everything = _leaf(answers, credit, torch.arange(len(questions)))
    lines = [
        Line("overall", "all pairs", len(questions), everything, 0.5),
        Line("mean", "mean of subsets", len(questions), Average(list(leaves.values())), 0.5),
    ]
    return [*lines, *(Line("subset", name, counts[name], leaf, 0.5) for name, leaf in leaves.items())], []


def unknown_note(counts: dict[str, int]) -> list[str]:
    """What to say of subsets that a benchmark does not know."""
    if not counts:
        return []
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:8])
    more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
    return [f"not counted overall, since the benchmark does not know them: {shown}{more}"]


def _wins(answers: Answers) -> torch.Tensor:
    start = answers.questions.start
    return (answers.score[start] > answers.score[start + 1]).double()


def _leaves(answers: Answers, credit: torch.Tensor) -> dict[str, Leaf]:
    """The pairs of each subset."""
    exact = answers.questions.subset
    return {
        name: _leaf(answers, credit, torch.tensor([place for place, one in enumerate(exact) if one == name]))
        for name in answers.questions.counts()
    }


def _leaf(answers: Answers, credit: torch.Tensor, rows: torch.Tensor) -> Leaf:
    start = answers.questions.start[rows]
    return Leaf(credit[rows], answers.questions.unit[rows], answers.confidence(start, start + 1))


def _load_preferences(data: DataSource, split: str, on_bad: OnBad, scores: str | None) -> Pools:
    """Preferences in any form that `load_preferences` takes, as pools of two."""
    preferences = load_preferences(data, split=split, on_bad=on_bad)
    summary, rows, several_messages = preferences.summary, [], 0
    given: dict[int, Any] = {}
    if scores is not None:
        given = _given(data, split, on_bad, scores, preferences)
    if "subset" not in preferences.rows.column_names:
        raise DataError(f"{summary.source}: no row has a `subset`; without subsets use `evaluate` without a benchmark")
    for row in preferences.rows:
        several = [name for name in ("chosen", "rejected") if len(row[name]) > 1]
        if several and on_bad == "error":
            raise DataError(
                f"{summary.source}: row {row['row']}: `{several[0]}` has {len(row[several[0]])} messages after the "
                "prompt where a benchmark scores one; leave such rows out (--skip-bad), or use `evaluate` without a "
                "benchmark"
            )
        if several:
            several_messages += 1
            continue
        if scores is not None and row["row"] not in given:
            continue
        won = row.get("p_chosen", 1.0)
        replies = [row[name][0]["content"] for name in ("chosen", "rejected")]
        found = {"prompt": row["prompt"], "responses": replies, "gold": [won, 1 - won], "id": row.get("id")}
        of_scores = {} if scores is None else {GIVEN: given[row["row"]]}
        rows.append({**found, **of_scores, "subset": row["subset"] or "none"})
    pools = load_pools(rows)
    left_out = {"several messages": several_messages, "scores": len(preferences) - len(rows) - several_messages}
    skipped = dict(summary.skipped) | {reason: count for reason, count in left_out.items() if count}
    counted = replace(pools.summary, source=summary.source, num_read=summary.num_read, skipped=skipped)
    return Pools(pools.rows, counted)


def _given(data: DataSource, split: str, on_bad: OnBad, column: str, preferences: Preferences) -> dict[int, Any]:
    """The two scores of each pair that has them, by the number of its row."""
    found, faults, wanted = {}, [], set(preferences.rows["row"])
    for number, row in read_rows(data, split=split):
        if number in wanted:
            try:
                found[number] = scores_of(row, column, 2)
            except DataError as error:
                faults.append(f"row {number}: {error}")
    if faults and on_bad == "error":
        more = f"; and {len(faults) - _SHOWN:,} more" if len(faults) > _SHOWN else ""
        raise DataError(
            f"{preferences.summary.source}: {len(faults):,} of {len(wanted):,} pairs cannot be used: "
            f"{'; '.join(faults[:_SHOWN])}{more}. Mend them, or leave them out with skip_bad (--skip-bad)"
        )
    return found


SUBSETS = Layout((frozenset({"chosen", "rejected", "subset"}),), load=_load_preferences)
