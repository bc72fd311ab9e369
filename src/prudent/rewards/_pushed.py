"""Marginals of a function of a reward."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from prudent.rewards._marginal import Marginal, block_or_rows, check_level
from prudent.rewards._tails import log_expected_exp

__all__ = ["PushedMarginal", "apply_elementwise"]

_BISECTIONS = 60
_OUTER = 1e-15


class PushedMarginal(Marginal):
    """t = function(r) of single responses, by the nodes of the distribution of r.

    Args:
        base: the distributions of r.
        function: maps points [S, N] and the parameters to points [S, N], element by element.
        parameters: [N] or [N, R], what the function needs to know of each response.
        increasing: the function never falls as r grows. Quantiles and probabilities are then those of r, moved; without
            it they have the resolution of the nodes: of a Gaussian, the function at points 0.1 standard deviations
            apart, and probabilities off by up to 0.02 for each place where the function passes the threshold.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> base = GaussianRewards(torch.tensor([0.0]), torch.tensor([1.0])).marginal()
        >>> logit_normal = PushedMarginal(base, torch.sigmoid, increasing=True)
        >>> round(logit_normal.mean.item(), 6), round(logit_normal.quantile(0.1).item(), 6)
        (0.5, 0.217286)
    """

    def __init__(
        self,
        base: Marginal,
        function: Callable[..., Tensor],
        parameters: tuple[Tensor, ...] = (),
        *,
        increasing: bool = False,
    ) -> None:
        self._base = base
        self._function = function
        self._parameters = parameters
        self._increasing = increasing
        self.num_members, self.num_nodes = base.num_members, base.num_nodes
        self.is_discrete, self.is_sample = base.is_discrete, base.is_sample

    def __len__(self) -> int:
        return len(self._base)

    def __getitem__(self, index: slice | Tensor) -> "PushedMarginal":
        rows = index
        if self._parameters:
            rows = block_or_rows(index, len(self), self._parameters[0].device)
        parameters = tuple(parameter[rows] for parameter in self._parameters)
        return PushedMarginal(self._base[rows], self._function, parameters, increasing=self._increasing)

    def nodes(self) -> tuple[Tensor, Tensor]:
        """The base's nodes, moved, and their weights."""
        values, weights = self._base.nodes()
        return self._apply(values), weights

    def draws(self, normals: Tensor) -> Tensor:
        """The base's draws, moved."""
        return self._apply(self._base.draws(normals))

    def points(self, z: Tensor) -> Tensor:
        """The base's points, moved."""
        values = self._base.points(z)
        return self._apply(values.flatten(0, 1)).reshape(values.shape)

    def log_expected_exp(self, scale: float) -> Tensor:
        """See `Marginal.log_expected_exp`; the function is taken not to turn between points half an octave apart."""
        if self.is_discrete:
            return super().log_expected_exp(scale)
        return self._by_block(partial(log_expected_exp, scale=scale))

    def quantile(self, level: float) -> Tensor:
        """See `Marginal.quantile`."""
        check_level(level)
        if not self._increasing:
            return super().quantile(level)
        return self._by_block(lambda block: block._apply(block._base.quantile(level)[None])[0])

    def prob_above(self, threshold: float | Tensor) -> Tensor:
        """See `Marginal.prob_above`."""
        if not self._increasing or self.is_discrete:
            return super().prob_above(threshold)
        bounds = torch.as_tensor(threshold, dtype=torch.float64).expand(len(self))
        return self._by_block(PushedMarginal._inverted, bounds)

    def _inverted(self, threshold: Tensor) -> Tensor:
        """P(t > threshold) [n], by where the function passes it."""
        ends = self._base.quantile(_OUTER), self._base.quantile(1 - _OUTER)
        threshold = threshold.to(ends[0])
        # where the function comes to equal the threshold, and where it leaves it: what lies between is tied
        reached = self._passes(lambda values: values >= threshold, *ends)
        left = self._passes(lambda values: values > threshold, *ends)
        return 0.5 * (self._base.prob_above(reached) + self._base.prob_above(left))

    def _passes(self, beyond: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
        """The smallest r [n] between two bounds from where on the function is `beyond`."""
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            passed = beyond(self._apply(middle[None])[0])
            low, high = torch.where(passed, low, middle), torch.where(passed, middle, high)
        return high

    def _apply(self, values: Tensor) -> Tensor:
        return apply_elementwise(self._function, values, self._parameters).double()


def apply_elementwise(function: Callable[..., Tensor], values: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    """function(values [S, N], *parameters).

    Raises:
        ValueError: the function changes the shape.
    """
    out = function(values, *parameters)
    if out.shape != values.shape:
        raise ValueError(f"the function must keep the shape [S, N] = {list(values.shape)}, it gave {list(out.shape)}")
    return out
