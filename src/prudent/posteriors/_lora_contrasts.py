"""Reward differences of pairs under a posterior over LoRA weights: whole pairs in a batch, nothing held in between."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prudent.models import RewardModel
from prudent.posteriors._curvature import BlockCurvature
from prudent.posteriors._gradients import RewardGradients, each_gradient
from prudent.posteriors._pair_texts import PairTexts

if TYPE_CHECKING:
    from prudent.posteriors._lora_laplace import LoraLaplacePosterior

__all__ = ["lora_contrasts"]

_WEIGHTS_AT_ONCE = 1 << 16


def lora_contrasts(
    posterior: "LoraLaplacePosterior",
    model: RewardModel,
    pairs: PairTexts,
    *,
    prior_scales: Sequence[float] = (1.0,),
    tokens_per_batch: int | None = None,
    advance: Callable[[int], None] = lambda amount: None,
) -> tuple[Tensor, Tensor]:
    """Mean `[M]` of each pair's difference, and its variance `[M, G]` with all prior precisions times each of G scales.

    One forward and one backward pass a batch, whatever G.

    Args:
        posterior: fitted on `model`.
        model: the reward model.
        pairs: M pairs.
        prior_scales: G factors on the prior precisions.
        tokens_per_batch: padded tokens of a batch.
        advance: called with the number of pairs done.

    Raises:
        PosteriorError: a reward or a gradient is not finite; the row is named.
    """
    linear = posterior.check_model(model)
    dtype = torch.promote_types(model.head.weight.dtype, torch.float32)
    scales = torch.tensor(prior_scales, dtype=dtype, device=model.device)
    blocks = [block.to(scales) for block in posterior.blocks]
    mean = torch.empty(len(pairs), dtype=torch.float64)
    variance = torch.empty(len(pairs), len(scales), dtype=torch.float64)
    with RewardGradients(model, linear) as gradients:
        for positions, batch in pairs.batches(model, torch.arange(len(pairs)), tokens_per_batch):
            rewards = gradients.forward(batch)
            chosen, rejected = rewards.cpu().double().chunk(2)
            pairs.require_finite(chosen + rejected, positions, "reward")
            mean[positions] = chosen - rejected
            total = rewards.new_zeros(len(positions), len(scales))

            def take(index: int, each: Tensor, total: Tensor = total) -> None:
                first, second = each.chunk(2)
                total += _variances(blocks[index], posterior.prior_precisions[index] * scales, first - second)

            gradients.backward(each_gradient(linear, posterior.structure == "full", take))
            variance[positions] = total.cpu().double()
            pairs.require_finite(total.cpu().sum(1), positions, "gradient")
            advance(len(positions))
    return mean, variance * posterior.posterior_temperature


def _variances(block: BlockCurvature, priors: Tensor, difference: Tensor) -> Tensor:
    """`[b, G]` for each of G prior precisions, a part of the weights at a time."""
    inside, outside = block.energies(difference)
    total = difference.new_zeros(len(difference), len(priors))
    values = block.eigenvalues.flatten()
    for energy, part in zip(
        torch.split(inside.flatten(1), _WEIGHTS_AT_ONCE, dim=1), torch.split(values, _WEIGHTS_AT_ONCE), strict=True
    ):
        total += energy @ (part.unsqueeze(1) + priors).reciprocal()
    if outside is not None and block.remainder is not None:
        total += outside @ (block.remainder.unsqueeze(1) + priors).reciprocal()
    return total
