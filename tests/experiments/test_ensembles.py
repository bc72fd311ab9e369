"""The ensembles experiment: rules on members against brute force, laws that are planted, and the fast version."""

import importlib
import math
import os
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from prudent.rewards import MemberRewards
from prudent.selection import best_of_n_kl
from prudent.utility import RewardSet, parse_utility

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
N_VALUES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 12500]


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("ensembles")


def test_rules_on_members_against_all_subsets(experiment: ModuleType) -> None:
    curves = importlib.import_module("_overopt_curves")
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(7, 5, generator=generator).double()
    gold = torch.randn(7, generator=generator).double()
    group = torch.zeros(7, dtype=torch.long)
    pool = curves.Candidates(gold, torch.ones(7).double(), group, torch.ones(7, dtype=torch.bool), [1, 3])
    deviations = members - experiment.reference_means(members, pool.group, pool.is_reference)
    torch.testing.assert_close(deviations, members - members.mean(0))
    config = {"uwo_weight": 0.5, "strengths": [1.0]}
    found = experiment.member_curves(members, deviations, pool, config)
    rewards = RewardSet({"reward": MemberRewards(members, group, ddof=0)})
    # Coste et al.: the population variance, which is lcb_var of members with ddof 0
    values = {
        "mean": members.mean(1),
        "worst": parse_utility("worst")(rewards),
        "uwo": parse_utility("lcb_var(0.5)")(rewards),
        "uwo, centered": members.mean(1) - 0.5 * deviations.var(1, correction=0),
        "worst, centered": deviations.amin(1),
    }
    for rule, value in values.items():
        picks = [float(gold[max(some, key=lambda row: float(value[row]))]) for some in combinations(range(7), 3)]
        assert float(found[rule][0, 0, 1]) == pytest.approx(sum(picks) / math.comb(7, 3)), rule
    torch.testing.assert_close(found["single"][:, 0, 0], gold.mean().expand(5))


def planted(alpha: float, beta: float, noise: float, seed: int) -> torch.Tensor:
    """`[5, 2, 6, L]` gold curves around R = d (alpha - beta d)."""
    d = best_of_n_kl(N_VALUES).sqrt()
    generator = torch.Generator().manual_seed(seed)
    level = 2.0 + torch.randn(5, 2, 6, 1, generator=generator).double()  # gold at n = 1 differs between prompts
    slope = alpha + noise * torch.randn(5, 2, 6, 1, generator=generator).double()
    return level + d * (slope - beta * d)


def test_planted_laws_are_found_with_their_peaks_and_slopes(experiment: ModuleType) -> None:
    statistics = importlib.import_module("_overopt_statistics")
    worlds = statistics.Worlds(5, 6, num_resamples=300)
    config = {"n_values": N_VALUES, "early_n": 256, "num_pairs": 0}
    laws = {100: (1.0, 0.4), 200: (1.5, 0.35), 400: (2.0, 0.3)}
    curves = {str(size): planted(*law, 0.2, size) for size, law in laws.items()}
    rows = experiment.law_rows(0.25, "frozen", curves, worlds, config)

    def row(statistic: str, size: int, strength: str = "") -> dict[str, float]:
        (found,) = [
            one for one in rows if (one["statistic"], one["num_pairs"], one["strength"]) == (statistic, size, strength)
        ]
        return found

    for size, (alpha, beta) in laws.items():
        for part in ("all n", "n <= 256"):
            assert (
                row("alpha", size, f"best_of_n, {part}")["low"]
                < alpha
                < row("alpha", size, f"best_of_n, {part}")["high"]
            )
            assert row("beta", size, f"best_of_n, {part}")["value"] == pytest.approx(beta, abs=1e-6)
        # a fit on small n predicts the largest one, where the law holds
        early = row("gain at the largest n by the law", size, "best_of_n, n <= 256")
        assert early["value"] == pytest.approx(row("gain", size)["value"], abs=1e-6)
        d = alpha / (2 * beta)
        assert row("peak_kl", size, "best_of_n, all n")["value"] == pytest.approx(d * d, rel=0.25)
    slope = row("alpha per doubling of pairs", 0)
    assert slope["low"] < 0.5 < slope["high"]
    assert row("beta per doubling of pairs", 0)["value"] == pytest.approx(-0.05, abs=1e-6)


def test_the_fast_version_fills_the_table(experiment: ModuleType, tmp_path: Path) -> None:
    config = experiment.fast(yaml.safe_load((experiment.RESULTS / "config.yaml").read_text()))
    rows = experiment.experiment(config, tmp_path, tmp_path).to_pylist()
    for kind in experiment.KINDS:
        first = {
            row["rule"]: row["value"]
            for row in rows
            if row["kind"] == kind and row["statistic"] == "gold" and row["n"] == 1 and not row["strength"]
        }
        assert set(first) == {"single", "mean", "worst", "worst, centered", "uwo", "uwo, centered", "uwo, tuned"}
        assert max(first.values()) - min(first.values()) < 1e-5  # of one candidate every rule picks the same
    sizes = {row["num_pairs"] for row in rows if row["kind"] == "frozen" and row["statistic"] == "alpha"}
    assert sizes == set(config["law_sizes"])
    assert all(math.isfinite(row["value"]) for row in rows if row["statistic"] in ("gold", "alpha", "beta", "gain"))
