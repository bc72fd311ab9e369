"""Reading texts with the gradient of their rewards, for a posterior over LoRA weights."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prudent.models import EncodedTexts, RewardModel, iterate_batches
from prudent.posteriors._gradients import RewardGradients, each_gradient, gradient_tokens_per_batch
from prudent.posteriors._projection import Projection
from prudent.posteriors._protocol import Center, Prediction

if TYPE_CHECKING:
    from prudent.posteriors._lora_laplace import LoraLaplacePosterior

__all__ = ["Found", "Reader"]


class Found:
    """What `predict` fills in."""

    def __init__(self, size: int, columns: int, dtype: torch.dtype) -> None:
        self.mean = torch.empty(size, dtype=dtype)
        self.variance = torch.empty(size, dtype=dtype)
        self.centered = torch.full((size,), torch.nan, dtype=dtype)
        self.reference = torch.full((size,), torch.nan, dtype=dtype)
        self.factor = torch.empty(size, columns, dtype=dtype) if columns else None

    def prediction(self) -> Prediction:
        noise = torch.zeros_like(self.mean)
        return Prediction(self.mean, self.variance, noise, self.reference, self.centered, self.factor)


class Reader:
    """Reads texts with the gradient of their rewards, on the model's device."""

    def __init__(
        self,
        posterior: "LoraLaplacePosterior",
        model: RewardModel,
        with_factor: bool,
        tokens_per_batch: int | None,
        advance: Callable[[int], None],
    ) -> None:
        self._posterior = posterior
        self._model = model
        self._advance = advance
        self._budget = gradient_tokens_per_batch(model, tokens_per_batch)
        self._linear = posterior.check_model(model)
        self.dtype = torch.promote_types(model.head.weight.dtype, torch.float32)
        like = torch.zeros((), device=model.device, dtype=self.dtype)
        self._joined = posterior.structure == "full"
        self._curvatures = [block.to(like) for block in posterior.blocks]
        sizes = [block.size for block in self._curvatures]
        means = torch.split(posterior.gradient_mean.to(like), sizes)
        self._means = [
            self._whiten(place, mean.reshape(1, *block.shape))
            for place, (block, mean) in enumerate(zip(self._curvatures, means, strict=True))
        ]
        widths = [mean.shape[1] for mean in self._means]
        self.width = sum(widths)
        self._places = [slice(sum(widths[:place]), sum(widths[: place + 1])) for place in range(len(widths))]
        self._projections = [
            Projection(width, posterior.factor_size, seed, like) if with_factor else None
            for seed, width in enumerate(widths)
        ]

    def read(
        self,
        encoded: EncodedTexts,
        rows: Tensor,
        found: Found,
        *,
        held: Tensor | None = None,
        group: Tensor | None = None,
        centers: Mapping[int, Center] | None = None,
    ) -> None:
        """Fill in what is found of some rows.

        Args:
            encoded: all texts.
            rows: which of them.
            found: to be filled in.
            held: `[len(rows), F]`, takes the whitened gradients minus their average over the texts fitted on.
            group: prompt of each text; with it, variances are centred where a centre is known.
            centers: of the prompts.
        """
        if not len(rows):
            return
        part = encoded.select(rows.numpy())
        pad = self._model.config.get_text_config().pad_token_id
        with RewardGradients(self._model, self._linear) as gradients:
            for batch in iterate_batches(part, self._budget, pad, self._model.device):
                places = rows[batch.index]
                rewards = gradients.forward(batch)
                centred = group is not None and any(int(key) in (centers or {}) for key in group[places].tolist())
                center = self._centers(group[places], centers or {}) if centred and group is not None else None
                sums = _Sums(rewards, found.factor is not None, self._posterior.factor_size)

                def take(
                    index: int,
                    each: Tensor,
                    sums: _Sums = sums,
                    batch_index: Tensor = batch.index,
                    center: tuple[Tensor, Tensor] | None = center,
                ) -> None:
                    whitened = self._whiten(index, each) - self._means[index]
                    sums.variance += whitened.square().sum(1)
                    projection = self._projections[index]
                    if projection is not None and sums.factor is not None:
                        sums.factor += projection(whitened)
                    if held is not None:
                        held[batch_index, self._places[index]] = whitened.to(held)
                    if center is not None:
                        stacked, local = center
                        own = stacked[:, self._places[index]].to(whitened)[local]
                        sums.centered += (whitened - own).square().sum(1)

                gradients.backward(each_gradient(self._linear, self._joined, take))
                found.mean[places] = rewards.cpu()
                found.variance[places] = sums.variance.cpu()
                if center is not None:
                    found.centered[places] = sums.centered.cpu()
                if found.factor is not None and sums.factor is not None:
                    found.factor[places] = sums.factor.cpu()
                self._advance(len(batch))

    def _centers(self, group: Tensor, centers: Mapping[int, Center]) -> tuple[Tensor, Tensor]:
        """Centres `[U, F]` on CPU, NaN where there is none, and which of them is each row's, `[b]` on the device."""
        unknown = torch.full((self.width,), torch.nan, dtype=self.dtype)
        unique, local = torch.unique(group, return_inverse=True)
        stacked = torch.stack([centers[key].factor if key in centers else unknown for key in unique.tolist()])
        return stacked, local.to(self._model.device)

    def _whiten(self, index: int, gradients: Tensor) -> Tensor:
        whitened = self._curvatures[index].whiten(gradients, self._posterior.prior_precisions[index])
        scaled: Tensor = whitened * self._posterior.posterior_temperature**0.5
        return scaled


class _Sums:
    """Sums over the blocks of one batch."""

    def __init__(self, rewards: Tensor, with_factor: bool, columns: int) -> None:
        self.variance = torch.zeros_like(rewards)
        self.centered = torch.zeros_like(rewards)
        self.factor = rewards.new_zeros(len(rewards), columns) if with_factor else None
