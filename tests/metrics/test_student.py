"""Quantiles of Student's t, against SciPy's."""

import pytest
from scipy.stats import t

from prudent.metrics import student_reach


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 1000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_quantiles(freedom: int, level: float) -> None:
    assert student_reach(freedom, level) == pytest.approx(t.ppf((1 + level) / 2, freedom), rel=1e-4)


@pytest.mark.parametrize(("freedom", "level"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_numbers_out_of_range(freedom, level):
    with pytest.raises(ValueError, match="freedom must be at least 1 and level lie between 0 and 1"):
        student_reach(freedom, level)
