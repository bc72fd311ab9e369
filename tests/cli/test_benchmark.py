"""`prudent evaluate --benchmark`: what it prints, what it writes, and what it refuses before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prudent.cli import app
from prudent.evaluation import BENCHMARKS, BenchmarkResult, read_benchmark
from prudent.posteriors import fit

ROWS = [
    {"prompt": f"name a fruit {n}", "chosen": "apple " * (n % 3 + 2), "rejected": "bird", "subset": subset, "id": n}
    for n, subset in enumerate(["donotanswer", "alpacaeval-easy", "math-prm"] * 4)
]


def _write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--num-bootstrap", "20"])


@pytest.fixture(scope="module")
def model(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("benchmark") / "rm"
    fit(tiny_models("llama"), ROWS, place, progress=False)
    return place


def test_prints_a_table_and_json_and_keeps_what_it_scored(model: Path, tmp_path: Path) -> None:
    data, output = _write(tmp_path / "rows.jsonl", ROWS), tmp_path / "rb"
    found = _run("--benchmark", "rewardbench", "--model", model, "--data", data, "--output", output)
    assert found.exit_code == 0, found.stderr
    assert "Scoring" in found.stderr
    lines = found.stdout.splitlines()
    assert lines[0] == "rewardbench: 12 rows, 12 prompts, 24 responses"
    assert [word in lines[1] for word in ("chance", "score", "surest 80%", "surest 50%", "by mean")] == [True] * 5
    assert any(line.startswith("overall: mean of sections") for line in lines)
    assert any(line.startswith("section: Reasoning") for line in lines)
    assert lines[-1].startswith("note: 20 of 23 subsets are not there")
    kept = read_benchmark(output)
    again = _run(
        "--benchmark", "rewardbench", "--model", model, "--data", data, "--output", output, "--json", "--quiet"
    )
    assert again.stderr == ""
    assert BenchmarkResult.from_dict(json.loads(again.stdout)) == kept
    assert {path.name for path in output.iterdir()} == {
        "benchmark.json",
        "scored.parquet",
        "rm.json",
        "rm_outputs.jsonl",
    }


def test_scores_of_a_column_need_no_model(tmp_path: Path) -> None:
    rows = [{"problem": "1 + 1", "is_correct": [False, True], "mine": [0.0, 1.0]}]
    data = _write(tmp_path / "rows.jsonl", rows)
    found = _run("--benchmark", "reward_math", "--data", data, "--score-column", "mine")
    assert found.exit_code == 0, found.stderr
    assert "surest 80%" not in found.stdout
    assert "abstaining is by the mean difference alone" in found.stdout


def test_help_names_every_benchmark() -> None:
    text = " ".join(CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "300"}).stdout.split())
    assert all(name in text for name in BENCHMARKS)


def test_refuses_in_one_line_before_a_model_is_loaded(tmp_path: Path) -> None:
    data = _write(tmp_path / "rows.jsonl", ROWS)
    empty = _write(tmp_path / "empty.jsonl", [])
    nothing = tmp_path / "nothing"
    cases: list[tuple[list[object], str]] = [
        (["--benchmark", "rewardbench3", "--model", nothing, "--data", data], "there are rewardbench, rewardbench2"),
        (["--benchmark", "rewardbench2", "--model", nothing, "--data", data], "a list with an entry for each"),
        (["--benchmark", "rm_bench", "--model", nothing, "--data", data], "no column domain"),
        (["--benchmark", "rewardbench", "--model", nothing, "--data", empty], "empty"),
        (["--benchmark", "rewardbench", "--model", nothing], "--benchmark needs --data"),
        (["--benchmark", "rewardbench", "--data", data], "either --model or --score-column"),
        (
            ["--benchmark", "rewardbench", "--data", data, "--score-column", "x", "--max-length", "64"],
            "--max-length does not go with --score-column",
        ),
        (["--benchmark", "rewardbench", "--model", nothing, "--data", data, "--scored", data], "--scored does not go"),
        (["--model", nothing, "--data", data, "--score-column", "x"], "--score-column goes with --benchmark alone"),
    ]
    for arguments, message in cases:
        found = _run(*arguments, "--quiet")
        assert found.exit_code == 2, arguments
        assert found.stderr.count("\n") == 1, found.stderr
        assert message in found.stderr, (arguments, found.stderr)
