"""Tokens drawn so that each response has chance of its own, whatever else is in the batch."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from prudent.errors import ModelError

__all__ = ["TokenDraws", "uniforms", "warpers"]


def uniforms(seed: int, prompt: str, candidate: int, count: int) -> NDArray[np.float64]:
    """The numbers in [0, 1) by which the tokens of one response are drawn.

    They depend on these three alone; asking for more of them, or for more candidates, leaves the first as they were.

    Args:
        seed: of the whole run.
        prompt: what names the prompt.
        candidate: number of the response among those of its prompt.
        count: how many.

    Example:
        >>> few, more = uniforms(0, "a", 3, 2), uniforms(0, "a", 3, 5)
        >>> bool((few == more[:2]).all())
        True
    """
    key = hashlib.blake2b(f"{seed}\0{prompt}\0{candidate}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big"))).random(count)


def warpers(temperature: float, top_k: int, top_p: float) -> LogitsProcessorList:
    """Temperature, then top-k, then top-p, as Transformers samples; those that change nothing are left out."""
    found = LogitsProcessorList()
    if temperature != 1.0:
        found.append(TemperatureLogitsWarper(temperature))
    if top_k:
        found.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        found.append(TopPLogitsWarper(top_p))
    return found


class TokenDraws(LogitsProcessor):  # type: ignore[misc]
    """Draws each next token by inverting its distribution at a number given beforehand.

    `generate` draws all rows of a batch from one stream of random numbers, so that a response would depend on its
    neighbors and on where a run was cut off. Here every row brings its own numbers: of the next token's distribution
    the token is taken at which the cumulative probability passes the number, and all others are ruled out, so that
    `generate` is to decode greedily.

    Args:
        numbers: `[b, T]` in [0, 1), a row a response, a column a step.
        warp: what temperature and cuts make of the logits.
        advance: called after each step.
    """

    def __init__(self, numbers: Tensor, warp: LogitsProcessorList, advance: Callable[[], None]) -> None:
        self._numbers = numbers
        self._warp = warp
        self._advance = advance
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[b, V]` of which all but the drawn token's are minus infinity.

        Raises:
            ModelError: the policy's logits are not finite.
        """
        warped = self._warp(input_ids, scores.float())
        # Apple's devices have no float64; elsewhere sums over a large vocabulary deserve it.
        exact = torch.float32 if scores.device.type == "mps" else torch.float64
        cumulative = torch.softmax(warped.to(exact), -1).cumsum(-1)
        total = cumulative[:, -1:].contiguous()
        if not bool(total.isfinite().all()):
            raise ModelError("the policy's logits are not finite; read it in another dtype")
        self._numbers = self._numbers.to(scores.device, exact)  # once
        wanted = self._numbers[:, self._step, None] * total
        # where the number rounds to 1, the last token that may be drawn: the first to reach the total
        last = torch.searchsorted(cumulative, total)
        token = torch.searchsorted(cumulative, wanted, right=True).minimum(last)
        self._step += 1
        self._advance()
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)
