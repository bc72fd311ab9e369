"""Preferences: formats of rows, faults of rows, and what is said about them."""

import math

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from prudent.data import load_preferences
from prudent.errors import DataError

GOOD = {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "A chair."}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def good_rows(number):
    return [{**GOOD, "prompt": f"Name river {index}."} for index in range(number)]


BAD = {
    "missing prompt": {"prompt": None},
    "empty prompt": {"prompt": "  \n"},
    "missing chosen": {"chosen": None},
    "empty chosen": {"chosen": ""},
    "empty rejected": {"rejected": [assistant("")]},
    "wrong type of prompt": {"prompt": 7},
    "wrong type of chosen": {"chosen": ["The Rhine."]},
    "wrong type of rejected": {"rejected": [{"from": "gpt", "value": "A chair."}]},
    "chosen and rejected identical": {"chosen": "A chair."},
    "unknown role": {"prompt": [{"role": "human", "content": "Name a river."}]},
    "chosen does not end with the assistant": {"chosen": [assistant("The Rhine."), user("Thanks.")]},
    "margin not finite": {"margin": math.inf},
    "wrong type of margin": {"margin": "large"},
    "wrong type of p_chosen": {"p_chosen": True},
    "p_chosen not finite": {"p_chosen": math.nan},
    "p_chosen outside [0, 1]": {"p_chosen": 1.5},
    "broken text in chosen": {"chosen": "half a pair \ud800"},
}


@pytest.mark.parametrize(("reason", "change"), BAD.items())
@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_row_is_named_or_skipped(reason, change, streaming):
    rows = [*good_rows(3), {**GOOD, **change}, *good_rows(2)]
    with pytest.raises(DataError) as caught:
        load_preferences(rows, streaming=streaming)
    message = str(caught.value)
    assert "\n" not in message
    assert "1 of 6 rows" in message
    assert "row 3: " in message
    assert f"`{next(iter(change))}" in message
    pairs = load_preferences(rows, on_bad="skip", streaming=streaming)
    assert pairs.summary.skipped == {reason: 1}
    assert len(pairs) == pairs.summary.num_rows == 5
    assert [row["row"] for row in pairs] == [0, 1, 2, 4, 5]


def test_all_bad_rows_are_counted_and_five_are_shown():
    rows = good_rows(10)
    for index in range(1, 9):
        rows[index] = {**GOOD, "chosen": ""} if index % 2 else {**GOOD, "prompt": None}
    with pytest.raises(DataError) as caught:
        load_preferences(rows)
    message = str(caught.value)
    assert "8 of 10 rows cannot be used (4 empty chosen, 4 missing prompt)" in message
    assert all(f"row {index}: " in message for index in range(1, 6))
    assert "row 6: " not in message
    assert "and 3 more" in message
    pairs = load_preferences(rows, on_bad="skip")
    assert pairs.summary.skipped == {"missing prompt": 4, "empty chosen": 4}
    assert "8 of 10 rows skipped (4 empty chosen, 4 missing prompt)" in str(pairs.summary)


def test_nothing_usable_is_an_error_even_when_skipping():
    with pytest.raises(DataError, match=r"no usable row is left of 1 \(1 empty chosen\)"):
        load_preferences([{**GOOD, "chosen": ""}], on_bad="skip")
    with pytest.raises(DataError, match="there are no rows in it"):
        load_preferences([])


def test_margin_and_soft_label_get_neutral_values_where_absent():
    pairs = load_preferences([{**GOOD, "margin": 2}, {**GOOD, "p_chosen": np.float32(0.5)}, GOOD])
    assert pairs.rows["margin"][:] == [2.0, 0.0, 0.0]
    assert pairs.rows["p_chosen"][:] == [1.0, 0.5, 1.0]
    assert load_preferences([GOOD]).rows.column_names == ["prompt", "chosen", "rejected", "row"]


def test_labels_are_kept_as_text_and_other_columns_are_named():
    pairs = load_preferences([{**GOOD, "id": 3, "source": "made up", "judge": "Ann"}, GOOD])
    assert pairs.rows["id"][:] == ["3", None]
    assert pairs.rows["source"][:] == ["made up", None]
    assert pairs.summary.unused_columns == ["judge"]


def test_texts_and_messages_may_be_mixed():
    rows = [
        {"prompt": [user("Name a river.")], "chosen": "The Rhine.", "rejected": [assistant("A chair.")]},
        {"prompt": "Name a river.", "chosen": [assistant("The Rhine.")], "rejected": "A chair."},
        GOOD,
    ]
    first, *others = ({**row, "row": 0} for row in load_preferences(rows))
    assert all(other == first for other in others)


def test_an_empty_turn_in_the_history_is_no_fault():
    prompt = [user("Hello."), assistant(""), user("Name a river.")]
    assert load_preferences([{**GOOD, "prompt": prompt}]).rows[0]["prompt"] == prompt


@pytest.mark.parametrize(
    ("chosen", "rejected", "fault"),
    [
        ("Yes.", "No.", "do not begin alike"),
        ([user("q")], [user("q"), assistant("a")], "is the beginning of the other"),
        ([user("a"), assistant("a")], [user("b"), assistant("a")], "do not begin alike"),
        ("Name a river. The Rhine.", [user("Name a river."), assistant("A chair.")], "only one is a text"),
        ("the same", "the same", "are identical"),
    ],
)
def test_an_implicit_prompt_that_is_not_there(chosen, rejected, fault):
    with pytest.raises(DataError, match=fault):
        load_preferences([{"chosen": chosen, "rejected": rejected}])


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"prompt": "q", "responses": ["a", "b"]}, "pool of candidates"),
        ({"prompt": "q", "completion": "a", "label": True}, "unpaired"),
        ({"question": "q", "chosen": "a"}, "no column rejected; there are question, chosen"),
    ],
)
def test_wrong_columns_are_named_with_those_needed(row, hint):
    for source in ([row], Dataset.from_list([row])):
        with pytest.raises(DataError, match=hint) as caught:
            load_preferences(source)
        assert "`chosen` and `rejected`" in str(caught.value)


def test_rows_that_are_no_dicts():
    with pytest.raises(DataError, match="row 0: a row must be a dict, this is a str"):
        load_preferences(["Name a river."])
    with pytest.raises(TypeError, match="not int"):
        load_preferences(3)
    with pytest.raises(ValueError, match='"error" or "skip"'):
        load_preferences([GOOD], on_bad="ignore")


def test_a_stream_of_another_is_checked_while_it_is_read():
    rows = [*good_rows(3), {**GOOD, "chosen": ""}]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(DataError, match="row 3: `chosen` is empty"):
        list(load_preferences(stream, streaming=True).rows)
    pairs = load_preferences(stream, streaming=True, on_bad="skip")
    assert isinstance(pairs.rows, IterableDataset)
    assert not pairs.summary.complete
    for _ in range(2):
        assert len(list(pairs.rows)) == len(pairs) == 3
        assert pairs.summary.complete
        assert pairs.summary.skipped == {"empty chosen": 1}
    assert len(load_preferences(stream, on_bad="skip").rows) == 3


def test_a_column_that_is_filled_late_in_a_stream_is_not_lost():
    rows = [{**row, "margin": None} for row in good_rows(150)]
    rows[-1]["margin"] = 2.0
    stream = Dataset.from_list(rows).to_iterable_dataset()
    assert [row["margin"] for row in load_preferences(stream, streaming=True)] == [0.0] * 149 + [2.0]
