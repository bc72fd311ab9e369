import dataclasses
import itertools
import math
from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prudent.metrics import ReliabilityBin, expected_calibration_error, reliability


def test_equal_width_against_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(500, generator=generator, dtype=torch.float64)
    label = (torch.rand(500, generator=generator) < 0.6).double()
    bins: dict[int, list[tuple[float, float]]] = {}
    for q, y in zip(p.tolist(), label.tolist(), strict=True):
        confidence, hit = (q, y) if q > 0.5 else (1 - q, 1 - y)
        bins.setdefault(min(4, int((confidence - 0.5) * 10)), []).append((confidence, hit))
    table = reliability(p, label, num_bins=5, binning="equal_width")
    assert [row.count for row in table] == [len(bins[k]) for k in sorted(bins)]
    error = 0.0
    for row, number in zip(table, sorted(bins), strict=True):
        confidence, hit = (sum(x) / len(x) for x in zip(*bins[number], strict=True))
        assert row.confidence == pytest.approx(confidence)
        assert row.frequency == pytest.approx(hit)
        assert (row.low, row.high) == pytest.approx((0.5 + number / 10, 0.6 + number / 10))
        error += abs(confidence - hit) * row.count / 500
    assert expected_calibration_error(p, label, num_bins=5, binning="equal_width") == pytest.approx(error)


def test_equal_count_bins_hold_equally_many() -> None:
    p = torch.rand(103, generator=torch.Generator().manual_seed(1))
    table = reliability(p, num_bins=10)
    assert sorted({row.count for row in table}) == [10, 11]
    assert sum(row.count for row in table) == 103
    assert all(row.low <= row.confidence <= row.high for row in table)
    assert all(a.high <= b.low for a, b in itertools.pairwise(table))
    assert len(reliability(p[:3], num_bins=10)) == 3


def test_a_constant_forecast_is_one_bin_however_the_pairs_are_sorted() -> None:
    p, label = torch.full((1000,), 0.7), torch.cat([torch.ones(700), torch.zeros(300)])
    assert expected_calibration_error(p, label) == pytest.approx(0, abs=1e-6)
    # the same pairs, the chosen response first: every label is 1, and 1 - p differs from 0.8 in the last digits
    for high in (0.7, 0.8, 0.9):
        number = round(1000 * high)
        chosen_first = torch.cat([torch.full((number,), high), torch.full((1000 - number,), 1 - high)])
        assert len(reliability(chosen_first)) == 1
        assert expected_calibration_error(chosen_first) == pytest.approx(0, abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=60),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_equal_confidences_share_a_bin_and_order_does_not_matter(
    pairs: list[tuple[int, float]], num_bins: int, random: Random
) -> None:
    def table(rows: list[tuple[int, float]]) -> list[ReliabilityBin]:
        twelfths, label = torch.tensor(rows, dtype=torch.float64).T
        return reliability(twelfths / 12, label, num_bins=num_bins)

    found = table(pairs)
    assert len(found) <= num_bins
    assert sum(row.count for row in found) == len(pairs)
    assert all(a.high < b.low for a, b in itertools.pairwise(found))
    # no bin is further from its share of the pairs than the ties that begin or end in it
    most = max(Counter(max(twelfth, 12 - twelfth) for twelfth, _ in pairs).values())
    assert all(row.count < len(pairs) / num_bins + most + 1 for row in found)
    again = table(random.sample(pairs, len(pairs)))
    for row, other in zip(found, again, strict=True):
        assert dataclasses.astuple(row) == pytest.approx(dataclasses.astuple(other))


@pytest.mark.parametrize("binning", ["equal_count", "equal_width"])
def test_a_calibrated_forecast_has_a_small_error_and_a_wrong_one_its_gap(binning: str) -> None:
    generator = torch.Generator().manual_seed(2)
    p = torch.rand(200_000, generator=generator)
    label = (torch.rand(200_000, generator=generator) < p).double()
    assert expected_calibration_error(p, label, binning=binning) < 0.01  # type: ignore[arg-type]
    constant = torch.full((1000,), 0.9)
    share = torch.zeros(1000)
    share[:600] = 1
    assert expected_calibration_error(constant, share, num_bins=1, binning=binning) == pytest.approx(0.3)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_entering_every_pair_both_ways_round_is_the_same(pairs: list[tuple[float, float]]) -> None:
    p, label = torch.tensor(pairs, dtype=torch.float64).T
    both = expected_calibration_error(
        torch.cat([p, 1 - p]), torch.cat([label, 1 - label]), num_bins=5, binning="equal_width"
    )
    assert expected_calibration_error(p, label, num_bins=5, binning="equal_width") == pytest.approx(both, abs=1e-9)


def test_intervals_are_wilsons_and_undecided_pairs_are_half_right() -> None:
    p, label = torch.full((20,), 0.8), torch.cat([torch.ones(13), torch.zeros(7)])
    row = reliability(p, label, num_bins=1)[0]
    expected = stats.binomtest(13, 20).proportion_ci(method="wilson")
    assert (row.frequency_low, row.frequency_high) == pytest.approx((expected.low, expected.high))
    undecided = reliability(torch.full((4,), 0.5), num_bins=1)[0]
    assert (undecided.confidence, undecided.frequency) == (0.5, 0.5)


def test_wrong_input_is_named() -> None:
    assert math.isnan(expected_calibration_error(torch.zeros(0)))
    with pytest.raises(ValueError, match="lie in"):
        reliability(torch.tensor([1.2]))
    with pytest.raises(ValueError, match="equal vectors"):
        reliability(torch.tensor([0.2]), torch.zeros(2))
    with pytest.raises(ValueError, match="num_bins"):
        reliability(torch.tensor([0.2]), num_bins=0)
    with pytest.raises(ValueError, match="binning must be"):
        reliability(torch.tensor([0.2]), binning="other")  # type: ignore[arg-type]
