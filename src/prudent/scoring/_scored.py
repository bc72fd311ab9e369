"""A scored dataset read back: the table, and the posterior over rewards in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from torch import Tensor

from prudent.errors import DataError, UnsupportedError
from prudent.rewards import GaussianRewards, MemberRewards, from_arrow
from prudent.scoring._centering import center_members
from prudent.utility import UtilityRule

__all__ = ["ScoredPool", "read_scored"]

_REQUIRED = ("prompt_id", "reward_mean", "reward_variance")


@dataclass(frozen=True)
class ScoredPool:
    """N scored responses.

    Attributes:
        table: the rows, all columns.
        source: where they came from, for messages.
    """

    table: pa.Table
    source: str = "the table"

    def __post_init__(self) -> None:
        missing = [name for name in _REQUIRED if name not in self.table.column_names]
        if missing:
            raise DataError(
                f"{self.source} is not a scored pool: column {missing[0]!r} is missing (it has "
                f"{', '.join(self.table.column_names)}); make one with `prudent score`"
            )
        kinds = {name: self.table.schema.field(name).type for name in _REQUIRED}
        if not pa.types.is_integer(kinds["prompt_id"]):
            raise DataError(f"{self.source}: prompt_id must be a column of integers, it is {kinds['prompt_id']}")
        for name in _REQUIRED[1:]:
            if not (pa.types.is_floating(kinds[name]) or pa.types.is_integer(kinds[name])):
                raise DataError(f"{self.source}: {name} must be a column of numbers, it is {kinds[name]}")
        if self.table.num_rows == 0:
            raise DataError(f"{self.source} has no rows; score a pool that has responses")

    @property
    def group(self) -> Tensor:
        """`[N]` int64, prompt of each row."""
        return torch.from_numpy(self.table["prompt_id"].to_numpy().astype("int64"))

    @property
    def basis_id(self) -> str | None:
        """Names the posterior that scored this; None where none did, or scores made elsewhere do not say."""
        found: str | None = self._stated().get("basis_id")
        return found

    @property
    def has_variance(self) -> bool:
        """Any variance is known; False for scores of a model without a posterior."""
        return bool(self.table["reward_variance"].null_count < self.table.num_rows)

    @property
    def num_members(self) -> int:
        """M of the ensemble whose rewards are stored; 0 where there are none."""
        if "reward_members" not in self.table.column_names:
            return 0
        return int(self.table.schema.field("reward_members").type.list_size)

    @property
    def ddof(self) -> int:
        """Delta degrees of freedom of the variance between members, which is divided by M - ddof."""
        return int(self._stated().get("ddof", 1))

    @property
    def has_centered_variance(self) -> bool:
        """The variance against the prompts' reference sets is stored, and of an ensemble which rows these are."""
        columns = ["reward_reference", "reward_centered_variance", *(["is_reference"] if self.num_members else [])]
        return all(
            name in self.table.column_names and self.table[name].null_count < self.table.num_rows for name in columns
        )

    @property
    def is_calibration(self) -> Tensor:
        """`[N]` bool, rows of prompts whose gold the members were calibrated on; no judge of what came out."""
        return self._flags("is_calibration")

    def _stated(self) -> dict[str, Any]:
        """What the file says of its rewards; empty for files made elsewhere."""
        metadata = self.table.schema.metadata or {}
        found: dict[str, Any] = json.loads(metadata.get(b"prudent", b"{}"))
        return found

    def column(self, name: str) -> Tensor:
        """A numeric column as `[N]` float64; NaN where it is null."""
        values = pc.fill_null(self.table[name].cast(pa.float64()), float("nan"))
        return torch.from_numpy(values.to_numpy().copy())

    def _flags(self, name: str) -> Tensor:
        """A column of booleans as `[N]`; False where it is null or absent."""
        if name not in self.table.column_names:
            return torch.zeros(self.table.num_rows, dtype=torch.bool)
        return torch.from_numpy(pc.fill_null(self.table[name].cast(pa.bool_()), False).to_numpy().copy())

    def posterior_for(self, rule: UtilityRule, *, centered: bool = False) -> GaussianRewards | MemberRewards:
        """The rewards as a rule reads them, if what it needs is stored.

        A rule that compares the responses of a prompt does not change when all are centred alike, and needs the factor.

        Raises:
            DataError: the rule needs variances, and there are none.
            UnsupportedError: the centred variance is not stored.
        """
        if rule.name != "mean" and not self.has_variance:
            raise DataError(f"{self.source} has no variances, which {rule.name} needs; fit a posterior and score again")
        return self.posterior(centered=centered and not rule.depends_on_pool)

    def posterior(self, *, centered: bool = False) -> GaussianRewards | MemberRewards:
        """The rewards, or the rewards relative to the average of the prompt's fixed reference set.

        Args:
            centered: of `r - average reward of the reference set`, which leaves out what a pair likelihood does not
                identify: mean and exact variance, and of an ensemble the members, each less its own average; no factor.

        Raises:
            UnsupportedError: the centred variance is not stored.
            DataError: rows of a reference set that members are to be centred on are gone.
        """
        if not centered:
            return from_arrow(self.table)
        if not self.has_centered_variance:
            raise UnsupportedError(f"{self.source} stores no centered variance; score it again with this version")
        reference, variance = self.column("reward_reference"), self.column("reward_centered_variance")
        if self.num_members:
            rewards = from_arrow(
                self.table.select([name for name in self.table.column_names if name != "reward_factor"])
            )
            if isinstance(rewards, MemberRewards):
                return center_members(rewards, self._flags("is_reference"), reference, variance, self.source)
        return GaussianRewards(
            self.column("reward_mean") - reference,
            variance,
            self.group,
            noise=self.column("reward_noise") if "reward_noise" in self.table.column_names else None,
        )


def read_scored(path: str | Path) -> ScoredPool:
    """Read what `score` wrote: a folder of parts, or any Parquet file with its columns.

    Raises:
        DataError: nothing there, a run that is not finished, damaged files, or other columns.
    """
    place = Path(path)
    if not place.exists():
        if place.with_name(f"{place.name}.partial").exists():
            raise DataError(f"{place} is not finished; run the same `prudent score` again, it goes on where it stopped")
        raise DataError(f"there is no {place}; give the output of `prudent score`")
    try:
        table = ds.dataset(place, format="parquet").to_table()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{place} is not readable as Parquet ({str(error).splitlines()[0]}); score the pool again"
        ) from error
    return ScoredPool(table, str(place))
