"""Laplace posterior over LoRA weights and the reward head: rewards with exact variances from one backward pass.

A reward is taken linear in the weights around those of the trained model, `r = r_MAP + J (theta - theta_MAP)`, with
`theta ~ N(theta_MAP, (H + prior precision)^-1)` and H the curvature of the pair likelihood (arXiv 2308.13111,
2402.13210).
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.models import EncodedTexts, RewardModel
from prudent.posteriors._blocks import LinearBlock, find_blocks
from prudent.posteriors._curvature import BlockCurvature
from prudent.posteriors._lora_contrasts import lora_contrasts
from prudent.posteriors._lora_reader import Found, Reader
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._projection import PROJECTION, STORED_COLUMNS
from prudent.posteriors._protocol import Center, Contrasts, Prediction, check_head

__all__ = ["LoraLaplacePosterior", "Structure"]

Structure = Literal["kron", "ekfac", "diag", "full"]
"""What is kept of the curvature: Kronecker factors, their eigenbasis with true eigenvalues, the diagonal, all of it."""

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
    def num_members(self) -> int:
        """Zero."""
        return 0

    @cached_property
    def basis_id(self) -> str:
        """Names this covariance and its projection."""
        digest = hashlib.sha256(f"{self.structure} {PROJECTION}".encode())
        digest.update(struct.pack(f"{len(self.prior_precisions)}d", *self.prior_precisions))
        digest.update(struct.pack("d", self.posterior_temperature))
        for name, tensor in sorted(self._tensors().items()):
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
        whitened gradients held on CPU, then the others of those prompts: memory for 4 P bytes a reference response of
        one prompt at least, up to 256 MiB where several prompts fit in that.
        """
        reader = Reader(self, model, with_factor, tokens_per_batch, advance)
        known = dict(centers or {})
        # Where a centre is given, the reference responses here are but a part of those it averages.
        given = torch.tensor(list(known), dtype=group.dtype)
        is_reference = (reference_weight > 0) & ~torch.isin(group, given)
        size = len(encoded)
        found = Found(size, self.factor_size if with_factor else 0, reader.dtype)
        for prompts in self._chunks(group, is_reference, known):
            references = prompts[is_reference[prompts]]
            if len(references):
                held = torch.empty(len(references), reader.width, dtype=reader.dtype)
                reader.read(encoded, references, found, held=held)
                local_group = group[references]
                weight = reference_weight[references].to(held)
                for key in torch.unique(local_group).tolist():
                    rows = torch.nonzero(local_group == key).flatten()
                    share = weight[rows] / weight[rows].sum()
                    # Row by row: a copy of the references of one prompt can be gigabytes.
                    center = torch.zeros(reader.width, dtype=reader.dtype)
                    for row, part in zip(rows.tolist(), share.tolist(), strict=True):
                        center.add_(held[row], alpha=part)
                    known[key] = Center(float(share @ found.mean[references[rows]]), center)
                    for row in rows.tolist():
                        found.centered[references[row]] = (held[row] - center).square().sum()
                del held
            others = prompts[~is_reference[prompts]]
            reader.read(encoded, others, found, group=group, centers=known)
            for key in torch.unique(group[prompts]).tolist():
                if key in known:
                    found.reference[prompts[group[prompts] == key]] = known[key].mean
                    if key not in (centers or {}):
                        del known[key]
        return found.prediction()

    def contrasts(
        self,
        model: RewardModel,
        pairs: PairTexts,
        *,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Contrasts:
        """See `prudent.posteriors.Posterior.contrasts`."""
        mean, variance = lora_contrasts(self, model, pairs, tokens_per_batch=tokens_per_batch, advance=advance)
        return Contrasts(mean, variance[:, 0], torch.zeros_like(mean))

    def exact(self, model: RewardModel, encoded: EncodedTexts) -> tuple[Tensor, Tensor]:
        """See `prudent.posteriors.Posterior.exact`."""
        reader = Reader(self, model, False, None, lambda amount: None)
        found = Found(len(encoded), 0, reader.dtype)
        held = torch.empty(len(encoded), reader.width, dtype=reader.dtype)
        reader.read(encoded, torch.arange(len(encoded)), found, held=held)
        return found.mean, held

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `prudent.posteriors.Posterior.state`."""
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
        return self._tensors(), entries

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
        """The model's blocks, which must be those of the fit; see `prudent.posteriors.Posterior.check_model`.

        Raises:
            PosteriorError: the model has other LoRA layers or another head.
            UnsupportedError: it has another kind of adapter.
        """
        blocks = find_blocks(model)
        here = [(block.name, block.shape) for block in blocks]
        if self.structure == "full":
            same = sum(rows * columns for _, (rows, columns) in here) == self.num_parameters
        else:
            same = here == [(block.name, block.shape) for block in self.blocks]
        if not same:
            raise PosteriorError("the model's LoRA layers are not those that the posterior was fitted on; fit it again")
        check_head(self.head_weight, model)
        return blocks

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"gradient_mean": self.gradient_mean, "head_weight": self.head_weight}
        for block in self.blocks:
            parts = {
                "eigenvalues": block.eigenvalues,
                "small_basis": block.small_basis,
                "large_basis": block.large_basis,
                "remainder": block.remainder,
            }
            tensors |= {f"{block.name}/{name}": part for name, part in parts.items() if part is not None}
        return tensors

    def _chunks(self, group: Tensor, is_reference: Tensor, known: Mapping[int, Center]) -> Iterator[Tensor]:
        """Texts of a few prompts at a time, so that the held gradients of their references fit in memory."""
        order = torch.argsort(group, stable=True)
        _, sizes = torch.unique_consecutive(group[order], return_counts=True)
        rows_at_once = max(1, _HELD_BYTES // (4 * self.num_parameters))
        held = 0
        chunk: list[Tensor] = []
        for rows in torch.split(order, sizes.tolist()):
            count = int(is_reference[rows].sum())
            count += int(count > 0 or int(group[rows[0]]) in known)
            if chunk and held + count > rows_at_once:
                yield torch.cat(chunk)
                chunk, held = [], 0
            chunk.append(rows)
            held += count
        if chunk:
            yield torch.cat(chunk)
