"""Does gold lie where the posterior says: intervals for a true reward, after an affine calibration on other prompts.

A posterior speaks in logits of preferences, gold in units of its own, and a judge adds noise that no posterior over
weights knows of. So a line and two variances are fitted first, gold ~ N(intercept + slope * mean, floor + scale *
variance), on prompts other than those tested. With scale = 0 the same is done without the posterior's variance; what
the variance is worth is the difference between the two.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from prudent.metrics._search import golden_section
from prudent.rewards import index_groups

__all__ = ["GoldCalibration", "GoldCoverage", "fit_gold_calibration", "gold_coverage"]

_MIN_ROWS = 3
_LARGEST_LOG_RATIO = 14


@dataclass(frozen=True)
class GoldCalibration:
    """Gold given a reward's mean and variance: N(intercept + slope * mean, floor + scale * variance).

    Attributes:
        intercept: in units of gold.
        slope: units of gold for a logit.
        floor: variance of gold that the posterior does not know of, >= 0.
        scale: units of gold squared for a squared logit, >= 0; 0 where the variance tells nothing.
    """

    intercept: float
    slope: float
    floor: float
    scale: float


@dataclass(frozen=True)
class GoldCoverage:
    """How gold falls into intervals fitted on other prompts; average the rows, or bootstrap the averages.

    Attributes:
        inside: [N] float64, 1 where gold lies inside the central interval.
        width: [N] float64, its width in units of gold.
        nll: [N] float64, negative log density of gold, nats (in units of gold: compare on the same gold only).
        residual: [N] float64, gold minus its predicted mean.
        fold: [N] int64, 0 or 1, the half of the prompts that the row was tested in.
        calibrations: the calibration that each half was tested with, fitted on the other half.
    """

    inside: Tensor
    width: Tensor
    nll: Tensor
    residual: Tensor
    fold: Tensor
    calibrations: tuple[GoldCalibration, GoldCalibration]


def fit_gold_calibration(mean: Tensor, variance: Tensor | None, gold: Tensor) -> GoldCalibration:
    """The most likely line from reward to gold and the most likely variance around it.

    Gaussian maximum likelihood. For a given ratio of scale to floor the line is weighted least squares and the size of
    the variance is in closed form, so only the ratio is searched: by a grid of a point each factor of e, and a
    golden-section search.

    Args:
        mean: [N] posterior mean of the reward.
        variance: [N] its variance, >= 0; None holds the scale at 0 (ordinary least squares).
        gold: [N] true reward.

    Returns:
        The calibration. A constant mean gets slope 0; a variance that is zero everywhere, scale 0.

    Raises:
        ValueError: fewer than three rows, shapes that do not agree, values not finite, or a negative variance.

    Example:
        >>> import torch
        >>> mean = torch.tensor([0.0, 1.0, 2.0, 3.0])
        >>> found = fit_gold_calibration(mean, None, 2 * mean + torch.tensor([1.0, -1.0, -1.0, 1.0]))
        >>> found.intercept, found.slope, found.floor, found.scale
        (0.0, 2.0, 1.0, 0.0)
    """
    m, v, y = _checked(mean, variance, gold)
    if len(m) < _MIN_ROWS:
        raise ValueError(f"a calibration needs at least {_MIN_ROWS} rows, got {len(m)}")
    average = 0.0 if v is None else v.mean().item()
    if v is None or average == 0:
        return _at(m, torch.ones_like(m), y, 0.0)[0]
    relative = v / average

    def share(log_ratio: float) -> float:
        """Part of the average variance that is scale * variance, from the log of scale over floor."""
        return 1 / (1 + math.exp(-log_ratio))

    def loss(log_ratio: float) -> float:
        return _at(m, relative, y, share(log_ratio))[1]

    grid = range(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO + 1)
    best = float(min(grid, key=loss))
    best = golden_section(loss, best - 1, best + 1, 1e-3)
    ends = [1.0] if bool((v > 0).all()) else []  # scale alone would give a variance of zero to a row
    calibration = min((_at(m, relative, y, part) for part in (0.0, share(best), *ends)), key=lambda one: one[1])[0]
    return GoldCalibration(calibration.intercept, calibration.slope, calibration.floor, calibration.scale / average)


def gold_coverage(
    mean: Tensor,
    variance: Tensor | None,
    gold: Tensor,
    group: Tensor,
    *,
    level: float = 0.9,
    generator: Generator | None = None,
) -> GoldCoverage:
    """Test intervals for gold, each prompt once, by a calibration fitted on the other half of the prompts.

    Args:
        mean: [N] posterior mean of the reward, or of the reward minus its prompt's average with gold treated alike:
            only the latter is known from preferences.
        variance: [N] its variance, >= 0; None for a constant one, to compare with.
        gold: [N] true reward.
        group: [N] integer prompt ids.
        level: of the central interval, in (0, 1).
        generator: draws the halves; seed 0 by default.

    Returns:
        For each row whether its gold lies inside, the width of the interval, and its log density.

    Raises:
        ValueError: fewer than two prompts, fewer than three rows in a half, a level out of range, shapes that do not
            agree, values not finite, or a negative variance.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> mean, noise = torch.randn(2, 4000, generator=generator)
        >>> found = gold_coverage(mean, None, mean + noise, torch.arange(4000) // 10)
        >>> round(found.inside.mean().item(), 1), round(found.width.mean().item(), 1)
        (0.9, 3.3)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    m, v, y = _checked(mean, variance, gold)
    if group.shape != m.shape:
        raise ValueError(f"group must have shape {list(m.shape)}, got {list(group.shape)}")
    index = index_groups(group)
    if len(index.ids) < 2:
        raise ValueError("cross-fitting needs at least two prompts")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    order = torch.randperm(len(index.ids), generator=generator, device=generator.device).to(m.device)
    fold = (order < len(order) // 2).long()[index.position]
    z = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item()
    residual, spread = torch.empty_like(m), torch.empty_like(m)
    calibrations = []
    for number in (0, 1):
        tested = fold == number
        fitted = fit_gold_calibration(m[~tested], None if v is None else v[~tested], y[~tested])
        calibrations.append(fitted)
        residual[tested] = y[tested] - fitted.intercept - fitted.slope * m[tested]
        spread[tested] = fitted.floor + (0.0 if v is None else fitted.scale * v[tested])
    # gold that lies on a line exactly, or a row without variance where the floor is zero
    spread = spread.clamp(min=torch.finfo(torch.float64).tiny)
    return GoldCoverage(
        inside=(residual.abs() <= z * spread.sqrt()).double(),
        width=2 * z * spread.sqrt(),
        nll=0.5 * (residual.square() / spread + (2 * math.pi * spread).log()),
        residual=residual,
        fold=fold,
        calibrations=(calibrations[0], calibrations[1]),
    )


def _at(mean: Tensor, variance: Tensor, gold: Tensor, share: float) -> tuple[GoldCalibration, float]:
    """The best calibration with floor : scale as (1 - share) : share, and its loss up to a constant."""
    shape = (1 - share) + share * variance
    weight = (1 / shape) / (1 / shape).sum()
    pivot = mean[0]  # measured from one of its own values, a constant mean comes out as exact zeros
    x = mean - pivot
    middle, level = (weight * x).sum(), (weight * gold).sum()
    x, y = x - middle, gold - level
    square = (weight * x * x).sum()
    slope = torch.where(square > 0, (weight * x * y).sum() / square, 0.0)
    size = ((y - slope * x).square() / shape).mean().clamp(min=torch.finfo(torch.float64).tiny)
    loss = 0.5 * (size.log() + shape.log().mean()).item()
    intercept = (level - slope * (pivot + middle)).item()
    return GoldCalibration(intercept, slope.item(), size.item() * (1 - share), size.item() * share), loss


def _checked(mean: Tensor, variance: Tensor | None, gold: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """The three as float64 vectors of one length, finite."""
    if mean.dim() != 1:
        raise ValueError(f"mean must be a vector [N], got shape {list(mean.shape)}")
    given = {"mean": mean, "gold": gold} | ({} if variance is None else {"variance": variance})
    for name, values in given.items():
        if values.shape != mean.shape:
            raise ValueError(f"{name} must have shape {list(mean.shape)}, got {list(values.shape)}")
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"row {int((~values.isfinite()).nonzero()[0])} of {name} is not finite; leave it out first"
            )
    if variance is not None and bool((variance < 0).any()):
        raise ValueError("variance must not be negative")
    return mean.double(), None if variance is None else variance.double(), gold.double()
