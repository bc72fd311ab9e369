"""The distribution of every single response: what risk rules read, without any need of a factor."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards._rows import chunks, row_index
from prudent.rewards._sigmoid import step

__all__ = ["DrawnMarginal", "Marginal"]

_LARGEST_SHARE = 0.05


class Marginal(ABC):
    """The distributions of N single responses, one by one: how they go together is not known here.

    Every kind can list `nodes`, points whose weighted average of any function is its expectation; what has no better
    way is worked out from those, a block of responses at a time. All figures are float64; NaN: not scored.

    Attributes:
        num_members: M equally likely members that the distributions are mixtures of, whose nodes lie one after the
            other; 1 where there are none.
        num_nodes: Q, number of nodes.
        is_discrete: the nodes are all the values there are, or draws, rather than a grid on a density.
        is_sample: the nodes are draws of a distribution that has more values than that.
    """

    num_members: int
    num_nodes: int
    is_discrete: bool
    is_sample: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """N, the number of responses."""

    @abstractmethod
    def __getitem__(self, index: slice | Tensor) -> Self:
        """The distributions of some responses (slice, integer or boolean tensor [n])."""

    @abstractmethod
    def nodes(self) -> tuple[Tensor, Tensor]:
        """Points of each distribution and their weights.

        Returns:
            values [Q, N] and weights [Q], float64, which sum to 1: weights @ f(values) is E f(r). Take a slice of the
            marginal first where N is large.
        """

    @abstractmethod
    def draws(self, normals: Tensor) -> Tensor:
        """Draws made from given standard normals, the same for every response.

        Args:
            normals: [S, 2] or [S, 3] float64. Where there are M members, the first column picks the one with number
                floor(M Phi(z)); the second one stands for what is normal, or, where there is a third one, for what is
                epistemic in it: the third stands for the noise then.

        Returns:
            [S, N] float64.
        """

    def points(self, z: Tensor) -> Tensor:
        """Values at z [Z] standard deviations from each member: [M, Z, N].

        Raises:
            UnsupportedError: nothing is normal here.
        """
        raise UnsupportedError(f"{type(self).__name__} is not a function of normals")

    @property
    def mean(self) -> Tensor:
        """[N] mean."""
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        """[N] variance of the distribution itself: members at hand count as all there are (ddof 0)."""
        return self._moments[1]

    @property
    def variance_between(self) -> Tensor:
        """[N] the part of `variance` that lies between the members (ddof 0); zeros where there are none."""
        return self._moments[2]

    @property
    def member_means(self) -> Tensor:
        """[N, M] mean within each member."""
        return self._by_block(_block_member_means)

    def quantile(self, level: float) -> Tensor:
        """The smallest value that at least a share `level` of the distribution lies at or below.

        Args:
            level: in (0, 1).

        Returns:
            [N].

        Raises:
            ValueError: the level is out of range.
        """
        check_level(level)

        def of_block(block: Marginal) -> Tensor:
            values, weights = block.nodes()
            return _quantile(values, weights, level, smooth=not block.is_discrete)

        return self._by_block(of_block)

    def cvar(self, level: float) -> Tensor:
        """Mean of the worst share `level` of the distribution.

        Args:
            level: in (0, 1).

        Returns:
            [N], never above the quantile of that level: q - E (q - r)_+ / level.

        Raises:
            ValueError: the level is out of range.

        References:
            Rockafellar and Uryasev, Optimization of Conditional Value-at-Risk, Journal of Risk 2, 2000, theorem 1.
        """
        check_level(level)

        def of_block(block: Marginal) -> Tensor:
            values, weights = block.nodes()
            quantile = block.quantile(level)
            return quantile - _average((quantile - values).clamp(min=0), weights) / level

        return self._by_block(of_block)

    def prob_above(self, threshold: float | Tensor) -> Tensor:
        """P(r > threshold), exact ties counting a half.

        Args:
            threshold: one number or [N].

        Returns:
            [N].
        """
        bounds = torch.as_tensor(threshold, dtype=torch.float64).expand(len(self))
        return self._by_block(_share_above, bounds)

    def log_expected_exp(self, scale: float) -> Tensor:
        """Log E exp(scale * r), the cumulant-generating function behind entropic risk.

        Args:
            scale: multiplier of the reward; negative for the pessimistic side.

        Returns:
            [N], accurate also where scale is tiny, where exp(scale * r) would overflow and where what counts lies far
            out in the tail.

        Raises:
            UnsupportedError: what counts lies where the draws, or the points of the grid, do not reach.
        """

        def of_block(block: Marginal) -> Tensor:
            values, weights = block.nodes()
            if block.is_sample:
                _check_draws_reach(scale * values)
            return log_mean_exp(values, weights, scale)

        return self._by_block(of_block)

    def log_expected_sigmoid(self) -> Tensor:
        """Log E sigma(r): [N], the logarithm of the probability that the response is preferred to one of reward 0."""

        def of_block(block: Marginal) -> Tensor:
            values, weights = block.nodes()
            return log_average(F.logsigmoid(values), F.logsigmoid(-values), weights)

        return self._by_block(of_block)

    def expected_log_sigmoid(self) -> Tensor:
        """E log sigma(r): [N], never above `log_expected_sigmoid`."""

        def of_block(block: Marginal) -> Tensor:
            values, weights = block.nodes()
            return _average(F.logsigmoid(values), weights)

        return self._by_block(of_block)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and variance between members, [N] each."""
        whole = self._by_block(_block_moments)
        return whole[:, 0], whole[:, 1], whole[:, 2]

    def _by_block(self, statistic: Callable[..., Tensor], *rowwise: Tensor) -> Tensor:
        """A statistic of blocks of responses, small enough to list their nodes, and of what belongs to their rows."""
        # small enough for several matrices of nodes to stay in the cache, which is several times as fast
        out = None
        for rows in chunks(len(self), 32 * self.num_nodes):
            found = statistic(self[rows], *(values[rows] for values in rowwise))
            if out is None:  # one tensor: many small ones would lie between large ones that are freed
                out = found.new_empty(len(self), *found.shape[1:])
            out[rows] = found
        return statistic(self, *rowwise) if out is None else out


class DrawnMarginal(Marginal):
    """Distributions known by equally likely draws, which are made when they are needed.

    Args:
        paths: maps row numbers [n] to draws [S, n] of these responses; what it gives of one must not depend on the
            others.
        num_draws: S.
        rows: [N] row numbers of the responses.
        is_sample: the draws are a sample; otherwise they are all the values there are, each as likely.

    Example:
        >>> import torch
        >>> draws = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
        >>> marginal = DrawnMarginal(lambda rows: draws[:, rows], 3, torch.arange(2))
        >>> marginal.mean.tolist(), marginal.quantile(0.5).tolist()
        ([1.0, 5.0], [1.0, 5.0])
    """

    num_members = 1
    is_discrete = True

    def __init__(
        self, paths: Callable[[Tensor], Tensor], num_draws: int, rows: Tensor, *, is_sample: bool = False
    ) -> None:
        self._paths = paths
        self._rows = rows
        self.num_nodes = num_draws
        self.is_sample = is_sample

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | Tensor) -> "DrawnMarginal":
        rows = block_or_rows(index, len(self), self._rows.device)
        return DrawnMarginal(self._paths, self.num_nodes, self._rows[rows], is_sample=self.is_sample)

    def nodes(self) -> tuple[Tensor, Tensor]:
        """The draws [S, N] and equal weights [S]."""
        values = self._paths(self._rows).double()
        return values, values.new_full((self.num_nodes,), 1 / self.num_nodes)

    def draws(self, normals: Tensor) -> Tensor:
        """Draws picked by the first column of `normals` [S', 2]: [S', N]."""
        return self.nodes()[0][pick(normals, self.num_nodes)]


def pick(normals: Tensor, count: int) -> Tensor:
    """One of `count` equally likely things for each row of normals [S, 2], by the first column: [S] int64."""
    share: Tensor = torch.special.ndtr(normals[:, 0])
    return (share * count).long().clamp(max=count - 1)


def block_or_rows(index: slice | Tensor, length: int, device: torch.device) -> slice | Tensor:
    """A slice of neighbors as it is, which copies nothing, and row numbers [n] for everything else."""
    if isinstance(index, slice) and index.step in (None, 1):
        return index
    return row_index(index, length, device)


def check_level(level: float) -> None:
    """Raise ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")


def log_mean_exp(values: Tensor, weights: Tensor, scale: float) -> Tensor:
    """Log of the weighted average of exp(scale * values) over the first axis: [Q, N], [Q] -> [N]."""
    mean = _average(values, weights)
    deviation = scale * (values - mean)
    # near 0 the logarithm of a number near 1 would lose what the division by a small scale needs
    near = torch.log1p(_average(torch.expm1(deviation.clamp(-1, 1)), weights))
    far = torch.logsumexp(_by_response(deviation) + weights.log(), 1)
    return scale * mean + torch.where(deviation.abs().amax(0) <= 1, near, far)


def log_average(logs: Tensor, complements: Tensor, weights: Tensor) -> Tensor:
    """Logarithm [N] of averaged probabilities, from log p and log (1 - p) [Q, N]; accurate near 0 and near 1."""
    below = torch.logsumexp(_by_response(logs) + weights.log(), 1)
    above = torch.logsumexp(_by_response(complements) + weights.log(), 1)
    return torch.where(below > -0.5, torch.log1p(-above.exp().clamp(max=0.5)), below)


def _by_response(values: Tensor) -> Tensor:
    """Matrix [N, Q] of nodes [Q, N], each response's together: only then do sums not depend on how many there are."""
    return values.T.contiguous()


def _average(values: Tensor, weights: Tensor) -> Tensor:
    return (_by_response(values) * weights).sum(1)


def _block_moments(block: Marginal) -> Tensor:
    """[n, 3]: mean, variance, variance between members."""
    values, weights = block.nodes()
    mean = _average(values, weights)
    variance = _average((values - mean).square(), weights)
    between = torch.zeros_like(mean)
    if block.num_members > 1:
        between = (_member_means(block, values, weights) - mean[:, None]).square().mean(1)
    return torch.stack([mean, variance, between], 1)


def _block_member_means(block: Marginal) -> Tensor:
    """[n, M] mean within each member."""
    return _member_means(block, *block.nodes())


def _member_means(block: Marginal, values: Tensor, weights: Tensor) -> Tensor:
    shape = values.shape[1], block.num_members, block.num_nodes // block.num_members
    return (_by_response(values) * weights).reshape(shape).sum(2) * block.num_members


def _quantile(values: Tensor, weights: Tensor, level: float, *, smooth: bool) -> Tensor:
    """Quantile [N] of weighted points [Q, N]; linear between the middles of their weights where `smooth`."""
    ordered, order = values.sort(0)
    weight = weights[order]
    share = weight.cumsum(0)
    if smooth:
        middle = (share - 0.5 * weight).T.contiguous()
        place = torch.searchsorted(middle, middle.new_full((len(middle), 1), level)).T
        upper, lower = place.clamp(max=len(values) - 1), (place - 1).clamp(min=0)
        low, high = middle.T.gather(0, lower), middle.T.gather(0, upper)
        way = torch.where(high > low, (level - low) / (high - low), 0.0)
        found = torch.lerp(ordered.gather(0, lower), ordered.gather(0, upper), way)
    else:
        # shares are sums of weights: what differs from the level by rounding alone has reached it
        place = (share < level - 1e-12).sum(0, keepdim=True).clamp(max=len(values) - 1)
        found = ordered.gather(0, place)
    return torch.where(values.isnan().any(0), torch.nan, found[0])


def _share_above(block: Marginal, threshold: Tensor) -> Tensor:
    """P(r > threshold) [n] from the nodes."""
    values, weights = block.nodes()
    return _average(step(values - threshold.to(values)), weights)


def _check_draws_reach(exponents: Tensor) -> None:
    """Raise UnsupportedError where one of the draws [S, N] has much of the weight: what lies beyond it would count."""
    largest = torch.softmax(exponents, 0).amax(0)
    beyond = largest > _LARGEST_SHARE
    if bool(beyond.any()):
        raise UnsupportedError(
            f"E exp(a t) of {int(beyond.sum())} of {len(beyond)} responses rests on one draw in {len(exponents)}, with "
            f"{float(largest[beyond].amax()):.0%} of its weight: take a smaller risk aversion, apply the rule to each "
            "part before they are combined, or take the rule quantile or cvar"
        )
