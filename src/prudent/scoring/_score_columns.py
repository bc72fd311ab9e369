"""`score_columns`: rewards that other programs wrote, one column a reward, under names of their own."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prudent.data import DataSource, OnBad
from prudent.scoring._columns import nullable, references
from prudent.scoring._member_files import (
    MEMBER,
    CalibrationPairs,
    ColumnNames,
    columns_manifest,
    pairs_of_gold,
    pairs_of_preferences,
    read_member_pools,
    write_shards,
)
from prudent.scoring._names import check_names, columns_of
from prudent.scoring._output import PartedOutput
from prudent.scoring._score_members import CalibratedColumn, calibrate_columns
from prudent.scoring._shards import Shard

__all__ = ["ColumnReward", "ColumnsSummary", "score_columns"]


@dataclass(frozen=True)
class ColumnReward:
    """One reward of a file.

    Attributes:
        column: that it stands in.
        num_not_scored: responses without it.
        calibration: how it was brought to logits; None where it is as it was.
    """

    column: str
    num_not_scored: int
    calibration: CalibratedColumn | None


@dataclass(frozen=True)
class ColumnsSummary:
    """What `score_columns` did.

    Attributes:
        output: the dataset written.
        num_prompts: prompts in it.
        num_responses: responses in it.
        num_skipped: pools left out as faulty.
        num_calibration_prompts: prompts of the pool that the columns are calibrated on, flagged in the output.
        num_calibration_pairs: pairs that the columns are calibrated on; 0 where they are as they were.
        rewards: by name.
    """

    output: str
    num_prompts: int
    num_responses: int
    num_skipped: int
    num_calibration_prompts: int
    num_calibration_pairs: int
    rewards: Mapping[str, ColumnReward]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def score_columns(
    data: DataSource,
    output: str | Path,
    columns: Mapping[str, str],
    *,
    calibration_data: DataSource | None = None,
    calibration_share: float | None = None,
    prompt: str = "prompt",
    response: str | None = None,
    gold: str = "gold",
    split: str | None = None,
    drop: str | None = None,
    num_references: int = 16,
    skip_bad: bool = False,
    overwrite: bool = False,
    seed: int = 0,
) -> ColumnsSummary:
    """Make named rewards of scores that several models gave, one column a reward.

    The output is a dataset as `score` writes it for several models, without variances, since a score does not tell how
    sure it is; models of one and the same property have a variance together, see `score_members`. A model that does
    not apply to a response, or to a prompt, has no score there (null). Nothing in the file names the models, so a saved
    utility cannot tell when others than those that it was fitted on gave the scores.

    Args:
        data: pools in any form that `prudent.data.load_pools` takes, with the scores: a list a prompt, or a number
            where a row is a response. Texts of the responses may be absent.
        output: path of the dataset, a folder of parts.
        columns: the column of each reward by its name; larger is better.
        calibration_data: preferences to calibrate on, as for `score_members`. By default scores stay as they are.
        calibration_share: calibrate on this share of the prompts of the pool, in (0, 1], by pairs of responses that
            differ in gold.
        prompt: the column of the prompt's text.
        response: the column of the responses' texts; by default `responses` or `response`.
        gold: the column of true rewards.
        split: the split of data that have several; by default the only one.
        drop: a boolean column of the pool; responses where it is true are left out.
        num_references: responses of each prompt drawn as its fixed reference set.
        skip_bad: leave faulty rows out instead of stopping.
        overwrite: replace an existing output once the new one is whole.
        seed: of the reference sets and of the calibration prompts.

    Returns:
        What was written.

    Raises:
        ValueError: calibration_share is outside (0, 1], or comes with calibration_data.
        DataError: names are not usable, columns are missing, scores are not numbers (column and row are named), or
            there is nothing to calibrate on.
        PosteriorError: a column cannot be calibrated; see `score_members`.
        PrudentError: the output exists and was made from something else.

    Example:
        >>> import tempfile
        >>> from prudent.scoring import read_scored
        >>> rows = [{"prompt": "How?", "useful": [1.0, 3.0], "polite": [0.5, None]}]
        >>> output = tempfile.mkdtemp() + "/scored"
        >>> summary = score_columns(rows, output, {"helpful": "useful", "harmless": "polite"})
        >>> summary.rewards["harmless"].num_not_scored
        1
        >>> read_scored(output).reward("helpful").column("reward_mean").tolist()
        [1.0, 3.0]
    """
    check_names(columns)
    if calibration_share is not None and not 0 < calibration_share <= 1:
        raise ValueError(f"calibration_share must lie in (0, 1], got {calibration_share}")
    if calibration_share is not None and calibration_data is not None:
        raise ValueError("calibrate on preferences (calibration_data) or on gold (calibration_share), not on both")
    names = ColumnNames(tuple(columns.values()), prompt, response, gold)
    manifest = columns_manifest(
        data,
        names,
        calibration_data,
        calibration_share=calibration_share,
        split=split,
        drop=drop,
        num_references=num_references,
        seed=seed,
    )
    manifest["names"] = list(columns)
    on_bad: OnBad = "skip" if skip_bad else "error"
    with PartedOutput(output, manifest, overwrite=overwrite) as parts:
        if parts.finished:
            return _read_summary({**parts.summary(), "output": str(output)})
        pools, has_texts = read_member_pools(data, names, split=split, drop=drop, on_bad=on_bad, nullable=True)
        pairs = None
        if calibration_data is not None:
            pairs = pairs_of_preferences(calibration_data, names, num_prompts=len(pools), on_bad=on_bad, nullable=True)
        elif calibration_share is not None:
            pairs = pairs_of_gold(pools, names, calibration_share, seed)
        found: dict[str, CalibratedColumn] = {}
        if pairs is not None:
            found = {one.name: one for one in calibrate_columns(names.scores, pairs)}
        write_shards(
            parts,
            pools,
            has_texts,
            lambda shard: _reward_columns(shard, columns, found, pairs, num_references, seed),
            {"rewards": {name: {"kind": "gaussian", "basis_id": None} for name in columns}},
        )
        missing = dict.fromkeys(names.scores, 0)
        for row in pools.rows:
            for column in missing:
                missing[column] += int(np.isnan(row[MEMBER + column]).sum())
        summary = ColumnsSummary(
            output=str(output),
            num_prompts=pools.summary.num_rows,
            num_responses=pools.summary.num_responses,
            num_skipped=pools.summary.num_skipped,
            num_calibration_prompts=0 if pairs is None else int(pairs.is_calibration.sum()),
            num_calibration_pairs=0 if pairs is None else len(pairs.label),
            rewards={
                name: ColumnReward(column, missing[column], found.get(column)) for name, column in columns.items()
            },
        )
        parts.finish(summary.to_dict())
    return summary


def _reward_columns(
    shard: Shard,
    columns: Mapping[str, str],
    calibrated: Mapping[str, CalibratedColumn],
    pairs: CalibrationPairs | None,
    num_references: int,
    seed: int,
) -> dict[str, pa.Array]:
    masks = [references(part, num_references, seed) for part in shard]
    sizes = [part.stop - part.start for part in shard]
    here = [mask[part.start : part.stop] for part, mask in zip(shard, masks, strict=True)]
    found: dict[str, pa.Array] = {"is_reference": pa.array(np.concatenate(here))}
    if pairs is not None:
        flags = [bool(pairs.is_calibration[part.prompt_id]) for part in shard]
        found["is_calibration"] = pa.array(np.repeat(flags, sizes))
    unknown = nullable(np.full(sum(sizes), np.nan, dtype=np.float32))
    for name, column in columns.items():
        one = calibrated.get(column)
        scores, centers = [], []
        for part, mask, size in zip(shard, masks, sizes, strict=True):
            whole = np.array(part.row[MEMBER + column], dtype=np.float64)
            if one is not None:
                whole = one.scale * whole + one.offset
            known = whole[mask & ~np.isnan(whole)]
            scores.append(whole[part.start : part.stop])
            centers.append(np.full(size, known.mean() if len(known) else np.nan))
        mean = nullable(np.concatenate(scores).astype(np.float32))
        called = columns_of(name)
        found[called["reward_mean"]] = mean
        found[called["reward_variance"]] = unknown
        found[called["reward_noise"]] = pa.array(np.zeros(len(mean), dtype=np.float32))
        found[called["reward_reference"]] = nullable(np.concatenate(centers).astype(np.float32))
        found[called["reward_centered_variance"]] = unknown
    return found


def _read_summary(stored: dict[str, Any]) -> ColumnsSummary:
    rewards = {}
    for name, one in stored.pop("rewards").items():
        calibration = None if one["calibration"] is None else CalibratedColumn(**one["calibration"])
        rewards[name] = ColumnReward(**{**one, "calibration": calibration})
    return ColumnsSummary(**stored, rewards=rewards)
