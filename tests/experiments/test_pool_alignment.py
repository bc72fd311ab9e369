"""Alignment over pools: optima and gradients against autograd and the library, statistics against brute force."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import Tensor

from prudent.alignment import sign_weights, signcert_weights
from prudent.alignment.bandit import kl_optimum, weighted_kl_optimum
from prudent.rewards import GaussianRewards

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
RESULTS = EXPERIMENTS / "pool_alignment"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    module = importlib.import_module("pool_alignment")
    monkeypatch.setattr(importlib.import_module("_features"), "CACHE", tmp_path)
    monkeypatch.setattr(importlib.import_module("_alignment_pools"), "BASES", tmp_path / "bases")
    return module


@pytest.fixture
def policies(experiment: ModuleType) -> ModuleType:
    return importlib.import_module("_alignment_policies")


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def references(*counts: int) -> Tensor:
    """`[B, n]` uniform over so many candidates each."""
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return torch.where(mask, 0.0, -torch.inf).double().log_softmax(-1)


def pool_of(counts: tuple[int, ...], size: int, seed: int = 0) -> Any:
    pools = importlib.import_module("_alignment_pools")
    group = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    features, gold, length = tensors((len(group), size), (len(group),), (len(group),), seed=seed)
    return pools.Pool(features.float(), group, gold, (100 + 20 * length).float())


def judged_of(pool: Any, mean: Tensor, factor: Tensor, num_members: int = 4, seed: int = 0) -> Any:
    draws = tensors((factor.shape[1], num_members), seed=seed)[0].float()
    variance = factor.square().sum(1)
    judged = importlib.import_module("_alignment_pools").Judged
    return judged(mean.float(), variance, variance, factor, mean.float()[:, None] + factor @ draws)


@pytest.mark.parametrize("form", ["exact", "in_reward", "whole", "apart"])
def test_pull_is_the_policy_gradient_by_autograd(policies: ModuleType, form: str) -> None:
    log_reference = references(5, 3)
    mask = log_reference.isfinite()
    reward, raw, start, fixed = tensors((2, 1, 2, 5), (2, 3, 2, 5), (2, 3, 2, 5), (2, 3, 2, 5), seed=2)
    reward, coefficient, weights = reward * mask, raw.exp(), fixed.sigmoid()
    logits = torch.where(mask, start, 0.0).requires_grad_()
    log_policy = (log_reference + logits).log_softmax(-1)
    policy, ratio = log_policy.exp(), policies.log_ratio(log_policy, log_reference)
    worth = reward - coefficient * ratio
    if form == "exact":
        objective = policy * worth
    elif form == "in_reward":  # each sample has its reward, whatever it was made of
        objective = policy * worth.detach()
    elif form == "whole":
        objective = policy * (weights * policies.advantages(worth, policy)).detach()
    else:
        penalty = policy * coefficient * ratio
        objective = policy * (weights * policies.advantages(reward, policy)).detach() - penalty
    objective.sum().backward()
    rule = policies.GradientRule(
        reward,
        coefficient,
        exact=form != "in_reward",
        weigh=None if form in ("exact", "in_reward") else lambda policy, advantage: weights,
        is_whole=form == "whole",
    )
    if form == "whole":
        rule = policies.GradientRule(reward, coefficient, exact=False, weigh=rule.weigh, is_whole=True)
    given = rule.weights(policy.detach())
    pull = rule.pull(log_policy.detach(), log_reference, given)
    assert logits.grad is not None
    torch.testing.assert_close(pull * mask, logits.grad)


@pytest.mark.parametrize("kl_form", ["exact", "in_reward"])
def test_closed_forms_are_where_the_pull_vanishes(policies: ModuleType, kl_form: str) -> None:
    log_reference = references(6, 4)
    reward, raw = tensors((2, 1, 2, 6), (2, 3, 2, 6), seed=3)
    reference, coefficient = log_reference.exp(), 0.4 * raw.exp()
    policy = weighted_kl_optimum(reward.expand(2, 3, 2, 6), coefficient, reference, 1.0, kl_form=kl_form)
    rule = policies.GradientRule(reward, coefficient, exact=kl_form == "exact")
    pull = rule.pull(policy.log(), log_reference, None)
    torch.testing.assert_close(pull, torch.zeros_like(pull), rtol=0, atol=1e-9)
    if kl_form == "in_reward":  # it is the exact objective of a reward with a bonus for the variance
        bonus = weighted_kl_optimum(reward + coefficient, coefficient, reference, 1.0)
        torch.testing.assert_close(policy, bonus)
    else:  # without a reward it leaves the reference for small variance
        still = weighted_kl_optimum(torch.zeros_like(coefficient), coefficient, reference, 1.0)
        assert bool(((still - reference) * coefficient).sum(-1).lt(0).all())


def test_gradient_ascent_with_a_parameter_a_candidate_ends_at_the_optimum(policies: ModuleType) -> None:
    log_reference = references(4)
    reward, raw = tensors((2, 1, 1, 4), (2, 1, 1, 4), seed=4)
    kl_coef = torch.tensor([[0.6, 1.2], [0.8, 1.5]]).double()
    reward, coefficient = 0.5 * reward, kl_coef[..., None, None] * (0.5 + raw.sigmoid())
    features = 2 * torch.eye(4).double()[None]
    rule = policies.GradientRule(reward, coefficient)
    found = policies.linear_policy(rule, kl_coef, features, log_reference, num_steps=600)
    expected = weighted_kl_optimum(reward.expand_as(coefficient), coefficient, log_reference.exp(), 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    # weights of whole advantages leave the optimum where it is
    plain = policies.GradientRule(
        reward, kl_coef[..., None, None], weigh=lambda policy, advantage: 0.2 + 0.6 * raw.sigmoid(), is_whole=True
    )
    found = policies.linear_policy(plain, kl_coef, features, log_reference, num_steps=1000)
    expected = kl_optimum(reward, log_reference.exp(), kl_coef[..., None, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_sign_weights_at_the_reference_are_those_of_the_library(policies: ModuleType) -> None:
    pool = pool_of((5, 3), 4)
    mean, *_ = tensors((8,), seed=5)
    gram = pool.gram(pool.features)
    policy = pool.log_reference.exp()[None, None]
    advantage = policies.advantages(pool.table(mean)[None, None], policy)
    found = policies.sign_rule(gram[None])(policy, advantage).flatten()[pool.places]
    variance = pool.features.square().sum(1)
    rewards = GaussianRewards(mean.float(), variance, pool.group, pool.features, basis_id="test")
    torch.testing.assert_close(found, sign_weights(rewards).float(), rtol=1e-4, atol=1e-5)


def test_signcert_weights_at_the_reference_are_those_of_the_library(policies: ModuleType) -> None:
    pool = pool_of((5, 5, 5), 4)  # an odd number: the median is one of the distances
    mean, *_ = tensors((15,), seed=6)
    policy = pool.log_reference.exp()[None, None]
    advantage = policies.advantages(pool.table(mean)[None, None], policy)
    found = policies.signcert_rule(pool.gram(pool.features)[None], 0.5)(policy, advantage).flatten()[pool.places]
    expected = signcert_weights(mean, pool.features, pool.group, quantile=0.5)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


def test_weighted_advantages_end_where_they_balance_the_penalty(policies: ModuleType) -> None:
    pool = pool_of((6, 4), 3)
    reward = pool.table(tensors((10,), seed=7)[0])[None, None]
    kl_coef = torch.tensor([[0.5, 1.0]])
    weigh = policies.sign_rule(pool.gram(pool.features)[None])
    policy = policies.weighted_advantage_policy(reward, kl_coef, pool.log_reference, weigh, num_steps=100, every=1)
    advantage = policies.advantages(reward, policy)
    pulled = weigh(policy, advantage) * advantage / kl_coef[..., None, None]
    off = pulled - policies.log_ratio(policy.log(), pool.log_reference)
    mask = pool.log_reference.isfinite()
    off = torch.where(mask, off - (policy * off).sum(-1, keepdim=True), 0.0)
    torch.testing.assert_close(off, torch.zeros_like(off), rtol=0, atol=1e-3)


def test_white_features_are_white(experiment: ModuleType) -> None:
    pool = pool_of((7, 5, 6), 4)
    white = pool.white_features(3)
    weight = pool.log_reference.exp() / 3
    torch.testing.assert_close(torch.einsum("bn,bnk->bk", weight, white), torch.zeros(3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.einsum("bn,bnk,bnl->kl", weight, white, white), torch.eye(3), rtol=0, atol=1e-4)


def test_values_are_read_at_equal_kl(policies: ModuleType) -> None:
    kl = torch.tensor([[0.3, 0.2, 0.5, 1.0], [0.01, 0.04, 0.09, 0.16]])
    values = kl.sqrt()[..., None].expand(2, 4, 3)
    found = policies.at_kl(values, kl, torch.tensor([0.1, 0.4]))
    assert bool(found[0, 0].isnan().all())  # the least KL is above it
    torch.testing.assert_close(found[0, 1], torch.full((3,), 0.4**0.5))
    torch.testing.assert_close(found[1, 0], torch.full((3,), 0.1**0.5))
    assert bool(found[1, 1].isnan().all())  # nor does anything come up to it


def test_statistics_against_brute_force(experiment: ModuleType) -> None:
    statistics = importlib.import_module("_alignment_statistics")
    outcomes = [{"gain": tensors((6, 4, 2, 3), seed=seed)[0] + 0.2, "kl": torch.ones(6, 4, 2, 3)} for seed in (8, 9)]
    table = statistics.rows(outcomes, ["mean", "other"], [0.1, 1.0, 2.0], 200)

    def row(statistic: str, arm: str, kl: float) -> dict[str, float]:
        (found,) = [one for one in table if (one["statistic"], one["arm"], one["kl"]) == (statistic, arm, kl)]
        return found

    for column, arm in enumerate(("mean", "other")):
        for line, kl in enumerate((0.1, 1.0, 2.0)):
            gains = [one["gain"][:, :, column, line] for one in outcomes]
            expected = {
                "gain": [one.mean() for one in gains],
                "run_std": [one.mean(1).std(correction=0) for one in gains],
                "prompt_std": [one.std(0, correction=0).mean() for one in gains],
                "run_below": [(one.mean(1) < 0).double().mean() for one in gains],
                "prompt_below": [(one < 0).double().mean() for one in gains],
                "kl": [torch.tensor(1.0)] * 2,
            }
            for statistic, values in expected.items():
                found = row(statistic, arm, kl)
                assert found["value"] == pytest.approx(float(sum(values)) / 2, abs=1e-5), statistic
                if statistic == "gain":
                    assert found["low"] < found["value"] < found["high"]
                first = row(statistic, "mean", kl)["value"]
                assert found["minus_mean_value"] == pytest.approx(found["value"] - first, abs=1e-5)


def test_known_noise_of_differing_size_rewards_care(experiment: ModuleType, policies: ModuleType) -> None:
    arms = importlib.import_module("_alignment_arms")
    pool = pool_of((30,) * 20, 2)
    noisy = torch.rand(600, generator=torch.Generator().manual_seed(1)) < 0.5
    factor = torch.where(noisy, 3.0, 0.3)  # a column each would be exact; within a prompt the diagonal matters alone
    judged, seeds = [], range(12)
    for seed in seeds:
        noise = tensors((600,), seed=100 + seed)[0].float()
        judged.append(judged_of(pool, pool.gold.float() + factor * noise, factor[:, None]))
    block = arms.Block(judged, pool, seeds, 0.5)
    statistics = importlib.import_module("_alignment_statistics")
    names = ("mean", "lcb", "variance_kl", "variance_kl_in_reward", "variance_kl, shuffled")
    found = {}
    for name in names:
        recipe = block.recipe(name)
        kl_coef = recipe.spread[:, None] * experiment.grid({"high": 12.0, "low": 0.1, "num": 16})
        values = experiment.measured(recipe.optimum(kl_coef, pool.log_reference), block)
        found[name] = policies.at_kl(values, values[..., -1].mean(-1), torch.tensor([0.7]))
    stacked = torch.stack([found[name] for name in names], 3).permute(0, 2, 3, 1, 4)
    table = statistics.rows([experiment.gains(stacked, pool)], names, [0.7], 100)
    said = {(one["arm"], one["statistic"]): one for one in table}
    for name in ("lcb", "variance_kl"):
        assert said[name, "gain"]["minus_mean_low"] > 0
        assert said[name, "prompt_below"]["minus_mean_high"] < 0
        assert said[name, "gain"]["low"] > said["variance_kl, shuffled", "gain"]["high"]


def test_a_constant_variance_changes_no_policy(experiment: ModuleType) -> None:
    arms = importlib.import_module("_alignment_arms")
    pool = pool_of((6, 4), 2)
    mean, *_ = tensors((10,), seed=11)
    block = arms.Block([judged_of(pool, mean, torch.ones(10, 1))], pool, [0], 0.5)
    kl_coef = torch.tensor([[0.5, 1.0]])
    expected = block.recipe("mean").optimum(kl_coef, pool.log_reference)
    for name in ("variance_kl", "variance_kl_in_reward", "variance_kl, shuffled", "lcb", "penalty of variance_kl"):
        found = block.recipe(name).optimum(kl_coef, pool.log_reference)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_length_is_taken_out_of_a_variance_or_left_alone_in_it(experiment: ModuleType) -> None:
    arms = importlib.import_module("_alignment_arms")
    pool = pool_of((6, 4), 2)
    block = arms.Block([judged_of(pool, pool.gold, (pool.length / 50).sqrt()[:, None])], pool, [0], 0.5)
    of_length, other = (block.weight(kind)[0, 0].flatten()[pool.places] for kind in ("length", "length out"))
    torch.testing.assert_close(of_length, block.weight("own")[0, 0].flatten()[pool.places], rtol=1e-4, atol=1e-4)
    for prompt in range(2):
        own = other[pool.group == prompt]
        torch.testing.assert_close(own, own[:1].expand_as(own), rtol=1e-4, atol=1e-4)


def test_the_fast_version_fills_the_table(experiment: ModuleType, tmp_path: Path) -> None:
    config = experiment.load_config(fast=True)
    table = experiment.committed(experiment.experiment(None, config, tmp_path)).to_pylist()
    for kind, names in experiment.POLICIES.items():
        targets = config["linear_kl_targets" if kind == "linear" else "kl_targets"]
        own = [row for row in table if row["policy"] == kind]
        assert {(row["arm"], round(row["kl"], 3)) for row in own} == {(name, kl) for name in names for kl in targets}
        measured_kl = [row for row in own if row["statistic"] == "kl" and row["arm"] == "mean"]
        assert [row["value"] for row in measured_kl] == pytest.approx(targets, rel=0.15)  # between few coefficients
    oracle = [row["value"] for row in table if row["arm"] == "oracle" and row["statistic"] == "prompt_below"]
    assert oracle
    assert max(oracle) == 0


def test_without_data_the_table_stays(
    experiment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    monkeypatch.setattr(experiment, "experiment", lambda *_: pytest.fail("nothing is to be run"))
    monkeypatch.setattr(sys, "argv", ["pool_alignment.py"])
    with pytest.raises(SystemExit, match="2"):
        experiment.main()
    assert "give --data" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_committed_results_hold_what_the_config_asks_for(experiment: ModuleType) -> None:
    config = yaml.safe_load((RESULTS / "config.yaml").read_text())
    place = RESULTS / "results.parquet"
    assert place.stat().st_size < 300_000
    table = pq.read_table(place).to_pylist()
    assert {row["setting"] for row in table} == set(config["settings"])
    for kind, names in experiment.POLICIES.items():
        own = [row for row in table if row["policy"] == kind]
        assert {row["arm"] for row in own} == set(names)
        asked = config["num_seeds" if kind == "tabular" else "num_linear_seeds"]
        assert {row["setting"]: row["num_seeds"] for row in own} == asked
