"""Picks from pools with several rewards: what each part says beside the utility, and what is missing."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prudent.errors import DataError
from prudent.scoring import ScoredPool, select
from prudent.utility import AllOf, Center, LogSigmoid, Mean, combine, reward


def two_rewards(**extra: object) -> ScoredPool:
    """Three prompts of six responses, of which the first two are references."""
    rng = np.random.default_rng(0)
    columns: dict[str, object] = {
        "prompt_id": np.repeat([2, 5, 9], 6),
        "response_id": np.tile(np.arange(6), 3),
        "is_reference": np.tile([True, True, False, False, False, False], 3),
        "gold": rng.normal(size=18),
    }
    for name in ("helpful", "harmless"):
        columns[f"{name}_reward_mean"] = rng.normal(size=18)
        columns[f"{name}_reward_variance"] = rng.uniform(0.1, 2.0, size=18)
    return ScoredPool(pa.table({**columns, **extra}))


def column(pool: ScoredPool, name: str) -> np.ndarray:
    return pool.table[name].to_numpy()


def picked(pool: ScoredPool, value: np.ndarray) -> list[int]:
    """The best response of each prompt, by hand."""
    return [int(value[start : start + 6].argmax()) for start in range(0, 18, 6)]


def test_what_each_part_says_stands_beside_the_utility(tmp_path) -> None:
    pool = two_rewards()
    place = tmp_path / "picks.parquet"
    summary = select(pool, place, utility="weighted(harmless | lcb_std(1), helpful | mean, weights=[1, 2])")
    harmless = column(pool, "harmless_reward_mean") - np.sqrt(column(pool, "harmless_reward_variance"))
    helpful = column(pool, "helpful_reward_mean")
    best = picked(pool, harmless + 2 * helpful)
    rows = np.arange(3) * 6 + best
    picks = pq.read_table(place)
    assert picks.column_names[4:7] == ["utility", "utility_harmless", "utility_helpful"]
    assert picks["response_id"].to_pylist() == best
    np.testing.assert_allclose(picks["utility_harmless"].to_numpy(), harmless[rows])
    np.testing.assert_allclose(picks["utility_helpful"].to_numpy(), helpful[rows])
    np.testing.assert_allclose(picks["utility"].to_numpy(), (harmless + 2 * helpful)[rows])
    assert summary.mean_reward == {
        name: pytest.approx(column(pool, f"{name}_reward_mean")[rows].mean()) for name in ("helpful", "harmless")
    }
    assert summary.mean_std["helpful"] == pytest.approx(np.sqrt(column(pool, "helpful_reward_variance"))[rows].mean())
    assert summary.mean_gold == pytest.approx(column(pool, "gold")[rows].mean())


def test_parts_of_posteriors_are_told_by_their_mean_and_parts_of_one_reward_by_their_place(tmp_path) -> None:
    pool = two_rewards()
    parts = [reward(name) | Center("mean") | LogSigmoid() for name in ("helpful", "harmless")]
    select(pool, tmp_path / "and.jsonl", utility=combine(AllOf(), *parts) | Mean())
    for line in (tmp_path / "and.jsonl").read_text().splitlines():
        pick = json.loads(line)
        assert pick["utility"] == pytest.approx(pick["utility_helpful"] + pick["utility_harmless"], rel=1e-6)
        assert pick["utility_helpful"] < 0
    select(
        pool,
        tmp_path / "twice.jsonl",
        utility="minimum(helpful | center(at=0) | mean, helpful | center(at=0) | lcb_std)",
    )
    pick = json.loads((tmp_path / "twice.jsonl").read_text().splitlines()[0])
    assert pick["utility"] == pick["utility_helpful_2"] < pick["utility_helpful_1"]
    select(pool, tmp_path / "one.jsonl", utility="helpful | lcb_std")
    assert not [name for name in json.loads((tmp_path / "one.jsonl").read_text().splitlines()[0]) if "utility_" in name]


def test_a_reward_that_is_missing_leaves_the_response_without_a_utility() -> None:
    mean = column(two_rewards(), "harmless_reward_mean").copy()
    mean[[0, 7]] = np.nan
    pool = two_rewards(harmless_reward_mean=mean)
    both = "minimum(helpful | center(at=0), harmless | center(at=0)) | mean"
    with pytest.raises(DataError, match=r"2 responses have no utility under .* \(rows \[0, 7\]\)"):
        select(pool, utility=both)
    assert select(pool, utility=both, exclude_unscored=True).num_excluded == 2
    assert select(pool, utility="helpful | lcb_std").num_excluded == 0
    with pytest.raises(DataError, match="several rewards, helpful, harmless"):
        select(pool)


def test_a_prompt_without_any_utility_is_left_out_and_counted(tmp_path) -> None:
    mean = column(two_rewards(), "harmless_reward_mean").copy()
    mean[[0, *range(6, 12)]] = np.nan
    pool, utility = two_rewards(harmless_reward_mean=mean), "harmless | lcb_std"
    with pytest.raises(DataError, match=r"7 responses have no utility .*\(--exclude-unscored\)"):
        select(pool, utility=utility)
    summary = select(pool, tmp_path / "picks.parquet", utility=utility, exclude_unscored=True)
    assert (summary.num_prompts, summary.num_prompts_excluded, summary.num_excluded) == (2, 1, 7)
    assert summary.num_candidates == 11
    value = mean - np.sqrt(column(pool, "harmless_reward_variance"))
    picks = pq.read_table(tmp_path / "picks.parquet")
    assert picks["prompt_id"].to_pylist() == [2, 9]
    assert picks["response_id"].to_pylist() == [int(np.nanargmax(value[:6])), int(value[12:].argmax())]
    np.testing.assert_allclose(picks["utility"].to_numpy(), [np.nanmax(value[:6]), value[12:].max()])
    with pytest.raises(DataError, match="no response has a utility"):
        select(two_rewards(harmless_reward_mean=np.full(18, np.nan)), utility=utility, exclude_unscored=True)


def test_a_reward_without_variances_is_named_where_they_are_needed() -> None:
    pool = two_rewards(helpful_reward_variance=pa.nulls(18, pa.float32()))
    with pytest.raises(DataError, match="no variances of 'helpful'"):
        select(pool, utility="helpful | lcb_std")
    summary = select(pool, utility="helpful | mean")
    assert summary.mean_std == {"helpful": None, "harmless": pytest.approx(summary.mean_std["harmless"])}


def test_a_column_of_the_pool_called_utility_gives_way(tmp_path) -> None:
    pool = two_rewards(utility=np.arange(18.0))
    select(pool, tmp_path / "picks.parquet", utility="helpful | mean")
    assert pq.read_table(tmp_path / "picks.parquet").column_names.count("utility") == 1
