"""A function of a posterior, such as the log-sigmoid of a centered reward."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from prudent.errors import UnsupportedError
from prudent.rewards._members import MemberRewards
from prudent.rewards._prob_best import sampled_prob_best
from prudent.rewards._protocol import RewardPosterior
from prudent.rewards._rows import check_vector, chunks, row_index, row_pairs

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TransformedRewards"]


class TransformedRewards:
    """Rewards t = function(r) for a base posterior over r; not Gaussian even where the base is.

    Moments come from `moments` where it is given. Otherwise they are those of `num_samples` joint draws of
    the base with a fixed seed (over a `MemberRewards` base whose members are sure of themselves: of its members, all
    of them, with its ddof), so that they are repeatable and a slice has the moments of its rows. Probabilities are
    shares of the same draws.

    Args:
        base: the posterior of r.
        function: maps draws [S, N] and the parameters [N] to transformed draws [S, N], element by element:
            what it does to one response must not depend on the others.
        parameters: vectors [N] that belong to the responses (a reference reward, say); sliced along with
            them.
        moments: maps the base and the parameters to the exact mean [N] and epistemic variance [N].
        num_samples: S, number of draws behind every sampled figure; the relative error of a std is about
            sqrt(1 / (2 S)).
        seed: seed of those draws.

    Raises:
        ValueError: a parameter has the wrong shape, or num_samples is below 2.

    Example:
        >>> import torch, torch.nn.functional as F
        >>> from prudent.rewards import MemberRewards
        >>> base = MemberRewards(torch.tensor([[1.0, 3.0]]))
        >>> lsc = TransformedRewards(base, lambda r, ref: F.logsigmoid(r - ref), parameters=(torch.tensor([2.0]),))
        >>> round(lsc.mean.item(), 4)
        -0.8133
    """

    def __init__(
        self,
        base: RewardPosterior,
        function: Callable[..., Tensor],
        *,
        parameters: tuple[Tensor, ...] = (),
        moments: Callable[..., tuple[Tensor, Tensor]] | None = None,
        num_samples: int = 1024,
        seed: int = 0,
    ) -> None:
        for position, parameter in enumerate(parameters):
            check_vector(f"parameter {position}", parameter, len(base))
        if num_samples < 2:
            raise ValueError(f"num_samples must be at least 2, got {num_samples}")
        self.base = base
        self.function = function
        self.parameters = parameters
        self.moments = moments
        self.num_samples = num_samples
        self.seed = seed

    @property
    def group(self) -> Tensor:
        """[N] int64, the prompt of each response."""
        return self.base.group

    @property
    def mean(self) -> Tensor:
        """[N] posterior mean, exact or over the draws."""
        return self._mean_and_variance[0]

    @property
    def variance(self) -> Tensor:
        """[N] epistemic variance, exact or over the draws."""
        return self._mean_and_variance[1]

    @cached_property
    def noise(self) -> Tensor:
        """[N] what the base's noise adds to the variance, over the draws; zeros where the base has none."""
        if not bool((self.base.noise > 0).any()):
            return torch.zeros_like(self.base.noise)
        # both of the same draws of the epistemic part, so that what they share cancels
        pairs = ((self._sampled(part, True), self._sampled(part, False)) for part in self._parts())
        added = torch.cat([noisy.var(0) - plain.var(0) for noisy, plain in pairs])
        return added.clamp(min=0).masked_fill(self.base.noise == 0, 0)

    def __len__(self) -> int:
        return len(self.base)

    def __repr__(self) -> str:
        return f"TransformedRewards({self.base!r}, num_samples={self.num_samples}, seed={self.seed})"

    def __getitem__(self, index: slice | Tensor) -> "TransformedRewards":
        rows = row_index(index, len(self), self.group.device)
        return TransformedRewards(
            self.base[rows],
            self.function,
            parameters=tuple(parameter[rows] for parameter in self.parameters),
            moments=self.moments,
            num_samples=self.num_samples,
            seed=self.seed,
        )

    def contrast(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and variance of t_i - t_j over the draws.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: draw the aleatoric part too.

        Returns:
            Mean and variance of the broadcast shape; exactly 0 and 0 where i is j.

        Raises:
            UnsupportedError: the base cannot be sampled.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]])), torch.square)
            >>> [x.item() for x in rewards.contrast(torch.tensor(0), torch.tensor(1))]
            [-3.0, 32.0]
        """
        ddof = self._ddof(include_noise)
        mean = self._over_pairs(i, j, include_noise, lambda d: d.mean(0))
        return mean, self._over_pairs(i, j, include_noise, lambda d: d.var(0, correction=ddof))

    def covariance(self, index: Tensor | None = None, *, include_noise: bool = False) -> Tensor:
        """Covariance matrix [n, n] over the draws.

        Args:
            index: [n] row numbers or booleans [N]; all rows by default.
            include_noise: draw the aleatoric part too.

        Returns:
            [n, n], positive semi-definite.

        Raises:
            UnsupportedError: the base cannot be sampled.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0]])), torch.square).covariance().tolist()
            [[32.0]]
        """
        rows = row_index(slice(None) if index is None else index, len(self), self.group.device)
        draws = self._draws(rows, include_noise)
        deviation = draws - draws.mean(0)
        return deviation.T @ deviation / (len(draws) - self._ddof(include_noise))

    def sample(self, num_samples: int, generator: Generator | None = None, *, include_noise: bool = False) -> Tensor:
        """Transformed joint draws of the base.

        Args:
            num_samples: S, at least 1.
            generator: source of randomness; seed 0 by default.
            include_noise: draw the aleatoric part too.

        Returns:
            [S, N].

        Raises:
            UnsupportedError: the base cannot be sampled.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> TransformedRewards(MemberRewards(torch.tensor([[2.0, 2.0]])), torch.square).sample(2).tolist()
            [[4.0], [4.0]]
        """
        draws = self.base.sample(num_samples, generator, include_noise=include_noise)
        return self._apply(draws, self.parameters)

    def log_expected_exp(self, scale: float, *, include_noise: bool = False) -> Tensor:
        """Log E exp(scale * t) over the draws: consistent, but driven by the extreme draws when scale is large.

        Args:
            scale: the multiplier of the reward; negative for the pessimistic side.
            include_noise: draw the aleatoric part too.

        Returns:
            [N].

        Raises:
            UnsupportedError: the base cannot be sampled.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[2.0, 2.0]])), torch.square)
            >>> rewards.log_expected_exp(-0.5).tolist()
            [-2.0]
        """
        out = []
        for part in self._parts():
            draws = scale * self._draws(part, include_noise)
            out.append(torch.logsumexp(draws, 0) - torch.tensor(len(draws), dtype=draws.dtype).log())
        return torch.cat(out) if out else self.base.mean.clone()

    def prob_greater(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """Share of the draws in which t_i > t_j, ties counting a half.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: draw the aleatoric part too.

        Returns:
            float64 probabilities of the broadcast shape.

        Raises:
            UnsupportedError: the base cannot be sampled.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]])), torch.square)
            >>> rewards.prob_greater(torch.tensor(0), torch.tensor(1)).item()
            0.5
        """
        return self._over_pairs(i, j, include_noise, lambda d: 0.5 * (1 + torch.sign(d.double()).mean(0)))

    def prob_preferred(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """Average of sigma(t_i - t_j) over the draws.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: draw the aleatoric part too.

        Returns:
            float64 probabilities of the broadcast shape.

        Raises:
            UnsupportedError: the base cannot be sampled.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0]])), torch.square)
            >>> rewards.prob_preferred(torch.tensor(0), torch.tensor(0)).item()
            0.5
        """
        return self._over_pairs(i, j, include_noise, lambda d: torch.sigmoid(d.double()).mean(0))

    def prob_best(self, num_samples: int = 1024, generator: Generator | None = None) -> Tensor:
        """Probability of being the best response of its prompt.

        Args:
            num_samples: S; no effect over a `MemberRewards` base whose members are the only draws: all are used.
            generator: source of randomness; seed 0 by default.

        Returns:
            [N] float64 that sums to 1 over the scored responses of a prompt; ties share. NaN: not scored.

        Raises:
            UnsupportedError: the base cannot be sampled.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> base = MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
            >>> TransformedRewards(base, torch.neg).prob_best().tolist()
            [0.5, 0.5]
        """
        if not (isinstance(self.base, MemberRewards) and self.base.is_discrete):
            return sampled_prob_best(self, num_samples, generator)
        members = self._draws(slice(None)).T
        return MemberRewards(members, self.group, self.base.ddof).prob_best()

    def to_arrow(self) -> "pa.Table":
        """Not possible: a Python function is not data.

        Raises:
            UnsupportedError: always; it says to store the base.
        """
        raise UnsupportedError(
            "TransformedRewards holds a Python function, which Arrow cannot store: "
            "write base.to_arrow() and transform again after from_arrow"
        )

    def _ddof(self, include_noise: bool = False) -> int:
        base = self.base
        return base.ddof if isinstance(base, MemberRewards) and base.is_members_alone(include_noise) else 1

    @cached_property
    def _mean_and_variance(self) -> tuple[Tensor, Tensor]:
        if self.moments is not None:
            mean, variance = self.moments(self.base, *self.parameters)
            check_vector("the mean from moments", mean, len(self))
            check_vector("the variance from moments", variance, len(self))
            return mean, variance
        pairs = [(d.mean(0), d.var(0, correction=self._ddof())) for d in map(self._draws, self._parts())]
        if not pairs:
            return self.base.mean, self.base.variance
        return torch.cat([mean for mean, _ in pairs]), torch.cat([variance for _, variance in pairs])

    def _parts(self) -> list[slice]:
        return list(chunks(len(self), self.num_samples))

    def _apply(self, draws: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        out = self.function(draws, *parameters)
        if out.shape != draws.shape:
            raise ValueError(
                f"the function must keep the shape [S, N] = {list(draws.shape)}, it gave {list(out.shape)}"
            )
        return out

    def _draws(self, rows: slice | Tensor, include_noise: bool = False) -> Tensor:
        """The fixed draws [S, n] behind the sampled figures, for some rows; of bare members all."""
        base = self.base
        if isinstance(base, MemberRewards) and base.is_members_alone(include_noise):
            return self._apply(base.members[rows].T, tuple(parameter[rows] for parameter in self.parameters))
        return self._sampled(rows, include_noise)

    def _sampled(self, rows: slice | Tensor, include_noise: bool) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        draws = self.base[rows].sample(self.num_samples, generator, include_noise=include_noise)
        return self._apply(draws, tuple(parameter[rows] for parameter in self.parameters))

    def _over_pairs(
        self, i: Tensor | int, j: Tensor | int, include_noise: bool, statistic: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """A statistic over the first axis of the drawn differences [S, P], for index tensors that broadcast."""
        i, j = row_pairs(i, j, self.group.device)
        shape, i, j = i.shape, i.reshape(-1), j.reshape(-1)
        out = []
        for part in chunks(len(i), self.num_samples):
            rows, where = torch.unique(torch.cat([i[part], j[part]]), return_inverse=True)
            draws = self._draws(rows, include_noise)
            first, second = where.chunk(2)
            out.append(statistic(draws[:, first] - draws[:, second]))
        return torch.cat(out).reshape(shape) if out else self.base.mean.new_empty(shape)
