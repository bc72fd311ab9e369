"""Evaluations on held-out pairs, as a report takes and names them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prudent.errors import DataError
from prudent.evaluation import Evaluation, Figure, PairFigures, SelectiveFigures, read_evaluation

__all__ = ["HeldOut", "held_out_pairs"]

_MOST = 6


@dataclass(frozen=True)
class HeldOut:
    """An evaluation and what to call it."""

    label: str
    evaluation: Evaluation

    @property
    def rows(self) -> list[tuple[str, PairFigures, SelectiveFigures]]:
        """What probabilities are called, how good they are, and how good their order is."""
        found = self.evaluation
        rows = [("mean alone", found.map, found.selective_map)]
        if found.scaled is not None:  # a temperature leaves the order as it is
            rows.append((f"mean over {found.logit_temperature:.3g}", found.scaled, found.selective_map))
        if found.moderated is not None and found.selective_moderated is not None:
            rows.append(("whole posterior", found.moderated, found.selective_moderated))
        return rows

    @property
    def differences(self) -> list[tuple[str, Figure]]:
        """What the variance does, paired; negative is better."""
        named = {"negative log-likelihood": self.evaluation.nll_difference, "AURC": self.evaluation.area_difference}
        return [(name, figure) for name, figure in named.items() if figure is not None]


def held_out_pairs(evaluations: Sequence[str | Path | Evaluation]) -> tuple[HeldOut, ...]:
    """Read evaluations and name each by its posterior, with the file where that does not tell them apart.

    Args:
        evaluations: At most six, what `evaluate` returned or the files it wrote.

    Raises:
        DataError: A file is not what `evaluate` wrote, or there are more than six.
    """
    if len(evaluations) > _MOST:
        raise DataError(f"a report shows at most {_MOST} evaluations side by side, got {len(evaluations)}")
    read = [one if isinstance(one, Evaluation) else read_evaluation(one) for one in evaluations]
    labels = ["no posterior" if one.posterior == "none" else one.posterior for one in read]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({told})" for label, told in zip(labels, _told_apart(evaluations), strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{label}, {place}" for place, label in enumerate(labels, 1)]
    return tuple(HeldOut(label, one) for label, one in zip(labels, read, strict=True))


def _told_apart(evaluations: Sequence[str | Path | Evaluation]) -> list[str]:
    """Files by as much of the end of their paths as sets them apart; what is no file by its place."""
    paths = {place: Path(one).absolute() for place, one in enumerate(evaluations) if not isinstance(one, Evaluation)}
    found = {place: str(place + 1) for place in range(len(evaluations))}
    for size in range(1, max((len(path.parts) for path in paths.values()), default=0)):
        tails = {place: "/".join(path.with_suffix("").parts[-size:]) for place, path in paths.items()}
        if len(set(tails.values())) == len(tails):
            found |= tails
            break
    return list(found.values())
