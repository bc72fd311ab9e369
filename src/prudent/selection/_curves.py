"""Unbiased best-of-n curves from one pool of candidates, all n at once.

References:
    Nakano et al., WebGPT, https://arxiv.org/abs/2112.09332, 2021, appendix I (the estimator).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards import index_groups
from prudent.selection._scored import NanPolicy, PoolUtility, check_n_values, equal_blocks, scored_rows, sort_rows

__all__ = ["best_of_n_curve"]


def best_of_n_curve(
    utility: Tensor,
    value: Tensor,
    group: Tensor,
    n_values: Sequence[int] | Tensor,
    *,
    nan: NanPolicy = "error",
    made_by: PoolUtility[Any] | None = None,
) -> Tensor:
    """Expected value of the best of n candidates, averaged over *all* subsets of n out of each prompt's pool.

    With the N candidates of a prompt sorted upwards by utility, candidate i is the best of C(i-1, n-1) of the C(N, n)
    subsets; no subset is drawn. Candidates of equal utility share their weight, which is the exact expectation under
    random tie-breaking. At n near N the estimate rests on a handful of candidates.

    Args:
        utility: [N] what the pick maximises. The utility of a response must not depend on which others are present.
        value: [N] or [N, V] what is reported of the pick: gold reward, proxy reward, length, ... (V at once).
        group: [N] integer prompt ids.
        n_values: the L numbers of candidates, each at least 1.
        nan: "error" to refuse NaN in utility or value, "exclude" to leave such candidates out of the pools.
        made_by: the rule or fitted utility that gave the values; refused if it depends on the pool.

    Returns:
        float64 [B, L] or [B, L, V], prompts in ascending order of their ids; NaN where a prompt has fewer than n
        candidates.

    Raises:
        DataError: NaN in utility or value while nan is "error".
        UnsupportedError: what gave the values depends on the pool.
        ValueError: shapes do not agree, or an n is below 1.

    Example:
        >>> import torch
        >>> proxy, gold = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 6.0, 3.0])
        >>> best_of_n_curve(proxy, gold, torch.zeros(3, dtype=torch.long), [1, 2, 3]).round(decimals=6).tolist()
        [[3.0, 4.0, 3.0]]
    """
    if made_by is not None and made_by.depends_on_pool:
        raise UnsupportedError(
            f"{made_by.name!r} depends on the other candidates, so the all-subsets curve does not hold for it: "
            "use resampled_curve, which draws subsets and states the error"
        )
    n = check_n_values(n_values)
    keep = scored_rows(utility, group, nan, value)
    index = index_groups(group)
    columns = value.reshape(len(value), -1)
    out = torch.full((len(index.ids), len(n), columns.shape[1]), torch.nan, dtype=torch.float64, device=value.device)
    log_ways = _log_ways(int(index.counts.max()) if len(index.counts) else 0, n)
    weights, size_of_weights = log_ways, -1
    for prompts, rows, size in equal_blocks(index, keep):
        if size != size_of_weights:
            weights, size_of_weights = _weights(log_ways, size, n).to(value.device), size
        block = utility[rows].reshape(len(prompts), size)
        order = sort_rows(block)
        ranked = torch.gather(block, 1, order)
        tied = ranked[:, 1:] == ranked[:, :-1]
        for column in range(columns.shape[1]):
            picked = torch.gather(columns[rows, column].reshape(len(prompts), size), 1, order).double()
            if bool(tied.any()):
                picked = _average_ties(picked, tied)
            out[prompts, :, column] = picked @ weights
    return out.reshape(len(index.ids), len(n), *value.shape[1:])


def _log_ways(size: int, n: Tensor) -> Tensor:
    """Log C(i-1, n-1), in how many subsets of n the i-th smallest is the best: float64 [size, L], -inf for none."""
    i = torch.arange(1, size + 1, dtype=torch.float64)[:, None]
    return torch.where(i >= n, _log_binomial(i - 1, n.double() - 1), -torch.inf)


def _weights(log_ways: Tensor, size: int, n: Tensor) -> Tensor:
    """The share of the subsets of n out of `size` candidates whose best is the i-th smallest: float64 [size, L].

    Columns sum to 1; a column is NaN where n exceeds `size`.
    """
    total = _log_binomial(torch.tensor(float(size), dtype=torch.float64), n.double())
    weight = (log_ways[:size] - total.masked_fill(n > size, 0.0)).exp()
    # log-gamma leaves a relative error of about 1e-11 at 10,000 candidates, the same for a whole column; 0/0 is NaN
    return weight / weight.sum(0)


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma((n - k).clamp(min=0) + 1)


def _average_ties(ranked: Tensor, tied: Tensor) -> Tensor:
    """Give the values of each run of ties their average, in place.

    Args:
        ranked: [b, n] float64 values in the order of the utility.
        tied: [b, n - 1] booleans, whether a candidate has the utility of the next one.

    Returns:
        `ranked`.
    """
    in_run = torch.zeros_like(ranked, dtype=torch.bool)
    in_run[:, :-1] |= tied
    in_run[:, 1:] |= tied
    goes_on = torch.zeros_like(in_run)
    goes_on[:, 1:] = tied
    level = (~goes_on[in_run]).cumsum(0) - 1
    values = ranked[in_run]
    total = values.new_zeros(int(level[-1]) + 1).index_add_(0, level, values)
    ranked[in_run] = (total / torch.bincount(level))[level]
    return ranked
