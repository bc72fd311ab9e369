import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from prudent.metrics import pair_metrics, pair_scores
from prudent.rewards import expected_sigmoid

MEANS = st.lists(st.floats(-8, 8), min_size=1, max_size=20)


def test_hard_labels_against_numpy() -> None:
    mean = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = special.expit(mean.numpy())
    metrics = pair_metrics(mean)
    assert metrics.count == 200
    assert metrics.accuracy == pytest.approx((mean.numpy() > 0).mean())
    assert metrics.nll == pytest.approx(-np.log(p).mean())
    assert metrics.brier == pytest.approx(((1 - p) ** 2).mean())


def test_variance_moderates_the_probability_only() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(50, generator=generator), 5 * torch.rand(50, generator=generator)
    scores = pair_scores(mean, variance)
    torch.testing.assert_close(scores.probability, expected_sigmoid(mean, variance))
    torch.testing.assert_close(scores.nll, -scores.probability.log())
    assert torch.equal(scores.accuracy, pair_scores(mean).accuracy)


@given(MEANS, st.floats(0, 9))
def test_log_odds_are_those_of_the_probability(means: list[float], variance: float) -> None:
    mean = torch.tensor(means, dtype=torch.float64)
    v = torch.full_like(mean, variance)
    scores = pair_scores(mean, v)
    torch.testing.assert_close(scores.logit, torch.logit(scores.probability))
    assert torch.equal(pair_scores(-mean, v).logit, -scores.logit)
    torch.testing.assert_close(pair_scores(1000 * mean).logit, 1000 * mean)


@given(MEANS, st.floats(0, 9))
def test_a_soft_label_is_the_expectation_over_hard_ones(means: list[float], variance: float) -> None:
    mean = torch.tensor(means, dtype=torch.float64)
    v = torch.full_like(mean, variance)
    won, lost, soft = (pair_scores(mean, v, torch.full_like(mean, p)) for p in (1.0, 0.0, 0.3))
    for name in ("accuracy", "nll", "brier"):
        expected = 0.3 * getattr(won, name) + 0.7 * getattr(lost, name)
        torch.testing.assert_close(getattr(soft, name), expected)


@given(MEANS)
def test_turning_every_pair_round_changes_nothing(means: list[float]) -> None:
    mean = torch.tensor(means, dtype=torch.float64)
    label = torch.linspace(0, 1, len(means), dtype=torch.float64)
    forth, back = pair_metrics(mean, label=label), pair_metrics(-mean, label=1 - label)
    for name in ("accuracy", "nll", "brier", "ece"):
        assert getattr(forth, name) == pytest.approx(getattr(back, name), abs=1e-12)


def test_ties_count_a_half_and_extremes_stay_finite() -> None:
    assert pair_metrics(torch.tensor([0.0, 1.0])).accuracy == 0.75
    scores = pair_scores(torch.tensor([-5000.0, 5000.0]))
    assert scores.nll.tolist() == [5000.0, 0.0]
    assert scores.brier.tolist() == [1.0, 0.0]


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        pair_metrics(torch.zeros(0))
    with pytest.raises(ValueError, match=r"label must lie in \[0, 1\]"):
        pair_scores(torch.zeros(2), label=torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="label must lie"):
        pair_scores(torch.zeros(1), label=torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="pair 1 is not scored"):
        pair_scores(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="variance must have shape"):
        pair_scores(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="vector"):
        pair_scores(torch.zeros(2, 2))
