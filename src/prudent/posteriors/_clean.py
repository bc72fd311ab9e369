"""`clean`: which labels of a preference set are likely flipped, and what is done about them (arXiv 2401.06080)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from datasets import Dataset
from torch import Tensor

from prudent.data import DataSource, Preferences, load_preferences, read_rows
from prudent.errors import DataError, PosteriorError, UnsupportedError
from prudent.models import Pooling, RewardModel, progress_bar
from prudent.posteriors._clean_flips import FlipModel, fit_flips
from prudent.posteriors._clean_judge import Judge, load_judge
from prudent.posteriors._clean_output import check_output, swapped, write_preferences
from prudent.posteriors._clean_strength import (
    PairStrength,
    cross_fitted_strength,
    folds_by_prompt,
    prompt_ids,
    strength_of_scorer,
)
from prudent.posteriors._clean_treatments import Treated, Treatment, check_groups, suspects, treat
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._heads_fit import check_num_members
from prudent.posteriors._pair_texts import PairTexts

__all__ = ["CleanSummary", "clean"]

_GROUPS = ("source", "subset")
_MIN_LOG_LIKELIHOOD_RATIO = 2.996  # the 95 % point of chi-square with two degrees of freedom, halved
_WIDE_INTERVAL = 0.3
_NUM_FOLDS, _NUM_MEMBERS = 5, 10


@dataclass(frozen=True)
class CleanSummary:
    """What `clean` found and did.

    Attributes:
        output: the file written.
        treatment: by name.
        cross_fitted: strengths are of heads that had not seen the pair's prompt; else of the model as it is.
        num_members: M behind each strength; 0 for a single model.
        num_pairs: pairs judged.
        num_skipped: rows left out as faulty.
        num_truncated: texts whose response was cut.
        num_suspect: pairs that count as flipped.
        changes: number of pairs by what was done to them.
        agreement: share of pairs of positive mean strength, which are ranked as labelled; ties count one half.
        flip_rate: of highest likelihood; see `FlipModel`.
        flip_rate_low: lower end of its 95 % interval.
        flip_rate_high: upper end.
        strength_scale: what a strength is multiplied by to be a logit.
        strength_deciles: minimum, nine deciles and maximum of the mean strength.
        groups: for each of the columns `source` and `subset` that there is, by its value: `num_pairs`, `num_suspect`
            and `agreement`.
        notes: what a user should know, a sentence each.
    """

    output: Path
    treatment: Treatment
    cross_fitted: bool
    num_members: int
    num_pairs: int
    num_skipped: int
    num_truncated: int
    num_suspect: int
    changes: dict[str, int]
    agreement: float
    flip_rate: float
    flip_rate_low: float
    flip_rate_high: float
    strength_scale: float
    strength_deciles: tuple[float, ...]
    groups: dict[str, dict[str, dict[str, float]]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "output": str(self.output)}


def clean(
    data: DataSource,
    output: str | Path,
    *,
    model: str | Path | RewardModel | EnsembleScorer,
    cross_fit: bool | None = None,
    treatment: Treatment = "mark",
    threshold: float = 0.5,
    bottom_share: float | None = None,
    num_folds: int = _NUM_FOLDS,
    num_members: int = _NUM_MEMBERS,
    pooling: Pooling | None = None,
    split: str = "train",
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
    tokens_per_batch: int | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> CleanSummary:
    """Find the labels of a preference set that are likely flipped, and write the set with something done about them.

    How strongly an ensemble prefers the chosen response of a pair is its strength. From the strengths follow the flip
    rate of the set and the probability that each label is flipped (see `fit_flips`).

    All rows are written as they were, with all their columns, and with `strength_mean`, `strength_std` (population,
    null where not known), `prob_flipped`, and `changed`: `kept`, `flipped`, `softened` or `margin`. In a row that was
    flipped, `chosen` and `rejected` have changed places, and with them any columns named in such pairs, as
    `score_chosen` and `score_rejected`; changing them back undoes it. Labels and margins that were replaced stay in
    `original_p_chosen` and `original_margin`.

    Args:
        data: preferences in any form that `prudent.data.load_preferences` takes.
        output: file to write, `.jsonl` or `.parquet`.
        model: a base or reward model, whose frozen features heads are trained on; or a reward model, with or without
            posterior, or an ensemble of such, that judges as it is.
        cross_fit: train heads on the model's features, so that no pair is judged by heads that saw its prompt. By
            default unless the model is an ensemble or has a posterior. A model that judges as it is must not have
            learned from these pairs, or it has learned the flips as well.
        treatment: `flip`, `drop`, `soft` or `margin`, see `treat`; by default `mark` leaves the labels as they are. On
            real preferences, where strengths are weak, flipping and dropping did harm (`experiments/LOG.md`).
        threshold: labels that are flipped with a higher probability are suspect, and are flipped or dropped.
        bottom_share: instead, this share of the pairs is, those of lowest strength.
        num_folds: parts of the prompts, each judged by heads that saw the others.
        num_members: heads trained on each.
        pooling: what heads read; by default the mean over tokens for a base model, else what the model's head reads.
        split: the split of data that have several.
        max_length: tokens a text may have.
        dtype: of the model's weights, as in `RewardModel.from_pretrained`.
        tokens_per_batch: padded tokens of a batch.
        strict: an over-long text is an error.
        skip_bad: leave faulty rows out instead of stopping.
        overwrite: replace an output that is there.
        seed: of the folds and heads.
        progress: show a bar.

    Raises:
        DataError: faulty preferences; preferences that were cleaned already; no prompts, or fewer than folds; most
            labels, or most of a source or subset, or all of a prompt, count as flipped.
        ModelError: the model cannot be loaded, or judges with a head that was never trained.
        PosteriorError: rewards or features that are not finite, or strengths that tell nothing of the labels.
        PrudentError: an output that cannot be written.
        UnsupportedError: an ensemble is to be cross-fitted, or options of heads are given where none are trained.

    Example:
        >>> summary = clean("pairs.jsonl", "cleaned.jsonl", model="org/base-model", treatment="flip")  # doctest: +SKIP
        >>> summary.changes  # doctest: +SKIP
        {'kept': 1712, 'flipped': 288}
    """
    if treatment not in get_args(Treatment):
        raise ValueError(f"treatment is {treatment!r}; one of {', '.join(get_args(Treatment))}")
    suspects(torch.zeros(0), torch.zeros(0), threshold=threshold, bottom_share=bottom_share)
    path = check_output(output, data, overwrite=overwrite)
    preferences = load_preferences(data, split=split, on_bad="skip" if skip_bad else "error")
    rows = preferences.rows
    assert isinstance(rows, Dataset)  # it was not streamed
    if len(rows) < 2:
        raise DataError(f"{preferences.summary.source}: cleaning compares pairs with each other, and there is but one")
    _refuse_cleaned(preferences, read_rows(data, split=split))
    judge = load_judge(model, cross_fit=cross_fit, pooling=pooling, max_length=max_length, dtype=dtype, seed=seed)
    if not judge.cross_fit and (num_folds, num_members, pooling) != (_NUM_FOLDS, _NUM_MEMBERS, None):
        raise UnsupportedError(
            "num_folds, num_members and pooling are for heads that are trained, and this model judges as it is; leave "
            "them out, or ask for cross_fit"
        )
    prompt = prompt_ids(rows["prompt"], rows["row"]) if judge.cross_fit else None
    if prompt is not None:
        check_num_members(num_members)
        folds_by_prompt(prompt, num_folds)
    with progress_bar("Judging pairs", len(rows), unit="pairs", enabled=progress) as advance:
        pairs = judge.scorer.encode_pairs(rows, strict=strict)
        if prompt is None:
            strength = strength_of_scorer(judge.scorer, pairs, tokens_per_batch=tokens_per_batch, advance=advance)
        else:
            assert isinstance(pairs, PairTexts)  # an ensemble is not cross-fitted
            features = judge.features(pairs, tokens_per_batch, advance)
            strength = cross_fitted_strength(
                features,
                pairs.chosen,
                pairs.rejected,
                prompt,
                label=pairs.label,
                margin=pairs.margin,
                num_folds=num_folds,
                num_members=num_members,
                seed=seed,
            )
    label, margin = (_column(rows, name, default) for name, default in (("p_chosen", 1.0), ("margin", 0.0)))
    flips, prob_flipped = _flips(preferences, strength, label)
    suspect = suspects(strength.mean, prob_flipped, threshold=threshold, bottom_share=bottom_share)
    groups = {name: list(rows[name]) for name in _GROUPS if name in rows.column_names}
    if treatment != "mark":
        _require_signal(preferences.summary.source, flips, strength)
        check_groups(suspect, {**groups, "prompt": _prompt_names(rows)})
    treated = treat(treatment, suspect, strength.mean, prob_flipped, label, margin)
    write_preferences(
        _output_rows(read_rows(data, split=split), rows["row"], treatment, treated, strength, prob_flipped), path
    )
    return CleanSummary(
        output=path,
        treatment=treatment,
        cross_fitted=judge.cross_fit,
        num_members=strength.num_members,
        num_pairs=len(rows),
        num_skipped=preferences.summary.num_skipped,
        num_truncated=pairs.num_truncated,
        num_suspect=int(suspect.sum()),
        changes=dict(Counter(treated.change)),
        agreement=_agreement(strength.mean),
        flip_rate=flips.flip_rate,
        flip_rate_low=flips.flip_rate_low,
        flip_rate_high=flips.flip_rate_high,
        strength_scale=flips.scale,
        strength_deciles=tuple(strength.mean.quantile(torch.linspace(0, 1, 11, dtype=torch.float64)).tolist()),
        groups={name: _group_figures(names, suspect, strength.mean) for name, names in groups.items()},
        notes=tuple(_notes(judge, flips, strength)),
    )


def _flips(preferences: Preferences, strength: PairStrength, label: Tensor) -> tuple[FlipModel, Tensor]:
    if not bool((strength.mean != 0).any()):
        raise PosteriorError(
            f"{preferences.summary.source}: chosen and rejected have equal rewards in every pair; the model does not "
            "tell them apart"
        )
    flips = fit_flips(strength.mean, strength.std, label)
    return flips, flips.prob_flipped(strength.mean, strength.std, label)


def _column(rows: Dataset, name: str, default: float) -> Tensor:
    values = rows[name] if name in rows.column_names else [default] * len(rows)
    return torch.tensor(values, dtype=torch.float64)


def _prompt_names(rows: Dataset) -> list[str | None]:
    """Each prompt as a name for messages; None where there is none."""
    return [" ".join(message["content"] for message in prompt) or None for prompt in rows["prompt"]]


def _agreement(mean: Tensor) -> float:
    return float((mean > 0).double().mean() + 0.5 * (mean == 0).double().mean())


def _refuse_cleaned(preferences: Preferences, rows: Iterator[tuple[int, dict[str, Any]]]) -> None:
    """A label turned round twice could not be turned back."""
    for number, row in rows:
        if row.get("changed", "kept") != "kept" and "prob_flipped" in row:
            raise DataError(
                f"{preferences.summary.source}: row {number} was {row['changed']} by an earlier cleaning; clean the "
                "preferences as they were before"
            )


def _require_signal(source: str, flips: FlipModel, strength: PairStrength) -> None:
    if flips.log_likelihood_ratio < _MIN_LOG_LIKELIHOOD_RATIO:
        raise PosteriorError(
            f"{source}: the strengths tell nothing of the labels ({_agreement(strength.mean):.0%} of"
            f" {len(strength.mean):,} pairs are ranked as labelled), so they cannot say which are flipped; give more"
            " pairs or a better model, or look at the strengths alone with the treatment mark"
        )


def _output_rows(
    rows: Iterator[tuple[int, dict[str, Any]]],
    numbers: Sequence[int],
    treatment: Treatment,
    treated: Treated,
    strength: PairStrength,
    prob_flipped: Tensor,
) -> Iterator[dict[str, Any]]:
    """The rows that were judged and are kept, in their order, with their new columns."""
    places = {number: place for place, number in enumerate(numbers)}
    std = [None] * len(numbers) if strength.std is None else strength.std.tolist()
    mean, probability, label, margin = (
        values.tolist() for values in (strength.mean, prob_flipped, treated.label, treated.margin)
    )
    for number, row in rows:
        place = places.get(number)
        if place is None or treated.change[place] == "dropped":
            continue
        written = swapped(row) if treated.change[place] == "flipped" else dict(row)
        if treatment == "soft":
            written |= {"original_p_chosen": row.get("p_chosen"), "p_chosen": label[place]}
        elif treatment == "margin":
            written |= {"original_margin": row.get("margin"), "margin": margin[place]}
        written |= {"strength_mean": mean[place], "strength_std": std[place], "prob_flipped": probability[place]}
        yield {**written, "changed": treated.change[place]}


def _group_figures(names: Sequence[str | None], suspect: Tensor, mean: Tensor) -> dict[str, dict[str, float]]:
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name is not None:
            found.setdefault(name, []).append(place)
    return {
        name: {
            "num_pairs": len(places),
            "num_suspect": int(suspect[places].sum()),
            "agreement": _agreement(mean[places]),
        }
        for name, places in sorted(found.items())
    }


def _notes(judge: Judge, flips: FlipModel, strength: PairStrength) -> Iterator[str]:
    if not judge.cross_fit:
        yield (
            "the model judged as it is: if it learned from these pairs it has learned the flips as well, and fewer are "
            "found than there are"
        )
    elif judge.is_trained:
        yield (
            "heads had not seen the prompts they judged, but if the model below them was trained on these pairs its "
            "features remember the labels, and fewer flips are found than there are"
        )
    if flips.log_likelihood_ratio < _MIN_LOG_LIKELIHOOD_RATIO:
        yield "the strengths tell nothing of the labels, so neither do the probabilities of flips"
    elif flips.flip_rate_high - flips.flip_rate_low > _WIDE_INTERVAL:
        yield (
            f"the flip rate may be anything from {flips.flip_rate_low:.0%} to {flips.flip_rate_high:.0%}: strengths are"
            " too weak to tell flips from close calls, and soft labels are safer than flipped or dropped ones"
        )
    if flips.flip_rate > 0.5 and flips.log_likelihood_ratio >= _MIN_LOG_LIKELIHOOD_RATIO:
        share = f"{_agreement(strength.mean):.0%}"
        yield f"only {share} of the labels agree with the strengths; do chosen and rejected stand the right way round?"
