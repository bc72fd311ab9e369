"""Benchmarks with a model behind the scores: contrasts, abstention, files of other programs, and a second run."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from prudent.data import load_preferences
from prudent.errors import PrudentError
from prudent.evaluation import evaluate, read_benchmark, run_benchmark
from prudent.evaluation.benchmarks._answers import Answers
from prudent.evaluation.benchmarks._questions import read_questions
from prudent.evaluation.benchmarks._rewardbench2 import REWARDBENCH2
from prudent.metrics import risk_coverage
from prudent.posteriors import PlainRewards, fit, load_scorer
from prudent.rewards import GaussianRewards

NOUNS = ["apple", "pear", "plum", "bird", "stone", "river"]
FEW: dict[str, Any] = {"num_bootstrap": 20, "progress": False}


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(NOUNS, k=draw.randint(2, 9)))


def _pairs(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        better, worse = sorted([_sentence(draw), _sentence(draw)], key=lambda text: -text.count("apple"))
        row = {"prompt": f"name a fruit {NOUNS[number % 6]} {NOUNS[number // 6 % 6]}", "chosen": better}
        subset = ("alpacaeval-easy", "donotanswer", "math-prm", "llmbar-natural")[number % 4]
        rows.append({**row, "rejected": f"{worse} bird", "subset": subset, "id": number})
    return rows


@pytest.fixture(scope="module")
def folder(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("benchmarked") / "rm"
    fit(tiny_models("llama"), _pairs(60, 0), place, progress=False)
    return place


def test_a_pair_abstains_by_its_exact_contrast(folder: Path) -> None:
    rows = _pairs(40, 1)
    found = run_benchmark(folder, "subsets", rows, **FEW)
    scorer = load_scorer(folder)
    contrasts = scorer.contrasts(scorer.encode_pairs(load_preferences(rows).rows))
    won = (contrasts.mean > 0).double()
    wanted = torch.tensor([0.8, 0.5], dtype=torch.float64)
    by_contrast = 1 - risk_coverage(contrasts.mean.abs() / contrasts.variance.sqrt(), 1 - won).at(wanted)
    by_mean = 1 - risk_coverage(contrasts.mean.abs(), 1 - won).at(wanted)
    overall = found.overall
    assert overall.at_80 is not None
    assert overall.at_50 is not None
    assert overall.at_80_by_mean is not None
    assert overall.at_50_by_mean is not None
    assert overall.score.value == pytest.approx(won.mean().item())
    assert [overall.at_80.value, overall.at_50.value] == pytest.approx(by_contrast.tolist())
    assert [overall.at_80_by_mean.value, overall.at_50_by_mean.value] == pytest.approx(by_mean.tolist())
    plain = evaluate(folder, rows, num_bootstrap=20, progress=False)
    assert overall.score.value == pytest.approx(plain.accuracy.value)
    assert (found.posterior, found.num_prompts) == (plain.posterior, plain.num_prompts)


def test_a_model_without_a_posterior_abstains_by_the_mean_alone(tiny_models: Any) -> None:
    found = run_benchmark(tiny_models("llama"), "rewardbench", _pairs(20, 2), posterior=PlainRewards(), **FEW)
    assert found.posterior == "none"
    assert found.overall.at_80 is None
    assert found.overall.at_80_by_mean is not None


def test_files_that_the_rewardbench_package_would_write(folder: Path, tmp_path: Path) -> None:
    rows = [{"chosen_model": f"m{row['id']}", **row} for row in _pairs(21, 3)]
    rows[4]["chosen"] = None  # left out
    found = run_benchmark(folder, "rewardbench", rows, tmp_path / "out", skip_bad=True, **FEW)
    del rows[4]
    assert read_benchmark(tmp_path / "out") == found
    summary = json.loads((tmp_path / "out" / "rm.json").read_text())
    keys = ["accuracy", "num_prompts", "model", "ref_model", "tokenizer", "chat_template", "extra_results"]
    assert list(summary) == keys
    outputs = [json.loads(line) for line in (tmp_path / "out" / "rm_outputs.jsonl").read_text().splitlines()]
    of_package = ["prompt", "results", "scores_chosen", "scores_rejected", "text_chosen", "text_rejected"]
    assert list(outputs[0]) == [*of_package, "chosen_model", "chosen", "rejected", "subset", "id"]
    for name in ("chosen_model", "chosen", "rejected", "subset", "id"):
        assert [row[name] for row in outputs] == [row[name] for row in rows]
    assert all(row["results"] == int(row["scores_chosen"] > row["scores_rejected"]) for row in outputs)
    assert summary["accuracy"] == pytest.approx(sum(row["results"] for row in outputs) / 20)
    for subset, accuracy in summary["extra_results"].items():
        own = [row["results"] for row in outputs if row["subset"] == subset]
        assert accuracy == pytest.approx(sum(own) / len(own))
    assert rows[0]["chosen"] in outputs[0]["text_chosen"]
    assert rows[0]["prompt"] in outputs[0]["text_chosen"]
    scorer = load_scorer(folder)
    contrasts = scorer.contrasts(scorer.encode_pairs(load_preferences(rows).rows))
    differences = [row["scores_chosen"] - row["scores_rejected"] for row in outputs]
    assert differences == pytest.approx(contrasts.mean.tolist(), abs=1e-5)


def _rewardbench2(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for number in range(8):
        texts = [_sentence(draw) for _ in range(4)]
        row = {"id": str(number), "prompt": f"name {NOUNS[number % 6]} {number}", "chosen": texts[:1]}
        subset = ("Focus", "Math")[number % 2]
        rows.append({**row, "rejected": texts[1:], "subset": subset, "num_correct": 1, "total_completions": 4})
    for number in range(3):
        for kind, right in (("ref", 1), ("tied", 3)):
            texts = [_sentence(draw) for _ in range(right + 2)]
            row = {"id": f"{kind}:{number}", "prompt": f"{kind} {number} please", "chosen": texts[:right]}
            rows.append({**row, "rejected": texts[right:], "subset": "Ties", "num_correct": right})
    return rows


def test_files_of_rewardbench2(folder: Path, tmp_path: Path) -> None:
    rows = _rewardbench2(4)
    found = run_benchmark(folder, "rewardbench2", rows, tmp_path / "out", **FEW)
    summary = json.loads((tmp_path / "out" / "eval-set" / "rm.json").read_text())
    assert set(summary) == {"model", "model_type", "chat_template", "Focus", "Math", "Ties"}
    assert summary["Ties"] == pytest.approx(found.figure("domain", "Ties").score.value)
    columns = json.loads((tmp_path / "out" / "eval-set-scores" / "rm.json").read_text())
    assert [len(scores) for scores in columns["scores"]] == [len(row["chosen"]) + len(row["rejected"]) for row in rows]
    assert columns["num_correct"] == [row["num_correct"] for row in rows]
    # as the package writes it, of Ties too: credit for the first right answer alone, shared with what equals it
    credits = [float(one[0] == max(one)) / one.count(max(one)) for one in columns["scores"]]
    assert columns["results"] == credits
    assert columns["id"] == [row["id"] for row in rows]
    again = [{**row, "scores": scores} for row, scores in zip(rows, columns["scores"], strict=True)]
    given = run_benchmark(None, "rewardbench2", again, score_column="scores", **FEW)
    assert given.overall.score.value == pytest.approx(found.overall.score.value)


def test_a_finished_run_is_read_and_another_model_is_refused(
    folder: Path, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _pairs(12, 5)
    for output in (tmp_path / "out", tmp_path / "out.json"):
        first = run_benchmark(folder, "subsets", rows, output, **FEW)
        with monkeypatch.context() as patch:
            patch.setattr("prudent.posteriors.ModelScorer.predict", lambda *_, **__: pytest.fail("scored again"))
            assert run_benchmark(folder, "subsets", rows, output, **FEW) == first
        with pytest.raises(PrudentError, match=r"made with another .*model"):
            run_benchmark(tiny_models("llama"), "subsets", rows, output, **FEW)
        other = run_benchmark(tiny_models("llama"), "subsets", rows, output, overwrite=True, **FEW)
        assert other.posterior == "none"
        assert read_benchmark(output) == other
    assert (tmp_path / "out.scored.parquet").is_dir()


def _answers(rows: list[dict[str, Any]], mean: torch.Tensor, factor: torch.Tensor, text_id: torch.Tensor) -> Answers:
    questions = read_questions(REWARDBENCH2, rows, name="rewardbench2", split=None, scores=None, skip_bad=False)
    group = torch.arange(len(questions)).repeat_interleave(questions.size)
    posterior = GaussianRewards(mean, factor.square().sum(1), group, factor=factor, text_id=text_id)
    return Answers(questions, mean, text_id, posterior)


def test_the_best_is_doubted_by_its_difference_to_the_next_that_is_another_text() -> None:
    rows = [
        {"prompt": "p", "chosen": ["a"], "rejected": ["b", "a", "c"], "subset": "Math"},
        {"prompt": "q", "chosen": ["a"], "rejected": ["a"], "subset": "Math"},
    ]
    mean = torch.tensor([2.0, 1.0, 2.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    factor = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]).double()
    answers = _answers(rows, mean, factor, torch.tensor([0, 1, 0, 2, 3, 3]))
    best, following = answers.best_and_next
    assert mean[best].tolist() == [2.0, 1.0]
    assert following.tolist() == [1, -1]
    sure = answers.best_confidence()
    assert sure.by_contrast is not None
    assert sure.by_contrast.tolist() == [0.5, float("inf")]  # the shared part of the factor cancels
    assert sure.by_mean.tolist() == [1.0, float("inf")]
    # without variance a difference is certain, and no difference is none
    still = answers.confidence(torch.tensor([0, 0]), torch.tensor([3, 2]))
    assert still.by_contrast is not None
    assert still.by_contrast.tolist() == [2.0, 0.0]


def test_equal_answers_lie_within_one_std_as_often_as_a_normal_variable() -> None:
    """Rewards drawn from the posterior itself: answers of equal worth differ by what it says."""
    generator = torch.Generator().manual_seed(0)
    rows, means, factors = [], [], []
    for number in range(300):
        for kind, right in (("ref", 1), ("tied", 4)):
            texts = [f"{one}" for one in range(right + 1)]
            row = {"id": f"{kind}:{number}", "prompt": f"{kind} {number}", "chosen": texts[:right]}
            rows.append({**row, "rejected": texts[right:], "subset": "Ties"})
            factor = torch.randn(right + 1, 6, generator=generator, dtype=torch.float64)
            means.append(factor @ torch.randn(6, generator=generator, dtype=torch.float64))
            factors.append(factor)
    factor = torch.cat(factors)
    answers = _answers(rows, torch.cat(means), factor, torch.arange(len(factor)))
    from prudent.evaluation.benchmarks._figures import figures_of
    from prudent.evaluation.benchmarks._rewardbench2 import rewardbench2_lines

    lines, _ = rewardbench2_lines(answers)
    found = {one.label: one for one in figures_of(lines, answers.questions.num_prompts, num_bootstrap=50, seed=0)}
    assert found["pairs of equal answers within 1 std"].score.value == pytest.approx(0.6827, abs=0.03)
    assert found["pairs of equal answers within 1 std"].num == 300
    assert found["spreads within 1 std"].score.value < 0.5  # the widest of six differences
