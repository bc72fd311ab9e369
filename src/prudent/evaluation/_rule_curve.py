"""The best-of-n curve of one rule: exact and for every n at once where that is possible, else by resampling."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from prudent.evaluation._study_pool import prepare_pool
from prudent.evaluation._study_statistics import log_spaced
from prudent.models import progress_bar
from prudent.scoring import ScoredPool
from prudent.selection import best_of_n_curve, best_of_n_kl_with_ties, resampled_curve
from prudent.utility import UtilityRule, risk_rule

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RuleCurve", "RulePoint", "rule_curve"]


@dataclass(frozen=True)
class RulePoint:
    """Best of n under the rule, averaged over prompts.

    Attributes:
        n: number of candidates.
        kl: divergence from the policy in nats, corrected for ties; None for a pool of several policies, and for a rule
            that depends on the pool.
        proxy: expected posterior mean of the pick.
        gold: expected gold of the pick; None without gold.
        proxy_standard_error: Monte Carlo error of `proxy`; 0 where the estimator is exact.
        gold_standard_error: Monte Carlo error of `gold`; None without gold.
    """

    n: int
    kl: float | None
    proxy: float
    gold: float | None
    proxy_standard_error: float
    gold_standard_error: float | None


@dataclass(frozen=True)
class RuleCurve:
    """A curve and what it was made from.

    Attributes:
        rule: the rule's name.
        centered: whether it saw the rewards relative to the reference sets.
        exact: True for the unbiased estimator over all subsets; False for drawn subsets.
        num_prompts: prompts, the same at every n.
        num_calibration_prompts: others, left out because the members of an ensemble were calibrated on their gold.
        num_candidates: their responses.
        num_distinct: distinct texts among them; None where texts are not stored.
        points: the curve.
    """

    rule: str
    centered: bool
    exact: bool
    num_prompts: int
    num_calibration_prompts: int
    num_candidates: int
    num_distinct: int | None
    points: tuple[RulePoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def rule_curve(
    scored: "pa.Table | ScoredPool",
    *,
    rule: str = "lcb_std",
    num_std: float = 1.0,
    variance_weight: float = 1.0,
    risk_aversion: float = 1.0,
    centered: bool = False,
    n_values: Sequence[int] | None = None,
    one_policy: bool | None = None,
    num_resamples: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> RuleCurve:
    """What a rule picks out of n candidates, for a grid of n.

    A rule that looks at each response alone has an unbiased estimate from one sort of the pool (Nakano et al. 2021). A
    rule that looks at the others (`prob_best`) is evaluated afresh on drawn subsets, and the error of that is stated.

    Args:
        scored: a scored table or what `read_scored` returns.
        rule: name of the rule.
        num_std: of `lcb_std`.
        variance_weight: of `lcb_var`.
        risk_aversion: of `entropic`.
        centered: use the rewards relative to each prompt's fixed reference set.
        n_values: numbers of candidates; None for a log-spaced grid up to the smallest pool: two to each doubling, but
            only the powers of 4 and the end for a rule that depends on the pool, since drawing subsets takes time in
            proportion to each n (four minutes on one core for 16 prompts of 12,500 candidates).
        one_policy: whether candidates are samples of one policy, so that a KL exists; None reads it off a column
            `model`.
        num_resamples: subsets drawn for each prompt and n by a rule that depends on the pool.
        seed: of drawn subsets.
        progress: show a bar on standard error while subsets are drawn.

    Raises:
        DataError: the table is not a scored pool, no prompt has enough candidates, or no variance is known.
        UnsupportedError: the centered variance or the factor that the rule needs is not stored.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"prompt_id": [0, 0, 0], "reward_mean": [0.0, 1, 2], "reward_variance": [1.0, 1, 9]})
        >>> [(point.n, point.proxy) for point in rule_curve(table, rule="lcb_std", n_values=[1, 3]).points]
        [(1, 1.0), (3, 1.0)]
    """
    chosen = risk_rule(rule, num_std=num_std, variance_weight=variance_weight, risk_aversion=risk_aversion)
    pool = prepare_pool(scored, n_max=None if n_values is None else max(n_values), one_policy=one_policy)
    grid = list(n_values or _grid(pool.n_max, chosen))
    posterior = pool.posterior_for(chosen, centered=centered)
    values = torch.stack([pool.marginal.mean.double(), *([pool.scales["gold"].double()] if pool.scales else [])], dim=1)
    kl: list[float] | None = None
    if chosen.depends_on_pool:
        generator = torch.Generator().manual_seed(seed)
        bar = progress_bar("Drawing subsets", len(grid) * num_resamples, unit="subsets", enabled=progress)
        with bar as advance:
            drawn = resampled_curve(chosen, posterior, values, grid, num_resamples, generator, advance=advance)
        means = drawn.mean.mean(0).T.tolist()
        # Prompts are drawn independently, so the errors of their average add in squares.
        errors = (drawn.standard_error.square().sum(0).sqrt() / pool.num_prompts).T.tolist()
    else:
        utility = chosen(posterior)
        means = best_of_n_curve(utility, values, pool.group, grid).mean(0).T.tolist()
        errors = torch.zeros(values.shape[1], len(grid)).tolist()
        if pool.one_policy:
            kl = best_of_n_kl_with_ties(utility, pool.group, grid).kl.mean(0).tolist()
    return RuleCurve(
        rule=rule,
        centered=centered,
        exact=not chosen.depends_on_pool,
        num_prompts=pool.num_prompts,
        num_calibration_prompts=pool.counts.num_calibration_prompts,
        num_candidates=pool.counts.num_candidates,
        num_distinct=pool.counts.num_distinct,
        points=tuple(
            RulePoint(
                n=n,
                kl=None if kl is None else kl[place],
                proxy=means[0][place],
                gold=means[1][place] if pool.scales else None,
                proxy_standard_error=errors[0][place],
                gold_standard_error=errors[1][place] if pool.scales else None,
            )
            for place, n in enumerate(grid)
        ),
    )


def _grid(n_max: int, rule: UtilityRule) -> tuple[int, ...]:
    """The numbers of candidates to show where none are asked for."""
    if not rule.depends_on_pool:
        return log_spaced(n_max)
    return tuple(sorted({4**power for power in range(n_max.bit_length()) if 4**power < n_max} | {n_max}))
