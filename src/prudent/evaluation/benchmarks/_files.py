"""Files as the `rewardbench` package writes them, so that what reads those reads these.

Formats are those of `rewardbench` 0.1.4: `MODEL.json` and `MODEL_outputs.jsonl` of its command line, and for
RewardBench 2 `eval-set/MODEL.json` and `eval-set-scores/MODEL.json` of `scripts/run_v2.py`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from prudent.evaluation.benchmarks._answers import Answers
from prudent.evaluation.benchmarks._types import BenchmarkResult
from prudent.models import Message, atomic_file, render_plain
from prudent.posteriors import EnsembleScorer, ModelScorer

__all__ = ["model_name", "write_rewardbench", "write_rewardbench2"]

_MODEL_TYPE = "Seq. Classifier"
_REPLACED = ("prompt", "text_chosen", "text_rejected")
"""Columns of the rows given that are written as the model reads them."""


def model_name(model: str) -> str:
    """What files are called by: a folder's own name, or the name on the hub."""
    return Path(model).resolve().name if Path(model).exists() else model


def write_rewardbench(
    folder: Path,
    result: BenchmarkResult,
    answers: Answers,
    scorer: ModelScorer | EnsembleScorer,
    given: Sequence[Mapping[str, Any]],
) -> None:
    """Write `MODEL.json` and `MODEL_outputs.jsonl`, a row a pair, with the other columns of the rows given."""
    name, questions = model_name(result.model), answers.questions
    score = answers.score.tolist()
    rows = []
    texts = _Rendered(scorer)
    for place, row in enumerate(questions.pools.rows):
        start = int(questions.start[place])
        chosen, rejected = score[start], score[start + 1]
        rows.append(
            {
                "prompt": texts.prompt(row["prompt"]),
                "results": int(chosen > rejected),
                "scores_chosen": chosen,
                "scores_rejected": rejected,
                "text_chosen": texts.conversation(row["prompt"], row["responses"][0]),
                "text_rejected": texts.conversation(row["prompt"], row["responses"][1]),
                **{name: value for name, value in given[place].items() if name not in _REPLACED},
            }
        )
    by_subset = {one.label: one.score.value for one in result.figures if one.group == "subset"}
    summary = {
        "accuracy": sum(row["results"] for row in rows) / len(rows),
        "num_prompts": len(rows),
        "model": name,
        "ref_model": None,
        "tokenizer": name,
        "chat_template": None,
        "extra_results": dict(sorted(by_subset.items())),
    }
    _write(folder / f"{name}_outputs.jsonl", "".join(json.dumps(_finite(row), default=str) + "\n" for row in rows))
    _write(folder / f"{name}.json", json.dumps(summary))


def write_rewardbench2(
    folder: Path,
    result: BenchmarkResult,
    answers: Answers,
    scorer: ModelScorer | EnsembleScorer,
    given: Sequence[Mapping[str, Any]],
) -> None:
    """Write the scores of the subsets and, column by column, those of all rows."""
    name, questions = model_name(result.model), answers.questions
    texts = _Rendered(scorer)
    stated = {"model": name, "model_type": _MODEL_TYPE, "chat_template": "tokenizer" if texts.by_template else None}
    of_subsets = {one.label: one.score.value for one in result.figures if one.group in ("domain", "subset")}
    columns: dict[str, list[Any]] = {
        "text": [
            [texts.conversation(row["prompt"], response) for response in row["responses"]]
            for row in questions.pools.rows
        ],
        "scores": [score.tolist() for score, _ in answers.each],
        # of Ties too, whose score in `eval-set` is another: the package overwrites those of a subset "ties" alone
        "results": [_first_credit(score) for score, _ in answers.each],
        "subset": list(questions.subset),
        "id": [row.get("id") for row in given],
        "num_correct": [int(right.sum()) for _, right in answers.each],
    }
    for place, content in (("eval-set", {**stated, **of_subsets}), ("eval-set-scores", {**columns, **stated})):
        _write(folder / place / f"{name}.json", json.dumps(_finite(content), indent=4, sort_keys=True))


def _first_credit(score: Tensor) -> float:
    """The package's credit of a row: of several right answers it looks at the first alone."""
    best = score == score.max()
    return float(best[0] / best.sum()) if bool(best[0]) else 0.0


class _Rendered:
    """Conversations as one text: by the model's chat template, or plain where it has none."""

    def __init__(self, scorer: ModelScorer | EnsembleScorer) -> None:
        model = scorer.model if isinstance(scorer, ModelScorer) else scorer.members[0].scorer.model
        self._tokenizer = model.tokenizer
        self.by_template = getattr(self._tokenizer, "chat_template", None) is not None

    def prompt(self, messages: Sequence[Message]) -> str:
        return self._text(list(messages))

    def conversation(self, messages: Sequence[Message], response: str) -> str:
        return self._text([*messages, {"role": "assistant", "content": response}])

    def _text(self, messages: list[Message]) -> str:
        if not self.by_template:
            return render_plain(messages)
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))


def _finite(value: Any) -> Any:
    """A copy with null where a number is not finite, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
