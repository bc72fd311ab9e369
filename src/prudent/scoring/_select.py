"""`select`: the best response of each prompt under a rule, written as a table."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch

from prudent.errors import DataError, PrudentError
from prudent.models import atomic_file
from prudent.scoring._scored import ScoredPool, read_scored
from prudent.selection import best_of_n
from prudent.utility import risk_rule

__all__ = ["SelectSummary", "select"]

_SUFFIXES = (".jsonl", ".parquet", ".csv")


@dataclass(frozen=True)
class SelectSummary:
    """What `select` chose.

    Attributes:
        output: file written, or None.
        rule: the rule's name.
        centered: whether it saw the rewards relative to the reference sets.
        num_prompts: prompts with a pick.
        num_candidates: responses considered.
        num_excluded: responses left out because they have no reward or variance.
        num_prompts_with_ties: prompts whose best utility several responses share.
        mean_reward: average posterior mean of the picks.
        mean_std: average posterior standard deviation of the picks; None where it is not known.
        mean_gold: average gold of the picks, calibration prompts left out; None without gold.
        num_calibration_prompts: prompts with a pick on whose gold the members of an ensemble were calibrated.
    """

    output: str | None
    rule: str
    centered: bool
    num_prompts: int
    num_candidates: int
    num_excluded: int
    num_prompts_with_ties: int
    mean_reward: float
    mean_std: float | None
    mean_gold: float | None
    num_calibration_prompts: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def select(
    data: str | Path | ScoredPool,
    output: str | Path | None = None,
    *,
    rule: str = "lcb_std",
    num_std: float = 1.0,
    variance_weight: float = 1.0,
    risk_aversion: float = 1.0,
    centered: bool = False,
    exclude_unscored: bool = False,
    seed: int = 0,
) -> SelectSummary:
    """Pick the best response of every prompt.

    Args:
        data: what `score` wrote, or its path.
        output: a `.jsonl`, `.parquet` or `.csv` file; one row a prompt: `prompt_id`, `response_id`, `prompt`,
            `response`, `utility`, `num_candidates`, `num_tied`, and the pick's other columns (without its factor, and
            in CSV without what every member says).
        rule: `mean`, `lcb_std`, `lcb_var`, `entropic`, `prob_best`, or, of ensembles, `worst`.
        num_std: standard deviations that `lcb_std` subtracts.
        variance_weight: variances that `lcb_var` subtracts.
        risk_aversion: of `entropic`.
        centered: use the rewards relative to each prompt's fixed reference set.
        exclude_unscored: leave responses without a reward out instead of stopping.
        seed: of the draw among ties, and of `prob_best`.

    Raises:
        DataError: not a scored pool, or responses without a reward or a variance that the rule needs.
        UnsupportedError: `prob_best` without a stored factor, `centered` without centred variances, or `worst` without
            members.
        PrudentError: the output has another suffix.
    """
    if output is not None and Path(output).suffix not in _SUFFIXES:
        raise PrudentError(f"{output}: the suffix says the format, one of {', '.join(_SUFFIXES)}")
    pool = data if isinstance(data, ScoredPool) else read_scored(data)
    chosen_rule = risk_rule(rule, num_std=num_std, variance_weight=variance_weight, risk_aversion=risk_aversion)
    posterior = pool.posterior_for(chosen_rule, centered=centered)
    generator = torch.Generator().manual_seed(seed)
    utility = chosen_rule(posterior, generator)
    if not exclude_unscored and bool(utility.isnan().any()):
        rows = torch.nonzero(utility.isnan()).flatten()[:5].tolist()
        raise DataError(
            f"{pool.source}: {int(utility.isnan().sum())} responses have no utility under {rule} (rows {rows}): "
            "not scored, or variance unknown; leave them out with exclude_unscored"
        )
    selection = best_of_n(utility, posterior.group, generator=generator, nan="exclude")
    picks = pool.table.take(pa.array(selection.index.numpy()))
    is_calibration = pool.is_calibration[selection.index]
    # Nobody reads a factor's columns one by one, and CSV has no place for lists.
    in_csv = output is not None and Path(output).suffix == ".csv"
    left_out = ["reward_factor", *(["reward_members"] if in_csv else [])]
    picks = picks.drop_columns([name for name in left_out if name in picks.column_names])
    position = min(4, picks.num_columns)
    extra = {
        "utility": selection.utility,
        "num_candidates": selection.num_candidates,
        "num_tied": selection.num_tied,
    }
    for name, values in reversed(extra.items()):
        picks = picks.add_column(position, name, pa.array(values.numpy()))
    if output is not None:
        _write(picks, Path(output))
    variance = picks["reward_variance"]
    return SelectSummary(
        output=None if output is None else str(output),
        rule=rule,
        centered=centered,
        num_prompts=picks.num_rows,
        num_candidates=int(selection.num_candidates.sum()),
        num_excluded=int(selection.num_excluded.sum()),
        num_prompts_with_ties=int((selection.num_tied > 1).sum()),
        mean_reward=float(pc.mean(picks["reward_mean"]).as_py()),
        mean_std=None if not pool.has_variance else float(pc.mean(pc.sqrt(variance)).as_py()),
        mean_gold=_mean_gold(picks.filter(pa.array(~is_calibration.numpy()))),
        num_calibration_prompts=int(is_calibration.sum()),
    )


def _mean_gold(picks: pa.Table) -> float | None:
    if "gold" not in picks.column_names:
        return None
    gold = picks["gold"].drop_null()
    gold = gold.filter(pc.is_finite(gold))
    return None if len(gold) == 0 else float(pc.mean(gold).as_py())


def _write(table: pa.Table, path: Path) -> None:
    with atomic_file(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
        elif path.suffix == ".csv":
            lists = [field.name for field in table.schema if pa.types.is_nested(field.type)]
            if lists:
                raise PrudentError(f"{path}: CSV cannot hold the lists of column {lists[0]}; write .jsonl or .parquet")
            pyarrow.csv.write_csv(table, temporary)
        else:
            with temporary.open("w", encoding="utf-8") as stream:
                for row in table.to_pylist():
                    wire = {name: _finite_or_null(value) for name, value in row.items()}
                    stream.write(json.dumps(wire, ensure_ascii=False, allow_nan=False) + "\n")


def _finite_or_null(value: Any) -> Any:
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, list):
        return [_finite_or_null(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
