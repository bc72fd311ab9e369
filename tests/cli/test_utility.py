"""`prudent utility` and what others do with the folder it writes."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prudent.cli import app

FRUITS = ["apple", "pear", "plum", "river", "stone", "bird", "house"]


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(*arguments: str, code: int = 0) -> str:
    """What a verb prints; of an error its line."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--quiet"])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def made(tiny_models, tmp_path_factory) -> Path:
    """A model with a posterior, and two pools of the same prompts that it scored."""
    root, draw = tmp_path_factory.mktemp("made"), random.Random(0)

    def sentence() -> str:
        return " ".join(draw.choices(FRUITS, k=draw.randint(2, 9))) + " ."

    pairs = [
        {"prompt": f"name {word} {n}", "chosen": sentence(), "rejected": sentence()}
        for n in range(3)
        for word in FRUITS
    ]
    run(
        "fit",
        "--model",
        tiny_models("llama"),
        "--data",
        write_rows(root / "pairs.jsonl", pairs),
        "--output",
        root / "rm",
    )
    for name in ("pool", "other"):
        rows = [{"prompt": f"tell me about {word}", "responses": [sentence() for _ in range(5)]} for word in FRUITS]
        rows = rows if name == "pool" else rows[::-1]
        data = write_rows(root / f"{name}.jsonl", rows)
        run("score", "--model", root / "rm", "--data", data, "--num-references", "3", "--output", root / name)
    return root


def test_fit_save_and_use(made, tmp_path):
    text = run(
        "utility", "--data", made / "pool", "--utility", "center(q=0.5) | lcb_std(1.0)", "--output", tmp_path / "u"
    )
    lines = text.splitlines()
    assert lines[0] == f"center(q=0.5) | lcb_std in {tmp_path / 'u'}"
    assert lines[1].split() == ["reference", "prompts", "responses", "each", "mean", "std", "over", "prompts"]
    assert lines[2].split()[:3] == ["center(q=0.5)", "7", "3"]
    for data in ("pool", "other"):
        run("select", "--data", made / data, "--utility", tmp_path / "u", "--output", tmp_path / f"{data}.jsonl")
    run("select", "--data", made / "pool", "--utility", "center(q=0.5) | lcb_std", "--output", tmp_path / "spec.jsonl")
    assert (tmp_path / "spec.jsonl").read_text() == (tmp_path / "pool.jsonl").read_text()
    assert "wins with" in run("explain", "--data", made / "other", "--utility", tmp_path / "u", "--prompt", "2")


def test_beside_the_model_and_as_json(made):
    found = json.loads(
        run(
            "utility",
            "--data",
            made / "pool",
            "--utility",
            "standardize",
            "--all-rows",
            "--output",
            made / "rm",
            "--json",
        )
    )
    (learned,) = found["learned"]
    assert (learned["num_prompts"], learned["num_references"]) == (7, {"reward": 35})
    assert (made / "rm" / "utility.yaml").is_file()
    assert (made / "rm" / "posterior_config.json").is_file()


def test_a_learned_reference(made, tmp_path):
    how = ["utility", "--data", made / "pool", "--utility", "center(of=learned)", "--output", tmp_path, "--overwrite"]
    text = run(*how, "--model", made / "rm")
    assert "error held out  of a constant" in text
    assert "wins with" in run("explain", "--data", made / "pool", "--utility", tmp_path, "--prompt", "0")
    assert "needs features of the prompts" in run(*how, code=2)
    assert "there is no reward 'helpful'" in run(*how, "--model", f"helpful={made / 'rm'}", code=2)


def test_nothing_to_learn(made, tmp_path):
    text = run("utility", "--data", made / "pool", "--utility", "lcb_std(2)", "--output", tmp_path)
    assert text == f"lcb_std(2) in {tmp_path}\nit needs no reference responses\n"


@pytest.mark.parametrize(
    "option",
    [
        ["--model", "rm"],
        ["--split", "test"],
        ["--shift-data", "other.jsonl"],
        ["--logit-temperature", "2"],
        ["--max-length", "8"],
        ["--dtype", "bfloat16"],
        ["--tokens-per-batch", "8"],
        ["--strict"],
        ["--skip-bad"],
    ],
)
def test_what_says_nothing_of_picks_is_refused_beside_utilities(option):
    error = run("evaluate", "--scored", "none.parquet", "--utility", "mean", *option, code=2)
    assert f"{option[0]} does not go with --utility" in error


def test_errors_are_one_line(made, tmp_path):
    error = run("utility", "--data", made / "pool", "--utility", "lcb_sdt", "--output", tmp_path, code=2)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    empty = run("explain", "--data", made / "pool", "--utility", tmp_path, "--prompt", "0", code=2)
    assert "holds no utility" in empty


def test_strengths_are_checked_before_anything_is_read(made, tmp_path):
    how = ["utility", "--data", tmp_path / "none", "--utility", "lcb_std(strength)", "--output", tmp_path]
    assert "numbers with commas between" in run(*how, "--strengths", "", code=2)
    assert "given twice" in run(*how, "--strengths", "1,2,1.0", code=2)
    assert "--n" in run(*how, "--strengths", "1", "--n", "1", code=2)
    (tmp_path / "utility.yaml").write_text("")
    assert "already holds a utility" in run(*how, "--strengths", "1", code=2)


def test_a_strength_is_chosen_with_the_references_that_are_saved(made, tmp_path):
    table = pq.read_table(made / "pool")
    pq.write_table(table.append_column("gold", table["length"].cast("float32")), tmp_path / "gold.parquet")
    how = ["utility", "--data", tmp_path / "gold.parquet", "--output", tmp_path / "u", "--strengths", "0,1", "--json"]
    found = json.loads(
        run(*how, "--utility", "center(of=learned) | lcb_std(strength)", "--model", made / "rm", "--all-rows")
    )
    assert found["utility"] == found["tuned"]["utility"]
    assert found["tuned"]["n"] == 5
    assert found["fitted_on"]["num_references"] == {"reward": 35}
