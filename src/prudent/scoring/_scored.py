"""A scored dataset read back: the table, and the posterior over rewards in it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from torch import Tensor

from prudent.errors import DataError, UnsupportedError
from prudent.rewards import GaussianRewards, MemberRewards, from_arrow
from prudent.scoring._centering import against_references, average_of_references
from prudent.scoring._names import REWARD_COLUMNS, columns_of
from prudent.scoring._output import num_skipped_of
from prudent.utility import ONLY, RewardSet

__all__ = ["ScoredPool", "read_numbers", "read_scored"]

_REQUIRED = ("reward_mean", "reward_variance")
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ScoredPool:
    """N scored responses, with one reward or several.

    What is said of the reward without a name (`posterior`, `basis_id`, ...) needs a pool that has one; `reward` takes
    one of several.

    Attributes:
        table: the rows, all columns.
        source: where they came from, for messages.
        num_skipped: rows or prompts that scoring left out as faulty, as far as is known.
    """

    table: pa.Table
    source: str = "the table"
    num_skipped: int = 0

    def __post_init__(self) -> None:
        columns = [columns_of(name)[column] for name in self.reward_names or (ONLY,) for column in _REQUIRED]
        missing = [name for name in ("prompt_id", *columns) if name not in self.table.column_names]
        if missing:
            raise DataError(
                f"{self.source} is not a scored pool: column {missing[0]!r} is missing (it has "
                f"{', '.join(self.table.column_names)}); make one with `prudent score`"
            )
        kind = self.table.schema.field("prompt_id").type
        if not pa.types.is_integer(kind):
            raise DataError(f"{self.source}: prompt_id must be a column of integers, it is {kind}")
        for name in columns:
            kind = self.table.schema.field(name).type
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise DataError(f"{self.source}: {name} must be a column of numbers, it is {kind}")
        if self.table.num_rows == 0:
            raise DataError(f"{self.source} has no rows; score a pool that has responses")

    @property
    def reward_names(self) -> tuple[str, ...]:
        """What the rewards are called; `reward` is one without a name, in columns such as `reward_mean`."""
        if "rewards" in (stated := self._metadata()):
            return tuple(
                name for name in stated["rewards"] if columns_of(name)["reward_mean"] in self.table.column_names
            )
        if "reward_mean" in self.table.column_names:
            return (ONLY,)
        # Programs that rewrite a file may lose what it says of itself.
        suffix = "_reward_mean"
        return tuple(name.removesuffix(suffix) for name in self.table.column_names if name.endswith(suffix))

    def reward(self, name: str | None = None) -> "ScoredPool":
        """The pool with one of its rewards, in columns without its name.

        Args:
            name: of the reward; by default the only one, whatever it is called.

        Raises:
            DataError: there is none of that name, or several where one is meant.
        """
        if name is None and len(self.reward_names) > 1:
            self._require_one()
        if name is None:
            name = self.reward_names[0]
        if name not in self.reward_names:
            raise DataError(f"{self.source} has no reward {name!r}; it has {', '.join(self.reward_names)}")
        if name == ONLY:
            return self
        ours = {column: plain for plain, column in columns_of(name).items()}
        others = {column for other in self.reward_names for column in columns_of(other).values()} | set(
            columns_of(ONLY)
        )
        kept = [column for column in self.table.column_names if column in ours or column not in others]
        table = self.table.select(kept).rename_columns([ours.get(column, column) for column in kept])
        stated = self._metadata().get("rewards", {}).get(name, {})
        return ScoredPool(table.replace_schema_metadata({b"prudent": json.dumps(stated).encode()}), self.source)

    def reward_set(self) -> RewardSet:
        """All rewards by name, with what utilities must know of the reference responses.

        A reward whose variance is not known counts as certain here (see `Utility.needs_variance_of` for which
        utilities that will do). Where rows of reference sets are gone it is not known which responses are references.
        """
        pools = {name: self.reward(name) for name in self.reward_names}
        canned = {name: text for name, pool in pools.items() if (text := pool.canned) is not None}
        complete = all(pool._has_its_references() for name, pool in pools.items() if name not in canned)
        return RewardSet(
            {name: pool.posterior() if pool.has_variance else pool._certain() for name, pool in pools.items()},
            against_references={
                name: pool.posterior(contrast_variance=True)
                for name, pool in pools.items()
                if pool.has_centered_variance and (complete or name in canned)
            },
            is_reference=self._flags("is_reference") if complete else None,
            references={name: pools[name]._canned_rewards() for name in canned},
            canned=canned,
        )

    @property
    def group(self) -> Tensor:
        """`[N]` int64, prompt of each row."""
        return torch.from_numpy(self.table["prompt_id"].to_numpy().astype("int64"))

    @property
    def canned(self) -> str | None:
        """The text that stands for every prompt's reference responses; None where these are responses of the pool."""
        found: str | None = self._stated().get("canned")
        return found

    @property
    def basis_id(self) -> str | None:
        """Names the posterior that scored this; None where none did, or scores made elsewhere do not say."""
        found: str | None = self._stated().get("basis_id")
        return found

    @property
    def model(self) -> str | None:
        """Names the model where no posterior does; None where one does, or scores made elsewhere do not say."""
        found: str | None = self._stated().get("model")
        return found

    @property
    def has_variance(self) -> bool:
        """Any variance is known, of any reward; False for scores of models without a posterior."""
        columns = [columns_of(name)["reward_variance"] for name in self.reward_names]
        return any(self.table[column].null_count < self.table.num_rows for column in columns)

    @property
    def num_members(self) -> int:
        """M of the ensemble whose rewards are stored; 0 where there are none."""
        self._require_one()
        if "reward_members" not in self.table.column_names:
            return 0
        return int(self.table.schema.field("reward_members").type.list_size)

    @property
    def ddof(self) -> int:
        """Delta degrees of freedom of the variance between members, which is divided by M - ddof."""
        return int(self._stated().get("ddof", 1))

    @property
    def has_centered_variance(self) -> bool:
        """The variance against the prompts' references is stored, and of an ensemble what its members say of them."""
        columns = ["reward_reference", "reward_centered_variance"]
        if self.num_members:
            columns.append("is_reference" if self.canned is None else "reward_reference_members")
        return all(
            name in self.table.column_names and self.table[name].null_count < self.table.num_rows for name in columns
        )

    @property
    def is_calibration(self) -> Tensor:
        """`[N]` bool, rows of prompts whose gold the members were calibrated on; no judge of what came out."""
        return self._flags("is_calibration")

    def _metadata(self) -> dict[str, Any]:
        """What the file says of its rewards; empty for files made elsewhere."""
        found: dict[str, Any] = json.loads((self.table.schema.metadata or {}).get(b"prudent", b"{}"))
        return found

    def _stated(self) -> dict[str, Any]:
        """What the file says of its only reward."""
        self._require_one()
        return self._metadata()

    def _require_one(self) -> None:
        names = self.reward_names
        if names == (ONLY,):
            return
        if len(names) == 1:
            raise DataError(
                f"{self.source} has its reward under the name {names[0]!r}, and one without a name is needed here: "
                "score the pool with --model FOLDER, without a name, or take it by ScoredPool.reward()"
            )
        raise DataError(
            f"{self.source} has the rewards {', '.join(names)}, and one is needed here: name it in a utility, as in "
            f"'{names[0]} | lcb_std', or give a file that one model scored (in Python: ScoredPool.reward('{names[0]}'))"
        )

    def column(self, name: str) -> Tensor:
        """A numeric column as `[N]` float64; NaN where it is null.

        Raises:
            DataError: it is not of numbers.
        """
        if name in REWARD_COLUMNS:
            self._require_one()
        return _numbers(self.table, name, self.source)

    def embedding(self, rows: slice = slice(None)) -> Tensor:
        """The column `embedding` of some rows, which lie next to each other: `[n, D]` float32, NaN where it is null.

        Raises:
            DataError: there is none, or it is not lists of numbers of one length.
        """
        if "embedding" not in self.table.column_names:
            raise DataError(
                f"{self.source} has no column 'embedding' to compare responses by; score it with --embeddings"
            )
        whole = self.table["embedding"]
        # of the whole column: some rows alone may have no list, or lists of another length than the rest
        lengths = pc.unique(pc.list_value_length(whole)).drop_null().to_pylist() if _is_list_of_numbers(whole) else []
        if len(lengths) != 1:
            raise DataError(f"{self.source}: column 'embedding' must be lists of numbers of one length")
        first, end, _ = rows.indices(self.table.num_rows)
        column = whole.slice(first, end - first)
        known = pc.list_flatten(column.drop_null()).to_numpy().astype(np.float32)
        found = np.full((len(column), lengths[0]), np.nan, np.float32)
        found[column.is_valid().to_numpy()] = known.reshape(-1, lengths[0])
        return torch.from_numpy(found)

    def _flags(self, name: str) -> Tensor:
        """A column of booleans as `[N]`; False where it is null or absent."""
        if name not in self.table.column_names:
            return torch.zeros(self.table.num_rows, dtype=torch.bool)
        return torch.from_numpy(pc.fill_null(self.table[name].cast(pa.bool_()), False).to_numpy().copy())

    def posterior(self, *, contrast_variance: bool = False) -> GaussianRewards | MemberRewards:
        """The rewards.

        Args:
            contrast_variance: with the exact variance of their difference to the average of the prompt's references,
                which leaves out what a pair likelihood does not identify; no factor. Of an ensemble it is that of what
                each member says less what it says of the references.

        Raises:
            UnsupportedError: the variance of that difference is not stored.
            DataError: rows of a reference set that members are to be centered on are gone.
        """
        if not contrast_variance:
            self._require_one()
            return from_arrow(self.table)
        if not self.has_centered_variance:
            raise UnsupportedError(f"{self.source} stores no centered variance; score it again with this version")
        variance = self.column("reward_centered_variance")
        if self.num_members:
            rewards = from_arrow(
                self.table.select([name for name in self.table.column_names if name != "reward_factor"])
            )
            if isinstance(rewards, MemberRewards):
                if self.canned is None:
                    center = average_of_references(rewards.members, rewards.group, self._flags("is_reference"))
                else:
                    center = self._lists("reward_reference_members")
                return against_references(rewards, center, self.column("reward_reference"), variance, self.source)
        return GaussianRewards(
            self.column("reward_mean"),
            variance,
            self.group,
            noise=self.column("reward_noise") if "reward_noise" in self.table.column_names else None,
        )

    def _certain(self) -> GaussianRewards:
        """Rewards without a variance as if they were known for sure; NaN where not scored."""
        mean = self.column("reward_mean")
        return GaussianRewards(mean, torch.where(mean.isnan(), torch.nan, 0.0), self.group)

    def _has_its_references(self) -> bool:
        """The reference rows are known, and those that scoring averaged over are all here."""
        if "is_reference" not in self.table.column_names:
            return False
        if "reward_reference" not in self.table.column_names:
            return True
        mean, stored = self.column("reward_mean"), self.column("reward_reference")
        found = average_of_references(mean[:, None], self.group, self._flags("is_reference"))[:, 0]
        near = (found - stored).abs() <= _TOLERANCE * (1 + mean.abs().nan_to_num())
        return bool((near | stored.isnan()).all())

    def _canned_rewards(self) -> GaussianRewards | MemberRewards:
        """The canned text's reward for each prompt, with the variance of its difference from itself: none."""
        first = torch.from_numpy(np.unique(self.group.numpy(), return_index=True)[1])
        mean = self.column("reward_reference")[first]
        if not self.num_members:
            return GaussianRewards(mean, torch.zeros_like(mean), self.group[first])
        within = torch.zeros_like(mean) if "reward_within_variance" in self.table.column_names else None
        members = self._lists("reward_reference_members")[first]
        return MemberRewards(members, self.group[first], self.ddof, self.basis_id, within_variance=within)

    def _lists(self, name: str) -> Tensor:
        """A column of lists of one length as `[N, M]` float64."""
        values = self.table[name].combine_chunks()
        flat = values.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        return torch.from_numpy(flat.reshape(len(values), -1))


def _is_list_of_numbers(column: pa.ChunkedArray) -> bool:
    kind = column.type
    if not any(is_it(kind) for is_it in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def read_scored(path: str | Path) -> ScoredPool:
    """Read what `score` wrote: a folder of parts, or any Parquet file with its columns.

    Raises:
        DataError: nothing there, a run that is not finished, damaged files, or other columns.
    """
    place = Path(path)
    with _readable(place) as dataset:
        table = dataset.to_table()
    return ScoredPool(table, str(place), num_skipped_of(place))


def read_numbers(data: str | Path | pa.Table | ScoredPool, names: Sequence[str]) -> dict[str, Tensor]:
    """Those of the named columns that scored responses have, each `[N]` float64 with NaN for null.

    Args:
        data: a file, of which nothing else is read; or what is at hand.
        names: columns of numbers.

    Raises:
        DataError: nothing there, a run that is not finished, damaged files, no scored pool, or a column is not of
            numbers.
    """
    if isinstance(data, str | Path):
        source = str(data)
        with _readable(Path(data)) as dataset:
            ScoredPool(dataset.head(1, batch_readahead=0, fragment_readahead=0), source)
            table = dataset.to_table([name for name in names if name in dataset.schema.names])
    else:
        table, source = (data.table, data.source) if isinstance(data, ScoredPool) else (data, "the table")
    return {name: _numbers(table, name, source) for name in names if name in table.column_names}


def _numbers(table: pa.Table, name: str, source: str) -> Tensor:
    try:
        known = table[name].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{source}: column {name!r} must be numbers, it is {table[name].type} ({str(error).splitlines()[0]})"
        ) from error
    return torch.from_numpy(pc.fill_null(known, float("nan")).to_numpy().copy())


@contextmanager
def _readable(place: Path) -> Iterator[Any]:
    """The files as an Arrow dataset, whose errors while the block runs name them."""
    if not place.exists():
        if place.with_name(f"{place.name}.partial").exists():
            raise DataError(f"{place} is not finished; run the same `prudent score` again, it goes on where it stopped")
        raise DataError(f"there is no {place}; give the output of `prudent score`")
    try:
        yield ds.dataset(place, format="parquet")
    except (pa.ArrowInvalid, OSError) as error:
        other = "magic bytes" in str(error)
        reason = "it is, or holds, no Parquet file, or one that was cut short" if other else str(error).splitlines()[0]
        raise DataError(
            f"{place} is not readable as Parquet ({reason}); give the output of `prudent score`, or score again"
        ) from error
