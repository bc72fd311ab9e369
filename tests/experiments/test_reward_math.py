"""Rules on public models' scores: figures that count by hand, and the fast version on a real slice."""

import importlib
from pathlib import Path

import pytest
import torch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("reward_math")


def test_solutions_of_one_value_are_ranked_at_random(experiment):
    values = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [2.0, 1.0, 1.0]], dtype=torch.float64)
    right = torch.tensor([[True, False, False], [False, True, False], [False, False, True]])
    first, reciprocal = experiment.placed(values, right)
    torch.testing.assert_close(first, torch.tensor([1, 1 / 3, 0], dtype=torch.float64))
    torch.testing.assert_close(
        reciprocal, torch.tensor([1, (1 + 1 / 2 + 1 / 3) / 3, (1 / 2 + 1 / 3) / 2], dtype=torch.float64)
    )


def test_fast_version_runs_on_a_real_slice(experiment, shared_data):
    path = shared_data / "ci" / "rewardmath_scores_32.jsonl"
    problems = experiment.load(path, "rm")
    results, kept = experiment.run(problems, 2, 1)
    assert len(problems) == 32
    assert len(kept) == 9
    accuracy = {rule: values[:, :, 0].nanmean(0) for rule, values in results.items()}
    assert accuracy["random"].mean().item() == pytest.approx(0.1)
    assert accuracy["oracle, any model kept"].mean() > accuracy["best model in hindsight"].mean()
    # by hand: the mean of the scores times their scales, of the second half calibrated on the first
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    found = experiment.calibrated(problems.taking(order[:16]))
    assert {name for name, share in kept.items() if share > 0} >= set(found)
    together = sum(one.scale * problems.scores[name] for name, one in found.items())[order[16:]]
    first = (together.argmax(1) == problems.right[order[16:]].double().argmax(1)).double()
    torch.testing.assert_close(results["mean"][0, order[16:], 0], first)
    assert results["mean"][0, order[:16], 0].isnan().all()
    # rules that are one on Gaussians differ on members
    assert not torch.equal(accuracy["entropic, 4"], accuracy["UWO, 1"])
    rows = {row["rule"]: row for row in experiment.rule_rows("rm", 16, results)}
    assert rows["mean"]["accuracy_minus_mean"] == 0
    for row in rows.values():
        assert row["accuracy_low"] <= row["accuracy"] + 1e-9
        assert row["mrr"] >= row["accuracy"] - 1e-9
