"""A posterior that is a handful of scores per response, as an ensemble gives them."""

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from prudent.rewards._arrow import members_table
from prudent.rewards._mixture import NormalMixture
from prudent.rewards._prob_best import members_prob_best, sampled_prob_best
from prudent.rewards._rows import default_generator, group_vector, row_index, row_pairs
from prudent.rewards._sigmoid import expected_sigmoid, normal_greater, step
from prudent.rewards._spread import Picked
from prudent.rewards._within import WithinMembers

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MemberRewards"]


class MemberRewards:
    """The rewards that M equally likely members give N responses, each member with doubts of its own or none.

    r = mu_m + e with m uniform over the members and, where members are posteriors themselves (an ensemble of Laplace
    approximations), e ~ N(0, within-member covariance averaged over the members) independent of m. Without that part
    member m is one joint draw. Variances follow the law of total variance; the part between the members is divided by
    M - ddof, with ddof = 1 for an unbiased estimate of the population the members come from. With few members it is
    itself uncertain: its relative standard error is about sqrt(2 / (M - 1)). Samples, probabilities and
    `marginal` are those of the M members at hand, so their variance has ddof 0.

    Args:
        members: [N, M] rewards in logits, float32 or float64 (others become float32). A NaN anywhere in a
            row: not scored, and the row becomes NaN as a whole.
        group: [N] integer prompt ids; by default all responses answer one prompt.
        ddof: 0 or 1, the delta degrees of freedom of the variance between the members.
        basis_id: name of the ensemble. Members of different ensembles cannot be mixed.
        within_variance: [N] exact marginal variance of e, >= 0; None for members that are sure of themselves.
        within_factor: [N, K] of any floating type, factor @ factor.T the covariance of e. Without it (and with
            `within_variance`) what needs more than single responses is not supported.
        noise: [N] aleatoric variances, >= 0, averaged over the members; zeros by default.
        text_id: [N] integers; responses of a prompt with the same id are the same text and share their noise.

    Attributes:
        is_discrete: no doubt within members: they are the only draws of the epistemic part.
        noise: [N] aleatoric variance.
        text_id: [N] equal for equal texts of a prompt; None where it is not known.

    Raises:
        ValueError: wrong shapes, infinite rewards, a negative variance, a factor without its variance, or fewer than
            ddof + 1 members.

    Example:
        >>> import torch
        >>> members = torch.tensor([[1.0, 3.0], [0.0, 4.0]])
        >>> rewards = MemberRewards(members)
        >>> rewards.mean.tolist(), rewards.variance.tolist()
        ([2.0, 2.0], [2.0, 8.0])
        >>> rewards.worst.tolist()
        [1.0, 0.0]
        >>> MemberRewards(members, within_variance=torch.tensor([0.5, 0.0])).variance.tolist()
        [2.5, 8.0]
    """

    def __init__(
        self,
        members: Tensor,
        group: Tensor | None = None,
        ddof: int = 1,
        basis_id: str | None = None,
        *,
        within_variance: Tensor | None = None,
        within_factor: Tensor | None = None,
        noise: Tensor | None = None,
        text_id: Tensor | None = None,
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
        missing = members.isnan().any(1, keepdim=True)
        if bool(missing.any()):  # no draw may have what the others lack
            members = members.masked_fill(missing, torch.nan)
        self.members = members
        self.group = group_vector(group, len(members), members.device)
        self.ddof = ddof
        self.basis_id = basis_id
        self._within = WithinMembers(members, self.group, within_variance, within_factor, noise, text_id)
        self.is_discrete = self._within.is_absent
        self.noise, self.text_id = self._within.noise, self._within.text_id

    @property
    def mean(self) -> Tensor:
        """[N] average over the members."""
        return self.members.mean(1)

    @property
    def variance(self) -> Tensor:
        """[N] variance between the members, divided by M - ddof, plus the variance within them."""
        between, within = self.members.var(1, correction=self.ddof), self._within.variance
        return between if within is None else between + within

    @property
    def within_variance(self) -> Tensor | None:
        """[N] variance of a reward within a member; None where members have none."""
        return self._within.variance

    @property
    def within_factor(self) -> Tensor | None:
        """[N, K] factor of the covariance within a member; None where there is none, or it was not stored."""
        return self._within.factor

    @property
    def worst(self) -> Tensor:
        """[N] smallest reward over the members (worst-case optimization), each at its own mean."""
        return self.members.amin(1)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        within = "" if self.is_discrete else f", within factor columns={self._within.num_columns}"
        return f"MemberRewards(N={len(self)}, M={self.members.shape[1]}, ddof={self.ddof}{within})"

    def __getitem__(self, index: slice | Tensor) -> "MemberRewards":
        rows = row_index(index, len(self), self.members.device)
        return MemberRewards(
            self.members[rows], self.group[rows], self.ddof, self.basis_id, **self._within.arguments(rows)
        )

    def is_members_alone(self, include_noise: bool) -> bool:
        """Whether the members are the only draws there are: no doubt within them, and no noise to count.

        Args:
            include_noise: count the aleatoric part too.

        Example:
            >>> import torch
            >>> MemberRewards(torch.zeros(2, 3), noise=torch.ones(2)).is_members_alone(include_noise=True)
            False
        """
        return self._within.is_nothing(include_noise)

    def contrast(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and variance of r_i - r_j: between the members (divided by M - ddof) plus within them.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: add the aleatoric variances; identical texts share theirs, so it cancels.

        Returns:
            Mean and variance of the broadcast shape; exactly 0 and 0 where i is j.

        Raises:
            UnsupportedError: members have a variance of their own, and its factor is not known.

        Example:
            >>> import torch
            >>> rewards = MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
            >>> [x.item() for x in rewards.contrast(torch.tensor(0), torch.tensor(1))]
            [0.0, 2.0]
        """
        difference = self._differences(i, j)
        mean, between = difference.mean(-1), difference.var(-1, correction=self.ddof)
        rest = self._within.contrast(i, j, include_noise, "contrast")
        return mean, between if rest is None else between + rest

    def covariance(self, index: Tensor | None = None, *, include_noise: bool = False) -> Tensor:
        """Covariance matrix [n, n]: between the members, divided by M - ddof, plus within them as the factor has it.

        Args:
            index: [n] row numbers or booleans [N]; all rows by default.
            include_noise: add the aleatoric variances, shared between identical texts.

        Returns:
            [n, n] in the type of the members, positive semi-definite.

        Raises:
            UnsupportedError: members have a variance of their own, and its factor is not known.

        Example:
            >>> import torch
            >>> MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]])).covariance().tolist()
            [[2.0, 4.0], [4.0, 8.0]]
        """
        rows = row_index(slice(None) if index is None else index, len(self), self.members.device)
        members = self.members[rows]
        deviation = members - members.mean(1, keepdim=True)
        between = deviation @ deviation.T / (members.shape[1] - self.ddof)
        if self.is_members_alone(include_noise):
            return between
        return between + self._within.joint("covariance").covariance(rows, include_noise=include_noise)

    def sample(self, num_samples: int, generator: Generator | None = None, *, include_noise: bool = False) -> Tensor:
        """Joint draws: each picks one member, uniformly, for all responses, and adds what is within a member.

        Args:
            num_samples: S, at least 1.
            generator: source of randomness; seed 0 by default.
            include_noise: add aleatoric draws, shared between identical texts.

        Returns:
            [S, N]; without noise, equal generators give a response the same draws in every slice.

        Raises:
            UnsupportedError: members have a variance of their own, and its factor is not known.

        Example:
            >>> import torch
            >>> MemberRewards(torch.tensor([[1.0, 3.0]])).sample(4).shape
            torch.Size([4, 1])
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        return self._sample_picked(num_samples, default_generator(generator), include_noise)[0]

    def marginal(self, *, include_noise: bool = False) -> NormalMixture:
        """The distribution of every single response: equally likely members, with normal doubt of their own or none.

        Args:
            include_noise: count the aleatoric variance too.

        Returns:
            Exact, with the variance between the M members at hand (ddof 0).

        Example:
            >>> import torch
            >>> marginal = MemberRewards(torch.tensor([[0.0, 100.0]])).marginal()
            >>> round(marginal.log_expected_exp(-1.0).item(), 4)  # log(1/2): the high member adds nothing
            -0.6931
        """
        return NormalMixture(self.members, self._within.marginal_variance(include_noise))

    def prob_greater(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """P(r_i > r_j): the share of the members that rank i above j, ties counting a half, each with its own doubt.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: count the aleatoric variance too.

        Returns:
            float64 probabilities of the broadcast shape.

        Raises:
            UnsupportedError: members have a variance of their own, and its factor is not known.

        Example:
            >>> import torch
            >>> rewards = MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
            >>> rewards.prob_greater(torch.tensor(0), torch.tensor(1)).item()
            0.5
        """
        difference = self._differences(i, j).double()
        rest = self._within.contrast(i, j, include_noise, "prob_greater")
        if rest is None:
            return step(difference).mean(-1)
        return normal_greater(difference, rest[..., None]).mean(-1)

    def prob_preferred(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """E sigma(r_i - r_j), averaged over the members and what is within them (quadrature, error below 1e-12).

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: count the aleatoric variance too.

        Returns:
            float64 probabilities of the broadcast shape.

        Raises:
            UnsupportedError: members have a variance of their own, and its factor is not known.

        Example:
            >>> import torch
            >>> MemberRewards(torch.tensor([[1.0, 3.0]])).prob_preferred(torch.tensor(0), torch.tensor(0)).item()
            0.5
        """
        difference = self._differences(i, j).double()
        rest = self._within.contrast(i, j, include_noise, "prob_preferred")
        if rest is None:
            return torch.sigmoid(difference).mean(-1)
        return expected_sigmoid(difference, rest[..., None]).mean(-1)

    def prob_best(self, num_samples: int = 1024, generator: Generator | None = None) -> Tensor:
        """Probability of being the best response of its prompt, by the epistemic part; ties share.

        The share of the members that rank it first, exactly, unless there is doubt within members: then by joint draws.

        Args:
            num_samples: S, where draws are needed; the standard error of a probability p is sqrt(p (1 - p) / S).
            generator: source of randomness where draws are needed; seed 0 by default.

        Returns:
            [N] float64 that sums to 1 over the scored responses of a prompt. NaN: not scored.

        Raises:
            UnsupportedError: members have a variance of their own, and its factor is not known.

        Example:
            >>> import torch
            >>> MemberRewards(torch.tensor([[1.0, 3.0], [0.0, 4.0]])).prob_best().tolist()
            [0.5, 0.5]
        """
        if not self.is_discrete:
            self._within.joint("prob_best")  # before any draw
            return sampled_prob_best(self, num_samples, generator)
        return members_prob_best(self.members, self.group)

    def to_arrow(self) -> "pa.Table":
        """Columns prompt_id, reward_members, reward_noise, and the moments reward_mean and reward_variance for readers.

        Where present also reward_within_variance, reward_factor (of the covariance within members) and text_id.

        Returns:
            A table that `from_arrow` reads back bit for bit (a bfloat16 factor becomes float32).

        Example:
            >>> import torch
            >>> MemberRewards(torch.zeros(2, 3)).to_arrow().num_rows
            2
        """
        return members_table(
            self.group,
            self.mean,
            self.variance,
            self.noise,
            self.members,
            self.within_variance,
            self.within_factor,
            self.text_id,
            self.ddof,
            self.basis_id,
        )

    def _sample_picked(
        self, num_samples: int, generator: Generator, include_noise: bool
    ) -> tuple[Tensor, tuple[Picked, ...]]:
        """Joint draws, and the members they are of."""
        count = self.members.shape[1]
        which = torch.randint(count, (num_samples,), generator=generator, device=generator.device)
        draws = self.members.T[which.to(self.members.device)]
        if not self.is_members_alone(include_noise):
            draws = draws + self._within.joint("sample").sample(num_samples, generator, include_noise=include_noise)
        return draws, (Picked(which, count, self.ddof),)

    def _differences(self, i: Tensor | int, j: Tensor | int) -> Tensor:
        i, j = row_pairs(i, j, self.members.device)
        return self.members[i] - self.members[j]
