"""A posterior that is a handful of scores per response, as an ensemble gives them."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from prudent.rewards._arrow import members_table
from prudent.rewards._groups import index_groups
from prudent.rewards._prob_best import prob_best_from_samples
from prudent.rewards._rows import chunks, default_generator, group_vector, row_index, row_pairs

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MemberRewards"]


class MemberRewards:
    """The rewards that M equally likely members give N responses; member m is one joint draw.

    Samples, probabilities and `log_expected_exp` are exact under the uniform distribution over the members.
    `variance`, `contrast` and `covariance` divide by M - ddof, with ddof = 1 for an unbiased estimate of the
    population the members come from. With few members a variance is itself uncertain: its relative standard
    error is about sqrt(2 / (M - 1)).

    Args:
        members: [N, M] rewards in logits, float32 or float64 (others become float32). A NaN anywhere in a
            row: not scored.
        group: [N] integer prompt ids; by default all responses answer one prompt.
        ddof: 0 or 1, the delta degrees of freedom of every variance.
        basis_id: name of the ensemble. Members of different ensembles cannot be mixed.

    Raises:
        ValueError: wrong shapes, infinite rewards, or fewer than ddof + 1 members.

    Example:
        >>> import torch
        >>> rewards = MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
        >>> rewards.mean.tolist(), rewards.variance.tolist()
        ([2.0, 2.0], [2.0, 8.0])
        >>> rewards.worst.tolist()
        [1.0, 0.0]
    """

    def __init__(
        self, members: Tensor, group: Tensor | None = None, ddof: int = 1, basis_id: str | None = None
    ) -> None:
        if members.dim() != 2:
            raise ValueError(f"members must have shape [N, M], got {list(members.shape)}")
        if ddof not in (0, 1):
            raise ValueError(f"ddof must be 0 or 1, got {ddof}")
        if members.shape[1] < ddof + 1:
            raise ValueError(f"ddof={ddof} needs at least {ddof + 1} members, got {members.shape[1]}")
        members = members if members.dtype == torch.float64 else members.float()
        if bool(members.isinf().any()):
            raise ValueError(f"members are infinite in row {int(members.isinf().nonzero()[0, 0])}")
        self.members = members
        self.group = group_vector(group, len(members), members.device)
        self.ddof = ddof
        self.basis_id = basis_id

    @property
    def mean(self) -> Tensor:
        """[N] average over the members."""
        return self.members.mean(1)

    @property
    def variance(self) -> Tensor:
        """[N] variance over the members, divided by M - ddof."""
        return self.members.var(1, correction=self.ddof)

    @property
    def noise(self) -> Tensor:
        """[N] zeros: the members' scores carry no aleatoric part."""
        return self.members.new_zeros(len(self.members))

    @property
    def worst(self) -> Tensor:
        """[N] smallest reward over the members (worst-case optimization)."""
        return self.members.amin(1)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"MemberRewards(N={len(self)}, M={self.members.shape[1]}, ddof={self.ddof})"

    def __getitem__(self, index: slice | Tensor) -> "MemberRewards":
        rows = row_index(index, len(self), self.members.device)
        return MemberRewards(self.members[rows], self.group[rows], self.ddof, self.basis_id)

    def contrast(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and variance (divided by M - ddof) of r_i - r_j over the members.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: has no effect, members have no noise.

        Returns:
            Mean and variance of the broadcast shape; exactly 0 and 0 where i is j.

        Example:
            >>> import torch
            >>> rewards = MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
            >>> [x.item() for x in rewards.contrast(torch.tensor(0), torch.tensor(1))]
            [0.0, 2.0]
        """
        difference = self._differences(i, j)
        return difference.mean(-1), difference.var(-1, correction=self.ddof)

    def covariance(self, index: Tensor | None = None, *, include_noise: bool = False) -> Tensor:
        """Covariance matrix [n, n] over the members, divided by M - ddof.

        Args:
            index: [n] row numbers or booleans [N]; all rows by default.
            include_noise: has no effect, members have no noise.

        Returns:
            [n, n] in the type of the members, of rank at most M - 1.

        Example:
            >>> import torch
            >>> MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]])).covariance().tolist()
            [[2.0, 4.0], [4.0, 8.0]]
        """
        members = self.members[row_index(slice(None) if index is None else index, len(self), self.members.device)]
        deviation = members - members.mean(1, keepdim=True)
        return deviation @ deviation.T / (members.shape[1] - self.ddof)

    def sample(self, num_samples: int, generator: Generator | None = None, *, include_noise: bool = False) -> Tensor:
        """Joint draws: each picks one member, uniformly, for all responses.

        Args:
            num_samples: S, at least 1.
            generator: source of randomness; seed 0 by default.
            include_noise: has no effect, members have no noise.

        Returns:
            [S, N]; equal generators give a response the same draws in every slice.

        Example:
            >>> import torch
            >>> MemberRewards(torch.tensor([[1.0, 3.0]])).sample(4).shape
            torch.Size([4, 1])
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        generator = default_generator(generator)
        pick = torch.randint(self.members.shape[1], (num_samples,), generator=generator, device=generator.device)
        return self.members.T[pick.to(self.members.device)]

    def log_expected_exp(self, scale: float, *, include_noise: bool = False) -> Tensor:
        """Log E exp(scale * r), exact over the members.

        Args:
            scale: the multiplier of the reward; negative for the pessimistic side.
            include_noise: has no effect, members have no noise.

        Returns:
            [N] in the type of the members.

        Example:
            >>> import torch
            >>> rewards = MemberRewards(torch.tensor([[0.0, 100.0]]))
            >>> round(rewards.log_expected_exp(-1.0).item(), 4)  # log(1/2): the high member adds nothing
            -0.6931
        """
        return torch.logsumexp(scale * self.members, 1) - math.log(self.members.shape[1])

    def prob_greater(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """Share of the members that rank i above j, ties counting a half.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: has no effect, members have no noise.

        Returns:
            float64 probabilities of the broadcast shape.

        Example:
            >>> import torch
            >>> rewards = MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
            >>> rewards.prob_greater(torch.tensor(0), torch.tensor(1)).item()
            0.5
        """
        return 0.5 * (1 + torch.sign(self._differences(i, j).double()).mean(-1))

    def prob_preferred(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """Average of sigma(r_i - r_j) over the members.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: has no effect, members have no noise.

        Returns:
            float64 probabilities of the broadcast shape.

        Example:
            >>> import torch
            >>> MemberRewards(torch.tensor([[1.0, 3.0]])).prob_preferred(torch.tensor(0), torch.tensor(0)).item()
            0.5
        """
        return torch.sigmoid(self._differences(i, j).double()).mean(-1)

    def prob_best(self, num_samples: int = 1024, generator: Generator | None = None) -> Tensor:
        """Share of the members that rank each response first in its prompt; ties share. Exact, nothing is drawn.

        Args:
            num_samples: has no effect.
            generator: has no effect.

        Returns:
            [N] float64 that sums to 1 over the scored responses of a prompt. NaN: not scored.

        Example:
            >>> import torch
            >>> MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]])).prob_best().tolist()
            [0.5, 0.5]
        """
        out = self.members.new_full((len(self),), torch.nan, dtype=torch.float64)
        scored = ~self.members.isnan().any(1)
        for rows in index_groups(self.group).rows():
            rows = rows[scored[rows]]
            if len(rows):
                parts = chunks(self.members.shape[1], len(rows))
                out[rows] = prob_best_from_samples(self.members[rows, part].T for part in parts)
        return out

    def to_arrow(self) -> "pa.Table":
        """Columns prompt_id, reward_members, and the moments reward_mean, reward_variance, reward_noise for readers.

        Returns:
            A table that `from_arrow` reads back bit for bit.

        Example:
            >>> import torch
            >>> MemberRewards(torch.zeros(2, 3)).to_arrow().num_rows
            2
        """
        return members_table(self.group, self.mean, self.variance, self.noise, self.members, self.ddof, self.basis_id)

    def _differences(self, i: Tensor | int, j: Tensor | int) -> Tensor:
        i, j = row_pairs(i, j, self.members.device)
        return self.members[i] - self.members[j]
