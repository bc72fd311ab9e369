import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.errors import DataError
from prudent.selection import best_of_n, shuffle_within_groups

POOLS = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 3)), min_size=1, max_size=25)


@given(POOLS, st.integers(0, 1000))
def test_picks_a_maximum_and_counts(pool: list[tuple[int, int]], seed: int) -> None:
    group = torch.tensor([prompt for prompt, _ in pool])
    utility = torch.tensor([float(value) for _, value in pool])
    picks = best_of_n(utility, group, generator=torch.Generator().manual_seed(seed))
    assert picks.group.tolist() == sorted(set(group.tolist()))
    for place, prompt in enumerate(picks.group.tolist()):
        rows = [row for row, (p, _) in enumerate(pool) if p == prompt]
        best = max(utility[rows].tolist())
        assert picks.index[place].item() in rows
        assert utility[picks.index[place]].item() == picks.utility[place].item() == best
        assert picks.num_candidates[place].item() == len(rows)
        assert picks.num_tied[place].item() == sum(utility[row].item() == best for row in rows)
        assert picks.num_excluded[place].item() == 0


def test_ties_are_broken_evenly_and_not_by_the_order_of_the_file() -> None:
    utility, group = torch.tensor([1.0, 1.0, 0.0, 1.0]).repeat(6000), torch.arange(6000).repeat_interleave(4)
    picks = best_of_n(utility, group)
    counts = torch.bincount(picks.index % 4, minlength=4)
    assert counts[2].item() == 0
    # 6000 picks x 1/3: standard deviation 36.5
    assert (counts[[0, 1, 3]] - 2000).abs().max().item() < 5 * 36.5
    again = best_of_n(utility, group, generator=torch.Generator().manual_seed(0))
    assert torch.equal(picks.index, again.index)
    assert not torch.equal(picks.index, best_of_n(utility, group, generator=torch.Generator().manual_seed(1)).index)


def test_unscored_responses_are_an_error_or_counted_out() -> None:
    utility, group = torch.tensor([math.nan, 1.0, -math.inf, math.nan]), torch.tensor([0, 0, 1, 1])
    with pytest.raises(DataError, match=r"2 of 4 responses are not scored .* row 0 \(prompt 0\)"):
        best_of_n(utility, group)
    picks = best_of_n(utility, group, nan="exclude")
    assert picks.index.tolist() == [1, 2]
    assert picks.num_excluded.tolist() == [1, 1]
    assert picks.num_candidates.tolist() == [1, 1]
    with pytest.raises(DataError, match="prompt 4 has no scored response"):
        best_of_n(torch.tensor([math.nan, 1.0]), torch.tensor([4, 5]), nan="exclude")


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="vectors of one length"):
        best_of_n(torch.zeros(3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="nan must be"):
        best_of_n(torch.zeros(2), torch.zeros(2, dtype=torch.long), nan="skip")  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 1000))
def test_shuffling_keeps_the_values_of_each_prompt(ids: list[int], seed: int) -> None:
    group, values = torch.tensor(ids), torch.arange(len(ids))
    shuffled = shuffle_within_groups(values, group, torch.Generator().manual_seed(seed))
    for prompt in set(ids):
        rows = group == prompt
        assert sorted(shuffled[rows].tolist()) == sorted(values[rows].tolist())


def test_shuffling_is_uniform() -> None:
    group = torch.arange(6000).repeat_interleave(3)
    group = torch.cat([group[::2], group[1::2]])  # not prompt by prompt
    values = torch.zeros(len(group))
    first = torch.argsort(group, stable=True).reshape(-1, 3)[:, 0]
    values[first] = 1
    landed = shuffle_within_groups(values, group)[torch.argsort(group, stable=True)].reshape(-1, 3).sum(0)
    assert (landed - 2000).abs().max().item() < 5 * 36.5
    two = torch.arange(12.0).reshape(6, 2)
    assert shuffle_within_groups(two, torch.zeros(6, dtype=torch.long)).diff(dim=1).eq(1).all()
    with pytest.raises(ValueError, match="rows"):
        shuffle_within_groups(torch.zeros(3), torch.zeros(2, dtype=torch.long))
