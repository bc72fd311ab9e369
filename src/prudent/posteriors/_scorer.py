"""What reads texts and says how sure it is: one model with its posterior, or an ensemble of such."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prudent.models import EncodedTexts, Message, RewardModel
from prudent.posteriors._pair_texts import PairTexts, encode_pairs
from prudent.posteriors._protocol import Center, Contrasts, Posterior, Prediction

__all__ = ["ModelScorer", "Scorer", "TokenizedPairs", "TokenizedTexts"]


class TokenizedTexts(Protocol):
    """N texts as a scorer reads them."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[N]` tokens of each."""

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """`[N]` the response was cut."""

    @property
    def prompt_truncated(self) -> NDArray[np.bool_]:
        """`[N]` the prompt was cut."""

    def __len__(self) -> int: ...

    def select(self, index: NDArray[np.int64]) -> "TokenizedTexts":
        """The texts at some places, in that order."""

    def digest(self) -> str:
        """Names the texts as they are read."""


class TokenizedPairs(Protocol):
    """P preference pairs as a scorer reads them."""

    @property
    def label(self) -> Tensor:
        """`[P]` float64 probability that chosen is the better one."""

    @property
    def num_truncated(self) -> int:
        """Texts whose response was cut."""

    def __len__(self) -> int: ...


class Scorer(Protocol):
    """Rewards of texts with their variance, whatever gives them."""

    @property
    def kind(self) -> str:
        """Kind of the posterior, `none` for a model without one, `ensemble` for several models."""

    @property
    def basis_id(self) -> str | None:
        """Names the posterior; what different ones gave cannot be mixed."""

    @property
    def has_variance(self) -> bool:
        """False where the variance is not known."""

    @property
    def num_members(self) -> int:
        """M where there are members, else 0."""

    def identity(self) -> dict[str, Any]:
        """Names everything that rewards depend on, for manifests."""

    def encode(
        self,
        prompts: Sequence[str | Sequence[Message]],
        responses: Sequence[str | Sequence[Message]],
        *,
        strict: bool = False,
        names: Sequence[str] | None = None,
    ) -> TokenizedTexts:
        """Tokens of N prompts with their responses; see `prudent.models.TextEncoder.encode`."""

    def encode_pairs(self, rows: Any, *, strict: bool = False) -> TokenizedPairs:
        """Tokens of preference pairs; see `prudent.posteriors.encode_pairs`."""

    def predict(
        self,
        texts: Any,
        *,
        group: Tensor,
        reference_weight: Tensor,
        centers: Mapping[int, Center] | None = None,
        with_factor: bool = False,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Prediction:
        """Rewards of N texts that this scorer encoded; see `Posterior.predict`."""

    def contrasts(
        self,
        pairs: Any,
        *,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Contrasts:
        """Differences of rewards of P pairs that this scorer encoded; see `Posterior.contrasts`."""

    def exact(self, texts: Any) -> tuple[Tensor, Tensor]:
        """Mean and exact factor of a few texts; see `Posterior.exact`."""

    def center(self, texts: Any) -> Center:
        """The average of a prompt's reference responses."""


@dataclass(frozen=True)
class ModelScorer:
    """One model and its posterior.

    Attributes:
        model: the reward model.
        posterior: fitted on it, or `PlainRewards`.
    """

    model: RewardModel
    posterior: Posterior

    @property
    def kind(self) -> str:
        """Kind of the posterior."""
        return self.posterior.kind

    @property
    def basis_id(self) -> str | None:
        """See `Scorer.basis_id`."""
        return self.posterior.basis_id

    @property
    def has_variance(self) -> bool:
        """See `Scorer.has_variance`."""
        return self.posterior.has_variance

    @property
    def num_members(self) -> int:
        """See `Scorer.num_members`."""
        return self.posterior.num_members

    def identity(self) -> dict[str, Any]:
        """See `Scorer.identity`."""
        head = hashlib.sha256(self.model.head_values()[0].numpy().tobytes()).hexdigest()[:16]
        return {
            "model": f"{self.model.fingerprint()}-{head}",
            "posterior": f"{self.posterior.kind}-{self.posterior.basis_id}",
            "max_length": self.model.max_length,
            "dtype": str(self.model.head.weight.dtype),
        }

    def encode(
        self,
        prompts: Sequence[str | Sequence[Message]],
        responses: Sequence[str | Sequence[Message]],
        *,
        strict: bool = False,
        names: Sequence[str] | None = None,
    ) -> EncodedTexts:
        """See `Scorer.encode`."""
        return self.model.encode(prompts, responses, strict=strict, names=names)

    def encode_pairs(self, rows: Any, *, strict: bool = False) -> PairTexts:
        """See `Scorer.encode_pairs`."""
        return encode_pairs(self.model, rows, strict=strict)

    def predict(
        self,
        texts: EncodedTexts,
        *,
        group: Tensor,
        reference_weight: Tensor,
        centers: Mapping[int, Center] | None = None,
        with_factor: bool = False,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Prediction:
        """See `Scorer.predict`."""
        return self.posterior.predict(
            self.model,
            texts,
            group=group,
            reference_weight=reference_weight,
            centers=centers,
            with_factor=with_factor,
            tokens_per_batch=tokens_per_batch,
            advance=advance,
        )

    def contrasts(
        self,
        pairs: PairTexts,
        *,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Contrasts:
        """See `Scorer.contrasts`."""
        return self.posterior.contrasts(self.model, pairs, tokens_per_batch=tokens_per_batch, advance=advance)

    def exact(self, texts: EncodedTexts) -> tuple[Tensor, Tensor]:
        """See `Scorer.exact`."""
        return self.posterior.exact(self.model, texts)

    def center(self, texts: EncodedTexts) -> Center:
        """See `Scorer.center`."""
        mean, factor = self.exact(texts)
        return Center(float(mean.mean()), factor.mean(0))

    def check(self) -> None:
        """Make sure that model and posterior belong together.

        Raises:
            PosteriorError: they do not.
        """
        self.posterior.check_model(self.model)
