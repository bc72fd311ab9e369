"""`score`: a pool of candidates in, rewards with variance out, streaming and resumable."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from prudent.data import OnBad, Pools, choose_split, load_pools
from prudent.errors import DataError
from prudent.models import RewardModel, progress_bar
from prudent.posteriors import Center, EnsembleScorer, Posterior, Prediction, Scorer, TokenizedTexts, load_scorer
from prudent.scoring._columns import column_types, is_large, lists, nullable, pool_columns, references, source_digest
from prudent.scoring._output import PartedOutput
from prudent.scoring._shards import Shard, Slice, iterate_shards

__all__ = ["ScoreSummary", "score"]

_RESPONSES_PER_SHARD = 4096


@dataclass(frozen=True)
class ScoreSummary:
    """What `score` did.

    Attributes:
        output: the dataset written.
        num_prompts: prompts scored.
        num_responses: responses scored.
        num_skipped: pools left out as faulty.
        num_truncated: responses that were cut on the right.
        num_prompt_truncated: texts whose prompt was cut from the left.
        num_not_scored: responses whose reward is not finite; their rewards are null.
        posterior: kind of the posterior, `none` for a model without one.
    """

    output: str
    num_prompts: int
    num_responses: int
    num_skipped: int
    num_truncated: int
    num_prompt_truncated: int
    num_not_scored: int
    posterior: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def score(
    model: str | Path | RewardModel | EnsembleScorer,
    data: Any,
    output: str | Path,
    *,
    posterior: Posterior | None = None,
    factor: bool = False,
    num_references: int = 16,
    split: str | None = None,
    drop: str | None = None,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
    tokens_per_batch: int | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> ScoreSummary:
    """Score every response of a pool with its reward's mean and variance.

    The output is one Parquet dataset, a row a response: `prompt_id`, `response_id`, `prompt`, `response`, `gold` (where
    the pool has it), `length` (characters), `num_tokens`, `truncated`, `prompt_truncated`, `is_reference`,
    `text_id` (equal for equal texts of a prompt), `reward_mean`, `reward_variance`, `reward_noise`, `reward_reference`
    and `reward_centered_variance` (against the prompt's fixed reference set), `reward_factor` on request, of an
    ensemble `reward_members` (a list of what its M members say) and `reward_within_variance` where they have variances
    of their own (then the factor is that of the covariance within members, and members alone need none), and the pool's
    own columns (one value a response, or `id`, `source`, `subset` and `row` of the prompt). Run again after a
    kill it goes on where it was; run again when finished it only reports.

    Args:
        model: a loaded model or ensemble, a folder, or a hub name; a posterior beside the model is used.
        data: pools in any form that `prudent.data.load_pools` takes, or its result. Files of more than 64 MiB are
            checked in one pass and then streamed, in flat memory; rows of one response must then stand together by
            prompt.
        output: path of the dataset, a folder of parts.
        posterior: instead of the one beside the model; needed for a loaded model.
        factor: also store the factor that comparisons between responses need, float16.
        num_references: responses of each prompt drawn as its fixed reference set.
        split: the split of data that have several; by default the only one.
        drop: a boolean column of the pool; responses where it is true are left out.
        max_length: tokens a text may have; by default what the posterior was fitted with, or the model states.
        dtype: of the weights while reading, by default float32 on CPU and the checkpoint's own elsewhere; `bfloat16`
            halves the time or more, at about half a percent of a variance.
        tokens_per_batch: padded tokens of a batch.
        strict: an over-long text is an error.
        skip_bad: leave faulty pools out instead of stopping.
        overwrite: replace an existing output once the new one is whole; an unfinished run is continued all the same.
        seed: of the reference sets.
        progress: show a bar.

    Raises:
        DataError: the pools are faulty, or have several splits and none is named.
        ModelError: the model cannot be loaded or its head was never trained.
        PosteriorError: the posterior does not belong to the model, or a factor is asked for without one.
        PrudentError: the output exists and was made from something else.
    """
    if isinstance(data, Pools):
        pools = data
    else:
        split = choose_split(data, split) or "train"
        on_bad: OnBad = "skip" if skip_bad else "error"
        pools = load_pools(data, split=split, on_bad=on_bad, drop=drop, streaming=is_large(data))
    scorer = load_scorer(model, posterior, max_length=max_length, dtype=dtype)
    manifest = {
        "data": source_digest(data),
        "split": split,
        "drop": drop,
        **scorer.identity(),
        "factor": factor,
        "num_references": num_references,
        "seed": seed,
        "strict": strict,
    }
    with PartedOutput(output, manifest, overwrite=overwrite) as parts:
        if parts.finished:
            return ScoreSummary(**{**parts.summary(), "output": str(output)})
        kinds = column_types(pools.rows.features)
        shards = _ShardScorer(scorer, factor, num_references, seed, tokens_per_batch, strict, kinds)
        written = parts.num_parts
        counts = dict.fromkeys(["num_responses", "num_truncated", "num_prompt_truncated", "num_not_scored"], 0)
        with progress_bar("Scoring", pools.summary.num_responses, unit="responses", enabled=progress) as advance:
            for number, shard in enumerate(iterate_shards(pools.rows, _RESPONSES_PER_SHARD)):
                if number < written:
                    table = parts.read(number)
                    advance(table.num_rows)
                else:
                    table = shards.table(shard, advance)
                    parts.write(table)
                _count(counts, table)
        summary = ScoreSummary(
            output=str(output),
            num_prompts=pools.summary.num_rows,
            num_skipped=pools.summary.num_skipped,
            posterior=scorer.kind,
            **counts,
        )
        parts.finish(summary.to_dict())
    return summary


class _ShardScorer:
    """Scores one shard after the other; keeps the reference averages of a prompt that spans shards."""

    def __init__(
        self,
        scorer: Scorer,
        factor: bool,
        num_references: int,
        seed: int,
        tokens_per_batch: int | None,
        strict: bool,
        kinds: dict[str, pa.DataType],
    ) -> None:
        self._kinds = kinds
        self._scorer = scorer
        self._factor = factor
        self._num_references = num_references
        self._seed = seed
        self._tokens_per_batch = tokens_per_batch
        self._strict = strict
        self._centers: dict[int, Center] = {}

    def table(self, shard: Shard, advance: Callable[[int], None]) -> pa.Table:
        """The rows of a shard."""
        prompts: list[Any] = []
        responses: list[str] = []
        names: list[str] = []
        position: list[int] = []
        weights: list[float] = []
        groups: list[int] = []
        centers: dict[int, Center] = {}
        chosen_here: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
        for part in shard:
            is_reference = references(part, self._num_references, self._seed)
            chosen_here.append(is_reference[part.start : part.stop])
            if not part.whole:
                centers[part.prompt_id] = self._center(part, is_reference)
            seen: dict[str, int] = {}
            texts = part.row["responses"][part.start : part.stop]
            for number, (text, chosen) in enumerate(zip(texts, chosen_here[-1], strict=True), part.start):
                # Equal texts have equal rewards: the model reads each once.
                if text not in seen:
                    seen[text] = len(responses)
                    prompts.append(part.row["prompt"])
                    responses.append(text)
                    names.append(f"prompt {part.prompt_id}, response {number}")
                    weights.append(0.0)
                    groups.append(part.prompt_id)
                position.append(seen[text])
                weights[seen[text]] += float(chosen)
        encoded = self._encode(shard, prompts, responses, names)
        repeats = np.bincount(position, minlength=len(responses))
        prediction = self._scorer.predict(
            encoded,
            group=torch.tensor(groups),
            reference_weight=torch.tensor(weights),
            centers=centers,
            with_factor=self._factor,
            tokens_per_batch=self._tokens_per_batch,
            advance=advance,
        )
        advance(int(repeats.sum()) - len(responses))
        columns = {**pool_columns(shard, self._kinds), **_text_columns(encoded, np.array(position))}
        columns["is_reference"] = pa.array(np.concatenate(chosen_here))
        columns.update(_reward_columns(prediction, torch.tensor(position)))
        table = pa.table(columns)
        metadata: dict[str, Any] = {"kind": "gaussian", "basis_id": self._scorer.basis_id}
        if prediction.members is not None:
            metadata.update(kind="members", ddof=1)
        return table.replace_schema_metadata({b"prudent": json.dumps(metadata).encode()})

    def _center(self, part: Slice, is_reference: np.ndarray[Any, np.dtype[np.bool_]]) -> Center:
        if part.prompt_id not in self._centers:
            chosen = [part.row["responses"][index] for index in np.flatnonzero(is_reference)]
            encoded = self._scorer.encode([part.row["prompt"]] * len(chosen), chosen)
            self._centers = {part.prompt_id: self._scorer.center(encoded)}
        return self._centers[part.prompt_id]

    def _encode(self, shard: Shard, prompts: list[Any], responses: list[str], names: list[str]) -> TokenizedTexts:
        try:
            return self._scorer.encode(prompts, responses, strict=self._strict, names=names)
        except DataError as error:
            ids = sorted({part.prompt_id for part in shard})
            raise DataError(f"prompts {ids[0]} to {ids[-1]}: {error}") from error


def _text_columns(encoded: TokenizedTexts, position: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, pa.Array]:
    return {
        "num_tokens": pa.array(encoded.lengths[position].astype(np.int32)),
        "truncated": pa.array(encoded.truncated[position]),
        "prompt_truncated": pa.array(encoded.prompt_truncated[position]),
    }


def _reward_columns(prediction: Prediction, position: Tensor) -> dict[str, pa.Array]:
    values = {
        "reward_mean": prediction.mean,
        "reward_variance": prediction.variance,
        "reward_noise": prediction.noise,
        "reward_reference": prediction.reference_mean,
        "reward_centered_variance": prediction.centered_variance,
    }
    columns = {name: nullable(value[position].numpy()) for name, value in values.items()}
    if prediction.factor is not None:
        columns["reward_factor"] = lists(prediction.factor[position].to(torch.float16))
    if prediction.members is not None:
        members = prediction.members[position].to(torch.float32)
        columns["reward_members"] = lists(members.masked_fill(~members.isfinite(), torch.nan))
    if prediction.within_variance is not None:
        columns["reward_within_variance"] = nullable(prediction.within_variance[position].numpy())
    return columns


def _count(counts: dict[str, int], table: pa.Table) -> None:
    counts["num_responses"] += table.num_rows
    counts["num_truncated"] += int(np.count_nonzero(table.column("truncated").to_numpy()))
    counts["num_prompt_truncated"] += int(np.count_nonzero(table.column("prompt_truncated").to_numpy()))
    counts["num_not_scored"] += table.column("reward_mean").null_count
