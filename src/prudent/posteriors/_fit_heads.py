"""Fitting M heads to a loaded model: its texts are read once, then all is a matter of features."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args

import torch
from torch import Tensor

from prudent.errors import PosteriorError, UnsupportedError
from prudent.models import EncodedTexts, Pooling, RewardModel, progress_bar
from prudent.posteriors._fit_kinds import Fitted, HeldOut
from prudent.posteriors._heads import Diversity, HeadArchitecture, HeadsPosterior
from prudent.posteriors._heads_fit import check_num_members, fit_heads, fit_quantile_heads
from prudent.posteriors._heads_losses import HeadsKind
from prudent.posteriors._held_out import PRIOR_SCALES, HeldOutFigures, held_out_figures
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._scored_texts import ScoredTexts

__all__ = ["check_heads_options", "fit_head_kind"]


def check_heads_options(kind: HeadsKind, architecture: str, diversity: str, num_members: int, *, chosen: bool) -> None:
    """Refuse options before anything is read.

    Args:
        kind: of heads.
        architecture: of a head.
        diversity: how the prior keeps heads apart.
        num_members: M.
        chosen: held-out pairs are to choose the prior precision.

    Raises:
        PosteriorError: fewer than two members.
        UnsupportedError: held-out pairs cannot choose the prior precision of these heads.
        ValueError: there is no such architecture or diversity.
    """
    check_num_members(num_members)
    for name, given, words in (
        ("architecture", architecture, get_args(HeadArchitecture)),
        ("diversity", diversity, get_args(Diversity)),
    ):
        if given not in words:
            raise ValueError(f"{name} is {given!r}; one of {', '.join(words)}")
    if chosen and (architecture == "mlp" or kind == "quantile"):
        raise UnsupportedError(
            f"held-out pairs do not choose the prior precision of {architecture} {kind} heads; give a number, or take "
            "that of highest evidence"
        )


def fit_head_kind(
    model: RewardModel,
    texts: PairTexts | ScoredTexts,
    held_out: HeldOut | None,
    kind: HeadsKind,
    *,
    num_members: int,
    architecture: HeadArchitecture,
    bootstrap: bool,
    diversity: Diversity,
    pooling: Pooling,
    prior_precision: float | None,
    seed: int,
    tokens_per_batch: int | None,
    progress: bool,
) -> Fitted:
    """M heads; where their average is a linear head on what the model's own head reads, that becomes the model's."""

    def read(encoded: EncodedTexts, title: str) -> Tensor:
        with progress_bar(title, len(encoded), unit="texts", enabled=progress) as advance:
            return model.features(encoded, pooling=pooling, tokens_per_batch=tokens_per_batch, advance=advance)[0]

    if isinstance(texts, ScoredTexts):
        better, worse = texts.ordered_pairs(seed)
        if len(better) == 0:
            raise PosteriorError("no prompt has two responses with different scores; there is nothing to rank")
        better, worse = texts.place[better], texts.place[worse]
    else:
        better, worse = texts.chosen, texts.rejected
        if kind == "classification" and bool((texts.margin != 0).any()):
            row = texts.rows[int((texts.margin != 0).nonzero()[0])]
            raise UnsupportedError(
                f"classification heads know no margin, and the pair in row {row} has one; take heads"
            )
    features = read(texts.encoded, "Reading texts")
    if isinstance(texts, ScoredTexts):
        texts.require_finite(torch.where(features.isfinite().all(1), 0.0, torch.nan)[texts.place], "feature")
    else:
        texts.require_finite_features(features)
    options: dict[str, Any] = {
        "num_members": num_members,
        "architecture": architecture,
        "bootstrap": bootstrap,
        "diversity": diversity,
        "pooling": pooling,
        "seed": seed,
        "group": texts.group,
    }

    def refit(precision: float | None) -> HeadsPosterior:
        if isinstance(texts, ScoredTexts):
            return fit_quantile_heads(features[texts.place], texts.scores, prior_precision=precision, **options)
        return fit_heads(
            features[texts.chosen],
            features[texts.rejected],
            kind=kind,
            label=texts.label,
            margin=texts.margin,
            prior_precision=precision,
            **options,
        )

    fitted = refit(prior_precision)
    figures = None
    if held_out is not None:
        pairs = held_out.pairs
        found = read(pairs.encoded, "Reading held-out pairs")
        pairs.require_finite_features(found)
        if kind == "quantile":
            # Pairs that give no scale must not cost the fit: a note says that rewards stayed as they were.
            with suppress(PosteriorError):
                fitted = fitted.with_logit_scale_for(found, pairs.chosen, pairs.rejected, pairs.label)
        figures = _figures(refit, fitted, found, held_out)
        if held_out.choose_prior:
            assert figures.prior_precision_scale is not None
            fitted = refit(fitted.prior_precision * figures.prior_precision_scale)
    if fitted.has_model_head:
        model.set_head(*fitted.mean_head)
        # What is saved is rounded to the head's dtype; the average of the members is what the model then computes.
        weight, bias = model.head_values()
        fitted = fitted.with_mean_head(weight, bias or 0.0)
    return Fitted(fitted, fitted.contrasts_of(features, better, worse).mean, figures)


def _figures(
    refit: Callable[[float], HeadsPosterior], fitted: HeadsPosterior, features: Tensor, held_out: HeldOut
) -> HeldOutFigures:
    """Under each of the prior precisions only where the pairs are to choose one: each takes a fit of its own."""
    pairs = held_out.pairs
    means, variances = [], []
    for scale in PRIOR_SCALES if held_out.choose_prior else (1.0,):
        posterior = fitted if scale == 1.0 else refit(scale * fitted.prior_precision)
        contrasts = posterior.contrasts_of(features, pairs.chosen, pairs.rejected)
        means.append(contrasts.mean)
        variances.append(contrasts.variance + contrasts.noise)
    return held_out_figures(
        held_out.data, torch.stack(means, 1), torch.stack(variances, 1), pairs.label, scaled=held_out.choose_prior
    )
