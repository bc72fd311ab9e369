"""`prudent sample`: what it writes and says, and errors in one line."""

import json

import pytest
from typer.testing import CliRunner

from prudent.cli import app


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("name a fruit", "the bird", "the bird")))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["sample", *map(str, arguments)])


def test_a_pool_from_a_policy(tiny_models, prompts, tmp_path):
    arguments = [
        "--policy", tiny_models("llama", head=False), "--data", prompts, "--output", tmp_path / "pool.jsonl",
        "--num-candidates", 3, "--max-new-tokens", 6, "--top-k", 20,
    ]  # fmt: skip
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["num_prompts"], found["num_responses"], found["mean_gold"]) == (2, 6, None)
    assert "Sampling" in result.stderr
    again = run(*arguments, "--quiet")
    assert again.stdout.startswith(f"6 responses to 2 prompts in {tmp_path / 'pool.jsonl'}, ")
    assert "prompts read as plain text" in again.stdout
    assert again.stderr == ""
    other = run(*arguments, "--seed", 1)
    assert other.exit_code == 2
    assert "made with another seed; give another output, or say overwrite" in other.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "0"], "--temperature"),
        (["--num-candidates", "0"], "--num-candidates"),
        (["--top-p", "1.5"], "--top-p"),
        (
            ["--max-new-tokens", "500"],
            "2 of 2 prompts and 500 new tokens do not fit into the 128 tokens that the policy reads: the shortest, ",
        ),
        (["--gold-model", "./nowhere"], "gold model ./nowhere: there is no folder ./nowhere"),
        (["--output", "pool.csv"], "written as .parquet or .jsonl"),
    ],
)
def test_errors_take_one_line(tiny_models, prompts, tmp_path, options, message):
    policy = tiny_models("llama", head=False)
    output = [] if "--output" in options else ["--output", tmp_path / "pool.jsonl"]
    result = run("--policy", policy, "--data", prompts, *output, "--quiet", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
