"""Preference pairs as texts that a model reads, each text once."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prudent.data import prompt_groups
from prudent.errors import PosteriorError
from prudent.models import Batch, EncodedTexts, Message, Pooling, RewardModel, pad_batch, token_budget_batches
from prudent.posteriors._gradients import gradient_tokens_per_batch

__all__ = ["PairTexts", "encode_pairs"]


@dataclass(frozen=True)
class PairTexts:
    """M preference pairs, ready to be read by a model.

    Attributes:
        encoded: texts, each once.
        chosen: `[M]` place of each pair's chosen text among them.
        rejected: `[M]` place of the rejected one.
        group: `[M]` number of each pair's prompt; see `prudent.data.prompt_groups`.
        label: `[M]` float64 probability that chosen is the better one.
        margin: `[M]` float64 by how much its reward should exceed the other.
        rows: `[M]` row of each pair in the file, for messages.
    """

    encoded: EncodedTexts
    chosen: Tensor
    rejected: Tensor
    group: Tensor
    label: Tensor
    margin: Tensor
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def num_truncated(self) -> int:
        """Texts whose response was cut."""
        return int(self.encoded.truncated.sum())

    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the pairs as the model reads them."""
        digest = hashlib.sha256(self.encoded.digest().encode())
        for tensor in (self.chosen, self.rejected, self.label, self.margin):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def batches(
        self, model: RewardModel, subset: Tensor, tokens_per_batch: int | None
    ) -> Iterator[tuple[Tensor, Batch]]:
        """Padded batches of whole pairs, longest first: positions of k pairs, and their 2 k texts, chosen first."""
        lengths = self.encoded.lengths
        longer = np.maximum(lengths[self.chosen[subset].numpy()], lengths[self.rejected[subset].numpy()])
        pad = model.config.get_text_config().pad_token_id
        for part in token_budget_batches(2 * longer, gradient_tokens_per_batch(model, tokens_per_batch)):
            pairs = subset[torch.from_numpy(part)]
            texts = torch.cat([self.chosen[pairs], self.rejected[pairs]]).numpy()
            yield pairs, pad_batch(self.encoded, texts, pad, model.device)

    def features(
        self, model: RewardModel, pooling: Pooling, tokens_per_batch: int | None, advance: Callable[[int], None]
    ) -> tuple[Tensor, Tensor]:
        """Features `[n, H]` and rewards `[n]` of the texts, each read once.

        Args:
            model: that reads.
            pooling: what the features are.
            tokens_per_batch: padded tokens of a batch.
            advance: called with the number of pairs done, or nearly so.
        """
        done = 0

        def count(texts: int) -> None:
            nonlocal done
            before, done = done * len(self) // len(self.encoded), done + texts
            advance(done * len(self) // len(self.encoded) - before)

        return model.features(self.encoded, pooling=pooling, tokens_per_batch=tokens_per_batch, advance=count)

    def contrasts_of_features(
        self, model: RewardModel, pooling: Pooling, tokens_per_batch: int | None, advance: Callable[[int], None]
    ) -> tuple[Tensor, Tensor]:
        """Differences between chosen and rejected: `[M, H]` float32 of their features, `[M]` float64 of their rewards.

        Args:
            model: that reads.
            pooling: what the features are.
            tokens_per_batch: padded tokens of a batch.
            advance: called with the number of pairs done, or nearly so.

        Raises:
            PosteriorError: a reward is not finite; the row is named.
        """
        features, rewards = self.features(model, pooling, tokens_per_batch, advance)
        difference = features[self.chosen] - features[self.rejected]
        contrast = rewards[self.chosen].double() - rewards[self.rejected].double()
        everything = torch.arange(len(self))
        self.require_finite(contrast, everything, "reward")
        self.require_finite(difference.sum(1), everything, "feature")
        return difference, contrast

    def require_finite_features(self, features: Tensor) -> None:
        """Make sure that the features `[n, H]` of the texts are finite.

        Raises:
            PosteriorError: some are not; the row of the first pair with such a text is named.
        """
        finite = features.isfinite().all(1)
        both = finite[self.chosen] & finite[self.rejected]
        self.require_finite(torch.where(both, 0.0, torch.nan), torch.arange(len(self)), "feature")

    def require_finite(self, values: Tensor, positions: Tensor, what: str) -> None:
        """Make sure that a value of each of some pairs is finite.

        Args:
            values: `[k]` on CPU.
            positions: `[k]` which pairs they are of.
            what: they are.

        Raises:
            PosteriorError: one is not; its row is named.
        """
        faulty = [self.rows[place] for place in positions[~values.isfinite()].tolist()]
        if faulty:
            raise PosteriorError(
                f"the {what} of {len(faulty)} pairs is not finite (row {min(faulty)} first); the model overflows "
                "there, load it in float32 or leave those rows out"
            )


def encode_pairs(model: RewardModel, rows: Any, *, strict: bool = False) -> PairTexts:
    """Tokenise M pairs; a text that stands in several of them is there once.

    Args:
        model: whose tokenizer reads.
        rows: of `prudent.data.load_preferences`.
        strict: an over-long text is an error.

    Raises:
        DataError: `strict` and a text is too long.
    """
    seen: dict[str, int] = {}
    prompts: list[list[Message]] = []
    responses: list[list[Message]] = []
    names: list[str] = []
    known_prompts: dict[str, list[Message]] = {}
    positions: dict[str, list[int]] = {"chosen": [], "rejected": []}
    for row in rows:
        prompt_key = json.dumps(row["prompt"])
        prompt = known_prompts.setdefault(prompt_key, row["prompt"])
        for side, found in positions.items():
            key = prompt_key + json.dumps(row[side])
            if key not in seen:
                seen[key] = len(prompts)
                prompts.append(prompt)
                responses.append(row[side])
                names.append(f"row {row['row']}, {side}")
            found.append(seen[key])

    def column(name: str, default: float) -> Tensor:
        values = rows[name] if name in rows.column_names else [default] * len(rows)
        return torch.tensor(values, dtype=torch.float64)

    return PairTexts(
        encoded=model.encode(prompts, responses, strict=strict, names=names),
        chosen=torch.tensor(positions["chosen"]),
        rejected=torch.tensor(positions["rejected"]),
        group=torch.tensor(prompt_groups(rows["prompt"])),
        label=column("p_chosen", 1.0),
        margin=column("margin", 0.0),
        rows=list(rows["row"]),
    )
