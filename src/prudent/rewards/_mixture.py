"""Marginals of Gaussians and of ensembles: normals of one variance around equally likely members."""

import math

import torch
from torch import Tensor

from prudent.rewards._marginal import Marginal, block_or_rows, check_level, log_average, log_mean_exp, pick
from prudent.rewards._sigmoid import expected_log_sigmoid, log_expected_sigmoid, normal_greater
from prudent.rewards._tails import normal_grid

__all__ = ["NormalMixture"]

_ITERATIONS = 120


class NormalMixture(Marginal):
    """r = mu_m + s z, with m uniform over M members and z standard normal.

    Closed forms serve wherever there are any: for one member everything but what passes through `nodes`. Nodes are the
    members where s is zero, and otherwise a trapezoid rule over |z| <= 8 in steps of 0.1 (0.25 for each of several
    members). It is exact to rounding for functions that are smooth over a few steps. A kink costs 4e-4 of a standard
    deviation at most, times the change of slope, and a jump 0.02 of its height (with several members 3e-3 and 0.05).

    Args:
        members: [N, M] the members' means; M = 1 for a Gaussian.
        variance: [N] of what is normal, >= 0; None for zeros.
        noise: [N] more variance of what is normal, whose draws can be told apart; None for zeros.

    Example:
        >>> import torch
        >>> one = NormalMixture(torch.tensor([[1.0]]), torch.tensor([4.0]))
        >>> round(one.quantile(0.1).item(), 4), round(one.log_expected_exp(-1.0).item(), 4)
        (-1.5631, 1.0)
        >>> NormalMixture(torch.tensor([[0.0, 1.0, 2.0, 3.0]])).cvar(0.5).tolist()
        [0.5]
    """

    def __init__(self, members: Tensor, variance: Tensor | None = None, noise: Tensor | None = None) -> None:
        self._members = members.double()
        zeros = self._members.new_zeros(len(members))
        self._epistemic = zeros if variance is None else variance.double()
        self._noise = zeros if noise is None else noise.double()
        self._variance = self._epistemic + self._noise
        self.num_members = members.shape[1]
        self.is_discrete = not bool((self._variance > 0).any())
        self._z = self._members.new_zeros(1) if self.is_discrete else normal_grid(self.num_members).to(self._members)
        self.num_nodes = self.num_members * len(self._z)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: slice | Tensor) -> "NormalMixture":
        rows = block_or_rows(index, len(self), self._members.device)
        part = NormalMixture(self._members[rows], self._epistemic[rows], self._noise[rows])
        # a grid like that of the whole, so that no response depends on the others
        part.is_discrete, part._z, part.num_nodes = self.is_discrete, self._z, self.num_nodes
        return part

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Points [M * Z, N], member by member, and weights [M * Z]."""
        weight = torch.exp(-0.5 * self._z.square())
        weights = (weight / weight.sum() / self.num_members).repeat(self.num_members)
        return self.points(self._z).flatten(0, 1), weights

    def points(self, z: Tensor) -> Tensor:
        """See `Marginal.points`."""
        return self._members.T[:, None] + z.to(self._members)[:, None] * self._variance.sqrt()

    def draws(self, normals: Tensor) -> Tensor:
        """See `Marginal.draws`."""
        normals = normals.to(self._members)
        members = self._members.T[pick(normals, self.num_members)]
        if normals.shape[1] == 2:
            return members + normals[:, 1:] * self._variance.sqrt()
        return members + normals[:, 1:2] * self._epistemic.sqrt() + normals[:, 2:] * self._noise.sqrt()

    @property
    def mean(self) -> Tensor:
        """[N] average over the members."""
        return self._members.mean(1)

    @property
    def variance(self) -> Tensor:
        """[N] variance between the members (ddof 0) plus that within them."""
        return self.variance_between + self._variance

    @property
    def variance_between(self) -> Tensor:
        """[N] variance between the members (ddof 0)."""
        return (self._members - self.mean[:, None]).square().mean(1)

    @property
    def member_means(self) -> Tensor:
        """[N, M] the members."""
        return self._members

    def quantile(self, level: float) -> Tensor:
        """See `Marginal.quantile`; of several members by solving for it in the exact distribution function."""
        check_level(level)
        if self.is_discrete:
            return super().quantile(level)
        return self._normal(level) if self.num_members == 1 else self._by_block(lambda block: block._solved(level))

    def cvar(self, level: float) -> Tensor:
        """See `Marginal.cvar`; exact."""
        check_level(level)
        if self.is_discrete:
            return super().cvar(level)
        if self.num_members == 1:
            z = _normal_quantile(level)
            return self._members[:, 0] - math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) / level * self._variance.sqrt()
        return self._by_block(lambda block: block._cvar(level))

    def prob_above(self, threshold: float | Tensor) -> Tensor:
        """See `Marginal.prob_above`; exact, also in the tails."""
        bounds = torch.as_tensor(threshold, dtype=torch.float64, device=self._members.device).expand(len(self))
        return normal_greater(self._members - bounds[:, None], self._variance[:, None]).mean(1)

    def log_expected_exp(self, scale: float) -> Tensor:
        """See `Marginal.log_expected_exp`; exact."""
        return self._of_members(scale) + (0.5 * scale * scale) * self._variance

    def log_expected_sigmoid(self) -> Tensor:
        """See `Marginal.log_expected_sigmoid`; error below 1e-12."""
        if self.num_members == 1:
            return log_expected_sigmoid(self._members[:, 0], self._variance)
        variance = self._variance[:, None]
        below, above = log_expected_sigmoid(self._members, variance), log_expected_sigmoid(-self._members, variance)
        return log_average(below.T, above.T, self._weights)

    def expected_log_sigmoid(self) -> Tensor:
        """See `Marginal.expected_log_sigmoid`; relative error below 1e-12."""
        return expected_log_sigmoid(self._members, self._variance[:, None]).mean(1)

    @property
    def _weights(self) -> Tensor:
        return self._members.new_full((self.num_members,), 1 / self.num_members)

    def _of_members(self, scale: float) -> Tensor:
        if self.num_members == 1:
            return scale * self._members[:, 0]
        return log_mean_exp(self._members.T, self._weights, scale)

    def _normal(self, level: float) -> Tensor:
        return self._members[:, 0] + _normal_quantile(level) * self._variance.sqrt()

    def _solved(self, level: float) -> Tensor:
        """Quantile by Newton's method, kept within a bracket that every third step halves."""
        # the quantile of a mixture lies between the smallest and the largest of its members' quantiles
        std = self._variance.sqrt()
        shift = _normal_quantile(level) * std
        low, high = self._members.amin(1) + shift, self._members.amax(1) + shift
        found = 0.5 * (low + high)
        for iteration in range(_ITERATIONS):
            z = (found[:, None] - self._members) / std[:, None]
            excess = torch.special.ndtr(z).mean(1) - level
            low, high = torch.where(excess < 0, found, low), torch.where(excess < 0, high, found)
            slope = torch.exp(-0.5 * z * z).mean(1) / (math.sqrt(2 * math.pi) * std)
            better = found - excess / slope
            tolerance = 1e-14 * (1 + found.abs())
            done = ((better - found).abs() <= tolerance) | (high - low <= tolerance) | found.isnan()
            if bool(done.all()):
                break
            within = (better > low) & (better < high) & (iteration % 3 < 2)
            found = torch.where(done, found, torch.where(within, better, 0.5 * (low + high)))
        return torch.where(self.mean.isnan(), torch.nan, found)

    def _cvar(self, level: float) -> Tensor:
        quantile = self._solved(level)
        gap, std = quantile[:, None] - self._members, self._variance.sqrt()[:, None]
        z = gap / std
        shortfall = gap * torch.special.ndtr(z) + std * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return quantile - torch.where(std > 0, shortfall, gap.clamp(min=0)).mean(1) / level


def _normal_quantile(level: float) -> float:
    return float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
