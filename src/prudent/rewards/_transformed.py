"""A function of a posterior, such as the log-sigmoid of a centered reward."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from prudent.errors import UnsupportedError
from prudent.rewards._drawn import DrawnRewards
from prudent.rewards._elementwise import function_name
from prudent.rewards._members import MemberRewards
from prudent.rewards._prob_best import members_prob_best, sampled_prob_best
from prudent.rewards._protocol import RewardPosterior
from prudent.rewards._pushed import PushedMarginal, apply_elementwise
from prudent.rewards._rows import default_generator, row_index
from prudent.rewards._spread import DrawSpread, Picked, sample_picked

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TransformedRewards"]


class TransformedRewards(DrawnRewards):
    """Rewards t = function(r) for a base posterior over r; not Gaussian even where the base is.

    Moments, like everything about single responses, are those of the base's `marginal`, moved: exact over members,
    which keep their ddof, and by quadrature for what is normal. They are float64, in which a function that flattens
    out still tells rewards apart.
    Comparisons of responses come from `num_samples` joint draws of the base with a fixed seed (over members that are
    sure of themselves: all of them), so that they are repeatable and a slice has the figures of its rows.

    Args:
        base: the posterior of r.
        function: maps draws [S, N], float64, and the parameters to transformed draws [S, N], element by element: what
            it does to one response must not depend on the others.
        parameters: [N] or [N, R], what belongs to the responses (a reference reward, say); sliced along with them.
        increasing: the function never falls as r grows, which makes quantiles and probabilities of single responses
            those of the base, moved.
        num_samples: S, number of draws behind comparisons; the relative error of a std is about sqrt(1 / (2 S)).
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
        increasing: bool = False,
        num_samples: int = 1024,
        seed: int = 0,
    ) -> None:
        for position, parameter in enumerate(parameters):
            if parameter.dim() not in (1, 2) or len(parameter) != len(base):
                raise ValueError(
                    f"parameter {position} must have shape [{len(base)}] or [{len(base)}, R], got "
                    f"{list(parameter.shape)}"
                )
        if num_samples < 2:
            raise ValueError(f"num_samples must be at least 2, got {num_samples}")
        self.base = base
        self.function = function
        self.parameters = parameters
        self.increasing = increasing
        self.num_samples = num_samples
        self.seed = seed

    @property
    def group(self) -> Tensor:
        """[N] int64, the prompt of each response."""
        return self.base.group

    @cached_property
    def noise(self) -> Tensor:
        """[N] what the base's noise adds to the variance; zeros where the base has none."""
        if not bool((self.base.noise > 0).any()):
            return torch.zeros_like(self.base.noise)
        added = self.marginal(include_noise=True).variance - self.marginal().variance
        return added.clamp(min=0).to(self.base.noise).masked_fill(self.base.noise == 0, 0)

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
            increasing=self.increasing,
            num_samples=self.num_samples,
            seed=self.seed,
        )

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
        return self._sample_picked(num_samples, default_generator(generator), include_noise)[0]

    def marginal(self, *, include_noise: bool = False) -> PushedMarginal:
        """The distribution of every single response: that of the base, moved; no factor is needed.

        Args:
            include_noise: count the aleatoric part too.

        Returns:
            Exact over members; otherwise exact where `increasing`, and by quadrature for expectations.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[2.0, 3.0]])), torch.square)
            >>> rewards.marginal().quantile(0.5).tolist()
            [4.0]
        """
        base = self.base.marginal(include_noise=include_noise)
        return PushedMarginal(base, self.function, self.parameters, increasing=self.increasing)

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
        root = self._root
        if not (isinstance(root, MemberRewards) and root.is_discrete):
            return sampled_prob_best(self, num_samples, generator)
        return members_prob_best(self._draws(slice(None))[0].T, self.group)

    def to_arrow(self) -> "pa.Table":
        """Not possible: a Python function is not data.

        Raises:
            UnsupportedError: always; it says to store the base.
        """
        raise UnsupportedError(
            "TransformedRewards holds a Python function, which Arrow cannot store: "
            "write base.to_arrow() and transform again after from_arrow"
        )

    def as_members(self) -> MemberRewards | None:
        """The same as members, each moved, where the base's are sure of themselves; None otherwise.

        The noise stays what it adds to the variance.

        Example:
            >>> import torch
            >>> from prudent.rewards import MemberRewards
            >>> rewards = TransformedRewards(MemberRewards(torch.tensor([[1.0, 3.0]])), torch.square, increasing=True)
            >>> rewards.as_members().worst.tolist()
            [1.0]
        """
        base = self.base
        members = base.as_members() if isinstance(base, DrawnRewards) else base
        if not isinstance(members, MemberRewards) or not members.is_discrete:
            return None
        name = members.basis_id
        return MemberRewards(
            apply_elementwise(self.function, members.members.T.double(), self.parameters).T,
            self.group,
            members.ddof,
            None if name is None else f"{function_name(self.function)} of {name}",
            noise=self.noise,
            text_id=members.text_id,
        )

    def _single_spread(self, include_noise: bool = False) -> DrawSpread | None:
        root = self._root
        return root._single_spread(include_noise) if isinstance(root, DrawnRewards) else None

    @cached_property
    def _mean_and_variance(self) -> tuple[Tensor, Tensor]:
        marginal, root, spread = self.marginal(), self._root, self._single_spread()
        if spread is not None:
            return marginal.mean, marginal._by_block(lambda block: spread.variance(block.nodes()[0]))
        variance = marginal.variance
        if isinstance(root, MemberRewards) and root.ddof:
            variance = variance + marginal.variance_between / (root.members.shape[1] - root.ddof)
        return marginal.mean, variance

    @property
    def _root(self) -> RewardPosterior:
        """What this is a function of, in the end."""
        return self.base._root if isinstance(self.base, TransformedRewards) else self.base

    def _sample_picked(
        self, num_samples: int, generator: Generator, include_noise: bool
    ) -> tuple[Tensor, tuple[Picked, ...]]:
        """Joint draws, and the members they are of."""
        draws, picked = sample_picked(self.base, num_samples, generator, include_noise)
        return apply_elementwise(self.function, draws.double(), self.parameters), picked

    def _draws(self, rows: slice | Tensor, include_noise: bool = False) -> tuple[Tensor, DrawSpread]:
        base, parameters = self.base, tuple(parameter[rows] for parameter in self.parameters)
        if isinstance(base, DrawnRewards):
            draws, spread = base._draws(rows, include_noise)
        elif isinstance(base, MemberRewards) and base.is_members_alone(include_noise):
            draws, count = base.members[rows].T, base.members.shape[1]
            spread = DrawSpread(0, (Picked(torch.arange(count), count, base.ddof),))
        else:
            generator = torch.Generator().manual_seed(self.seed)
            draws, picked = sample_picked(base[rows], self.num_samples, generator, include_noise)
            spread = DrawSpread(1, picked)
        return apply_elementwise(self.function, draws.double(), parameters), spread
