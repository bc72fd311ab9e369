"""Several runs from one model: their seeds, their folders, and what happens when they are cut off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prudent.data import Preferences, resample_prompts
from prudent.errors import ModelError
from prudent.training import TrainingConfig, load_training_pairs, train, train_members
from prudent.training._trainer import PairTrainer

Pairs = list[dict[str, Any]]
CONFIG = TrainingConfig(max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=2, save_steps=1, seed=5)


@pytest.fixture(scope="module")
def loaded(pairs: Pairs, eval_pairs: Pairs) -> tuple[Preferences, Preferences]:
    train_pairs, held_out = load_training_pairs(pairs, eval_data=eval_pairs)
    assert held_out is not None
    return train_pairs, held_out


@pytest.fixture(scope="module")
def whole(
    tiny_models: Callable[..., Path],
    loaded: tuple[Preferences, Preferences],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    output = tmp_path_factory.mktemp("whole") / "members"
    found = train_members(
        tiny_models("llama", head=False), [loaded[0]] * 2, output, eval_data=loaded[1], config=CONFIG, progress=False
    )
    assert [result.settings["seed"] for result in found] == [5, 6]
    assert all(result.accuracy is not None for result in found)
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "adapter_model.safetensors")
    return found


def assert_same(first: Path, second: Path) -> None:
    expected, found = weights(first), weights(second)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-6)


def test_members_differ_in_head_and_adapters_and_each_is_the_run_of_its_seed(
    whole: Path, tiny_models: Callable[..., Path], pairs: Pairs, eval_pairs: Pairs, tmp_path: Path
) -> None:
    first, second = weights(whole / "member_0"), weights(whole / "member_1")
    assert all(not torch.equal(value, second[name]) for name, value in first.items())
    own = TrainingConfig(**{**vars(CONFIG), "seed": 6})
    train(tiny_models("llama", head=False), pairs, tmp_path / "rm", eval_data=eval_pairs, config=own, progress=False)
    assert_same(whole / "member_1", tmp_path / "rm")


def test_cut_off_it_goes_on_inside_the_member_and_leaves_finished_ones_alone(
    whole: Path,
    tiny_models: Callable[..., Path],
    loaded: tuple[Preferences, Preferences],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    base, output = tiny_models("llama", head=False), tmp_path / "members"
    trained_step = PairTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.args.seed == 6 and self.state.global_step == 2:
            raise KeyboardInterrupt
        return trained_step(self, *args, **kwargs)

    def run(**options: Any) -> Any:
        return train_members(base, [loaded[0]] * 2, output, eval_data=loaded[1], config=CONFIG, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PairTrainer, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt, match="member_1"):
            run()
    assert "Member 2 of 2: Training" in capfd.readouterr().err
    written = (output / "member_0" / "adapter_model.safetensors").stat().st_mtime_ns
    # Whoever says overwrite each time loses nothing either.
    found = run(progress=False, overwrite=True)
    assert [result.already_finished for result in found] == [True, False]
    assert found[1].resumed_from_step == 2
    assert (output / "member_0" / "adapter_model.safetensors").stat().st_mtime_ns == written
    for member in ("member_0", "member_1"):
        assert_same(whole / member, output / member)


def test_other_settings_are_refused_before_anything_is_trained_and_members_can_be_added(
    whole: Path, tiny_models: Callable[..., Path], loaded: tuple[Preferences, Preferences]
) -> None:
    base = tiny_models("llama", head=False)
    options: dict[str, Any] = {"eval_data": loaded[1], "config": CONFIG, "progress": False}
    before = weights(whole / "member_0")
    other = TrainingConfig(**{**vars(CONFIG), "lora_alpha": 3})
    with pytest.raises(ModelError, match="member_0 holds a finished run with other settings"):
        train_members(base, [loaded[0]] * 2, whole, **(options | {"config": other}))
    resampled = [loaded[0], resample_prompts(loaded[0], 6)]
    with pytest.raises(ModelError, match=r"member_1 holds a finished run with other settings \(data was"):
        train_members(base, resampled, whole, **options)
    found = train_members(base, [loaded[0]] * 3, whole, **options)
    assert [result.already_finished for result in found] == [True, True, False]
    with pytest.raises(ModelError, match="holds member_2 beside the 2 members asked for"):
        train_members(base, [loaded[0]] * 2, whole, **options)
    train_members(base, [loaded[0]] * 2, whole, **options, overwrite=True)
    assert not (whole / "member_2").exists()
    assert all(torch.equal(value, before[name]) for name, value in weights(whole / "member_0").items())


def test_a_folder_of_something_else_is_left_alone(
    tiny_models: Callable[..., Path], loaded: tuple[Preferences, Preferences], tmp_path: Path
) -> None:
    base = tiny_models("llama", head=False)
    (tmp_path / "member_0.partial").mkdir()  # a posterior that was being fitted is nothing foreign
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ModelError, match=r"files of something else \(notes.txt\)"):
            train_members(base, [loaded[0]] * 2, tmp_path, config=CONFIG, overwrite=overwrite)
    with pytest.raises(ModelError, match="lies in the output folder"):
        train_members(base, [loaded[0]] * 2, base.parent, config=CONFIG)
