"""Batches by tokens, not by rows: texts sorted by length, so that little of a batch is padding."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prudent.models._encoding import EncodedTexts

__all__ = ["Batch", "iterate_batches", "pad_batch", "token_budget_batches"]


@dataclass(frozen=True)
class Batch:
    """A padded batch on a device.

    Attributes:
        index: `[b]` int64, position of each row in the encoded texts.
        inputs: model inputs by name, each `[b, T]`; padding is on the right.
    """

    index: Tensor
    inputs: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.index)


def token_budget_batches(lengths: NDArray[np.int64], tokens_per_batch: int) -> list[NDArray[np.int64]]:
    """Split rows into batches whose padded size stays within a number of tokens.

    Rows are sorted by length, longest first, so that memory peaks in the first batch. A row that alone exceeds the
    budget is a batch of its own.

    Args:
        lengths: `[N]` tokens of each row.
        tokens_per_batch: rows times longest row, at most.

    Returns:
        Index arrays that together hold every row once.

    Example:
        >>> [batch.tolist() for batch in token_budget_batches(np.array([2, 9, 3, 2]), 10)]
        [[1], [2, 0, 3]]
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch is {tokens_per_batch}; it must be positive")
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def pad_batch(encoded: EncodedTexts, index: NDArray[np.int64], pad_token_id: int, device: torch.device) -> Batch:
    """Rows of encoded texts as right-padded tensors on a device."""
    width = max(len(encoded.input_ids[row]) for row in index)
    ids = np.full((len(index), width), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(index), width), dtype=np.int64)
    types = np.zeros((len(index), width), dtype=np.int64)
    for position, row in enumerate(index):
        tokens = encoded.input_ids[row]
        ids[position, : len(tokens)] = tokens
        mask[position, : len(tokens)] = 1
        if encoded.token_type_ids is not None:
            types[position, : len(tokens)] = encoded.token_type_ids[row]
    inputs = {
        "input_ids": torch.from_numpy(ids).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
    }
    if encoded.token_type_ids is not None:
        inputs["token_type_ids"] = torch.from_numpy(types).to(device)
    return Batch(torch.from_numpy(np.asarray(index, dtype=np.int64)), inputs)


def iterate_batches(
    encoded: EncodedTexts, tokens_per_batch: int, pad_token_id: int, device: torch.device
) -> Iterator[Batch]:
    """Padded batches of all rows, longest first."""
    for index in token_budget_batches(encoded.lengths, tokens_per_batch):
        yield pad_batch(encoded, index, pad_token_id, device)
