"""Training by the order-consistent classification loss."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import IterableDataset

from prudent.errors import DataError, ModelError
from prudent.models import RewardModel
from prudent.training import TrainingConfig, train

Pairs = list[dict[str, Any]]
QUICK = TrainingConfig(loss="classification", max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4)


def test_soft_labels_and_smoothing_reach_the_loss(
    tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path
) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"))
    labelled = [pair | {"margin": 0.0, "p_chosen": 0.5 + 0.01 * i} for i, pair in enumerate(pairs)]
    config = TrainingConfig(
        loss="classification",
        max_steps=1,
        learning_rate=1e-9,
        per_device_train_batch_size=48,
        label_smoothing=0.1,
        lora=False,
    )
    result = train(tiny_models("llama"), labelled, tmp_path / "rm", config=config, progress=False)
    prompts = [pair["prompt"] for pair in pairs]
    rewards = torch.cat([model.rewards(prompts, [pair[side] for pair in pairs]) for side in ("chosen", "rejected")])
    p = torch.tensor([pair["p_chosen"] for pair in labelled])
    t = p * 0.9 + (1 - p) * 0.1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(rewards, torch.cat([t, 1 - t]))
    assert result.train_loss == pytest.approx(expected.item(), abs=1e-4)
    card = (tmp_path / "rm" / "README.md").read_text()
    assert "by the order-consistent classification loss (arXiv 2411.04991)" in card
    assert "only after calibration" in card


def test_learns_which_response_wins_and_orders_pairs_by_it(
    tiny_models: Callable[..., Path], pairs: Pairs, eval_pairs: Pairs, tmp_path: Path
) -> None:
    config = TrainingConfig(
        loss="classification", num_train_epochs=6, learning_rate=1e-2, per_device_train_batch_size=4
    )
    train(tiny_models("llama", head=False), pairs, tmp_path / "rm", config=config, progress=False)
    model = RewardModel.from_pretrained(tmp_path / "rm")
    prompts = [pair["prompt"] for pair in eval_pairs]
    chosen, rejected = (model.rewards(prompts, [pair[side] for pair in eval_pairs]) for side in ("chosen", "rejected"))
    assert (chosen > rejected).float().mean() >= 0.9
    # The labels fix the constant, which preferences leave free: winners are above zero, losers below.
    assert ((chosen > 0).float().mean() + (rejected < 0).float().mean()) / 2 >= 0.9


def test_pairs_with_margins_are_refused_before_a_model_is_loaded(pairs: Pairs, tmp_path: Path) -> None:
    labelled = [pair | {"margin": 0.5 if place == 7 else 0.0} for place, pair in enumerate(pairs)]
    with pytest.raises(DataError, match=r"1 pairs have a margin \(row 7 first\).*leave the column margin out"):
        train(tmp_path / "no-model", labelled, tmp_path / "rm", config=QUICK)
    with pytest.raises(DataError, match="margins cannot be classified"):
        train(tmp_path / "no-model", IterableDataset.from_generator(lambda: iter(labelled)), tmp_path, config=QUICK)


def test_a_run_resumes_under_its_own_loss_alone(tiny_models: Callable[..., Path], pairs: Pairs, tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=2, learning_rate=1e-2)
    base, output = tiny_models("llama", head=False), tmp_path / "rm"
    train(base, pairs, output, config=config, progress=False)
    # As an earlier version, which had the one loss, left it.
    record = json.loads((output / "training_result.json").read_text())
    assert record["settings"].pop("loss") == "bradley_terry"
    (output / "training_result.json").write_text(json.dumps(record))
    assert train(base, pairs, output, config=config, progress=False).already_finished
    other = TrainingConfig(loss="classification", max_steps=2, learning_rate=1e-2)
    with pytest.raises(ModelError, match="loss was 'bradley_terry', is 'classification'"):
        train(base, pairs, output, config=other, progress=False)
