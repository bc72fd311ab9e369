"""The overoptimization experiment: its statistics on curves whose answers are known, and the fast version."""

import importlib
import math
import os
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

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
    worlds = statistics.Worlds(5, 8)
    fall, peak = worlds.peak_test(rising_and_falling(0.1, 0.4))
    assert peak == 2
    assert fall.low < 0.6 < fall.high
    assert fall.p_value < 0.01
    share = worlds.estimate(statistics.kept, rising_and_falling(0.1, 0.4))
    assert share.low < 0.4 < share.high


@pytest.mark.parametrize(("world", "seed", "prompt", "cell"), [(0, 0, 1, 1), (0.3, 1, 0.5, 0.5), (1, 0.3, 0.3, 0.3)])
def test_coverage_and_size_whatever_it_is_that_varies(
    statistics: ModuleType, world: float, seed: float, prompt: float, cell: float
) -> None:
    """Curves whose mean is 0 at every n: an interval covers it in 95 of 100, and noise alone is a fall in 5."""
    num_sets = 400
    generator = torch.Generator().manual_seed(0)
    worlds = statistics.Worlds(5, 8, num_resamples=300)

    def walks(*shape: int) -> torch.Tensor:  # neighbours on the grid go together
        return torch.randn(num_sets, *shape, 6, generator=generator).double().cumsum(-1)

    sets = cell * walks(5, 3, 8)
    for scale, shape in ((world, (5, 1, 1)), (seed, (5, 3, 1)), (prompt, (5, 1, 8))):
        sets = sets + scale * walks(*shape)
    ends = [worlds.estimate(statistics.lead, curves, 0 * curves) for curves in sets]
    covered = sum(one.low < 0 < one.high for one in ends) / num_sets
    falls = sum(worlds.peak_test(curves)[0].p_value < 0.05 for curves in sets) / num_sets
    assert covered == pytest.approx(0.95, abs=0.033)  # three standard errors of 400 sets
    assert falls == pytest.approx(0.05, abs=0.033)


def test_a_single_world_is_judged_by_its_prompts(statistics: ModuleType) -> None:
    prompts = torch.tensor([0.0, 1.0, 2.0, 3.0]).double()[None, None, :, None].expand(1, 2, 4, 3)
    found = statistics.Worlds(1, 4, num_resamples=40_000).estimate(statistics.end, prompts)
    half = 3.182 * (5 / 3) ** 0.5 / 2  # Student's t with three degrees of freedom
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5 - half, 1.5 + half), abs=0.1)
    with pytest.raises(ValueError, match="one prompt"):
        statistics.Worlds(1, 1)


def test_intervals_are_paired_and_cover_worlds(statistics: ModuleType) -> None:
    worlds = statistics.Worlds(5, 8)
    curves = rising_and_falling(1.0, 0.4)
    apart = worlds.estimate(statistics.lead, curves + 0.25, curves)
    assert apart.value == pytest.approx(0.25)
    assert apart.high - apart.low < 1e-9
    of_one_world = torch.zeros(5, 1, 8, 4, dtype=torch.float64)
    of_one_world[0] = 5.0  # a mean of 1 that rests on one world of five
    found = worlds.estimate(statistics.end, of_one_world)
    assert (found.low, found.high) == pytest.approx((1 - 2.776, 1 + 2.776), abs=0.3)  # t with four degrees of freedom


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


def test_proxies_of_other_settings_are_refused_before_anything_kept_is_read(
    experiment: ModuleType, tmp_path: Path
) -> None:
    pools = importlib.import_module("_overopt_pools")
    proxy, plain = pools.Proxy(0, 16, 0.25), {"lora": False, "learning_rate": 1e-3}
    config = {"worlds": [0], "block": 2, "num_candidates": 24, "num_base_texts": 120, "full": plain}

    def texts(**changed: Any) -> Any:
        return next(pools.world_texts(config | changed, 2, tmp_path, tmp_path))

    def training(**changed: Any) -> TrainingConfig:
        return TrainingConfig(**plain | changed)

    place = pools.checked(proxy, texts(), training(seed=3))
    assert place == tmp_path / "models" / proxy.name
    assert pools.checked(proxy, texts(), training()) == place  # the seed stands in the name
    kept = tmp_path / "features" / f"{proxy.name}-{texts().sizes.label}-0.pt"
    pools.kept(kept, lambda: {"pool": torch.ones(3)})
    assert pools.features(proxy, 0, texts(), training())["pool"].tolist() == [1.0, 1.0, 1.0]
    for read in (
        lambda: pools.features(proxy, 0, texts(), training(num_train_epochs=2)),
        lambda: pools.laplace(proxy, "ekfac", 0, texts(), training(num_train_epochs=2)),
        lambda: pools.trained(proxy, texts(), training(num_train_epochs=2)),
        lambda: texts(full={**plain, "num_train_epochs": 2}),
        lambda: texts(num_base_texts=100),
    ):
        with pytest.raises(ValueError, match=r"delete .*-full-\*"):
            read()
    unknown = pools.Proxy(0, 16, 0.25, seed=1)
    (tmp_path / "models" / unknown.name).mkdir()
    with pytest.raises(ValueError, match="not noted"):
        pools.trained(unknown, texts(), training())


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
