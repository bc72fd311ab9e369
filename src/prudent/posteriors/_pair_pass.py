"""A pass over preference pairs with the gradient of both rewards: what every structure of curvature is summed from."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prudent.errors import PosteriorError
from prudent.models import Batch, EncodedTexts, RewardModel, pad_batch, token_budget_batches
from prudent.posteriors._blocks import LinearBlock
from prudent.posteriors._gradients import RewardGradients, gradient_tokens_per_batch

__all__ = ["PairBatch", "PairSums", "PairTexts", "run_pass"]


@dataclass(frozen=True)
class PairTexts:
    """M preference pairs, ready to be read by a model.

    Attributes:
        encoded: texts, each once.
        chosen: `[M]` place of each pair's chosen text among them.
        rejected: `[M]` place of the rejected one.
        label: `[M]` float64 probability that chosen is the better one.
        margin: `[M]` float64 by how much its reward should exceed the other.
        rows: `[M]` row of each pair in the file, for messages.
    """

    encoded: EncodedTexts
    chosen: Tensor
    rejected: Tensor
    label: Tensor
    margin: Tensor
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, model: RewardModel, subset: Tensor, tokens_per_batch: int | None) -> Iterator[tuple[Tensor, Batch]]:
        """Padded batches of whole pairs, longest first: positions of k pairs, and their 2 k texts, chosen first."""
        lengths = self.encoded.lengths
        longer = np.maximum(lengths[self.chosen[subset].numpy()], lengths[self.rejected[subset].numpy()])
        pad = model.config.get_text_config().pad_token_id
        for part in token_budget_batches(2 * longer, gradient_tokens_per_batch(model, tokens_per_batch)):
            pairs = subset[torch.from_numpy(part)]
            texts = torch.cat([self.chosen[pairs], self.rejected[pairs]]).numpy()
            yield pairs, pad_batch(self.encoded, texts, pad, model.device)


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
        """Rows whose outer products sum to the curvature of these pairs, `[k, ...]` or, with a centring loss, `[2k, ...]`.

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
) -> float:
    """Add the pairs of a subset to sums; those of other processes are added too, so that all hold the same.

    Returns:
        Log-likelihood of the labels at the model's weights, nats, over the subset. With a centring loss its penalty
        `center_rewards_coefficient (r_chosen + r_rejected)^2` is taken off.

    Raises:
        PosteriorError: a reward or gradient is not finite; the row is named.
    """
    from accelerate import PartialState
    from accelerate.utils import reduce

    state = PartialState()
    likelihood = torch.zeros((), dtype=torch.float64)
    with RewardGradients(model, blocks) as gradients:
        for number, (positions, batch) in enumerate(pairs.batches(model, subset, tokens_per_batch)):
            if number % state.num_processes == state.process_index:
                rewards = gradients.forward(batch)
                chosen, rejected = rewards.double().cpu().chunk(2)
                _require_finite(chosen + rejected, pairs, positions, "reward")
                logit = chosen - rejected - pairs.margin[positions]
                label = pairs.label[positions]
                chance = torch.sigmoid(logit)
                likelihood += (label * logsigmoid(logit) + (1 - label) * logsigmoid(-logit)).sum()
                likelihood -= center_rewards_coefficient * (chosen + rejected).square().sum()
                known = PairBatch(
                    curvature=(chance * (1 - chance)).to(rewards),
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
                _require_finite(one + other, pairs, positions, "gradient")
            advance(len(positions))
    if state.num_processes > 1:
        likelihood = likelihood.to(state.device)
        for tensor in (likelihood, *sums.tensors()):
            tensor.copy_(reduce(tensor, "sum"))
    return float(likelihood)


def _require_finite(values: Tensor, pairs: PairTexts, positions: Tensor, what: str) -> None:
    if not math.isfinite(float(values.sum())):
        faulty = [pairs.rows[int(positions[place])] for place in torch.nonzero(~values.isfinite()).flatten()]
        if faulty:
            raise PosteriorError(
                f"the {what} of {len(faulty)} pairs is not finite (row {min(faulty)} first); the model overflows there, "
                "load it in float32 or leave those rows out"
            )
