"""`prudent reweight`."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prudent.cli import app


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    table = pa.table(
        {
            "prompt_id": [0, 0, 0, 4, 4, 4],
            "response_id": [0, 1, 2, 0, 1, 2],
            "prompt": ["Say A."] * 3 + ["Say B."] * 3,
            "response": list("abcdef"),
            "reward_mean": [0.0, 1.0, 5.0, 2.0, 2.0, 2.0],
            "reward_variance": [1.0, 2.0, 3.0] * 2,
            "gold": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0],
        }
    )
    pq.write_table(table, tmp_path / "scored.parquet")
    return tmp_path / "scored.parquet"


def run(scored: Path, *arguments: str, code: int = 0) -> str:
    output = scored.with_name("weighted.parquet")
    result = CliRunner().invoke(
        app, ["reweight", "--data", str(scored), "--utility", "mean", "--output", str(output), *arguments]
    )
    assert result.exit_code == code, result.output
    return " ".join(result.stderr.split()) if code else result.stdout


def test_weights_and_samples_are_written_and_told(scored: Path) -> None:
    samples = scored.with_name("sft.jsonl")
    found = json.loads(run(scored, "--target-kl", "0.3", "--samples", str(samples), "--num-samples", "2", "--json"))
    assert found["mean_kl"] == pytest.approx(0.3, rel=1e-5)
    assert found["num_samples"] == 4
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in rows] == ["Say A.", "Say A.", "Say B.", "Say B."]
    weight = pq.read_table(scored.with_name("weighted.parquet"))["weight"].to_pylist()
    assert sum(weight[:3]) == pytest.approx(1)
    assert weight[3:] == pytest.approx([1 / 3] * 3)
    assert "weighted.parquet is there already" in run(scored, "--target-kl", "0.3", code=2)
    again = run(scored, "--target-kl", "0.3", "--samples", str(samples), "--overwrite")
    assert "2 samples, " in again
    text = run(scored, "--target-kl", "0.3", "--overwrite")
    assert text.startswith("weights of 6 responses to 2 prompts in ")
    assert "by mean: mean KL 0.3, KL coefficient " in text
    assert "mean gold 1 before, " in text
    assert re.search(r"after, a gain of [\d.]+ \[[\d.]+, [\d.]+\] \(95 % interval over 2 prompts\)", text)
    assert "of 2 prompts fewer than ten responses are effective, a thin base" in text


def test_each_prompt_has_its_own_coefficient_and_those_that_fall_short_are_counted(scored: Path) -> None:
    text = run(scored, "--target-kl", "0.5", "--per-prompt")
    assert "1 prompts cannot have the KL asked for" in text
    assert "KL coefficient" in text


def test_the_weighted_penalty_is_named(scored: Path) -> None:
    text = run(scored, "--kl-coef", "2", "--kl-form", "in_reward")
    assert "KL coefficient 2, weighted by the variance (in_reward)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --target-kl, how far to move, or --kl-coef"),
        (["--target-kl", "1", "--kl-coef", "1"], "give either --target-kl"),
        (["--target-kl", "inf"], "not a finite number"),
        (["--target-kl", "-1"], "--target-kl"),
        (["--kl-coef", "1", "--per-prompt"], "--per-prompt is for --target-kl"),
        (["--kl-coef", "1", "--num-samples", "3"], "--num-samples is for --samples"),
        (["--kl-coef", "1", "--plain-text"], "--plain-text is for --samples"),
        (["--target-kl", "5"], "no KL coefficient gives a KL of 5 nats: the mean KL is at most 0.5493"),
        (["--kl-coef", "1", "--kl-form", "other"], "'constant', 'exact', 'in_reward'"),
        (["--kl-coef", "1", "--samples", "x.txt"], "x.txt: samples are written as .jsonl or .parquet"),
    ],
)
def test_bad_requests_are_told_in_one_line(scored: Path, arguments: list[str], message: str) -> None:
    error = run(scored, *arguments, code=2)
    assert message in error
    assert error.startswith("error: ")
    assert not scored.with_name("weighted.parquet").exists()
