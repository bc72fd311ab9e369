"""Preference rows as token ids, in memory or as a stream, and their way into padded batches."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler

from prudent.errors import DataError
from prudent.models import EncodedTexts, RewardModel, pad_batch

__all__ = ["LengthGroupedOrder", "Pair", "PairCollator", "PairDataset", "PairStream", "TruncationCount"]

_CHUNK_PAIRS = 256
_GROUPED_BATCHES = 16
_SHUFFLE_BUFFER = 1_000


class Pair(TypedDict):
    """A preference as the collator takes it: ids (and segment ids) of both texts, and its label."""

    ids: tuple[NDArray[np.int32], NDArray[np.int32]]
    types: tuple[NDArray[np.int32], NDArray[np.int32]] | None
    margin: float
    p_chosen: float


class TruncationCount:
    """Counts texts that are cut while pairs are encoded.

    Args:
        max_length: the limit, for the message.
        strict: the first cut text is an error.

    Attributes:
        responses: texts whose response lost its end.
        prompts: texts whose prompt lost its beginning.
    """

    def __init__(self, max_length: int, *, strict: bool) -> None:
        self.responses = 0
        self.prompts = 0
        self._max_length = max_length
        self._strict = strict

    def add(self, encoded: EncodedTexts, rows: list[int]) -> None:
        """Count some texts: the chosen ones of these source rows, then the rejected ones.

        Raises:
            DataError: strict, and a text was cut.
        """
        self.responses += int(encoded.truncated.sum())
        self.prompts += int(encoded.prompt_truncated.sum())
        cut = np.flatnonzero(encoded.truncated | encoded.prompt_truncated)
        if self._strict and len(cut):
            sides = ("chosen", "rejected")
            shown = ", ".join(f"row {rows[at % len(rows)]} ({sides[at // len(rows)]})" for at in cut[:5])
            raise DataError(
                f"texts exceed {self._max_length} tokens: {shown}{', ...' if len(cut) > 5 else ''}; "
                "raise max_length, shorten them, or leave out strict to have them cut"
            )


def encode_pairs(model: RewardModel, rows: Iterable[Mapping[str, Any]], count: TruncationCount) -> Iterator[Pair]:
    """Encode canonical preference rows, some hundred at a time.

    Args:
        model: gives tokenizer, template and length limit.
        rows: canonical rows; `row` is their number in the source where they carry it.
        count: what is cut is added here.

    Yields:
        One pair a row, in order.
    """
    remaining = iter(rows)
    start = 0
    while chunk := list(islice(remaining, _CHUNK_PAIRS)):
        prompts = [row["prompt"] for row in chunk]
        responses = [row["chosen"] for row in chunk] + [row["rejected"] for row in chunk]
        encoded = model.encode(prompts + prompts, responses)
        count.add(encoded, [int(row.get("row", start + offset)) for offset, row in enumerate(chunk)])
        ids = [np.asarray(text, dtype=np.int32) for text in encoded.input_ids]
        segments = encoded.token_type_ids
        types = None if segments is None else [np.asarray(text, dtype=np.int32) for text in segments]
        size = len(chunk)
        for offset, row in enumerate(chunk):
            yield Pair(
                ids=(ids[offset], ids[size + offset]),
                types=None if types is None else (types[offset], types[size + offset]),
                margin=float(row.get("margin", 0.0)),
                p_chosen=float(row.get("p_chosen", 1.0)),
            )
        start += size


class PairDataset(Dataset[Pair]):
    """Encoded pairs in memory."""

    def __init__(self, pairs: list[Pair]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[index]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[pairs]` tokens of the longer text of each pair, which sets the width of its batch."""
        return np.fromiter((max(map(len, pair["ids"])) for pair in self._pairs), np.int64, len(self._pairs))

    def longest_first(self) -> "PairDataset":
        """The same pairs sorted by length, for evaluation."""
        return PairDataset([self._pairs[index] for index in np.argsort(-self.lengths, kind="stable")])


class PairStream(IterableDataset[Pair]):
    """Pairs encoded while they are read, shuffled in a buffer, pass after pass without end."""

    def __init__(self, model: RewardModel, rows: Any, count: TruncationCount, seed: int) -> None:
        self._model = model
        self._rows = rows
        self._count = count
        self._seed = seed

    def __iter__(self) -> Iterator[Pair]:
        shuffled = self._rows.shuffle(seed=self._seed, buffer_size=_SHUFFLE_BUFFER)

        def one_pass(epoch: int) -> Iterator[Mapping[str, Any]]:
            shuffled.set_epoch(epoch)
            yield from shuffled

        epochs = iter(range(2**31))
        return encode_pairs(self._model, chain.from_iterable(map(one_pass, epochs)), self._count)


class LengthGroupedOrder(Sampler[int]):
    """A shuffled order in which pairs of a batch have similar lengths, so that little of it is padding.

    Pairs are shuffled, sorted by length within groups of some batches, and the batches shuffled again. The order
    depends on seed and epoch alone, so that a resumed run finds the same.

    Args:
        lengths: `[pairs]` tokens of each pair.
        batch_size: pairs of one optimizer step.
        seed: of the shuffles.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch from the next iteration on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(len(self._lengths))
        size = self._batch_size * _GROUPED_BATCHES
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        order = np.concatenate([group[np.argsort(-self._lengths[group], kind="stable")] for group in groups])
        # The last, smaller batch stays last: moved forward it would shift the borders of all others.
        full = len(order) // self._batch_size * self._batch_size
        batches = order[:full].reshape(-1, self._batch_size)
        shuffled = batches[generator.permutation(len(batches))].reshape(-1)
        return iter(np.concatenate([shuffled, order[full:]]).tolist())


class PairCollator:
    """Pairs to model inputs: rows of the chosen texts, then rows of the rejected ones, padded on the right as TRL does.

    Args:
        pad_token_id: of the model.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, pairs: list[Pair]) -> dict[str, Tensor]:
        sides = [(pair, side) for side in (0, 1) for pair in pairs]
        ids = [pair["ids"][side].tolist() for pair, side in sides]
        types = [pair["types"][side].tolist() for pair, side in sides if pair["types"] is not None] or None
        uncut = np.zeros(len(ids), dtype=bool)
        encoded = EncodedTexts(ids, types, uncut, uncut)
        batch = pad_batch(encoded, np.arange(len(ids)), self._pad_token_id, torch.device("cpu"))
        return {
            **batch.inputs,
            "margin": torch.tensor([pair["margin"] for pair in pairs]),
            "p_chosen": torch.tensor([pair["p_chosen"] for pair in pairs]),
        }
