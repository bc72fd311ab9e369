"""Candidate pools: both shapes, gold, dropping, faults, and flat memory."""

import json
import math
import tracemalloc

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from prudent.data import load_pools
from prudent.errors import DataError

GOOD = {"prompt": "Name a river.", "responses": ["The Rhine.", "A chair."], "gold": [1.0, 0.0]}

BAD = {
    "missing prompt": {"prompt": None},
    "missing responses": {"responses": None},
    "empty responses": {"responses": [], "gold": []},
    "wrong type of responses": {"responses": "The Rhine."},
    "response is not one message": {"responses": [[{"role": "user", "content": "a"}], "b"]},
    "length of gold": {"gold": [1.0]},
    "wrong type of gold": {"gold": 1.0},
    "gold is no finite number": {"gold": [1.0, math.inf]},
}


@pytest.mark.parametrize(("reason", "change"), BAD.items())
@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_row_is_named_or_skipped(reason, change, streaming):
    rows = [GOOD, {**GOOD, **change}, GOOD]
    with pytest.raises(DataError) as caught:
        load_pools(rows, streaming=streaming)
    message = str(caught.value)
    assert "\n" not in message
    assert "1 of 3 rows" in message
    assert f"row 1: `{next(iter(change))}" in message
    pools = load_pools(rows, on_bad="skip", streaming=streaming)
    assert pools.summary.skipped == {reason: 1}
    assert [row["row"] for row in pools] == [0, 2]
    assert len(pools) == 2


def test_null_responses_and_unreadable_gold_are_faults():
    with pytest.raises(DataError, match=r"`responses\[1\]` is null"):
        load_pools([{**GOOD, "responses": ["a", None]}])
    with pytest.raises(DataError, match=r"`gold\[0\]` is 'good'"):
        load_pools([{**GOOD, "gold": ["good", 1]}])


def test_gold_may_be_missing_or_of_any_number_type():
    rows = [{**GOOD, "gold": [None, 2]}, {**GOOD, "gold": [True, math.nan]}, {**GOOD, "gold": None}]
    pools = load_pools(rows)
    gold = pools.rows["gold"][:]
    assert gold[0][1] == 2.0
    assert gold[1][0] == 1.0
    assert all(map(math.isnan, (gold[0][0], gold[1][1], *gold[2])))
    assert pools.summary.num_without_gold == 2
    assert "gold" not in load_pools([{"prompt": "q", "responses": ["a"]}]).rows.column_names


def test_blank_responses_are_kept_and_counted():
    pools = load_pools([{"prompt": "q", "responses": ["", " \n", "a"]}])
    assert pools.rows[0]["responses"] == ["", " \n", "a"]
    assert pools.summary.num_blank == 2


def test_responses_may_be_messages():
    prompt = [{"role": "user", "content": "q"}]
    answer = [{"role": "assistant", "content": "a"}]
    pools = load_pools([{"prompt": prompt, "responses": [answer, prompt + answer]}])
    assert pools.rows[0]["responses"] == ["a", "a"]


def test_columns_of_one_value_a_response_pass_through():
    rows = [
        {
            **GOOD,
            "models": ["m", "n"],
            "score": [1, 2.5],
            "pairs": [[0, 1], [1, 0]],
            "topic": "rivers",
            "votes": [1, 2],
        },
        {"prompt": "q", "responses": ["a", "b", "c"], "models": ["m", None, "n"], "votes": [3, 4], "score": None},
    ]
    pools = load_pools(rows)
    assert pools.rows["models"][:] == [["m", "n"], ["m", None, "n"]]
    assert pools.rows["score"][:] == [[1.0, 2.5], [None] * 3]
    assert sorted(pools.summary.unused_columns) == ["pairs", "topic", "votes"]
    assert not {"pairs", "topic", "votes"} & set(pools.rows.column_names)
    assert list(load_pools(rows, streaming=True).rows.select_columns("models")) == list(
        pools.rows.select_columns("models")
    )


def test_responses_are_dropped_by_a_column():
    row = {**GOOD, "models": ["m", "n"], "is_baseline": [False, True]}
    pools = load_pools([row], drop="is_baseline")
    assert pools.rows[0] == {
        "prompt": [{"role": "user", "content": GOOD["prompt"]}],
        "responses": ["The Rhine."],
        "gold": [1.0],
        "models": ["m"],
        "row": 0,
    }
    assert pools.summary.num_dropped == 1
    with pytest.raises(DataError, match="no column baseline by which to drop"):
        load_pools([row], drop="baseline")
    with pytest.raises(DataError, match="none is left"):
        load_pools([{**row, "is_baseline": [True, True]}], drop="is_baseline")
    with pytest.raises(DataError, match="`is_baseline` holds 'perhaps'"):
        load_pools([{**row, "is_baseline": ["perhaps", False]}], drop="is_baseline")
    with pytest.raises(DataError, match="`is_baseline` has 1 values for 2 responses"):
        load_pools([{**row, "is_baseline": [True]}], drop="is_baseline")


responses = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), responses, min_size=1, max_size=4))
def test_one_row_a_response_is_the_same_pool(pools_by_prompt):
    nested = [
        {
            "prompt": prompt,
            "responses": texts,
            "gold": [float(len(text)) for text in texts],
            "models": ["m"] * len(texts),
        }
        for prompt, texts in pools_by_prompt.items()
    ]
    flat = [
        {"prompt": row["prompt"], "response": text, "gold": gold, "models": "m"}
        for row in nested
        for text, gold in zip(row["responses"], row["gold"], strict=True)
    ]
    expected = [{**row, "row": None} for row in load_pools(nested)]
    assert [{**row, "row": None} for row in load_pools(flat)] == expected
    assert [{**row, "row": None} for row in load_pools(flat, streaming=True)] == expected


def test_flat_rows_are_grouped_by_prompt_id_or_prompt():
    rows = [
        {"prompt_id": 7, "prompt": "q", "response": "a", "is_baseline": 0},
        {"prompt_id": 8, "prompt": "q", "response": "b", "is_baseline": 1},
        {"prompt_id": 7, "prompt": "q", "response": "c", "is_baseline": 0},
        {"prompt_id": 8, "prompt": "q", "response": "d", "is_baseline": 0},
    ]
    pools = load_pools(rows, drop="is_baseline")
    assert pools.rows["responses"][:] == [["a", "c"], ["d"]]
    assert pools.rows["id"][:] == ["7", "8"]
    assert pools.rows["row"][:] == [0, 1]
    assert pools.summary.num_read == 4
    merged = load_pools([{key: row[key] for key in ("prompt", "response")} for row in rows])
    assert merged.rows["responses"][:] == [["a", "b", "c", "d"]]
    with pytest.raises(DataError, match="row 2 continues a prompt that was left before"):
        load_pools(rows, streaming=True)


def test_bad_flat_rows_go_alone():
    rows = [
        {"prompt_id": 7, "prompt": "q", "response": "a", "gold": 1},
        {"prompt_id": 7, "prompt": "q", "response": None, "gold": 1},
        {"prompt_id": 7, "prompt": "other", "response": "c", "gold": 1},
        {"prompt_id": 7, "prompt": "q", "response": "d", "gold": math.inf},
        {"prompt_id": 7, "prompt": "q", "response": "e", "gold": None},
    ]
    with pytest.raises(DataError) as caught:
        load_pools(rows)
    message = str(caught.value)
    assert "3 of 5 rows" in message
    assert "row 1: `response` is null" in message
    assert "row 2: `prompt` differs from that of row 0" in message
    assert "row 3: `gold` is inf" in message
    pools = load_pools(rows, on_bad="skip")
    assert pools.rows["responses"][:] == [["a", "e"]]
    assert pools.summary.num_skipped == 3


def test_wrong_columns_are_named_with_those_needed():
    with pytest.raises(DataError, match="these look like preferences"):
        load_pools([{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match="no column prompt; there are question, responses"):
        load_pools(Dataset.from_list([{"question": "q", "responses": ["a"]}]))


def test_a_remote_stream_is_checked_while_it_is_read():
    rows = [{**GOOD, "models": ["m", "n"]}] * 120
    stream = Dataset.from_list(rows).to_iterable_dataset()
    pools = load_pools(stream, streaming=True)
    assert not pools.summary.complete
    assert sum(len(row["models"]) for row in pools) == pools.summary.num_responses == 240
    bad = Dataset.from_list([*rows, {**GOOD, "gold": [1.0], "models": ["m", "n"]}]).to_iterable_dataset()
    with pytest.raises(DataError, match="row 120: `gold` has 1 values for 2 responses"):
        list(load_pools(bad, streaming=True).rows)


def test_a_stream_is_held_in_flat_memory(tmp_path):
    peaks = []
    for num_prompts in (50, 500):
        path = tmp_path / f"{num_prompts}.jsonl"
        with path.open("w") as lines:
            for index in range(num_prompts):
                texts = [f"{index} {other} " + "word " * 100 for other in range(20)]
                lines.write(json.dumps({"prompt": f"q {index}", "responses": texts}) + "\n")
        list(load_pools(path, streaming=True).rows.take(1))  # imports and the like are not counted
        tracemalloc.start()
        num_responses = sum(len(row["responses"]) for row in load_pools(path, streaming=True))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert num_responses == num_prompts * 20
    assert path.stat().st_size > 5e6
    assert peaks[1] < peaks[0] + 1e6


def test_rows_may_be_adapted_before_they_are_read_as_pools(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answers": ["a", "b"]}\n{"question": "r"}\n')

    def adapt(row):
        if "answers" not in row:
            raise DataError("`answers` is missing")
        return {"prompt": row["question"], "responses": row["answers"]}

    with pytest.raises(DataError, match=r"1 of 2 rows cannot be used: row 1 \(line 2\): `answers` is missing"):
        load_pools(path, adapt=adapt)
    for streaming in (False, True):
        pools = load_pools(path, adapt=adapt, on_bad="skip", streaming=streaming)
        assert [row["responses"] for row in pools] == [["a", "b"]]
        assert pools.summary.skipped == {"wrong columns": 1}
