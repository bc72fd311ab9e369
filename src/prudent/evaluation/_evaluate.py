"""`evaluate`: how well a reward model and its posterior predict preferences that they have not seen."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prudent.data import choose_split, load_preferences, prompt_groups
from prudent.errors import DataError, PosteriorError
from prudent.evaluation._evaluation_types import Evaluation, ShiftFigures
from prudent.evaluation._gold_figures import check_gold, gold_figures
from prudent.evaluation._pair_figures import (
    accuracy_figure,
    bound_figures,
    nll_difference,
    pair_figures,
    selective_figures,
    shift_auroc,
)
from prudent.metrics import fit_logit_temperature, pair_scores
from prudent.metrics import reliability as reliability_table
from prudent.models import RewardModel, atomic_file, progress_bar
from prudent.posteriors import Contrasts, EnsembleScorer, Posterior, Scorer, load_scorer, saved_calibration
from prudent.scoring import ScoredPool, read_scored, require_apart

__all__ = ["evaluate"]

_PAIRS_PER_CHUNK = 2048


@dataclass(frozen=True)
class _Pairs:
    """Preferences as they were read."""

    source: str
    split: str | None
    num_skipped: int
    rows: Any
    label: Tensor
    """`[M]` float64, probability that the chosen one is preferred."""
    group: Tensor
    """`[M]` int64, prompt of each pair, from 0."""

    @property
    def num_prompts(self) -> int:
        return int(self.group.max()) + 1


def evaluate(
    model: str | Path | RewardModel | EnsembleScorer,
    data: Any,
    output: str | Path | None = None,
    *,
    split: str | None = None,
    posterior: Posterior | None = None,
    shift_data: Any = None,
    scored: str | Path | ScoredPool | None = None,
    logit_temperature: float | None = None,
    num_bootstrap: int = 1000,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
    tokens_per_batch: int | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Predict held-out preferences by the mean and by the whole posterior, with intervals over prompts.

    The variance is the exact one of each pair's difference. A soft label `p_chosen` counts as its share of wins; a
    `margin` is a matter of training and does not enter. Beside the figures of all pairs stand those of the pairs that
    the model is sure of (risk and coverage), whether the posterior knows less of pairs from elsewhere (`shift_data`),
    and whether the gold of a scored pool lies where the posterior says (`scored`).

    Args:
        model: a loaded model or ensemble, a folder, or a hub name; a posterior beside the model is used.
        data: preferences in any form that `prudent.data.load_preferences` takes.
        output: JSON file for the result.
        split: the split of data that have several; by default `test`, without one the validation split, or the only
            split there is.
        posterior: instead of the one beside the model; needed for a loaded model.
        shift_data: preferences from elsewhere, in any such form and by the same default of the split, for the AUROC of
            the standard deviation of a pair's difference between them and `data`.
        scored: what `prudent.scoring.score` made of a pool with gold by this model and posterior.
        logit_temperature: the temperature, fitted on other pairs (the `optimal_logit_temperature` of an evaluation of
            them), for figures of the temperature-scaled mean; by default the one that `prudent.posteriors.fit` saved
            from its held-out pairs beside the model, if there is one.
        num_bootstrap: resamples of the prompts.
        max_length: tokens a text may have.
        dtype: of the weights while reading, by default float32 on CPU and the checkpoint's own elsewhere; `bfloat16`
            halves the time or more, at about half a percent of a variance.
        tokens_per_batch: padded tokens of a batch.
        strict: an over-long text is an error.
        skip_bad: leave faulty rows out instead of stopping.
        seed: of the resampling, and of the halves of prompts that intervals for gold are fitted and tested on.
        progress: show a bar.

    Returns:
        The figures, see `Evaluation`; `to_dict` gives what `output` holds.

    Raises:
        DataError: the preferences are faulty, or have several splits and none of them is held out; or the scored pool
            has no gold, no variances, several rewards or too few prompts, or was scored by another posterior.
        PrudentError: `output` is what is read, or is a scored dataset or lies in one.
        ModelError: the model cannot be loaded or its head was never trained.
        PosteriorError: the posterior does not belong to the model, a reward or its gradient is not finite, or
            `shift_data` comes with a model that has no posterior.
        ValueError: `logit_temperature` is not a positive number.

    Example:
        >>> evaluate("rm-posterior", "heldout.jsonl", shift_data="elsewhere.jsonl").shift.auroc  # doctest: +SKIP
        Figure(value=0.71, low=0.68, high=0.74)
    """
    if logit_temperature is not None and not 0 < logit_temperature < math.inf:
        raise ValueError(f"logit_temperature must be a positive number, got {logit_temperature}")
    if output is not None:
        require_apart(output, [data, shift_data, scored])
    pairs = _read_pairs(data, split, skip_bad)
    elsewhere = None if shift_data is None else _read_pairs(shift_data, None, skip_bad)
    pool = None
    if scored is not None:
        pool = (scored if isinstance(scored, ScoredPool) else read_scored(scored)).reward()
        check_gold(pool)
    if logit_temperature is None and posterior is None and isinstance(model, str | Path):
        logit_temperature = saved_calibration(model).get("logit_temperature")
    scorer = load_scorer(model, posterior, max_length=max_length, dtype=dtype)
    if pool is not None and pool.basis_id is not None and pool.basis_id != scorer.basis_id:
        raise DataError(
            f"{pool.source} was scored by another posterior than this model's; score it again with this one"
        )
    if elsewhere is not None and not scorer.has_variance:
        raise PosteriorError(
            "shift is measured by the variance of pairs, and the model has no posterior; fit one (prudent fit), or "
            "leave out shift_data (--shift-data)"
        )
    contrasts, num_truncated = _contrasts(scorer, pairs, tokens_per_batch, strict, progress)
    mean, variance = contrasts.mean, contrasts.variance
    # A preference is as uncertain as the rewards are: what is not known of them, and what is noise in them.
    known = variance + contrasts.noise if scorer.has_variance else None
    label, group = pairs.label, pairs.group
    selective_map, selective_moderated, area_difference = selective_figures(
        mean, known, label, group, num_bootstrap, seed
    )
    scaled = None if logit_temperature is None else mean / logit_temperature
    shift = None
    if elsewhere is not None:
        there, cut = _contrasts(scorer, elsewhere, tokens_per_batch, strict, progress)
        shift = _shift(elsewhere, there.mean, there.variance, cut, variance, group, num_bootstrap, seed)
    result = Evaluation(
        data=pairs.source,
        split=pairs.split,
        posterior=scorer.kind,
        num_pairs=len(mean),
        num_prompts=pairs.num_prompts,
        num_skipped=pairs.num_skipped,
        num_truncated=num_truncated,
        accuracy=accuracy_figure(mean, label, group, num_bootstrap, seed),
        map=pair_figures(mean, None, label, group, num_bootstrap, seed),
        scaled=None if scaled is None else pair_figures(scaled, None, label, group, num_bootstrap, seed),
        moderated=None if known is None else pair_figures(mean, known, label, group, num_bootstrap, seed),
        logit_temperature=logit_temperature,
        optimal_logit_temperature=fit_logit_temperature(mean, label),
        reliability=tuple(reliability_table(pair_scores(mean, known, label).probability, label)),
        mean_contrast_std=None if known is None else float(variance.sqrt().mean()),
        selective_map=selective_map,
        selective_moderated=selective_moderated,
        nll_difference=None if known is None else nll_difference(mean, known, label, group, num_bootstrap, seed),
        area_difference=area_difference,
        bounds=None if known is None else bound_figures(mean, variance, label, group, num_bootstrap, seed),
        shift=shift,
        gold=None if pool is None else gold_figures(pool, num_bootstrap=num_bootstrap, seed=seed),
    )
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


def _read_pairs(data: Any, split: str | None, skip_bad: bool) -> _Pairs:
    split = choose_split(data, split, held_out=True)
    preferences = load_preferences(data, split=split or "train", on_bad="skip" if skip_bad else "error")
    rows = preferences.rows
    if len(rows) == 0:
        raise DataError(f"{preferences.summary.source} has no pairs to evaluate on")
    soft = torch.tensor(rows["p_chosen"]) if "p_chosen" in rows.column_names else torch.ones(len(rows))
    group = torch.tensor(prompt_groups(rows["prompt"]))
    return _Pairs(preferences.summary.source, split, preferences.summary.num_skipped, rows, soft.double(), group)


def _shift(
    pairs: _Pairs,
    mean: Tensor,
    variance: Tensor,
    num_truncated: int,
    usual: Tensor,
    usual_group: Tensor,
    num_bootstrap: int,
    seed: int,
) -> ShiftFigures:
    """Figures of pairs from elsewhere, whose variance is compared with the usual one `[M]`."""
    return ShiftFigures(
        data=pairs.source,
        split=pairs.split,
        num_pairs=len(mean),
        num_prompts=pairs.num_prompts,
        num_skipped=pairs.num_skipped,
        num_truncated=num_truncated,
        accuracy=accuracy_figure(mean, pairs.label, pairs.group, num_bootstrap, seed),
        mean_contrast_std=float(variance.sqrt().mean()),
        auroc=shift_auroc(usual, usual_group, variance, pairs.group, num_bootstrap, seed),
    )


def _contrasts(
    scorer: Scorer, pairs: _Pairs, tokens_per_batch: int | None, strict: bool, progress: bool
) -> tuple[Contrasts, int]:
    """What is known of r(chosen) - r(rejected), and how many responses were cut."""
    found: list[Contrasts] = []
    num_truncated = 0
    with progress_bar("Evaluating", len(pairs.rows), unit="pairs", enabled=progress) as advance:
        for start in range(0, len(pairs.rows), _PAIRS_PER_CHUNK):
            rows = pairs.rows.select(range(start, min(start + _PAIRS_PER_CHUNK, len(pairs.rows))))
            try:
                texts = scorer.encode_pairs(rows, strict=strict)
                found.append(scorer.contrasts(texts, tokens_per_batch=tokens_per_batch, advance=advance))
            except (DataError, PosteriorError) as error:
                raise type(error)(f"{pairs.source}: {error}") from error
            num_truncated += texts.num_truncated
    joined = (torch.cat([getattr(one, name) for one in found]) for name in ("mean", "variance", "noise"))
    return Contrasts(*joined), num_truncated
