import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from prudent.errors import DataError
from prudent.selection import best_of_n_kl, best_of_n_kl_with_ties


def by_levels(counts: list[int], n: int) -> float:
    """The density of the best of n, level by level, with the continuous stretches integrated numerically."""
    size, below, total = sum(counts), 0, 0.0
    for count in counts:
        a, b = below / size, (below + count) / size
        below += count
        if count > 1:
            q = b**n - a**n
            total += q * math.log(q / (b - a)) if q > 0 else 0.0
        else:
            total += integrate.quad(lambda u: n * u ** (n - 1) * math.log(n * u ** (n - 1)) if u > 0 else 0, a, b)[0]
    return total


def test_known_values() -> None:
    kl = best_of_n_kl([1, 2, 4, 16, 64, 256, 1024, 4096, 12_500])
    np.testing.assert_allclose(kl, [0, 0.1931, 0.6363, 1.8351, 3.1745, 4.5491, 5.9324, 7.3180, 8.4336], atol=5e-5)
    assert best_of_n_kl(4).shape == ()
    assert best_of_n_kl(torch.tensor([4, 2])).shape == (2,)
    for wrong in (0, [2, 0], 1.5):
        with pytest.raises(ValueError, match="n_values"):
            best_of_n_kl(wrong)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.sampled_from([1, 2, 3, 10, 50]))
def test_agrees_with_integration_by_levels(counts: list[int], n: int) -> None:
    utility = torch.repeat_interleave(torch.arange(float(len(counts))), torch.tensor(counts))
    utility = utility[torch.randperm(len(utility), generator=torch.Generator().manual_seed(0))]
    tied = best_of_n_kl_with_ties(utility, torch.zeros(len(utility), dtype=torch.long), [n])
    assert tied.kl.item() == pytest.approx(max(0.0, by_levels(counts, n)), abs=1e-8)
    assert tied.num_levels.item() == len(counts)
    assert tied.num_candidates.item() == len(utility)
    assert -1e-12 <= tied.kl.item() <= best_of_n_kl(n).item() + 1e-12


def test_without_ties_it_is_the_formula() -> None:
    utility = torch.randn(4, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64).reshape(-1)
    n_values = [1, 2, 17, 300, 5000]
    tied = best_of_n_kl_with_ties(utility, torch.arange(4).repeat_interleave(300), n_values)
    assert torch.equal(tied.kl, best_of_n_kl(n_values).repeat(4, 1))


def test_of_one_level_is_zero_and_of_distinct_texts_is_the_discrete_divergence() -> None:
    group = torch.zeros(6, dtype=torch.long)
    assert best_of_n_kl_with_ties(torch.ones(6), group, [1, 7, 99]).kl.tolist() == [[0, 0, 0]]
    # two texts, three copies each: drawing the best of 2 from the pool's distribution picks the better one 3 times in 4
    utility, text = torch.tensor([0.0, 0, 0, 1, 1, 1]), torch.tensor([5, 5, 5, 6, 6, 6])
    tied = best_of_n_kl_with_ties(utility, group, [2], text_id=text)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert tied.kl.item() == pytest.approx(expected)
    assert tied.num_texts is not None
    assert tied.num_texts.tolist() == [2]


def test_the_estimate_agrees_with_simulated_best_of_n() -> None:
    """Discrete policy over 6 texts with repeated utilities: estimate the divergence from draws of the best of 5."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.4, 0.2, 0.15, 0.1, 0.1, 0.05])
    utility = torch.tensor([0.0, 1.0, 1.0, 2.0, 3.0, 3.0])
    draws = torch.multinomial(probabilities, 5 * 400_000, replacement=True, generator=generator).reshape(-1, 5)
    best = utility[draws] == utility[draws].amax(1, keepdim=True)
    pick = draws.gather(1, (best * torch.rand(best.shape, generator=generator)).argmax(1, keepdim=True))[:, 0]
    q = torch.bincount(pick, minlength=6) / len(pick)
    simulated = (q * (q / probabilities).log()).sum().item()
    pool = torch.repeat_interleave(torch.arange(6), (probabilities * 100).round().long())
    tied = best_of_n_kl_with_ties(utility[pool], torch.zeros(100, dtype=torch.long), [5], text_id=pool)
    # exact except that a tie is broken uniformly over the draws, which weighs texts of a level by their probability too
    assert tied.kl.item() == pytest.approx(simulated, abs=0.01)
    assert tied.num_texts is not None
    assert (tied.num_levels.item(), tied.num_texts.item()) == (4, 6)


def test_ragged_prompts_and_unscored_candidates() -> None:
    utility = torch.tensor([1.0, 1.0, 2.0, math.nan, 5.0, 5.0, math.nan])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    with pytest.raises(DataError, match="2 of 7"):
        best_of_n_kl_with_ties(utility, group, [3])
    text = torch.tensor([1, 1, 2, 3, 1, 2, 3])
    tied = best_of_n_kl_with_ties(utility, group, [3], nan="exclude", text_id=text)
    assert tied.kl[0].item() == pytest.approx(by_levels([2, 1], 3))
    assert tied.kl[1].item() == 0
    assert tied.kl[2].isnan()
    assert tied.num_candidates.tolist() == [3, 2, 0]
    assert tied.num_levels.tolist() == [2, 1, 0]
    assert tied.num_texts is not None
    assert tied.num_texts.tolist() == [2, 2, 0]
    with pytest.raises(ValueError, match="text_id must have shape"):
        best_of_n_kl_with_ties(utility, group, [3], nan="exclude", text_id=text[:2])


def test_long_tails_stay_finite() -> None:
    utility = (torch.randn(12_500, generator=torch.Generator().manual_seed(0)) * 20).round()
    tied = best_of_n_kl_with_ties(utility, torch.zeros(12_500, dtype=torch.long), [1, 100, 12_500, 10**6])
    assert tied.kl.isfinite().all()
    assert (tied.kl.diff() >= 0).all()
    assert (tied.kl <= best_of_n_kl([1, 100, 12_500, 10**6])).all()
