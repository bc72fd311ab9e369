"""Curves of strategies whose pick depends on all candidates present, by drawing subsets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from prudent.errors import DataError
from prudent.rewards import index_groups
from prudent.selection._curves import top_k_curve
from prudent.selection._pools import Pools, directions, no_embeddings
from prudent.selection._scored import NanPolicy, check_n_values, equal_blocks, scored_rows, sort_rows
from prudent.selection._strategies import MinimumBayesRisk, Strategy, TopK

__all__ = ["StrategyCurves", "strategy_curve"]

_MAX_SUBSETS = 16
"""Subsets that one order of a pool is cut into, at most: at small n many are cheap."""

_CUT_CANDIDATES = 2048
"""Candidates of an order that are cut into subsets, at most; one subset in any case."""

_OWN_ORDERS_UP_TO = 2048
"""Candidates of the largest pools whose replicates are drawn for each pool apart.

Larger pools, each in a random order of its own, share a list of orders. Their replicates are then as independent as the
shared orders happen to be: the true variance is 1 +- 1.4 / sqrt(N) of the stated one.
"""

_BLOCK_ELEMENTS = 1 << 18
"""Numbers of a block of subsets: it stays in the cache."""


@dataclass(frozen=True)
class StrategyCurves:
    """What S strategies pick out of n, for L numbers n.

    Attributes:
        mean: [S, B, L] or [S, B, L, V] float64, expected value of the pick; NaN where a prompt has fewer than n
            candidates.
        standard_error: float64 of the same shape, Monte Carlo standard error of `mean` (not the spread between
            prompts). Zero at n = 1, at n = N and for `TopK`, which are exact; elsewhere it says that every subset led
            to the same value. Errors are independent between prompts but not between strategies and n, which share
            subsets: differences along a curve are the surer for it.
        num_resamples: independent replicates for each prompt and n.
    """

    mean: Tensor
    standard_error: Tensor
    num_resamples: int


def strategy_curve(
    strategies: Sequence[Strategy],
    utility: Tensor,
    value: Tensor,
    group: Tensor,
    n_values: Sequence[int] | Tensor,
    *,
    embedding: Tensor | None = None,
    num_resamples: int = 16,
    generator: Generator | None = None,
    nan: NanPolicy = "error",
    advance: Callable[[int], None] | None = None,
) -> StrategyCurves:
    """Expected value of what strategies pick out of n candidates, by drawn subsets of each prompt's pool.

    In a subset the expectation over the strategy's own randomness is exact, so only the subset is drawn. One replicate
    is a random order of the pool, cut for small n into several subsets that share no candidate; all strategies and all
    n see the same orders. `TopK` has a closed form over all subsets and is not drawn.

    Args:
        strategies: S of them.
        utility: [N] what each response is worth: finite.
        value: [N] or [N, V] what is reported of the pick: gold reward, proxy reward, length, ... (V at once).
        group: [N] integer prompt ids, in any order.
        n_values: the L numbers of candidates, each at least 1.
        embedding: [N, D] of the responses; `MinimumBayesRisk` alone needs them.
        num_resamples: at least 2 replicates for each prompt and n.
        generator: source of the subsets; seed 0 by default.
        nan: "error" to refuse NaN in utility, value or embedding, "exclude" to leave such candidates out.
        advance: called with the number of prompts done, B in all.

    Returns:
        Means and Monte Carlo standard errors, prompts in ascending order of their ids.

    Raises:
        DataError: NaN while nan is "error", an infinite utility, or embeddings are needed and not given.
        ValueError: no strategies, shapes do not agree, an n is below 1, or num_resamples is below 2.

    Example:
        >>> import torch
        >>> from prudent.selection import Pessimism, SoftBestOfN
        >>> proxy, gold = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 6.0, 3.0])
        >>> strategies = [SoftBestOfN(0.01), Pessimism(1.0)]
        >>> curves = strategy_curve(strategies, proxy, gold, torch.zeros(3, dtype=torch.long), [1, 3])
        >>> curves.mean.tolist(), curves.standard_error.tolist()
        ([[[3.0, 3.0]], [[3.0, 3.5]]], [[[0.0, 0.0]], [[0.0, 0.0]]])
    """
    if not strategies:
        raise ValueError("strategies must be at least one")
    if num_resamples < 2:
        raise ValueError(f"num_resamples must be at least 2 to state an error, got {num_resamples}")
    if value.dim() not in (1, 2):
        raise ValueError(f"value must have shape [N] or [N, V], got {list(value.shape)}")
    n = check_n_values(n_values)
    if not any(isinstance(strategy, MinimumBayesRisk) for strategy in strategies):
        embedding = None
    elif embedding is None:
        raise no_embeddings()
    keep = scored_rows(utility, group, nan, value, *(() if embedding is None else (embedding,)))
    if bool((keep & utility.isinf()).any()):
        raise DataError(f"the utility of row {int((keep & utility.isinf()).nonzero()[0])} is infinite: leave it out")
    generator = Generator().manual_seed(0) if generator is None else generator
    index = index_groups(group)
    columns = value.reshape(len(value), -1)
    columns = columns if columns.is_floating_point() else columns.double()
    shape = (len(strategies), len(index.ids), len(n), columns.shape[1])
    mean = torch.full(shape, torch.nan, dtype=torch.float64, device=value.device)
    error = mean.clone()
    shares = {place: strategy.share_of for place, strategy in enumerate(strategies) if isinstance(strategy, TopK)}
    if shares:
        # a candidate that is left out for want of an embedding is left out here too
        known = columns if embedding is None else columns.masked_fill(~keep[:, None], torch.nan)
        mean[list(shares)] = top_k_curve(utility, known, group, n, list(shares.values()), nan=nan)
        error[list(shares)] = mean[list(shares)] * 0
    drawn = {place: strategy for place, strategy in enumerate(strategies) if place not in shares}
    num_done = 0
    blocks = equal_blocks(index, keep, 1 if embedding is None else embedding.shape[1]) if drawn else ()
    for prompts, rows, size in blocks:
        vectors = None if embedding is None else directions(embedding[rows])
        pools = _Shuffled.draw(size, utility[rows], columns[rows], vectors, generator)
        num_apart = len(prompts) if size <= _OWN_ORDERS_UP_TO else 1
        orders = _random_orders(num_apart * num_resamples, size, generator).to(utility.device)
        orders = orders.reshape(num_apart, num_resamples, size)
        for column, number in enumerate(n.tolist()):
            if number <= size:
                replicates = pools.replicates(list(drawn.values()), number, orders)
                for place, found in zip(drawn, replicates, strict=True):
                    mean[place, prompts, column] = found.mean(1)
                    if found.shape[1] > 1:
                        error[place, prompts, column] = found.std(1) / num_resamples**0.5
                    else:
                        error[place, prompts, column] = 0
        num_done += len(prompts)
        if advance is not None:
            advance(len(prompts))
    if advance is not None:
        advance(len(index.ids) - num_done)
    reported = (len(strategies), len(index.ids), len(n), *value.shape[1:])
    return StrategyCurves(mean.reshape(reported), error.reshape(reported), num_resamples)


@dataclass(frozen=True)
class _Shuffled:
    """b pools of N candidates, each in a random order of its own: equal columns of them are independent subsets.

    In float32, which is exact enough once utilities are relative to the highest of a pool, and values to their average.

    Attributes:
        utility: [b, N], at most 0.
        values: [V, b, N], with average 0.
        center: [b, V] float64, what was subtracted from the values.
        embedding: [b, N, D] directions, or None.
    """

    utility: Tensor
    values: Tensor
    center: Tensor
    embedding: Tensor | None

    @classmethod
    def draw(cls, size: int, utility: Tensor, columns: Tensor, embedding: Tensor | None, generator: Generator) -> Self:
        """Shuffle pools of `size` candidates, given one after the other: [b * N], [b * N, V], [b * N, D]."""
        orders = _random_orders(len(utility) // size, size, generator).to(utility.device)
        rows = orders + size * torch.arange(len(orders), device=orders.device)[:, None]
        values = torch.stack([column[rows] for column in columns.double().unbind(1)])
        center = values.mean(2, keepdim=True)
        utility = utility[rows]
        return cls(
            (utility - utility.amax(1, keepdim=True)).float(),
            (values - center).float(),
            center[:, :, 0].T,
            None if embedding is None else embedding[rows],
        )

    def replicates(self, strategies: Sequence[Strategy], n: int, orders: Tensor) -> Iterator[Tensor]:
        """Expected values float64 [b, R, V] of what each strategy picks out of n; R = 1 where there is no chance in it.

        Args:
            strategies: S of them.
            n: at most N.
            orders: [b, R, N] of the columns, or [1, R, N] for all pools.
        """
        size = self.utility.shape[1]
        if n == 1:
            return iter([self.center[:, None]] * len(strategies))
        if n == size:
            return iter(self._picks(strategies, orders[:, :1]))
        cuts = max(1, min(min(size, _CUT_CANDIDATES) // n, _MAX_SUBSETS))
        subsets = orders[:, :, : cuts * n].reshape(len(orders), -1, n)
        width = 1 if self.embedding is None else self.embedding.shape[2]
        parts = torch.split(subsets, max(1, _BLOCK_ELEMENTS // (len(self.utility) * n * width)), 1)
        picks = torch.cat([self._picks(strategies, part) for part in parts], 2)
        return iter(picks.reshape(*picks.shape[:2], orders.shape[1], cuts, -1).mean(3))

    def _picks(self, strategies: Sequence[Strategy], subsets: Tensor) -> Tensor:
        """Expected values float64 [S, b, m, V] of the picks from m subsets of columns [b or 1, m, n]."""
        num_subsets, n = subsets.shape[1:]
        columns = subsets.flatten(1).expand(len(self.utility), -1)
        embedding = None
        if self.embedding is not None:
            rows = columns + self.utility.shape[1] * torch.arange(len(columns), device=columns.device)[:, None]
            embedding = self.embedding.flatten(0, 1)[rows].reshape(-1, n, self.embedding.shape[2])
        pools = Pools(self.utility.gather(1, columns).reshape(-1, n), embedding)
        values = [value.gather(1, columns).reshape(-1, n) for value in self.values]
        picks = []
        for strategy in strategies:
            weights = strategy.weights(pools)
            total = weights.sum(1)
            picks.append(torch.stack([torch.linalg.vecdot(weights, value) / total for value in values], 1))
        found = torch.stack(picks).double().reshape(len(strategies), len(self.utility), num_subsets, -1)
        return found + self.center[:, None]


def _random_orders(number: int, size: int, generator: Generator) -> Tensor:
    """[number, size] int64, each row a random order of `size` places."""
    return sort_rows(torch.rand(number, size, dtype=torch.float64, generator=generator, device=generator.device))
