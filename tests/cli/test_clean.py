"""`prudent clean` from the command line: a set with planted flips, and what goes wrong."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prudent.cli import app
from prudent.data import load_preferences

WORDS = ["apple", "pear", "plum", "river", "stone", "bird", "house", "door", "window"]


def make_pairs(count: int, flip: float = 0.2) -> list[dict[str, Any]]:
    """Sunny is better than cold, whatever else is said; some labels are turned round."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        better, worse = (" ".join([*draw.choices(WORDS, k=draw.randint(2, 6)), end]) for end in ("sunny", "cold"))
        flipped = draw.random() < flip
        rows.append(
            {
                "prompt": f"name {' '.join(draw.choices(WORDS, k=3))}",
                "chosen": worse if flipped else better,
                "rejected": better if flipped else worse,
                "score_chosen": 0 if flipped else 1,
                "score_rejected": 1 if flipped else 0,
                "source": "ab"[number % 2],
                "rater": number,
            }
        )
    return rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_pairs(120)), encoding="utf-8")
    return path


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["clean", "--quiet", *map(str, arguments)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_planted_flips_are_turned_back_and_the_file_trains(
    pairs: Path, tiny_models: Callable[..., Path], tmp_path: Path, suffix: str
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / f"cleaned{suffix}"
    result = invoke("--model", base, "--data", pairs, "--output", output, "--treatment", "flip", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    rows, original = load_preferences(output).rows, load_preferences(pairs).rows
    flipped = [place for place, row in enumerate(original) if row["chosen"][0]["content"].endswith("cold")]
    wrong = [place for place, row in enumerate(rows) if row["chosen"][0]["content"].endswith("cold")]
    assert len(wrong) < len(flipped) / 2
    assert found["flip_rate"] == pytest.approx(len(flipped) / len(original), abs=0.1)
    assert found["num_suspect"] == found["changes"]["flipped"]
    assert found["cross_fitted"]
    assert sum(group["num_suspect"] for group in found["groups"]["source"].values()) == found["num_suspect"]
    if suffix == ".jsonl":
        written, before = read(output), read(pairs)
        for row, old in zip(written, before, strict=True):
            sides = ("rejected", "chosen") if row["changed"] == "flipped" else ("chosen", "rejected")
            assert [row["chosen"], row["rejected"]] == [old[side] for side in sides]
            assert [row["score_chosen"], row["score_rejected"]] == [old[f"score_{side}"] for side in sides]
            assert row["rater"] == old["rater"]
            assert (row["changed"] == "flipped") == (row["prob_flipped"] > 0.5)
        trained = CliRunner().invoke(
            app,
            ["train", "--model", str(base), "--data", str(output), "--output", str(tmp_path / "rm"), "--max-steps", "1",
             "--lora-r", "2", "--max-length", "64", "--quiet"],
        )  # fmt: skip
        assert trained.exit_code == 0, trained.stderr


def test_the_report_is_lines_on_stdout_alone(pairs: Path, tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    result = invoke(
        "--model", tiny_models("llama", head=False), "--data", pairs, "--output", tmp_path / "a.jsonl", "--treatment",
        "mark",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"120 pairs in {tmp_path / 'a.jsonl'}: 120 kept"
    assert any(line.startswith("source a: ") for line in lines)
    assert result.stderr == ""
    assert all(row["changed"] == "kept" for row in read(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "cleaned.csv"], ".jsonl or .parquet"),
        (["--output", "a.jsonl", "--num-folds", "200"], "fewer than the 200 folds"),
        (["--output", "a.jsonl", "--no-cross-fit"], "never trained"),
        (["--output", "a.jsonl", "--bottom-share", "0.6", "--treatment", "flip"], "more than half"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_a_remedy(
    pairs: Path,
    tiny_models: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("--model", tiny_models("llama", head=False), "--data", pairs, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())
