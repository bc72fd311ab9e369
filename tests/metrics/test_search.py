import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prudent.metrics import golden_section


@given(st.floats(-3, 5), st.floats(0.1, 9))
def test_finds_the_minimum_of_a_parabola(middle: float, steepness: float) -> None:
    found = golden_section(lambda x: steepness * (x - middle) ** 2, -4.0, 6.0, 1e-6)
    assert found == pytest.approx(middle, abs=1e-6)


@given(st.floats(0.05, 0.95))
def test_a_kink_is_no_obstacle(middle: float) -> None:
    assert golden_section(lambda x: abs(x - middle), 0.0, 1.0, 1e-9) == pytest.approx(middle, abs=1e-9)


def test_a_minimum_at_an_end_is_that_end() -> None:
    assert golden_section(lambda x: x, 0.0, 1.0, 1e-3) == pytest.approx(0.0, abs=1e-3)
    assert golden_section(lambda x: -x, 0.0, 1.0, 1e-3) == pytest.approx(1.0, abs=1e-3)


def test_each_step_costs_one_evaluation() -> None:
    asked: list[float] = []

    def function(x: float) -> float:
        asked.append(x)
        return (x - 0.3) ** 2

    golden_section(function, 0.0, 1.0, 1e-4)
    assert len(asked) == len(set(asked)) == 2 + math.ceil(math.log(1e-4) / math.log((math.sqrt(5) - 1) / 2))


def test_wrong_bounds_are_named() -> None:
    for low, high, tolerance in ((1.0, 0.0, 0.1), (0.0, 1.0, 0.0), (0.0, math.inf, 0.1)):
        with pytest.raises(ValueError, match="low < high"):
            golden_section(abs, low, high, tolerance)
