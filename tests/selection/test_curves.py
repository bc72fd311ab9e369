import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prudent.errors import DataError, UnsupportedError
from prudent.rewards import GaussianRewards
from prudent.selection import best_of_n_curve
from prudent.utility import Mean, ProbBest

RAGGED = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-9, 9)), min_size=1, max_size=18)
"""Rows of (prompt, utility, value): few distinct utilities, so that ties abound."""


def by_enumeration(utility: list[float], value: list[float], n: int) -> float:
    """Average over all subsets of the average value of the subset's best."""
    total = Fraction(0)
    for subset in itertools.combinations(range(len(utility)), n):
        best = max(utility[i] for i in subset)
        tied = [Fraction(value[i]) for i in subset if utility[i] == best]
        total += sum(tied) / len(tied)
    return float(total / math.comb(len(utility), n))


def exact_weight(size: int, n: int, i: int) -> float:
    return float(Fraction(math.comb(i - 1, n - 1), math.comb(size, n)))


@settings(max_examples=60)
@given(RAGGED)
def test_agrees_with_enumeration_of_all_subsets(rows: list[tuple[int, int, int]]) -> None:
    group, utility, value = (torch.tensor(column) for column in zip(*rows, strict=True))
    n_values = [1, 2, 3, 5, 8]
    curve = best_of_n_curve(utility.float(), value.float(), group, n_values)
    for place, prompt in enumerate(sorted(set(group.tolist()))):
        mine = [row for row in rows if row[0] == prompt]
        for column, n in enumerate(n_values):
            if n > len(mine):
                assert curve[place, column].isnan()
            else:
                expected = by_enumeration([r[1] for r in mine], [r[2] for r in mine], n)
                assert curve[place, column].item() == pytest.approx(expected, abs=1e-10)


@given(RAGGED, st.randoms())
def test_does_not_depend_on_the_order_of_the_file(rows: list[tuple[int, int, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    curves = []
    for order in (rows, shuffled):
        group, utility, value = (torch.tensor(column) for column in zip(*order, strict=True))
        curves.append(best_of_n_curve(utility.float(), value.float(), group, [1, 2, 4]))
    torch.testing.assert_close(curves[0], curves[1], equal_nan=True, atol=1e-12, rtol=0)


@given(RAGGED)
def test_the_proxy_curve_rises_from_the_mean_to_the_maximum(rows: list[tuple[int, int, int]]) -> None:
    group, utility = torch.tensor([r[0] for r in rows]), torch.tensor([float(r[1]) for r in rows])
    curve = best_of_n_curve(utility, utility, group, list(range(1, 19)))
    for place, prompt in enumerate(sorted(set(group.tolist()))):
        mine = utility[group == prompt]
        line = curve[place, : len(mine)]
        assert line[0].item() == pytest.approx(mine.mean().item(), abs=1e-6)
        assert line[-1].item() == pytest.approx(mine.max().item(), abs=1e-6)
        assert (line.diff() >= -1e-9).all()


@pytest.mark.parametrize("size", [1, 2, 17, 400, 12_500])
def test_weights_are_exact_and_sum_to_one(size: int) -> None:
    """A value that is 1 for one candidate and 0 for the others reads its weight off."""
    n_values = sorted(n for n in {1, 2, 64, size // 3, size - 1, size} if 1 <= n <= size)
    utility = torch.arange(float(size), dtype=torch.float64)
    ones = best_of_n_curve(utility, torch.ones(size), torch.zeros(size, dtype=torch.long), n_values)
    torch.testing.assert_close(ones, torch.ones(1, len(n_values), dtype=torch.float64), atol=1e-12, rtol=0)
    some = sorted({0, size // 2, max(0, size - 2), size - 1})
    values = torch.zeros(size, len(some), dtype=torch.float64)
    values[some, torch.arange(len(some))] = 1
    weights = best_of_n_curve(utility, values, torch.zeros(size, dtype=torch.long), n_values)
    for column, n in enumerate(n_values):
        exact = [exact_weight(size, n, i + 1) for i in some]
        np.testing.assert_allclose(weights[0, column], exact, rtol=1e-9, atol=1e-300)


def test_agrees_with_simulation_on_a_large_pool() -> None:
    generator = torch.Generator().manual_seed(0)
    size, n, draws = 500, 20, 20_000
    utility, noise = torch.randn(2, size, generator=generator)
    value = utility + noise
    curve = best_of_n_curve(utility, value, torch.zeros(size, dtype=torch.long), [n])
    subsets = torch.rand(draws, size, generator=generator).argsort(1)[:, :n]
    picks = value[subsets.gather(1, utility[subsets].argmax(1, keepdim=True))]
    assert curve.item() == pytest.approx(picks.mean().item(), abs=5 * picks.std().item() / draws**0.5)


def test_many_sizes_and_unordered_prompts_agree_with_one_at_a_time() -> None:
    generator = torch.Generator().manual_seed(1)
    group = torch.randint(0, 40, (1500,), generator=generator) * 3
    utility = torch.randint(0, 30, (1500,), generator=generator).float()
    value = torch.randn(1500, 2, generator=generator)
    together = best_of_n_curve(utility, value, group, [1, 7, 33])
    for place, prompt in enumerate(group.unique().tolist()):
        mine = group == prompt
        alone = best_of_n_curve(utility[mine], value[mine], group[mine], [1, 7, 33])
        torch.testing.assert_close(together[place], alone[0], equal_nan=True)


def test_several_values_at_once_and_float64_utilities() -> None:
    utility = torch.tensor([0.0, 1e-12, 2e-12], dtype=torch.float64)
    value = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    curve = best_of_n_curve(utility, value, torch.zeros(3, dtype=torch.long), torch.tensor([1, 3]))
    assert curve.shape == (1, 2, 2)
    torch.testing.assert_close(curve[0], torch.tensor([[2.0, 20.0], [3.0, 30.0]], dtype=torch.float64))


def test_unscored_candidates_are_an_error_or_left_out_of_the_pool() -> None:
    utility = torch.tensor([0.0, 1.0, math.nan, 3.0, 0.0])
    value = torch.tensor([0.0, 1.0, 9.0, math.nan, math.nan])
    group = torch.tensor([0, 0, 0, 0, 1])
    with pytest.raises(DataError, match="3 of 5 responses are not scored"):
        best_of_n_curve(utility, value, group, [1])
    curve = best_of_n_curve(utility, value, group, [1, 2, 3], nan="exclude")
    torch.testing.assert_close(curve[0, :2], torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert curve[0, 2].isnan()
    assert curve[1].isnan().all()


def test_rules_that_look_at_the_pool_are_refused() -> None:
    rewards = GaussianRewards(torch.zeros(3), torch.ones(3), factor=torch.eye(3))
    arguments = (rewards.mean, rewards.mean, rewards.group, [1])
    with pytest.raises(UnsupportedError, match="use resampled_curve"):
        best_of_n_curve(*arguments, made_by=ProbBest())
    assert best_of_n_curve(*arguments, made_by=Mean()).item() == 0


def test_wrong_input_is_named() -> None:
    group = torch.zeros(3, dtype=torch.long)
    for wrong, message in (([0], "at least 1"), ([1.5], "integers"), ([[1]], "integers")):
        with pytest.raises(ValueError, match=message):
            best_of_n_curve(torch.zeros(3), torch.zeros(3), group, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="value has 2 rows"):
        best_of_n_curve(torch.zeros(3), torch.zeros(2), group, [1])
