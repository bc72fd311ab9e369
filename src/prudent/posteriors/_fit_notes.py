"""What a user should know about a posterior that was just fitted."""

import math
from collections.abc import Iterator

from prudent.models import RewardModel
from prudent.posteriors._blocks import find_blocks, held_fixed
from prudent.posteriors._evidence import PRIOR_BOUNDS
from prudent.posteriors._heads import HeadsPosterior
from prudent.posteriors._held_out import PRIOR_SCALES, HeldOutFigures
from prudent.posteriors._last_layer import LastLayerPosterior
from prudent.posteriors._logistic import MAX_PRIOR_PRECISION
from prudent.posteriors._lora_laplace import LoraLaplacePosterior

__all__ = ["fit_notes"]

_FEW_PAIRS = 100


def fit_notes(
    posterior: LastLayerPosterior | LoraLaplacePosterior | HeadsPosterior,
    model: RewardModel,
    figures: HeldOutFigures | None,
    loss: str | None = None,
) -> Iterator[str]:
    """A sentence each.

    Args:
        posterior: fitted.
        model: that it was fitted to.
        figures: on held-out pairs, where there were any.
        loss: that the model was trained by, where it is known.
    """
    kept = isinstance(posterior, LoraLaplacePosterior) or getattr(posterior, "head", None) == "kept"
    if loss == "classification" and kept:
        yield (
            "the model was trained by classification, so its rewards are no logits of a preference, as which this "
            "posterior takes them; a last layer that is refitted makes them so"
        )
    if isinstance(posterior, LoraLaplacePosterior):
        yield from _lora_notes(posterior, model)
    else:
        yield from _feature_notes(posterior, model)
    if isinstance(posterior, HeadsPosterior):
        yield from _heads_notes(posterior, figures)
    if figures is not None:
        yield from _held_out_notes(figures)


def _feature_notes(posterior: LastLayerPosterior | HeadsPosterior, model: RewardModel) -> Iterator[str]:
    if posterior.prior_precision >= 0.5 * MAX_PRIOR_PRECISION:
        yield (
            "the evidence prefers the strongest prior considered: these pairs tell next to nothing about the reward, "
            "and rules that subtract a standard deviation will go by the variance alone"
        )
    if posterior.pooling == "mean":
        yield ("mean pooling: the posterior carries its own head, so plain Transformers gives other rewards here")
    elif isinstance(posterior, HeadsPosterior) and not posterior.has_model_head:
        yield (
            f"the posterior carries its own {posterior.architecture} heads, so plain Transformers gives other rewards "
            "here: those of the model as it was"
        )
    head = {name for name, module in model.model.named_modules() if module is model.head}
    below = [name for name in model.new_modules if name not in head]
    if below and posterior.pooling == "head":
        yield (
            f"new and never trained below the head: {', '.join(below)}; the features pass through weights drawn by the "
            "seed, so train the model first, or take mean pooling"
        )


def _heads_notes(posterior: HeadsPosterior, figures: HeldOutFigures | None) -> Iterator[str]:
    if posterior.kind == "quantile" and figures is None:
        yield (
            "rewards are in units of the scores fitted on, not in logits, so probabilities of preference mean nothing "
            "yet; held-out preferences (eval_data) give the scale"
        )
    if posterior.kind == "quantile" and figures is not None and posterior.logit_scale == 1.0:
        yield (
            f"the {figures.num_pairs} held-out pairs, ranked no better than by chance, give no scale from scores to "
            "logits: rewards stay in units of the scores fitted on, and probabilities of preference mean nothing"
        )
    elif posterior.kind == "quantile" and figures is not None:
        yield (
            f"the {figures.num_pairs} held-out pairs chose the scale of the rewards (one unit of score is "
            f"{posterior.logit_scale:.3g} logits), so their figures flatter it"
        )
    if posterior.kind == "classification":
        yield (
            "classification heads tell the log-odds that a response wins against any other: differences are logits of "
            "a preference only about, as the logit temperature of held-out pairs says"
        )


def _held_out_notes(figures: HeldOutFigures) -> Iterator[str]:
    if figures.nll > math.log(2):
        yield (
            f"on the held-out pairs the whole posterior predicts worse than a coin ({figures.nll:.4f} against "
            f"{math.log(2):.4f} nats)"
        )
    if figures.chose_prior and figures.num_pairs < _FEW_PAIRS:
        yield f"only {figures.num_pairs} held-out pairs chose the prior precision; others may choose another"
    if figures.prior_precision_scale in (min(PRIOR_SCALES), max(PRIOR_SCALES)):
        end = "weakest" if figures.prior_precision_scale < 1 else "strongest"
        yield f"the held-out pairs prefer the {end} prior tried; what suits them best may lie further off"


def _lora_notes(posterior: LoraLaplacePosterior, model: RewardModel) -> Iterator[str]:
    fixed = held_fixed(model, find_blocks(model))
    if fixed:
        more = f" and {len(fixed) - 3} more" if len(fixed) > 3 else ""
        yield f"trained along but held fixed in the posterior: {', '.join(fixed[:3])}{more}"
    low, high = PRIOR_BOUNDS
    ends = sum(not 1.1 * low < prior < high / 1.1 for prior in posterior.prior_precisions)
    if ends:
        yield (
            f"the evidence has no maximum within {low:g} to {high:g} for the prior precision of {ends} of "
            f"{len(posterior.prior_precisions)} weight matrices; what these contribute to the variance means little"
        )
    if posterior.jitter > 1e-5:
        yield (
            f"ill-conditioned curvature: a factor was mended by {posterior.jitter:.1g} of its largest eigenvalue; "
            "load the model in float32 if it is not"
        )
