"""`prudent fit` with every kind of posterior: its options, what it says, and several processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from prudent.cli import app
from prudent.models import RewardModel
from prudent.posteriors import load_posterior

WORDS = ["apple", "pear", "plum", "river", "stone", "bird", "house", "door", "window"]


def write_pairs(path: Path, prefix: str, count: int) -> str:
    rows = [
        {
            "prompt": f"{prefix} {WORDS[number % 9]} {WORDS[number // 9]}",
            "chosen": " ".join(WORDS[number % 5 : number % 5 + 3]) + " sunny",
            "rejected": " ".join(WORDS[number % 4 : number % 4 + 4]) + " cold",
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def files(tiny_models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A LoRA model with drawn adapters, and pairs."""
    from prudent.models import add_lora

    root = tmp_path_factory.mktemp("files")
    base = RewardModel.from_pretrained(tiny_models("llama"))
    torch.manual_seed(0)
    model = RewardModel(add_lora(base.model, rank=2, alpha=4, dropout=0.0), base.tokenizer)
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(root / "rm")
    return {
        "model": str(root / "rm"),
        "pairs": write_pairs(root / "pairs.jsonl", "name", 30),
        "heldout": write_pairs(root / "heldout.jsonl", "please name", 12),
    }


def fit(files: dict[str, str], output: Path, *more: str) -> Any:
    return CliRunner().invoke(
        app, ["fit", "--model", files["model"], "--data", files["pairs"], "--output", str(output), "--quiet", *more]
    )


def config_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "posterior_config.json").read_text())
    return found


@pytest.mark.parametrize("kind", ["last_layer", "kron", "ekfac", "diag", "full"])
def test_every_kind_is_fitted_and_tells_of_both_prior_precisions(
    kind: str, files: dict[str, str], tmp_path: Path
) -> None:
    result = fit(files, tmp_path / "rm", "--posterior", kind, "--eval-data", files["heldout"], "--json")
    assert result.exit_code == 0, result.stderr
    told, saved = json.loads(result.stdout), config_of(tmp_path / "rm")
    assert told["kind"] == saved["kind"] == kind
    assert (told["num_pairs"], told["held_out"]["num_pairs"]) == (30, 12)
    assert saved["calibration"] == told["held_out"]
    load_posterior(tmp_path / "rm", RewardModel.from_pretrained(tmp_path / "rm"))
    text = fit(files, tmp_path / "rm", "--posterior", kind, "--eval-data", files["heldout"], "--overwrite").stdout
    assert text.startswith(f"posterior {kind} of 30 pairs: prior precision {told['prior_precision']:.4g} by evidence (")
    other = told["prior_precision"] * told["held_out"]["prior_precision_scale"]
    assert f"{other:.4g} by held-out pairs ({told['held_out']['nll_scaled']:.4f} nats), of which the first is" in text
    assert f"negative log-likelihood {told['held_out']['nll']:.4f} nats" in text
    lines = text.splitlines()
    assert lines[1].startswith("on 12 held-out pairs accuracy ")
    assert lines[-1] == f"model and posterior in {tmp_path / 'rm'}"
    assert [line.removeprefix("note: ") for line in lines[2:-1]] == told["notes"]
    chosen = fit(
        files, tmp_path / "rm", "--posterior", kind, "--eval-data", files["heldout"], "--prior-precision", "held_out",
        "--overwrite",
    ).stdout  # fmt: skip
    assert config_of(tmp_path / "rm")["prior_precision"] == pytest.approx(other)
    assert f"prior precision {told['prior_precision']:.4g} by evidence (" in chosen
    assert "of which the second is saved" in chosen


def test_options_come_from_a_file_too(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(
        f"model: {files['model']}\ndata: {files['pairs']}\nposterior: kron\nprior-precision: 2\nmax-rank: 4\n"
        "posterior-temperature: 0.5\ncenter-rewards-coefficient: 0.1\nquiet: true\n"
    )
    result = CliRunner().invoke(app, ["fit", "--config", str(tmp_path / "fit.yaml"), "--output", str(tmp_path / "rm")])
    assert result.exit_code == 0, result.stderr
    assert "prior precision 2 as given; log marginal likelihood" in result.stdout
    saved = config_of(tmp_path / "rm")
    assert (saved["kind"], saved["prior_precision"], saved["posterior_temperature"]) == ("kron", 2.0, 0.5)
    tensors = load_file(tmp_path / "rm" / "posterior.safetensors")
    assert {value.shape[1] for name, value in tensors.items() if name.endswith("large_basis")} == {4}
    plain = fit(files, tmp_path / "plain", "--posterior", "kron", "--prior-precision", "2", "--max-rank", "4")
    assert plain.exit_code == 0
    assert config_of(tmp_path / "plain")["log_marginal_likelihood"] != saved["log_marginal_likelihood"]


def test_a_prior_precision_for_each_layer_is_told_as_a_range(files: dict[str, str], tmp_path: Path) -> None:
    result = fit(files, tmp_path / "rm", "--posterior", "diag", "--per-layer")
    prior = config_of(tmp_path / "rm")["prior_precision"]
    assert len(prior) == 9
    assert f"prior precision {min(prior):.4g} to {max(prior):.4g} by evidence; " in result.stdout


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--prior-precision", "strong"], "'strong' is none of: a positive number, evidence, held_out"),
        (["--prior-precision", "-1"], "'-1' is none of: a positive number"),
        (["--prior-precision", "nan"], "'nan' is none of"),
        (["--prior-precision", "held_out"], "needs such pairs"),
        (["--posterior", "kfac"], "'last_layer', 'kron', 'ekfac', 'diag', 'full'"),
        (["--posterior", "kron", "--head", "refit"], "has no option head 'refit'; it is for last_layer"),
        (["--posterior", "kron", "--pooling", "mean"], "has no option pooling 'mean'; it is for last_layer"),
        (["--posterior", "full", "--per-layer"], "has no option per_layer"),
        (["--max-rank", "0"], "--max-rank"),
        (["--posterior", "diag", "--max-rank", "8"], "has no option max_rank; it is for kron, ekfac"),
        (["--center-rewards-coefficient", "0.1"], "has no option center_rewards_coefficient; it is for kron"),
        (["--eval-data", "PAIRS"], "prompts"),
    ],
)
def test_what_makes_no_sense_is_one_line(more: list[str], named: str, files: dict[str, str], tmp_path: Path) -> None:
    result = fit(files, tmp_path / "rm", *[files["pairs"] if entry == "PAIRS" else entry for entry in more])
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_an_adapter_is_told_what_to_take(
    files: dict[str, str], tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    result = fit({**files, "model": str(tiny_models("llama"))}, tmp_path / "rm", "--posterior", "ekfac")
    assert result.exit_code == 2
    assert "use posterior 'last_layer', or train with LoRA" in result.stderr
    assert list(tmp_path.iterdir()) == []


def in_two_processes(script: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_are_killed_and_end_as_one(files: dict[str, str], tmp_path: Path) -> None:
    """Both share the pairs and one prints; sums that each kept for itself are taken up again."""
    arguments = [
        "fit", "--model", files["model"], "--data", files["pairs"], "--posterior", "ekfac",
        "--tokens-per-batch", "64", "--quiet", "--json",
    ]  # fmt: skip
    start = "from prudent.cli import app\nimport sys\n"
    (tmp_path / "whole.py").write_text(f"{start}app(sys.argv[1:])\n")
    (tmp_path / "dying.py").write_text(
        f"{start}import os, signal\n"
        "from prudent.posteriors import _resume, _sums\n"
        "_resume._SECONDS, _resume._SHARE = 0.0, float('inf')\n"
        "add, count = _sums.EigenvalueSums.add, [0]\n"
        "def adding(*arguments):\n"
        "    count[0] += 1\n"
        "    if count[0] == 20 and os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(*arguments)\n"
        "_sums.EigenvalueSums.add = adding\n"
        "app(sys.argv[1:])\n"
    )
    assert in_two_processes(tmp_path / "dying.py", *arguments, "--output", str(tmp_path / "two")).returncode != 0
    assert {"fit.json", "bases-0.safetensors", "bases-1.safetensors", "sums-1.safetensors"} <= {
        path.name for path in (tmp_path / "two.partial").iterdir()
    }
    refused = fit(files, tmp_path / "two", "--posterior", "ekfac", "--tokens-per-batch", "64")
    assert "unfinished fit with another num_processes" in refused.stderr
    done = in_two_processes(tmp_path / "whole.py", *arguments, "--output", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\n") == 1
    told = json.loads(done.stdout)
    assert not (tmp_path / "two.partial").exists()
    unbroken = in_two_processes(tmp_path / "whole.py", *arguments, "--output", str(tmp_path / "unbroken"))
    assert json.loads(unbroken.stdout)["basis_id"] == told["basis_id"]
    assert fit(files, tmp_path / "one", "--posterior", "ekfac", "--tokens-per-batch", "64").exit_code == 0
    one = config_of(tmp_path / "one")
    assert told["log_marginal_likelihood"] == pytest.approx(one["log_marginal_likelihood"], rel=1e-5)
    assert told["prior_precision"] == pytest.approx(one["prior_precision"], rel=1e-2)
    expected = load_file(tmp_path / "one" / "posterior.safetensors")
    found = load_file(tmp_path / "two" / "posterior.safetensors")
    torch.testing.assert_close(found["gradient_mean"], expected["gradient_mean"], rtol=1e-4, atol=1e-6)


def test_a_preference_at_the_end_of_the_range_is_told(files: dict[str, str], tmp_path: Path) -> None:
    """Pairs labelled the other way round deserve no trust at all."""
    rows = [json.loads(line) for line in Path(files["heldout"]).read_text().splitlines()]
    wrong = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wrong))
    result = fit(files, tmp_path / "rm", "--eval-data", str(tmp_path / "wrong.jsonl"))
    note = "the held-out pairs prefer the weakest prior tried"
    assert note in result.stdout
    assert note in (tmp_path / "rm" / "README.md").read_text()
