"""The experiment with a tiny language model: gold by hand, curves that are planted, and the fast version."""

import importlib
import math
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
import yaml

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("trl", reason="the extra align is not installed")
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("tiny_rlhf")


@pytest.fixture
def data(shared_data: Path) -> Path:
    if not (shared_data / "tiny_lm_stories260K").is_dir():
        pytest.skip(f"no language model in {shared_data}")
    return shared_data


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("_tiny_curves")


def test_gold_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    gold_reward = importlib.import_module("_tiny_gold").gold_reward
    joy, detail = 2.0 * (1 - math.exp(-1)), 1 - math.exp(-1)
    by_hand = {
        "": 0.0,
        " saw a cat": 0.75,
        " saw a happy red cat": 1.25 + joy + detail,
        " was sad": 0.5 - 1.0,
        " red red": 0.5 + detail - 0.4,  # the word twice, but no pair of words
        " a b a b": 1.0 - 0.4 * 3,  # two words and one pair were there before
        " a b c d e f g h i j k": 0.25 * 9 - 0.25 * 2,
        " hi! hi! hi!": 0.75 - 0.4 * 3 + 0.5 - 1.0,
    }
    assert gold_reward([""] * len(by_hand), list(by_hand)) == pytest.approx(list(by_hand.values()))


def test_a_look_is_measured_against_the_first_policy(curves: ModuleType) -> None:
    generator = np.random.default_rng(0)
    prompts = ["a", "b"] * 50
    gold, proxy = generator.normal(size=100), generator.normal(size=100)
    rows = [
        {
            "prompt": prompt,
            "step": step,
            "response": "one two three",
            "gold": float(gold[place]) + step,
            "reward_mean": float(proxy[place]) + 2 * step,
            "reward_std": 0.5,
            "kl": 4.0 * step,
            "num_tokens": 4 + step,
            "is_cut": prompt == "a",
        }
        for step in (0, 1)
        for place, prompt in enumerate(prompts)
    ]
    first, second = curves.look_measures(pa.Table.from_pylist(rows), prompts, gold, proxy)
    unit = math.sqrt(np.mean([proxy[start::2].var() for start in (0, 1)]))
    assert (first["step"], first["root_kl"], second["root_kl"]) == (0, 0.0, 2.0)
    assert (first["gold"], first["proxy"]) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    assert (second["gold"], second["proxy"]) == (pytest.approx(1), pytest.approx(2 / unit))
    assert (first["tokens"], second["tokens"]) == (4, 5)
    assert (first["words"], first["cut"], first["proxy_std"]) == (3, 0.5, pytest.approx(0.5 / unit))
    # of the first policy's own sentences 85 % are below their 0.85 quantile
    assert first["below_gold"] == first["below_proxy"] == pytest.approx(0.85, abs=0.011)
    assert (second["worse_prompts"], second["below_gold"]) == (0.0, pytest.approx(np.mean(gold + 1 < 1.04), abs=0.1))


def looks(gold: float, farthest: float) -> list[dict[str, float]]:
    """A run whose gold falls in proportion to the root of the KL, in a mixed-up order."""
    names = ("proxy", "proxy_std", "words", "tokens", "cut", "below_proxy", "below_gold", "worse_prompts")
    roots = np.linspace(0, farthest, 7)[[0, 3, 1, 2, 6, 5, 4]]
    return [{"root_kl": float(root), "gold": gold * float(root), **dict.fromkeys(names, 1.0)} for root in roots]


def test_runs_are_read_between_looks_and_not_beyond(curves: ModuleType) -> None:
    found = curves.at_root_kl(looks(-2.0, 3.0), [0.4, 2.9, 3.1])
    np.testing.assert_allclose(found["gold"], [-0.8, -5.8, np.nan])
    np.testing.assert_allclose(found["words"], [1.0, 1.0, np.nan])


def test_arms_are_compared_by_seed_at_equal_kl(curves: ModuleType) -> None:
    points = [1.0, 2.0]
    slopes = np.array([-1.0, -0.5, 0.25, 0.5, -0.75, 1.0])
    matched = {
        "mean": [curves.at_root_kl(looks(slope, 3.0), points) for slope in slopes],
        "lsc": [curves.at_root_kl(looks(0.5 * slope + 0.6, 3.0), points) for slope in slopes[:5]]
        + [curves.at_root_kl(looks(1.1, 1.5), points)],  # never gets as far as 2
    }
    rows = curves.compared_rows(matched, points, num_resamples=200)

    def row(table: str, arm: str, measure: str, point: float) -> dict[str, float]:
        (found,) = [
            one
            for one in rows
            if (one["table"], one["arm"], one["measure"]) == (table, arm, measure)
            and (one["root_kl"] == point or (math.isnan(point) and math.isnan(one["root_kl"])))
        ]
        return found

    assert row("matched", "mean", "gold", 2.0)["value"] == pytest.approx(2 * slopes.mean())
    assert row("matched", "mean", "std of gold", 1.0)["value"] == pytest.approx(slopes.std(ddof=1))
    assert row("matched", "mean", "gold below the first policy's", 1.0)["value"] == 0.5
    both = row("matched, minus mean", "lsc", "gold", 2.0)
    assert (both["num_seeds"], both["value"]) == (5, pytest.approx(np.mean(1.2 - slopes[:5])))
    assert both["low"] <= both["value"] <= both["high"]
    spread = row("matched, minus mean", "lsc", "std of gold", 1.0)
    lsc = np.append(0.5 * slopes[:5] + 0.6, 1.1)
    assert spread["value"] == pytest.approx(lsc.std(ddof=1) - slopes.std(ddof=1))
    assert row("matched, minus mean", "lsc", "gold below the first policy's", 2.0)["value"] == pytest.approx(-0.6)
    # only the first point is reached by all, so that the average is over it alone
    average = row("matched, minus mean", "lsc", "gold", math.nan)
    assert (average["num_seeds"], average["value"]) == (6, pytest.approx(lsc.mean() - slopes.mean()))
    assert row("matched, minus mean", "lsc", "words", 1.0)["value"] == 0.0


def test_the_end_is_that_of_the_last_step(curves: ModuleType) -> None:
    run = [{**look, "step": step} for step, look in zip((5, 1, 2, 3, 0, 4, 6), looks(-1.0, 3.0), strict=True)]
    found = curves.at_the_end(run)
    assert (found["root_kl"].tolist(), found["gold"].tolist()) == ([2.0], [-2.0])
    rows = curves.compared_rows({"mean": [found, found]}, [math.nan], num_resamples=20, table="end")
    assert {row["table"] for row in rows} == {"end"}
    assert {row["measure"]: row["value"] for row in rows}["gold below the first policy's"] == 1.0


def test_a_planted_law_is_found(curves: ModuleType) -> None:
    points, generator = [0.5, 1.0, 2.0, 3.0], np.random.default_rng(0)
    runs = []
    for _ in range(6):
        alpha = 1.2 + 0.1 * generator.normal()
        gold = [point * (alpha - 0.7 * math.log(point)) for point in points]
        runs.append({measure: np.array(gold) for measure in curves.MEASURES})
    rows = {row["measure"]: row for row in curves.compared_rows({"mean": runs}, points, num_resamples=100)}
    assert rows["alpha"]["low"] < 1.2 < rows["alpha"]["high"]
    assert rows["beta"]["value"] == pytest.approx(0.7)
    assert rows["root_kl of the peak"]["value"] == pytest.approx(math.exp(rows["alpha"]["value"] / 0.7 - 1))


def test_the_fast_version_fills_the_table(experiment: ModuleType, data: Path, tmp_path: Path) -> None:
    config = experiment.fast(yaml.safe_load((experiment.RESULTS / "config.yaml").read_text()))
    table = experiment.experiment(config, data, tmp_path)
    rows = table.to_pylist()
    runs = [row for row in rows if row["table"] == "curves" and row["measure"] == "gold"]
    assert {(row["arm"], row["seed"], row["step"]) for row in runs} == {
        (arm, seed, step) for arm in ("mean", "lsc") for seed in (0, 1) for step in (0, 1, 2)
    }
    start = [row for row in runs if row["step"] == 0]
    assert all(row["root_kl"] == pytest.approx(0, abs=1e-3) for row in start)
    # arms of a seed begin with the same sentences
    assert {row["value"] for row in start if row["seed"] == 0 and row["arm"] == "mean"} == {
        row["value"] for row in start if row["seed"] == 0 and row["arm"] == "lsc"
    }
    assert all(row["root_kl"] > 0 for row in runs if row["step"] == 2)
    experiment.draw(table, list(config["arms"]), config["root_kl"], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    # what was done is kept
    again = experiment.experiment(config, data, tmp_path)
    assert str(again.to_pylist()) == str(rows)  # NaN is itself there


def test_comparisons_are_turned_round_as_often_as_said(experiment: ModuleType, data: Path, tmp_path: Path) -> None:
    from _tiny_gold import gold_reward

    from prudent.sampling import Policy

    config = yaml.safe_load((experiment.RESULTS / "config.yaml").read_text())
    policy = Policy.from_pretrained(experiment.language_model(data / "tiny_lm_stories260K", tmp_path))
    for flip, low, high in ((0.0, 1.0, 1.0), (0.25, 0.65, 0.85)):
        config["proxy"] = {**config["proxy"], "num_pairs": 120, "flip": flip}
        rows = experiment.comparisons(policy, 3, config)
        gold = {side: gold_reward([""] * 120, [row[side] for row in rows]) for side in ("chosen", "rejected")}
        assert len(rows) == 120
        assert low <= np.mean(np.array(gold["chosen"]) > np.array(gold["rejected"])) <= high
