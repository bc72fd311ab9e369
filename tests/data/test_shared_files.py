"""The real files load, and their numbers of rows are those that their README states."""

import time

import pytest

from prudent.data import check_leak, load_pools, load_preferences
from prudent.errors import DataError

PREFERENCES = {
    "hh_helpful_train": 3992,
    "hh_helpful_test": 706,
    "hh_harmless_train": 1526,
    "hh_harmless_test": 269,
    "wmt19_lten_train": 17392,
    "wmt19_lten_test": 2883,
    "ae_pairs_train": 20031,
    "ae_pairs_test": 1988,
}
POOLS = {
    "ae_bon_train": (308, 17543),
    "ae_bon_test": (166, 9454),
    "codet_humaneval_n100_dev": (91, 9100),
    "gsm8k_n4": (1318, 5272),
    "qwen_math100_n8": (97, 776),
    "qa_feedback_n4": (500, 2000),
}


@pytest.mark.parametrize(("file", "num_rows"), PREFERENCES.items())
def test_preferences_load_with_the_stated_number_of_rows(shared_data, file, num_rows):
    pairs = load_preferences(shared_data / f"{file}.parquet")
    assert len(pairs) == pairs.rows.num_rows == pairs.summary.num_read == num_rows
    assert not pairs.summary.skipped
    assert ("p_chosen" in pairs.rows.column_names) == file.startswith("ae_pairs")
    first = pairs.rows[0]
    assert first["chosen"][-1]["role"] == first["rejected"][-1]["role"] == "assistant"


@pytest.mark.parametrize(("file", "counts"), POOLS.items())
def test_pools_load_with_the_stated_number_of_rows(shared_data, file, counts):
    pools = load_pools(shared_data / f"{file}.parquet")
    assert (len(pools), pools.summary.num_responses) == counts
    for row in pools:
        assert len(row["responses"]) == len(row["gold"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_baseline_answers_are_dropped(shared_data, split):
    whole = load_pools(shared_data / f"ae_bon_{split}.parquet")
    pools = load_pools(shared_data / f"ae_bon_{split}.parquet", drop="is_baseline")
    assert pools.summary.num_dropped == len(pools) == len(whole)
    assert "is_baseline" not in pools.rows.column_names
    for row, other in zip(pools, whole, strict=True):
        kept = [not flag for flag in other["is_baseline"]]
        for column in ("responses", "gold", "models"):
            assert row[column] == [value for value, keep in zip(other[column], kept, strict=True) if keep]


def test_bench_has_two_rows_that_are_no_pairs(shared_data):
    with pytest.raises(DataError, match="2 of 852 rows cannot be used"):
        load_preferences(shared_data / "bench_dev.parquet")
    pairs = load_preferences(shared_data / "bench_dev.parquet", on_bad="skip")
    assert len(pairs) == 850
    assert sum(pairs.summary.skipped.values()) == 2


@pytest.mark.parametrize("source", ["hh_helpful", "hh_harmless", "wmt19_lten", "ae_pairs"])
def test_train_and_test_share_no_prompt(shared_data, source):
    train = load_preferences(shared_data / f"{source}_train.parquet")
    test = load_preferences(shared_data / f"{source}_test.parquet")
    assert check_leak(train, test) is test
    with pytest.raises(DataError, match="rows have a prompt that is also in the training data"):
        check_leak(test, test)


def test_small_slices_are_read_as_json_lines(shared_data):
    for path in sorted((shared_data / "ci").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            num_lines = sum(1 for _ in lines)
        if "rewardmath" in path.name:
            with pytest.raises(DataError, match="no column prompt"):
                load_pools(path)
        elif "bon" in path.name or "gsm8k" in path.name:
            assert len(load_pools(path)) == num_lines
        else:
            assert len(load_preferences(path)) == num_lines


def test_streaming_gives_the_same_rows(shared_data):
    path = shared_data / "hh_helpful_test.parquet"
    table, stream = load_preferences(path), load_preferences(path, streaming=True)
    assert list(stream.rows) == list(table.rows)
    path = shared_data / "ae_bon_test.parquet"
    pools, stream = load_pools(path, drop="is_baseline"), load_pools(path, drop="is_baseline", streaming=True)
    assert list(stream.rows) == list(pools.rows)
    assert stream.summary == pools.summary


def test_twenty_thousand_pairs_take_seconds(shared_data):
    start = time.perf_counter()
    load_preferences(shared_data / "ae_pairs_train.parquet")
    assert time.perf_counter() - start < 15  # 1.1 s measured; the bound allows for a busy machine
