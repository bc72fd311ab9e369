import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.rewards import index_groups


@given(st.lists(st.integers(-3, 3), max_size=30), st.booleans())
def test_agrees_with_numpy(ids: list[int], ordered: bool) -> None:
    group = np.array(sorted(ids) if ordered else ids, dtype=np.int64)
    index = index_groups(torch.from_numpy(group))
    expected, position, counts = np.unique(group, return_inverse=True, return_counts=True)
    assert index.ids.tolist() == expected.tolist()
    assert index.position.tolist() == position.tolist()
    assert index.counts.tolist() == counts.tolist()
    assert index.sum(torch.ones(len(ids))).tolist() == counts.tolist()
    rows = index.rows()
    assert len(rows) == len(expected) or len(ids) == 0
    for prompt, mine in zip(expected, rows, strict=False):
        assert mine.tolist() == np.flatnonzero(group == prompt).tolist()


def test_only_vectors_of_integers() -> None:
    for wrong in (torch.zeros(3), torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="vector of integers"):
            index_groups(wrong)
