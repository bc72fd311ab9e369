"""The ranking score and the bound calibration error against plain loops over intervals of the two rewards."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.metrics import (
    RankingRates,
    bound_calibration_error,
    expected_calibration_error,
    ranking_rates,
    ranking_score,
)

Pair = tuple[float, float, float, float]
PAIRS = st.lists(
    st.tuples(*[st.integers(-8, 8).map(lambda x: x / 2)] * 2, *[st.integers(0, 4).map(float)] * 2), min_size=1
)


def intervals(pairs: list[Pair], num_std: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and half-width of the differences from both rewards' means and standard deviations."""
    chosen, rejected, std_chosen, std_rejected = torch.tensor(pairs, dtype=torch.float64).T
    return chosen - rejected, num_std * (std_chosen + std_rejected)


@given(PAIRS, st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.5, 2.0]))
def test_confident_means_disjoint_intervals(pairs: list[Pair], balance: float, num_std: float) -> None:
    counts = dict.fromkeys(["CT", "CF", "UT", "UF"], 0.0)
    for chosen, rejected, std_chosen, std_rejected in pairs:
        above = chosen - num_std * std_chosen > rejected + num_std * std_rejected
        below = chosen + num_std * std_chosen < rejected - num_std * std_rejected
        sure = "C" if above or below else "U"
        if chosen == rejected:
            counts["UT"] += 0.5
            counts["UF"] += 0.5
        else:
            counts[sure + ("T" if chosen > rejected else "F")] += 1
    rates = ranking_rates(*intervals(pairs, num_std))
    found = [rates.confident_true, rates.confident_false, rates.unconfident_true, rates.unconfident_false]
    assert found == pytest.approx([count / len(pairs) for count in counts.values()])
    ct, cf, ut, uf = (count / len(pairs) for count in counts.values())
    true, false = ct + ut, cf + uf
    gain = ct / (true + balance * false) if true + balance * false else 0.0
    loss = cf / (false + balance * true) if false + balance * true else 0.0
    score = ranking_score(*intervals(pairs, num_std), balance=balance)
    assert score == pytest.approx(gain - loss)
    assert -1 <= score <= 1


def test_what_the_score_says_at_its_ends() -> None:
    rates = RankingRates(0.6, 0.1, 0.2, 0.1)
    assert rates.score(1.0) == pytest.approx(0.5)
    assert rates.score(0.0) == pytest.approx(0.75 - 0.5)
    mean = torch.tensor([1.0, 2.0])
    assert ranking_score(mean, torch.zeros(2)) == 1
    assert ranking_score(-mean, torch.zeros(2)) == -1
    assert ranking_score(mean, torch.full((2,), 9.0)) == 0


@given(PAIRS, st.integers(1, 25), st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=1))
def test_bound_error_against_a_plain_loop(pairs: list[Pair], num_bins: int, labels: list[float]) -> None:
    label = [labels[number % len(labels)] for number in range(len(pairs))]
    bins: dict[int, list[tuple[float, float]]] = {}
    mean, half = intervals(pairs)
    for m, h, won in zip(mean.tolist(), half.tolist(), label, strict=True):
        for bound, holds in ((m - h, won), (-m - h, 1 - won)):
            lower = 1 / (1 + math.exp(-bound))
            bins.setdefault(min(num_bins - 1, int(lower * num_bins)), []).append((lower, holds))
    error = 0.0
    for rows in bins.values():
        lower_mean, frequency = (sum(values) / len(rows) for values in zip(*rows, strict=True))
        error += len(rows) / (2 * len(pairs)) * max(0.0, lower_mean - frequency)
    found = bound_calibration_error(mean, half, torch.tensor(label, dtype=torch.float64), num_bins=num_bins)
    assert found == pytest.approx(error, abs=1e-12)


def test_pairs_may_stand_either_way_round_and_soft_labels_are_averages() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, half = torch.randn(200, generator=generator), torch.rand(200, generator=generator)
    label = torch.rand(200, generator=generator)
    turned = (-mean, half, 1 - label)
    assert ranking_score(mean, half, label) == pytest.approx(ranking_score(*turned))
    assert bound_calibration_error(mean, half, label) == pytest.approx(bound_calibration_error(*turned))
    four = torch.cat([mean] * 4), torch.cat([half] * 4), torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat_interleave(200)
    assert ranking_score(mean, half, torch.full((200,), 0.75)) == pytest.approx(ranking_score(*four))
    assert bound_calibration_error(mean, half, torch.full((200,), 0.75)) == pytest.approx(
        bound_calibration_error(*four)
    )


def test_true_probabilities_have_no_bound_error_and_bounds_that_promise_too_much_do() -> None:
    generator = torch.Generator().manual_seed(1)
    logit = 2 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    label = torch.sigmoid(logit)  # the very probabilities, without the noise of drawing
    assert bound_calibration_error(logit, torch.zeros(20_000), label) == pytest.approx(0, abs=1e-12)
    sure, calibrated = 3 * logit, expected_calibration_error(torch.sigmoid(3 * logit), label, num_bins=1)
    assert bound_calibration_error(sure, torch.zeros(20_000), label) == pytest.approx(calibrated / 2, rel=0.02)
    errors = [bound_calibration_error(sure, torch.full((20_000,), h), label) for h in (0.0, 1.0, 2.0, 4.0)]
    assert errors == sorted(errors, reverse=True)


def test_wrong_input_is_named() -> None:
    one = torch.ones(1)
    for function in (ranking_score, bound_calibration_error):
        with pytest.raises(ValueError, match="no pairs"):
            function(torch.zeros(0), torch.zeros(0))
        with pytest.raises(ValueError, match="half_width must have shape"):
            function(one, torch.ones(2))
        with pytest.raises(ValueError, match=r"must not be negative, got -1.0 in pair 0"):
            function(one, -one)
        with pytest.raises(ValueError, match="pair 0 has no interval"):
            function(one, one * math.nan)
        with pytest.raises(ValueError, match="label must lie"):
            function(one, one, 2 * one)
        with pytest.raises(ValueError, match="vector"):
            function(torch.ones(1, 1), one)
    with pytest.raises(ValueError, match="num_bins"):
        bound_calibration_error(one, one, num_bins=0)
    with pytest.raises(ValueError, match="balance"):
        ranking_score(one, one, balance=1.5)
