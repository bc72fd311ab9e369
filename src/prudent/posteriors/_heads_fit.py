"""`fit_heads`: M heads on features, trained together."""

from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from prudent.errors import PosteriorError, UnsupportedError
from prudent.models import Pooling
from prudent.posteriors._heads import Diversity, HeadArchitecture, HeadsPosterior
from prudent.posteriors._heads_linear import train_linear
from prudent.posteriors._heads_losses import HeadsKind
from prudent.posteriors._heads_mlp import train_mlp
from prudent.posteriors._heads_network import apply_heads
from prudent.posteriors._heads_prior import LinearPrior, pair_prior, score_prior
from prudent.posteriors._heads_task import HeadsTask, member_generators
from prudent.posteriors._last_layer import check_pairs, feature_scale

__all__ = ["check_num_members", "fit_heads", "fit_quantile_heads"]


def fit_heads(
    chosen: Tensor,
    rejected: Tensor,
    *,
    kind: HeadsKind = "heads",
    label: Tensor | None = None,
    margin: Tensor | None = None,
    group: Tensor | None = None,
    num_members: int = 10,
    architecture: HeadArchitecture = "linear",
    bootstrap: bool = True,
    diversity: Diversity = "anchor",
    prior_precision: float | None = None,
    pooling: Pooling = "head",
    seed: int = 0,
) -> HeadsPosterior:
    """Fit M heads to the features of P preference pairs, all in one batched problem.

    Args:
        chosen: `[P, H]` features of the chosen responses.
        rejected: `[P, H]` features of the rejected responses.
        kind: the objective; see `pair_loss`.
        label: `[P]` probability that chosen is better, in [0, 1]; ones by default.
        margin: `[P]` reward margins; zeros by default, and not for `classification`.
        group: `[P]` prompt of each pair, by which pairs are drawn; by default each pair is a prompt of its own.
        num_members: M, at least 2.
        architecture: of a head.
        bootstrap: train each head on prompts drawn with replacement.
        diversity: how a draw from the prior keeps heads apart; for linear heads both are the same.
        prior_precision: of the zero-centred Gaussian prior in standardised features; by default that of highest
            evidence for one linear head.
        pooling: recorded with the posterior.
        seed: of all draws.

    Raises:
        PosteriorError: one member, fewer than two pairs, features that are not finite, or features equal in every
            pair.
        UnsupportedError: margins for `classification`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> chosen, rejected = torch.randn(60, 3, generator=g) + 1, torch.randn(60, 3, generator=g)
        >>> fit_heads(chosen, rejected, num_members=5).num_members
        5
    """
    check_pairs(chosen, rejected)
    if kind not in get_args(HeadsKind) or kind == "quantile":
        raise ValueError(f"kind is {kind!r}; heads, classification or mean_variance (fit_quantile_heads takes scores)")
    if kind == "classification" and margin is not None and bool((margin != 0).any()):
        place = int((margin != 0).nonzero()[0])
        raise UnsupportedError(
            f"classification heads know no margin, and the pair at place {place} has one; take heads"
        )
    features = torch.cat([chosen, rejected]).double()
    mean, scale = features.mean(0), feature_scale(features)
    zeros = torch.zeros(len(chosen), dtype=torch.float64)
    task = HeadsTask(
        kind=kind,
        sides=((chosen.double() - mean) / scale, (rejected.double() - mean) / scale),
        target=zeros + 1 if label is None else label.double(),
        margin=zeros if margin is None else margin.double(),
        group=torch.arange(len(chosen)) if group is None else group,
    )
    options = _Options(num_members, architecture, bootstrap, diversity, pooling, seed)
    return _train(task, pair_prior(task, prior_precision), mean, scale, options)


def fit_quantile_heads(
    features: Tensor,
    scores: Tensor,
    *,
    group: Tensor | None = None,
    num_members: int = 10,
    architecture: HeadArchitecture = "linear",
    bootstrap: bool = True,
    diversity: Diversity = "anchor",
    prior_precision: float | None = None,
    pooling: Pooling = "head",
    seed: int = 0,
) -> HeadsPosterior:
    """Fit M heads with 19 quantiles each to absolute scores of N responses, by pinball loss (arXiv 2409.10164).

    Args:
        features: `[N, H]` of the responses.
        scores: `[N]` absolute scores, in any unit; comparable across prompts.
        group: `[N]` prompt of each response, by which they are drawn; by default each has a prompt of its own.
        num_members: as in `fit_heads`, like all that follow.
        architecture: of a head.
        bootstrap: train each head on prompts drawn with replacement.
        diversity: how a draw from the prior keeps heads apart.
        prior_precision: by default that of highest evidence for a Gaussian with a linear mean.
        pooling: recorded with the posterior.
        seed: of all draws.

    Raises:
        PosteriorError: one member, fewer than two responses, features or scores that are not finite, or equal scores.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> features = torch.randn(80, 3, generator=g)
        >>> fitted = fit_quantile_heads(features, features[:, 0] + 5, num_members=3)
        >>> fitted.quantiles_of(features[:2]).shape
        torch.Size([2, 3, 19])
    """
    check_scores(features, scores)
    inputs, target = features.double(), scores.double()
    mean, scale = inputs.mean(0), feature_scale(inputs)
    score_mean, score_std = float(target.mean()), float(target.std(correction=0))
    standardized = (inputs - mean) / scale
    target = (target - score_mean) / score_std
    prior = score_prior(standardized, target, prior_precision)
    task = HeadsTask(
        kind="quantile",
        sides=(standardized,),
        target=target,
        margin=torch.zeros_like(target),
        group=torch.arange(len(target)) if group is None else group,
        residual_std=prior.residual_std,
    )
    fitted = _train(task, prior, mean, scale, _Options(num_members, architecture, bootstrap, diversity, pooling, seed))
    # The median, which all other quantiles go by, tells scores as they are.
    *below, (weight, bias) = fitted.layers
    shift = torch.zeros_like(bias)
    shift[:: fitted.num_summands, task.reward_output] = score_mean / score_std
    return replace(fitted, layers=(*below, (weight, bias + shift)), score_std=score_std)


@dataclass(frozen=True)
class _Options:
    num_members: int
    architecture: HeadArchitecture
    bootstrap: bool
    diversity: Diversity
    pooling: Pooling
    seed: int


def _train(task: HeadsTask, prior: LinearPrior, mean: Tensor, scale: Tensor, options: _Options) -> HeadsPosterior:
    """Heads on `features - mean`, from heads on standardised features."""
    check_num_members(options.num_members)
    generators = member_generators(options.seed, options.num_members)
    layers: list[tuple[Tensor, Tensor]]
    if options.architecture == "linear":
        layers = [train_linear(task, prior, generators, bootstrap=options.bootstrap)]
        num_summands = 1
    else:
        prior_function = options.diversity == "prior_function"
        layers = train_mlp(
            task,
            prior.precision,
            generators,
            bootstrap=options.bootstrap,
            prior_function=prior_function,
            seed=options.seed,
        )
        num_summands = 2 if prior_function else 1
        if task.kind != "quantile":
            layers = _centered(layers, task, num_summands)
    weight, bias = layers[0]
    layers[0] = weight.double() / scale, bias
    return HeadsPosterior(
        kind=task.kind,
        architecture=options.architecture,
        layers=tuple((weight.float(), bias.float()) for weight, bias in layers),
        feature_mean=mean.float(),
        num_summands=num_summands,
        score_std=1.0,
        logit_scale=1.0,
        pooling=options.pooling,
        bootstrap=options.bootstrap,
        diversity=options.diversity,
        prior_precision=prior.precision,
        seed=options.seed,
        num_data=len(task),
    )


def _centered(layers: list[tuple[Tensor, Tensor]], task: HeadsTask, num_summands: int) -> list[tuple[Tensor, Tensor]]:
    """Rewards of each head average 0 over the texts fitted on: pairs leave that constant free, and it would spread."""
    rewards = apply_heads(layers, task.inputs.float())[..., task.reward_output]
    average = rewards.mean(1).reshape(-1, num_summands).sum(1)
    weight, bias = layers[-1]
    bias = bias.clone()
    bias[::num_summands, task.reward_output] -= average
    return [*layers[:-1], (weight, bias)]


def check_num_members(num_members: int) -> None:
    """Make sure that members can have a spread.

    Raises:
        PosteriorError: fewer than two.
    """
    if num_members < 2:
        raise PosteriorError(
            f"num_members is {num_members}; a spread needs at least 2 members (10 is usual), and for one head there "
            "is the posterior last_layer"
        )


def check_scores(features: Tensor, scores: Tensor) -> None:
    """Make sure that scores `[N]` of features `[N, H]` can be fitted to.

    Raises:
        PosteriorError: fewer than two responses, features or scores that are not finite, or equal scores.
    """
    if features.dim() != 2 or scores.shape != features.shape[:1]:
        raise ValueError(f"features are {tuple(features.shape)} and scores {tuple(scores.shape)}; [N, H] and [N]")
    if len(scores) < 2:
        raise PosteriorError(f"quantile heads need at least two responses with a score, there are {len(scores)}")
    for values, what in ((features.sum(1), "features"), (scores, "scores")):
        if not bool(values.isfinite().all()):
            place = int((~values.isfinite()).nonzero()[0])
            raise PosteriorError(f"the {what} of the response at place {place} are not finite; leave it out")
    if bool((scores == scores[0]).all()):
        raise PosteriorError("all scores are equal; quantile heads have nothing to learn from them")
    if bool((features == features[0]).all()):
        raise PosteriorError("all responses have the same features; the model does not tell them apart")
