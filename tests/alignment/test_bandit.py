"""Optimal policies of one prompt against an established solver, enumeration and brute force."""

import importlib
import math

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prudent.alignment.bandit import (
    independent_simplex_optima,
    kl_divergence,
    kl_optimum,
    precision_centered,
    simplex_optimum,
    squared_norm_optimum,
    variance_aware_optimum,
    weighted_kl_optimum,
)
from prudent.errors import PrudentError


def problem(seed: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, a full covariance and a reference."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    covariance = torch.from_numpy(root @ root.T / size + 0.1 * np.eye(size))
    return torch.from_numpy(rng.normal(size=size)), covariance, torch.from_numpy(rng.dirichlet(np.full(size, 2.0)))


def grid(size: int, steps: int) -> torch.Tensor:
    """All distributions over 2 or 3 responses whose probabilities are multiples of 1 / steps."""
    ticks = torch.arange(steps + 1, dtype=torch.float64) / steps
    if size == 2:
        return torch.stack([ticks, 1 - ticks], 1)
    first, second = torch.cartesian_prod(ticks, ticks).unbind(1)
    inside = first + second <= 1 + 1e-12
    return torch.stack([first, second, (1 - first - second).clamp(min=0)], 1)[inside]


@pytest.mark.parametrize("seed", range(3))
def test_on_the_hyperplane_the_closed_form_is_what_a_solver_finds(seed: int) -> None:
    reward, covariance, reference = problem(seed, 5)
    for matrix, found in (
        (torch.eye(5), squared_norm_optimum(reward, reference, 0.3)),
        (covariance, variance_aware_optimum(reward, covariance, reference, 0.3)),
    ):
        policy = cvxpy.Variable(5)
        inside = cvxpy.quad_form(policy - reference.numpy(), cvxpy.psd_wrap(matrix.numpy())) <= 0.3
        cvxpy.Problem(cvxpy.Maximize(reward.numpy() @ policy), [cvxpy.sum(policy) == 1, inside]).solve()
        assert found.sum().item() == pytest.approx(1, abs=1e-12)
        change = found - reference
        assert (change @ matrix.double() @ change).item() == pytest.approx(0.3)
        np.testing.assert_allclose(found.numpy(), policy.value, atol=1e-5)


def test_variances_are_the_diagonal_and_rows_of_estimates_are_taken_one_by_one() -> None:
    reward, _, reference = problem(0, 4)
    variance = torch.tensor([0.2, 1.0, 2.0, 5.0])
    rows = torch.stack([reward, -2 * reward, torch.zeros(4)])
    found = variance_aware_optimum(rows, variance, reference, 0.1)
    torch.testing.assert_close(found, variance_aware_optimum(rows, torch.diag(variance), reference, 0.1))
    torch.testing.assert_close(found[0], variance_aware_optimum(reward, variance, reference, 0.1))
    torch.testing.assert_close(found[0] - reference, reference - found[1])  # the direction alone counts
    torch.testing.assert_close(found[2], reference)


def test_a_constant_added_to_all_rewards_changes_nothing() -> None:
    reward, covariance, reference = problem(1, 6)
    centered = precision_centered(reward, covariance)
    torch.testing.assert_close(precision_centered(reward + 7, covariance), centered)
    assert torch.linalg.solve(covariance, centered).sum().item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(
        variance_aware_optimum(reward + 7, covariance, reference, 0.1),
        variance_aware_optimum(reward, covariance, reference, 0.1),
    )
    equal = torch.full((6,), 0.1, dtype=torch.float64)
    torch.testing.assert_close(variance_aware_optimum(equal, covariance, reference, 0.1), reference)
    torch.testing.assert_close(squared_norm_optimum(equal, reference, 0.1), reference)


@pytest.mark.parametrize("radius", [0.001, 0.05, 0.4, 3.0])
def test_on_the_simplex_two_solvers_agree_and_nothing_on_a_grid_is_better(radius: float) -> None:
    reward, _, reference = problem(2, 3)
    variance = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    found = simplex_optimum(reward, reference, radius, variance)
    fast = independent_simplex_optima(reward, reference, radius, variance)
    np.testing.assert_allclose(found.numpy(), fast.numpy(), atol=2e-5)
    assert fast.min() >= 0
    assert fast.sum().item() == pytest.approx(1)
    policies = grid(3, 300)
    inside = ((policies - reference).square() @ variance) <= radius
    best = (policies[inside] @ reward).max().item() if bool(inside.any()) else -math.inf
    assert (fast @ reward).item() >= best - 1e-9
    assert ((fast - reference).square() @ variance).item() <= radius * (1 + 1e-6)


def test_within_a_small_radius_the_simplex_is_no_bound() -> None:
    reward, covariance, reference = problem(3, 5)
    expected = variance_aware_optimum(reward, covariance, reference, 1e-4)
    np.testing.assert_allclose(simplex_optimum(reward, reference, 1e-4, covariance), expected, atol=1e-5)
    np.testing.assert_allclose(
        independent_simplex_optima(reward, reference, 1e-4, torch.ones(5)),
        squared_norm_optimum(reward, reference, 1e-4),
        atol=1e-12,
    )


def test_a_singular_covariance_is_bounded_by_the_simplex_alone() -> None:
    reward, reference = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.2, 0.3, 0.5])
    covariance = torch.ones(3, 3)  # a shift common to all: no policy changes its value
    found = simplex_optimum(reward, reference, 0.01, covariance)
    np.testing.assert_allclose(found, [0, 1, 0], atol=1e-5)
    with pytest.raises(ValueError, match="positive definite here"):
        variance_aware_optimum(reward, covariance, reference, 0.01)


def test_equal_rewards_leave_the_reference() -> None:
    reference = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    assert torch.equal(simplex_optimum(torch.full((3,), 0.7), reference, 0.3), reference)


def test_many_estimates_on_the_simplex_at_once() -> None:
    _, _, reference = problem(4, 6)
    variance = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 6.0])
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 6)))
    found = independent_simplex_optima(rows, reference, 0.2, variance)
    for row, policy in zip(rows, found, strict=True):
        np.testing.assert_allclose(policy, simplex_optimum(row, reference, 0.2, variance), atol=1e-4)
    torch.testing.assert_close(independent_simplex_optima(torch.ones(6), reference, 0.2, variance), reference)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kl_form", ["exact", "in_reward", "constant"])
def test_kl_optima_are_the_best_of_a_fine_grid(size: int, kl_form: str) -> None:
    reward, _, reference = problem(5 + size, size)
    weight = torch.tensor([0.3, 2.0, 0.8], dtype=torch.float64)[:size]
    kl_coef = 0.4
    b = kl_coef * (torch.ones_like(weight) if kl_form == "constant" else weight)

    def objective(policy: torch.Tensor) -> torch.Tensor:
        ratio = torch.special.xlogy(policy, policy / reference)
        return (policy * reward - b * (ratio - policy * (kl_form == "in_reward"))).sum(-1)

    policies = grid(size, 100_000 if size == 2 else 700)
    values = objective(policies)
    found = weighted_kl_optimum(reward, weight, reference, kl_coef, kl_form=kl_form)
    assert objective(found) >= values.max()
    assert (found - policies[values.argmax()]).abs().max() < (1e-4 if size == 2 else 5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_weighted_kl_optimum_is_what_a_solver_finds(seed: int) -> None:
    reward, _, reference = problem(seed, 8)
    weight = torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 5, 8))
    policy = cvxpy.Variable(8)
    penalty = weight.numpy() @ cvxpy.rel_entr(policy, reference.numpy())
    cvxpy.Problem(cvxpy.Maximize(reward.numpy() @ policy - 0.5 * penalty), [cvxpy.sum(policy) == 1]).solve()
    np.testing.assert_allclose(weighted_kl_optimum(reward, weight, reference, 0.5), policy.value, atol=1e-4)


@given(
    reward=st.lists(st.floats(-50, 50), min_size=2, max_size=6),
    weight=st.lists(st.floats(0.1, 10), min_size=6, max_size=6),
    kl_coef=st.floats(1e-6, 1e6),
    kl_form=st.sampled_from(["exact", "in_reward"]),
    seed=st.integers(0, 100),
)
@settings(max_examples=80)
def test_the_stationary_point_holds_whatever_the_scale(
    reward: list[float], weight: list[float], kl_coef: float, kl_form: str, seed: int
) -> None:
    size = len(reward)
    reference = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(size)))
    rewards, weights = torch.tensor(reward).double(), torch.tensor(weight[:size]).double()
    policy = weighted_kl_optimum(rewards, weights, reference, kl_coef, kl_form=kl_form)
    assert policy.sum().item() == pytest.approx(1)
    # R - b (log(pi / pi0) + 1) is the same wherever probability is
    b = kl_coef * weights
    multiplier = rewards - b * ((policy / reference).log() + (kl_form == "exact"))
    some = policy > 1e-200
    spread = multiplier[some].max() - multiplier[some].min()
    assert spread <= 1e-9 * (rewards.abs().max() + b.max())


def test_equal_weights_are_the_plain_kl_optimum() -> None:
    reward, _, reference = problem(6, 7)
    plain = kl_optimum(reward, reference, 0.3)
    torch.testing.assert_close(plain, (reference * (reward / 0.3).exp()) / (reference * (reward / 0.3).exp()).sum())
    for form in ("exact", "in_reward", "constant"):
        torch.testing.assert_close(weighted_kl_optimum(reward, torch.ones(7), reference, 0.3, kl_form=form), plain)
    torch.testing.assert_close(
        weighted_kl_optimum(reward, torch.full((7,), 3.0), reference, 0.1, kl_form="exact"), plain
    )


def test_the_weighted_penalty_is_no_divergence_and_its_optimum_does_not_tend_to_the_reference() -> None:
    reference, weight = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([0.2, 1.8], dtype=torch.float64)
    far = weighted_kl_optimum(torch.tensor([0.0, 1.0]), weight, reference, 1e9)
    penalty = (weight * torch.special.xlogy(far, far / reference)).sum().item()
    assert penalty < -0.05
    assert far[0] > 0.6
    near = weighted_kl_optimum(torch.tensor([0.0, 1.0]), weight, reference, 1e9, kl_form="in_reward")
    torch.testing.assert_close(near, reference)


def test_responses_that_the_reference_never_gives_stay_so() -> None:
    reference = torch.tensor([0.5, 0.0, 0.5])
    reward, weight = torch.tensor([0.0, 100.0, 1.0]), torch.tensor([1.0, 1.0, 3.0])
    for form in ("exact", "in_reward", "constant"):
        found = weighted_kl_optimum(reward, weight, reference, 0.01, kl_form=form)
        assert found[1] == 0
        assert found.isfinite().all()
        assert kl_divergence(found, reference) <= math.log(2)


def test_problems_of_several_prompts_are_solved_at_once() -> None:
    reward, _, reference = problem(7, 4)
    rows = torch.stack([reward, 10 * reward])
    coefficient = torch.tensor([[0.3], [2.0]])
    found = weighted_kl_optimum(rows, torch.tensor([1.0, 2.0, 0.5, 0.7]), reference, coefficient)
    for place in range(2):
        alone = weighted_kl_optimum(rows[place], torch.tensor([1.0, 2.0, 0.5, 0.7]), reference, coefficient[place])
        torch.testing.assert_close(found[place], alone)


GOOD = {"reward": torch.tensor([0.0, 1.0]), "reference": torch.tensor([0.5, 0.5]), "radius": 0.1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": torch.tensor([0.0, math.nan])}, r"reward must be finite, got nan at \[1\]"),
        ({"reward": torch.tensor(1.0)}, "must have the K responses last"),
        ({"reward": torch.zeros(2, 0)}, "at least one"),
        ({"reference": torch.tensor([0.5, 0.6])}, "it sums to 1.1"),
        ({"reference": torch.tensor([1.5, -0.5])}, "it has the probability -0.5"),
        ({"reference": torch.tensor([0.2, 0.3, 0.5])}, "over 3 responses where the reward is over 2"),
        ({"radius": 0.0}, "radius must be a finite number above 0"),
        ({"radius": math.inf}, "radius must be a finite number above 0"),
        ({"covariance": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "its smallest eigenvalue is -1"),
        ({"covariance": torch.tensor([[1.0, 0.5], [0.0, 1.0]])}, "covariance must be symmetric"),
        ({"covariance": torch.tensor([1.0, math.inf])}, "covariance must be finite"),
        ({"covariance": torch.ones(3)}, r"must have shape \[2, 2\]"),
    ],
)
def test_what_is_no_problem_is_refused(change: dict, message: str) -> None:
    given = {"covariance": torch.tensor([1.0, 2.0]), **GOOD, **change}
    with pytest.raises(ValueError, match=message):
        variance_aware_optimum(**given)
    with pytest.raises(ValueError, match=message.replace(r"at \[1\]", "") if "nan" in message else message):
        simplex_optimum(**given)


def test_bad_weights_coefficients_and_forms_are_refused() -> None:
    reward, equal = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="weight must be finite and above 0"):
        weighted_kl_optimum(reward, torch.tensor([0.0, 1.0]), equal, 0.1)
    with pytest.raises(ValueError, match="kl_coef must be finite and above 0"):
        kl_optimum(reward, equal, 0.0)
    with pytest.raises(ValueError, match="kl_form must be one of constant, exact, in_reward"):
        weighted_kl_optimum(reward, torch.ones(2), equal, 0.1, kl_form="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variance must be above 0"):
        independent_simplex_optima(reward, equal, 0.1, torch.tensor([0.0, 1.0]))


def test_without_cvxpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(PrudentError, match=r'not installed: pip install "prudent\[align\]"'):
        simplex_optimum(**GOOD)
