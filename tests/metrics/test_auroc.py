import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.metrics import auroc

VALUES = st.lists(st.integers(-3, 3), min_size=1, max_size=15)


@given(VALUES, VALUES)
def test_is_the_share_of_pairs_won_ties_counting_a_half(positive: list[int], negative: list[int]) -> None:
    won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    found = auroc(torch.tensor(positive), torch.tensor(negative))
    assert found == pytest.approx(won / (len(positive) * len(negative)))
    assert auroc(torch.tensor(negative), torch.tensor(positive)) == pytest.approx(1 - found)


def test_of_two_normals_is_phi_of_their_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = 1 + torch.randn(20_000, generator=generator)
    negative = torch.randn(20_000, generator=generator)
    assert auroc(positive, negative) == pytest.approx(0.5 * math.erfc(-0.5), abs=0.006)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="needs values on both sides"):
        auroc(torch.zeros(0), torch.zeros(2))
    with pytest.raises(ValueError, match="not a number"):
        auroc(torch.tensor([math.nan]), torch.zeros(2))
    with pytest.raises(ValueError, match="vectors"):
        auroc(torch.zeros(2, 2), torch.zeros(2))
