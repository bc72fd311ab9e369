"""A pass over preference pairs with the gradient of both rewards: what every structure of curvature is summed from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prudent.models import RewardModel
from prudent.posteriors._blocks import LinearBlock
from prudent.posteriors._gradients import RewardGradients
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._processes import process_state
from prudent.posteriors._resume import SumsCheckpoint

__all__ = ["PairBatch", "PairSums", "run_pass"]


@dataclass(frozen=True)
class PairBatch:
    """What is known of a batch of k pairs when its gradients come.

    Attributes:
        curvature: `[k]` p (1 - p), second derivative of each pair's negative log-likelihood by its reward difference;
            it does not depend on the label.
        common: second derivative by the sum of both rewards: `2 center_rewards_coefficient`.
        mask: `[2k, T]` 1 for tokens, 0 for padding.
    """

    curvature: Tensor
    common: float
    mask: Tensor

    def weighted(self, gradients: Tensor) -> Tensor:
        """Rows whose outer products sum to the curvature of these pairs: `[k, ...]`, with a centring loss `[2k, ...]`.

        Args:
            gradients: `[2k, ...]` of the rewards, chosen first.
        """
        chosen, rejected = gradients.chunk(2)
        scale = self.curvature.sqrt().to(gradients).reshape(-1, *[1] * (gradients.dim() - 1))
        rows = scale * (chosen - rejected)
        return torch.cat([rows, self.common**0.5 * (chosen + rejected)]) if self.common else rows


class PairSums(Protocol):
    """Sums over pairs, added to in a pass."""

    def add(self, index: int, inputs: Tensor, gradients: Tensor, batch: PairBatch) -> None:
        """Take inputs `[2k, T, n]` and output gradients `[2k, T, m]` of a block."""

    def tensors(self) -> list[Tensor]:
        """All sums; processes add theirs together in place."""


def run_pass(
    model: RewardModel,
    blocks: Sequence[LinearBlock],
    pairs: PairTexts,
    sums: PairSums,
    *,
    subset: Tensor,
    center_rewards_coefficient: float,
    tokens_per_batch: int | None,
    advance: Callable[[int], None],
    checkpoint: SumsCheckpoint | None,
    name: str,
    more_follow: bool,
) -> tuple[float, Tensor]:
    """Add the pairs of a subset to sums; those of other processes are added too, so that all hold the same.

    With a checkpoint, what was summed before under the pass's name is taken from there, and the end of the pass is kept
    for certain where another follows that builds on it.

    Returns:
        Log-likelihood of the labels at the model's weights, nats, over the subset (with a centring loss its penalty
        `center_rewards_coefficient (r_chosen + r_rejected)^2` is taken off), and each pair's reward difference `[M]`
        float64, zero outside the subset.

    Raises:
        PosteriorError: a reward or gradient is not finite; the row is named.
    """
    from accelerate.utils import reduce

    state = process_state()
    likelihood = torch.zeros((), dtype=torch.float64)
    contrast = torch.zeros(len(pairs), dtype=torch.float64)
    kept = [likelihood, contrast, *sums.tensors()]
    done = 0 if checkpoint is None else checkpoint.restore(name, kept)
    number = -1
    with RewardGradients(model, blocks) as gradients:
        for number, (positions, batch) in enumerate(pairs.batches(model, subset, tokens_per_batch)):
            if number >= done and number % state.num_processes == state.process_index:
                rewards = gradients.forward(batch)
                chosen, rejected = rewards.cpu().double().chunk(2)
                pairs.require_finite(chosen + rejected, positions, "reward")
                contrast[positions] = chosen - rejected
                logit = contrast[positions] - pairs.margin[positions]
                label = pairs.label[positions]
                likelihood += (label * logsigmoid(logit) + (1 - label) * logsigmoid(-logit)).sum()
                likelihood -= center_rewards_coefficient * (chosen + rejected).square().sum()
                known = PairBatch(
                    # As a product of two sigmoids, which does not cancel where a pair is decided.
                    curvature=(torch.sigmoid(logit) * torch.sigmoid(-logit)).to(rewards),
                    common=2 * center_rewards_coefficient,
                    mask=batch.inputs["attention_mask"],
                )
                largest = torch.zeros_like(rewards)

                def consume(
                    index: int, inputs: Tensor, gradient: Tensor, known: PairBatch = known, largest: Tensor = largest
                ) -> None:
                    torch.maximum(largest, gradient.abs().amax((1, 2)).to(largest), out=largest)
                    sums.add(index, inputs, gradient, known)

                gradients.backward(consume)
                one, other = largest.cpu().chunk(2)
                pairs.require_finite(one + other, positions, "gradient")
            if checkpoint is not None and number >= done:
                checkpoint.save(name, kept, number + 1)
            advance(len(positions))
    if checkpoint is not None and more_follow and number >= done:
        checkpoint.save(name, kept, number + 1, force=True)
    if state.num_processes > 1:
        likelihood, contrast = likelihood.to(state.device), contrast.to(state.device)
        for tensor in (likelihood, contrast, *sums.tensors()):
            tensor.copy_(reduce(tensor, "sum"))
    return float(likelihood), contrast.cpu()
