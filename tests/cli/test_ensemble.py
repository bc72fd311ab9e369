"""Ensembles on the command line: trained, joined, fitted, scored and evaluated like one model."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prudent.cli import app
from prudent.posteriors import load_scorer
from prudent.scoring import read_scored

WORDS = ["apple", "pear", "plum", "river", "stone", "bird", "house", "door", "window"]


def write_pairs(path: Path, prefix: str, count: int, wrong: int = 0) -> str:
    """Pairs won by the sunny response, but for some."""
    draw = random.Random(prefix)
    rows = []
    for place in range(count):
        replies = [" ".join([*draw.choices(WORDS, k=draw.randint(2, 8)), end]) for end in ("sunny", "cold")]
        chosen, rejected = replies if place >= wrong else replies[::-1]
        rows.append(
            {"prompt": f"{prefix} {' '.join(draw.choices(WORDS, k=3))}", "chosen": chosen, "rejected": rejected}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    pool = [
        {"prompt": f"please name {word}", "responses": [f"{other} sunny" for other in WORDS[:4]]} for word in WORDS[:3]
    ]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    return {
        "pairs": write_pairs(folder / "pairs.jsonl", "name", 24),
        "held_out": write_pairs(folder / "held.jsonl", "please name", 30, wrong=4),
        "pool": str(folder / "pool.jsonl"),
    }


def run(*command: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*command, "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(*command: str) -> str:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr


def options(base: Path, files: dict[str, str], output: Path, steps: int = 6) -> list[str]:
    return [
        "train", "--model", str(base), "--data", files["pairs"], "--max-steps", str(steps), "--learning-rate", "0.01",
        "--lora-r", "2", "--max-length", "64", "--output", str(output),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(
    tiny_models: Callable[..., Path], files: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("trained") / "ensemble"
    command = options(tiny_models("llama", head=False), files, output)
    return output, run(*command, "--eval-data", files["held_out"], "--num-members", "2", "--bootstrap")


def test_a_trained_ensemble_is_scored_selected_from_and_evaluated_like_one_model(
    trained: tuple[Path, dict[str, Any]], files: dict[str, str], tmp_path: Path
) -> None:
    output, printed = trained
    assert [member["settings"]["seed"] for member in printed["members"]] == [0, 1]
    assert printed["bootstrap"] is True
    run("score", "--model", str(output), "--data", files["pool"], "--output", str(tmp_path / "scored"))
    pool = read_scored(tmp_path / "scored")
    alone = [load_scorer(output / member) for member in ("member_0", "member_1")]
    assert [scorer.kind for scorer in alone] == ["none", "none"]
    table = pq.read_table(tmp_path / "scored")
    assert table.num_rows == 12
    assert table.schema.field("reward_members").type.list_size == 2
    assert pool.basis_id == load_scorer(output).basis_id
    picks = tmp_path / "picks.jsonl"
    run("select", "--data", str(tmp_path / "scored"), "--output", str(picks), "--utility", "lcb_std")
    assert len(picks.read_text().splitlines()) == 3
    figures = run("evaluate", "--model", str(output), "--data", files["held_out"], "--num-bootstrap", "20")
    assert figures["posterior"] == "ensemble"
    assert figures["accuracy"]["value"] == pytest.approx(printed["figures"]["accuracy"])


def test_a_table_tells_of_each_member_and_of_all_together(
    trained: tuple[Path, dict[str, Any]], tiny_models: Callable[..., Path], files: dict[str, str]
) -> None:
    command = options(tiny_models("llama", head=False), files, trained[0])
    again = CliRunner().invoke(app, [*command, "--eval-data", files["held_out"], "--num-members", "2", "--bootstrap"])
    assert again.exit_code == 0, again.stderr
    lines = again.stdout.splitlines()
    assert lines[0].startswith("had trained 2 members of 6 steps")
    assert lines[1].split() == ["member", "seed", "pairs", "mean", "loss", "accuracy", "NLL"]
    assert [line.split()[0] for line in lines[2:5]] == ["member_0", "member_1", "together"]


def test_models_of_two_families_are_joined(
    trained: tuple[Path, dict[str, Any]], tiny_models: Callable[..., Path], files: dict[str, str], tmp_path: Path
) -> None:
    run(*options(tiny_models("bert", head=False), files, tmp_path / "bert", steps=12))
    members = ["--member", str(trained[0] / "member_0"), "--member", str(tmp_path / "bert")]
    joined = run("ensemble", *members, "--data", files["held_out"], "--output", str(tmp_path / "both"))
    assert [member["name"] for member in joined["members"]] == ["member_0", "bert"]
    assert all(member["nll_after"] <= member["nll_before"] + 1e-6 for member in joined["members"])
    figures = run("evaluate", "--model", str(tmp_path / "both"), "--data", files["held_out"], "--num-bootstrap", "20")
    assert figures["moderated"]["nll"]["value"] == pytest.approx(joined["figures"]["nll"], rel=1e-4)
    shown = CliRunner().invoke(
        app, ["ensemble", *members, "--data", files["held_out"], "--output", str(tmp_path / "both"), "--overwrite"]
    )
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:5]] == ["member", "member_0", "bert", "together"]


def test_a_posterior_is_fitted_to_each_member(
    trained: tuple[Path, dict[str, Any]], files: dict[str, str], tmp_path: Path
) -> None:
    command = ["fit", "--model", str(trained[0]), "--data", files["pairs"], "--eval-data", files["held_out"]]
    shown = CliRunner().invoke(app, [*command, "--posterior", "diag", "--output", str(tmp_path / "fitted"), "--quiet"])
    assert shown.exit_code == 0, shown.stderr
    told = [line for line in shown.stdout.splitlines() if not line.startswith(("note", "on "))]
    assert [line.split(":")[0] for line in told[:2]] == ["member 1 of 2", "member 2 of 2"]
    assert told[-2].startswith("together: on 30 held-out pairs")
    assert {member.scorer.kind for member in load_scorer(tmp_path / "fitted").members} == {"diag"}  # type: ignore[union-attr]
    heads = refused(*command, "--posterior", "heads", "--output", str(tmp_path / "heads"))
    assert "'heads' is not for the members of an ensemble" in heads
    bases = refused(*command, "--posterior", "diag", "--max-rank", "3", "--output", str(tmp_path / "rank"))
    assert "no option max_rank" in bases


def test_bad_input_is_one_line(
    trained: tuple[Path, dict[str, Any]], tiny_models: Callable[..., Path], files: dict[str, str], tmp_path: Path
) -> None:
    command = options(tiny_models("llama", head=False), files, tmp_path / "out")
    assert "needs at least 2" in refused(*command, "--num-members", "1")
    assert "give --num-members too" in refused(*command, "--bootstrap")
    assert "leave --streaming" in refused(*command, "--num-members", "2", "--streaming")
    assert "must be 0 with loss classification" in refused(
        *command, "--loss", "classification", "--center-rewards-coefficient", "0.1"
    )
    member = str(trained[0] / "member_0")
    join = ["ensemble", "--data", files["held_out"], "--output", str(tmp_path / "out"), "--member", member]
    assert "at least two members" in refused(*join)
    assert "is given twice" in refused(*join, "--member", f"{member}/")
    assert not (tmp_path / "out").exists()
