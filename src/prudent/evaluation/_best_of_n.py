"""Best-of-n under several utilities on a scored file: what optimising a reward model does to the true reward."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from prudent.evaluation._study_baselines import Others, draw_others, num_resamples_for, num_shuffles_for
from prudent.evaluation._study_curves import Drawn, curves, joined, lacking
from prudent.evaluation._study_drawing import Drawer
from prudent.evaluation._study_examples import disagreements, hacked
from prudent.evaluation._study_families import spread_within
from prudent.evaluation._study_laws import laws
from prudent.evaluation._study_notes import study_notes
from prudent.evaluation._study_pool import StudiedReward
from prudent.evaluation._study_reliability import INDEPENDENT_NOTE, reliability
from prudent.evaluation._study_seeds import Seed, prepare_seeds
from prudent.evaluation._study_statistics import Resamples, log_spaced
from prudent.evaluation._study_tuning import num_choosing, strength_families
from prudent.evaluation._study_types import BestOfNStudy, RewardScale, StudySettings
from prudent.evaluation._study_utilities import AnyUtility
from prudent.evaluation._study_utility_lines import draw_utilities
from prudent.evaluation._study_verdict import verdict
from prudent.evaluation._trade_off import plane
from prudent.models import progress_bar
from prudent.scoring import ScoredPool
from prudent.selection import best_of_n

if TYPE_CHECKING:
    import pyarrow as pa

    Scored: TypeAlias = pa.Table | ScoredPool

__all__ = ["best_of_n_study"]

_PENALTIES = ("lcb_std", "lcb_var")
_APART = 1000
"""Between the numbers that seeds of a proxy draw by: each counts up from its own, one a shuffle."""


def best_of_n_study(
    scored: "Scored | Sequence[Scored]",
    *,
    utilities: Sequence[AnyUtility] | Mapping[str, AnyUtility] | None = None,
    n_values: Sequence[int] | None = None,
    one_policy: bool | None = None,
    baselines: bool = True,
    controls: bool = True,
    num_calibration_prompts: int = 50,
    num_resamples: int = 16,
    num_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    num_shuffles: int = 10,
    num_pairs: int = 20_000,
    num_examples: int = 8,
    max_characters: int = 6000,
    seed: int = 0,
    progress: bool = False,
) -> BestOfNStudy:
    """Compare utilities by best-of-n on a scored pool, for every n at once, with baselines, controls and intervals.

    Each point is the expected value, over the draw of n of a prompt's candidates without replacement, of what the
    utility picks (Nakano et al. 2021, WebGPT), averaged over prompts; equal values share the pick. A utility whose
    values depend on the other candidates (`prob_best`) is evaluated afresh on drawn subsets, and the error of that is
    stated. All prompts count at all n: prompts with fewer candidates than the largest n are left out and counted, and
    so are those whose gold the members of an ensemble were calibrated on. Candidates count that every utility has a
    value for. Intervals are percentile bootstrap over prompts, one set of resamples for all curves.

    Several files are seeds of one proxy on the same pool: curves are averaged over them, and intervals are over prompts
    and seeds, independently: to resampled prompts is added how far off the average of so few seeds may be, by Student's
    t, so that intervals of two or three seeds are wide. Reliability, examples and the scales of rewards are those of
    the first. Of the usual utilities those are studied that all files allow.

    Baselines are what one could do instead: `random` (the pool's average); with a column `embedding`, `consensus` (the
    candidate of the highest average cosine to all that are present, whatever its score); `hedged n` (the first
    utility's best of min(n, m)); on the values of the first utility `top_k, tuned` (Sriraman and Block 2026),
    `soft, tuned` (Verdun et al. 2025), `pessimism, tuned` (Huang et al. 2025) and, with embeddings, `mbr, tuned`
    (Jinnai et al. 2024), which is `consensus` at a large weight; and of a single reward `lcb_std, tuned`, `lcb_var,
    tuned`, the same on the variance against references, and `worst` and `uwo` (Coste et al. 2024) where members are
    stored. A tuned curve has at each n, and on each scale of gold, the strength (m, ...) that is best on some
    calibration prompts, and is judged on the others, averaged over random splits; its intervals count that other
    prompts choose other strengths.

    Controls show what a gain is not: `shuffled: KEY` (a utility that reads variances, if only as the mean of a curved
    step does, after these were permuted among the candidates of each prompt: what is left of a gain then was not the
    variance's doing; not of an `ensemble` of several rewards), `length as variance: KEY` (the same variances, the
    largest given to the longest response, and so on down), `length out of variance: KEY` (length partialled out of
    them within the prompt), all three of tuned penalties too, and `longest`; or what was to be had in hindsight:
    `oracle n` (the first utility at the best n up to each n) and `oracle` (the highest gold).

    Args:
        scored: A `pyarrow.Table` in the columns of a scored file (`prompt_id`, `reward_mean`, `reward_variance`, those
            two with a name before them where there are several rewards; optionally `gold`, `length`, `prompt`,
            `response`, `reward_reference`, `reward_centered_variance` and `is_reference`, `reward_factor`, `model`,
            `truncated`, `embedding`), or what `read_scored` returns; or one of these for each seed of a proxy, with the
            same prompts, candidates and gold.
        utilities: Utilities as text or expressions (see `prudent.utility.parse_utility`), or by what to call them;
            others are compared with the first. None: of a single reward its mean and the rules `lcb_std`, `lcb_var`
            and `entropic` with their defaults, `worst` where the rewards of each member of an ensemble are stored, and
            these after `center(mean)` where the variance against the references is stored; of several rewards each
            alone, the sum of the standardized ones, `all_of` of them standardized and centered, and the `minimum`.
        n_values: Numbers of candidates; 1 is added where it lacks. None: log-spaced up to the smallest pool, pools
            smaller than half the median one left aside.
        one_policy: Whether a prompt's candidates are samples of one policy, so that a KL divergence exists. None:
            yes unless a column `model` names more than one.
        baselines: Whether to compute the baselines and `oracle n`.
        controls: Whether to compute the other controls.
        num_calibration_prompts: Prompts that strengths are chosen on, at most half of them. With fewer than 20 prompts
            nothing is tuned, and strategies are shown at one strength.
        num_resamples: Subsets drawn for each prompt and n where picks have no closed form, at least 2; strategies on
            large pools need fewer.
        num_bootstrap: Number of resamples of prompts (and seeds).
        confidence_level: Coverage of the intervals, in (0, 1).
        num_shuffles: Permutations that each shuffled control averages over, at most; large pools need fewer.
        num_pairs: About how many pairs the reliability is measured on.
        num_examples: At most so many prompts where utilities disagree, and where the first was fooled most.
        max_characters: Longer texts of examples are cut.
        seed: Seed of everything drawn.
        progress: Show a bar on standard error while subsets are drawn.

    Returns:
        The study: curves, outcomes, verdicts, laws, reliability and examples, see `BestOfNStudy`.

    Raises:
        prudent.errors.DataError: If a needed column, reward, variance or reference is absent, no prompt has enough
            candidates, or several files are not of one pool.
        prudent.errors.UtilityError: If a text is not a utility, or a label is that of a control or a baseline.
        prudent.errors.UnsupportedError: If a utility needs a factor or members that are not stored.
        ValueError: If `n_values` holds a number below 1, another number is out of range, or there is no file.

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
    _check_numbers(
        {
            "num_resamples": (num_resamples, 2),  # to state an error
            "num_bootstrap": (num_bootstrap, 1),
            "num_calibration_prompts": (num_calibration_prompts, 0),
            "num_shuffles": (num_shuffles, 0),
            "num_pairs": (num_pairs, 1),
            "num_examples": (num_examples, 0),
            "max_characters": (max_characters, 0),
        }
    )
    if not 0.0 < confidence_level < 1.0:
        raise ValueError(f"confidence_level must lie between 0 and 1, got {confidence_level}")
    generator = torch.Generator().manual_seed(seed)
    n_max = None if n_values is None else max(n_values)
    files = _files(scored)
    seeds = prepare_seeds(files, utilities, n_max=n_max, one_policy=one_policy, generator=generator)
    first = seeds[0]
    pool, scales = first.pool, _shared_scales(seeds)
    roundings = {scale: pool.rounding(scale) for scale in scales}
    grid = log_spaced(min(one.pool.n_max for one in seeds)) if n_values is None else tuple(sorted({1, *n_values}))
    resamples = Resamples(pool.num_prompts, num_bootstrap, confidence_level, seed, len(seeds))
    of_seeds: list[tuple[list[Drawn], Others]] = []
    steps = _num_drawn(seeds, grid, baselines, num_resamples)
    with progress_bar("Drawing subsets", steps, unit="steps", enabled=progress) as advance:
        while seeds:
            one = seeds.pop(0)  # nothing but its curves is kept, since a seed of a large pool is large
            drawer = Drawer(one.pool, grid)
            own = draw_utilities(one, drawer, num_resamples=num_resamples, generator=generator, advance=advance)
            others = draw_others(
                one,
                drawer,
                own[0],
                resamples.of_one_seed(),
                baselines=baselines,
                controls=controls,
                num_shuffles=num_shuffles,
                num_calibration_prompts=num_calibration_prompts,
                num_resamples=num_resamples,
                random_seed=seed + _APART * len(of_seeds),
                advance=advance,
            )
            of_seeds.append((own, others))
            del one, drawer
    every = [[*own, *others.baselines, *others.controls] for own, others in of_seeds]
    drawn = joined(every)
    found = curves(drawn, roundings, grid, resamples)
    verdicts = {
        scale: verdict(drawn, found[0].outcomes[scale], scale, grid, resamples, seed, rounding)
        for scale, rounding in roundings.items()
    }
    picks = {
        key: best_of_n(value, pool.group, generator=generator).index for key, value in first.values.items()
    } | of_seeds[0][1].picks
    notes = study_notes(first, drawn, grid[-1], len(files), by_default=utilities is None, baselines=baselines)
    for place, labels in lacking(every).items():
        notes.append(
            f"{', '.join(labels)}: left out, since {files[place].source} gives none (all its rewards or variances are "
            "the same, or it has no embeddings) and other seeds do."
        )
    families = strength_families([others.families for _, others in of_seeds], scales, resamples)
    if ends := [one.key for one in families if one.key.endswith(_PENALTIES) and one.chosen and one.chosen[-1] >= 0.5]:
        notes.append(
            f"{', '.join(ends)}: calibration prompts choose the strongest that was tried most often, and a stronger "
            "one may be better than what is shown as tuned."
        )
    judged = bool(scales) and pool.only is not None and pool.only.variance is not None
    measured = reliability(pool, resamples.of_one_seed(), num_pairs=num_pairs, seed=seed) if judged else ()
    if measured and not measured[0].exact_contrast:
        notes.append(INDEPENDENT_NOTE)
    trade_off = None
    if len(pool.by_name) > 1:
        names = first.everything.names[0], first.everything.names[1]
        trade_off = plane(first.everything, {one.key: one.fitted for one in first.utilities}, names, seed=seed)
        if trade_off is None:
            notes.append(f"No response has both {names[0]} and {names[1]}, so they are not shown against each other.")
    return BestOfNStudy(
        n_values=grid,
        one_policy=pool.one_policy,
        gold_scales=scales,
        curves=tuple(found),
        reliability=measured,
        disagreements=disagreements(
            pool,
            {one.key: picks[one.key] for one in first.utilities},
            num_examples=num_examples,
            max_characters=max_characters,
        ),
        hacked=hacked(pool, picks, drawn, num_examples=num_examples, max_characters=max_characters) if scales else (),
        families=families,
        laws=laws([one for one in drawn if one.kind != "control"], roundings, grid, resamples),
        verdicts=verdicts,
        trade_off=trade_off,
        counts=pool.counts,
        rewards={name: _scale(one, pool.group) for name, one in pool.by_name.items()},
        settings=StudySettings(
            confidence_level=confidence_level,
            num_bootstrap=num_bootstrap,
            num_shuffles=num_shuffles and num_shuffles_for(len(pool.group), num_shuffles),
            num_calibration_prompts=num_choosing(pool.num_prompts, num_calibration_prompts)
            if baselines and scales
            else 0,
            num_resamples=num_resamples_for(len(pool.group), num_resamples),
            num_seeds=len(files),
            seed=seed,
        ),
        notes=tuple(notes),
    )


def _check_numbers(given: Mapping[str, tuple[int, int]]) -> None:
    """Refuse numbers below the smallest that they may be."""
    for name, (number, least) in given.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")


def _files(scored: "Scored | Sequence[Scored]") -> list[ScoredPool]:
    """What was given, as one file a seed."""
    if not isinstance(scored, Sequence):
        return [scored if isinstance(scored, ScoredPool) else ScoredPool(scored)]
    if not scored:
        raise ValueError("there is nothing to study; give a scored table, or one for each seed")
    return [
        one if isinstance(one, ScoredPool) else ScoredPool(one, f"table {place} of {len(scored)}")
        for place, one in enumerate(scored, 1)
    ]


def _shared_scales(seeds: Sequence[Seed]) -> tuple[str, ...]:
    """The scales of gold that all files have: the one without length needs lengths."""
    return tuple(scale for scale in seeds[0].pool.scales if all(scale in one.pool.scales for one in seeds))


def _num_drawn(seeds: Sequence[Seed], grid: tuple[int, ...], baselines: bool, num_resamples: int) -> int:
    """Steps of everything that is drawn: subsets by utilities, prompts by strategies."""
    depending = sum(one.fitted.depends_on_pool for seed in seeds for one in seed.utilities)
    return depending * len(grid) * num_resamples + baselines * sum(one.pool.num_prompts for one in seeds)


def _scale(reward: StudiedReward, group: Tensor) -> RewardScale:
    return RewardScale(
        spread_of_means=spread_within(reward.mean, group),
        median_std=_median_std(reward.variance),
        median_centered_std=_median_std(reward.centered_variance),
        ensemble=reward.ensemble,
    )


def _median_std(variance: Tensor | None) -> float | None:
    return None if variance is None else float(variance.clamp(min=0).sqrt().nanmedian())
