"""`score`: a pool of candidates in, rewards with variance out, streaming and resumable."""

import hashlib
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
from prudent.models import RewardModel, as_messages, progress_bar, render_plain
from prudent.posteriors import Center, EnsembleScorer, Posterior, Prediction, Scorer, TokenizedTexts, load_scorer
from prudent.scoring._output import PartedOutput
from prudent.scoring._shards import Shard, Slice, iterate_shards
from prudent.utility import choose_references

__all__ = ["ScoreSummary", "score"]

_RESPONSES_PER_SHARD = 4096
_STREAMED_BYTES = 64 * 2**20
# Columns of a pool with one value a response go through, but not over what scoring itself says.
_SINGULAR = {"models": "model"}
_PROMPT_COLUMNS = ("id", "source", "subset", "row")
_OWN_COLUMNS = frozenset(
    [
        "prompt_id",
        "response_id",
        "prompt",
        "response",
        "text_id",
        "length",
        "num_tokens",
        "truncated",
        "prompt_truncated",
        "is_reference",
        "reward_mean",
        "reward_variance",
        "reward_noise",
        "reward_reference",
        "reward_centered_variance",
        "reward_factor",
        "reward_members",
    ]
)


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
    and `reward_centered_variance` (against the prompt's fixed reference set), `reward_factor` on request, and the
    pool's own columns (one value a response, or `id`, `source`, `subset` and `row` of the prompt). Run again after a
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
        pools = load_pools(data, split=split, on_bad=on_bad, drop=drop, streaming=_is_large(data))
    scorer = load_scorer(model, posterior, max_length=max_length, dtype=dtype)
    manifest = {
        "data": _data_digest(data),
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
        kinds = _column_types(pools.rows.features)
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
        references: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
        for part in shard:
            is_reference = self._references(part)
            references.append(is_reference[part.start : part.stop])
            if not part.whole:
                centers[part.prompt_id] = self._center(part, is_reference)
            seen: dict[str, int] = {}
            texts = part.row["responses"][part.start : part.stop]
            for number, (text, chosen) in enumerate(zip(texts, references[-1], strict=True), part.start):
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
        columns = {**_pool_columns(shard, self._kinds), **_text_columns(encoded, np.array(position))}
        columns["is_reference"] = pa.array(np.concatenate(references))
        columns.update(_reward_columns(prediction, torch.tensor(position)))
        table = pa.table(columns)
        metadata: dict[str, Any] = {"kind": "gaussian", "basis_id": self._scorer.basis_id}
        if prediction.members is not None:
            metadata.update(kind="members", ddof=1)
        return table.replace_schema_metadata({b"prudent": json.dumps(metadata).encode()})

    def _references(self, part: Slice) -> np.ndarray[Any, np.dtype[np.bool_]]:
        total = len(part.row["responses"])
        mask = np.zeros(total, dtype=bool)
        key = render_plain(as_messages(part.row["prompt"]))
        mask[choose_references(total, self._num_references, self._seed, key)] = True
        return mask

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


def _column_types(features: Any) -> dict[str, pa.DataType]:
    """The pool's columns that go through: those with one value a response, and those that name the prompt.

    Types come from the whole pool, not from the first shard, where a column may be null throughout.
    """
    kinds: dict[str, pa.DataType] = {}
    for field in features.arrow_schema:
        if field.name in ("prompt", "responses", *_OWN_COLUMNS):
            continue
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            kinds[field.name] = pa.float32() if field.name == "gold" else field.type.value_type
        elif field.name in _PROMPT_COLUMNS:
            kinds[field.name] = field.type
    return kinds


def _pool_columns(shard: Shard, kinds: dict[str, pa.DataType]) -> dict[str, pa.Array]:
    """Columns that come from the pool itself, a row a response."""
    sizes = np.array([part.stop - part.start for part in shard])
    prompts = pa.array([render_plain(as_messages(part.row["prompt"])) for part in shard])
    responses = [text for part in shard for text in part.row["responses"][part.start : part.stop]]
    columns = {
        "prompt_id": pa.array(np.repeat(np.array([part.prompt_id for part in shard], dtype=np.int32), sizes)),
        "response_id": pa.array(np.concatenate([np.arange(part.start, part.stop, dtype=np.int32) for part in shard])),
        "prompt": prompts.take(pa.array(np.repeat(np.arange(len(shard)), sizes))),
        "response": pa.array(responses),
        "text_id": pa.array(_text_ids(shard)),
        "length": pa.array(np.array([len(text) for text in responses], dtype=np.int32)),
    }
    for name, kind in kinds.items():
        if name in _PROMPT_COLUMNS:
            values = [part.row[name] for part, size in zip(shard, sizes, strict=True) for _ in range(size)]
        else:
            values = [value for part in shard for value in part.row[name][part.start : part.stop]]
        # NaN inside is null on the wire.
        columns[_SINGULAR.get(name, name)] = pa.array(values, type=kind, from_pandas=True)
    return columns


def _text_ids(shard: Shard) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Equal for equal texts of one prompt, different otherwise, whatever the shard."""
    ids: list[int] = []
    for part in shard:
        # 63 bits of a digest: a prompt of a million texts meets a collision with probability 5e-8.
        ids += [
            int.from_bytes(hashlib.blake2b(f"{part.prompt_id}\0{text}".encode(), digest_size=8).digest(), "big") >> 1
            for text in part.row["responses"][part.start : part.stop]
        ]
    return np.array(ids, dtype=np.int64)


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
    columns = {name: _nullable(value[position].numpy()) for name, value in values.items()}
    if prediction.factor is not None:
        columns["reward_factor"] = _lists(prediction.factor[position].to(torch.float16))
    if prediction.members is not None:
        columns["reward_members"] = _lists(prediction.members[position].to(torch.float32))
    return columns


def _lists(rows: Tensor) -> pa.Array:
    """A fixed-size list a row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.numpy().ravel()), rows.shape[1])


def _nullable(values: np.ndarray[Any, np.dtype[np.float32]]) -> pa.Array:
    """Not finite means not scored: null in the file."""
    return pa.array(values.astype(np.float32), mask=~np.isfinite(values))


def _count(counts: dict[str, int], table: pa.Table) -> None:
    counts["num_responses"] += table.num_rows
    counts["num_truncated"] += int(np.count_nonzero(table.column("truncated").to_numpy()))
    counts["num_prompt_truncated"] += int(np.count_nonzero(table.column("prompt_truncated").to_numpy()))
    counts["num_not_scored"] += table.column("reward_mean").null_count


def _files(data: Any) -> list[Path]:
    """The files that the data consist of; none where they are not on disk."""
    if not isinstance(data, str | Path) or not Path(data).exists():
        return []
    return [Path(data)] if Path(data).is_file() else sorted(path for path in Path(data).rglob("*") if path.is_file())


def _is_large(data: Any) -> bool:
    return sum(file.stat().st_size for file in _files(data)) > _STREAMED_BYTES


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _data_digest(data: Any) -> str:
    """Names the content of files by their bytes, of anything else by what it says of itself."""
    if isinstance(data, Pools):
        digest = hashlib.sha256()
        for row in data.rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:16]
    if files := _files(data):
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:16]
    if isinstance(data, list):
        return _digest(json.dumps(data, sort_keys=True, default=str).encode())
    return str(getattr(data, "_fingerprint", data))
