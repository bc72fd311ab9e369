import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from prudent.metrics import fit_gold_calibration, gold_coverage


def simulated(
    seed: int, *, num_prompts: int = 200, size: int = 20, floor: float = 0.5, scale: float = 2.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, variance, gold and group with gold = 1 - 0.7 mean + noise of variance floor + scale * variance."""
    generator = torch.Generator().manual_seed(seed)
    total = num_prompts * size
    mean = torch.randn(total, generator=generator, dtype=torch.float64)
    variance = (torch.randn(total, generator=generator, dtype=torch.float64)).exp()
    noise = (floor + scale * variance).sqrt() * torch.randn(total, generator=generator, dtype=torch.float64)
    return mean, variance, 1 - 0.7 * mean + noise, torch.arange(num_prompts).repeat_interleave(size)


@pytest.mark.parametrize(("floor", "scale"), [(0.5, 2.0), (1.0, 0.0), (0.0, 0.3)])
def test_calibration_finds_the_truth(floor: float, scale: float) -> None:
    mean, variance, gold, _ = simulated(0, num_prompts=1000, floor=floor, scale=scale)
    found = fit_gold_calibration(mean, variance, gold)
    assert (found.intercept, found.slope) == pytest.approx((1.0, -0.7), abs=0.05)
    assert found.floor == pytest.approx(floor, abs=0.05)
    assert found.scale == pytest.approx(scale, abs=0.06)


def test_calibration_is_the_maximum_that_scipy_finds() -> None:
    mean, variance, gold, _ = (values.numpy() for values in simulated(1, num_prompts=30))

    def loss(x: np.ndarray) -> float:
        spread = np.exp(x[2]) + np.exp(x[3]) * variance
        return -stats.norm.logpdf(gold, x[0] + x[1] * mean, np.sqrt(spread)).mean()

    theirs = optimize.minimize(loss, np.zeros(4), method="BFGS")
    ours = fit_gold_calibration(torch.tensor(mean), torch.tensor(variance), torch.tensor(gold))
    assert (ours.intercept, ours.slope) == pytest.approx(theirs.x[:2], abs=1e-2)
    assert loss(np.array([ours.intercept, ours.slope, math.log(ours.floor), math.log(ours.scale)])) <= theirs.fun + 1e-6


def test_without_a_variance_it_is_least_squares() -> None:
    mean, _, gold, _ = simulated(2, num_prompts=10)
    found = fit_gold_calibration(mean, None, gold)
    line = stats.linregress(mean.numpy(), gold.numpy())
    assert (found.intercept, found.slope) == pytest.approx((line.intercept, line.slope))
    residual = gold - found.intercept - found.slope * mean
    assert found.floor == pytest.approx(residual.square().mean().item())
    assert found.scale == 0


def test_units_do_not_matter() -> None:
    mean, variance, gold, _ = simulated(3, num_prompts=50)
    base = fit_gold_calibration(mean, variance, gold)
    other = fit_gold_calibration(10 * mean + 3, 100 * variance, 5 * gold)
    assert other.slope == pytest.approx(5 * base.slope / 10, rel=1e-3)
    assert other.floor == pytest.approx(25 * base.floor, rel=1e-2)
    assert other.scale == pytest.approx(25 * base.scale / 100, rel=1e-2)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_as_stated_and_the_variance_informs(level: float) -> None:
    mean, variance, gold, group = simulated(4)
    informed = gold_coverage(mean, variance, gold, group, level=level)
    constant = gold_coverage(mean, None, gold, group, level=level)
    assert informed.inside.mean().item() == pytest.approx(level, abs=0.02)
    assert informed.nll.mean().item() < constant.nll.mean().item() - 0.05
    expected = 0.5 * (2 * math.pi * (0.5 + 2 * variance)).log() + 0.5
    assert informed.nll.mean().item() == pytest.approx(expected.mean().item(), abs=0.03)
    z = stats.norm.ppf(0.5 + level / 2)
    assert informed.width.mean().item() == pytest.approx(2 * z * (0.5 + 2 * variance).sqrt().mean().item(), rel=0.03)
    # where the variance is largest the constant one covers too little, the informed one as stated
    wide = variance > variance.quantile(0.9)
    assert informed.inside[wide].mean().item() == pytest.approx(level, abs=0.06)
    assert constant.inside[wide].mean().item() < level - 0.15


def test_a_variance_that_says_nothing_costs_next_to_nothing() -> None:
    mean, variance, gold, group = simulated(5, scale=0.0)
    informed, constant = (gold_coverage(mean, v, gold, group) for v in (variance, None))
    assert informed.nll.mean().item() == pytest.approx(constant.nll.mean().item(), abs=2e-3)


def test_every_prompt_is_tested_once_by_a_fit_on_others() -> None:
    mean, variance, gold, group = simulated(6, num_prompts=7, size=9)
    found = gold_coverage(mean, variance, gold, group)
    assert len(found.calibrations) == 2
    assert {int(fold) for fold in found.fold} == {0, 1}
    for prompt in range(7):
        assert len(found.fold[group == prompt].unique()) == 1
    for number, calibration in enumerate(found.calibrations):
        mine = found.fold == number
        again = fit_gold_calibration(mean[~mine], variance[~mine], gold[~mine])
        assert again == calibration
        residual = gold[mine] - calibration.intercept - calibration.slope * mean[mine]
        torch.testing.assert_close(found.residual[mine], residual)
    # the rows of one prompt cannot be known from their own gold: a prompt far off is not covered
    shifted = gold + 100 * (group == 3)
    missed = gold_coverage(mean, None, shifted, group)
    own = missed.fold == missed.fold[group == 3][0]
    assert missed.inside[group == 3].sum() == 0
    assert missed.inside[own & (group != 3)].mean() > 0.5


def test_row_order_does_not_matter() -> None:
    mean, variance, gold, group = simulated(7, num_prompts=10)
    order = torch.randperm(len(mean), generator=torch.Generator().manual_seed(0))
    first = gold_coverage(mean, variance, gold, group)
    second = gold_coverage(mean[order], variance[order], gold[order], group[order])
    torch.testing.assert_close(second.nll, first.nll[order])


def test_degenerate_rows_stay_finite() -> None:
    zeros, gold = torch.zeros(8), torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7])
    constant_mean = fit_gold_calibration(zeros + 0.1, torch.ones(8), gold)
    assert (constant_mean.intercept, constant_mean.slope) == (3.5, 0.0)
    no_variance = fit_gold_calibration(gold, zeros, gold.square())
    assert no_variance.scale == 0
    exact = fit_gold_calibration(gold, torch.ones(8), 2 * gold)
    assert exact.slope == pytest.approx(2)
    assert 0 <= exact.floor + exact.scale < 1e-12


def test_wrong_input_is_named() -> None:
    rows = torch.arange(6.0)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="two prompts"):
        gold_coverage(rows, None, rows, torch.zeros(6).long())
    with pytest.raises(ValueError, match="level"):
        gold_coverage(rows, None, rows, group, level=1.0)
    with pytest.raises(ValueError, match="row 2 of gold"):
        gold_coverage(rows, None, torch.tensor([0, 1, math.nan, 2, 3, 4]), group)
    with pytest.raises(ValueError, match="negative"):
        gold_coverage(rows, -rows, rows, group)
    with pytest.raises(ValueError, match="variance must have shape"):
        gold_coverage(rows, torch.zeros(2), rows, group)
    with pytest.raises(ValueError, match="3 rows"):
        fit_gold_calibration(torch.zeros(2), None, torch.zeros(2))
