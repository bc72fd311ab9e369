"""Fitting a Laplace posterior over LoRA weights: passes over the pairs, then the prior precision."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prudent.errors import PosteriorError, UnsupportedError
from prudent.models import RewardModel
from prudent.posteriors._blocks import LinearBlock, find_blocks
from prudent.posteriors._curvature import BlockCurvature
from prudent.posteriors._evidence import log_evidence, maximize_prior_precision
from prudent.posteriors._gradients import gradient_tokens_per_batch
from prudent.posteriors._lora_laplace import LoraLaplacePosterior, Structure
from prudent.posteriors._pair_pass import PairSums, run_pass
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._resume import SumsCheckpoint
from prudent.posteriors._sums import DenseSum, EigenvalueSums, FactorSums, MeanGradient, TokenFactorSums

__all__ = ["DEFAULT_MAX_RANK", "fit_lora_laplace", "pairs_read", "scale_prior"]

DEFAULT_MAX_RANK = 64
_MAX_DENSE_PARAMETERS = 8192
_BASIS_PAIRS = 256


def pairs_read(structure: Structure, num_pairs: int) -> int:
    """How many pairs the passes of a fit read together; `ekfac` reads some for its bases first."""
    return num_pairs + (min(num_pairs, _BASIS_PAIRS) if structure == "ekfac" else 0)


def fit_lora_laplace(
    model: RewardModel,
    pairs: PairTexts,
    structure: Structure = "ekfac",
    *,
    per_layer: bool = False,
    max_rank: int = DEFAULT_MAX_RANK,
    prior_precision: float | None = None,
    posterior_temperature: float = 1.0,
    center_rewards_coefficient: float = 0.0,
    seed: int = 0,
    tokens_per_batch: int | None = None,
    checkpoint: SumsCheckpoint | None = None,
    advance: Callable[[int], None] = lambda amount: None,
) -> tuple[LoraLaplacePosterior, Tensor]:
    """The Laplace posterior around the weights that the model has, and each pair's reward difference `[M]`.

    Under Accelerate, processes share the pairs and all return the same.

    Args:
        model: a reward model with a LoRA adapter and a trained head.
        pairs: M preference pairs.
        structure: what is kept of the curvature; `ekfac` was the nearest to the exact posterior of those that scale.
        per_layer: a prior precision of its own for each weight matrix; not with `full`.
        max_rank: directions kept of the longer side of a weight matrix.
        prior_precision: fixed, or None to maximise the evidence.
        posterior_temperature: positive factor on the covariance.
        center_rewards_coefficient: weight of the centring loss `c (r_chosen + r_rejected)^2` in training; it adds
            curvature in the common direction.
        seed: of the pairs that `ekfac` finds its bases from, and of sketches.
        tokens_per_batch: padded tokens of a batch.
        checkpoint: where sums are kept for a fit that is killed to go on from; the caller removes it at the end.
        advance: called with the number of pairs done.

    Raises:
        PosteriorError: fewer than two pairs, no LoRA layers, rewards or gradients not finite, or gradients equal in
            every pair.
        UnsupportedError: an adapter that is not LoRA or rsLoRA, or too many weights for `full`.
    """
    if len(pairs) < 2:
        raise PosteriorError(f"a posterior needs at least two preference pairs, there are {len(pairs)}")
    if not 0 < posterior_temperature < math.inf:
        raise ValueError(f"posterior_temperature is {posterior_temperature}; it must be positive and finite")
    if prior_precision is not None and not 0 < prior_precision < math.inf:
        raise ValueError(f"prior_precision is {prior_precision}; it must be positive and finite")
    if not 0 <= center_rewards_coefficient < math.inf:
        raise ValueError(f"center_rewards_coefficient is {center_rewards_coefficient}; it must be 0 or positive")
    if max_rank < 1:
        raise ValueError(f"max_rank is {max_rank}; it must be positive")
    if structure == "full" and per_layer:
        raise UnsupportedError("posterior 'full' couples all layers and has one prior precision; leave per_layer out")
    if model.device.type == "mps":
        raise UnsupportedError("this device has no float64, which curvature is summed in; load the model on the CPU")
    blocks = find_blocks(model)
    size = sum(block.shape[0] * block.shape[1] for block in blocks)
    if structure == "full" and size > _MAX_DENSE_PARAMETERS:
        raise UnsupportedError(
            f"posterior 'full' keeps a dense {size} x {size} matrix; it is for at most {_MAX_DENSE_PARAMETERS} "
            "weights, use 'ekfac'"
        )
    like = torch.zeros((), device=model.device, dtype=torch.promote_types(model.head.weight.dtype, torch.float32))

    if checkpoint is not None:
        checkpoint.begin(
            {
                "pairs": pairs.digest(),
                "model": model.fingerprint(),
                "head": hashlib.sha256(model.head_values()[0].numpy().tobytes()).hexdigest()[:16],
                "dtype": f"{blocks[0].module.weight.dtype} on {model.device.type}",
                "posterior": structure,
                "max_rank": max_rank,
                "center_rewards_coefficient": center_rewards_coefficient,
                "seed": seed,
                "tokens_per_batch": gradient_tokens_per_batch(model, tokens_per_batch),
            }
        )

    def read(sums: PairSums, subset: Tensor, name: str = "sums") -> tuple[float, Tensor]:
        return run_pass(
            model,
            blocks,
            pairs,
            sums,
            subset=subset,
            center_rewards_coefficient=center_rewards_coefficient,
            tokens_per_batch=tokens_per_batch,
            advance=advance,
            checkpoint=checkpoint,
            name=name,
            more_follow=name == "bases",
        )

    everything = torch.arange(len(pairs))
    curvatures: Sequence[BlockCurvature]
    jitter = 0.0
    if structure == "kron":
        tokens = TokenFactorSums(blocks, max_rank, like)
        log_likelihood, contrast = read(tokens, everything)
        curvatures, jitter = tokens.curvatures()
        mean = tokens.mean_gradient
    elif structure == "full":
        dense = DenseSum(blocks, like)
        log_likelihood, contrast = read(dense, everything)
        curvatures, jitter = dense.curvatures()
        mean = dense.mean_gradient
    else:
        bases = EigenvalueSums.identity(blocks, like)
        if structure == "ekfac":
            drawn = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:_BASIS_PAIRS]
            factors = FactorSums(blocks, max_rank, like)
            read(factors, drawn.sort().values, "bases")
            bases, jitter = factors.curvatures()
        eigenvalues = EigenvalueSums(blocks, bases, like)
        log_likelihood, contrast = read(eigenvalues, everything)
        curvatures = eigenvalues.curvatures()
        mean = eigenvalues.mean_gradient
    if bool((contrast == 0).all()):
        raise PosteriorError("chosen and rejected have the same reward in every pair; the model tells none apart")
    if all(curvature.trace() == 0 for curvature in curvatures):
        raise PosteriorError("the curvature of every pair is zero: the model is certain of all; train it for less long")
    posterior = _finish(
        blocks,
        curvatures,
        mean,
        per_layer=per_layer,
        prior_precision=prior_precision,
        template=LoraLaplacePosterior(
            structure=structure,
            blocks=(),
            prior_precisions=(),
            gradient_mean=torch.zeros(0),
            head_weight=model.head_values()[0],
            posterior_temperature=float(posterior_temperature),
            log_likelihood=log_likelihood,
            log_marginal_likelihood=0.0,
            num_pairs=len(pairs),
            jitter=jitter,
        ),
        like=like,
    )
    return posterior, contrast


def scale_prior(posterior: LoraLaplacePosterior, model: RewardModel, scale: float) -> LoraLaplacePosterior:
    """The same curvature with all prior precisions multiplied, and the evidence of that.

    Args:
        posterior: fitted on `model`.
        model: whose weights it is about.
        scale: positive.
    """
    priors = tuple(prior * scale for prior in posterior.prior_precisions)
    norms = _squared_norms(posterior.check_model(model), posterior.structure)
    evidence = log_evidence(posterior.blocks, norms, posterior.log_likelihood, priors)
    return replace(posterior, prior_precisions=priors, log_marginal_likelihood=evidence)


def _squared_norms(blocks: Sequence[LinearBlock], structure: Structure) -> list[float]:
    norms = [float(block.value().square().sum()) for block in blocks]
    return [sum(norms)] if structure == "full" else norms


def _finish(
    blocks: Sequence[LinearBlock],
    curvatures: Sequence[BlockCurvature],
    mean: MeanGradient,
    *,
    per_layer: bool,
    prior_precision: float | None,
    template: LoraLaplacePosterior,
    like: Tensor,
) -> LoraLaplacePosterior:
    """Choose the prior precision and bring everything to the types that are stored."""
    norms = _squared_norms(blocks, template.structure)
    stored = torch.zeros((), dtype=like.dtype)
    kept = tuple(curvature.to(stored) for curvature in curvatures)
    if prior_precision is None:
        priors = maximize_prior_precision(kept, norms, per_layer=per_layer)
    else:
        priors = (float(prior_precision),) * len(kept)
    return replace(
        template,
        blocks=kept,
        prior_precisions=priors,
        gradient_mean=torch.cat([part.flatten() for part in mean.means()]).to(stored),
        log_marginal_likelihood=log_evidence(kept, norms, template.log_likelihood, priors),
    )
