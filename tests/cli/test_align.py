"""`prudent align`: a policy and prompts in, a moved policy and its figures out; errors in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("trl")

from prudent.alignment import ARMS
from prudent.cli import app
from prudent.cli._align import AlgorithmName, ArmName

WORDS = ("apple", "pear", "plum", "river", "stone", "bird", "green", "red", "small", "large")


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["align", *map(str, arguments)])


@pytest.fixture(scope="module")
def usual(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What every run is given, but for its output."""
    folder = tmp_path_factory.mktemp("align")
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"tell me about the {word}"}) + "\n" for word in WORDS)
    )
    options = {
        "policy": tiny_models("llama", head=False),
        "data": folder / "prompts.jsonl",
        "reward-model": tiny_models("llama"),
        "gold-model": tiny_models("bert"),
        "max-steps": 2,
        "prompts-per-step": 2,
        "num-generations": 2,
        "max-completion-length": 5,
        "monitor-every": 1,
        "learning-rate": 0.01,
    }
    return ["--use-cpu", *(part for name, value in options.items() for part in (f"--{name}", value))]


def test_a_run_its_report_and_its_repetition(usual: list[Any], tmp_path: Path) -> None:
    run = invoke(*usual, "--output", tmp_path / "aligned")
    assert run.exit_code == 0, run.output
    lines = run.stdout.splitlines()
    assert lines[0].startswith("aligned ")
    assert lines[1].split() == [
        "2",
        "held-out",
        "prompts",
        "proxy",
        "gold",
        "KL",
        "tokens",
        "below",
        "reference",
        "cut",
    ]
    assert [line.split()[0] for line in lines[2:4]] == ["start", "end"]
    assert "no advice about stopping: it takes 8 held-out prompts with gold at every step, and there are 2" in lines
    stderr = " ".join(run.stderr.split())
    assert "warning: 2 of 10 prompts are held out, at most a fifth, and not 32" in stderr
    assert "warning: there will be no advice about stopping" in stderr
    assert list((tmp_path / "aligned/logs").glob("events*"))  # TensorBoard, unless told otherwise
    told = invoke(*usual, "--output", tmp_path / "aligned")
    assert told.stdout.startswith("nothing was left to do (to do it again: --overwrite): aligned ")
    again = invoke(*usual, "--output", tmp_path / "aligned", "--json")
    found = json.loads(again.stdout)
    assert found["already_finished"]
    assert found["end"]["step"] == 2
    report = CliRunner().invoke(
        app, ["report", "--data", str(tmp_path / "aligned"), "--output", str(tmp_path / "page.html")]
    )
    assert report.exit_code == 0, report.output
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arm", "lcb"], "no posterior"),
        (["--num-generations", 1], "--num-generations is 1"),
        (["--batch-size", 3], "--per-device-train-batch-size is 3; it must be a divisor of the 4 completions"),
        (["--arm", "best"], "best"),
        (["--monitor-every", 0.0], "--monitor-every is 0.0"),
    ],
)
def test_mistakes_are_told_in_one_line(options: list[Any], message: str, usual: list[Any], tmp_path: Path) -> None:
    given = [option for option in options if isinstance(option, str)]
    kept = [part for place, part in enumerate(usual) if not {part, *usual[place - 1 : place]} & set(given)]
    run = invoke(*kept, *options, "--output", tmp_path / "aligned")
    assert run.exit_code == 2
    assert message in " ".join(run.stderr.split())
    assert not (tmp_path / "aligned").exists()


def test_names_are_those_of_the_library() -> None:
    from typing import get_args

    from prudent.alignment.rlhf import Algorithm

    assert [arm.value for arm in ArmName] == list(ARMS)
    assert [one.value for one in AlgorithmName] == list(get_args(Algorithm))
