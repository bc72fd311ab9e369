"""The verbs one after the other on a tiny model, and what each does with damaged input or a full disk."""

import json
import random
import resource
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prudent.cli import app

FRUITS = ["apple", "pear", "plum", "river", "stone", "bird", "house", "door", "window"]


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(FRUITS, k=draw.randint(2, 9))) + " ."


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder, draw = tmp_path_factory.mktemp("files"), random.Random(0)
    pairs = [
        {"prompt": f"name {word} {n}", "chosen": sentence(draw), "rejected": sentence(draw)}
        for n in range(4)
        for word in FRUITS
    ]
    pool = [
        {
            "prompt": f"tell me about {word}",
            "responses": [sentence(draw) for _ in range(6)],
            "gold": [draw.gauss(0, 1) for _ in range(6)],
        }
        for word in FRUITS
    ]
    return {
        "pairs": write_rows(folder / "pairs.jsonl", pairs[:27]),
        "heldout": write_rows(folder / "heldout.jsonl", pairs[27:]),
        "pool": write_rows(folder / "pool.jsonl", pool),
        "empty": write_rows(folder / "empty.jsonl", []),
        "columns": write_rows(folder / "columns.jsonl", [{"text": "a"}]),
    }


def run_json(*arguments: str) -> dict:
    """Run a verb with `--json`; its stdout is one JSON object and nothing else."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture(scope="module")
def made(files, tiny_models, tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """Everything that the verbs make of each other, and what each printed."""
    root = tmp_path_factory.mktemp("made")
    printed = {
        "train": run_json(
            "train", "--model", tiny_models("llama"), "--data", files["pairs"], "--eval-data", files["heldout"],
            "--output", root / "rm", "--max-steps", "2",
        ),
        "fit": run_json("fit", "--model", root / "rm", "--data", files["pairs"], "--output", root / "rmp"),
        "score": run_json(
            "score", "--model", root / "rmp", "--data", files["pool"], "--factor", "--output", root / "scored.parquet"
        ),
        "select": run_json(
            "select", "--data", root / "scored.parquet", "--utility", "lcb_std(1)",
            "--output", root / "picks.jsonl",
        ),
        "evaluate": run_json(
            "evaluate", "--model", root / "rmp", "--data", files["heldout"], "--num-bootstrap", "20",
            "--output", root / "evaluation.json",
        ),
        "report": run_json(
            "report", "--data", root / "scored.parquet", "--num-bootstrap", "20", "--output", root / "report.html"
        ),
    }  # fmt: skip
    return root, printed


def test_every_verb_prints_what_it_did(made):
    _, printed = made
    assert printed["train"]["num_steps"] == 2
    assert printed["fit"]["num_pairs"] == 27
    assert (printed["score"]["num_responses"], printed["score"]["posterior"]) == (54, "last_layer")
    assert (printed["select"]["num_prompts"], printed["select"]["utility"]) == (9, "lcb_std")
    assert printed["evaluate"]["num_pairs"] == 9
    assert {"mean", "lcb_std", "lcb_var", "entropic", "random", "oracle"} <= set(printed["report"]["utilities"])


def test_every_verb_writes_what_others_rely_on(made):
    root, printed = made
    assert (root / "rm" / "adapter_model.safetensors").exists()
    assert (root / "rmp" / "posterior.safetensors").exists()
    columns = set(pq.read_table(root / "scored.parquet").column_names)
    assert {"reward_mean", "reward_variance", "reward_factor", "reward_noise"} <= columns
    picks = [json.loads(line) for line in (root / "picks.jsonl").read_text().splitlines()]
    assert [pick["prompt_id"] for pick in picks] == list(range(9))
    assert json.loads((root / "evaluation.json").read_text())["accuracy"] == printed["evaluate"]["accuracy"]
    assert (root / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_evaluate_says_all_that_it_measures(made, files):
    root, _ = made
    arguments = [
        "evaluate", "--model", root / "rmp", "--data", files["heldout"], "--shift-data", files["pairs"],
        "--scored", root / "scored.parquet", "--logit-temperature", "2", "--num-bootstrap", "10",
    ]  # fmt: skip
    printed = run_json(*arguments)
    assert (printed["shift"]["num_pairs"], printed["gold"]["num_responses"]) == (27, 54)
    assert printed["scaled"]["nll"]["value"] != printed["map"]["nll"]["value"]
    assert len(printed["selective_moderated"]["risk"]) == 20
    text = CliRunner().invoke(app, [*map(str, arguments), "--quiet"]).stdout
    shown = {line.split("  ")[0] for line in text.splitlines()}
    assert {
        "accuracy", "calibration error", "the same of calibrated ones", "accuracy of the surest 80%", "elsewhere",
        "area under risk-coverage", "coverage of 90% intervals", "coverage of 90% intervals, within prompts",
    } <= shown  # fmt: skip
    assert "mean over 2" in text.splitlines()[0]
    assert f"AUROC of the contrast std, elsewhere above evaluated: {printed['shift']['auroc']['value']:.3f} [" in text
    line = refused("evaluate", "--model", root / "rmp", "--data", files["heldout"], "--scored", files["pool"])
    assert files["pool"] in line


def test_report_shows_an_evaluation(made, tmp_path):
    root, _ = made
    arguments = ["--data", root / "scored.parquet", "--num-bootstrap", "10", "--output", tmp_path / "page.html"]
    printed = run_json("report", *arguments, "--evaluation", root / "evaluation.json")
    assert {"heldout_reliability", "heldout_risk_coverage"} <= set(printed["figures"])
    page = (tmp_path / "page.html").read_text()
    assert "Held-out pairs" in page
    assert " if calibrated</span>" in page
    line = refused("report", *arguments, "--evaluation", root / "rmp" / "posterior_config.json")
    assert "posterior_config.json is not what" in line


def test_report_shows_the_utilities_asked_for(made, tmp_path):
    root, _ = made
    asked = ["--utility", "mean", "--utility", "careful=center(mean) | lcb_std(num_std=2)"]
    arguments = ["--data", root / "scored.parquet", "--num-bootstrap", "10", "--output", tmp_path / "page.html"]
    printed = run_json("report", *arguments, *asked)
    assert list(printed["utilities"])[:2] == ["mean", "careful"]
    assert {"random", "shuffled: careful", "oracle"} <= set(printed["utilities"])
    assert "center(mean) | lcb_std(2)" in (tmp_path / "page.html").read_text()
    wrong = CliRunner().invoke(app, ["report", *map(str, arguments), "--utility", "lcb_std | mean"])
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines()[1:] == ["  lcb_std | mean", "            ^"]


def test_select_writes_the_curve_of_what_picks(made, tmp_path):
    root, _ = made
    arguments = ["--data", root / "scored.parquet", "--output", tmp_path / "picks.jsonl", "--utility", "prob_best"]
    printed = run_json("select", *arguments, "--curve", tmp_path / "curve.json")
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert curve == printed["curve"]
    assert (curve["utility"], curve["exact"], [point["n"] for point in curve["points"]]) == (
        "prob_best",
        False,
        [1, 4, 6],
    )


def test_without_json_a_sentence_is_printed(made):
    root, _ = made
    result = CliRunner().invoke(
        app,
        ["select", "--data", str(root / "scored.parquet"), "--output", str(root / "other.csv"), "--utility", "mean"],
    )
    assert result.stdout.startswith("9 picks out of 54 responses in ")
    assert result.stdout.count("\n") == 1


def test_progress_goes_to_stderr(made, files, tmp_path):
    root, _ = made
    result = CliRunner().invoke(
        app,
        ["score", "--model", str(root / "rmp"), "--data", files["pool"], "--output", str(tmp_path / "s"), "--json"],
    )
    assert "Scoring" in result.stderr
    assert json.loads(result.stdout)["num_responses"] == 54


def refused(*arguments: object) -> str:
    """Run a verb that must end with one line and exit code 2; the line."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--quiet"])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    return result.stderr


def arguments_of(verb: str, model: Path, data: str, output: Path) -> list[object]:
    return [verb, "--model", model, "--data", data, "--output", output]


@pytest.mark.parametrize("verb", ["train", "fit", "score", "evaluate"])
@pytest.mark.parametrize("data", ["empty", "columns"])
def test_empty_files_and_wrong_columns_are_refused(verb, data, made, files, tmp_path):
    line = refused(*arguments_of(verb, made[0] / "rmp", files[data], tmp_path / "out"))
    assert files[data] in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["train", "fit", "score", "evaluate"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "config"])
def test_damaged_models_are_refused(verb, name, made, files, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(made[0] / "rmp", model)
    if name == "config":
        (model / "adapter_config.json").write_text("{")
    else:
        (model / name).write_bytes((model / name).read_bytes()[:100])
    line = refused(*arguments_of(verb, model, files["pool" if verb == "score" else "heldout"], tmp_path / "out"))
    assert str(model) in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["score", "evaluate"])
def test_damaged_and_foreign_posteriors_are_refused(verb, made, files, tiny_models, tmp_path):
    root = made[0]
    data = files["pool" if verb == "score" else "heldout"]
    damaged, foreign = tmp_path / "damaged", tmp_path / "foreign"
    shutil.copytree(root / "rmp", damaged)
    (damaged / "posterior.safetensors").write_bytes(b"not a tensor")
    assert "fit" in refused(*arguments_of(verb, damaged, data, tmp_path / "out"))
    shutil.copytree(tiny_models("qwen2"), foreign)
    for name in ("posterior.safetensors", "posterior_config.json"):
        shutil.copy(root / "rmp" / name, foreign)
    assert "fit" in refused(*arguments_of(verb, foreign, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["train", "fit", "score", "evaluate"])
def test_weights_that_are_not_finite_are_refused(verb, files, tiny_models, tmp_path):
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_models("llama"), model)
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    line = refused(*arguments_of(verb, model, files["pool" if verb == "score" else "heldout"], tmp_path / "out"))
    assert "not finite" in line


@pytest.mark.parametrize("verb", ["select", "report"])
@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing of use"])
def test_scored_files_that_are_none_are_refused(verb, content, tmp_path):
    data = tmp_path / "scored.parquet"
    data.write_bytes(content)
    refused(verb, "--data", data, "--output", tmp_path / ("picks.jsonl" if verb == "select" else "report.html"))
    assert list(tmp_path.iterdir()) == [data]


@pytest.fixture
def full_disk():
    """A limit on the size of files stands for a full disk: writing fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("verb", ["train", "fit", "score", "select", "report"])
def test_a_full_disk_is_one_line_and_leaves_no_whole_output(verb, made, files, tmp_path, full_disk):
    root = made[0]
    output = tmp_path / {"select": "picks.jsonl", "report": "report.html"}.get(verb, "out")
    if verb in ("select", "report"):
        line = refused(verb, "--data", root / "scored.parquet", "--output", output)
    else:
        model, data = (root / "rmp", files["pool"]) if verb == "score" else (root / "rm", files["pairs"])
        line = refused(*arguments_of(verb, model, data, output))
    assert "File too large" in line
    if verb == "train":  # keeps what it needs to resume, which is no model
        assert {path.name for path in output.iterdir()} & {"adapter_config.json", "adapter_model.safetensors"} == set()
    else:
        assert not output.exists()
