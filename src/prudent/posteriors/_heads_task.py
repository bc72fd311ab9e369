"""What M heads are fitted to: standardised features of pairs or responses, what is known of them, and their prior."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from prudent.posteriors._heads_losses import (
    QUANTILE_LEVELS,
    HeadsKind,
    increment_outputs,
    monotone_quantiles,
    num_outputs,
    pair_loss,
    pinball_loss,
)

__all__ = ["HeadsTask", "member_generators", "member_weights"]

_PINBALL_WIDTH = 0.03
"""Half-width of the rounded kink of the pinball loss, in standard deviations of what the features leave unexplained."""


@dataclass(frozen=True)
class HeadsTask:
    """P data for heads: pairs, or responses with a score.

    Attributes:
        kind: the objective.
        sides: features `[P, H]` of the chosen and of the rejected texts; of the responses alone for `quantile`.
        target: `[P]` probability that chosen is better; for `quantile` the score, standardised.
        margin: `[P]` of the pairs; zeros for `quantile`.
        group: `[P]` number of the prompt.
        residual_std: for `quantile`: standard deviation of the scores that a linear head leaves unexplained.
    """

    kind: HeadsKind
    sides: tuple[Tensor, ...]
    target: Tensor
    margin: Tensor
    group: Tensor
    residual_std: float = 1.0

    def __len__(self) -> int:
        return len(self.target)

    @property
    def num_features(self) -> int:
        """H."""
        return self.sides[0].shape[1]

    @property
    def num_outputs(self) -> int:
        """D."""
        return num_outputs(self.kind)

    @property
    def reward_output(self) -> int:
        """Which output is the reward; for `quantile` its median."""
        return self.num_outputs // 2 if self.kind == "quantile" else 0

    @property
    def inputs(self) -> Tensor:
        """`[S P, H]` features of all sides, one after the other."""
        return torch.cat(self.sides)

    def select(self, rows: Tensor) -> Self:
        """Some of the data."""
        sides = tuple(side[rows] for side in self.sides)
        return replace(self, sides=sides, target=self.target[rows], margin=self.margin[rows], group=self.group[rows])

    def to(self, dtype: torch.dtype) -> Self:
        """The same data in another floating type."""
        sides = tuple(side.to(dtype) for side in self.sides)
        return replace(self, sides=sides, target=self.target.to(dtype), margin=self.margin.to(dtype))

    def losses(self, outputs: Tensor) -> Tensor:
        """Loss of each datum under each head, nats or what stands for them.

        The pinball loss is scaled so that its curvature in the location of a Gaussian score is that of the Gaussian's
        own negative log-likelihood, `1 / residual_std^2`: so a prior weighs as much against it.

        Args:
            outputs: `[M, S P, D]` of the heads for `inputs`.

        Returns:
            `[M, P]`.
        """
        if self.kind == "quantile":
            sharpness = 2 * math.sqrt(math.pi) / self.residual_std
            return sharpness * pinball_loss(
                monotone_quantiles(outputs), self.target, _PINBALL_WIDTH * self.residual_std
            )
        chosen, rejected = outputs[:, : len(self)], outputs[:, len(self) :]
        return pair_loss(self.kind, chosen, rejected, self.target, self.margin)

    def bias_prior(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[D]` float64 of the prior of each output's bias; 0 and 0 where there is none.

        Pairs say nothing about the bias of a reward, and features are centred; they say little about how much noise
        there is in all, since noise and steepness make up for each other. Increments between quantiles are expected to
        be those of a Gaussian.
        """
        mean, std = torch.zeros(2, self.num_outputs, dtype=torch.float64)
        if self.kind == "mean_variance":
            std[1] = 1.0
        if self.kind == "quantile":
            std[:] = 3.0
            levels = torch.tensor(QUANTILE_LEVELS, dtype=torch.float64)
            gaps = self.residual_std * torch.special.ndtri(levels).diff()
            increments = torch.cat([gaps[: self.reward_output], gaps[self.reward_output :]])
            places = [place for place in range(self.num_outputs) if place != self.reward_output]
            mean[places] = increment_outputs(increments)
        return mean, std

    def output_curvature(self) -> Tensor:
        """`[D, D]` float64 how the loss curves in the outputs, about, where it curves by 1 in the reward alone.

        For quantiles it is that at a Gaussian: the density at each quantile weighs the outputs that move it.
        """
        if self.kind == "mean_variance":
            return torch.diag(torch.tensor([1.0, 0.02], dtype=torch.float64))
        if self.kind != "quantile":
            return torch.ones(1, 1, dtype=torch.float64)
        jacobian = torch.func.jacrev(monotone_quantiles)(self.bias_prior()[0])
        normal = torch.special.ndtri(torch.tensor(QUANTILE_LEVELS, dtype=torch.float64))
        density = (-0.5 * normal.square()).exp()
        curvature: Tensor = jacobian.T @ (jacobian * (density / density.sum()).unsqueeze(1))
        return curvature


def member_generators(seed: int, num_members: int) -> list[torch.Generator]:
    """A generator for each member, so that what is drawn for one does not depend on how many there are."""
    return [torch.Generator().manual_seed(seed * 1_000_003 + member) for member in range(num_members)]


def member_weights(group: Tensor, generators: list[torch.Generator], *, bootstrap: bool) -> Tensor:
    """How often each datum stands in the training set of each member.

    With `bootstrap`, prompts are drawn with replacement, as many as there are, each with all its data: data of one
    prompt are not independent.

    Args:
        group: `[P]` prompt of each datum.
        generators: of the members.
        bootstrap: else every datum stands there once.

    Returns:
        `[M, P]` float64.
    """
    if not bootstrap:
        return torch.ones(len(generators), len(group), dtype=torch.float64)
    _, local = torch.unique(group, return_inverse=True)
    size = int(local.max()) + 1
    counts = [
        torch.bincount(torch.randint(size, (size,), generator=generator), minlength=size) for generator in generators
    ]
    return torch.stack(counts)[:, local].double()
