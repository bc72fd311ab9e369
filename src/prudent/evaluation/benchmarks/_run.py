"""`run_benchmark`: a reward model on a public benchmark."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prudent.data import DataSource, read_rows
from prudent.errors import DataError
from prudent.evaluation.benchmarks._answers import Answers
from prudent.evaluation.benchmarks._best_of_n import BEST_OF_N, best_of_n_lines
from prudent.evaluation.benchmarks._figures import Line, figures_of
from prudent.evaluation.benchmarks._files import write_rewardbench, write_rewardbench2
from prudent.evaluation.benchmarks._pairs import (
    REWARDBENCH,
    SUBSETS,
    rewardbench_lines,
    subsets_lines,
    with_known_subsets,
)
from prudent.evaluation.benchmarks._questions import Layout, Questions, read_questions
from prudent.evaluation.benchmarks._reward_math import REWARD_MATH, reward_math_lines, with_one_right
from prudent.evaluation.benchmarks._rewardbench2 import REWARDBENCH2, rewardbench2_lines, with_ties_as_prompts
from prudent.evaluation.benchmarks._rm_bench import RM_BENCH, rm_bench_lines, with_known_domains
from prudent.evaluation.benchmarks._types import BenchmarkResult
from prudent.models import RewardModel, atomic_file
from prudent.posteriors import EnsembleScorer, ModelScorer, Posterior, is_joint, load_scorer
from prudent.scoring import ScoreSummary, read_scored, require_apart, score

__all__ = ["BENCHMARKS", "check_benchmark", "run_benchmark"]


@dataclass(frozen=True)
class _Benchmark:
    layout: Layout
    lines: Callable[[Answers], tuple[list[Line], list[str]]]
    write: Callable[..., None] | None = None
    prepare: Callable[[Questions], Questions] = lambda questions: questions
    """Refuses what the benchmark can make nothing of, before it is scored."""


_BENCHMARKS = {
    "rewardbench": _Benchmark(REWARDBENCH, rewardbench_lines, write_rewardbench, with_known_subsets),
    "rewardbench2": _Benchmark(REWARDBENCH2, rewardbench2_lines, write_rewardbench2, with_ties_as_prompts),
    "rm_bench": _Benchmark(RM_BENCH, rm_bench_lines, prepare=with_known_domains),
    "reward_math": _Benchmark(REWARD_MATH, reward_math_lines, prepare=with_one_right),
    "best_of_n": _Benchmark(BEST_OF_N, best_of_n_lines),
    "subsets": _Benchmark(SUBSETS, subsets_lines),
}
BENCHMARKS = tuple(_BENCHMARKS)
"""The names of the benchmarks."""


def check_benchmark(name: str) -> None:
    """Make sure that there is a benchmark of this name.

    Raises:
        DataError: there is none.
    """
    if name not in _BENCHMARKS:
        raise DataError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")


def run_benchmark(
    model: str | Path | RewardModel | ModelScorer | EnsembleScorer | None,
    name: str,
    data: DataSource,
    output: str | Path | None = None,
    *,
    posterior: Posterior | None = None,
    score_column: str | None = None,
    split: str | None = None,
    num_bootstrap: int = 1000,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
    tokens_per_batch: int | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> BenchmarkResult:
    """Run a reward model on a public benchmark, and see whether abstaining by its posterior helps there.

    Every figure is that of the benchmark's authors, on raw mean rewards, with an interval over prompts. Beside it
    stands what it becomes where only the surest 80 % or half of the decisions are kept, by the standard deviation of
    the difference that a decision hangs on, and by the mean difference alone. Each part of a benchmark keeps its own
    surest decisions; averages are taken as without abstaining. Differences are those of the factor that `score` stores:
    exact up to 256 columns, else right to a relative standard deviation of 9 % of the variance.

    The benchmarks, and what a row needs:

    - `rewardbench`: `prompt`, `chosen`, `rejected`, `subset`. A pair is won where chosen scores strictly higher;
      sections weigh their subsets as RewardBench does, overall is the mean of the sections.
    - `rewardbench2`: `prompt`, `chosen` and `rejected` (lists), `subset`, for Ties `id`. The best of four, ties share
      the credit; overall is the mean of the domains. For Ties there is also how often answers of equal worth differ by
      no more than one standard deviation of their difference, 68 % for a calibrated Gaussian posterior.
    - `rm_bench`: `prompt`, `chosen` and `rejected` (three styles each), `domain`. Easy, normal and hard accuracy.
    - `reward_math`: `chosen` and `rejected` (a solution or its steps, lists of such), or a row a solution as in
      `RewardMATH_direct.json`. Accuracy and MRR; a tie ranks the wrong solution first.
    - `best_of_n`: pools with `gold` of 0 and 1, or rows of PPE's sets. How often the best of n is right, an oracle's
      share, AUROC within prompts.
    - `subsets`: preferences with a `subset`. Accuracy by subset, over all pairs, and the mean of the subsets.

    Args:
        model: a loaded model or ensemble, a folder, or a hub name; a posterior beside the model is used. None where
            scores come with the rows.
        name: one of `BENCHMARKS`.
        data: the benchmark's rows in any form that `prudent.data.load_pools` takes.
        output: a folder, which gets `benchmark.json`, `scored.parquet` and, of RewardBench, the files that the
            `rewardbench` package writes; or a JSON file, beside which the scores are kept. A run that was killed goes
            on from its scores. Without it nothing is kept.
        posterior: instead of the one beside the model; needed for a loaded model.
        score_column: instead of a model: a column with a list of scores, one a response, right or chosen ones first;
            texts of responses may then be absent.
        split: the split of data that have several; by default the one that public figures are of.
        num_bootstrap: resamples of the prompts.
        max_length: tokens a text may have.
        dtype: of the weights while reading, by default float32 on CPU and the checkpoint's own elsewhere.
        tokens_per_batch: padded tokens of a batch.
        strict: an over-long text is an error.
        skip_bad: leave faulty rows out instead of stopping.
        overwrite: replace scores in `output` that another model or other data gave.
        seed: of the resampling.
        progress: show a bar.

    Returns:
        The figures, see `BenchmarkResult`.

    Raises:
        ValueError: neither or both of model and score_column, or a loaded model without its posterior.
        DataError: there is no such benchmark, columns are missing, rows are faulty, or no part of it is known.
        ModelError: the model cannot be loaded or its head was never trained.
        PosteriorError: the posterior does not belong to the model.
        PrudentError: `output` holds scores of something else, or is what is read, or a scored dataset, or lies in one.

    Example:
        >>> from prudent.evaluation import run_benchmark
        >>> row = {"problem": "1 + 1?", "is_correct": [False, True, False], "score": [0.1, 0.9, -0.3]}
        >>> found = run_benchmark(None, "reward_math", [row], score_column="score")
        >>> found.overall.score.value, found.overall.chance
        (1.0, 0.3333333333333333)
    """
    check_benchmark(name)
    if (model is None) == (score_column is None):
        raise ValueError("give a model, or the column of scores that came with the rows (score_column), and not both")
    benchmark, kept = _BENCHMARKS[name], _Places(output)
    for place in (output, kept.result):
        if place is not None:
            require_apart(place, [data, model] if kept.is_folder else [data])
    questions = benchmark.prepare(
        read_questions(benchmark.layout, data, name=name, split=split, scores=score_column, skip_bad=skip_bad)
    )
    scorer, summary = None, None
    if model is None:
        answers = Answers.of_given(questions)
    else:
        scorer = load_scorer(model, posterior, max_length=max_length, dtype=dtype)
        with tempfile.TemporaryDirectory() as temporary:
            place = kept.scores or Path(temporary) / "scored.parquet"
            options: dict[str, Any] = {"tokens_per_batch": tokens_per_batch, "strict": strict, "overwrite": overwrite}
            summary = score(scorer, questions.pools, place, factor=is_joint(scorer), progress=progress, **options)
            answers = Answers.of_scored(questions, read_scored(place), joint=is_joint(scorer))
    lines, notes = benchmark.lines(answers)
    overall, *figures = figures_of(lines, questions.num_prompts, num_bootstrap=num_bootstrap, seed=seed)
    result = BenchmarkResult(
        name=name,
        model=score_column or _name_of(model),
        data=questions.source,
        split=questions.split,
        posterior="none" if scorer is None else scorer.kind,
        num_rows=len(questions),
        num_prompts=questions.num_prompts,
        num_responses=len(questions.right),
        num_skipped=questions.pools.summary.num_skipped,
        num_truncated=0 if summary is None else summary.num_truncated,
        num_not_scored=answers.num_not_scored,
        overall=overall,
        figures=tuple(figures),
        notes=(*notes, *_notes(scorer, summary)),
    )
    if kept.result is not None:
        if kept.is_folder and scorer is not None and benchmark.write is not None:
            rows = dict(read_rows(data, split=questions.split or "train"))
            given = [rows[number] for number in questions.pools.rows["row"]]
            benchmark.write(kept.result.parent, result, answers, scorer, given)
        kept.result.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept.result) as temporary_file:
            temporary_file.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


class _Places:
    """Where the result goes and where its scores are kept."""

    def __init__(self, output: str | Path | None) -> None:
        self.result: Path | None = None
        self.scores: Path | None = None
        self.is_folder = False
        if output is None:
            return
        place = Path(output)
        self.is_folder = place.suffix != ".json"
        if self.is_folder and place.is_file():
            raise DataError(f"{place} is a file; give a folder, or a name that ends with .json")
        if not self.is_folder and place.is_dir():
            raise DataError(f"{place} is a folder; give a name that ends otherwise, or that of a file")
        self.result = place / "benchmark.json" if self.is_folder else place
        self.scores = place / "scored.parquet" if self.is_folder else place.with_suffix(".scored.parquet")


def _name_of(model: Any) -> str:
    return str(model) if isinstance(model, str | Path) else "a loaded model"


def _notes(scorer: ModelScorer | EnsembleScorer | None, summary: ScoreSummary | None) -> list[str]:
    found = []
    if summary is not None and summary.num_prompt_truncated:
        found.append(f"{summary.num_prompt_truncated:,} texts were so long that their prompt was cut from the left")
    if scorer is not None and scorer.has_variance and not is_joint(scorer):
        found.append(
            "members of the ensemble have posteriors that store no factor, so no standard deviation of a difference is "
            "known; fit them last_layer or a LoRA kind"
        )
    return found
