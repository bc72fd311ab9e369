"""What is done to the labels of pairs, as pure functions of strengths and probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from prudent.errors import DataError

__all__ = ["Change", "Treated", "Treatment", "check_groups", "suspects", "treat"]

Treatment = Literal["flip", "drop", "soft", "margin", "mark"]
"""`flip` turns suspect labels round; `drop` leaves suspect pairs out; `soft` puts the probability that a label is right
in its place; `margin` asks for a margin as large as the strength; `mark` changes nothing but tells."""

Change = Literal["kept", "flipped", "dropped", "softened", "margin"]
"""What was done to a pair."""

_MIN_PAIRS_OF_GROUP = {"prompt": 10}
_MIN_PAIRS = 20


@dataclass(frozen=True)
class Treated:
    """Labels after a treatment.

    Attributes:
        change: `[P]` what was done to each pair.
        label: `[P]` float64 probability that the response now named chosen is the better one.
        margin: `[P]` float64 margin between the responses as they are now named.
    """

    change: tuple[Change, ...]
    label: Tensor
    margin: Tensor

    @property
    def flipped(self) -> Tensor:
        """`[P]` bool: chosen and rejected change places."""
        return torch.tensor([change == "flipped" for change in self.change])

    @property
    def kept(self) -> Tensor:
        """`[P]` bool: the pair is in the output."""
        return torch.tensor([change != "dropped" for change in self.change])


def suspects(
    mean: Tensor, prob_flipped: Tensor, *, threshold: float = 0.5, bottom_share: float | None = None
) -> Tensor:
    """`[P]` bool: which labels count as flipped.

    Args:
        mean: `[P]` mean strength.
        prob_flipped: `[P]` probability that the label is flipped.
        threshold: those above it; at 0.5 the expected number of wrong labels is lowest.
        bottom_share: instead, this share of the pairs, those of lowest strength, as in 2401.06080.

    Raises:
        ValueError: a threshold or share outside [0, 1].

    Example:
        >>> suspects(torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.8, 0.3, 0.1])).tolist()
        [True, False, False]
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it is a probability")
    if bottom_share is None:
        return prob_flipped > threshold
    if not 0 <= bottom_share <= 1:
        raise ValueError(f"bottom_share is {bottom_share}; it is a share of the pairs, in [0, 1]")
    found = torch.zeros(len(mean), dtype=torch.bool)
    found[mean.argsort(stable=True)[: round(bottom_share * len(mean))]] = True
    return found


def treat(
    treatment: Treatment, suspect: Tensor, mean: Tensor, prob_flipped: Tensor, label: Tensor, margin: Tensor
) -> Treated:
    """Apply one treatment to P pairs.

    A soft label or a margin that a pair has already goes with its label: where that is flipped they hold for the
    responses the other way round. `soft` gives `(1 - f) p + f (1 - p)` for a label p flipped with probability f.
    `margin` gives a pair the mean strength, below 0 where the ensemble prefers the rejected response (the loss is then
    -log sigma(r_w - r_l - margin); equation 6 of 2401.06080 as printed has the margin outside), but leaves a margin
    that is not 0 as it is.

    Args:
        treatment: by name.
        suspect: `[P]` bool, from `suspects`; for `flip` and `drop`.
        mean: `[P]` mean strength.
        prob_flipped: `[P]` probability that the label is flipped.
        label: `[P]` probability that chosen is better, as the file says.
        margin: `[P]` as the file says.

    Raises:
        ValueError: no such treatment.

    Example:
        >>> strength, flip = torch.tensor([-1.0, 2.0]), torch.tensor([0.75, 0.0])
        >>> ones, zeros = torch.ones(2), torch.zeros(2)
        >>> treat("soft", flip > 0.5, strength, flip, ones, zeros).label.tolist()
        [0.25, 1.0]
    """
    if treatment not in get_args(Treatment):
        raise ValueError(f"treatment is {treatment!r}; one of {', '.join(get_args(Treatment))}")
    label, margin = label.double(), margin.double()
    touched = torch.zeros_like(suspect)
    change: Change = "kept"
    if treatment in ("flip", "drop"):
        touched, change = suspect, "flipped" if treatment == "flip" else "dropped"
    elif treatment == "soft":
        label = label + prob_flipped.double() * (1 - 2 * label)
        touched, change = torch.ones_like(suspect), "softened"
    elif treatment == "margin":
        touched, change = margin == 0, "margin"
        margin = torch.where(touched, mean.double(), margin)
    return Treated(tuple(change if one else "kept" for one in touched.tolist()), label, margin)


def check_groups(touched: Tensor, groups: dict[str, Sequence[str | None]]) -> None:
    """Refuse what is no noise but a whole group of labels the wrong way round.

    Args:
        touched: `[P]` bool: the label would be flipped, or the pair dropped.
        groups: by name of a column the group `[P]` of each pair; None for a pair without.

    Raises:
        DataError: more than half of all pairs; or, of a group of at least 20, more than half, for prompts all of at
            least 10.

    Example:
        >>> check_groups(torch.tensor([True, False]), {"source": ["a", "b"]})
    """
    num, total = int(touched.sum()), len(touched)
    if num > total / 2:
        raise DataError(
            f"{num:,} of all {total:,} labels would be changed, more than half: do `chosen` and `rejected` stand the "
            "right way round, and do higher rewards of this model mean better? Swap the columns, or give another model"
        )
    for column, names in groups.items():
        counts: dict[str, list[int]] = {}
        for name, one in zip(names, touched.tolist(), strict=True):
            if name is not None:
                counts.setdefault(name, [0, 0])[one] += 1
        for name, (left, changed) in counts.items():
            enough = left + changed >= _MIN_PAIRS_OF_GROUP.get(column, _MIN_PAIRS)
            if enough and (left == 0 if column == "prompt" else changed > left):
                shown = name if len(name) <= 60 else f"{name[:57]}..."
                raise DataError(
                    f"{changed:,} of the {left + changed:,} labels of {column} {shown!r} would be changed, and a whole"
                    " group is not noise. Do `chosen` and `rejected` stand the wrong way round there? Swap them in that"
                    " group, leave it out, or clean it alone"
                )
