import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from prudent.errors import DataError
from prudent.selection import (
    MinimumBayesRisk,
    Pessimism,
    SoftBestOfN,
    Strategy,
    TopK,
    pessimism_threshold,
    pick_probabilities,
)

POOL = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)
ONE = torch.zeros(5, dtype=torch.long)


def probabilities(strategy: Strategy, utility: list[float]) -> list[float]:
    found: list[float] = pick_probabilities(strategy, torch.tensor(utility), ONE[:1].expand(len(utility))).tolist()
    return found


@given(POOL, st.floats(0.01, 50))
def test_the_threshold_solves_its_equation(pool: list[float], penalty: float) -> None:
    utility = torch.tensor(pool, dtype=torch.float64)
    (threshold,) = pessimism_threshold(utility, torch.zeros(len(pool), dtype=torch.long), penalty).tolist()
    assert np.maximum(np.array(pool) - threshold, 0).mean() / penalty == pytest.approx(1, abs=1e-9)
    low, high = min(pool) - 2 * penalty, max(pool)
    root = brentq(lambda lam: np.maximum(np.array(pool) - lam, 0).mean() / penalty - 1, low, high, xtol=1e-12)
    assert threshold == pytest.approx(root, abs=1e-9)


def test_the_threshold_is_exact_in_large_ragged_pools() -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.cat([torch.full((12_500,), 7), torch.full((300,), 2), torch.full((1,), 9)])
    group = group[torch.randperm(len(group), generator=generator)]
    utility = 100 + torch.randn(len(group), generator=generator)
    for penalty in (0.001, 0.3, 10.0):
        threshold = pessimism_threshold(utility, group, penalty)
        for place, prompt in enumerate((2, 7, 9)):
            mine = utility[group == prompt].double()
            assert (mine - threshold[place]).clamp(min=0).mean().item() / penalty == pytest.approx(1, abs=1e-9)


@given(POOL, st.floats(0.01, 50))
def test_picks_with_the_probabilities_that_the_papers_give(pool: list[float], strength: float) -> None:
    values = np.array(pool)
    soft = np.exp((values - values.max()) / strength)
    np.testing.assert_allclose(probabilities(SoftBestOfN(strength), pool), soft / soft.sum(), rtol=1e-9, atol=1e-300)
    threshold = pessimism_threshold(torch.tensor(values), torch.zeros(len(pool), dtype=torch.long), strength).item()
    expected = np.maximum(values - threshold, 0) / strength / len(pool)
    np.testing.assert_allclose(probabilities(Pessimism(strength), pool), expected, atol=1e-9)


def test_top_k_shares_the_last_places_among_ties() -> None:
    pool = [5.0, 1.0, 3.0, 3.0, 3.0]
    assert probabilities(TopK(1), pool) == pytest.approx([0.2] * 5)
    assert probabilities(TopK(2), pool) == pytest.approx([1 / 3, 0, 2 / 9, 2 / 9, 2 / 9])
    assert probabilities(TopK(5), pool) == [1, 0, 0, 0, 0]
    assert probabilities(TopK(99), [3.0, 3.0]) == [0.5, 0.5]


@pytest.mark.parametrize("kind", [SoftBestOfN, Pessimism])
def test_the_ends_are_best_of_n_and_a_random_candidate(kind: type[SoftBestOfN] | type[Pessimism]) -> None:
    pool = [1.0, 4.0, 2.0, 4.0, -3.0]
    assert probabilities(kind(1e-6), pool) == pytest.approx([0, 0.5, 0, 0.5, 0])
    assert probabilities(kind(1e6), pool) == pytest.approx([0.2] * 5, abs=1e-4)


def test_minimum_bayes_risk_adds_the_average_cosine() -> None:
    generator = torch.Generator().manual_seed(1)
    group = torch.tensor([3, 1, 3, 3, 1, 3, 1])
    utility, embedding = torch.randn(7, generator=generator), torch.randn(7, 4, generator=generator).half()
    for weight in (0.0, 1.0, 30.0):
        found = pick_probabilities(MinimumBayesRisk(weight), utility, group, embedding=embedding)
        for prompt in (1, 3):
            rows = (group == prompt).nonzero()[:, 0].tolist()
            score = {}
            for i in rows:
                cosines = [
                    torch.nn.functional.cosine_similarity(embedding[i].float(), embedding[j].float(), 0) for j in rows
                ]
                score[i] = utility[i].item() + weight * sum(cosine.item() for cosine in cosines) / len(rows)
            assert found[rows].tolist() == [float(i == max(score, key=score.__getitem__)) for i in rows]
    twice = torch.cat([embedding[:2], embedding[:2]])
    shared = pick_probabilities(MinimumBayesRisk(1.0), torch.tensor([2.0, 0, 2, 0]), ONE[:4], embedding=twice)
    assert shared.tolist() == [0.5, 0, 0.5, 0]


def test_prompts_in_any_order_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(2)
    group = torch.randint(0, 20, (400,), generator=generator)
    utility = torch.randn(400, generator=generator)
    for strategy in (TopK(3), SoftBestOfN(0.7), Pessimism(0.7)):
        found = pick_probabilities(strategy, utility, group)
        total = torch.zeros(20, dtype=torch.float64).index_add_(0, group, found)
        torch.testing.assert_close(total, torch.ones_like(total))
        mine = group == 5
        torch.testing.assert_close(found[mine], pick_probabilities(strategy, utility[mine], group[mine]))


@pytest.mark.parametrize("kind", [TopK, SoftBestOfN, Pessimism, MinimumBayesRisk])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_strengths_that_mean_nothing_are_refused(kind: type, value: float) -> None:
    if kind is MinimumBayesRisk and value in (0, math.inf):
        assert kind(value).text == ("consensus" if value else "mbr(0)")
        return
    with pytest.raises(ValueError, match=f"{kind.name} takes a .* of at least|above 0, got {value}"):
        kind(value)


def test_wrong_input_is_named() -> None:
    utility = torch.tensor([1.0, torch.nan])
    with pytest.raises(DataError, match="prompt 0"):
        pick_probabilities(SoftBestOfN(1.0), utility, ONE[:2])
    with pytest.raises(DataError, match="prudent score --embeddings"):
        pick_probabilities(MinimumBayesRisk(1.0), torch.ones(2), ONE[:2])
    with pytest.raises(ValueError, match="above 0, got 0"):
        pessimism_threshold(torch.ones(2), ONE[:2], 0)
    with pytest.raises(ValueError, match="whole number"):
        TopK(2.5)  # type: ignore[arg-type]


def test_rounded_cosines_are_ties():
    """Of two candidates each is as similar to both: (1 + cosine) / 2."""
    for seed in range(20):
        embedding = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
        found = pick_probabilities(MinimumBayesRisk(3.0), torch.zeros(2), ONE[:2], embedding=embedding)
        assert found.tolist() == [0.5, 0.5]
    apart = pick_probabilities(MinimumBayesRisk(0.0), torch.tensor([0.0, 1e-7]), ONE[:2], embedding=embedding)
    assert apart.tolist() == [0.0, 1.0]


def test_consensus_is_the_limit_of_heavy_weights() -> None:
    generator = torch.Generator().manual_seed(4)
    utility, embedding = torch.randn(12, generator=generator), torch.randn(12, 3, generator=generator)
    group = torch.arange(12) // 6
    found = pick_probabilities(MinimumBayesRisk(math.inf), utility, group, embedding=embedding)
    assert torch.equal(found, pick_probabilities(MinimumBayesRisk(1e9), utility, group, embedding=embedding))
    assert torch.equal(found, pick_probabilities(MinimumBayesRisk(math.inf), -utility, group, embedding=embedding))
    with pytest.raises(DataError, match="mbr and consensus compare responses"):
        pick_probabilities(MinimumBayesRisk(math.inf), utility, group)
