"""Texts and pairs as the members of an ensemble read them: once for each way in which they tokenize."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prudent.models import EncodedTexts
from prudent.posteriors._pair_texts import PairTexts

__all__ = ["MemberPairs", "MemberTexts"]


@dataclass(frozen=True)
class MemberTexts:
    """N texts, once for each way in which the members tokenize.

    Attributes:
        parts: the texts by each way.
        which: `[M]` way of each member.
    """

    parts: tuple[EncodedTexts, ...]
    which: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def of(self, member: int) -> EncodedTexts:
        """The texts as a member reads them."""
        return self.parts[self.which[member]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[N]` tokens, of the member that makes most of them."""
        longest: NDArray[np.int64] = np.max([part.lengths for part in self.parts], axis=0)
        return longest

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """`[N]` the response was cut for a member."""
        cut: NDArray[np.bool_] = np.any([part.truncated for part in self.parts], axis=0)
        return cut

    @property
    def prompt_truncated(self) -> NDArray[np.bool_]:
        """`[N]` the prompt was cut for a member."""
        cut: NDArray[np.bool_] = np.any([part.prompt_truncated for part in self.parts], axis=0)
        return cut

    def select(self, index: NDArray[np.int64]) -> Self:
        """The texts at some places, in that order."""
        return type(self)(tuple(part.select(index) for part in self.parts), self.which)

    def digest(self) -> str:
        """Names the texts as they are read."""
        return " ".join(part.digest() for part in self.parts)


@dataclass(frozen=True)
class MemberPairs:
    """P pairs, once for each way in which the members tokenize; attributes as of `MemberTexts`."""

    parts: tuple[PairTexts, ...]
    which: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def of(self, member: int) -> PairTexts:
        """The pairs as a member reads them."""
        return self.parts[self.which[member]]

    @property
    def label(self) -> Tensor:
        """`[P]` float64 probability that chosen is the better one."""
        return self.parts[0].label

    @property
    def num_truncated(self) -> int:
        """Texts whose response was cut, for the member for which most were."""
        return max(part.num_truncated for part in self.parts)
