"""A scored table made ready for a best-of-n study: rows checked, prompts of enough candidates kept, gold scaled."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.evaluation._study_types import Counts, EnsembleFacts
from prudent.metrics import partial_out, zscore_within
from prudent.rewards import GaussianRewards, RewardPosterior, index_groups
from prudent.scoring import ScoredPool
from prudent.utility import UtilityRule

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
    ensemble: EnsembleFacts | None
    """The members whose rewards are stored; None where they are those of one model."""
    scored: ScoredPool
    """All rows, also those that are not studied."""
    rows: Tensor | None
    """Row in `scored` of each candidate `[N]`; None where they are all of them, in their order."""

    def posterior_for(self, rule: UtilityRule, *, centered: bool) -> RewardPosterior:
        """The candidates' rewards as a rule reads them; arguments and errors as of `ScoredPool.posterior_for`."""
        return _taken(self.scored.posterior_for(rule, centered=centered), self.rows)

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
        DataError: If a needed column is absent, there are several rewards, or no prompt is left, not even one that
            members were not calibrated on.
    """
    whole = (scored if isinstance(scored, ScoredPool) else ScoredPool(scored)).reward()
    table = whole.table
    keep = _finite(table["reward_mean"])
    if whole.has_variance:
        keep &= _finite(table["reward_variance"])
    num_unscored = table.num_rows - int(keep.sum())
    if not keep.any():
        raise DataError(f"nothing to study: none of the {table.num_rows} rows is scored")
    group = whole.group
    has_gold, num_without_gold = False, 0
    if "gold" in table.column_names:
        known = keep & _finite(table["gold"])
        has_gold = bool(known.any())
        if has_gold:
            num_without_gold = int((keep & ~known).sum())
            keep = known
    num_calibration_prompts = 0
    if has_gold:
        # gold that the members' scales were fitted on would praise them
        seen = keep & whole.is_calibration
        num_calibration_prompts = len(index_groups(group[seen]).ids)
        keep &= ~seen
        if not keep.any():
            raise DataError(
                f"{whole.source}: the members were calibrated on the gold of all prompts, so none is left to judge "
                "them by; score with a smaller calibration_share (--calibration-share), or with calibration_data "
                "(--calibration-data)"
            )
    sizes = index_groups(group[keep]).counts
    if n_max is None:
        ordered = sizes.sort().values
        n_max = int(ordered[ordered * 2 >= ordered[(len(ordered) - 1) // 2]][0])
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
    pool = ScoredPool(table)
    length = pool.column("length") if "length" in table.column_names else None
    return StudyPool(
        table=table,
        group=group,
        marginal=_marginal(pool, group),
        centered=_centered(whole, rows),
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
            num_calibration_prompts=num_calibration_prompts,
        ),
        ensemble=_ensemble(whole),
        scored=whole,
        rows=rows,
    )


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


def _taken(posterior: RewardPosterior, rows: Tensor | None) -> RewardPosterior:
    return posterior if rows is None else posterior[rows]


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


def _centered(whole: ScoredPool, rows: Tensor | None) -> RewardPosterior | None:
    """Of all rows first: members are centered on reference rows that need not be candidates."""
    if not whole.has_centered_variance:
        return None
    found = _taken(whole.posterior(centered=True), rows)
    return found if bool(found.variance.isfinite().all()) else None


def _ensemble(whole: ScoredPool) -> EnsembleFacts | None:
    if not whole.num_members:
        return None
    return EnsembleFacts(whole.num_members, whole.ddof, "reward_within_variance" in whole.table.column_names)


def _gold_scales(gold: Tensor, group: Tensor, length: Tensor | None) -> dict[str, Tensor]:
    """Gold as given, z-scored within prompts, and that with length partialled out within prompts."""
    scales = {"gold": gold, "gold_standardized": zscore_within(gold, group)}
    if length is not None:
        scales["gold_length_adjusted"] = partial_out(scales["gold_standardized"], length, group)
    return scales
