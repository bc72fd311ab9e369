"""Join posteriors, and read them from Arrow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.rewards._arrow import column, matrix_column, read_metadata
from prudent.rewards._combined import CombinedRewards
from prudent.rewards._gaussian import GaussianRewards
from prudent.rewards._members import MemberRewards
from prudent.rewards._protocol import RewardPosterior
from prudent.rewards._transformed import TransformedRewards

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["concatenate", "from_arrow"]

P = TypeVar("P", bound=RewardPosterior)


def concatenate(posteriors: Sequence[P]) -> P:
    """One posterior over the responses of several, in order; group ids are kept as they are.

    Args:
        posteriors: at least one, all of the same kind, with the same `basis_id` (ddof, function, ...).

    Returns:
        A posterior of that kind.

    Raises:
        ValueError: nothing to join, or kinds, `basis_id` or optional parts (factor, text_id) differ.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> len(concatenate([MemberRewards(torch.zeros(2, 3)), MemberRewards(torch.ones(1, 3))]))
        3
    """
    if not posteriors:
        raise ValueError("nothing to concatenate")
    kinds = {type(posterior).__name__ for posterior in posteriors}
    if len(kinds) > 1:
        raise ValueError(f"cannot concatenate different kinds of posterior: {', '.join(sorted(kinds))}")
    first = posteriors[0]
    if isinstance(first, GaussianRewards):
        return cast(P, _join_gaussian(cast(Sequence[GaussianRewards], posteriors)))
    if isinstance(first, MemberRewards):
        return cast(P, _join_members(cast(Sequence[MemberRewards], posteriors)))
    if isinstance(first, TransformedRewards):
        return cast(P, _join_transformed(cast(Sequence[TransformedRewards], posteriors)))
    if isinstance(first, CombinedRewards):
        return cast(P, _join_combined(cast(Sequence[CombinedRewards], posteriors)))
    raise TypeError(f"cannot concatenate {type(first).__name__}")


def from_arrow(table: "pa.Table") -> GaussianRewards | MemberRewards:
    """Read a posterior from reward columns; other columns are ignored, so a scored file will do.

    The kind is what the schema metadata says; without it, `reward_members` makes `MemberRewards` and
    `reward_mean` with `reward_variance` makes `GaussianRewards`. Members have doubts of their own where there is a
    `reward_within_variance`; `reward_factor` is then theirs. Nulls are read as NaN: not scored.

    Args:
        table: an Arrow table with `prompt_id` and reward columns.

    Returns:
        The posterior, on the CPU, in the table's floating type.

    Raises:
        DataError: a needed column is missing or has the wrong type.

    Example:
        >>> import torch
        >>> from prudent.rewards import MemberRewards
        >>> from_arrow(MemberRewards(torch.tensor([[1.0, 3.0]]), torch.tensor([5])).to_arrow()).group.tolist()
        [5]
    """
    names = set(table.column_names)
    metadata = read_metadata(table)
    kind = metadata.get("kind", "members" if "reward_members" in names else "gaussian")
    if kind not in ("gaussian", "members"):
        raise DataError(f"the table holds a posterior of kind {kind!r}, known are gaussian and members")
    needed = ["prompt_id", *(["reward_members"] if kind == "members" else ["reward_mean", "reward_variance"])]
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"the table has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    group, basis_id = column(table, "prompt_id"), metadata.get("basis_id")
    try:
        factor = matrix_column(table, "reward_factor") if "reward_factor" in names else None
        noise = column(table, "reward_noise") if "reward_noise" in names else None
        text_id = column(table, "text_id") if "text_id" in names else None
        if kind == "members":
            return MemberRewards(
                matrix_column(table, "reward_members"),
                group,
                metadata.get("ddof", 1),
                basis_id,
                within_variance=column(table, "reward_within_variance") if "reward_within_variance" in names else None,
                within_factor=factor,
                noise=noise,
                text_id=text_id,
            )
        return GaussianRewards(
            column(table, "reward_mean"),
            column(table, "reward_variance"),
            group,
            factor,
            noise,
            text_id,
            basis_id,
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"the reward columns are not valid: {error}") from error


def _same(name: str, values: Sequence[object]) -> None:
    if any(value != values[0] for value in values):
        found = ", ".join(sorted({repr(value) for value in values}))
        raise ValueError(f"cannot concatenate posteriors with different {name}: {found}")


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _join_gaussian(posteriors: Sequence[GaussianRewards]) -> GaussianRewards:
    _same("basis_id", [p.basis_id for p in posteriors])
    _same("factor columns", [None if p.factor is None else p.factor.shape[1] for p in posteriors])
    _same("presence of text_id", [p.text_id is not None for p in posteriors])
    return GaussianRewards(
        torch.cat([p.mean for p in posteriors]),
        torch.cat([p.variance for p in posteriors]),
        torch.cat([p.group for p in posteriors]),
        _join([p.factor for p in posteriors]),
        torch.cat([p.noise for p in posteriors]),
        _join([p.text_id for p in posteriors]),
        posteriors[0].basis_id,
    )


def _join_members(posteriors: Sequence[MemberRewards]) -> MemberRewards:
    _same("basis_id", [p.basis_id for p in posteriors])
    _same("ddof", [p.ddof for p in posteriors])
    _same("number of members", [p.members.shape[1] for p in posteriors])
    _same("presence of within_variance", [p.within_variance is not None for p in posteriors])
    _same("factor columns", [None if p.within_factor is None else p.within_factor.shape[1] for p in posteriors])
    _same("presence of text_id", [p.text_id is not None for p in posteriors])
    return MemberRewards(
        torch.cat([p.members for p in posteriors]),
        torch.cat([p.group for p in posteriors]),
        posteriors[0].ddof,
        posteriors[0].basis_id,
        within_variance=_join([p.within_variance for p in posteriors]),
        within_factor=_join([p.within_factor for p in posteriors]),
        noise=torch.cat([p.noise for p in posteriors]),
        text_id=_join([p.text_id for p in posteriors]),
    )


def _join_transformed(posteriors: Sequence[TransformedRewards]) -> TransformedRewards:
    first = posteriors[0]
    for name in ("function", "increasing", "num_samples", "seed"):
        _same(name, [getattr(p, name) for p in posteriors])
    shapes = [[tuple(parameter.shape[1:]) for parameter in p.parameters] for p in posteriors]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            "cannot concatenate transformed posteriors with different shapes of parameters (as ranks among different "
            "numbers of references have): concatenate first, then transform"
        )
    return TransformedRewards(
        concatenate([p.base for p in posteriors]),
        first.function,
        parameters=tuple(torch.cat(parts) for parts in zip(*(p.parameters for p in posteriors), strict=True)),
        increasing=first.increasing,
        num_samples=first.num_samples,
        seed=first.seed,
    )


def _join_combined(posteriors: Sequence[CombinedRewards]) -> CombinedRewards:
    first = posteriors[0]
    for name in ("function", "correlation", "num_samples", "seed"):
        _same(name, [getattr(p, name) for p in posteriors])
    _same("number of parts", [len(p.parts) for p in posteriors])
    return CombinedRewards(
        [concatenate(parts) for parts in zip(*(p.parts for p in posteriors), strict=True)],
        first.function,
        correlation=first.correlation,
        num_samples=first.num_samples,
        seed=first.seed,
    )
