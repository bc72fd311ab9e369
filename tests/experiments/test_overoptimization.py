"""The overoptimization experiment: its statistics on curves whose answers are known, and the fast version."""

import importlib
import math
import os
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from prudent.data import World
from prudent.posteriors import EnsembleScorer, ScoredMember, fit, load_scorer
from prudent.rewards import GaussianRewards
from prudent.scoring import read_scored, score
from prudent.training import TrainingConfig
from prudent.utility import RewardSet, parse_utility

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("overoptimization")


@pytest.fixture
def statistics(experiment: ModuleType) -> ModuleType:
    return importlib.import_module("_overopt_statistics")


def rising_and_falling(noise: float, end: float, seed: int = 0) -> torch.Tensor:
    """`[5, 3, 8, 4]` curves that rise by 1 and then go to `end`, with noise on every world, seed and prompt."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.tensor([0.0, 0.6, 1.0, end], dtype=torch.float64)
    worlds = torch.randn(5, 1, 1, 1, generator=generator).double()
    each = torch.randn(5, 3, 8, 4, generator=generator).double()
    return shape + noise * (worlds + each)


def test_a_fall_is_found_and_its_size_is_right(statistics: ModuleType) -> None:
    nested = statistics.Nested(5, 3, 8)
    fall, peak = nested.peak_test(rising_and_falling(0.1, 0.4))
    assert peak == 2
    assert fall.low < 0.6 < fall.high
    assert fall.p_value < 0.01
    share = nested.estimate(statistics.kept, rising_and_falling(0.1, 0.4))
    assert share.low < 0.4 < share.high


def test_noise_alone_is_no_fall(statistics: ModuleType) -> None:
    # 100 sets of curves that go on rising: the p-value, corrected for the search of the peak, is rarely small
    nested = statistics.Nested(5, 3, 8, num_resamples=200)
    flat = [rising_and_falling(1.0, 1.0, seed) for seed in range(100)]
    small = sum(nested.peak_test(curves - curves.new_tensor([1.0, 0.4, 0.0, 0.0]))[0].p_value < 0.05 for curves in flat)
    assert small <= 15  # five worlds are few for a bootstrap, so a little above the nominal 5 of 100


def test_intervals_are_paired_and_cover_worlds(statistics: ModuleType) -> None:
    nested = statistics.Nested(5, 3, 8)
    curves = rising_and_falling(1.0, 0.4)
    apart = nested.estimate(statistics.lead, curves + 0.25, curves)
    assert apart.value == pytest.approx(0.25)
    assert apart.high - apart.low < 1e-9
    of_one_world = torch.zeros(5, 1, 8, 4, dtype=torch.float64)
    of_one_world[0] = 5.0  # a mean of 1 that rests on one world of five
    assert nested.estimate(statistics.end, of_one_world).low == 0.0


def test_a_strength_is_judged_on_other_prompts_than_those_that_chose_it(statistics: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(5, 1, 8, 1, generator=generator).double() for _ in range(40)]
    honest, chosen, _ = statistics.tuned(noise)
    in_hindsight = max(float(one.mean()) for one in noise)
    assert in_hindsight > 0.25  # the best of 40 averages of 40 numbers
    assert abs(float(honest.mean())) < 0.15
    assert float(chosen.sum()) == pytest.approx(1.0)
    better = [one + (2.0 if place == 7 else 0.0) for place, one in enumerate(noise)]
    found, chosen, others = statistics.tuned(
        better, others={"number": [torch.full_like(one, i) for i, one in enumerate(noise)]}
    )
    torch.testing.assert_close(found, better[7])
    assert int(chosen.argmax()) == 7
    assert bool((others["number"] == 7).all())


def test_loss_beyond_the_best_strength(experiment: ModuleType) -> None:
    std = torch.tensor([1.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    variance = torch.tensor([1.0, 2.0, 1.8, 1.6], dtype=torch.float64)
    assert float(experiment._gentler(std, variance)) == pytest.approx((1.0 + 2.0) / 2 - (0.2 + 0.4) / 2)
    assert float(experiment._gentler(variance.sort().values, variance)) == pytest.approx(-0.3)


def test_curves_are_made_anew_for_other_settings(experiment: ModuleType, tmp_path: Path) -> None:
    pools = importlib.import_module("_overopt_pools")
    texts = pools.WorldTexts(0, pools.Sizes(), tmp_path, tmp_path)
    made = []

    def curves(strengths: list[float]) -> dict[str, torch.Tensor]:
        def read() -> dict[str, torch.Tensor]:
            made.append(strengths)
            return {"mean": torch.tensor(strengths)}

        found: dict[str, torch.Tensor] = pools.kept_curves("proxy", 0, texts, [strengths], read)
        return found

    for strengths in ([1.0, 2.0], [1.0, 4.0], [1.0, 2.0]):
        assert curves(strengths)["mean"].tolist() == strengths
    assert made == [[1.0, 2.0], [1.0, 4.0]]


def test_rules_are_the_utilities_of_the_library_and_curves_those_of_all_subsets(experiment: ModuleType) -> None:
    curves = importlib.import_module("_overopt_curves")
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(12, generator=generator).double(), torch.rand(12, generator=generator).double()
    group = torch.arange(2).repeat_interleave(6)
    gold = torch.randn(12, generator=generator).double()
    rewards = curves.Rewards(mean, {"marginal": variance, "centered": 2 * variance})
    pool = curves.Candidates(gold, torch.ones(12).double(), group, torch.ones(12, dtype=torch.bool), [1, 3, 6])
    found = curves.rule_curves(rewards, pool, [1.0], num_shuffles=1, seed=0)
    for rule in curves.RULES:
        unit = rewards.strength_unit(rule, "marginal", group)
        values = rewards.value(rule, "marginal", unit)
        whole = RewardSet({"reward": GaussianRewards(mean, variance, group)})
        torch.testing.assert_close(values, parse_utility(f"{rule}({unit:.17g})")(whole))
        for prompt in range(2):
            rows = (group == prompt).nonzero()[:, 0].tolist()
            picks = [gold[max(some, key=lambda row: float(values[row]))] for some in combinations(rows, 3)]
            expected = sum(map(float, picks)) / math.comb(6, 3)
            assert float(found[f"{rule}/marginal/1"][prompt, 1]) == pytest.approx(expected)


def test_what_is_read_once_gives_what_scoring_gives(experiment: ModuleType, tmp_path: Path) -> None:
    """Features kept of a pool, turned into rewards later, are what `score` writes; members join as an ensemble does."""
    pools, curves = importlib.import_module("_overopt_pools"), importlib.import_module("_overopt_curves")
    texts = pools.WorldTexts(0, pools.Sizes(2, 2, 24, 120), tmp_path, tmp_path)
    options = {"lora": False, "learning_rate": 1e-3, "per_device_train_batch_size": 8}
    table, world = texts.pool(0), World(0)
    pairs, candidates = world.preferences(16, flip=0.25), world.pools(2, 24)
    pool = curves.candidates(table, [1])
    for head in ("refit", "kept"):
        predictions, scorers = [], []
        for seed in range(2):
            proxy = pools.Proxy(0, 16, 0.25, seed)
            read = pools.features(proxy, 0, texts, TrainingConfig(**options, seed=seed))
            predictions.append(curves.last_layer(read, head, pool.group, pool.is_reference))
            place = tmp_path / f"fitted-{head}-{seed}"
            fit(tmp_path / "models" / proxy.name, pairs, place, head=head, progress=False)
            scorers.append(load_scorer(place))
        score(scorers[0], candidates, tmp_path / f"one-{head}", progress=False)
        joined = EnsembleScorer([ScoredMember(f"member {seed}", one) for seed, one in enumerate(scorers)])
        score(joined, candidates, tmp_path / f"all-{head}", progress=False)
        for rewards, kind in ((curves.single(predictions[0]), "one"), (curves.ensemble(predictions), "all")):
            scored = read_scored(tmp_path / f"{kind}-{head}").table
            for column in ("response", "is_reference", "prompt_id"):
                assert scored[column].to_pylist() == table[column].to_pylist()
            mean = torch.from_numpy(scored["reward_mean"].to_numpy().copy())
            # the experiment reads in bfloat16: half a percent of the spread
            assert float((rewards.mean - mean).std()) < 0.03 * float(mean.std())
            for name, column in (("marginal", "reward_variance"), ("centered", "reward_centered_variance")):
                wanted = torch.from_numpy(scored[column].to_numpy().copy())
                assert float((rewards.variance[name] - wanted).abs().median()) < 0.03 * float(wanted.median())


def test_the_fast_version_fills_the_table(experiment: ModuleType, tmp_path: Path) -> None:
    config = experiment.fast(yaml.safe_load((experiment.RESULTS / "config.yaml").read_text()))
    table = experiment.experiment(config, tmp_path, tmp_path)
    rows = table.to_pylist()
    ends = {
        (row["model"], row["posterior"], row["proxy"], row["rule"], row["variance"], row["strength"]): row["value"]
        for row in rows
        if row["statistic"] == "gold" and row["n"] == 96
    }
    settings = [("full", "refit"), ("full", "kept"), ("frozen", "refit"), ("lora", "kept"), ("lora", "ekfac")]
    for model, posterior in settings:
        oracle = ends[model, posterior, "", "oracle", "", ""]
        values = [value for key, value in ends.items() if key[:2] == (model, posterior) and "minus" not in key[3]]
        # three controls; for a single proxy and an ensemble MAP, least variances, rules at all strengths
        num_proxies = 1 if model == "frozen" else 2
        assert len(values) == 3 + num_proxies * (3 + 2 * 2 * 4)
        assert all(math.isfinite(value) and value <= oracle + 1e-6 for value in values)
    leads = {
        (row["model"], row["posterior"], row["proxy"], row["rule"], row["variance"], row["statistic"]): row["value"]
        for row in rows
        if row["statistic"].startswith("lead over") and row["strength"] in ("", "tuned")
    }
    # posteriors of the same proxies are compared with each other, and ensembles with their members
    for rule, variance, strength in (("mean", "", ""), ("lcb_std", "centered", "tuned")):
        at = (rule, variance, strength)
        for posterior, others in {"kept": ["refit"], "ekfac": ["refit", "kept"]}.items():
            for other in others:
                apart = ends["lora", posterior, "ensemble", *at] - ends["lora", other, "ensemble", *at]
                found = leads["lora", posterior, "ensemble", rule, variance, f"lead over {other}"]
                assert found == pytest.approx(apart, abs=1e-5)
        apart = ends["lora", "ekfac", "ensemble", *at] - ends["lora", "ekfac", "single", *at]
        assert leads["lora", "ekfac", "ensemble", rule, variance, "lead over single"] == pytest.approx(apart, abs=1e-5)
    # the lab reads the same proxies, and has the same curve of the mean
    lab = experiment.lab_tables(config, tmp_path, tmp_path).to_pylist()
    for proxy in ("single", "ensemble"):
        (value,) = [
            row["gold"]
            for row in lab
            if (row["proxy"], row["curve"], row["n"], row["scale"]) == (proxy, "mean", 96, "gold")
        ]
        assert value == pytest.approx(ends["full", "refit", proxy, "mean", "", ""], abs=1e-5)
