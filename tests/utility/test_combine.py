import math
from itertools import permutations

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards import CombinedRewards, GaussianRewards, MemberRewards, RewardPosterior, TransformedRewards
from prudent.utility import (
    COMBINATIONS,
    AllOf,
    AnyOf,
    Combination,
    Ensemble,
    LcbVar,
    Minimum,
    Product,
    Weighted,
    Worst,
)

LOG_PROBABILITIES = st.floats(-50, 0)


def gaussian(seed: int, n: int = 4, factor: bool = True) -> GaussianRewards:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    mean = torch.randn(n, generator=generator, dtype=torch.float64)
    return GaussianRewards(mean, rows.square().sum(1), factor=rows if factor else None)


def members(seed: int, n: int = 4, count: int = 3, **rest: Tensor) -> MemberRewards:
    generator = torch.Generator().manual_seed(seed)
    return MemberRewards(torch.randn(n, count, generator=generator, dtype=torch.float64), **rest)


def values(combination: Combination, *parts: list[float], scale: str = "log_probability") -> list[float]:
    tensors = [torch.tensor(part, dtype=torch.float64) for part in parts]
    return combination.combine_values(tensors, [scale] * len(parts)).tolist()  # type: ignore[list-item]


def test_and_prefers_what_is_good_in_both() -> None:
    helpful, harmless = torch.tensor([[10.0, 1.0], [-5.0, 1.0]], dtype=torch.float64)
    both = AllOf().combine_values([F.logsigmoid(helpful), F.logsigmoid(harmless)], ["log_probability"] * 2)
    raw = Weighted((1.0, 1.0)).combine_values([helpful, harmless], ["centered"] * 2)
    assert both.argmax().item() == 1
    assert raw.argmax().item() == 0
    posteriors = [TransformedRewards(GaussianRewards(m, torch.zeros(2)), F.logsigmoid) for m in (helpful, harmless)]
    torch.testing.assert_close(AllOf().combine(posteriors, ["log_probability"] * 2).mean, both)


def test_every_combination_has_a_name_and_fits_the_protocol() -> None:
    assert [kind.name for kind in COMBINATIONS] == ["all_of", "any_of", "weighted", "minimum", "ensemble", "product"]
    made = [AllOf(), AnyOf(), Weighted((1.0,)), Minimum(), Ensemble(), Product()]
    assert all(isinstance(one, Combination) for one in made)
    assert [one.gives(["centered"]) for one in made[2:]] == ["centered"] * 4
    assert Weighted((1.0,)).gives(["log_probability"]) == "number"


@pytest.mark.parametrize(
    ("combination", "scales", "message"),
    [
        (AllOf(), ("log_probability", "reward"), "part 2 of all_of is a reward, not a log-probability: pipe it through"
         r" center \| log_sigmoid, or use weighted"),
        (AnyOf(), ("centered",), r"part 1 of any_of is a centered reward, .*: pipe it through log_sigmoid"),
        (AnyOf(), ("probability",), "take log_sigmoid in place of sigmoid"),
        (AllOf(), ("number",), "a number without a unit, not a log-probability: use weighted"),
        (Weighted((1.0, 2.0)), ("centered", "reward"), "part 2 of weighted is a reward and part 1 is a centered"),
        (Weighted((1.0, 2.0)), ("centered",), "weights of weighted must be 1 numbers, one a part, got 2"),
        (AllOf((1.0,)), ("log_probability",) * 2, "weights of all_of must be 2 numbers"),
        (Weighted((1.0,), missing="neutral"), ("reward",), "part 1 of weighted is a reward, .*: center it first, or"),
            (Minimum(), ("reward",), "part 1 of minimum is a reward, not a centered reward: center it first"),
        (Product(), ("reward", "reward"), "part 1 of product is a reward, not a centered reward: center it first"),
        (Product(), ("probability",), "use ensemble"),
        (Ensemble(), ("reward", "centered"), "part 2 of ensemble"),
    ],
)  # fmt: skip
def test_scales_that_do_not_go_together(combination: Combination, scales: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combination.check(scales)  # type: ignore[arg-type]


def test_what_is_not_possible_after_a_risk_rule() -> None:
    for combination in (Ensemble(), Product()):
        with pytest.raises(ValueError, match=r"part 1 of .* ends in a risk rule"):
            combination.check(["centered"], values=True)
        with pytest.raises(ValueError, match="not numbers"):
            combination.combine_values([torch.zeros(2)], ["centered"])
    with pytest.raises(ValueError, match="no correlation"):
        Weighted((1.0, 1.0), correlation=0.5).check(["centered"] * 2, values=True)
    with pytest.raises(ValueError, match="log_sigmoid before the risk rule"):
        AllOf().check(["centered"], values=True)


def test_parameters_out_of_range_name_the_field() -> None:
    for make, message in (
        (lambda: AllOf((1.0, -1.0)), "weights of all_of"),
        (lambda: Weighted(()), "weights"),
        (lambda: Weighted((math.inf,)), "weights"),
        (lambda: AnyOf(correlation=1.0), "correlation"),
        (lambda: Minimum(correlation=-0.1), "correlation"),
        (lambda: AllOf(correlation="seeds"), "correlation"),  # type: ignore[arg-type]
        (lambda: AllOf(missing="zero"), "missing"),  # type: ignore[arg-type]
        (lambda: Ensemble(2), "ddof"),
        (lambda: Product(1.0), "correlation"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@given(st.lists(LOG_PROBABILITIES, min_size=1, max_size=4))
def test_any_of_against_high_precision(parts: list[float]) -> None:
    with mpmath.workdps(80):
        exact = mpmath.log1p(-mpmath.fprod(-mpmath.expm1(mpmath.mpf(part)) for part in parts))
    assert values(AnyOf(), *([part] for part in parts))[0] == pytest.approx(float(exact), rel=1e-12, abs=1e-300)


def test_any_of_at_the_ends() -> None:
    rewards = torch.tensor([-1e4, -1e4, 1e4, 1e4, -745.0, 30.0], dtype=torch.float64)
    others = torch.tensor([-1e4, 1e4, 1e4, 0.0, -800.0, 30.0], dtype=torch.float64)
    first, second = F.logsigmoid(rewards).requires_grad_(), F.logsigmoid(others)
    found = AnyOf().combine_values([first, second], ["log_probability"] * 2)
    assert found.tolist() == pytest.approx([-1e4 + math.log(2), 0, 0, 0, -745.0, -math.exp(-60)], rel=1e-12)
    assert bool((found <= 0).all())
    found.sum().backward()
    assert first.grad is not None
    assert bool(first.grad.isfinite().all())
    in_float = AnyOf().combine_values([F.logsigmoid(rewards.float())] * 2, ["log_probability"] * 2)
    assert bool(in_float.isfinite().all())


def test_gradients_against_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = (-3 * torch.rand(3, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    for combination in (AllOf((1.0, 2.0, 0.5)), AnyOf(), Weighted((1.0, -1.0, 2.0)), Minimum()):
        assert torch.autograd.gradcheck(
            lambda x, c=combination: c.combine_values(list(x), ["log_probability"] * 3), (parts,)
        )


@given(st.lists(st.tuples(LOG_PROBABILITIES, LOG_PROBABILITIES, LOG_PROBABILITIES), min_size=1, max_size=5))
def test_symmetric_monotone_and_response_by_response(rows: list[tuple[float, float, float]]) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    weights = (0.5, 1.0, 2.0)
    for kind in (AllOf, Weighted, AnyOf, Minimum):

        def make(order: tuple[int, ...], kind: type = kind) -> Combination:
            made: Combination = kind(tuple(weights[p] for p in order)) if kind in (AllOf, Weighted) else kind()
            return made

        base = values(make((0, 1, 2)), *columns)
        for order in permutations(range(3)):
            assert values(make(order), *(columns[p] for p in order)) == pytest.approx(base, rel=1e-12, abs=1e-300)
        for place in range(3):
            better = [[x / 2 for x in column] if p == place else column for p, column in enumerate(columns)]
            assert all(b >= a - 1e-12 * abs(a) for a, b in zip(base, values(make((0, 1, 2)), *better), strict=True))
        assert values(make((0, 1, 2)), *(column[::-1] for column in columns)) == base[::-1]


def test_missing_values() -> None:
    a, b = [-1.0, math.nan, math.nan], [-2.0, -2.0, math.nan]
    half = math.log(0.5)
    for combination, second in (
        (AllOf(missing="neutral"), half - 2.0),
        (AnyOf(missing="neutral"), math.log(1 - 0.5 * (1 - math.exp(-2.0)))),
        (Minimum(missing="neutral"), -2.0),
        (Weighted((1.0, 1.0), missing="neutral"), half - 2.0),
    ):
        found = values(combination, a, b)
        assert found[1] == pytest.approx(second)
        assert math.isnan(found[2])
    assert values(Weighted((1.0, 2.0), missing="neutral"), a, b, scale="centered")[:2] == [-5.0, -4.0]
    assert values(Minimum(missing="neutral"), a, [1.0, 0.7, 1.0], scale="probability")[1] == 0.5
    for unscored in (AllOf(), AnyOf(), Minimum(), Weighted((1.0, 1.0))):
        found = values(unscored, a, b)
        assert not math.isnan(found[0])
        assert [math.isnan(x) for x in found[1:]] == [True, True]


def test_sum_of_gaussians_is_gaussian() -> None:
    a, b = gaussian(0), gaussian(1)
    both = Weighted((2.0, -0.5)).combine([a, b], ["centered"] * 2)
    assert isinstance(both, GaussianRewards)
    torch.testing.assert_close(both.mean, 2 * a.mean - 0.5 * b.mean)
    torch.testing.assert_close(both.variance, 4 * a.variance + 0.25 * b.variance)
    torch.testing.assert_close(both.covariance(), 4 * a.covariance() + 0.25 * b.covariance())
    correlated = Weighted((2.0, -0.5), correlation=0.3).combine([a, b], ["centered"] * 2)
    torch.testing.assert_close(
        correlated.variance, 4 * a.variance + 0.25 * b.variance - 2 * 0.3 * (a.variance * b.variance).sqrt()
    )
    with pytest.raises(UnsupportedError, match="factor"):
        correlated.contrast(0, 1)


def test_missing_parts_of_a_gaussian_sum() -> None:
    a = gaussian(0)
    gaps = torch.tensor([0.0, math.nan, 0.0, math.nan], dtype=torch.float64)
    b = GaussianRewards(gaussian(1).mean + gaps, gaussian(1).variance + gaps, factor=gaussian(1).factor)
    c = GaussianRewards(a.mean + gaps.roll(1), a.variance, factor=a.factor)
    neutral = Weighted((1.0, 2.0), missing="neutral").combine([a, b], ["centered"] * 2)
    torch.testing.assert_close(neutral.mean[[1, 3]], a.mean[[1, 3]])
    torch.testing.assert_close(neutral.variance[[1, 3]], a.variance[[1, 3]])
    torch.testing.assert_close(neutral.covariance().diagonal(), neutral.variance)
    unscored = Weighted((1.0, 2.0)).combine([a, b], ["centered"] * 2)
    assert unscored.mean.isnan().tolist() == [False, True, False, True]
    nothing = Weighted((1.0, 1.0), missing="neutral").combine([b, c], ["centered"] * 2)
    assert not bool(nothing.mean.isnan().any())
    nothing = Weighted((1.0, 1.0), missing="neutral").combine([b, b], ["centered"] * 2)
    assert nothing.mean.isnan().tolist() == [False, True, False, True]


def test_ensemble_is_uwo() -> None:
    parts = [gaussian(seed, factor=False) for seed in range(4)]
    certain = [GaussianRewards(part.mean, torch.zeros(4)) for part in parts]
    means = np.stack([part.mean.numpy() for part in parts])
    both = Ensemble(ddof=0).combine(certain, ["centered"] * 4)
    assert both.is_discrete
    np.testing.assert_allclose(LcbVar(0.5)(both), means.mean(0) - 0.5 * means.var(0))
    np.testing.assert_allclose(Worst()(both), means.min(0))
    doubtful = Ensemble(ddof=1).combine(parts, ["centered"] * 4)
    within = np.mean([part.variance.numpy() for part in parts], 0)
    np.testing.assert_allclose(doubtful.variance, means.var(0, ddof=1) + within)


def test_ensemble_of_ensembles() -> None:
    noise = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    a, b = members(0, noise=noise), members(1, within_variance=torch.ones(4, dtype=torch.float64))
    both = Ensemble().combine([a, b], ["reward"] * 2)
    assert torch.equal(both.members, torch.cat([a.members, b.members], 1))
    assert both.within_variance is not None
    assert both.within_variance.tolist() == [0.5] * 4
    assert torch.equal(both.noise, noise / 2)
    with pytest.raises(UnsupportedError, match="part 2 of ensemble has 1 member and part 1 has 3 members"):
        Ensemble().combine([a, gaussian(0)], ["reward"] * 2)
    with pytest.raises(UnsupportedError, match="at least 2 members"):
        Ensemble().combine([gaussian(0)], ["reward"])
    gap = MemberRewards(torch.where(torch.arange(4)[:, None] == 2, math.nan, a.members))
    assert Ensemble().combine([gap, b], ["reward"] * 2).mean.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.9])
def test_product_against_least_squares(correlation: float) -> None:
    parts: list[RewardPosterior] = [gaussian(0), gaussian(1), members(2)]
    both = Product(correlation).combine(parts, ["centered"] * 3)
    for row in range(4):
        std = np.array([part.variance[row].sqrt().item() for part in parts])
        mean = np.array([part.mean[row].item() for part in parts])
        inverse = np.linalg.inv(np.outer(std, std) * (np.full((3, 3), correlation) + (1 - correlation) * np.eye(3)))
        ones = np.ones(3)
        assert both.mean[row].item() == pytest.approx(ones @ inverse @ mean / (ones @ inverse @ ones))
        assert both.variance[row].item() == pytest.approx(1 / (ones @ inverse @ ones))


def test_product_keeps_the_joint_distribution_of_independent_parts() -> None:
    a, b = gaussian(0), gaussian(1)
    both = Product().combine([a, b], ["centered"] * 2)
    torch.testing.assert_close(both.covariance().diagonal(), both.variance)
    share = torch.stack([1 / a.variance, 1 / b.variance]) * both.variance
    exact = sum(w[:, None] * part.covariance() * w for w, part in zip(share, (a, b), strict=True))
    torch.testing.assert_close(both.covariance(), exact)
    assert Product(0.2).combine([a, b], ["centered"] * 2).factor is None


@given(st.floats(0, 0.99), st.floats(-300, 300))
def test_product_with_certain_and_extreme_parts(correlation: float, log_scale: float) -> None:
    scale = 10.0**log_scale if abs(log_scale) < 30 else 1.0
    variances = torch.tensor([[0.0, 0.0, scale, math.nan], [scale, 0.0, scale, 1.0]], dtype=torch.float64)
    means = torch.tensor([[1.0, 1.0, 1.0, math.nan], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    parts = [GaussianRewards(m, v) for m, v in zip(means, variances, strict=True)]
    both = Product(correlation).combine(parts, ["centered"] * 2)
    assert both.mean[:3].tolist() == pytest.approx([1.0, 3.0, 3.0])
    assert both.variance[:3].tolist() == pytest.approx([0.0, 0.0, scale * (1 + correlation) / 2])
    assert math.isnan(both.mean[3].item())


def test_paired_members_stay_members() -> None:
    a, b = members(0), members(1)
    parts = [TransformedRewards(part, F.logsigmoid) for part in (a, b)]
    scales = ["log_probability"] * 2
    exact = F.logsigmoid(a.members) + F.logsigmoid(b.members)
    both = AllOf(correlation="members").combine(parts, scales)
    assert isinstance(both, MemberRewards)
    torch.testing.assert_close(both.members, exact)
    torch.testing.assert_close(Worst()(both), exact.amin(1))
    summed = Weighted((1.0, 2.0), correlation="members").combine([a, b], ["centered"] * 2)
    torch.testing.assert_close(summed.variance, (a.members + 2 * b.members).var(1))


def test_kinds_and_correlations_that_mean_nothing() -> None:
    for correlation, parts, message in (
        ("members", [gaussian(0), gaussian(1)], "part 1 has no members"),
        ("members", [members(0), members(1, count=2)], "part 2 has 2 members and part 1 has 3"),
        (0.5, [gaussian(0), members(0)], "part 2 is made from MemberRewards"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            Weighted((1.0, 1.0), correlation=correlation).combine(parts, ["centered"] * 2)  # type: ignore[arg-type]
    other = GaussianRewards(torch.zeros(4), torch.ones(4), torch.arange(4))
    for combination in (Weighted((1.0, 1.0)), Ensemble(), Product()):
        with pytest.raises(ValueError, match="part 2 is of other responses"):
            combination.combine([gaussian(0), other], ["centered"] * 2)
    assert isinstance(Minimum().combine([gaussian(0), members(0)], ["centered"] * 2), CombinedRewards)
