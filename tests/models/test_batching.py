import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.models import EncodedTexts, iterate_batches, pad_batch, token_budget_batches


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 2_000))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    batches = token_budget_batches(sizes, budget)
    rows = np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= budget
    # Longest first, so that memory peaks at the beginning.
    assert (np.diff(sizes[rows]) <= 0).all()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(300, 2_000))
def test_no_batch_could_take_the_next_row_too(lengths: list[int], budget: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    for batch in token_budget_batches(sizes, budget)[:-1]:
        assert (len(batch) + 1) * sizes[batch].max() > budget


def test_budget_must_be_positive() -> None:
    with pytest.raises(ValueError, match="tokens_per_batch"):
        token_budget_batches(np.array([1]), 0)


def test_padding_is_on_the_right_and_masked() -> None:
    no = np.zeros(3, dtype=bool)
    encoded = EncodedTexts([[5, 6], [7], [1, 2, 3]], [[0, 1], [0], [0, 0, 1]], no, no)
    batch = pad_batch(encoded, np.array([1, 2]), 9, torch.device("cpu"))
    assert len(batch) == 2
    assert batch.index.tolist() == [1, 2]
    assert batch.inputs["input_ids"].tolist() == [[7, 9, 9], [1, 2, 3]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 1]]
    batches = list(iterate_batches(encoded, 3, 9, torch.device("cpu")))
    assert [batch.index.tolist() for batch in batches] == [[2], [0], [1]]
