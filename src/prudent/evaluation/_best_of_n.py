"""Best-of-n under several rules on a scored file: what optimising a reward model does to the true reward."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.evaluation._study_curves import Drawer, group_mean
from prudent.evaluation._study_examples import disagreements
from prudent.evaluation._study_pool import StudyPool, prepare_pool
from prudent.evaluation._study_reliability import INDEPENDENT_NOTE, reliability
from prudent.evaluation._study_statistics import Resamples, log_spaced
from prudent.evaluation._study_types import BestOfNStudy, Curve, StudySettings
from prudent.rewards import GaussianRewards, RewardPosterior
from prudent.scoring import ScoredPool
from prudent.selection import best_of_n, shuffle_within_groups
from prudent.utility import MEMBER_RULES, RULES, UtilityRule, risk_rule

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["best_of_n_study"]


_FEW_PROMPTS = 30


def best_of_n_study(
    scored: "pa.Table | ScoredPool",
    *,
    rules: Sequence[str] | None = None,
    n_values: Sequence[int] | None = None,
    centered: bool | None = None,
    num_std: float = 1.0,
    variance_weight: float = 1.0,
    risk_aversion: float = 1.0,
    one_policy: bool | None = None,
    controls: bool = True,
    num_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    num_shuffles: int = 10,
    num_pairs: int = 20_000,
    num_examples: int = 8,
    max_characters: int = 6000,
    seed: int = 0,
) -> BestOfNStudy:
    """Compare rules of best-of-n on a scored pool, for every n at once, with intervals over prompts.

    Each point is the expected value, over the draw of n of a prompt's candidates without replacement, of what the rule
    picks (Nakano et al. 2021, WebGPT), averaged over prompts; equal utilities share the pick. Controls beside the
    rules: `shuffled_*` (a penalty whose variances were permuted among the candidates of each prompt: what is left of a
    gain then was not the variance's doing), `longest` (where lengths are known), `random` (the pool's average) and
    `oracle` (the highest gold). All prompts count at all n: prompts with fewer candidates than the largest n are left
    out and counted, and so are those whose gold the members of an ensemble were calibrated on. Intervals are percentile
    bootstrap over prompts, one set of resamples for all curves.

    Args:
        scored: A `pyarrow.Table` in the columns of a scored file (`prompt_id`, `reward_mean`, `reward_variance`;
            optionally `gold`, `length`, `prompt`, `response`, `reward_reference` and `reward_centered_variance`,
            `reward_factor`, `model`, `truncated`), or what `read_scored` returns.
        rules: Names of risk rules, see `prudent.utility.risk_rule`. None: all that have a curve, `worst` only where
            the rewards of each member of an ensemble are stored.
        n_values: Numbers of candidates; 1 is added where it lacks. None: log-spaced up to the smallest pool, pools
            smaller than half the median one left aside.
        centered: Variance that the rules read: that of the reward (False), that of the reward minus the mean over
            the prompt's reference set (True), or both as separate curves where the file stores both (None).
        num_std: For `lcb_std`, in standard deviations.
        variance_weight: For `lcb_var`, per unit of reward.
        risk_aversion: For `entropic`, per unit of reward.
        one_policy: Whether a prompt's candidates are samples of one policy, so that a KL divergence exists. None:
            yes unless a column `model` names more than one.
        controls: Whether to compute the controls.
        num_bootstrap: Number of resamples.
        confidence_level: Coverage of the intervals, in (0, 1).
        num_shuffles: Permutations that each shuffled control averages over.
        num_pairs: About how many pairs the reliability is measured on.
        num_examples: At most so many prompts where rules disagree.
        max_characters: Longer texts of examples are cut.
        seed: Seed of everything drawn.

    Returns:
        The study: curves, outcomes, reliability and examples, see `BestOfNStudy`.

    Raises:
        prudent.errors.DataError: If a needed column is absent or no prompt has enough candidates.
        prudent.errors.UnsupportedError: If `centered=True` and the file does not store the centered variance, or a
            rule depends on the other candidates.
        ValueError: If `n_values` holds a number below 1, or `rules` an unknown name.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({
        ...     "prompt_id": [0, 0, 0, 1, 1, 1],
        ...     "reward_mean": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0],
        ...     "reward_variance": [0.1, 0.1, 4.0, 0.1, 0.1, 4.0],
        ...     "gold": [0.0, 1.0, -1.0, 0.0, 1.0, -1.0],
        ... })
        >>> study = best_of_n_study(table, num_bootstrap=100)
        >>> study.n_values
        (1, 2, 3)
        >>> study.curve("mean").bands["gold"].value[-1], study.curve("lcb_std").bands["gold"].value[-1]
        (-1.0, 1.0)
    """
    if n_values is not None and (len(n_values) == 0 or min(n_values) < 1):
        raise ValueError(f"n_values must hold numbers of at least 1, got {list(n_values)}")
    pool = prepare_pool(scored, n_max=None if n_values is None else max(n_values), one_policy=one_policy)
    grid = log_spaced(pool.n_max) if n_values is None else tuple(sorted({1, *n_values}))
    if rules is None:
        rules = RULES if pool.ensemble is None else (*RULES, *MEMBER_RULES)
    if not pool.has_variance:
        rules = [name for name in rules if name == "mean"]
        if not rules:
            raise UnsupportedError("the scored file has no variances: only the rule mean can be studied")
    made = {
        name: risk_rule(name, num_std=num_std, variance_weight=variance_weight, risk_aversion=risk_aversion)
        for name in rules
    }
    for rule in made.values():
        if rule.depends_on_pool:
            raise UnsupportedError(
                f"rule {rule.name!r} depends on the other candidates, so it has no unbiased best-of-n curve; "
                f"rules that have one: {', '.join(RULES)}"
            )
    bases = _bases(pool, centered)
    resamples = Resamples(pool.num_prompts, num_bootstrap, confidence_level, seed)
    draw = Drawer(pool, grid)
    generator = torch.Generator().manual_seed(seed)
    picks = _add_rules(draw, made, bases, generator)
    if controls:
        _add_controls(draw, made, bases, num_shuffles, generator)
    curves = draw.curves(resamples)
    notes = _notes(pool, curves, centered)
    judged = bool(pool.scales) and pool.has_variance
    found = reliability(pool, resamples, num_pairs=num_pairs, seed=seed) if judged else ()
    if found and not found[0].exact_contrast:
        notes.append(INDEPENDENT_NOTE)
    return BestOfNStudy(
        n_values=grid,
        one_policy=pool.one_policy,
        gold_scales=tuple(pool.scales),
        curves=curves,
        reliability=found,
        disagreements=disagreements(pool, picks, num_examples=num_examples, max_characters=max_characters),
        counts=pool.counts,
        ensemble=pool.ensemble,
        settings=StudySettings(
            num_std=num_std,
            variance_weight=variance_weight,
            risk_aversion=risk_aversion,
            confidence_level=confidence_level,
            num_bootstrap=num_bootstrap,
            num_shuffles=num_shuffles,
            seed=seed,
            spread_of_means=_spread(pool),
            median_std=_median_std(pool.marginal) if pool.has_variance else None,
            median_centered_std=None if pool.centered is None else _median_std(pool.centered),
        ),
        notes=tuple(notes),
    )


def _bases(pool: StudyPool, centered: bool | None) -> dict[str, RewardPosterior]:
    """The posteriors that variance-aware rules read, by the name of their variance."""
    if centered and pool.centered is None:
        raise UnsupportedError(
            "the scored file has no centered variance (columns reward_reference and reward_centered_variance): "
            "score the pool again, or study the marginal variance with centered=False"
        )
    bases: dict[str, RewardPosterior] = {}
    if not centered:
        bases["marginal"] = pool.marginal
    if centered is not False and pool.centered is not None:
        bases["centered"] = pool.centered
    return bases


def _add_rules(
    draw: Drawer, made: Mapping[str, UtilityRule], bases: Mapping[str, RewardPosterior], generator: torch.Generator
) -> dict[str, Tensor]:
    """Add the curve of each rule, `mean` first, and return what each picks from the whole pools `[B]`."""
    picks: dict[str, Tensor] = {}
    if "mean" in made:
        utility = draw.pool.marginal.mean.double()
        draw.add("mean", "mean", utility=utility)
        picks["mean"] = best_of_n(utility, draw.pool.group, generator=generator).index
    for variance, base in bases.items():
        for name, rule in made.items():
            if name == "mean":
                continue
            key, utility = _key(name, variance), rule(base).double()
            draw.add(key, _label(name, variance), utility=utility, variance=variance)
            picks[key] = best_of_n(utility, draw.pool.group, generator=generator).index
    return picks


def _add_controls(
    draw: Drawer,
    made: Mapping[str, UtilityRule],
    bases: Mapping[str, RewardPosterior],
    num_shuffles: int,
    generator: torch.Generator,
) -> None:
    for variance, base in bases.items():
        for name in ("lcb_std", "lcb_var"):
            if name in made and num_shuffles > 0:
                shuffles = [
                    draw.expected(made[name](_shuffled(base, draw.pool.group, generator)).double())
                    for _ in range(num_shuffles)
                ]
                draw.add(
                    f"shuffled_{_key(name, variance)}",
                    f"{_label(name, variance)}, shuffled",
                    expected=np.mean(shuffles, axis=0),
                    kind="control",
                    variance=variance,
                )
    if draw.pool.length is not None:
        draw.add("longest", "longest response", utility=draw.pool.length, kind="control")
    average = group_mean(draw.values, draw.pool.group).numpy()[:, None, :]
    draw.add("random", "random response", expected=average.repeat(len(draw.grid), axis=1), kind="control")
    if draw.pool.scales:
        draw.add("oracle", "oracle (best gold)", utility=draw.pool.scales["gold"], kind="control")


def _key(name: str, variance: str) -> str:
    return name if variance == "marginal" else f"{name}_centered"


def _label(name: str, variance: str) -> str:
    return name if variance == "marginal" else f"{name} (centered)"


def _shuffled(base: RewardPosterior, group: Tensor, generator: torch.Generator) -> GaussianRewards:
    """The same means with the variances permuted among the candidates of each prompt."""
    return GaussianRewards(base.mean, shuffle_within_groups(base.variance, group, generator), group)


def _notes(pool: StudyPool, curves: Sequence[Curve], centered: bool | None) -> list[str]:
    notes = []
    if not pool.scales:
        notes.append("The file has no gold, so nothing here says whether a rule picks better responses.")
    elif pool.length is None:
        notes.append("The file has no column length: gold is not shown with length partialled out.")
    if count := pool.counts.num_calibration_prompts:
        notes.append(
            f"{count:,} prompts on whose gold the members were calibrated are left out, since it would praise them."
        )
    if not pool.has_variance:
        notes.append("The file has no variances (a model without a posterior), so the mean is the only rule.")
    if pool.num_prompts < _FEW_PROMPTS:
        notes.append(f"With {pool.num_prompts} prompts the bootstrap intervals are somewhat too narrow.")
    if centered is None and pool.centered is None and any(curve.variance for curve in curves):
        notes.append("The file stores no centered variance: rules read the marginal one.")
    if isinstance(pool.marginal, GaussianRewards) and any(curve.rule.startswith("entropic") for curve in curves):
        notes.append(
            "These rewards are Gaussian, so entropic is lcb_var with half its risk aversion as weight: one rule "
            "at two strengths."
        )
    return notes


def _spread(pool: StudyPool) -> float:
    mean = pool.marginal.mean.double()
    around = mean - group_mean(mean, pool.group)[pool.group]
    return float(group_mean(around.square(), pool.group).sqrt().mean())


def _median_std(rewards: RewardPosterior) -> float:
    return float(rewards.variance.double().clamp(min=0).sqrt().median())
