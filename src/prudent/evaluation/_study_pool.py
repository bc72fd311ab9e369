"""A scored table made ready for a best-of-n study: rows checked, prompts of enough candidates kept, gold scaled."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.evaluation._study_types import Counts
from prudent.metrics import partial_out, zscore_within
from prudent.rewards import GaussianRewards, RewardPosterior, index_groups
from prudent.scoring import ScoredPool

__all__ = ["StudyPool", "prepare_pool"]


@dataclass(frozen=True)
class StudyPool:
    """N candidates of B prompts, rows sorted by prompt, every prompt with at least n_max candidates."""

    table: Any
    """The rows `[N]` as a `pyarrow.Table`, all columns."""
    group: Tensor
    """Prompt of each row `[N]`, 0 to B - 1, ascending."""
    marginal: RewardPosterior
    centered: RewardPosterior | None
    """The same rewards relative to the prompt's reference set; None where the file does not store that variance."""
    has_variance: bool
    """False for the scores of a model without a posterior, whose variance column holds nothing."""
    scales: dict[str, Tensor]
    """Scales of gold `[N]`; empty without gold."""
    length: Tensor | None
    n_max: int
    one_policy: bool
    counts: Counts

    @property
    def num_prompts(self) -> int:
        """B."""
        return self.counts.num_prompts

    def texts(self, column: str, row: int) -> str:
        """One text of the table, empty where the column is absent."""
        return str(self.table[column][row].as_py() or "") if column in self.table.column_names else ""


def prepare_pool(scored: pa.Table | ScoredPool, *, n_max: int | None, one_policy: bool | None) -> StudyPool:
    """Check the rows, choose the prompts and scale gold.

    Args:
        scored: A `pyarrow.Table` in the columns of a scored file, or what `read_scored` returns.
        n_max: Prompts with fewer candidates are left out. None: the smallest pool among those that have at least
            half as many candidates as the median pool.
        one_policy: Whether the candidates of a prompt are samples of one policy; None: they are unless a column
            `model` names more than one.

    Raises:
        DataError: If a needed column is absent, or no prompt is left.
    """
    table = (scored if isinstance(scored, ScoredPool) else ScoredPool(scored)).table
    total = table.num_rows
    scored_rows = _finite(table["reward_mean"])
    if ScoredPool(table).has_variance:
        scored_rows = pc.and_(scored_rows, _finite(table["reward_variance"]))
    table = _keep(table, scored_rows)
    num_unscored = total - table.num_rows
    gold_known = _finite(table["gold"]) if "gold" in table.column_names else None
    has_gold = gold_known is not None and bool(pc.any(gold_known).as_py())
    num_without_gold = 0
    if has_gold:
        num_without_gold = table.num_rows - int(pc.sum(gold_known).as_py())
        table = _keep(table, gold_known)
    if table.num_rows == 0:
        raise DataError(f"nothing to study: none of the {total} rows is scored")
    table = _sorted(table)
    group, sizes = _groups(table)
    if n_max is None:
        ordered = sizes.sort().values
        n_max = int(ordered[ordered * 2 >= ordered[(len(ordered) - 1) // 2]][0])
    keep = sizes >= n_max
    num_left_out = int((~keep).sum())
    if num_left_out == len(sizes):
        raise DataError(
            f"no prompt has {n_max} candidates (the largest pool has {int(sizes.max())}): ask for smaller n"
        )
    if num_left_out:
        table = _keep(table, pa.array(keep[group].numpy()))
        group, sizes = _groups(table)
    num_models = (
        len([m for m in pc.unique(table["model"]).to_pylist() if m is not None])
        if "model" in table.column_names
        else None
    )
    pool = ScoredPool(table)
    length = pool.column("length") if "length" in table.column_names else None
    return StudyPool(
        table=table,
        group=group,
        marginal=_marginal(pool, group),
        centered=_centered(pool),
        has_variance=pool.has_variance,
        scales=_gold_scales(pool.column("gold"), group, length) if has_gold else {},
        length=length,
        n_max=n_max,
        one_policy=(num_models is None or num_models <= 1) if one_policy is None else one_policy,
        counts=Counts(
            num_prompts=len(sizes),
            num_candidates=table.num_rows,
            num_distinct=_num_distinct(table),
            smallest_pool=int(sizes.min()),
            largest_pool=int(sizes.max()),
            num_truncated=int(pc.sum(table["truncated"]).as_py() or 0) if "truncated" in table.column_names else None,
            num_unscored=num_unscored,
            num_without_gold=num_without_gold,
            num_prompts_left_out=num_left_out,
            num_models=num_models,
        ),
    )


def _finite(column: Any) -> Any:
    return pc.fill_null(pc.is_finite(column.cast(pa.float64())), False)


def _keep(table: Any, rows: Any) -> Any:
    """The rows wanted; the table itself where that is all of them, since a copy of its texts may be large."""
    return table if bool(pc.all(rows).as_py()) else table.filter(rows)


def _sorted(table: Any) -> Any:
    """Rows prompt by prompt, in file order within a prompt."""
    prompt_id = table["prompt_id"].to_numpy()
    return table if bool((prompt_id[1:] >= prompt_id[:-1]).all()) else table.sort_by("prompt_id")


def _groups(table: Any) -> tuple[Tensor, Tensor]:
    """Index of each row's prompt and the size of each prompt, for rows sorted by prompt."""
    prompt_id = torch.tensor(table["prompt_id"].to_numpy())
    index = index_groups(prompt_id)
    return index.position, index.counts


def _num_distinct(table: Any) -> int | None:
    if "response" not in table.column_names:
        return None
    counted = table.group_by("prompt_id").aggregate([("response", "count_distinct")])
    return int(pc.sum(counted["response_count_distinct"]).as_py())


def _marginal(pool: ScoredPool, group: Tensor) -> RewardPosterior:
    """Mean and marginal variance; the members where those are stored, so that a rule may read their distribution."""
    if "reward_members" in pool.table.column_names:
        return pool.posterior()
    mean = pool.column("reward_mean")
    return GaussianRewards(mean, pool.column("reward_variance") if pool.has_variance else torch.zeros_like(mean), group)


def _centered(pool: ScoredPool) -> RewardPosterior | None:
    if not pool.has_centered_variance or not bool(pool.column("reward_centered_variance").isfinite().all()):
        return None
    return pool.posterior(centered=True)


def _gold_scales(gold: Tensor, group: Tensor, length: Tensor | None) -> dict[str, Tensor]:
    """Gold as given, z-scored within prompts, and that with length partialled out within prompts."""
    scales = {"gold": gold, "gold_standardized": zscore_within(gold, group)}
    if length is not None:
        scales["gold_length_adjusted"] = partial_out(scales["gold_standardized"], length, group)
    return scales
