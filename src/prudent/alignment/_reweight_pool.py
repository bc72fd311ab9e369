"""`reweight_pool`: a scored file with a weight for each response, and what is drawn by them for supervised training."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Generator, Tensor

from prudent.alignment._arms import KlForm
from prudent.alignment._drawn_samples import SAMPLES_SUFFIXES, DrawnSamples, draw_samples, read_conversations
from prudent.alignment._kl_weights import kl_weights
from prudent.alignment._reweight import Reweighted, check_strength, reweight
from prudent.data import DataSource
from prudent.errors import DataError, PrudentError, UnsupportedError
from prudent.metrics import bootstrap_difference
from prudent.models import atomic_file
from prudent.rewards import index_groups
from prudent.scoring import SavedUtility, ScoredPool, read_scored, require_apart, utility_for
from prudent.utility import FittedUtility, RewardSet, Utility

__all__ = ["ReweightSummary", "reweight_pool"]

_THIN = 10.0
"""Effective responses of a prompt, below which what is said of it rests on few."""


@dataclass(frozen=True)
class ReweightSummary:
    """What `reweight_pool` did.

    Attributes:
        output: file written.
        samples: file of what was drawn; None where nothing was.
        utility: what responses are worth, as it is written.
        kl_form: how the KL penalty weighs responses.
        num_prompts: prompts with weights.
        num_candidates: responses with weights.
        num_excluded: responses left out, without a utility.
        num_prompts_excluded: prompts none of whose responses has a utility.
        target_kl: divergence asked for, in nats; None where a coefficient was.
        num_prompts_short: prompts that cannot have the divergence asked for, and came as near as they can.
        mean_kl: average divergence from uniform weights, in nats.
        min_kl_coef: smallest coefficient of the KL penalty.
        max_kl_coef: largest; the same but with one for each prompt.
        mean_effective_sample_size: average over prompts of 1 / sum of squared weights.
        min_effective_sample_size: the smallest; 1 is a single response.
        num_prompts_thin: prompts whose effective sample size is below 10, a thin base for what is said of them.
        mean_utility_before: average over prompts of the mean utility, uniformly.
        mean_utility_after: the same by the weights.
        num_prompts_with_gold: prompts all of whose weighted responses have gold, without those on whose gold members
            were calibrated.
        mean_gold_before: average over those of the mean gold, uniformly; None without gold.
        mean_gold_after: the same by the weights.
        gold_gain: the difference.
        gold_gain_low: lower end of its 95 % interval, from resampled prompts.
        gold_gain_high: upper end.
        num_samples: prompts and completions drawn; 0 where none were.
        num_distinct_samples: how many of them differ.
        num_flattened: prompts that look like several turns written as one text, and were kept as one user message.
    """

    output: str
    samples: str | None
    utility: str
    kl_form: str
    num_prompts: int
    num_candidates: int
    num_excluded: int
    num_prompts_excluded: int
    target_kl: float | None
    num_prompts_short: int
    mean_kl: float
    min_kl_coef: float
    max_kl_coef: float
    mean_effective_sample_size: float
    min_effective_sample_size: float
    num_prompts_thin: int
    mean_utility_before: float
    mean_utility_after: float
    num_prompts_with_gold: int
    mean_gold_before: float | None
    mean_gold_after: float | None
    gold_gain: float | None
    gold_gain_low: float | None
    gold_gain_high: float | None
    num_samples: int
    num_distinct_samples: int
    num_flattened: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def reweight_pool(
    data: str | Path | ScoredPool,
    output: str | Path,
    *,
    utility: str | Path | Utility | FittedUtility | SavedUtility = "lcb_std",
    target_kl: float | None = None,
    kl_coef: float | None = None,
    per_prompt: bool = False,
    kl_form: KlForm = "constant",
    samples: str | Path | None = None,
    num_samples: int | None = None,
    prompts: DataSource | None = None,
    conversational: bool = True,
    exclude_unscored: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> ReweightSummary:
    """Align offline: weigh the responses of a scored pool, and draw by the weights for supervised fine-tuning.

    The pool's responses must be what one policy wrote: the weights are relative to it.

    Args:
        data: what `score` wrote, or its path.
        output: a `.parquet` file: the pool's rows, with a column `weight` that sums to 1 over the responses of a
            prompt, null where a response has no utility. It is a scored pool like `data`.
        utility: what a response is worth; see `prudent.utility.parse_utility`.
        target_kl: see `reweight`.
        kl_coef: see `reweight`.
        per_prompt: see `reweight`.
        kl_form: see `reweight`; the weights of the KL penalty are those of `kl_weights`, over the whole pool, of the
            variance that the utility's last step reads: of the reward for `mean`, of the reward minus that of the
            reference responses for `center(mean) | mean`.
        samples: also a `.jsonl` or `.parquet` file of responses drawn by the weights, with replacement, in TRL's
            prompt-completion format.
        num_samples: how many for each prompt; by default 1.
        prompts: prompts or pool that were scored. A scored pool has prompts as texts: a single user message comes
            back as it was, but several turns can only be told apart in the original.
        conversational: `prompt` and `completion` as lists of messages, for models with a chat template; otherwise
            both as text, to be read one after the other.
        exclude_unscored: leave responses without a utility out, instead of stopping.
        seed: of the draws, and of rules that draw.
        overwrite: replace files that are there.

    Returns:
        What happened.

    Raises:
        UtilityError: the text is not a utility.
        DataError: not a scored pool; it lacks a reward, variances, texts or references that are needed; responses
            have no utility; or the target is out of reach (see `reweight`).
        UnsupportedError: a weighted KL for a utility whose last step reads no posterior.
        PrudentError: a file has another suffix or is there already, or is or lies in a scored dataset, or the samples
            are to go where the output or the data is.
        ValueError: as for `reweight`; or samples are counted that are not asked for.

    Example:
        >>> summary = reweight_pool("scored.parquet", "weighted.parquet", target_kl=1.0)  # doctest: +SKIP
    """
    check_strength(target_kl=target_kl, kl_coef=kl_coef, per_prompt=per_prompt, kl_form=kl_form)
    _check(data, output, samples, num_samples, prompts, overwrite=overwrite)
    conversations = None if prompts is None else read_conversations(prompts)
    pool = data if isinstance(data, ScoredPool) else read_scored(data)
    fitted = utility_for(pool, utility)
    generator = Generator().manual_seed(seed)
    rewards = pool.reward_set()
    steps = fitted.trace(rewards, generator)
    value = steps[-1].mean.double()
    kept = torch.nonzero(~value.isnan()).flatten()
    if len(kept) < len(value) and not exclude_unscored:
        rows = torch.nonzero(value.isnan()).flatten()[:5].tolist()
        raise DataError(
            f"{pool.source}: {len(value) - len(kept)} responses have no utility under {fitted} (rows {rows}): not "
            "scored, or variance unknown; leave them out with exclude_unscored (--exclude-unscored)"
        )
    if len(kept) == 0:
        raise DataError(f"{pool.source}: no response has a utility under {fitted}, so there is nothing to weigh")
    weight_of_kl = None
    if kl_form != "constant":
        std = steps[-2].std if len(steps) > 1 else None
        weight_of_kl = kl_weights(_variance(pool, rewards, fitted, std)[kept])
    group = pool.group[kept]
    found = reweight(
        value[kept],
        group,
        target_kl=target_kl,
        kl_coef=kl_coef,
        per_prompt=per_prompt,
        kl_weight=weight_of_kl,
        kl_form=kl_form,
    )
    drawn = DrawnSamples()
    if samples is not None:
        drawn = draw_samples(
            pool,
            kept,
            found.weight,
            Path(samples),
            num_samples=num_samples or 1,
            conversations=conversations,
            conversational=conversational,
            generator=generator,
        )
    _write(pool, kept, found.weight, Path(output))
    before, after = _means(value[kept], group, found.weight)
    return ReweightSummary(
        output=str(output),
        samples=None if samples is None else str(samples),
        utility=str(fitted),
        kl_form=kl_form,
        num_prompts=len(found.kl),
        num_candidates=len(kept),
        num_excluded=len(value) - len(kept),
        num_prompts_excluded=len(torch.unique(pool.group)) - len(found.kl),
        target_kl=target_kl,
        num_prompts_short=int((~found.is_reached).sum()),
        mean_kl=found.kl.mean().item(),
        min_kl_coef=found.kl_coef.min().item(),
        max_kl_coef=found.kl_coef.max().item(),
        mean_effective_sample_size=found.effective_sample_size.mean().item(),
        min_effective_sample_size=found.effective_sample_size.min().item(),
        num_prompts_thin=int((found.effective_sample_size < _THIN).sum()),
        mean_utility_before=before.mean().item(),
        mean_utility_after=after.mean().item(),
        **_gold(pool, kept, group, found),
        num_samples=drawn.num_samples,
        num_distinct_samples=drawn.num_distinct,
        num_flattened=drawn.num_flattened,
    )


def _check(
    data: str | Path | ScoredPool,
    output: str | Path,
    samples: str | Path | None,
    num_samples: int | None,
    prompts: DataSource | None,
    *,
    overwrite: bool,
) -> None:
    if Path(output).suffix != ".parquet":
        raise PrudentError(f"{output}: the weighted pool is written as .parquet; give the output this ending")
    if samples is not None and Path(samples).suffix not in SAMPLES_SUFFIXES:
        raise PrudentError(f"{samples}: samples are written as {' or '.join(SAMPLES_SUFFIXES)}; give such an ending")
    taken = [("output", output)] if isinstance(data, ScoredPool) else [("output", output), ("data", data)]
    for what, path in taken:
        if samples is not None and Path(samples).resolve() == Path(path).resolve():
            raise PrudentError(f"{samples}: samples and {what} would be one file; give the samples another name")
    for path in (output, *(() if samples is None else (samples,))):
        if Path(path).exists() and not overwrite:
            raise PrudentError(f"{path} is there already; give another name, or say overwrite (--overwrite)")
        require_apart(path)
    if samples is None and not (num_samples is None and prompts is None):
        raise ValueError("num_samples and prompts are for samples; say which file to write them to")
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")


def _variance(pool: ScoredPool, rewards: RewardSet, fitted: FittedUtility, std: Tensor | None) -> Tensor:
    """Variances [N] of what the last step of a utility reads."""
    for name in fitted.utility.reward_names:
        if not pool.reward(rewards.resolve(name)).has_variance:
            raise DataError(
                f"{pool.source} has no variances of {name!r}, which the weighted KL needs; fit a posterior and score "
                "again, or take kl_form constant (--kl-form)"
            )
    if std is None:
        raise UnsupportedError(
            f"the last step of {fitted} reads values and no posterior, so there is no variance to weigh the KL by; end "
            "the utility in one rule (a | ... | mean), or take kl_form constant (--kl-form)"
        )
    return std.double().square()


def _means(values: Tensor, group: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Means [B] of the values of each prompt, uniformly and by the weights."""
    index = index_groups(group)
    return index.sum(values) / index.counts, index.sum(weight * values)


def _gold(pool: ScoredPool, kept: Tensor, group: Tensor, found: Reweighted) -> dict[str, Any]:
    nothing = dict.fromkeys(("mean_gold_before", "mean_gold_after", "gold_gain", "gold_gain_low", "gold_gain_high"))
    if "gold" not in pool.table.column_names:
        return {"num_prompts_with_gold": 0, **nothing}
    gold = pool.column("gold")[kept].masked_fill(pool.is_calibration[kept], math.nan)
    gold = gold.masked_fill(gold.isinf(), math.nan)
    before, after = _means(gold, group, found.weight)
    has_gold = ~before.isnan()
    if not bool(has_gold.any()):
        return {"num_prompts_with_gold": 0, **nothing}
    before, after = before[has_gold], after[has_gold]
    gain = bootstrap_difference(after, before)
    return {
        "num_prompts_with_gold": len(before),
        "mean_gold_before": before.mean().item(),
        "mean_gold_after": after.mean().item(),
        "gold_gain": (after - before).mean().item(),
        "gold_gain_low": gain.low.item(),
        "gold_gain_high": gain.high.item(),
    }


def _write(pool: ScoredPool, kept: Tensor, weight: Tensor, path: Path) -> None:
    column = torch.full((pool.table.num_rows,), torch.nan, dtype=torch.float64)
    column[kept] = weight
    values = pa.array(column.numpy(), from_pandas=True)  # NaN is null
    table = pool.table
    if "weight" in table.column_names:
        table = table.drop_columns(["weight"])
    with atomic_file(path) as temporary:
        pq.write_table(table.append_column("weight", values), temporary)
