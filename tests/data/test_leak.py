import pytest

from prudent.data import check_leak, load_preferences
from prudent.errors import DataError


def pairs(*prompts):
    return load_preferences([{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in prompts])


def test_separate_prompts_pass():
    test = pairs("c", "c")
    assert check_leak(pairs("a", "b"), test) is test


def test_leaks_are_named_with_rows_of_both():
    with pytest.raises(DataError) as caught:
        check_leak(pairs("a", "b", "a"), pairs("c", "b ", "d", "a"))
    assert "2 of 4 rows" in str(caught.value)
    assert "row 1 (row 1 in training), row 3 (row 0 in training)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_leaking_rows_are_skipped_and_counted():
    test = check_leak(pairs("a", "b"), pairs("c", "b", "d"), on_bad="skip")
    assert test.rows["row"][:] == [0, 2]
    assert len(test) == 2
    assert test.summary.skipped == {"prompt also in the training data": 1}
    with pytest.raises(DataError, match="No row is left"):
        check_leak(pairs("a"), pairs("a"), on_bad="skip")


def test_streams_are_filtered():
    rows = [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in "abc"]
    stream = load_preferences(rows, streaming=True)
    kept = check_leak(pairs("b"), stream, on_bad="skip")
    assert [row["prompt"][0]["content"] for row in kept] == ["a", "c"]
    assert check_leak(stream, pairs("d"))


def test_the_same_text_in_another_role_is_another_prompt():
    system = load_preferences([{"prompt": [{"role": "system", "content": "a"}], "chosen": "yes", "rejected": "no"}])
    assert check_leak(pairs("a"), system) is system
