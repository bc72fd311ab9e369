"""`select`: the best response of each prompt under a utility, or one picked otherwise, written as a table."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from torch import Generator, Tensor

from prudent.errors import DataError, PrudentError
from prudent.models import atomic_file
from prudent.scoring._names import columns_of
from prudent.scoring._output import require_apart
from prudent.scoring._saved_utility import SavedUtility
from prudent.scoring._scored import ScoredPool, read_scored
from prudent.scoring._utilities import utility_for
from prudent.selection import MinimumBayesRisk, Strategy, best_of_n, parse_strategy, pick_probabilities
from prudent.utility import Combined, FittedUtility, Piped, RewardSet, Utility

__all__ = ["SelectSummary", "select"]

_SUFFIXES = (".jsonl", ".parquet", ".csv")


@dataclass(frozen=True)
class SelectSummary:
    """What `select` chose.

    Attributes:
        output: file written, or None.
        utility: what picked, as it is written.
        strategy: how it picked, as it is written; None where it took the best.
        num_prompts: prompts with a pick.
        num_candidates: responses considered.
        num_excluded: responses left out because they have no utility, or no embedding that the strategy needs.
        num_prompts_excluded: prompts without a pick, since none of their responses has a utility.
        num_prompts_with_ties: prompts whose best utility several responses share.
        mean_reward: average posterior mean of the picks, of each reward by its name; `reward` is one without a name.
        mean_std: average posterior standard deviation of the picks, likewise; None where it is not known.
        mean_gold: average gold of the picks, calibration prompts left out; None without gold.
        num_calibration_prompts: prompts with a pick on whose gold the members of an ensemble were calibrated.
    """

    output: str | None
    utility: str
    strategy: str | None
    num_prompts: int
    num_candidates: int
    num_excluded: int
    num_prompts_excluded: int
    num_prompts_with_ties: int
    mean_reward: dict[str, float | None]
    mean_std: dict[str, float | None]
    mean_gold: float | None
    num_calibration_prompts: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def select(
    data: str | Path | ScoredPool,
    output: str | Path | None = None,
    *,
    utility: str | Path | Utility | FittedUtility | SavedUtility = "lcb_std",
    strategy: str | Strategy | None = None,
    exclude_unscored: bool = False,
    seed: int = 0,
) -> SelectSummary:
    """Pick the best response of every prompt, or one of them by a strategy that does not simply take the best.

    Args:
        data: what `score` wrote, or its path.
        output: a `.jsonl`, `.parquet` or `.csv` file; one row a prompt: `prompt_id`, `response_id`, `prompt`,
            `response`, `utility`, `num_candidates`, `num_tied`, and the pick's other columns (without its factors, and
            in CSV without what every member says). Where the utility combines several parts, what each of them says
            stands beside it, in columns such as `utility_helpful`, named after the rewards that the part reads.
        utility: what a response is worth, as text, as an expression, saved (its folder), or fitted already; see
            `prudent.utility.parse_utility`.
        strategy: how one is picked given the utilities, as text or as it is; see `prudent.selection.parse_strategy`.
            By default the best. Its pick is drawn, and the column `pick_probability` says with what probability.
        exclude_unscored: leave responses without a utility, or without an embedding that the strategy needs, out
            instead of stopping, and prompts that have no others.
        seed: of the draw among ties, of rules that draw, and of the strategy.

    Raises:
        UtilityError: the text is not a utility, or not a strategy.
        DataError: not a scored pool; it lacks a reward, variances or references that the utility needs, or embeddings
            that the strategy needs; or responses have no utility.
        UnsupportedError: `prob_best` without a stored factor, or `worst` without members.
        PrudentError: the output has another suffix, or is the pool or lies in a scored dataset.
    """
    if output is not None and Path(output).suffix not in _SUFFIXES:
        raise PrudentError(f"{output}: the suffix says the format, one of {', '.join(_SUFFIXES)}")
    if output is not None:
        require_apart(output, [data if not isinstance(data, ScoredPool) else data.source])
    strategy = None if strategy is None else parse_strategy(strategy)
    pool = data if isinstance(data, ScoredPool) else read_scored(data)
    embedding = pool.embedding() if isinstance(strategy, MinimumBayesRisk) else None
    fitted = utility_for(pool, utility)
    generator = Generator().manual_seed(seed)
    value, parts = _values(fitted, pool.reward_set(), generator)
    needed = str(fitted)
    if strategy is not None and embedding is not None:
        value = _with_embedding(value, embedding, strategy, pool.source, exclude_unscored)
        needed += f" and an embedding for {strategy.text}"
    if not exclude_unscored and bool(value.isnan().any()):
        rows = torch.nonzero(value.isnan()).flatten()[:5].tolist()
        raise DataError(
            f"{pool.source}: {int(value.isnan().sum())} responses have no utility under {fitted} (rows {rows}): "
            "not scored, or variance unknown; leave them out with exclude_unscored (--exclude-unscored)"
        )
    scored = torch.nonzero(~value.isnan()).flatten()
    if len(scored) == 0:
        raise DataError(f"{pool.source}: no response has a utility under {needed}, so there is nothing to pick")
    selection = best_of_n(value[scored], pool.group[scored], generator=generator)
    index = scored[selection.index]
    probability = None
    if strategy is not None:
        index, probability = _drawn(strategy, value, pool.group, scored, embedding, generator)
    picks = pool.table.take(pa.array(index.numpy()))
    is_calibration = pool.is_calibration[index]
    # Nobody reads a factor or an embedding number by number, and CSV has no place for lists.
    in_csv = output is not None and Path(output).suffix == ".csv"
    left_out = ("reward_factor", *(("reward_members", "reward_reference_members") if in_csv else ()))
    of_rewards = [columns_of(name)[column] for name in pool.reward_names for column in left_out]
    picks = _without(picks, ["embedding", *of_rewards])
    extra = {
        "utility": value[index],
        **{name: part[index] for name, part in parts.items()},
        "num_candidates": selection.num_candidates,
        "num_tied": selection.num_tied,
        **({} if probability is None else {"pick_probability": probability}),
    }
    picks = _without(picks, extra)
    position = min(4, picks.num_columns)
    for name, values in reversed(extra.items()):
        picks = picks.add_column(position, name, pa.array(values.numpy()))
    if output is not None:
        _write(picks, Path(output))
    return SelectSummary(
        output=None if output is None else str(output),
        utility=str(fitted),
        strategy=None if strategy is None else strategy.text,
        num_prompts=picks.num_rows,
        num_candidates=int(selection.num_candidates.sum()),
        num_excluded=len(value) - len(scored),
        num_prompts_excluded=len(torch.unique(pool.group)) - picks.num_rows,
        num_prompts_with_ties=int((selection.num_tied > 1).sum()),
        mean_reward={name: _mean(picks[columns_of(name)["reward_mean"]]) for name in pool.reward_names},
        mean_std={name: _mean(pc.sqrt(picks[columns_of(name)["reward_variance"]])) for name in pool.reward_names},
        mean_gold=_mean_gold(picks.filter(pa.array(~is_calibration.numpy()))),
        num_calibration_prompts=int(is_calibration.sum()),
    )


def _with_embedding(
    value: Tensor, embedding: Tensor, strategy: Strategy, source: str, exclude_unscored: bool
) -> Tensor:
    """Utilities [N], NaN where a strategy that compares responses has no embedding to compare by.

    Raises:
        DataError: there is one, and such responses are not to be left out.
    """
    blank = ~embedding.isfinite().all(1)
    lacking = torch.nonzero(blank & ~value.isnan()).flatten()
    if len(lacking) and not exclude_unscored:
        raise DataError(
            f"{source}: {len(lacking)} scored responses have no finite embedding, which {strategy.text} needs (rows "
            f"{lacking[:5].tolist()}); leave them out with exclude_unscored (--exclude-unscored)"
        )
    return value.masked_fill(blank, torch.nan)


def _drawn(
    strategy: Strategy, value: Tensor, group: Tensor, scored: Tensor, embedding: Tensor | None, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Rows [B] drawn by a strategy among the rows `scored`, and with what probability each was."""
    if embedding is not None:
        embedding = embedding[scored]
    probability = pick_probabilities(strategy, value[scored], group[scored], embedding=embedding)
    # the highest of log p + Gumbel noise is a draw with probability p
    noise = -torch.empty_like(probability).exponential_(generator=generator).log()
    place = best_of_n(probability.log() + noise, group[scored], generator=generator).index
    return scored[place], probability[place]


def _values(fitted: FittedUtility, rewards: RewardSet, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Values [N], and where several parts are combined last, what each says, by the name of its column."""
    parts = _parts(fitted.utility)
    if not parts:
        return fitted(rewards, generator), {}
    steps = fitted.trace(rewards, generator)
    found = {step.source: step.mean for step in steps}
    names = ["_".join(("utility", *part.reward_names)) for part in parts]
    if len(set(names)) < len(names):
        names = [f"{name}_{place}" for place, name in enumerate(names, 1)]
    return steps[-1].mean, {name: found[str(part)] for name, part in zip(names, parts, strict=True)}


def _parts(utility: Utility) -> tuple[Utility, ...]:
    """What the outermost combination combines; empty where there is none."""
    while isinstance(utility, Piped):
        utility = utility.source
    return utility.parts if isinstance(utility, Combined) else ()


def _without(table: pa.Table, names: Iterable[str]) -> pa.Table:
    return table.drop_columns([name for name in names if name in table.column_names])


def _mean_gold(picks: pa.Table) -> float | None:
    return _mean(picks["gold"]) if "gold" in picks.column_names else None


def _mean(column: pa.ChunkedArray) -> float | None:
    """The average of what is known; None where nothing is."""
    known = column.drop_null().cast(pa.float64())
    known = known.filter(pc.is_finite(known))
    return None if len(known) == 0 else float(pc.mean(known).as_py())


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
