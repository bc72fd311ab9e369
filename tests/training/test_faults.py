"""What goes wrong is said in one line, and leaves nothing that looks whole."""

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prudent.data import load_preferences
from prudent.errors import DataError, ModelError, UnsupportedError
from prudent.models import RewardModel
from prudent.training import TrainingConfig, train
from prudent.training import _run as run
from prudent.training._trainer import PairTrainer

Pairs = list[dict[str, Any]]
QUICK = TrainingConfig(max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4, save_steps=2)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_data_are_checked_before_the_model_is_looked_at(pairs: Pairs, eval_pairs: Pairs, tmp_path: Path) -> None:
    def attempt(data: Any, **options: Any) -> None:
        train("./no-such-model", data, tmp_path / "rm", progress=False, **options)

    with pytest.raises(DataError, match="no such file"):
        attempt("no-such-file.jsonl")
    with pytest.raises(DataError, match="training needs at least 2"):
        attempt(pairs[:1])
    with pytest.raises(DataError, match="row 1"):
        attempt([pairs[0], {"prompt": "apple", "chosen": "plum", "rejected": "plum"}])
    with pytest.raises(DataError, match="also in the training data"):
        attempt(pairs, eval_data=[*eval_pairs, pairs[3]])
    stream = load_preferences(eval_pairs, streaming=True)
    with pytest.raises(DataError, match="evaluation data cannot be a stream"):
        attempt(pairs, eval_data=stream)
    with pytest.raises(ModelError, match="no folder"):
        attempt(pairs)
    assert not (tmp_path / "rm").exists()


def test_bad_rows_can_be_skipped_and_are_counted(
    tiny_models: Callable[..., Path], pairs: Pairs, eval_pairs: Pairs, tmp_path: Path
) -> None:
    result = train(
        tiny_models("llama", head=False),
        [*pairs, {"prompt": "apple", "chosen": "", "rejected": "plum"}],
        tmp_path / "rm",
        eval_data=[*eval_pairs, pairs[0], pairs[1]],
        config=QUICK,
        skip_bad=True,
        progress=False,
    )
    assert (result.num_pairs, result.num_eval_pairs, result.num_skipped) == (48, 16, 3)


def test_loss_that_is_not_finite_stops_the_run_with_its_step(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prudent.training import _trainer

    right = _trainer.bradley_terry_loss
    calls = []

    def diverging(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return right(*args, **kwargs) * (float("nan") if len(calls) > 3 else 1.0)

    monkeypatch.setattr(_trainer, "bradley_terry_loss", diverging)
    with pytest.raises(ModelError, match=r"the loss is nan at step 4: .*lower learning_rate") as error:
        train(tiny_models("llama", head=False), pairs, tmp_path / "rm", config=QUICK, progress=True)
    one_line(error)
    assert not (tmp_path / "rm" / "training_result.json").exists()


def test_weights_that_are_not_finite_are_not_saved(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_step = PairTrainer.training_step

    def spoiling(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = trained_step(self, *args, **kwargs)
        if self.state.global_step == 3:
            next(p for p in self.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        return loss

    monkeypatch.setattr(PairTrainer, "training_step", spoiling)
    with pytest.raises(ModelError, match=r"weights .*lora_A.* are not finite after step 4") as error:
        train(tiny_models("llama", head=False), pairs, tmp_path / "rm", config=QUICK, progress=False)
    one_line(error)
    assert sorted(path.name for path in (tmp_path / "rm" / "checkpoints").glob("c*-*")) == ["checkpoint-2"]


def test_base_with_nan_weights_is_refused(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_models("llama", head=False).iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        train(base, pairs, tmp_path / "rm", config=QUICK, progress=False)
    assert not (tmp_path / "rm").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files cannot grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [40, 3_000, 20_000])
def test_disk_full_while_training_is_said_and_resumed_from(
    size: int, tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "rm"
    with largest_file(size), pytest.raises(ModelError, match=r"cannot write to .*GB are free") as error:
        train(base, pairs, output, config=QUICK, progress=False)
    one_line(error)
    assert not list((output / "checkpoints").glob("checkpoint-*"))
    assert train(base, pairs, output, config=QUICK, progress=False).resumed_from_step is None
    assert RewardModel.from_pretrained(output).rewards(["apple"], ["plum"]).isfinite().all()


def test_disk_full_while_finishing_keeps_the_last_checkpoint(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "rm"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    finish = run.RunFolder.finish
    monkeypatch.setattr(run.RunFolder, "finish", full)
    with pytest.raises(ModelError, match="No space left on device"):
        train(base, pairs, output, config=QUICK, progress=False)
    with pytest.raises(ModelError):
        RewardModel.from_pretrained(output)
    monkeypatch.setattr(run.RunFolder, "finish", finish)
    result = train(base, pairs, output, config=QUICK, progress=False)
    assert (result.resumed_from_step, result.num_steps) == (4, 4)


def test_output_that_is_no_place_for_a_model(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    base = tiny_models("llama", head=False)

    def attempt(output: Path, model: Path = base, **options: Any) -> str:
        with pytest.raises(ModelError) as error:
            train(model, pairs, output, config=QUICK, progress=False, **options)
        return one_line(error)

    (tmp_path / "file").touch()
    assert "is a file" in attempt(tmp_path / "file")
    assert "cannot write to" in attempt(tmp_path / "file" / "rm")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for overwrite in (False, True):
        assert "thesis.tex" in attempt(tmp_path / "mine", overwrite=overwrite)
    assert "lies in the output folder" in attempt(base)
    assert "lies in the output folder" in attempt(base.parent, overwrite=True)
    assert base.exists()
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "cannot write to" in attempt(tmp_path / "closed" / "rm")


def test_integration_that_is_not_installed(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=1, report_to=("no-such-logger",))
    with pytest.raises(UnsupportedError, match="no-such-logger, which is unknown or not installed"):
        train(tiny_models("llama", head=False), pairs, tmp_path / "rm", config=config, progress=False)
    assert not (tmp_path / "rm").exists()


def test_damaged_records_are_named(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "rm"
    train(base, pairs, output, config=QUICK, progress=False)
    (output / "training_result.json").write_text('{"output":')
    with pytest.raises(ModelError, match=r"training_result\.json is damaged .*overwrite"):
        train(base, pairs, output, config=QUICK, progress=False)
    (output / "training_result.json").write_text(json.dumps({"settings": {"format_version": 0}}))
    with pytest.raises(ModelError, match="other settings"):
        train(base, pairs, output, config=QUICK, progress=False)
    train(base, pairs, output, config=QUICK, overwrite=True, progress=False)
