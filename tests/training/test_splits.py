"""`train` on a source with several splits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prudent.errors import DataError
from prudent.training import TrainingConfig, train

QUICK = TrainingConfig(max_steps=1, per_device_train_batch_size=2)


@pytest.fixture
def folder(pairs: list[dict[str, Any]], eval_pairs: list[dict[str, Any]], tmp_path: Path) -> Path:
    place = tmp_path / "sets"
    place.mkdir()
    for name, rows in (("train", pairs[:20]), ("test", eval_pairs), ("dev", eval_pairs[:5])):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.mark.parametrize(
    ("chosen", "sizes"),
    [
        ({}, (20, 0)),
        ({"eval_split": "dev"}, (20, 5)),
        ({"split": "dev", "eval_split": "train"}, (5, 20)),
        ({"eval_data": True}, (20, 16)),
        ({"eval_data": True, "eval_split": "dev"}, (20, 5)),
    ],
)
def test_splits_are_chosen(
    chosen: dict[str, Any], sizes: tuple[int, int], folder: Path, tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    if "eval_data" in chosen:
        chosen = {**chosen, "eval_data": folder}
    result = train(tiny_models("llama", head=False), folder, tmp_path / "rm", config=QUICK, progress=False, **chosen)
    assert (result.num_pairs, result.num_eval_pairs) == sizes


def test_what_cannot_be_held_out(folder: Path, tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_models("llama", head=False)
    with pytest.raises(DataError, match="no 'test' to evaluate on"):
        train(base, folder / "train.jsonl", tmp_path / "rm", eval_split="test", config=QUICK, progress=False)
    with pytest.raises(DataError, match="'train' is to be trained and evaluated on"):
        train(base, folder, tmp_path / "rm", eval_split="train", config=QUICK, progress=False)
    assert not (tmp_path / "rm").exists()
