"""What a user sees when something goes wrong: one line, the right exit code, no traceback."""

import errno
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from prudent.cli import app
from prudent.cli._app import Common, OneLineErrors, verb
from prudent.cli._console import Outcome
from prudent.errors import DataError


class SafetensorError(Exception):
    """Stands for safetensors' own, which is known by its name."""


def run(error: BaseException, *arguments: str):
    """Run a verb `train` that raises."""
    application = typer.Typer(cls=OneLineErrors, pretty_exceptions_enable=False)

    @verb(panel="Panel", example="prudent train")
    def train(common: Common) -> Outcome:
        """Raise."""
        raise error

    @verb(panel="Panel", example="prudent select")
    def select(common: Common) -> Outcome:
        """Raise."""
        raise error

    train.add_to(application)
    select.add_to(application)
    return CliRunner().invoke(application, arguments or ["train"])


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (DataError("pairs.jsonl: row 3: `chosen` is empty"), 2, "error: pairs.jsonl: row 3: `chosen` is empty"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.parquet"),
            2,
            "error: No space left on device: out.parquet",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "rm"), 2, "error: Permission denied: rm"),
        (OSError("Cannot write\nhere"), 2, "error: Cannot write here"),
        (
            SafetensorError("header too large"),
            2,
            "error: a safetensors file cannot be read or written: header too large",
        ),
        (Exception("No space left on device (os error 28)"), 2, "error: No space left on device (os error 28)"),
        (
            KeyboardInterrupt(),
            130,
            "error: interrupted; the same command goes on from what was saved, if it had come so far",
        ),
        (
            ZeroDivisionError("division by zero"),
            1,
            "error: a defect of prudent, not of your input: ZeroDivisionError: division by zero; "
            "rerun 'prudent train' with --debug",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, exit_code, line):
    result = run(error)
    assert (result.exit_code, result.stderr, result.stdout) == (exit_code, line + "\n", "")


def test_an_interrupted_verb_that_cannot_resume_says_that_nothing_is_half_written():
    assert run(KeyboardInterrupt(), "select").stderr == "error: interrupted; no half-written output is left\n"


def test_debug_lets_the_error_through():
    error = ZeroDivisionError("division by zero")
    assert run(error, "train", "--debug").exception is error


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "--modle", "x"], "No such option: --modle"),
        (["fit", "--data", "x"], "Missing option '--model'"),
        (["scor"], "No such command 'scor'"),
        (["select", "--data", "x", "--output", "y", "--seed", "-1"], "Invalid value for '--seed'"),
        (["select", "--data", "x", "--output", "y", "--rule", "mean"], "No such option: --rule"),
        (["--verbos"], "No such option: --verbos"),
    ],
)
def test_a_usage_error_is_one_line(arguments, line):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert "--help" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "--model", "m", "--data", "absent.jsonl", "--output", "out.parquet"],
        ["select", "--data", "absent.parquet", "--output", "picks.jsonl"],
        ["fit", "--model", "m", "--data", "absent.jsonl", "--output", "out"],
        ["train", "--model", "m", "--data", "absent.jsonl", "--output", "out"],
        ["evaluate", "--model", "m", "--data", "absent.jsonl", "--output", "out.json"],
        ["report", "--data", "absent.parquet", "--output", "out.html"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_file_ends_every_verb_with_one_line_and_no_output(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "absent." in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_same_from_a_shell(tmp_path):
    command = [sys.executable, "-m", "prudent", "select", "--data", "absent.parquet", "--output", "picks.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
