"""Every benchmark's figures against brute force, and against the `rewardbench` package where it is installed."""

import importlib.metadata
import importlib.util
import itertools
import json
import math
import random
import statistics
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from prudent.errors import DataError
from prudent.evaluation import BENCHMARKS, BenchmarkResult, read_benchmark, run_benchmark
from prudent.evaluation.benchmarks import rank_of_right, style_matrix, ties_score
from prudent.evaluation.benchmarks._files import _first_credit
from prudent.evaluation.benchmarks._pairs import SECTIONS

FEW: dict[str, Any] = {"num_bootstrap": 20}


def _levels(draw: random.Random, number: int) -> list[float]:
    """Scores with many ties."""
    return [draw.randint(0, 4) / 2 for _ in range(number)]


def _rewardbench_rows(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for subset in (name for subsets in SECTIONS.values() for name in subsets):
        for number in range(draw.randint(2, 7)):
            prompt = f"{subset} {number}"
            rows.append({"prompt": prompt, "chosen": "a", "rejected": "b", "subset": subset, "id": number})
            rows[-1]["scores"] = _levels(draw, 2)
    return rows


def _accuracy_by_subset(rows: list[dict[str, Any]]) -> dict[str, float]:
    wins: dict[str, list[float]] = {}
    for row in rows:
        wins.setdefault(row["subset"], []).append(float(row["scores"][0] > row["scores"][1]))
    return {name: statistics.fmean(found) for name, found in wins.items()}


def test_rewardbench_weighs_subsets_as_published() -> None:
    rows = _rewardbench_rows(0)
    found = run_benchmark(None, "rewardbench", rows, score_column="scores", **FEW)
    accuracy = _accuracy_by_subset(rows)
    chat = (
        100 * accuracy["alpacaeval-easy"]
        + 95 * accuracy["alpacaeval-length"]
        + 95 * accuracy["alpacaeval-hard"]
        + 28 * accuracy["mt-bench-easy"]
        + 40 * accuracy["mt-bench-med"]
    ) / 358
    code = ["hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"]
    reasoning = (accuracy["math-prm"] + statistics.fmean(accuracy[name] for name in code)) / 2
    assert found.figure("section", "Chat").score.value == pytest.approx(chat)
    assert found.figure("section", "Reasoning").score.value == pytest.approx(reasoning)
    assert found.figure("subset", "donotanswer").score.value == pytest.approx(accuracy["donotanswer"])
    sections = [one.score.value for one in found.figures if one.group == "section"]
    assert len(sections) == 4
    assert found.overall.score.value == pytest.approx(statistics.fmean(sections))
    assert found.overall.num == found.num_rows == len(rows)
    assert found.notes == ()


def test_rewardbench_counts_what_is_missing_and_what_it_does_not_know() -> None:
    rows = [row for row in _rewardbench_rows(1) if row["subset"] in ("donotanswer", "mt-bench-easy", "mt-bench-med")]
    strange = {"prompt": "x", "chosen": "a", "rejected": "b", "subset": "strange", "scores": [1.0, 0.0]}
    found = run_benchmark(None, "rewardbench", [*rows, strange], score_column="scores", **FEW)
    accuracy = _accuracy_by_subset(rows)
    chat = (28 * accuracy["mt-bench-easy"] + 40 * accuracy["mt-bench-med"]) / 68
    assert found.overall.score.value == pytest.approx((chat + accuracy["donotanswer"]) / 2)
    assert found.overall.num == len(rows)
    assert found.figure("subset", "strange").score.value == 1.0
    assert any("20 of 23 subsets are not there" in note and "Chat, Safety" in note for note in found.notes)
    assert any("strange (1)" in note for note in found.notes)
    with pytest.raises(DataError, match="none of its subsets \\(strange\\) is one of RewardBench's"):
        run_benchmark(None, "rewardbench", [strange], score_column="scores", **FEW)


def test_rewardbench_leaves_no_pair_out_because_a_reply_is_blank_or_both_are_equal() -> None:
    pair = {"prompt": [{"role": "user", "content": "p"}], "subset": "donotanswer", "scores": [1.0, 0.0]}
    blank = [{"role": "assistant", "content": ""}]
    rows = [{**pair, "chosen": "a", "rejected": blank}, {**pair, "chosen": blank, "rejected": blank}]
    assert run_benchmark(None, "rewardbench", rows, score_column="scores", **FEW).num_rows == 2


def _rewardbench2_rows(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for subset in ("Factuality", "Precise IF", "Math", "Safety", "Focus"):
        for number in range(draw.randint(3, 9)):
            row = {"id": str(number), "prompt": f"{subset} {number}", "chosen": ["r"], "rejected": ["a", "b", "c"]}
            rows.append({**row, "subset": subset, "num_correct": 1, "total_completions": 4, "scores": _levels(draw, 4)})
    for number in range(12):
        for kind, right in (("ref", 1), ("tied", draw.randint(1, 4))):
            wrong = draw.randint(1, 3)
            row = {"id": f"{kind}:{number}", "prompt": f"{kind} {number}", "subset": "Ties", "num_correct": right}
            scores = [draw.gauss(1.5, 0.6) for _ in range(right)] + [draw.gauss(0, 0.6) for _ in range(wrong)]
            if number == 3:  # no spread, so no ratio
                scores = [2.0] * right + [0.0] * wrong
            row |= {"chosen": [f"r{one}" for one in range(right)], "rejected": [f"w{one}" for one in range(wrong)]}
            rows.append({**row, "total_completions": right + wrong, "scores": scores})
    return rows


def _ties_by_hand(rows: list[dict[str, Any]]) -> float:
    """The formula, number by number."""
    stats: dict[str, dict[int, tuple[float, float | None]]] = {"ref": {}, "tied": {}}
    for row in rows:
        kind, number = row["id"].split(":")
        right, wrong = row["scores"][: row["num_correct"]], row["scores"][row["num_correct"] :]
        stats[kind][int(number)] = min(right) - max(wrong), (max(right) - min(right) if len(right) > 1 else None)
    tied, reference = stats["tied"], stats["ref"]
    several = [number for number in tied if tied[number][1] is not None]
    above, both, margins = [], [], []
    for number in several:
        gap, spread = tied[number]
        assert spread is not None
        smaller = min(gap, reference[number][0])
        above.append(gap > spread)
        both.append(smaller > spread)
        if spread > 0:
            margins.append(math.tanh(smaller / spread - 1))
    accuracies = [statistics.fmean(float(gap > 0) for gap, _ in found.values()) for found in (tied, reference)]
    parts = [*accuracies, statistics.fmean(above), statistics.fmean(both), statistics.fmean(margins)]
    return sum(weight * part for weight, part in zip((0.3, 0.3, 0.2, 0.2, 0.01), parts, strict=True))


def test_rewardbench2_shares_ties_and_averages_domains() -> None:
    rows = _rewardbench2_rows(2)
    found = run_benchmark(None, "rewardbench2", rows, score_column="scores", **FEW)
    domains = {}
    for subset in ("Factuality", "Precise IF", "Math", "Safety", "Focus"):
        credits = []
        for row in (row for row in rows if row["subset"] == subset):
            best = max(row["scores"])
            credits.append(1 / row["scores"].count(best) if row["scores"][0] == best else 0.0)
        domains[subset] = statistics.fmean(credits)
        assert found.figure("domain", subset).score.value == pytest.approx(domains[subset])
        assert found.figure("domain", subset).chance == 0.25
    domains["Ties"] = _ties_by_hand([row for row in rows if row["subset"] == "Ties"])
    assert found.figure("domain", "Ties").score.value == pytest.approx(domains["Ties"])
    assert found.overall.score.value == pytest.approx(statistics.fmean(domains.values()))
    # both versions of a prompt are one unit
    assert found.num_prompts == found.num_rows - 12
    assert found.figure("domain", "Ties").at_80_by_mean is not None


def test_ties_score_on_arrays_and_its_faults() -> None:
    found = ties_score({0: ([2.0], [1.0, 0.0])}, {0: ([2.0, 1.0], [0.5])})
    assert (found.accuracy_tied, found.accuracy_reference, found.gap_above_spread) == (1.0, 1.0, 0.0)
    assert found.margin == pytest.approx(math.tanh(0.5 / 1.0 - 1))
    assert found.score == pytest.approx(0.6 + 0.01 * found.margin)
    # without a version with several right answers there is nothing to compare a gap with
    assert ties_score({}, {1: ([2.0], [0.0])}).score == pytest.approx(0.3)
    with pytest.raises(ValueError, match="prompt 4 needs right and wrong answers"):
        ties_score({4: ([], [1.0])}, {})
    rows = [row for row in _rewardbench2_rows(3) if row["subset"] == "Ties"]
    rows[0]["id"] = "7"
    with pytest.raises(DataError, match="ref:NUMBER or tied:NUMBER; it is '7'"):
        run_benchmark(None, "rewardbench2", rows, score_column="scores", **FEW)


def _rm_bench_rows(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for domain in ("chat", "code", "math", "safety-refuse", "safety-response"):
        for number in range(draw.randint(2, 6)):
            row = {"id": f"{domain}{number}", "prompt": f"{domain} {number}", "chosen": ["a", "b", "c"]}
            rows.append({**row, "rejected": ["d", "e", "f"], "domain": domain, "scores": _levels(draw, 6)})
    return rows


def test_rm_bench_by_difficulty_domain_and_style() -> None:
    rows = _rm_bench_rows(4)
    found = run_benchmark(None, "rm_bench", rows, score_column="scores", **FEW)
    by_part: dict[str, dict[str, float]] = {}
    for part in ("chat", "code", "math", "safety-refuse", "safety-response"):
        own = [row["scores"] for row in rows if row["domain"] == part]
        wins = [[statistics.fmean(float(s[i] > s[3 + j]) for s in own) for j in range(3)] for i in range(3)]
        matrix = style_matrix(torch.tensor([s[:3] for s in own]), torch.tensor([s[3:] for s in own]))
        assert torch.allclose(matrix, torch.tensor(wins, dtype=torch.float64))
        easy = statistics.fmean(wins[i][j] for i in range(3) for j in range(i))
        hard = statistics.fmean(wins[i][j] for i in range(3) for j in range(i + 1, 3))
        by_part[part] = {"easy": easy, "normal": statistics.fmean(wins[i][i] for i in range(3)), "hard": hard}
    safety = {
        name: (by_part["safety-refuse"][name] + by_part["safety-response"][name]) / 2
        for name in ("easy", "normal", "hard")
    }
    domains = {name: by_part[name] for name in ("chat", "code", "math")} | {"safety": safety}
    for difficulty in ("easy", "normal", "hard"):
        expected = statistics.fmean(domain[difficulty] for domain in domains.values())
        assert found.figure("difficulty", difficulty).score.value == pytest.approx(expected)
    for name, domain in domains.items():
        assert found.figure("domain", name).score.value == pytest.approx(statistics.fmean(domain.values()))
    overall = statistics.fmean(statistics.fmean(domain.values()) for domain in domains.values())
    assert found.overall.score.value == pytest.approx(overall)
    assert len([one for one in found.figures if one.group == "style"]) == 9


def _solutions(seed: int) -> list[tuple[list[float], int]]:
    draw = random.Random(seed)
    return [(_levels(draw, 10), draw.randrange(10)) for _ in range(20)]


def test_reward_math_ranks_the_wrong_solution_first_where_scores_are_equal() -> None:
    rows, ranks = [], []
    for number, (scores, right) in enumerate(_solutions(5)):
        rows.append({"problem": f"p{number}", "is_correct": [one == right for one in range(10)], "mine": scores})
        order = sorted(((s, "cho" if one == right else "rej") for one, s in enumerate(scores)), reverse=True)
        ranks.append(1 + [kind for _, kind in order].index("cho"))
        assert rank_of_right(torch.tensor(scores), torch.tensor(rows[-1]["is_correct"]).float()) == ranks[-1]
    found = run_benchmark(None, "reward_math", rows, score_column="mine", **FEW)
    assert found.overall.score.value == pytest.approx(statistics.fmean(float(rank == 1) for rank in ranks))
    assert found.figure("rank", "MRR").score.value == pytest.approx(statistics.fmean(1 / rank for rank in ranks))
    assert found.overall.chance == pytest.approx(0.1)


def test_reward_math_in_its_public_layouts() -> None:
    flat, lists, plain = [], [], []
    for number, (scores, right) in enumerate(_solutions(6)):
        steps = [[f"{number} {one}", "so"] for one in range(10)]
        for one in range(10):
            kind = "chosen" if one == right else "rejected"
            row = {"problem": f"p{number}", "problem_id": number, "solution_type": kind, "eval_solution": steps[one]}
            flat.append({**row, "mine": scores[one]})
        others = [one for one in range(10) if one != right]
        ordered = [scores[right], *(scores[one] for one in others)]
        wrong = [steps[one] for one in others]
        lists.append({"problem": f"p{number}", "chosen": steps[right], "rejected": wrong, "mine": ordered})
        texts = ["\n".join(solution) for solution in wrong]
        plain.append({"prompt": f"p{number}", "chosen": "\n".join(steps[right]), "rejected": texts, "mine": ordered})
    found = [run_benchmark(None, "reward_math", rows, score_column="mine", **FEW) for rows in (flat, lists, plain)]
    assert len({(one.overall, one.num_responses, one.num_rows) for one in found}) == 1
    flat[next(place for place in range(10) if flat[place]["solution_type"] == "rejected")]["solution_type"] = "chosen"
    with pytest.raises(DataError, match="the problem of row 0 has 2 right solutions of 10"):
        run_benchmark(None, "reward_math", flat, score_column="mine", **FEW)


def test_real_scores_of_public_reward_models(shared_data: Path) -> None:
    """On half of RewardMATH; over the whole set the best of the nine scalar models has 37.3 %, the average 19.4 %."""
    source = shared_data / "rewardmath_scores_dev.parquet"
    table = pq.read_table(source).to_pydict()
    accuracy = {}
    for name in ("rm_internlm2", "rm_ArmoRM", "rm_beaver"):
        found = run_benchmark(None, "reward_math", source, score_column=name, num_bootstrap=200)
        first = [
            all(score > other for other, is_right in zip(scores, right, strict=True) if not is_right)
            for scores, right in zip(table[name], table["is_correct"], strict=True)
            for score in [scores[right.index(True)]]
        ]
        assert found.overall.score.value == pytest.approx(statistics.fmean(first))
        accuracy[name] = found.overall.score
    assert accuracy["rm_internlm2"].low < 0.373 < accuracy["rm_internlm2"].high
    assert accuracy["rm_internlm2"].low > accuracy["rm_ArmoRM"].high > accuracy["rm_beaver"].high


def test_best_of_n_over_all_subsets() -> None:
    draw = random.Random(7)
    rows = []
    for number in range(8):
        gold = [float(draw.random() < 0.4) for _ in range(5)]
        rows.append({"prompt": f"p{number}", "responses": list("abcde"), "gold": gold, "mine": _levels(draw, 5)})
    found = run_benchmark(None, "best_of_n", rows, score_column="mine", **FEW)

    def expected(n: int, pick: Callable[[dict[str, Any], tuple[int, ...]], float]) -> float:
        return statistics.fmean(
            statistics.fmean(pick(row, subset) for subset in itertools.combinations(range(5), n)) for row in rows
        )

    def best(row: dict[str, Any], subset: tuple[int, ...]) -> float:
        top = max(row["mine"][one] for one in subset)
        return statistics.fmean(row["gold"][one] for one in subset if row["mine"][one] == top)

    def oracle(row: dict[str, Any], subset: tuple[int, ...]) -> float:
        return max(row["gold"][one] for one in subset)

    for n in (1, 2, 4, 5):
        assert found.figure("n", str(n)).score.value == pytest.approx(expected(n, best))
        assert found.figure("oracle n", str(n)).score.value == pytest.approx(expected(n, oracle))
    assert found.overall.score.value == pytest.approx(expected(5, best))
    mean = statistics.fmean(expected(n, best) for n in range(1, 6))
    assert found.figure("curve", "mean over n").score.value == pytest.approx(mean)
    loss = expected(5, oracle) - expected(5, best)
    assert found.figure("curve", "loss to oracle at n = 5").score.value == pytest.approx(loss)
    areas = []
    for row in rows:
        pairs = [
            (row["mine"][i] > row["mine"][j]) + 0.5 * (row["mine"][i] == row["mine"][j])
            for i, j in itertools.product(range(5), repeat=2)
            if row["gold"][i] > row["gold"][j]
        ]
        if pairs:
            areas.append(statistics.fmean(pairs))
    assert found.figure("AUROC", "within prompts").score.value == pytest.approx(statistics.fmean(areas))
    assert found.overall.chance == pytest.approx(statistics.fmean(statistics.fmean(row["gold"]) for row in rows))


def test_what_holds_of_all_rows_is_said_once(tmp_path) -> None:
    rows = [{"problem": f"p{n}", "is_correct": [True, False]} for n in range(7)]
    with pytest.raises(DataError) as told:
        run_benchmark(tmp_path, "reward_math", rows, **FEW)
    assert str(told.value).count("there are no texts of responses in it") == 1
    assert "row 0: there are no texts" in str(told.value)
    assert "row 1: the same; row 2: the same" in str(told.value)


def test_best_of_n_reads_rows_of_one_response_and_those_of_ppe() -> None:
    wide = [
        {"prompt": f"p{n}", "response_1": "a", "response_2": "b", "scores": [n == 0, True], "s": [1.0, 0.0]}
        for n in range(3)
    ]
    flat = [
        {"prompt": row["prompt"], "response": text, "gold": float(gold), "s": score}
        for row in wide
        for text, gold, score in zip("ab", row["scores"], row["s"], strict=True)
    ]
    found = [run_benchmark(None, "best_of_n", rows, score_column="s", **FEW) for rows in (wide, flat)]
    assert found[0].overall == found[1].overall
    assert found[0].overall.score.value == pytest.approx(1 / 3)
    flat[2]["gold"] = 0.5
    with pytest.raises(DataError, match=r"row 2: `gold` must be 0 .wrong. or 1 .right. .* it is 0\.5"):
        run_benchmark(None, "best_of_n", flat, score_column="s", **FEW)


def test_what_is_not_scored_is_lost() -> None:
    rows = [
        {"prompt": "a", "responses": ["x", "y"], "gold": [1, 0], "s": [1.0, None]},
        {"prompt": "b", "responses": ["x", "y"], "gold": [1, 0], "s": [1.0, 0.0]},
    ]
    found = run_benchmark(None, "best_of_n", rows, score_column="s", **FEW)
    assert found.num_not_scored == 1
    assert found.overall.score.value == 0.5
    assert found.figure("AUROC", "within prompts").num == 1


def test_what_cannot_be_written_to_is_told_before_anything_is_scored(tmp_path: Path) -> None:
    row = {"problem": "p", "is_correct": [True, False], "s": [1.0, 0.0]}
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match=r"folder.json is a folder"):
        run_benchmark(None, "reward_math", [row], tmp_path / "folder.json", score_column="s", **FEW)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file; give a folder"):
        run_benchmark(None, "reward_math", [row], tmp_path / "file", score_column="s", **FEW)


def test_notes_tell_prompts_without_contrast_from_those_that_are_not_scored() -> None:
    rows = [
        {"prompt": "a", "responses": ["x", "y"], "gold": [1, 0], "s": [1.0, None]},
        {"prompt": "b", "responses": ["x", "y"], "gold": [1, 1], "s": [1.0, 0.0]},
        {"prompt": "c", "responses": ["x", "y"], "gold": [1, 0], "s": [1.0, 0.0]},
    ]
    notes = run_benchmark(None, "best_of_n", rows, score_column="s", **FEW).notes
    assert any("all right or all wrong" in note and note.endswith(": 1") for note in notes)
    assert any("not scored, left out of AUROC: 1" in note for note in notes)


def test_a_tie_with_an_answer_that_is_not_scored_is_lost() -> None:
    def earned(*tied: float | None) -> tuple[float, list[float]]:
        versions = {"ref:0": ["yes", "no"], "tied:0": ["yes", "aye", "no", "nay"]}
        rows = [
            {"id": key, "prompt": key, "chosen": texts[: len(texts) // 2], "rejected": texts[len(texts) // 2 :]}
            for key, texts in versions.items()
        ]
        scored = [{**row, "subset": "Ties", "s": s} for row, s in zip(rows, ([1.0, 0.0], list(tied)), strict=True)]
        found = run_benchmark(None, "rewardbench2", scored, score_column="s", **FEW)
        margins = [one.score.value for one in found.figures if (one.group, one.label) == ("ties", "margin")]
        return found.overall.score.value, margins

    # of the reference version 0.3 is earned, of the other nothing, and a margin of -1 counts -0.01
    for tied in ((1.0, 1.5, None, 0.0), (1.0, None, 0.0, 0.0)):
        assert earned(*tied) == (pytest.approx(0.29), [-1.0])
    assert earned(1.0, 1.0, None, 0.0) == (pytest.approx(0.3), [])  # right answers that lie nowhere apart


def test_other_numbers_of_responses_than_those_of_public_figures_are_told() -> None:
    """Best of four and one among ten: with fewer to choose from, figures say something else."""
    four = {"prompt": "p", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Math", "s": [3.0, 2.0, 1.0, 0.0]}
    two = {"prompt": "q", "chosen": ["a"], "rejected": ["b"], "subset": "Focus", "s": [1.0, 0.0]}
    ties = {"prompt": "r", "chosen": ["a"], "rejected": ["b"], "subset": "Ties", "id": "ref:0", "s": [1.0, 0.0]}
    found = run_benchmark(None, "rewardbench2", [four, two, ties], score_column="s", **FEW)
    assert found.notes[0].startswith("1 of 2 prompts have 2 responses where public figures are of 4")
    assert not any(
        "public figures" in note for note in run_benchmark(None, "rewardbench2", [four], score_column="s").notes
    )
    problems = [
        {"problem": f"p{size}", "is_correct": [True] + [False] * size, "s": [1.0] + [0.0] * size} for size in (1, 2, 9)
    ]
    (note,) = run_benchmark(None, "reward_math", problems, score_column="s", **FEW).notes
    assert note.startswith("2 of 3 problems have 2 to 3 solutions where public figures are of 10")


def test_subsets_agree_with_evaluate_on_ties_and_soft_labels() -> None:
    rows = [
        {"prompt": "a", "chosen": "x", "rejected": "y", "subset": "one", "s": [1.0, 0.0]},
        {"prompt": "b", "chosen": "x", "rejected": "y", "subset": "two", "s": [0.0, 0.0]},
        {"prompt": "c", "chosen": "x", "rejected": "y", "subset": "two", "s": [0.0, 1.0]},
        {"prompt": "d", "chosen": "x", "rejected": "y", "subset": None, "p_chosen": 0.2, "s": [1.0, 0.0]},
    ]
    found = run_benchmark(None, "subsets", rows, score_column="s", **FEW)
    assert found.overall.score.value == pytest.approx((1 + 0.5 + 0 + 0.2) / 4)
    assert found.figure("mean", "mean of subsets").score.value == pytest.approx((1 + 0.25 + 0.2) / 3)
    assert found.figure("subset", "two").num == 2
    assert found.figure("subset", "none").num == 1


def test_subsets_take_whole_conversations_and_name_the_row_of_a_wrong_score() -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]

    row = {"chosen": said("x"), "rejected": said("y"), "subset": "one", "s": [1.0, 0.0]}
    found = run_benchmark(None, "subsets", [row, {**row, "s": [0.0, None]}], score_column="s", **FEW)
    assert (found.overall.score.value, found.num_not_scored) == (0.5, 1)
    with pytest.raises(
        DataError, match=r"1 of 2 pairs cannot be used: row 1: `s` must be a list of 2 scores.*--skip-bad"
    ):
        run_benchmark(None, "subsets", [row, {**row, "s": 1.0}], score_column="s", **FEW)
    found = run_benchmark(None, "subsets", [row, {**row, "s": 1.0}], score_column="s", skip_bad=True, **FEW)
    assert (found.num_rows, found.num_skipped) == (1, 1)


def test_faults_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "donotanswer"}
    two = {"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"], "subset": "Math"}
    solution = {"problem": "p", "problem_id": 1, "eval_solution": "a", "solution_type": "chosen"}
    three = {"prompt": "p", "chosen": ["a", "b"], "rejected": ["a", "b", "c"], "domain": "chat"}
    cases: list[tuple[str, Any, str]] = [
        ("reward_bench", [pair], "no benchmark 'reward_bench'; there are rewardbench, rewardbench2"),
        ("rewardbench", [{"prompt": "p", "chosen": "a", "rejected": "b"}], "no column subset"),
        ("rewardbench", [{**pair, "subset": None}], "row 0: `subset` is missing"),
        ("rewardbench", [{**pair, "subset": "poetry"}], "none of its subsets \\(poetry\\) is one of RewardBench's"),
        (
            "rewardbench2",
            [{**two, "subset": "poetry"}],
            "none of its subsets \\(poetry\\) is a domain of RewardBench 2",
        ),
        ("rewardbench2", [{**two, "chosen": None}], "row 0: `chosen` is missing or null"),
        ("rewardbench2", [{**two, "rejected": ["b", None]}], "row 0: the text of response 3 of 3 is missing or null"),
        ("rewardbench2", [pair], "row 0: `chosen` must be a list with an entry for each response, it is 'a'"),
        ("rm_bench", [three], "row 0: `chosen` has 2 responses where RM-Bench has 3 styles"),
        ("rm_bench", [{**three, "chosen": ["a", "b", "c"], "domain": "poetry"}], "none of its domains \\(poetry\\)"),
        ("reward_math", [{"problem": "p", "is_correct": [True, False]}], "no texts of responses .*--score-column"),
        ("reward_math", [{"prompt": "p", "chosen": "a", "rejected": []}], "row 0: `rejected` must be a list"),
        ("reward_math", [solution, {**solution, "solution_type": "chosen"}], "the problem of row 0 has 2 right"),
        (
            "reward_math",
            [{"problem": "p", "is_correct": [True, False], "solutions": "a"}],
            "`solutions` must be a list",
        ),
        ("best_of_n", [{"prompt": "p", "responses": ["a"]}], "no column gold;"),
        ("best_of_n", [{"prompt": "p"}], "no column gold, responses;"),
        ("best_of_n", [{"prompt": "p", "responses": "ab", "gold": [0, 1]}], "`responses` must be a list .* it is 'ab'"),
        ("subsets", [{"chosen": "a", "rejected": "b"}], "no column subset"),
        ("subsets", [], "no rows"),
    ]
    nowhere = tmp_path / "nowhere"
    for name, rows, message in cases:
        with pytest.raises(DataError, match=message):
            run_benchmark(nowhere, name, rows)
    with pytest.raises(DataError, match="no column 's' with scores"):
        run_benchmark(None, "rewardbench", [pair], score_column="s")
    with pytest.raises(DataError, match="`s` must be a list of 2 scores"):
        run_benchmark(None, "rewardbench", [{**pair, "s": [1.0]}], score_column="s")
    with pytest.raises(ValueError, match="not both"):
        run_benchmark(None, "rewardbench", [pair])
    assert set(BENCHMARKS) == {"rewardbench", "rewardbench2", "rm_bench", "reward_math", "best_of_n", "subsets"}


def test_a_result_survives_json(tmp_path: Path) -> None:
    rows = _rewardbench2_rows(8)
    found = run_benchmark(None, "rewardbench2", rows, tmp_path / "b.json", score_column="scores", **FEW)
    assert read_benchmark(tmp_path / "b.json") == found
    assert BenchmarkResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    run_benchmark(None, "rewardbench2", rows, tmp_path / "folder", score_column="scores", **FEW)
    assert read_benchmark(tmp_path / "folder") == found
    (tmp_path / "e.json").write_text('{"bounds": null}')
    with pytest.raises(DataError, match="wrote of preferences, not of a benchmark"):
        read_benchmark(tmp_path / "e.json")
    (tmp_path / "c.json").write_text("{}")
    for path in (tmp_path / "c.json", tmp_path / "none.json"):
        with pytest.raises(DataError, match="prudent evaluate --benchmark"):
            read_benchmark(path)


@pytest.fixture(scope="module")
def package() -> types.SimpleNamespace:
    """The functions of the `rewardbench` package that make its figures.

    Read from its files with the modules that they import replaced: the package itself imports much that is not needed
    for figures, and of its versions some do not import under the transformers that is installed.
    """
    spec = importlib.util.find_spec("rewardbench")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("rewardbench 0.1.4 is not installed")
    if (version := importlib.metadata.version("rewardbench")) != "0.1.4":
        pytest.skip(f"rewardbench {version} counts prompts of Ties without a spread otherwise than 0.1.4")
    folder = Path(spec.submodule_search_locations[0])
    stand_ins = {name: types.ModuleType(name) for name in ("rewardbench", "rewardbench.models", "fastchat")}
    stand_ins["rewardbench.models"].REWARD_MODEL_CONFIG = {}  # type: ignore[attr-defined]
    conversation = types.ModuleType("fastchat.conversation")
    conversation.Conversation = object  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in (stand_ins | {"fastchat.conversation": conversation}).items():
            patch.setitem(sys.modules, name, module)
        for name in ("constants", "utils"):
            of_file = importlib.util.spec_from_file_location(f"_rewardbench_{name}", folder / f"{name}.py")
            assert of_file is not None
            assert of_file.loader is not None
            module = importlib.util.module_from_spec(of_file)
            of_file.loader.exec_module(module)
            found |= vars(module)
    return types.SimpleNamespace(**found)


@pytest.mark.parametrize("seed", range(5))
def test_rewardbench_agrees_with_the_package(package: types.SimpleNamespace, seed: int) -> None:
    rows = _rewardbench_rows(seed)
    found = run_benchmark(None, "rewardbench", rows, score_column="scores", **FEW)
    sections = package.calculate_scores_per_section(
        package.EXAMPLE_COUNTS, package.SUBSET_MAPPING, _accuracy_by_subset(rows)
    )
    assert {one.label: one.score.value for one in found.figures if one.group == "section"} == pytest.approx(sections)
    assert {name for subsets in SECTIONS.values() for name in subsets} == set(package.EXAMPLE_COUNTS)


@pytest.mark.parametrize("seed", range(5))
def test_rewardbench2_agrees_with_the_package(package: types.SimpleNamespace, seed: int) -> None:
    from datasets import Dataset

    rows = _rewardbench2_rows(10 + seed)
    found = run_benchmark(None, "rewardbench2", rows, score_column="scores", **FEW)
    flat = [
        {"text": text, "scores": score, "subset": row["subset"], "id": row["id"]}
        for row in rows
        for text, score in zip([*row["chosen"], *row["rejected"]], row["scores"], strict=True)
    ]
    rolled = package.reroll_and_score_dataset(Dataset.from_list(flat), [row["total_completions"] for row in rows])
    rolled = rolled.add_column("num_correct", [row["num_correct"] for row in rows])
    for subset in ("Factuality", "Precise IF", "Math", "Safety", "Focus"):
        results = [row["results"] for row in rolled if row["subset"] == subset]
        assert found.figure("domain", subset).score.value == pytest.approx(statistics.fmean(results))
    credits = [_first_credit(torch.tensor(row["scores"], dtype=torch.float64)) for row in rows]
    assert credits == pytest.approx(rolled["results"])
    _, ties = package.process_single_model(rolled.filter(lambda row: row["subset"] == "Ties"))
    assert found.figure("domain", "Ties").score.value == pytest.approx(ties)
