"""Weights of the KL penalty."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.alignment import kl_weights

VARIANCES = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=20)


def test_proportional_between_floor_and_cap() -> None:
    variance = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(kl_weights(variance), variance / 1.25, rtol=0, atol=1e-15)


def test_floor_and_cap_are_put_before_the_last_scaling() -> None:
    # mean 10, so ratios 0, 0.5 and 2.5, held between 0.25 and 2
    variance = torch.tensor([0.0, 5.0, 25.0], dtype=torch.float64)
    held = torch.tensor([0.25, 0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(kl_weights(variance, floor=0.25, cap=2), held / held.mean(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1e-300, 7e11])
@pytest.mark.parametrize("count", [1, 3, 7, 96])
def test_equal_variances_give_exactly_one(value: float, count: int) -> None:
    weights = kl_weights(torch.full((count,), value, dtype=torch.float64))
    assert weights.tolist() == [1.0] * count


@given(VARIANCES, st.floats(0.01, 1.0), st.floats(1.0, 100.0))
def test_mean_one_order_kept_and_bounded(values: list[float], floor: float, cap: float) -> None:
    variance = torch.tensor(values, dtype=torch.float64)
    weights = kl_weights(variance, floor=floor, cap=cap)
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-12)
    assert bool((weights > 0).all())
    assert bool((weights.max() <= weights.min() * (cap / floor) * (1 + 1e-12)).item())
    order = variance.argsort()
    assert bool((weights[order].diff() >= -1e-12).all())


@given(VARIANCES, st.floats(1e-3, 1e3))
def test_unit_of_the_reward_does_not_matter(values: list[float], unit: float) -> None:
    variance = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(kl_weights(variance * unit), kl_weights(variance), rtol=1e-9, atol=0)


def test_missing_values_stay_missing_and_count_nowhere() -> None:
    variance = torch.tensor([1.0, float("nan"), 3.0])
    weights = kl_weights(variance)
    assert weights.dtype == torch.float32
    assert weights[1].isnan()
    assert weights[[0, 2]].tolist() == kl_weights(variance[[0, 2]]).tolist() == [0.5, 1.5]
    assert bool(kl_weights(torch.full((2,), float("nan"))).isnan().all())


@pytest.mark.parametrize(
    ("variance", "options", "message"),
    [
        (torch.ones(2), {"floor": 0.0}, "floor must lie"),
        (torch.ones(2), {"floor": 1.5}, "floor must lie"),
        (torch.ones(2), {"cap": 0.5}, "cap be at least 1"),
        (torch.tensor([1.0, -1.0]), {}, "got -1.0 in row 1"),
        (torch.tensor([float("inf"), 1.0]), {}, "got inf in row 0"),
        (torch.ones(2, 2), {}, "float vector"),
        (torch.ones(2, dtype=torch.long), {}, "float vector"),
    ],
)
def test_refuses(variance: torch.Tensor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kl_weights(variance, **options)
