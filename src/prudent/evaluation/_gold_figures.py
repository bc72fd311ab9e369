"""Rewards of a scored pool against its gold: do intervals cover, and does the variance know where errors are."""

import torch
from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.evaluation._evaluation_types import Figure, GoldComparison, GoldFigures, GoldIntervals
from prudent.evaluation._pair_figures import to_figure
from prudent.metrics import GoldCoverage, bootstrap, bootstrap_difference, gold_coverage, spearman_within
from prudent.rewards import index_groups
from prudent.scoring import ScoredPool

__all__ = ["check_gold", "gold_figures"]

_LEVEL = 0.9
_MIN_PROMPTS = 4


def gold_figures(pool: ScoredPool, *, num_bootstrap: int, seed: int) -> GoldFigures:
    """Coverage of intervals for gold with and without the posterior's variance, and where the errors are.

    Prompts whose gold the members of an ensemble were calibrated on are left out.

    Args:
        pool: scored, that has passed `check_gold`.
        num_bootstrap: resamples of the prompts. The calibrations are held, so the intervals leave out that they too
            were estimated.
        seed: of the halves of prompts and of the resampling.

    Raises:
        DataError: fewer than four prompts with two responses that have reward, variance and gold (of an ensemble:
            gold that its members were not calibrated on).
    """
    columns = ["reward_mean", "reward_variance", "gold"]
    if pool.has_centered_variance:
        columns.append("reward_centered_variance")
    values = torch.stack([pool.column(name) for name in columns], dim=1)
    group = pool.group
    scored = values.isfinite().all(1) & ~pool.is_calibration
    index = index_groups(group)
    keep = scored & (index.sum(scored.long()) >= 2)[index.position]
    group = index.position[keep]
    num_prompts = len(index_groups(group).ids)
    if num_prompts < _MIN_PROMPTS:
        raise DataError(
            f"{pool.source}: {num_prompts} prompts have two responses with reward, variance and gold; "
            f"{_MIN_PROMPTS} are needed, half of them to fit intervals and half to test them"
        )
    mean, variance, gold = values[keep, :3].unbind(1)
    centered_mean, centered_gold = _centered(mean, group), _centered(gold, group)
    centered_variance = values[keep, -1] if pool.has_centered_variance else variance
    absolute, _ = _compare(mean, variance, gold, group, num_bootstrap, seed)
    within, constant = _compare(centered_mean, centered_variance, centered_gold, group, num_bootstrap, seed)
    # the errors of the calibration that has not seen the variance
    correlation = spearman_within(centered_variance.sqrt(), constant.residual.abs(), group)
    return GoldFigures(
        data=pool.source,
        num_responses=len(group),
        num_prompts=num_prompts,
        num_left_out=len(keep) - len(group),
        level=_LEVEL,
        absolute=absolute,
        within=within,
        error_correlation=None
        if bool(correlation.isnan().all())
        else _averaged(correlation, None, num_bootstrap, seed),
    )


def check_gold(pool: ScoredPool) -> None:
    """Check that a scored pool has what `gold_figures` reads.

    Raises:
        DataError: it has not; the message says which and what to do.
    """
    if "gold" not in pool.table.column_names or pool.table["gold"].null_count == pool.table.num_rows:
        raise DataError(f"{pool.source} has no gold to test intervals on; score a pool whose rows carry `gold`")
    if not pool.has_variance:
        raise DataError(f"{pool.source} has no variances to test; fit a posterior and score the pool again")


def _compare(
    mean: Tensor, variance: Tensor, gold: Tensor, group: Tensor, num_bootstrap: int, seed: int
) -> tuple[GoldComparison, GoldCoverage]:
    """The comparison, and the rows of the constant variance."""
    informed, constant = (
        gold_coverage(mean, one, gold, group, level=_LEVEL, generator=Generator().manual_seed(seed))
        for one in (variance, None)
    )
    difference = bootstrap_difference(
        informed.nll, constant.nll, group, num_resamples=num_bootstrap, generator=Generator().manual_seed(seed)
    )
    comparison = GoldComparison(
        posterior=_intervals(informed, group, num_bootstrap, seed),
        constant=_intervals(constant, group, num_bootstrap, seed),
        nll_difference=to_figure(difference),
    )
    return comparison, constant


def _intervals(found: GoldCoverage, group: Tensor, num_bootstrap: int, seed: int) -> GoldIntervals:
    coverage, width, nll = (
        _averaged(values, group, num_bootstrap, seed) for values in (found.inside, found.width, found.nll)
    )
    return GoldIntervals(coverage, width, nll, found.calibrations)


def _averaged(values: Tensor, group: Tensor | None, num_bootstrap: int, seed: int) -> Figure:
    generator = Generator().manual_seed(seed)
    return to_figure(bootstrap(values, group, num_resamples=num_bootstrap, generator=generator))


def _centered(values: Tensor, group: Tensor) -> Tensor:
    index = index_groups(group)
    return values - (index.sum(values) / index.counts)[index.position]
