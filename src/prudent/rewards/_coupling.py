"""How several rewards of one response go together."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards._drawn import DrawnRewards
from prudent.rewards._gaussian import GaussianRewards
from prudent.rewards._marginal import pick
from prudent.rewards._members import MemberRewards
from prudent.rewards._protocol import RewardPosterior
from prudent.rewards._spread import DrawSpread, Picked
from prudent.rewards._transformed import TransformedRewards

__all__ = ["Coupling"]


class Coupling:
    """How the parts of one response go together, and draws of what is random in them.

    Args:
        parts: posteriors over the same responses.
        correlation: 0, a number below 1, or "members"; see `CombinedRewards`.

    Attributes:
        roots: what each part is a function of.

    Raises:
        ValueError: the correlation is out of range.
        UnsupportedError: it means nothing for these parts.
    """

    def __init__(self, parts: Sequence[RewardPosterior], correlation: float | Literal["members"]) -> None:
        self.roots = tuple(_root(part) for part in parts)
        self.correlation = correlation
        self._check_correlation()

    def is_discrete(self, include_noise: bool) -> bool:
        """Whether all that is random is which member it is."""
        return all(isinstance(root, MemberRewards) and root.is_members_alone(include_noise) for root in self.roots)

    def combinations(self, include_noise: bool, at_most: int) -> Tensor | None:
        """Every combination of members, which then are all the joint draws there are.

        Args:
            include_noise: count the aleatoric part too.
            at_most: how many combinations are few enough.

        Returns:
            [C, P] the member of each part; None where there are more, or where not only members are random.
        """
        if not self.is_discrete(include_noise):
            return None
        members = [torch.arange(count) for count in self._counts]
        if self.correlation == "members":
            return members[0][:, None].expand(-1, len(members))
        if math.prod(self._counts) > at_most:
            return None
        return torch.cartesian_prod(*members).reshape(-1, len(members))

    def normals(self, include_noise: bool, num_samples: int, seed: int) -> Tensor:
        """What stands for the parts of a response in every draw.

        Args:
            include_noise: count the aleatoric part too.
            num_samples: S, number of quasi-random draws; there are C instead where `combinations` enumerates them.
            seed: of the scrambling.

        Returns:
            [S, P, 2] float64: a normal that picks the part's member, and what is normal in the part; where a number is
            the correlation and noise counts [S, P, 3], with the noise by itself: it is independent between the parts.
        """
        picked = self.combinations(include_noise, num_samples)
        if picked is not None:
            middle = torch.special.ndtri((picked.double() + 0.5) / torch.tensor(self._counts))
            return torch.stack([middle, torch.zeros_like(middle)], -1)
        is_number = self.correlation not in (0, "members")
        columns = 3 if is_number and include_noise else 2
        normal, member, *noise = _sobol_normals(num_samples, columns * len(self.roots), seed).chunk(columns, 1)
        if self.correlation == "members":
            member = member[:, :1].expand_as(member)
        elif is_number:
            covariance = torch.full((len(self.roots), len(self.roots)), self.correlation, dtype=normal.dtype)
            normal = normal @ torch.linalg.cholesky(covariance.fill_diagonal_(1)).T
        return torch.stack([member, normal, *noise], -1)

    def spread(self, include_noise: bool, num_samples: int, seed: int) -> DrawSpread:
        """How a function of the draws of `normals` varies: its ensembles keep their ddof."""
        normals = self.normals(include_noise, num_samples, seed)
        picked = [_picked(root, normals[:, place], include_noise) for place, root in enumerate(self.roots)]
        return DrawSpread(0, self.of_members(picked))

    def of_members(self, picked: Sequence[tuple[Picked, ...]]) -> tuple[Picked, ...]:
        """The members that each part has in some draws, once where they belong together."""
        if self.correlation != "members":
            return tuple(one for part in picked for one in part)
        first = picked[0][0]
        return (Picked(first.which, first.count, self.ddof),)

    @property
    def ddof(self) -> int:
        """Of the variance between members that belong together."""
        return max(root.ddof for root in self.roots if isinstance(root, MemberRewards))

    def check_joint(self, include_noise: bool) -> None:
        """Raise UnsupportedError where it is not known how the parts of two responses go together."""
        if self.correlation == 0 or (self.correlation == "members" and self.is_discrete(include_noise)):
            return
        what = "noise or doubt within members" if self.correlation == "members" else "a number as correlation"
        raise UnsupportedError(
            f"CombinedRewards with {what} cannot compare responses: how the parts of two responses go together is not "
            "known. Take correlation=0, or a rule that needs single responses only"
        )

    @property
    def _counts(self) -> list[int]:
        """M of each part that is an ensemble."""
        return [root.members.shape[1] for root in self.roots if isinstance(root, MemberRewards)]

    def _check_correlation(self) -> None:
        if self.correlation == "members":
            self._check_members()
        elif not isinstance(self.correlation, int | float) or not 0 <= self.correlation < 1:
            raise ValueError(
                f"correlation must be a number at least 0 and below 1, or members, got {self.correlation!r}"
            )
        elif self.correlation > 0:
            for place, root in enumerate(self.roots, 1):
                if not isinstance(root, GaussianRewards):
                    raise UnsupportedError(
                        f"part {place} is made from {type(root).__name__}, and a number as correlation is that of "
                        "Gaussian parts: take 0, or members where members belong together"
                    )

    def _check_members(self) -> None:
        for place, root in enumerate(self.roots, 1):
            if not isinstance(root, MemberRewards):
                raise UnsupportedError(
                    f"part {place} has no members, so correlation=members means nothing: take 0 or a number"
                )
        for place, count in enumerate(self._counts, 1):
            if count != self._counts[0]:
                raise UnsupportedError(
                    f"part {place} has {count} members and part 1 has {self._counts[0]}, so they do not belong "
                    "together: take correlation=0"
                )


def _picked(root: RewardPosterior, normals: Tensor, include_noise: bool) -> tuple[Picked, ...]:
    """The members that draws of a part have that are made from normals [S, 2]."""
    if isinstance(root, MemberRewards):
        count = root.members.shape[1]
        return (Picked(pick(normals, count), count, root.ddof),)
    spread = root._single_spread(include_noise) if isinstance(root, DrawnRewards) else None
    if spread is None or not spread.picked:
        return ()
    path = pick(normals, len(spread.picked[0].which))
    return tuple(Picked(one.which[path], one.count, one.ddof) for one in spread.picked)


def _root(part: RewardPosterior) -> RewardPosterior:
    """What a part is a function of."""
    while isinstance(part, TransformedRewards):
        part = part.base
    return part


@lru_cache(maxsize=16)
def _sobol_normals(num_samples: int, columns: int, seed: int) -> Tensor:
    """Quasi-random standard normals [S, columns], never infinite."""
    engine = torch.quasirandom.SobolEngine(columns, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    points = engine.draw(num_samples, dtype=torch.float64)
    # in random order: where these are picked from by number, for a combination of combinations, the pattern in which
    # they come must not meet that of the points that pick
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    normals: Tensor = torch.special.ndtri(points[order].clamp(2.0**-31, 1 - 2.0**-31))
    return normals
