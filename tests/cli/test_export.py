"""`prudent export`: the file it writes, the line it says, and errors in one line."""

import json
import runpy

import pytest
from typer.testing import CliRunner

from prudent.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_a_file_for_each_trainer(tiny_models, tmp_path):
    model = tiny_models("llama")
    for trainer, name in (("trl", "reward"), ("openrlhf", "reward_func"), ("verl", "compute_score")):
        path = tmp_path / f"{trainer}_reward.py"
        result = run("--model", model, "--trainer", trainer, "--output", path, "--tokens-per-batch", 512)
        assert result.exit_code == 0, result.stderr
        first, usage = result.stdout.splitlines()
        assert first == f"{path} holds the reward; use it as"
        assert usage.strip() in path.read_text()
        assert callable(runpy.run_path(str(path))[name])
    found = json.loads(run("--model", model, "--output", path, "--overwrite", "--json").stdout)
    assert found == {"path": str(path), "trainer": "trl", "usage": "trl rloo --reward_funcs verl_reward.reward"}


def test_the_limit_of_the_trainer_by_which_cut_completions_are_known(tiny_models, tmp_path):
    path = tmp_path / "my_reward.py"
    limits = ("--max-completion-length", 3, "--truncation-penalty", 1)
    assert run("--model", tiny_models("llama"), "--output", path, *limits).exit_code == 0
    reward, logged = runpy.run_path(str(path))["reward"], {}
    texts = {"prompts": ["a", "a"], "completions": ["b", "b"], "completion_ids": [[1, 2, 3], [1, 2]]}
    cut, whole = reward(**texts, log_metric=logged.__setitem__)
    assert whole - cut == pytest.approx(1)
    assert logged["prudent/share_cut"] == 0.5


def test_several_models_by_name(tiny_models, tmp_path):
    path = tmp_path / "my_reward.py"
    utility = "weighted(a | mean, b | mean, weights=[1, 2])"
    models = [f"--model={name}={tiny_models(kind)}" for name, kind in (("a", "llama"), ("b", "bert"))]
    result = run(*models, "--utility", utility, "--output", path)
    assert result.exit_code == 0, result.stderr
    reward = runpy.run_path(str(path))["reward"]
    assert reward.utility == utility
    assert set(reward.model) == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--utility", "lcb_std"], "no posterior"),
        (["--utility", "center"], "needs reference responses"),
        (["--output", "my_reward.txt"], "ends in .py"),
        (["--trainer", "slime"], "--trainer"),
        (["--references", "nowhere"], "there is no nowhere"),
        (["--truncation-penalty", "1"], "--truncation-penalty needs --max-completion-length"),
        (["--max-completion-length", "9", "--trainer", "verl"], "is for TRL, which gives a reward the tokens"),
    ],
)
def test_errors_take_one_line(tiny_models, tmp_path, options, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = [] if "--output" in options else ["--output", tmp_path / "my_reward.py"]
    result = run("--model", tiny_models("llama"), *output, "--quiet", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
