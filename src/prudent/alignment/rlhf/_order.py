"""The order of prompts, the same after an interruption as without one."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

__all__ = ["OrderOfEpoch"]


class OrderOfEpoch(Sampler[int]):
    """TRL's sampler, whose order depends on the epoch alone.

    TRL draws an order at the start of each epoch from a generator that no checkpoint holds: training resumed in a later
    epoch would get the first epoch's order again. Here the generator starts anew each time and draws the orders of the
    epochs passed first, which gives what TRL gives without an interruption.

    Args:
        sampler: TRL's `RepeatSampler`.
        epoch: tells how many epochs have passed, when the order is asked for.
    """

    def __init__(self, sampler: Any, epoch: Callable[[], float]) -> None:
        self._sampler, self._epoch = sampler, epoch

    def __iter__(self) -> Iterator[int]:
        if self._sampler.shuffle:
            generator = self._sampler.generator.manual_seed(self._sampler.seed)
            for _ in range(int(self._epoch())):
                torch.randperm(self._sampler.num_samples, generator=generator)
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)
