import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prudent.utility import choose_references


@given(st.integers(0, 200), st.integers(1, 40), st.integers(-5, 5), st.text())
def test_distinct_sorted_in_range_and_repeatable(n: int, num_references: int, seed: int, key: str) -> None:
    chosen = choose_references(n, num_references, seed, key)
    assert len(chosen) == min(n, num_references)
    assert (np.diff(chosen) > 0).all()
    assert ((chosen >= 0) & (chosen < n)).all()
    assert np.array_equal(chosen, choose_references(n, num_references, seed, key))


def test_every_position_is_equally_likely() -> None:
    counts = np.zeros(20)
    for prompt in range(4000):
        counts[choose_references(20, 5, 0, f"prompt {prompt}")] += 1
    # 4000 prompts x 1/4: standard deviation sqrt(4000 * 3/16) = 27
    assert np.abs(counts - 1000).max() < 5 * 27.4


def test_depends_on_seed_and_prompt() -> None:
    base = choose_references(1000, 16, 0, "a")
    assert not np.array_equal(base, choose_references(1000, 16, 1, "a"))
    assert not np.array_equal(base, choose_references(1000, 16, 0, "b"))


def test_known_values_guard_against_silent_change() -> None:
    assert choose_references(100, 3, 0, "Why is the sky blue?").tolist() == [9, 66, 76]


def test_wrong_counts_are_named() -> None:
    for n, r in ((-1, 2), (5, 0)):
        with pytest.raises(ValueError, match="cannot choose"):
            choose_references(n, r, 0, "a")
