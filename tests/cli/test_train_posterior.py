"""`prudent train --posterior`: one command from pairs to a model with its posterior, whenever it is killed."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from prudent.cli import app
from prudent.data import load_pools
from prudent.models import RewardModel
from prudent.posteriors import joint_rewards, load_posterior

WORDS = ["apple", "pear", "plum", "river", "stone", "bird", "house", "door", "window"]


def write_pairs(path: Path, prefix: str, count: int) -> str:
    draw = random.Random(prefix)
    rows = [
        {
            "prompt": f"{prefix} {' '.join(draw.choices(WORDS, k=3))}",
            "chosen": " ".join([*draw.choices(WORDS, k=draw.randint(2, 8)), "sunny"]),
            "rejected": " ".join([*draw.choices(WORDS, k=draw.randint(2, 8)), "cold"]),
        }
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def command(tiny_models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All of the command but the kind and the output."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs, heldout = (
        write_pairs(folder / "pairs.jsonl", "name", 24),
        write_pairs(folder / "heldout.jsonl", "please name", 8),
    )
    return [
        "train", "--model", str(tiny_models("llama", head=False)), "--data", pairs, "--eval-data", heldout,
        "--max-steps", "4", "--learning-rate", "0.01", "--lora-r", "2", "--max-length", "64", "--quiet",
        "--center-rewards-coefficient", "0.01",
    ]  # fmt: skip


def run(command: list[str], output: Path, *more: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*command, "--output", str(output), *more, "--json"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that nobody disturbed."""
    output = tmp_path_factory.mktemp("whole") / "rm"
    return output, run(command, output, "--posterior", "ekfac")


def assert_same_posterior(first: Path, second: Path) -> None:
    expected, found = load_file(first / "posterior.safetensors"), load_file(second / "posterior.safetensors")
    assert expected.keys() == found.keys()
    assert all(bool((found[name] == value).all()) for name, value in expected.items())
    names = ("basis_id", "prior_precision", "log_marginal_likelihood", "calibration")
    told = [json.loads((folder / "posterior_config.json").read_text()) for folder in (first, second)]
    assert [told[0][name] for name in names] == [told[1][name] for name in names]


def test_model_and_posterior_lie_in_one_folder_and_the_card_tells_of_both(whole: tuple[Path, dict[str, Any]]) -> None:
    output, printed = whole
    posterior = load_posterior(output, RewardModel.from_pretrained(output))
    assert posterior.kind == printed["posterior"]["kind"] == "ekfac"
    assert printed["posterior"]["num_pairs"] == printed["num_pairs"] == 24
    assert printed["posterior"]["held_out"]["num_pairs"] == printed["num_eval_pairs"] == 8
    assert json.loads((output / "training_result.json").read_text())["num_steps"] == 4
    assert json.loads((output / "posterior_config.json").read_text())["max_length"] == 64
    card = (output / "README.md").read_text()
    assert "Trained with" in card
    assert "## Posterior over rewards" in card
    assert [path.name for path in output.parent.iterdir()] == ["rm"]


def test_the_centring_trained_with_is_in_the_curvature(
    whole: tuple[Path, dict[str, Any]], command: list[str], tmp_path: Path
) -> None:
    """As `fit` does it, which finds the coefficient in the record of the training."""
    place = command.index("--data")
    arguments = [
        "fit", "--model", str(whole[0]), *command[place : place + 4], "--posterior", "ekfac", "--output",
        str(tmp_path / "rm"), "--max-length", "64", "--quiet",
    ]  # fmt: skip
    for more in ([], ["--center-rewards-coefficient", "0.01", "--overwrite"]):
        assert CliRunner().invoke(app, [*arguments, *more]).exit_code == 0
        assert_same_posterior(whole[0], tmp_path / "rm")
    assert CliRunner().invoke(app, [*arguments, "--center-rewards-coefficient", "0", "--overwrite"]).exit_code == 0
    with pytest.raises(AssertionError):
        assert_same_posterior(whole[0], tmp_path / "rm")


def test_a_second_start_does_nothing_and_another_kind_is_fitted_without_training(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prudent.training._trainer import PairTrainer

    output = tmp_path / "rm"
    run(command, output)
    monkeypatch.setattr(PairTrainer, "training_step", None)
    first = run(command, output, "--posterior", "last_layer")
    assert (first["already_finished"], first["posterior"]["kind"]) == (True, "last_layer")
    with monkeypatch.context() as patch:
        patch.setattr("prudent.posteriors.fit", None)
        again = run(command, output, "--posterior", "last_layer")
        assert again["posterior"]["basis_id"] == first["posterior"]["basis_id"]
        text = CliRunner().invoke(app, [*command, "--output", str(output), "--posterior", "last_layer"]).stdout
        assert text.startswith("had trained 4 steps")
        assert text.endswith("; its posterior last_layer was there\n")
    # A last layer moved the head: another kind is not fitted on top of it unasked, nor without training again.
    line = refused(*command, "--output", str(output), "--posterior", "diag")
    assert "holds a posterior last_layer" in line
    with monkeypatch.context() as patch:
        patch.setattr("prudent.cli._train.fit_trained", lambda *_: ({}, ""))
        with pytest.raises(AssertionError):
            run(command, output, "--posterior", "diag", "--overwrite")


def test_a_kind_that_left_the_model_alone_is_replaced_without_training(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prudent.training._trainer import PairTrainer

    output = tmp_path / "rm"
    run(command, output, "--posterior", "diag")
    monkeypatch.setattr(PairTrainer, "training_step", None)
    assert "holds a posterior diag" in refused(*command, "--output", str(output), "--posterior", "kron")
    other = run(command, output, "--posterior", "kron", "--overwrite")
    assert (other["already_finished"], other["posterior"]["kind"]) == (True, "kron")
    assert json.loads((output / "training_result.json").read_text())["num_steps"] == 4


@pytest.mark.parametrize(
    "options", [["heads", "--architecture", "mlp"], ["heads", "--pooling", "mean"], ["last_layer", "--pooling", "mean"]]
)
def test_what_left_the_head_alone_is_replaced_without_training(
    options: list[str], command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prudent.training._trainer import PairTrainer

    output = tmp_path / "rm"
    run(command, output)
    place = command.index("--data")
    arguments = ["fit", "--model", str(output), *command[place : place + 2], "--max-length", "64", "--quiet"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(output), "--overwrite", "--posterior", *options])
    assert result.exit_code == 0, result.stderr
    monkeypatch.setattr(PairTrainer, "training_step", None)
    other = run(command, output, "--posterior", "diag", "--overwrite")
    assert (other["already_finished"], other["posterior"]["kind"]) == (True, "diag")


def test_linear_heads_that_became_the_head_are_trained_again(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prudent.training._trainer import PairTrainer

    output = tmp_path / "rm"
    run(command, output, "--posterior", "heads")
    monkeypatch.setattr(PairTrainer, "training_step", None)
    with pytest.raises(AssertionError):
        run(command, output, "--posterior", "diag", "--overwrite")


DEATHS = {
    "in training": ("prudent.training._trainer.PairTrainer", "evaluate"),
    "before fitting": ("prudent.posteriors", "fit"),
    "while fitting": ("prudent.posteriors._lora_fit", "maximize_prior_precision"),
    "while replacing": ("prudent.models._saving.os", "replace"),
}


@pytest.mark.parametrize("moment", DEATHS)
def test_killed_at_any_moment_the_same_command_ends_with_the_posterior(
    moment: str, whole: tuple[Path, dict[str, Any]], command: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "rm"
    arguments = [*command, "--output", str(output), "--posterior", "ekfac", "--overwrite"]
    owner, name = DEATHS[moment]
    program = f"""
import os, pkgutil, signal, sys
import prudent.posteriors._lora_fit, prudent.training._trainer, prudent.models._saving
from prudent.cli import app
from prudent.data import load_pools
owner = pkgutil.resolve_name({owner!r})
living = getattr(owner, {name!r})
def die(*arguments, **options):
    # Training, too, moves its files to their place.
    if {name!r} == "replace" and os.path.basename(str(arguments[1])) != "posterior.safetensors":
        return living(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, {name!r}, die)
app(sys.argv[1:])
"""
    killed = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert not (output / "posterior_config.json").exists()
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["already_finished"] == (moment != "in training")
    assert_same_posterior(whole[0], output)
    load_posterior(output, RewardModel.from_pretrained(output))
    assert os.listdir(tmp_path) == ["rm"]


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--quiet"])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_what_cannot_be_fitted_is_refused_before_training(command: list[str], tmp_path: Path) -> None:
    output = tmp_path / "rm"
    line = refused(*command, "--output", str(output), "--posterior", "ekfac", "--streaming")
    assert "leave --streaming or --posterior out" in line
    line = refused(*command, "--output", str(output), "--posterior", "kron", "--full")
    assert "--full does not train; take last_layer" in line
    assert not output.exists()


def test_a_posterior_that_fails_leaves_the_trained_model(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prudent.posteriors._lora_fit._MAX_DENSE_PARAMETERS", 10)
    output = tmp_path / "rm"
    line = refused(*command, "--output", str(output), "--posterior", "full")
    assert f"the model is trained and lies in {output}, its posterior is not fitted: posterior 'full'" in line
    assert RewardModel.from_pretrained(output).rewards(["name"], ["plum"]).isfinite().all()
    assert run(command, output, "--posterior", "diag")["already_finished"]


def test_a_small_llama_on_real_pairs_and_a_real_pool(shared_data: Path, tmp_path: Path) -> None:
    output, slices = tmp_path / "rm", shared_data / "ci"
    command = [
        "train", "--model", str(shared_data / "tiny_lm_stories260K"), "--data", str(slices / "hh_helpful_256.jsonl"),
        "--max-steps", "3", "--lora-r", "2", "--max-length", "64", "--skip-bad", "--quiet",
    ]  # fmt: skip
    printed = run(command, output, "--posterior", "diag")
    assert printed["posterior"]["num_pairs"] == printed["num_pairs"] > 200
    pool = load_pools(slices / "ae_bon_12x16.jsonl").rows[0]
    rewards = joint_rewards(output, [pool["prompt"]] * len(pool["responses"]), pool["responses"])
    assert (rewards.variance > 0).all()
    assert rewards.prob_best(256).sum().item() == pytest.approx(1)


@pytest.mark.slow
def test_two_processes_train_and_fit_and_one_speaks(command: list[str], tmp_path: Path) -> None:
    arguments = [*command, "--output", str(tmp_path / "rm"), "--posterior", "last_layer", "--use-cpu"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "prudent"]
    for verb in ("trained", "had trained"):
        done = subprocess.run(
            [*start, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.startswith(f"{verb} 4 steps")
        assert done.stdout.count("posterior last_layer") == 1
    load_posterior(tmp_path / "rm", RewardModel.from_pretrained(tmp_path / "rm"))
