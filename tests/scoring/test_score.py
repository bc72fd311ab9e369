"""`score` and `select` on tiny models: equal scores however they are computed, resuming, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from prudent.errors import DataError, ModelError, PosteriorError, PrudentError, UnsupportedError, UtilityError
from prudent.models import RewardModel
from prudent.posteriors import PlainRewards, fit, load_posterior
from prudent.scoring import ScoredPool, read_scored, score, select
from prudent.scoring import _columns as columns_module
from prudent.scoring import _score as score_module

NOUNS = ["apple", "pear", "plum", "bird", "stone", "river", "house", "door", "window"]


def pools(sizes=(5, 1, 9, 4)) -> list[dict]:
    generator = np.random.default_rng(0)
    rows = []
    for prompt, size in enumerate(sizes):
        responses = [" ".join(generator.choice(NOUNS, size=generator.integers(1, 20))) for _ in range(size)]
        if size > 4:
            responses[3] = responses[1]
        rows.append(
            {
                "prompt": f"name a fruit {['one', 'two', 'three', 'four'][prompt % 4]} please",
                "responses": responses,
                "gold": generator.normal(size=size).tolist(),
                "models": [f"m{index}" for index in range(size)],
            }
        )
    return rows


def preferences(count: int = 40) -> list[dict]:
    generator = np.random.default_rng(1)
    rows = []
    for _ in range(count):
        first, second = (list(generator.choice(NOUNS, size=generator.integers(2, 12))) for _ in range(2))
        better, worse = sorted([first, second], key=lambda words: -words.count("apple") - 0.1 * len(words))
        rows.append({"prompt": "name a fruit please", "chosen": " ".join(better) + " yes", "rejected": " ".join(worse)})
    return rows


@pytest.fixture(scope="module")
def model_folder(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "rm"
    fit(tiny_models("llama"), preferences(), folder, progress=False)
    return folder


@pytest.fixture
def scored(model_folder, tmp_path):
    score(model_folder, pools(), tmp_path / "scored.parquet", factor=True, num_references=3, progress=False)
    return tmp_path / "scored.parquet"


def test_columns_and_what_they_mean(scored, model_folder):
    table = ds.dataset(scored, format="parquet").to_table()
    assert table.num_rows == 19
    assert table["prompt_id"].to_pylist() == [0] * 5 + [1] + [2] * 9 + [3] * 4
    assert table["response_id"].to_pylist() == [*range(5), 0, *range(9), *range(4)]
    assert table["model"].to_pylist()[:3] == ["m0", "m1", "m2"]
    assert table["length"].to_pylist() == [len(text) for text in table["response"].to_pylist()]
    gold = [value for row in pools() for value in row["gold"]]
    np.testing.assert_allclose(table["gold"].to_numpy(), gold, rtol=1e-6)
    texts = table["text_id"].to_pylist()
    assert texts[1] == texts[3]
    assert len(set(texts)) == 17
    model = RewardModel.from_pretrained(model_folder)
    rewards = model.rewards(table["prompt"].to_pylist(), table["response"].to_pylist())
    np.testing.assert_allclose(table["reward_mean"].to_numpy(), rewards.numpy(), atol=1e-5)


def test_centered_variance_is_that_of_the_joint_posterior(scored, centered_rewards):
    pool = read_scored(scored)
    reference = torch.tensor(pool.table["is_reference"].to_pylist())
    assert [int(reference[pool.group == prompt].sum()) for prompt in range(4)] == [3, 1, 3, 3]
    # Hidden size 32: the stored factor is exact up to float16.
    dense = pool.posterior().center(reference)
    centered = centered_rewards(pool)
    torch.testing.assert_close(centered.variance, dense.variance.double(), rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(centered.mean, dense.mean.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        pool.posterior().covariance().diagonal().double(), pool.column("reward_variance"), rtol=2e-2, atol=1e-3
    )
    assert centered.variance[pool.group == 1].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen2"])
def test_scores_do_not_depend_on_batch_padding_side_or_order(kind, tiny_models, tmp_path):
    posterior = fit(tiny_models(kind), preferences(), tmp_path / "rm", progress=False).posterior
    model = RewardModel.from_pretrained(tmp_path / "rm")
    rows = pools()
    score(model, rows, tmp_path / "a", posterior=posterior, tokens_per_batch=10_000, progress=False)
    model.tokenizer.padding_side = "left"
    score(model, rows, tmp_path / "b", posterior=posterior, tokens_per_batch=1, progress=False)
    backwards = [
        {**row, **{name: row[name][::-1] for name in ("responses", "gold", "models")}} for row in reversed(rows)
    ]
    score(model, backwards, tmp_path / "c", posterior=posterior, progress=False)
    tables = {name: read_scored(tmp_path / name).table for name in "abc"}
    key = [(row["prompt"], row["response"]) for row in tables["a"].to_pylist()]
    for name in ("reward_mean", "reward_variance"):
        # 1e-5 of the scale of the rewards: the refitted head of a tiny model makes rewards of ten and more.
        allowed = 1e-5 * max(1.0, float(np.abs(tables["a"][name].to_numpy()).max()))
        values = dict(zip(key, tables["a"][name].to_pylist(), strict=True))
        for other in "bc":
            for row in tables[other].to_pylist():
                assert row[name] == pytest.approx(values[row["prompt"], row["response"]], abs=allowed)
    np.testing.assert_allclose(
        tables["a"]["reward_centered_variance"].to_numpy(),
        tables["b"]["reward_centered_variance"].to_numpy(),
        rtol=1e-5,
        atol=3e-5,
    )


def test_prompts_cut_over_shards_score_alike(model_folder, tmp_path, monkeypatch):
    score(model_folder, pools(), tmp_path / "one", num_references=3, progress=False)
    monkeypatch.setattr(score_module, "_RESPONSES_PER_SHARD", 4)
    score(model_folder, pools(), tmp_path / "many", num_references=3, progress=False)
    assert len(list((tmp_path / "many").glob("part-*.parquet"))) == 7
    one, many = read_scored(tmp_path / "one").table, read_scored(tmp_path / "many").table
    assert one.drop_columns(_REWARDS).equals(many.drop_columns(_REWARDS))
    for name in _REWARDS:
        np.testing.assert_allclose(one[name].to_numpy(), many[name].to_numpy(), rtol=1e-5, atol=1e-5)


_REWARDS = ["reward_mean", "reward_variance", "reward_noise", "reward_reference", "reward_centered_variance"]


def test_interrupted_run_goes_on_where_it_was(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(score_module, "_RESPONSES_PER_SHARD", 5)
    score(model_folder, pools(), tmp_path / "whole", progress=False)
    original = score_module.pa.table
    made = []

    def interrupted(columns):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(original(columns))
        return made[-1]

    monkeypatch.setattr(score_module.pa, "table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(model_folder, pools(), tmp_path / "cut", progress=False)
    monkeypatch.setattr(score_module.pa, "table", original)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(DataError, match="not finished"):
        read_scored(tmp_path / "cut")
    first = (tmp_path / "cut.partial" / "part-00000.parquet").stat().st_mtime_ns
    with pytest.raises(PrudentError, match="another num_references"):
        score(model_folder, pools(), tmp_path / "cut", num_references=2, progress=False)
    score(model_folder, pools(), tmp_path / "cut", progress=False)
    assert (tmp_path / "cut" / "part-00000.parquet").stat().st_mtime_ns == first
    assert read_scored(tmp_path / "cut").table.equals(read_scored(tmp_path / "whole").table)


@pytest.mark.slow
def test_killed_run_loses_nothing(model_folder, tmp_path):
    data = tmp_path / "pools.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pools((9,) * 400)))
    program = textwrap.dedent(f"""
        from prudent.scoring import _score, score
        _score._RESPONSES_PER_SHARD = 100
        score({str(model_folder)!r}, {str(data)!r}, {str(tmp_path / "out")!r}, progress=False)
    """)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out.partial").glob("part-*"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    done = len(list((tmp_path / "out.partial").glob("part-*")))
    assert 5 <= done < 36
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert read_scored(tmp_path / "out").table.num_rows == 3600
    summary = json.loads((tmp_path / "out" / "_manifest.json").read_text())["summary"]
    assert summary["num_responses"] == 3600


def test_names_of_the_pool_go_along_and_missing_gold_is_null(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(score_module, "_RESPONSES_PER_SHARD", 2)
    rows = [
        {"id": "q17", "prompt": "name", "responses": ["yes", "no"], "gold": [None, None], "seen": [None, None]},
        {"id": "q18", "prompt": "please", "responses": ["apple", "pear"], "gold": [1.5, None], "seen": [True, False]},
    ]
    score(model_folder, rows, tmp_path / "out", num_references=1, progress=False)
    table = read_scored(tmp_path / "out").table
    assert table["id"].to_pylist() == ["q17", "q17", "q18", "q18"]
    assert table["row"].to_pylist() == [0, 0, 1, 1]
    assert table["gold"].to_pylist() == [None, None, 1.5, None]
    assert table["seen"].to_pylist() == [None, None, True, False]
    select(tmp_path / "out", tmp_path / "picks.jsonl")
    first = json.loads((tmp_path / "picks.jsonl").read_text().splitlines()[0])
    assert first["gold"] is None


def test_strict_does_not_take_over_what_was_cut(model_folder, tmp_path):
    rows = [{"prompt": "name", "responses": ["yes", "pear " * 200]}]
    score(model_folder, rows, tmp_path / "out", progress=False)
    with pytest.raises(PrudentError, match="another strict"):
        score(model_folder, rows, tmp_path / "out", strict=True, progress=False)


def test_loaded_pools_are_scored_and_resumed(model_folder, tmp_path):
    from prudent.data import load_pools

    score(model_folder, load_pools(pools()), tmp_path / "out", progress=False)
    again = score(model_folder, load_pools(pools()), tmp_path / "out", progress=False)
    assert again.num_responses == 19


def test_overwriting_continues_its_own_run_and_spares_what_is_not_ours(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(score_module, "_RESPONSES_PER_SHARD", 5)
    score(model_folder, pools((3,)), tmp_path / "out", progress=False)
    old = read_scored(tmp_path / "out").table
    original = score_module._count

    def cut_off(counts, table):
        original(counts, table)
        raise KeyboardInterrupt

    monkeypatch.setattr(score_module, "_count", cut_off)
    with pytest.raises(KeyboardInterrupt):
        score(model_folder, pools(), tmp_path / "out", overwrite=True, progress=False)
    assert read_scored(tmp_path / "out").table.equals(old)
    first = (tmp_path / "out.partial" / "part-00000.parquet").stat().st_mtime_ns
    monkeypatch.setattr(score_module, "_count", original)
    score(model_folder, pools(), tmp_path / "out", overwrite=True, progress=False)
    assert (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns == first
    assert read_scored(tmp_path / "out").table.num_rows == 19
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep")
    with pytest.raises(PrudentError, match="not written by scoring"):
        score(model_folder, pools(), tmp_path / "mine", overwrite=True, progress=False)
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep"


def test_an_empty_unfinished_folder_is_begun_again(model_folder, tmp_path):
    (tmp_path / "out.partial").mkdir()
    assert score(model_folder, pools(), tmp_path / "out", progress=False).num_responses == 19


def test_tables_from_elsewhere_are_told_what_is_wrong(scored, tmp_path):
    table = read_scored(scored).table
    named = table.set_column(table.schema.get_field_index("prompt_id"), "prompt_id", [["a"] * table.num_rows])
    with pytest.raises(DataError, match="prompt_id must be a column of integers"):
        ScoredPool(named)
    words = table.set_column(table.schema.get_field_index("reward_mean"), "reward_mean", [["x"] * table.num_rows])
    with pytest.raises(DataError, match="reward_mean must be a column of numbers"):
        ScoredPool(words)


def test_scored_pools_can_be_scored_again(scored, model_folder, tmp_path):
    score(model_folder, scored, tmp_path / "again", factor=True, num_references=3, progress=False)
    first, again = read_scored(scored).table, read_scored(tmp_path / "again").table
    assert set(first.column_names) <= set(again.column_names)
    np.testing.assert_allclose(again["reward_mean"].to_numpy(), first["reward_mean"].to_numpy(), atol=1e-5)


def test_large_files_are_streamed_to_the_same_scores(model_folder, tmp_path, monkeypatch):
    data = tmp_path / "pools.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pools()))
    score(model_folder, data, tmp_path / "held", progress=False)
    monkeypatch.setattr(columns_module, "_STREAMED_BYTES", 0)
    summary = score(model_folder, data, tmp_path / "streamed", progress=False)
    assert (summary.num_prompts, summary.num_responses) == (4, 19)
    held, streamed = read_scored(tmp_path / "held").table, read_scored(tmp_path / "streamed").table
    assert held.drop_columns(_REWARDS).equals(streamed.drop_columns(_REWARDS))


def test_finished_run_is_not_repeated_nor_replaced(scored, model_folder, monkeypatch):
    monkeypatch.setattr(score_module, "iterate_shards", None)
    again = score(model_folder, pools(), scored, factor=True, num_references=3, progress=False)
    assert again.num_responses == 19
    with pytest.raises(PrudentError, match="another factor"):
        score(model_folder, pools(), scored, num_references=3, progress=False)


def test_full_disk_leaves_no_half_written_part(model_folder, tmp_path, monkeypatch):
    def full_disk(table, place, **_):
        place.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        score(model_folder, pools(), tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_truncation_is_counted_and_flagged(model_folder, tmp_path):
    rows = [{"prompt": "name " * 100, "responses": ["yes", "apple " * 50, "pear " * 200]}]
    summary = score(model_folder, rows, tmp_path / "out", progress=False)
    assert (summary.num_truncated, summary.num_prompt_truncated) == (1, 2)
    table = read_scored(tmp_path / "out").table
    assert table["truncated"].to_pylist() == [False, False, True]
    assert table["prompt_truncated"].to_pylist() == [False, True, True]
    assert max(table["num_tokens"].to_pylist()) == 128
    with pytest.raises(DataError, match="exceed 128 tokens"):
        score(model_folder, rows, tmp_path / "strict", strict=True, progress=False)


def test_model_without_a_posterior(tiny_models, tmp_path):
    score(tiny_models("llama"), pools(), tmp_path / "out", progress=False)
    pool = read_scored(tmp_path / "out")
    assert not pool.has_variance
    assert select(pool, utility="mean").mean_std == {"reward": None}
    with pytest.raises(DataError, match="no variances"):
        select(pool, utility="lcb_std")
    with pytest.raises(PosteriorError, match="factor needs a posterior"):
        score(tiny_models("llama"), pools(), tmp_path / "factor", factor=True, progress=False)
    with pytest.raises(ModelError, match="never trained"):
        score(tiny_models("llama", head=False), pools(), tmp_path / "new", progress=False)


def test_rewards_that_overflow_are_null_not_ranked(model_folder, tmp_path):
    model = RewardModel.from_pretrained(model_folder)
    posterior = load_posterior(model_folder, model)
    bad = model.encode(["name a fruit three please"], [pools()[2]["responses"][0]]).lengths[0]
    original = model.forward

    def overflowing(batch, **options):
        features, rewards = original(batch, **options)
        features[batch.inputs["attention_mask"].sum(1) == int(bad)] = torch.inf
        return features, rewards

    model.forward = overflowing
    summary = score(model, pools(), tmp_path / "out", posterior=posterior, progress=False)
    assert summary.num_not_scored >= 1
    with pytest.raises(DataError, match="no utility"):
        select(tmp_path / "out", utility="mean")
    assert select(tmp_path / "out", utility="mean", exclude_unscored=True).num_excluded == summary.num_not_scored


def test_select_picks_the_highest_utility(scored, tmp_path):
    pool = read_scored(scored)
    frame = pool.table.to_pandas()
    for utility, value in (
        ("mean", frame["reward_mean"]),
        ("lcb_std(0.5)", frame["reward_mean"] - 0.5 * frame["reward_variance"] ** 0.5),
        ("lcb_var(2)", frame["reward_mean"] - 2.0 * frame["reward_variance"]),
        ("entropic(3)", frame["reward_mean"] - 1.5 * frame["reward_variance"]),
        (
            "center(mean) | lcb_std(2)",
            frame["reward_mean"] - frame["reward_reference"] - 2.0 * frame["reward_centered_variance"] ** 0.5,
        ),
    ):
        place = tmp_path / "picks.parquet"
        summary = select(scored, place, utility=utility)
        best = value.groupby(frame["prompt_id"]).max()
        picked = pq.read_table(place).to_pandas()
        np.testing.assert_allclose(picked["utility"], best, rtol=1e-4, atol=1e-5)
        assert picked["num_candidates"].tolist() == [5, 1, 9, 4]
        assert "reward_factor" not in picked.columns
        assert summary.mean_gold == pytest.approx(picked["gold"].mean(), rel=1e-5)
        assert summary.mean_reward == {"reward": pytest.approx(picked["reward_mean"].mean(), rel=1e-5)}
        assert summary.mean_std == {"reward": pytest.approx((picked["reward_variance"] ** 0.5).mean(), rel=1e-5)}
        assert summary.utility == utility
    assert select(scored, utility="prob_best").num_prompts == 4
    with pytest.raises(UtilityError, match="no step"):
        select(scored, utility="lcb_st(1)")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_select_formats(scored, tmp_path, suffix):
    import pandas as pd

    place = tmp_path / f"picks{suffix}"
    select(scored, place)
    read = {".jsonl": lambda p: pd.read_json(p, lines=True), ".csv": pd.read_csv, ".parquet": pd.read_parquet}[suffix]
    frame = read(place)
    assert frame["prompt_id"].tolist() == [0, 1, 2, 3]
    assert {"response_id", "prompt", "response", "utility", "num_tied", "reward_mean"} <= set(frame.columns)


def test_picks_of_an_ensemble_as_csv_leave_its_members_out(scored, tmp_path):
    table = read_scored(scored).table
    members = pa.array([[1.0, 2.0]] * table.num_rows, pa.list_(pa.float32(), 2))
    pool = ScoredPool(table.append_column("reward_members", members))
    select(pool, tmp_path / "picks.csv")
    assert "reward_members" not in (tmp_path / "picks.csv").read_text().splitlines()[0]
    select(pool, tmp_path / "picks.jsonl")
    assert json.loads((tmp_path / "picks.jsonl").read_text().splitlines()[0])["reward_members"] == [1.0, 2.0]


def test_select_shares_ties_by_seed_not_by_order(scored):
    table = read_scored(scored).table.slice(6, 9)
    flat = table.set_column(table.schema.get_field_index("reward_mean"), "reward_mean", [[1.0] * 9])
    picks = set()
    for seed in range(40):
        pool = ScoredPool(flat)
        assert select(pool, utility="mean", seed=seed).num_prompts_with_ties == 1
        picks.add(_picked(pool, seed))
    assert len(picks) >= 6


def _picked(pool, seed) -> int:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        select(pool, f"{folder}/p.parquet", utility="mean", seed=seed)
        return pq.read_table(f"{folder}/p.parquet")["response_id"][0].as_py()


def test_select_refusals(scored, tmp_path):
    with pytest.raises(PrudentError, match="suffix"):
        select(scored, tmp_path / "picks.xlsx")
    with pytest.raises(DataError, match="there is no"):
        select(tmp_path / "nowhere.parquet")
    bare = read_scored(scored).table.drop_columns(["reward_factor", "reward_reference"])
    with pytest.raises(UnsupportedError, match="factor"):
        select(ScoredPool(bare), utility="prob_best")
    with pytest.raises(DataError, match="which responses are the references"):
        select(ScoredPool(bare.drop_columns(["is_reference"])), utility="center(mean) | lcb_std")
    with pytest.raises(DataError, match="no reward 'helpful' here"):
        select(ScoredPool(bare), utility="helpful | mean")
    with pytest.raises(UnsupportedError, match="worst"):
        select(ScoredPool(bare), utility="worst")
    with pytest.raises(DataError, match="reward_mean"):
        ScoredPool(bare.drop_columns(["reward_mean"]))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match="not readable"):
        read_scored(tmp_path / "broken.parquet")


def test_other_posterior_or_pool_does_not_continue_a_run(model_folder, tiny_models, scored, tmp_path):
    fit(tiny_models("llama"), preferences(30), tmp_path / "other", progress=False)
    with pytest.raises(PrudentError, match="another model, posterior"):
        score(tmp_path / "other", pools(), scored, factor=True, num_references=3, progress=False)
    with pytest.raises(PrudentError, match="another data"):
        score(model_folder, pools((3, 2)), scored, factor=True, num_references=3, progress=False)
    score(model_folder, pools((3, 2)), scored, factor=True, num_references=3, overwrite=True, progress=False)
    assert read_scored(scored).table.num_rows == 5
    shutil.rmtree(scored)
    scored.mkdir()
    (scored / "mine.txt").write_text("keep")
    with pytest.raises(PrudentError, match="not written by scoring"):
        score(model_folder, pools(), scored, progress=False)


def test_loaded_model_needs_its_posterior(tiny_models, tmp_path):
    model = RewardModel.from_pretrained(tiny_models("llama"))
    with pytest.raises(ValueError, match="posterior"):
        score(model, pools(), tmp_path / "out", progress=False)
    assert score(model, pools(), tmp_path / "out", posterior=PlainRewards(), progress=False).posterior == "none"


def test_dtype_is_that_of_the_weights_and_of_the_run(tiny_models, tmp_path):
    pairs = [{"prompt": "name a fruit", "chosen": f"the apple {'and pear ' * n}", "rejected": "no"} for n in range(6)]
    fit(tiny_models("llama"), pairs, tmp_path / "rm", progress=False)
    pool = [{"prompt": "name a fruit please", "responses": ["the apple", "a cold stone", "maybe the pear"]}]
    wide = score(tmp_path / "rm", pool, tmp_path / "wide", progress=False)
    narrow = score(tmp_path / "rm", pool, tmp_path / "narrow", dtype="bfloat16", progress=False)
    assert wide.num_responses == narrow.num_responses == 3
    means = [read_scored(tmp_path / name).table["reward_mean"].to_numpy() for name in ("wide", "narrow")]
    assert not np.array_equal(*means)
    np.testing.assert_allclose(means[1], means[0], atol=0.1 * np.abs(means[0]).max())
    with pytest.raises(PrudentError, match="dtype"):
        score(tmp_path / "rm", pool, tmp_path / "wide", dtype="bfloat16", progress=False)
