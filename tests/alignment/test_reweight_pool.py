"""A scored pool with weights, and samples drawn by them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prudent.alignment import kl_weights, reweight, reweight_pool
from prudent.errors import DataError, PrudentError, UnsupportedError
from prudent.scoring import ScoredPool, read_scored

TURNS = [
    {"role": "user", "content": "Name a color."},
    {"role": "assistant", "content": "Which?"},
    {"role": "user", "content": "Any."},
]
FLAT = "user: Name a color.\nassistant: Which?\nuser: Any."


def scored(**columns: object) -> ScoredPool:
    rng = np.random.default_rng(0)
    plain = {
        "prompt_id": np.repeat([0, 3, 4], 8),
        "response_id": np.tile(np.arange(8), 3),
        "prompt": np.repeat(["Say A.", FLAT, "Say C."], 8),
        "response": [f"Response {number}" for number in range(24)],
        "reward_mean": rng.normal(size=24),
        "reward_variance": rng.uniform(0.1, 3, size=24),
        "gold": rng.normal(size=24),
    }
    table = pa.table({name: values for name, values in {**plain, **columns}.items() if values is not None})
    return ScoredPool(table, "scored.parquet")


def numbers(pool: ScoredPool, name: str) -> torch.Tensor:
    return torch.from_numpy(pool.table[name].to_numpy().copy())


def test_the_pool_comes_back_with_weights_and_the_summary_says_what_they_do(tmp_path: Path) -> None:
    pool, output = scored(), tmp_path / "weighted.parquet"
    summary = reweight_pool(pool, output, utility="lcb_std(1)", target_kl=0.7)
    utility = numbers(pool, "reward_mean") - numbers(pool, "reward_variance").sqrt()
    expected = reweight(utility, pool.group, target_kl=0.7)
    written = read_scored(output)
    assert written.table.column_names == [*pool.table.column_names, "weight"]
    np.testing.assert_allclose(written.table["weight"], expected.weight, rtol=1e-5)
    assert summary.mean_kl == pytest.approx(0.7, rel=1e-5)
    assert summary.min_kl_coef == summary.max_kl_coef == pytest.approx(expected.kl_coef[0].item(), rel=1e-5)
    assert summary.mean_effective_sample_size == pytest.approx(expected.effective_sample_size.mean().item(), rel=1e-5)
    gold = numbers(pool, "gold")
    before, after = gold.reshape(3, 8).mean(1), (expected.weight * gold).reshape(3, 8).sum(1)
    assert summary.mean_gold_before == pytest.approx(before.mean().item())
    assert summary.mean_gold_after == pytest.approx(after.mean().item(), rel=1e-5)
    assert summary.gold_gain_low <= summary.gold_gain <= summary.gold_gain_high
    assert summary.gold_gain == pytest.approx((after - before).mean().item(), rel=1e-5)
    assert summary.num_prompts_thin == 3  # of eight responses never ten are effective
    assert summary.mean_utility_after > summary.mean_utility_before == pytest.approx(utility.mean().item())
    # what was written is a scored pool, whose weights are replaced
    with pytest.raises(PrudentError, match=r"weighted.parquet is there already; .* \(--overwrite\)"):
        reweight_pool(output, output, utility="lcb_std(1)", kl_coef=summary.max_kl_coef)
    again = reweight_pool(output, output, utility="lcb_std(1)", kl_coef=summary.max_kl_coef, overwrite=True)
    assert again.mean_kl == pytest.approx(0.7, rel=1e-5)
    assert again.target_kl is None
    assert read_scored(output).table.column_names == written.table.column_names


@pytest.mark.parametrize("kl_form", ["exact", "in_reward"])
def test_the_penalty_is_weighted_by_the_variance_that_the_last_step_reads(tmp_path: Path, kl_form: str) -> None:
    centered = np.random.default_rng(1).uniform(0.1, 2, size=24)
    pool = scored(
        is_reference=np.tile([True] * 2 + [False] * 6, 3),
        reward_reference=np.repeat(scored().table["reward_mean"].to_numpy().reshape(3, 8)[:, :2].mean(1), 8),
        reward_centered_variance=centered,
    )
    for utility, variance in (("mean", pool.table["reward_variance"].to_numpy()), ("center(mean) | mean", centered)):
        reweight_pool(
            pool, tmp_path / "weighted.parquet", utility=utility, target_kl=0.6, kl_form=kl_form, overwrite=True
        )
        expected = reweight(
            numbers(pool, "reward_mean"),
            pool.group,
            target_kl=0.6,
            kl_weight=kl_weights(torch.from_numpy(variance.copy())),
            kl_form=kl_form,
        )
        # a reference that is subtracted is common to a prompt, and changes the weights only through the variance
        found = pq.read_table(tmp_path / "weighted.parquet")["weight"]
        np.testing.assert_allclose(found, expected.weight, rtol=1e-3, atol=1e-5)


def test_a_weighted_penalty_needs_a_variance(tmp_path: Path) -> None:
    output = tmp_path / "weighted.parquet"
    bare = scored(reward_variance=pa.nulls(24, pa.float64()))
    with pytest.raises(DataError, match=r"no variances of 'reward', which the weighted KL needs.*--kl-form"):
        reweight_pool(bare, output, utility="mean", target_kl=0.5, kl_form="exact")
    assert reweight_pool(bare, output, utility="mean", target_kl=0.5).num_prompts == 3
    with pytest.raises(UnsupportedError, match="reads values and no posterior"):
        reweight_pool(
            scored(),
            output,
            utility="minimum(center(at=0) | mean, center(at=0) | lcb_std)",
            target_kl=0.5,
            kl_form="exact",
            overwrite=True,
        )


def test_unscored_responses_stop_it_or_get_no_weight(tmp_path: Path) -> None:
    mean = scored().table["reward_mean"].to_numpy().copy()
    mean[[1, *range(8, 16)]] = np.nan
    pool, output = scored(reward_mean=mean), tmp_path / "weighted.parquet"
    with pytest.raises(DataError, match=r"9 responses have no utility under mean \(rows \[1, 8, 9, 10, 11\]\)"):
        reweight_pool(pool, output, utility="mean", target_kl=0.5)
    assert not output.exists()
    summary = reweight_pool(pool, output, utility="mean", target_kl=0.5, exclude_unscored=True)
    assert (summary.num_candidates, summary.num_excluded, summary.num_prompts_excluded) == (15, 9, 1)
    weight = pq.read_table(output)["weight"]
    assert weight.null_count == 9
    assert sum(weight.drop_null().to_pylist()) == pytest.approx(2)
    with pytest.raises(DataError, match="nothing to weigh"):
        reweight_pool(
            scored(reward_mean=np.full(24, np.nan)),
            tmp_path / "none.parquet",
            utility="mean",
            kl_coef=1.0,
            exclude_unscored=True,
        )


def test_gold_counts_where_all_of_a_prompt_is_known_and_nobody_was_calibrated(tmp_path: Path) -> None:
    gold = scored().table["gold"].to_numpy().copy()
    gold[0] = np.nan
    pool = scored(gold=gold, is_calibration=np.repeat([False, True, False], 8))
    summary = reweight_pool(pool, tmp_path / "w.parquet", utility="mean", target_kl=0.5)
    assert summary.num_prompts_with_gold == 1
    assert summary.mean_gold_before == pytest.approx(gold[16:].mean())
    without = reweight_pool(scored(gold=None), tmp_path / "without.parquet", utility="mean", target_kl=0.5)
    assert (without.num_prompts_with_gold, without.mean_gold_after) == (0, None)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_samples_are_drawn_by_the_weights_in_trls_format(tmp_path: Path, suffix: str) -> None:
    pool, samples = scored(), tmp_path / f"sft{suffix}"
    summary = reweight_pool(
        pool, tmp_path / "w.parquet", utility="mean", kl_coef=0.5, samples=samples, num_samples=4000, seed=1
    )
    if suffix == ".parquet":
        rows = pq.read_table(samples).to_pylist()
    else:
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert summary.num_samples == len(rows) == 12_000
    assert summary.num_flattened == 1
    assert rows[0]["prompt"] == [{"role": "user", "content": "Say A."}]
    assert rows[4000]["prompt"] == [{"role": "user", "content": FLAT}]
    assert rows[0]["completion"][0]["role"] == "assistant"
    texts = [row["completion"][0]["content"] for row in rows]
    assert summary.num_distinct_samples == len(set(texts))
    share = np.array([texts.count(f"Response {number}") for number in range(24)]) / 4000
    np.testing.assert_allclose(share, pq.read_table(tmp_path / "w.parquet")["weight"], atol=0.03)


def test_the_seed_decides_what_is_drawn_and_texts_stay_texts_if_asked(tmp_path: Path) -> None:
    def drawn(seed: int) -> str:
        samples = tmp_path / "sft.jsonl"
        reweight_pool(
            scored(),
            tmp_path / "w.parquet",
            utility="mean",
            kl_coef=1.0,
            samples=samples,
            num_samples=5,
            conversational=False,
            seed=seed,
            overwrite=True,
        )
        return samples.read_text()

    assert drawn(0) == drawn(0) != drawn(1)
    first = json.loads(drawn(0).splitlines()[0])
    assert first["prompt"] == "Say A."
    assert first["completion"].startswith("Response ")


def test_conversations_come_from_the_prompts_that_were_scored(tmp_path: Path) -> None:
    prompts = [{"prompt": "Say A."}, {"prompt": TURNS}, {"prompt": "Say C."}]
    given = {"utility": "mean", "kl_coef": 1.0, "samples": tmp_path / "sft.jsonl"}
    summary = reweight_pool(scored(), tmp_path / "w.parquet", **given, prompts=prompts)
    rows = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert rows[1]["prompt"] == TURNS
    assert summary.num_flattened == 0
    assert summary.num_samples == 3
    reweight_pool(scored(), tmp_path / "w.parquet", **given, prompts=prompts, conversational=False, overwrite=True)
    rows = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert rows[1]["prompt"] == f"{FLAT}\nassistant: "
    with pytest.raises(DataError, match=r"lack one that scored\.parquet has, 'Say C\.'"):
        reweight_pool(scored(), tmp_path / "w.parquet", **given, prompts=prompts[:2], overwrite=True)


def test_bad_places_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(PrudentError, match=r"written as \.parquet"):
        reweight_pool("missing.parquet", tmp_path / "w.jsonl", kl_coef=1.0)
    with pytest.raises(PrudentError, match=r"written as \.jsonl or \.parquet"):
        reweight_pool("missing.parquet", tmp_path / "w.parquet", kl_coef=1.0, samples="sft.csv")
    with pytest.raises(ValueError, match="num_samples and prompts are for samples"):
        reweight_pool("missing.parquet", tmp_path / "w.parquet", kl_coef=1.0, num_samples=2)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        reweight_pool("missing.parquet", tmp_path / "w.parquet", kl_coef=1.0, samples="s.jsonl", num_samples=0)
    with pytest.raises(ValueError, match="target_kl must be a finite number above 0"):
        reweight_pool("missing.parquet", tmp_path / "w.parquet", target_kl=-1.0)
    with pytest.raises(DataError, match="nowhere"):
        reweight_pool(
            "missing.parquet", tmp_path / "w.parquet", kl_coef=1.0, samples="s.jsonl", prompts="nowhere.jsonl"
        )
    for data, samples, what in (("missing.parquet", "w.parquet", "output"), ("p.parquet", "p.parquet", "data")):
        with pytest.raises(PrudentError, match=f"samples and {what} would be one file"):
            reweight_pool(tmp_path / data, tmp_path / "w.parquet", kl_coef=1.0, samples=tmp_path / "." / samples)
    with pytest.raises(DataError, match="no column 'prompt'"):
        reweight_pool(
            scored(prompt=None), tmp_path / "w.parquet", utility="mean", kl_coef=1.0, samples=tmp_path / "s.jsonl"
        )
    assert not list(tmp_path.iterdir())
