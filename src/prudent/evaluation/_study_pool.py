"""A scored table made ready for a best-of-n study: rows checked, prompts of enough candidates kept, gold scaled."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from prudent.data import prompt_groups
from prudent.errors import DataError
from prudent.evaluation._study_types import Counts, EnsembleFacts
from prudent.metrics import partial_out, zscore_within
from prudent.models import as_messages
from prudent.rewards import GaussianRewards, RewardPosterior, index_groups
from prudent.scoring import ScoredPool
from prudent.selection import usual_size
from prudent.utility import RewardSet, shifted

__all__ = [
    "StudiedReward",
    "StudyPool",
    "all_rewards",
    "has_moments",
    "in_working_type",
    "prepare_pool",
    "with_mean",
    "working_type",
]

_DOUBLE_ROWS = 1 << 21

Taken = TypeVar("Taken", Tensor, RewardSet)


@dataclass(frozen=True)
class StudiedReward:
    """What the file says of one reward of N candidates."""

    mean: Tensor
    """`[N]`, like all numbers here in the working type."""
    variance: Tensor | None
    """`[N]`; None for the scores of a model without a posterior, whose variance column holds nothing."""
    centered_variance: Tensor | None
    """`[N]`, of the reward minus that of the prompt's references; None where it is not stored."""
    ensemble: EnsembleFacts | None
    """The members whose rewards are stored; None where they are those of one model."""


@dataclass(frozen=True)
class StudyPool:
    """N candidates of B prompts, rows sorted by prompt, every prompt with at least n_max candidates."""

    table: Any
    """The rows `[N]` as a `pyarrow.Table`, all columns."""
    group: Tensor
    """Prompt of each row `[N]`, 0 to B - 1, ascending."""
    by_name: Mapping[str, StudiedReward]
    scales: dict[str, Tensor]
    """Scales of gold `[N]`; empty without gold."""
    length: Tensor | None
    n_max: int
    one_policy: bool
    counts: Counts
    rows: Tensor | None
    """Row in the file of each candidate `[N]`; None where they are all of them, in their order."""
    num_skipped: int
    """Rows or prompts that scoring left out as faulty."""
    num_prompts_without_gold: int
    """Prompts left out because none of their rows has gold, although others have."""
    n_with_all_gold: int
    """What `n_max` would be if no gold were missing."""
    num_repeated: int
    """Prompts studied whose text another one has too."""

    @property
    def num_prompts(self) -> int:
        """B."""
        return self.counts.num_prompts

    @property
    def only(self) -> StudiedReward | None:
        """The reward, where there is a single one."""
        return next(iter(self.by_name.values())) if len(self.by_name) == 1 else None

    def rounding(self, scale: str) -> float:
        """Differences of expected gold up to this are none: a millionth of its spread within a prompt.

        Weights of large pools, and subsets of strategies, are in single precision.
        """
        gold = self.scales[scale].double()
        means = gold.new_zeros(self.num_prompts).index_add_(0, self.group, gold) / torch.bincount(self.group)
        return 1e-6 * float((gold - means[self.group]).square().mean().sqrt()) + 1e-12 * float(gold.abs().max())

    def taken(self, values: Taken) -> Taken:
        """What belongs to the candidates, out of that of all rows."""
        return values if self.rows is None else values[self.rows]

    def texts(self, column: str, row: int) -> str:
        """One text of the table, empty where the column is absent."""
        return str(self.table[column][row].as_py() or "") if column in self.table.column_names else ""


def working_type(num_rows: int) -> torch.dtype:
    """In what precision so many rows are held: double, so that what differs stays different, unless they are many."""
    return torch.float32 if num_rows > _DOUBLE_ROWS else torch.float64


def all_rewards(scored: ScoredPool) -> RewardSet:
    """The rewards of a file as utilities read them; Gaussian ones in the working type."""
    return in_working_type(scored.reward_set())


def in_working_type(found: RewardSet) -> RewardSet:
    """Rewards as scored, Gaussian ones in the working type."""
    if working_type(len(found)) == torch.float32:
        return found
    in_double = {
        name: with_mean(one, one.mean.double()) if isinstance(one, GaussianRewards) else one
        for name, one in found.rewards.items()
    }
    return replace(found, rewards=in_double)


def with_mean(posterior: RewardPosterior, mean: Tensor) -> RewardPosterior:
    """The posterior moved to other means; those of a Gaussian are exactly these, so that ties stay ties."""
    if not isinstance(posterior, GaussianRewards):
        return shifted(posterior, mean - posterior.mean)
    return GaussianRewards(
        mean,
        posterior.variance,
        posterior.group,
        posterior.factor,
        posterior.noise,
        posterior.text_id,
        posterior.basis_id,
    )


def prepare_pool(
    scored: ScoredPool,
    *,
    has_value: Tensor | None = None,
    is_calibration: Tensor | None = None,
    n_max: int | None,
    one_policy: bool | None,
) -> StudyPool:
    """Check the rows, choose the prompts and scale gold.

    Args:
        scored: What `read_scored` returns.
        has_value: Rows that every utility has a value for; by default all.
        is_calibration: Rows of prompts whose gold the members were calibrated on; by default what the file says.
        n_max: Prompts with fewer candidates are left out. None: the smallest pool among those that have at least
            half as many candidates as the median pool.
        one_policy: Whether the candidates of a prompt are samples of one policy; None: they are unless a column
            `model` names more than one.

    Raises:
        DataError: If a needed column is absent, or no prompt is left, not even one that members were not calibrated on.
    """
    table = scored.table
    keep = torch.ones(table.num_rows, dtype=torch.bool) if has_value is None else has_value.clone()
    keep &= has_moments(scored)
    num_unscored = table.num_rows - int(keep.sum())
    if not keep.any():
        raise DataError(f"nothing to study: none of the {table.num_rows} rows is scored")
    group = scored.group
    has_gold, num_without_gold, whole = False, 0, keep
    if "gold" in table.column_names:
        known = keep & scored.column("gold").isfinite()
        has_gold = bool(known.any())
        if has_gold:
            num_without_gold = int((keep & ~known).sum())
            keep = known
    num_prompts_calibrated_on = num_prompts_without_gold = 0
    if has_gold:
        # gold that the members' scales were fitted on would praise them
        seen = keep & (scored.is_calibration if is_calibration is None else is_calibration)
        num_prompts_calibrated_on = len(index_groups(group[seen]).ids)
        num_prompts_without_gold = len(index_groups(group[whole]).ids) - len(index_groups(group[keep]).ids)
        keep, whole = keep & ~seen, whole & ~seen
        if not keep.any():
            raise DataError(
                f"{scored.source}: the members were calibrated on the gold of all prompts, so none is left to judge "
                "them by; score with a smaller calibration_share (--calibration-share), or with calibration_data "
                "(--calibration-data)"
            )
    sizes = index_groups(group[keep]).counts
    n_with_all_gold = n_max
    if n_max is None:
        n_max = usual_size(sizes)
        n_with_all_gold = usual_size(index_groups(group[whole]).counts) if num_without_gold else n_max
    num_left_out = int((sizes < n_max).sum())
    if num_left_out == len(sizes):
        raise DataError(
            f"no prompt has {n_max} candidates (the largest pool has {int(sizes.max())}): ask for smaller n"
        )
    if num_left_out:
        index = index_groups(group[keep])
        keep[keep.clone()] = (index.counts >= n_max)[index.position]
    table, rows = _kept(table, group, keep)
    index = index_groups(group if rows is None else group[rows])
    group, sizes = index.position, index.counts
    num_models = (
        len([m for m in pc.unique(table["model"]).to_pylist() if m is not None])
        if "model" in table.column_names
        else None
    )
    plain = ScoredPool(table)
    length = plain.column("length") if "length" in table.column_names else None
    kept_as = working_type(table.num_rows)
    scales = _gold_scales(plain.column("gold"), group, length) if has_gold else {}
    return StudyPool(
        table=table,
        group=group,
        by_name={name: _studied(plain.reward(name)) for name in scored.reward_names},
        scales={name: scale.to(kept_as) for name, scale in scales.items()},
        length=None if length is None else length.to(kept_as),
        n_max=n_max,
        one_policy=(num_models is None or num_models <= 1) if one_policy is None else one_policy,
        counts=Counts(
            num_prompts=len(sizes),
            num_candidates=table.num_rows,
            num_distinct=_num_distinct(table),
            smallest_pool=int(sizes.min()),
            largest_pool=int(sizes.max()),
            num_truncated=_num_truncated([plain.reward(name) for name in scored.reward_names]),
            num_unscored=num_unscored,
            num_without_gold=num_without_gold,
            num_prompts_left_out=num_left_out,
            num_models=num_models,
            num_prompts_calibrated_on=num_prompts_calibrated_on,
        ),
        rows=rows,
        num_skipped=scored.num_skipped,
        num_prompts_without_gold=num_prompts_without_gold,
        n_with_all_gold=n_max if n_with_all_gold is None else n_with_all_gold,
        num_repeated=_num_repeated(table, group),
    )


def has_moments(scored: ScoredPool) -> Tensor:
    """Rows `[N]` whose reward, where there is a single one, has a finite mean, and a variance where any has."""
    if len(scored.reward_names) > 1:
        return torch.ones(scored.table.num_rows, dtype=torch.bool)
    one = scored.reward(scored.reward_names[0])
    found = _finite(one.table["reward_mean"])
    return found & _finite(one.table["reward_variance"]) if one.has_variance else found


def _finite(column: Any) -> Tensor:
    finite = pc.fill_null(pc.is_finite(column.cast(pa.float64())), False)
    return torch.from_numpy(finite.to_numpy().copy())


def _kept(table: Any, group: Tensor, keep: Tensor) -> tuple[Any, Tensor | None]:
    """The rows wanted, prompt by prompt, in file order within a prompt, and where they stand.

    The table itself where that is all of them, since a copy of its texts may be large.
    """
    rows = keep.nonzero().flatten()
    everything = len(rows) == len(keep)
    if not everything:
        table = table.filter(pa.array(keep.numpy()))
    prompt_id = group[rows]
    if bool((prompt_id[1:] < prompt_id[:-1]).any()):
        order = prompt_id.argsort(stable=True)
        return table.take(pa.array(order.numpy())), rows[order]
    return table, None if everything else rows


def _num_distinct(table: Any) -> int | None:
    if "response" not in table.column_names:
        return None
    counted = table.group_by("prompt_id").aggregate([("response", "count_distinct")])
    return int(pc.sum(counted["response_count_distinct"]).as_py())


def _num_repeated(table: Any, group: Tensor) -> int:
    """Prompts whose text another one has too; 0 where texts are not known."""
    if "prompt" not in table.column_names:
        return 0
    first = torch.searchsorted(group, torch.arange(int(group[-1]) + 1))
    texts = table["prompt"].take(pa.array(first.numpy())).to_pylist()
    known = Counter(prompt_groups(as_messages(text) for text in texts if text))
    return sum(count for count in known.values() if count > 1)


def _num_truncated(pools: list[ScoredPool]) -> int | None:
    """Candidates that a model did not read whole."""
    cut = [pc.fill_null(one.table["truncated"], False) for one in pools if "truncated" in one.table.column_names]
    return int(pc.sum(reduce(pc.or_, cut)).as_py() or 0) if cut else None


def _studied(pool: ScoredPool) -> StudiedReward:
    """One reward of the candidates."""

    def column(name: str) -> Tensor:
        return pool.column(name).to(working_type(pool.table.num_rows))

    centered = column("reward_centered_variance") if pool.has_centered_variance else None
    return StudiedReward(
        mean=column("reward_mean"),
        variance=column("reward_variance") if pool.has_variance else None,
        centered_variance=centered if centered is not None and bool(centered.isfinite().all()) else None,
        ensemble=EnsembleFacts(pool.num_members, pool.ddof, "reward_within_variance" in pool.table.column_names)
        if pool.num_members
        else None,
    )


def _gold_scales(gold: Tensor, group: Tensor, length: Tensor | None) -> dict[str, Tensor]:
    """Gold as given, z-scored within prompts, and that with length partialled out within prompts."""
    scales = {"gold": gold, "gold_standardized": zscore_within(gold, group)}
    if length is not None:
        scales["gold_length_adjusted"] = partial_out(scales["gold_standardized"], length, group)
    return scales
