"""A function of several posteriors over the same responses, such as the sum of the log-sigmoids of two rewards."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor

from prudent.errors import UnsupportedError
from prudent.rewards._coupling import Coupling
from prudent.rewards._drawn import DrawnRewards
from prudent.rewards._elementwise import Elementwise, WeightedSum, function_name
from prudent.rewards._independent import IndependentSum
from prudent.rewards._marginal import DrawnMarginal, Marginal
from prudent.rewards._members import MemberRewards
from prudent.rewards._prob_best import drawn_prob_best, sampled_prob_best
from prudent.rewards._protocol import RewardPosterior
from prudent.rewards._rows import chunks, default_generator, row_index
from prudent.rewards._same import check_same_responses
from prudent.rewards._spread import DrawSpread, Picked, sample_picked

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CombinedRewards"]


class CombinedRewards(DrawnRewards):
    """Rewards t = function(r_1, ..., r_P) for posteriors over several rewards of the same N responses.

    The mean of a weighted sum is exact, and so is its variance where parts are independent. Other figures of single
    responses come from `num_samples` quasi-random draws (scrambled Sobol points, the same ones for every response, so
    that responses are compared with little noise), or from all combinations of members where the parts are ensembles
    of members that are sure of themselves and there are no more combinations than that. Comparisons of responses come
    from joint draws of the parts. Variances and covariances divide what lies between the M members of an ensemble by
    M - ddof, as the ensemble does; `marginal`, samples and probabilities are of the members at hand.

    Args:
        parts: posteriors over the same responses, with the same `group`.
        function: of the parts' draws, element by element, and what a missing part counts as.
        correlation: of the parts of one response. 0: independent, which two functions of one reward are not. A number
            below 1: that of the normals behind the parts (a Gaussian copula); it says nothing about two responses, so
            that comparisons are not supported.
            "members": member m of every part belongs together (the same resample of the data, or seed).
        num_samples: S, number of draws behind every sampled figure. Quasi-random ones of two Gaussian parts put a mean
            wrong by about 1e-3 of a standard deviation, a variance by half a percent and a quantile by 1e-2 of a
            standard deviation; ensembles with doubts within members, and many parts, by up to ten times as much.
        seed: seed of the draws.

    Raises:
        ValueError: no parts, parts of different responses, or numbers out of range.
        UnsupportedError: a number as correlation of ensembles, or "members" for parts without or with different numbers
            of members.

    Example:
        >>> import torch, torch.nn.functional as F
        >>> from prudent.rewards import MemberRewards, TransformedRewards
        >>> helpful = TransformedRewards(MemberRewards(torch.tensor([[10.0, 10.0], [1.0, 1.0]])), F.logsigmoid)
        >>> harmless = TransformedRewards(MemberRewards(torch.tensor([[-5.0, -5.0], [1.0, 1.0]])), F.logsigmoid)
        >>> both = CombinedRewards([helpful, harmless], Elementwise(WeightedSum((1.0, 1.0))))
        >>> [round(x, 4) for x in both.mean.tolist()]  # the second is good in both
        [-5.0068, -0.6265]
    """

    def __init__(
        self,
        parts: Sequence[RewardPosterior],
        function: Elementwise,
        *,
        correlation: float | Literal["members"] = 0.0,
        num_samples: int = 1024,
        seed: int = 0,
    ) -> None:
        check_same_responses(parts)
        if isinstance(function.function, WeightedSum) and len(function.function.weights) != len(parts):
            raise ValueError(f"{len(function.function.weights)} weights are given for {len(parts)} parts")
        if num_samples < 2:
            raise ValueError(f"num_samples must be at least 2, got {num_samples}")
        self.parts = tuple(parts)
        self.function = function
        self.correlation = correlation
        self.num_samples = num_samples
        self.seed = seed
        self._coupling = Coupling(self.parts, correlation)

    @property
    def group(self) -> Tensor:
        """[N] int64, the prompt of each response."""
        return self.parts[0].group

    @cached_property
    def noise(self) -> Tensor:
        """[N] what the parts' noise adds to the variance."""
        if not any(bool((part.noise > 0).any()) for part in self.parts):
            return torch.zeros_like(self.mean)
        added = self._moments(include_noise=True)[1] - self._moments(include_noise=False)[1]
        return added.clamp(min=0).to(self.mean)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __repr__(self) -> str:
        return f"CombinedRewards({list(self.parts)!r}, {self.function!r}, correlation={self.correlation!r})"

    def __getitem__(self, index: slice | Tensor) -> "CombinedRewards":
        rows = row_index(index, len(self), self.group.device)
        return self._of([part[rows] for part in self.parts])

    def sample(self, num_samples: int, generator: Generator | None = None, *, include_noise: bool = False) -> Tensor:
        """The function of joint draws of the parts.

        Args:
            num_samples: S, at least 1.
            generator: source of randomness; seed 0 by default.
            include_noise: draw the aleatoric part too.

        Returns:
            [S, N].

        Raises:
            UnsupportedError: a part cannot be sampled, or the correlation says nothing about several responses.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> parts = [MemberRewards(torch.tensor([[2.0, 2.0]])), MemberRewards(torch.tensor([[3.0, 3.0]]))]
            >>> CombinedRewards(parts, Elementwise(WeightedSum((1.0, 2.0)))).sample(2).tolist()
            [[8.0], [8.0]]
        """
        return self._sample_picked(num_samples, default_generator(generator), include_noise)[0]

    def prob_best(self, num_samples: int = 1024, generator: Generator | None = None) -> Tensor:
        """Probability of being the best response of its prompt.

        Args:
            num_samples: S; no effect where all combinations of members are enumerated.
            generator: source of randomness; seed 0 by default.

        Returns:
            [N] float64 that sums to 1 over the scored responses of a prompt; ties share. NaN: not scored.

        Raises:
            UnsupportedError: a part cannot be sampled, or the correlation says nothing about several responses.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> parts = [MemberRewards(torch.tensor([[1.0, 3.0], [2.0, 2.0]])), MemberRewards(torch.zeros(2, 2))]
            >>> CombinedRewards(parts, Elementwise(WeightedSum((1.0, 1.0)))).prob_best().tolist()
            [0.5, 0.5]
        """
        if not self._is_enumerated(include_noise=False):
            return sampled_prob_best(self, num_samples, generator)
        return drawn_prob_best(self.mean.isnan(), self.group, lambda rows: self._paths(rows, include_noise=False))

    def marginal(self, *, include_noise: bool = False) -> Marginal:
        """The distribution of every single response, over the quasi-random draws or all combinations of members.

        Args:
            include_noise: count the aleatoric part too, which is independent between the parts.

        Returns:
            Expected exponentials, and so entropic risk, are exact for sums of independent parts and over all
            combinations of members; otherwise refused where the draws do not reach what counts.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> parts = [MemberRewards(torch.tensor([[1.0, 3.0]])), MemberRewards(torch.tensor([[0.0, 4.0]]))]
            >>> CombinedRewards(parts, Elementwise(WeightedSum((1.0, 1.0)))).marginal().quantile(0.1).tolist()
            [1.0]
        """
        count = len(self._coupling.normals(include_noise, self.num_samples, self.seed))
        rows = torch.arange(len(self), device=self.group.device)
        paths, is_sample = partial(self._paths, include_noise=include_noise), not self._is_enumerated(include_noise)
        if not isinstance(self.function.function, WeightedSum) or self.correlation != 0:
            return DrawnMarginal(paths, count, rows, is_sample=is_sample)
        parts = [part.marginal(include_noise=include_noise) for part in self.parts]
        weights = self.function.function.weights
        return IndependentSum(paths, count, rows, is_sample, parts, weights, self.function.neutral)

    def to_arrow(self) -> "pa.Table":
        """Not possible: a Python function is not data.

        Raises:
            UnsupportedError: always; it says to store the parts.
        """
        raise UnsupportedError(
            "CombinedRewards holds a Python function, which Arrow cannot store: "
            "write to_arrow() of each part and combine again after from_arrow"
        )

    def as_members(self) -> MemberRewards | None:
        """The same as members, where the parts' members belong together and nothing else is random; None otherwise.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> parts = [MemberRewards(torch.tensor([[1.0, 3.0]])), MemberRewards(torch.tensor([[0.0, 4.0]]))]
            >>> rewards = CombinedRewards(parts, Elementwise(WeightedSum((1.0, 1.0))), correlation="members")
            >>> rewards.as_members().members.tolist()
            [[1.0, 7.0]]
        """
        if self.correlation != "members" or not self._is_enumerated(include_noise=True):
            return None
        roots = [root for root in self._coupling.roots if isinstance(root, MemberRewards)]
        names = [root.basis_id for root in roots]
        neutral = "" if self.function.neutral is None else f", missing {self.function.neutral:g},"
        return MemberRewards(
            self._paths(slice(None), include_noise=False).T,
            self.group,
            self._coupling.ddof,
            None
            if None in names
            else f"{function_name(self.function.function)}{neutral} of {', '.join(map(str, names))}",
        )

    def _part_paths(self, rows: slice | Tensor, include_noise: bool) -> Tensor:
        """Draws [P, S, n] of the parts' marginals, the same normals for every response."""
        normals = self._coupling.normals(include_noise, self.num_samples, self.seed).to(self.group.device)
        marginals = [part[rows].marginal(include_noise=include_noise) for part in self.parts]
        return torch.stack([marginal.draws(normals[:, place]) for place, marginal in enumerate(marginals)])

    def _paths(self, rows: slice | Tensor, include_noise: bool) -> Tensor:
        return self.function(self._part_paths(rows, include_noise))

    def _sample_picked(
        self, num_samples: int, generator: Generator, include_noise: bool
    ) -> tuple[Tensor, tuple[Picked, ...]]:
        """Joint draws, and the members they are of."""
        self._coupling.check_joint(include_noise)
        state = generator.get_state()
        found = []
        for part in self.parts:
            if self.correlation == "members":
                generator.set_state(state)  # the same member of every part
            found.append(sample_picked(part, num_samples, generator, include_noise))
        draws = self.function(torch.stack([draws for draws, _ in found]))
        return draws, self._coupling.of_members([picked for _, picked in found])

    def _draws(self, rows: slice | Tensor, include_noise: bool = False) -> tuple[Tensor, DrawSpread]:
        if self._is_enumerated(include_noise):
            return self._paths(rows, include_noise), self._single_spread(include_noise)  # a member is a joint draw
        generator = torch.Generator().manual_seed(self.seed)
        parts = self._of([part[rows] for part in self.parts])
        draws, picked = parts._sample_picked(self.num_samples, generator, include_noise)
        return draws, DrawSpread(1, picked)

    def _single_spread(self, include_noise: bool = False) -> DrawSpread:
        return self._coupling.spread(include_noise, self.num_samples, self.seed)

    def _is_enumerated(self, include_noise: bool) -> bool:
        """Whether the draws are all there are, each as likely."""
        return self._coupling.combinations(include_noise, self.num_samples) is not None

    def _of(self, parts: Sequence[RewardPosterior]) -> "CombinedRewards":
        return CombinedRewards(
            parts, self.function, correlation=self.correlation, num_samples=self.num_samples, seed=self.seed
        )

    @cached_property
    def _mean_and_variance(self) -> tuple[Tensor, Tensor]:
        return self._moments(include_noise=False)

    def _moments(self, include_noise: bool) -> tuple[Tensor, Tensor]:
        """Mean and variance [N]."""
        if isinstance(self.function.function, WeightedSum):
            return self._moments_of_sum(self.function.function.weights, include_noise)
        spread = self._single_spread(include_noise)
        # one tensor each: small ones of every block would lie between large ones that are freed, which fills the memory
        mean, variance = torch.empty(2, len(self), dtype=torch.float64, device=self.group.device)
        for rows in self._chunks():
            paths = self._paths(rows, include_noise)
            mean[rows], variance[rows] = paths.mean(0), spread.variance(paths)
        return mean, variance

    def _moments_of_sum(self, weights: tuple[float, ...], include_noise: bool) -> tuple[Tensor, Tensor]:
        means = torch.stack([part.mean.double() for part in self.parts])
        mean = self.function(means)
        if self.correlation == "members":
            variance = self._variance_of_members(weights, include_noise)
        else:
            variances = torch.stack(
                [(part.variance + part.noise if include_noise else part.variance).double() for part in self.parts]
            )
            if self.function.neutral is not None:
                variances = variances.masked_fill(means.isnan(), 0)
            variance = WeightedSum(tuple(w * w for w in weights))(variances)
        if self.correlation not in (0, "members"):
            variance = (variance + self._shared(weights)).clamp(min=0)
        return mean, variance.masked_fill(mean.isnan(), torch.nan)

    def _variance_of_members(self, weights: tuple[float, ...], include_noise: bool) -> Tensor:
        """Variance [N] of a sum of parts whose members belong together: between the sums, and within the parts."""
        within = torch.zeros(len(self), dtype=torch.float64, device=self.group.device)
        between = within[:, None]
        for part, weight in zip(self.parts, weights, strict=True):
            marginal = part.marginal(include_noise=include_noise)
            means, rest = marginal.member_means, marginal.variance - marginal.variance_between
            if self.function.neutral is not None:
                means, rest = means.nan_to_num(0.0), rest.nan_to_num(0.0)
            between, within = between + weight * means, within + weight * weight * rest
        return between.var(1, correction=self._coupling.ddof) + within

    def _shared(self, weights: tuple[float, ...]) -> Tensor:
        """What the parts share adds this [N] to the variance of their sum, over the draws; their noise is apart."""
        square = WeightedSum(tuple(w * w for w in weights))
        shared = torch.empty(len(self), dtype=torch.float64, device=self.group.device)
        for rows in self._chunks():
            paths = self._part_paths(rows, include_noise=False)
            if self.function.neutral is not None:
                paths = paths.masked_fill(paths.isnan(), self.function.neutral)
            shared[rows] = self.function.function(paths).var(0, correction=0) - square(paths.var(1, correction=0))
        return shared

    def _chunks(self) -> Iterator[slice]:
        # a function holds several matrices of draws at a time, and is quicker on small ones
        return chunks(len(self), 8 * self.num_samples * len(self.parts))
