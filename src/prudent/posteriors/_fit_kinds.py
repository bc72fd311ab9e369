"""Laplace's ways of fitting a loaded model to its pairs: a last layer on features, or LoRA weights."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from prudent.models import Pooling, RewardModel, progress_bar
from prudent.posteriors._heads import HeadsPosterior
from prudent.posteriors._held_out import PRIOR_SCALES, HeldOutFigures, held_out_figures, last_layer_contrasts
from prudent.posteriors._last_layer import HeadChoice, LastLayerPosterior
from prudent.posteriors._lora_contrasts import lora_contrasts
from prudent.posteriors._lora_fit import fit_lora_laplace, pairs_read, scale_prior
from prudent.posteriors._lora_laplace import LoraLaplacePosterior, Structure
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._resume import SumsCheckpoint

__all__ = ["Fitted", "HeldOut", "fit_last_layer", "fit_lora"]


@dataclass(frozen=True)
class HeldOut:
    """Held-out pairs, what to call them, and whether they choose the prior precision."""

    pairs: PairTexts
    data: str
    choose_prior: bool


@dataclass(frozen=True)
class Fitted:
    """A posterior, the reward differences `[M]` of the pairs fitted on, and figures on held-out pairs."""

    posterior: LastLayerPosterior | LoraLaplacePosterior | HeadsPosterior
    contrast: Tensor
    held_out: HeldOutFigures | None


def fit_last_layer(
    model: RewardModel,
    pairs: PairTexts,
    held_out: HeldOut | None,
    *,
    pooling: Pooling,
    head: HeadChoice,
    standardize: bool,
    prior_precision: float | None,
    posterior_temperature: float,
    tokens_per_batch: int | None,
    progress: bool,
) -> Fitted:
    """A Bayesian head; where it is refitted, the model's own becomes its mode."""

    def features(texts: PairTexts, title: str) -> tuple[Tensor, Tensor]:
        with progress_bar(title, len(texts.encoded), unit="texts", enabled=progress) as advance:
            found, _ = model.features(
                texts.encoded, pooling=pooling, tokens_per_batch=tokens_per_batch, advance=advance
            )
        texts.require_finite_features(found)
        return found[texts.chosen], found[texts.rejected]

    chosen, rejected = features(pairs, "Reading pairs")
    head_weight, head_bias = model.head_values()
    options: dict[str, Any] = {
        "label": pairs.label,
        "margin": pairs.margin,
        "pooling": pooling,
        "head": head,
        "head_weight": head_weight,
        "head_bias": head_bias,
        "standardize": standardize,
        "posterior_temperature": posterior_temperature,
    }

    def refit(precision: float | None) -> LastLayerPosterior:
        return LastLayerPosterior.fit(chosen, rejected, prior_precision=precision, **options)

    fitted = refit(prior_precision)
    figures = None
    if held_out is not None:
        first, second = features(held_out.pairs, "Reading held-out pairs")
        contrasts = last_layer_contrasts(refit, fitted, first - second)
        figures = _figures(held_out, contrasts)
        if held_out.choose_prior:
            assert figures.prior_precision_scale is not None
            fitted = refit(fitted.prior_precision * figures.prior_precision_scale)
    if head == "refit" and pooling == "head":
        model.set_head(fitted.weight, fitted.bias)
        # What is saved is rounded to the head's dtype; the posterior's mean is what the model then computes.
        head_weight, head_bias = model.head_values()
        fitted = replace(fitted, weight=head_weight, bias=head_bias or 0.0)
    return Fitted(fitted, (chosen - rejected) @ fitted.weight, figures)


def fit_lora(
    model: RewardModel,
    pairs: PairTexts,
    held_out: HeldOut | None,
    structure: Structure,
    *,
    per_layer: bool,
    max_rank: int,
    prior_precision: float | None,
    posterior_temperature: float,
    center_rewards_coefficient: float,
    seed: int,
    checkpoint: SumsCheckpoint | None,
    tokens_per_batch: int | None,
    progress: bool,
) -> Fitted:
    """A Laplace posterior around the weights as they are."""
    total = pairs_read(structure, len(pairs))
    with progress_bar("Reading pairs", total, unit="pairs", enabled=progress) as advance:
        fitted, contrast = fit_lora_laplace(
            model,
            pairs,
            structure,
            per_layer=per_layer,
            max_rank=max_rank,
            prior_precision=prior_precision,
            posterior_temperature=posterior_temperature,
            center_rewards_coefficient=center_rewards_coefficient,
            seed=seed,
            tokens_per_batch=tokens_per_batch,
            checkpoint=checkpoint,
            advance=advance,
        )
    figures = None
    if held_out is not None:
        with progress_bar("Reading held-out pairs", len(held_out.pairs), unit="pairs", enabled=progress) as advance:
            mean, variance = lora_contrasts(
                fitted,
                model,
                held_out.pairs,
                prior_scales=PRIOR_SCALES,
                tokens_per_batch=tokens_per_batch,
                advance=advance,
            )
        figures = _figures(held_out, (mean.unsqueeze(1).expand_as(variance), variance))
        if held_out.choose_prior:
            assert figures.prior_precision_scale is not None
            fitted = scale_prior(fitted, model, figures.prior_precision_scale)
    return Fitted(fitted, contrast, figures)


def _figures(held_out: HeldOut, contrasts: tuple[Tensor, Tensor]) -> HeldOutFigures:
    return held_out_figures(held_out.data, *contrasts, held_out.pairs.label, scaled=held_out.choose_prior)
