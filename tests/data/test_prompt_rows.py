"""`load_prompts`: different prompts from whatever holds any, bad rows named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prudent.data import load_pools, load_preferences, load_prompts
from prudent.errors import DataError


def contents(prompts):
    return [row["prompt"][-1]["content"] for row in prompts]


def test_prompts_of_each_kind_of_file(shared_data):
    pool = load_prompts(shared_data / "codet_humaneval_n100_dev.parquet")
    assert contents(pool) == [row["prompt"][-1]["content"] for row in load_pools(pool.summary.source)]
    pairs = load_prompts(shared_data / "hh_helpful_test.parquet")
    loaded = load_preferences(pairs.summary.source)
    assert [row["prompt"] for row in pairs] == list(
        {json.dumps(row["prompt"]): row["prompt"] for row in loaded}.values()
    )
    assert pairs.summary.num_rows + pairs.summary.num_repeated == pairs.summary.num_read == 706


def test_equal_prompts_count_once_and_keep_the_first_row():
    rows = [
        {"prompt": "a", "id": 7, "subset": "x"},
        {"prompt": "b"},
        {"prompt": [{"role": "user", "content": "a "}], "id": 8},
        {"prompt": "c", "response": "yes", "prompt_id": 3},
    ]
    found = load_prompts(rows)
    assert contents(found) == ["a", "b", "c"]
    assert [row["row"] for row in found] == [0, 1, 3]
    assert [row["id"] for row in found] == ["7", None, "3"]
    assert found.summary.num_repeated == 1
    assert str(found.summary) == "the list of rows: 3 prompts in 4 rows"
    assert len({row["digest"] for row in found}) == 3


def test_prompts_that_pairs_share_at_their_beginning():
    pair = {"chosen": "Name a color. Blue.", "rejected": "Name a color. Seven."}
    assert contents(load_prompts([pair])) == ["Name a color."]
    with pytest.raises(DataError, match="`chosen` and `rejected` are identical"):
        load_prompts([{"chosen": "same", "rejected": "same"}])


def test_other_columns_of_a_parquet_file_are_not_read(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"], "responses": [["x", "y"]]}), tmp_path / "pool.parquet")
    assert set(next(iter(load_prompts(tmp_path / "pool.parquet")))) == {
        "prompt", "row", "digest", "source", "subset", "id"
    }  # fmt: skip


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_prompts_by_another_name_are_told_from_bad_rows(tmp_path, on_bad):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": "yes"}) + "\n" for text in "abc"))
    with pytest.raises(DataError, match=r"questions.jsonl: no column prompt; there are question, answer"):
        load_prompts(path, on_bad=on_bad)


def test_bad_rows_are_named_or_counted(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": " "}, {"prompt": None}, {"prompt": 3}]
    with pytest.raises(DataError, match=r"3 of 4 rows cannot be used .* row 1: `prompt` is empty"):
        load_prompts(rows)
    found = load_prompts(rows, on_bad="skip")
    assert (len(found), found.summary.num_skipped) == (1, 3)
    (tmp_path / "other.csv").write_text("text,label\nhello,1\n")
    with pytest.raises(DataError, match="no column prompt; there are text, label"):
        load_prompts(tmp_path / "other.csv")
