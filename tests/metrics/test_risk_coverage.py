import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.metrics import RiskCoverage, area_under_risk_coverage, risk_coverage

# few distinct values, so that ties are the rule
ROWS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=6)


def brute_force(rows: list[tuple[float, float]]) -> tuple[list[float], float]:
    """Selective risk at every coverage and its mean, averaged over all orders of the rows that confidence allows."""
    curves = []
    for order in itertools.permutations(rows):
        if all(order[i][0] >= order[i + 1][0] for i in range(len(order) - 1)):
            total = list(itertools.accumulate(error for _, error in order))
            curves.append([value / (place + 1) for place, value in enumerate(total)])
    mean = [sum(column) / len(curves) for column in zip(*curves, strict=True)]
    return mean, sum(sum(curve) / len(curve) for curve in curves) / len(curves)


@given(ROWS)
def test_curve_and_area_are_the_expectation_over_orders_of_ties(rows: list[tuple[int, float]]) -> None:
    confidence, error = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    curve, area = brute_force(rows)
    found = risk_coverage(confidence, error)
    assert found.risk.tolist() == pytest.approx(curve)
    assert found.coverage.tolist() == pytest.approx([(k + 1) / len(rows) for k in range(len(rows))])
    assert area_under_risk_coverage(confidence, error) == pytest.approx(area)


@given(ROWS, st.randoms(use_true_random=False))
def test_row_order_does_not_matter(rows: list[tuple[int, float]], draw) -> None:
    shuffled = draw.sample(rows, len(rows))
    first, second = (
        risk_coverage(*(torch.tensor(column, dtype=torch.float64) for column in zip(*part, strict=True)))
        for part in (rows, shuffled)
    )
    torch.testing.assert_close(first.risk, second.risk)


@given(ROWS)
def test_excess_is_above_the_best_order_of_the_same_errors(rows: list[tuple[int, float]]) -> None:
    confidence, error = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    excess = area_under_risk_coverage(confidence, error, excess=True)
    best = min(
        sum(sum(order[: k + 1]) / (k + 1) for k in range(len(order))) / len(order)
        for order in itertools.permutations(error.tolist())
    )
    assert excess == pytest.approx(area_under_risk_coverage(confidence, error) - best)
    assert excess > -1e-12
    assert area_under_risk_coverage(-error, error, excess=True) == pytest.approx(0)


@given(ROWS)
def test_from_ties_it_is_the_same_curve(rows: list[tuple[int, float]]) -> None:
    sets = [[error for confidence, error in rows if confidence == value] for value in (2, 1, 0)]
    found = RiskCoverage.of_ties(torch.tensor([len(one) for one in sets]), torch.tensor([sum(one) for one in sets]))
    confidence, error = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    torch.testing.assert_close(found.risk, risk_coverage(confidence, error).risk)


def test_between_rows_the_next_one_counts_by_its_share() -> None:
    found = risk_coverage(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    at = found.at(torch.tensor([0.1, 0.25, 0.375, 0.5, 0.75, 1.0]))
    assert at.tolist() == pytest.approx([0.0, 0.0, 0.5 / 1.5, 0.5, 1 / 3, 0.5])


def test_a_constant_confidence_has_the_same_risk_everywhere() -> None:
    error = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    found = risk_coverage(torch.zeros(5), error)
    assert found.risk.tolist() == pytest.approx([0.4] * 5)
    assert area_under_risk_coverage(torch.zeros(5), error) == pytest.approx(0.4)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="equal vectors"):
        risk_coverage(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="no rows"):
        risk_coverage(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match=r"row 1 .* not a number"):
        risk_coverage(torch.tensor([0.0, math.nan]), torch.zeros(2))
    with pytest.raises(ValueError, match="coverage must lie"):
        risk_coverage(torch.zeros(2), torch.zeros(2)).at(torch.tensor([0.0]))
