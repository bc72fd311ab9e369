"""`--split`, `--eval-split` and `--streaming` on the command line."""

import json

import pytest
from typer.testing import CliRunner

from prudent.cli import app


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "sets"
    place.mkdir()
    for name, count in (("train", 12), ("test", 5)):
        rows = [
            {"prompt": f"{name} {'apple ' * n}", "chosen": "yes " * (n + 1), "rejected": "no"} for n in range(count)
        ]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def run_json(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_verbs_read_the_split_they_are_told(folder, tiny_models, tmp_path):
    base, data = tiny_models("llama", head=False), ("--data", folder)
    trained = run_json(
        "train", "--model", base, *data, "--eval-split", "test", "--max-steps", 1, "--streaming",
        "--output", tmp_path / "rm",
    )  # fmt: skip
    assert trained["num_eval_pairs"] == 5
    model = ("--model", tmp_path / "rm")
    assert run_json("fit", *model, *data, "--split", "test", "--output", tmp_path / "rmp")["num_pairs"] == 5
    found = run_json("evaluate", *model, *data, "--num-bootstrap", 2)
    assert (found["split"], found["num_pairs"]) == ("test", 5)
    assert run_json("evaluate", *model, *data, "--split", "train", "--num-bootstrap", 2)["num_pairs"] == 12


def test_score_asks_for_a_split(folder, tiny_models, tmp_path):
    result = CliRunner().invoke(
        app, ["score", "--model", str(tiny_models("llama")), "--data", str(folder), "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert "there are the splits test, train; choose one by split (--split)" in result.stderr


def test_streaming_needs_a_number_of_steps(folder, tiny_models, tmp_path):
    arguments = ["train", "--model", tiny_models("llama"), "--data", folder, "--output", tmp_path / "rm", "--streaming"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2
    assert "max_steps" in result.stderr
