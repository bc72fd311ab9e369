"""Killed at any moment and started again, a run ends where an uninterrupted one does."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prudent.errors import ModelError
from prudent.models import RewardModel
from prudent.training import TrainingConfig, TrainingResult, train
from prudent.training._run import model_identity
from prudent.training._trainer import PairTrainer

Pairs = list[dict[str, Any]]

# Three epochs of twelve steps with a checkpoint every five: resumed runs begin in the midst of an epoch.
CONFIG = TrainingConfig(
    num_train_epochs=3,
    per_device_train_batch_size=4,
    learning_rate=1e-2,
    lora_dropout=0.2,
    save_steps=5,
    logging_steps=3,
)


@pytest.fixture(scope="module")
def whole(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainingResult]:
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "rm"
    return output, train(tiny_models("llama", head=False), pairs, output, config=CONFIG, progress=False)


def assert_same_weights(first: Path, second: Path) -> None:
    name = "adapter_model.safetensors" if (first / "adapter_config.json").exists() else "model.safetensors"
    expected, found = load_file(first / name), load_file(second / name)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(
    ("moment", "resumed_from"), [("in a step", 15), ("in a checkpoint", 10), ("while finishing", 36)]
)
def test_killed_by_sigkill_it_resumes_and_ends_at_the_same_weights(
    moment: str,
    resumed_from: int,
    whole: tuple[Path, TrainingResult],
    tiny_models: Callable[..., Path],
    pairs: Pairs,
    tmp_path: Path,
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "rm"
    killed = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).parent / "crash_worker.py"),
            str(base),
            json.dumps(pairs),
            str(output),
            json.dumps(asdict(CONFIG)),
            moment,
        ],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    # What the dead process left is not taken for a model.
    assert not (output / "training_result.json").exists()
    with pytest.raises(ModelError):
        RewardModel.from_pretrained(output)
    result = train(base, pairs, output, config=CONFIG, progress=False)
    assert result.resumed_from_step == resumed_from
    assert_same_weights(whole[0], output)
    assert result.num_steps == whole[1].num_steps
    assert result.num_epochs == whole[1].num_epochs
    assert result.train_loss == pytest.approx(whole[1].train_loss, abs=1e-5)
    assert result.seconds > 0
    assert result.pairs_per_second == pytest.approx(36 * 4 / result.seconds)
    assert not (output / "checkpoints").exists()
    assert not (output / ".partial").exists()


class _Stop(Exception):
    """Ends a run where a test wants it."""


@contextmanager
def stopped_at(step: int, error: type[BaseException] = _Stop) -> Iterator[None]:
    """Raise in the forward pass that follows a number of steps."""
    trained_step = PairTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            raise error
        return trained_step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairTrainer, "training_step", training_step)
        yield


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("accumulated", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
        ("full", {"lora": False}),
        ("evaluated", {"eval_steps": 4}),
    ],
)
def test_resumes_other_kinds_of_runs(
    name: str,
    options: dict[str, Any],
    tiny_models: Callable[..., Path],
    pairs: Pairs,
    eval_pairs: Pairs,
    tmp_path: Path,
) -> None:
    config = TrainingConfig(**{**asdict(CONFIG), **options})
    base = tiny_models("bert", head=False)
    held_out = eval_pairs if name == "evaluated" else None
    train(base, pairs, tmp_path / "whole", eval_data=held_out, config=config, progress=False)
    with pytest.raises(_Stop), stopped_at(24):  # the end of an epoch, with a checkpoint at 20
        train(base, pairs, tmp_path / "rm", eval_data=held_out, config=config, progress=False)
    result = train(base, pairs, tmp_path / "rm", eval_data=held_out, config=config, progress=False)
    assert result.resumed_from_step == 20
    assert_same_weights(tmp_path / "whole", tmp_path / "rm")


def test_resumes_at_the_end_of_an_epoch(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    config = TrainingConfig(**{**asdict(CONFIG), "save_steps": 12})
    base = tiny_models("bert", head=False)
    train(base, pairs, tmp_path / "whole", config=config, progress=False)
    with pytest.raises(_Stop), stopped_at(13):
        train(base, pairs, tmp_path / "rm", config=config, progress=False)
    assert train(base, pairs, tmp_path / "rm", config=config, progress=False).resumed_from_step == 12
    assert_same_weights(tmp_path / "whole", tmp_path / "rm")


def test_resumes_a_stream(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(pair) for pair in pairs))
    config = TrainingConfig(**{**asdict(CONFIG), "max_steps": 30})
    base = tiny_models("llama", head=False)
    train(base, file, tmp_path / "whole", config=config, streaming=True, progress=False)
    with pytest.raises(_Stop), stopped_at(22):
        train(base, file, tmp_path / "rm", config=config, streaming=True, progress=False)
    result = train(base, file, tmp_path / "rm", config=config, streaming=True, progress=False)
    assert result.resumed_from_step == 20
    assert_same_weights(tmp_path / "whole", tmp_path / "rm")


def test_interrupt_keeps_the_checkpoints_and_says_so(
    whole: tuple[Path, TrainingResult],
    tiny_models: Callable[..., Path],
    pairs: Pairs,
    tmp_path: Path,
) -> None:
    base = tiny_models("llama", head=False)
    with pytest.raises(KeyboardInterrupt, match=r"resume from .*checkpoints"), stopped_at(12, KeyboardInterrupt):
        train(base, pairs, tmp_path / "rm", config=CONFIG, progress=True)
    # A checkpoint damaged since is not taken for a whole one either.
    (tmp_path / "rm" / "checkpoints" / "checkpoint-10" / "optimizer.pt").write_bytes(b"short")
    result = train(base, pairs, tmp_path / "rm", config=CONFIG, progress=False)
    assert result.resumed_from_step == 5
    assert_same_weights(whole[0], tmp_path / "rm")


def test_other_settings_or_data_do_not_resume(
    tiny_models: Callable[..., Path],
    pairs: Pairs,
    eval_pairs: Pairs,
    tmp_path: Path,
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "rm"
    with pytest.raises(_Stop), stopped_at(12):
        train(base, pairs, output, config=CONFIG, progress=False)

    def again(model: Path = base, data: Pairs = pairs, **options: Any) -> TrainingResult:
        rest = {key: options.pop(key) for key in ("eval_data", "overwrite") if key in options}
        config = TrainingConfig(**{**asdict(CONFIG), **options})
        return train(model, data, output, config=config, progress=False, **rest)

    with pytest.raises(ModelError, match=r"learning_rate was 0\.01, is 0\.02.*overwrite"):
        again(learning_rate=0.02)
    with pytest.raises(ModelError, match="data was"):
        again(data=pairs[1:])
    with pytest.raises(ModelError, match="model was"):
        again(model=tiny_models("bert", head=False))
    with pytest.raises(ModelError, match="eval_data was None"):
        again(eval_data=eval_pairs)
    # What changes no weight may change, and overwriting is no reason to lose a run of its own.
    assert again(save_steps=7, logging_steps=1, overwrite=True).resumed_from_step == 10
    assert again(learning_rate=0.02, overwrite=True).resumed_from_step is None


def test_finished_run_returns_its_result_without_training(
    whole: tuple[Path, TrainingResult],
    tiny_models: Callable[..., Path],
    pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "rm"
    shutil.copytree(whole[0], output)
    base = tiny_models("llama", head=False)
    monkeypatch.setattr(PairTrainer, "training_step", None)
    again = train(base, pairs, output, config=CONFIG, progress=False)
    assert again == replace(whole[1], already_finished=True)
    with pytest.raises(ModelError, match="finished run with other settings"):
        train(base, pairs[1:], output, config=CONFIG, progress=False)


def test_overwrite_deletes_the_old_model_and_what_was_learned_of_it_but_no_strange_file(
    whole: tuple[Path, TrainingResult], tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    output = tmp_path / "rm"
    shutil.copytree(whole[0], output)
    identity = model_identity(output)
    later = ["posterior.safetensors", "posterior_config.json", "utility.safetensors", "utility.yaml"]
    for name in later:
        (output / name).touch()
    assert model_identity(output) == identity
    base = tiny_models("llama", head=False)
    config = TrainingConfig(max_steps=1, lora=False)
    train(base, pairs, output, config=config, overwrite=True, progress=False)
    assert not [name for name in later if (output / name).exists()]
    assert not (output / "adapter_config.json").exists()
    (output / "notes.md").write_text("mine")
    with pytest.raises(ModelError, match=r"something else \(notes\.md\)"):
        train(base, pairs, output, config=CONFIG, overwrite=True, progress=False)
    assert (output / "notes.md").read_text() == "mine"
    assert RewardModel.from_pretrained(output).rewards(["apple"], ["plum"]).isfinite().all()
