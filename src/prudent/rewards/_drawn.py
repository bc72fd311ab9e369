"""What joint draws tell about responses: the figures of posteriors that have no closed form."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from prudent.rewards._members import MemberRewards
from prudent.rewards._rows import chunks, row_index, row_pairs
from prudent.rewards._sigmoid import step
from prudent.rewards._spread import DrawSpread

__all__ = ["DrawnRewards"]


class DrawnRewards(ABC):
    """Comparisons of responses over joint draws that are the same at every call, so that slices agree with the whole.

    Attributes:
        num_samples: S, number of draws behind every sampled figure; the relative error of a std is about
            sqrt(1 / (2 S)).
    """

    num_samples: int

    @property
    @abstractmethod
    def group(self) -> Tensor:
        """[N] int64, the prompt of each response."""

    @property
    @abstractmethod
    def _mean_and_variance(self) -> tuple[Tensor, Tensor]: ...

    @property
    def mean(self) -> Tensor:
        """[N] posterior mean, see the class."""
        return self._mean_and_variance[0]

    @property
    def variance(self) -> Tensor:
        """[N] epistemic variance, see the class."""
        return self._mean_and_variance[1]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def as_members(self) -> MemberRewards | None:
        """The same as members, where which member it is is all that is random; None otherwise."""

    @abstractmethod
    def _draws(self, rows: slice | Tensor, include_noise: bool = False) -> tuple[Tensor, DrawSpread]:
        """The fixed joint draws [S, n] of some rows, where there are only so many all of them, and how they vary."""

    @abstractmethod
    def _single_spread(self, include_noise: bool = False) -> DrawSpread | None:
        """How the nodes of `marginal` vary, where those are draws; None where they are not."""

    def contrast(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and variance of t_i - t_j over the draws.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: draw the aleatoric part too.

        Returns:
            Mean and variance of the broadcast shape; exactly 0 and 0 where i is j.

        Raises:
            UnsupportedError: joint draws are not possible.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards, TransformedRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]])), torch.square)
            >>> [x.item() for x in rewards.contrast(torch.tensor(0), torch.tensor(1))]
            [-3.0, 32.0]
        """
        mean = self._over_pairs(i, j, include_noise, lambda d, _: d.mean(0))
        return mean, self._over_pairs(i, j, include_noise, lambda d, spread: spread.variance(d))

    def covariance(self, index: Tensor | None = None, *, include_noise: bool = False) -> Tensor:
        """Covariance matrix [n, n] over the draws.

        Args:
            index: [n] row numbers or booleans [N]; all rows by default.
            include_noise: draw the aleatoric part too.

        Returns:
            [n, n], positive semi-definite.

        Raises:
            UnsupportedError: joint draws are not possible.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards, TransformedRewards
            >>> TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0]])), torch.square).covariance().tolist()
            [[32.0]]
        """
        rows = row_index(slice(None) if index is None else index, len(self), self.group.device)
        draws, spread = self._draws(rows, include_noise)
        return spread.covariance(draws)

    def prob_greater(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """Share of the draws in which t_i > t_j, ties counting a half.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: draw the aleatoric part too.

        Returns:
            float64 probabilities of the broadcast shape.

        Raises:
            UnsupportedError: joint draws are not possible.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards, TransformedRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]])), torch.square)
            >>> rewards.prob_greater(torch.tensor(0), torch.tensor(1)).item()
            0.5
        """
        return self._over_pairs(i, j, include_noise, lambda d, _: step(d).mean(0))

    def prob_preferred(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """Average of sigma(t_i - t_j) over the draws.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: draw the aleatoric part too.

        Returns:
            float64 probabilities of the broadcast shape.

        Raises:
            UnsupportedError: joint draws are not possible.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards, TransformedRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0]])), torch.square)
            >>> rewards.prob_preferred(torch.tensor(0), torch.tensor(0)).item()
            0.5
        """
        return self._over_pairs(i, j, include_noise, lambda d, _: torch.sigmoid(d.double()).mean(0))

    def _over_pairs(
        self, i: Tensor | int, j: Tensor | int, include_noise: bool, statistic: Callable[[Tensor, DrawSpread], Tensor]
    ) -> Tensor:
        """A statistic over the first axis of the drawn differences [S, P], for index tensors that broadcast."""
        i, j = row_pairs(i, j, self.group.device)
        shape, i, j = i.shape, i.reshape(-1), j.reshape(-1)
        out = []
        for part in chunks(len(i), self.num_samples):
            rows, where = torch.unique(torch.cat([i[part], j[part]]), return_inverse=True)
            draws, spread = self._draws(rows, include_noise)
            first, second = where.chunk(2)
            out.append(statistic(draws[:, first] - draws[:, second], spread))
        return torch.cat(out).reshape(shape) if out else self.mean.new_empty(shape)
