"""`evaluate`: how well a reward model and its posterior predict preferences that they have not seen."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prudent.data import choose_split, load_preferences
from prudent.errors import DataError, ModelError
from prudent.metrics import ReliabilityBin, bootstrap, bootstrap_statistic, expected_calibration_error, pair_scores
from prudent.metrics import reliability as reliability_table
from prudent.models import EncodedTexts, RewardModel, atomic_file, progress_bar
from prudent.posteriors import Posterior, load_model_and_posterior

__all__ = ["Evaluation", "Figure", "PairFigures", "evaluate"]

_PAIRS_PER_CHUNK = 2048


@dataclass(frozen=True)
class Figure:
    """A figure over pairs with its interval from resampled prompts: percentiles, or 1.96 standard errors for the ECE.

    Attributes:
        value: over all pairs.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairFigures:
    """How well probabilities predict preferences.

    Attributes:
        nll: negative log-likelihood of a pair, nats.
        brier: squared error of the probability.
        ece: calibration error over ten bins of equally many pairs.
    """

    nll: Figure
    brier: Figure
    ece: Figure


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        data: what was evaluated on.
        split: the split of it; None where it has none.
        posterior: kind of the posterior, `none` without one.
        num_pairs: pairs.
        num_prompts: distinct prompts, the unit of resampling.
        num_skipped: faulty pairs left out.
        num_truncated: texts whose response was cut.
        accuracy: share of pairs ranked as labelled; the same with and without a posterior.
        map: figures of sigma(mean difference), which ignores the variance.
        moderated: figures of E sigma(difference) under the posterior; None without one.
        reliability: the reliability table of the best probabilities there are.
        mean_contrast_std: average posterior standard deviation of a pair's difference; None without a posterior.
    """

    data: str
    split: str | None
    posterior: str
    num_pairs: int
    num_prompts: int
    num_skipped: int
    num_truncated: int
    accuracy: Figure
    map: PairFigures
    moderated: PairFigures | None
    reliability: tuple[ReliabilityBin, ...]
    mean_contrast_std: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate(
    model: str | Path | RewardModel,
    data: Any,
    output: str | Path | None = None,
    *,
    split: str | None = None,
    posterior: Posterior | None = None,
    num_bootstrap: int = 1000,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Predict held-out preferences by the mean and by the whole posterior, with intervals over prompts.

    The variance is the exact one of each pair's difference. A soft label `p_chosen` counts as its share of wins; a
    `margin` is a matter of training and does not enter.

    Args:
        model: a loaded model, a folder, or a hub name; a posterior beside the model is used.
        data: preferences in any form that `prudent.data.load_preferences` takes.
        output: JSON file for the result.
        split: the split of data that have several; by default `test`, without one the validation split, or the only
            split there is.
        posterior: instead of the one beside the model; needed for a loaded model.
        num_bootstrap: resamples of the prompts.
        max_length: tokens a text may have.
        tokens_per_batch: padded tokens of a batch.
        strict: an over-long text is an error.
        skip_bad: leave faulty rows out instead of stopping.
        seed: of the resampling.
        progress: show a bar.

    Raises:
        DataError: the preferences are faulty, or have several splits and none of them is held out.
        ModelError: the model cannot be loaded, its head was never trained, or a reward is not finite.
        PosteriorError: the posterior does not belong to the model.
    """
    split = choose_split(data, split, held_out=True)
    preferences = load_preferences(data, split=split or "train", on_bad="skip" if skip_bad else "error")
    rows = preferences.rows
    if len(rows) == 0:
        raise DataError(f"{preferences.summary.source} has no pairs to evaluate on")
    loaded, posterior = load_model_and_posterior(model, posterior, max_length=max_length)
    mean, variance, num_truncated = _contrasts(loaded, posterior, rows, tokens_per_batch, strict, progress)
    label = (
        torch.tensor(rows["p_chosen"]).double() if "p_chosen" in rows.column_names else torch.ones(len(mean)).double()
    )
    prompts: dict[str, int] = {}
    group = torch.tensor([prompts.setdefault(json.dumps(prompt), len(prompts)) for prompt in rows["prompt"]])
    known = variance if posterior.has_variance else None
    scores = pair_scores(mean, known, label)
    result = Evaluation(
        data=preferences.summary.source,
        split=split,
        posterior=posterior.kind,
        num_pairs=len(mean),
        num_prompts=len(prompts),
        num_skipped=preferences.summary.num_skipped,
        num_truncated=num_truncated,
        accuracy=_figure(bootstrap(scores.accuracy, group, num_resamples=num_bootstrap, generator=_seeded(seed))),
        map=_figures(mean, None, label, group, num_bootstrap, seed),
        moderated=None if known is None else _figures(mean, known, label, group, num_bootstrap, seed),
        reliability=tuple(reliability_table(scores.probability, label)),
        mean_contrast_std=None if known is None else float(known.sqrt().mean()),
    )
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


def _contrasts(
    model: RewardModel, posterior: Posterior, rows: Any, tokens_per_batch: int | None, strict: bool, progress: bool
) -> tuple[Tensor, Tensor, int]:
    """Mean and exact variance `[M]` of r(chosen) - r(rejected), and how many responses were cut."""
    means: list[Tensor] = []
    variances: list[Tensor] = []
    num_truncated = 0
    with progress_bar("Evaluating", 2 * len(rows), unit="texts", enabled=progress) as advance:
        for start, encoded in _encoded_chunks(model, rows, strict):
            count = len(encoded) // 2
            # The rejected response is the whole reference set of its pair: the centred variance of the chosen one
            # then is that of their difference, exactly, for every kind of posterior.
            prediction = posterior.predict(
                model,
                encoded,
                group=torch.arange(count).repeat(2),
                reference_weight=torch.cat([torch.zeros(count), torch.ones(count)]),
                tokens_per_batch=tokens_per_batch,
                advance=advance,
            )
            mean = prediction.mean[:count] - prediction.mean[count:]
            if not bool(mean.isfinite().all()):
                row = start + int((~mean.isfinite()).nonzero()[0])
                raise ModelError(f"the reward of a response in pair {row} is not finite; load the model in float32")
            means.append(mean.double())
            variances.append(prediction.centered_variance[:count].double())
            num_truncated += int(encoded.truncated.sum())
    return torch.cat(means), torch.cat(variances), num_truncated


def _encoded_chunks(model: RewardModel, rows: Any, strict: bool) -> Iterator[tuple[int, EncodedTexts]]:
    for start in range(0, len(rows), _PAIRS_PER_CHUNK):
        chunk = rows[start : start + _PAIRS_PER_CHUNK]
        names = [f"row {row}, {side}" for side in ("chosen", "rejected") for row in chunk["row"]]
        texts = chunk["chosen"] + chunk["rejected"]
        yield start, model.encode(chunk["prompt"] * 2, texts, strict=strict, names=names)


def _figures(
    mean: Tensor, variance: Tensor | None, label: Tensor, group: Tensor, num_bootstrap: int, seed: int
) -> PairFigures:
    scores = pair_scores(mean, variance, label)
    both = torch.stack([scores.nll, scores.brier], dim=1)
    averages = bootstrap(both, group, num_resamples=num_bootstrap, generator=_seeded(seed))
    error = bootstrap_statistic(
        lambda rows: expected_calibration_error(scores.probability[rows], label[rows]),
        group,
        num_resamples=num_bootstrap,
        generator=_seeded(seed),
    )
    # Resampling pairs adds noise to every bin, so the percentiles of a calibration error lie above it; its interval is
    # symmetric, from the standard error.
    value, margin = float(error.estimate), 1.96 * float(error.standard_error)
    ece = Figure(value, max(0.0, value - margin), min(1.0, value + margin))
    return PairFigures(nll=_figure(averages, 0), brier=_figure(averages, 1), ece=ece)


def _figure(interval: Any, position: int | None = None) -> Figure:
    values = [interval.estimate, interval.low, interval.high]
    return Figure(*(float(value if position is None else value[position]) for value in values))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
