"""Laplace posterior over LoRA weights and the reward head: rewards with exact variances from one backward pass.

A reward is taken linear in the weights around those of the trained model, `r = r_MAP + J (theta - theta_MAP)`, with
`theta ~ N(theta_MAP, (H + prior precision)^-1)` and H the curvature of the pair likelihood (arXiv 2308.13111, 2402.13210).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.models import EncodedTexts, RewardModel, iterate_batches
from prudent.posteriors._blocks import LinearBlock, find_blocks
from prudent.posteriors._curvature import BlockCurvature
from prudent.posteriors._gradients import RewardGradients, gradient_tokens_per_batch, weight_gradients
from prudent.posteriors._projection import STORED_COLUMNS, Projection
from prudent.posteriors._protocol import Center, Prediction

__all__ = ["LoraLaplacePosterior", "Structure"]

Structure = Literal["kron", "ekfac", "diag", "full"]
"""What is kept of the curvature: Kronecker factors, their eigenbasis with corrected eigenvalues, the diagonal, all of it."""

_HELD_BYTES = 256 * 2**20
"""Whitened gradients of reference responses that are in memory at once."""


@dataclass(frozen=True)
class LoraLaplacePosterior:
    """A Gaussian posterior over the LoRA matrices and the head of a reward model.

    Variances are those of `r(x, y)` minus the average reward of the responses fitted on: what moves all rewards alike
    cannot be known from pairs, so it is taken out before the quadratic form. Contrasts do not depend on that.

    Attributes:
        structure: what is kept of the curvature.
        blocks: curvature of each block; a single one where the structure is `full`.
        prior_precisions: of the zero-centred Gaussian prior, one a block.
        gradient_mean: `[P]` float32 average reward gradient of the responses fitted on, blocks one after another.
        head_weight: `[H]` float32 the head that it was fitted with.
        posterior_temperature: factor on the posterior covariance; 1 is Bayes.
        log_likelihood: of the pairs fitted on, nats.
        log_marginal_likelihood: Laplace evidence of those pairs, nats.
        num_pairs: pairs fitted on.
        jitter: largest amount, relative to a factor's largest eigenvalue, by which a factor was not positive
            semi-definite and was mended.
    """

    structure: Structure
    blocks: tuple[BlockCurvature, ...]
    prior_precisions: tuple[float, ...]
    gradient_mean: Tensor
    head_weight: Tensor
    posterior_temperature: float
    log_likelihood: float
    log_marginal_likelihood: float
    num_pairs: int
    jitter: float

    @property
    def kind(self) -> str:
        """The structure."""
        return self.structure

    @property
    def has_variance(self) -> bool:
        """True."""
        return True

    @property
    def num_parameters(self) -> int:
        """P, weights with a posterior."""
        return sum(block.size for block in self.blocks)

    @property
    def factor_size(self) -> int:
        """`min(256, P)`."""
        return min(STORED_COLUMNS, self.num_parameters)

    @property
    def basis_id(self) -> str:
        """Names this covariance and its projection."""
        digest = hashlib.sha256(repr((self.structure, self.prior_precisions, self.posterior_temperature)).encode())
        for name, tensor in sorted(self.state()[0].items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def predict(
        self,
        model: RewardModel,
        encoded: EncodedTexts,
        *,
        group: Tensor,
        reference_weight: Tensor,
        centers: Mapping[int, Center] | None = None,
        with_factor: bool = False,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Prediction:
        """See `prudent.posteriors.Posterior.predict`.

        One forward and one backward pass a batch. The reference responses of a few prompts are read first and their
        whitened gradients held, then the others of those prompts.
        """
        reader = _Reader(self, model, with_factor, tokens_per_batch, advance)
        known = dict(centers or {})
        size = len(encoded)
        found = _Found(size, self.factor_size if with_factor else 0, reader.dtype)
        for prompts in self._chunks(group, reference_weight, known):
            references = prompts[reference_weight[prompts] > 0]
            if len(references):
                held = torch.empty(len(references), reader.width, dtype=reader.dtype)
                reader.read(encoded, references, found, held=held)
                local_group = group[references]
                weight = reference_weight[references].to(held)
                for key in torch.unique(local_group).tolist():
                    rows = torch.nonzero(local_group == key).flatten()
                    share = weight[rows] / weight[rows].sum()
                    known[key] = Center(float(share @ found.mean[references[rows]]), share @ held[rows])
                    # A reference response alone is its own centre; that is exact, whatever the rounding.
                    difference = held[rows] - known[key].factor
                    found.centered[references[rows]] = difference.square().sum(1)
                del held
            others = prompts[reference_weight[prompts] <= 0]
            reader.read(encoded, others, found, group=group, centers=known)
            for key in torch.unique(group[prompts]).tolist():
                if key in known:
                    found.reference[prompts[group[prompts] == key]] = known[key].mean
                    if key not in (centers or {}):
                        del known[key]
        return found.prediction()

    def exact(self, model: RewardModel, encoded: EncodedTexts) -> tuple[Tensor, Tensor]:
        """See `prudent.posteriors.Posterior.exact`."""
        reader = _Reader(self, model, False, None, lambda amount: None)
        found = _Found(len(encoded), 0, reader.dtype)
        held = torch.empty(len(encoded), reader.width, dtype=reader.dtype)
        reader.read(encoded, torch.arange(len(encoded)), found, held=held)
        return found.mean, held

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `prudent.posteriors.Posterior.state`."""
        tensors = {"gradient_mean": self.gradient_mean, "head_weight": self.head_weight}
        for block in self.blocks:
            parts = {
                "eigenvalues": block.eigenvalues,
                "small_basis": block.small_basis,
                "large_basis": block.large_basis,
                "remainder": block.remainder,
            }
            tensors |= {f"{block.name}/{name}": part for name, part in parts.items() if part is not None}
        same = len(set(self.prior_precisions)) == 1
        entries = {
            "kind": self.kind,
            "structure": self.structure,
            "blocks": [{"name": block.name, "shape": list(block.shape)} for block in self.blocks],
            "prior_precision": self.prior_precisions[0] if same else list(self.prior_precisions),
            "posterior_temperature": self.posterior_temperature,
            "log_likelihood": self.log_likelihood,
            "log_marginal_likelihood": self.log_marginal_likelihood,
            "num_pairs": self.num_pairs,
            "num_parameters": self.num_parameters,
            "jitter": self.jitter,
            "basis_id": self.basis_id,
        }
        return tensors, entries

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], entries: dict[str, Any]) -> Self:
        """The posterior that `state` described."""
        blocks = tuple(
            BlockCurvature(
                described["name"],
                (described["shape"][0], described["shape"][1]),
                tensors[f"{described['name']}/eigenvalues"],
                *(tensors.get(f"{described['name']}/{part}") for part in ("small_basis", "large_basis", "remainder")),
            )
            for described in entries["blocks"]
        )
        stated = entries["prior_precision"]
        return cls(
            structure=entries["structure"],
            blocks=blocks,
            prior_precisions=tuple(stated) if isinstance(stated, list) else (stated,) * len(blocks),
            gradient_mean=tensors["gradient_mean"],
            head_weight=tensors["head_weight"],
            **{
                name: entries[name]
                for name in (
                    "posterior_temperature",
                    "log_likelihood",
                    "log_marginal_likelihood",
                    "num_pairs",
                    "jitter",
                )
            },
        )

    def check_model(self, model: RewardModel) -> list[LinearBlock]:
        """The model's blocks, which must be those of the fit.

        Raises:
            PosteriorError: the model has other LoRA layers.
        """
        blocks = find_blocks(model)
        here = [(block.name, block.shape) for block in blocks]
        if self.structure == "full":
            same = sum(rows * columns for _, (rows, columns) in here) == self.num_parameters
        else:
            same = here == [(block.name, block.shape) for block in self.blocks]
        if not same:
            raise PosteriorError(
                "the model's LoRA layers are not those that the posterior was fitted on; fit the posterior again"
            )
        return blocks

    def _chunks(self, group: Tensor, reference_weight: Tensor, known: Mapping[int, Center]) -> Iterator[Tensor]:
        """Texts of a few prompts at a time, so that the held gradients of their references fit in memory."""
        order = torch.argsort(group, stable=True)
        _, sizes = torch.unique_consecutive(group[order], return_counts=True)
        rows_at_once = max(1, _HELD_BYTES // (4 * self.num_parameters))
        held = 0
        chunk: list[Tensor] = []
        for rows in order.split(sizes.tolist()):
            count = int((reference_weight[rows] > 0).sum())
            count += int(count > 0 or int(group[rows[0]]) in known)
            if chunk and held + count > rows_at_once:
                yield torch.cat(chunk)
                chunk, held = [], 0
            chunk.append(rows)
            held += count
        if chunk:
            yield torch.cat(chunk)


class _Found:
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


class _Reader:
    """Reads texts with the gradient of their rewards, on the model's device."""

    def __init__(
        self,
        posterior: LoraLaplacePosterior,
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
        self._whole = posterior.structure == "full"
        self._curvatures = [block.to(like) for block in posterior.blocks]
        means = posterior.gradient_mean.to(like).split([block.size for block in self._curvatures])
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
        found: _Found,
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
                center = self._center_rows(group[places], centers or {}) if centred and group is not None else None
                sums = _Sums(rewards, found.factor is not None, self._posterior.factor_size)

                def consume(
                    index: int,
                    whitened: Tensor,
                    sums: _Sums = sums,
                    batch_index: Tensor = batch.index,
                    center: Tensor | None = center,
                ) -> None:
                    whitened = whitened - self._means[index]
                    sums.variance += whitened.square().sum(1)
                    projection = self._projections[index]
                    if projection is not None and sums.factor is not None:
                        sums.factor += projection(whitened)
                    if held is not None:
                        held[batch_index, self._places[index]] = whitened.to(held)
                    if center is not None:
                        sums.centered += (whitened - center[:, self._places[index]]).square().sum(1)

                gradients.backward(self._by_block(consume))
                found.mean[places] = rewards.cpu()
                found.variance[places] = sums.variance.cpu()
                if center is not None:
                    found.centered[places] = sums.centered.cpu()
                if found.factor is not None and sums.factor is not None:
                    found.factor[places] = sums.factor.cpu()
                self._advance(len(batch))

    def _center_rows(self, group: Tensor, centers: Mapping[int, Center]) -> Tensor:
        """`[b, F]` centre of each row's prompt; NaN where there is none."""
        unknown = torch.full((self.width,), torch.nan, dtype=self.dtype)
        unique, local = torch.unique(group, return_inverse=True)
        stacked = torch.stack([centers[key].factor if key in centers else unknown for key in unique.tolist()])
        return stacked.to(self._means[0])[local.to(self._means[0].device)]

    def _whiten(self, index: int, gradients: Tensor) -> Tensor:
        prior = self._posterior.prior_precisions[index]
        return self._curvatures[index].whiten(gradients, prior) * self._posterior.posterior_temperature**0.5

    def _by_block(self, consume: Callable[[int, Tensor], None]) -> Callable[[int, Tensor, Tensor], None]:
        """A consumer of inputs and gradients that hands on whitened weight gradients, or those of all blocks at once."""
        if not self._whole:
            return lambda index, inputs, gradients: consume(
                index, self._whiten(index, weight_gradients(self._linear[index], inputs, gradients))
            )
        seen: dict[int, Tensor] = {}

        def gather(index: int, inputs: Tensor, gradients: Tensor) -> None:
            seen[index] = weight_gradients(self._linear[index], inputs, gradients).flatten(1)
            if len(seen) == len(self._linear):
                joined = torch.cat([seen[place] for place in range(len(self._linear))], 1)
                consume(0, self._whiten(0, joined.unsqueeze(1)))

        return gather


class _Sums:
    """Sums over the blocks of one batch."""

    def __init__(self, rewards: Tensor, with_factor: bool, columns: int) -> None:
        self.variance = torch.zeros_like(rewards)
        self.centered = torch.zeros_like(rewards)
        self.factor = rewards.new_zeros(len(rewards), columns) if with_factor else None
