"""What a scored dataset says of the pool itself, whoever scored it; and what names a pool in a manifest."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from prudent.data import Pools
from prudent.models import as_messages, render_plain
from prudent.scoring._names import REWARD_COLUMNS, TEXT_COLUMNS, columns_of
from prudent.scoring._shards import Shard, Slice
from prudent.utility import choose_references

__all__ = ["column_types", "is_large", "lists", "nullable", "pool_columns", "references", "source_digest"]

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
        "is_reference",
        "is_calibration",
        *TEXT_COLUMNS,
        *REWARD_COLUMNS,
    ]
)


def column_types(features: Any, names: Iterable[str] = ()) -> dict[str, pa.DataType]:
    """The pool's columns that go through: those with one value a response, and those that name the prompt.

    Types come from the whole pool, not from the first shard, where a column may be null throughout.

    Args:
        features: of the pool.
        names: of the rewards whose columns scoring is to write.
    """
    own = _OWN_COLUMNS.union(*(columns_of(name).values() for name in names))
    kinds: dict[str, pa.DataType] = {}
    for field in features.arrow_schema:
        if field.name in ("prompt", "responses", *own):
            continue
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            kinds[field.name] = pa.float32() if field.name == "gold" else field.type.value_type
        elif field.name in _PROMPT_COLUMNS:
            kinds[field.name] = field.type
    return kinds


def pool_columns(shard: Shard, kinds: dict[str, pa.DataType]) -> dict[str, pa.Array]:
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


def references(part: Slice, num_references: int, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The fixed reference set of a prompt: one bool a response, of all its responses."""
    total = len(part.row["responses"])
    mask = np.zeros(total, dtype=bool)
    key = render_plain(as_messages(part.row["prompt"]))
    mask[choose_references(total, num_references, seed, key)] = True
    return mask


def lists(rows: Tensor) -> pa.Array:
    """A fixed-size list a row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.numpy().ravel()), rows.shape[1])


def nullable(values: np.ndarray[Any, np.dtype[np.float32]]) -> pa.Array:
    """Not finite means not scored: null in the file."""
    return pa.array(values.astype(np.float32), mask=~np.isfinite(values))


def is_large(data: Any) -> bool:
    """Files so large that they are better streamed."""
    return sum(file.stat().st_size for file in _files(data)) > _STREAMED_BYTES


def _files(data: Any) -> list[Path]:
    """The files that the data consist of; none where they are not on disk."""
    if not isinstance(data, str | Path) or not Path(data).exists():
        return []
    return [Path(data)] if Path(data).is_file() else sorted(path for path in Path(data).rglob("*") if path.is_file())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def source_digest(data: Any) -> str:
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
