"""Reward columns of an Arrow table, to and from tensors."""

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["METADATA_KEY", "column", "gaussian_table", "matrix_column", "members_table", "read_metadata"]

METADATA_KEY = b"prudent"
"""Schema metadata: a JSON object with `kind`, `basis_id` and what else the kind needs."""


def gaussian_table(
    group: Tensor,
    mean: Tensor,
    variance: Tensor,
    noise: Tensor,
    factor: Tensor | None,
    text_id: Tensor | None,
    basis_id: str | None,
) -> "pa.Table":
    """The columns of a Gaussian posterior."""
    columns = {"prompt_id": group, "reward_mean": mean, "reward_variance": variance, "reward_noise": noise}
    if factor is not None:
        columns["reward_factor"] = factor
    if text_id is not None:
        columns["text_id"] = text_id
    return _table(columns, {"kind": "gaussian", "basis_id": basis_id})


def members_table(
    group: Tensor,
    mean: Tensor,
    variance: Tensor,
    noise: Tensor,
    members: Tensor,
    within_variance: Tensor | None,
    within_factor: Tensor | None,
    text_id: Tensor | None,
    ddof: int,
    basis_id: str | None,
) -> "pa.Table":
    """The columns of a posterior that is a set of members."""
    columns = {"prompt_id": group, "reward_mean": mean, "reward_variance": variance, "reward_noise": noise}
    columns["reward_members"] = members
    optional = {"reward_within_variance": within_variance, "reward_factor": within_factor, "text_id": text_id}
    columns.update({name: values for name, values in optional.items() if values is not None})
    return _table(columns, {"kind": "members", "basis_id": basis_id, "ddof": ddof})


def column(table: "pa.Table", name: str) -> Tensor:
    """A numeric column as a tensor; nulls become NaN ("not scored")."""
    values = table.column(name).to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.copy())


def matrix_column(table: "pa.Table", name: str) -> Tensor:
    """A column of fixed-size lists as a matrix [N, K]; a null list becomes a row of NaN."""
    import pyarrow as pa

    chunked = table.column(name)
    if not pa.types.is_fixed_size_list(chunked.type):
        raise TypeError(f"column {name} must be a fixed-size list of floats, got {chunked.type}")
    width = chunked.type.list_size
    parts = []
    for chunk in chunked.chunks:
        # `values` ignores the offset of a slice and `flatten` drops null lists: slice the former by hand
        values = chunk.values.slice(chunk.offset * width, len(chunk) * width).to_numpy(zero_copy_only=False)
        matrix = torch.from_numpy(values.copy()).reshape(len(chunk), width)
        if chunk.null_count:
            matrix[torch.from_numpy(chunk.is_null().to_numpy(zero_copy_only=False).copy())] = torch.nan
        parts.append(matrix)
    return torch.cat(parts) if parts else torch.empty(0, width)


def read_metadata(table: "pa.Table") -> dict[str, Any]:
    """What `to_arrow` wrote beside the columns; empty for tables made elsewhere."""
    metadata = table.schema.metadata or {}
    found: dict[str, Any] = json.loads(metadata[METADATA_KEY]) if METADATA_KEY in metadata else {}
    return found


def _table(columns: dict[str, Tensor], metadata: dict[str, Any]) -> "pa.Table":
    import pyarrow as pa

    arrays = {name: _array(values.detach().cpu()) for name, values in columns.items()}
    return pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode()})


def _array(values: Tensor) -> "pa.Array":
    import pyarrow as pa

    values = values.float() if values.dtype == torch.bfloat16 else values
    flat = pa.array(values.reshape(-1).numpy())
    return flat if values.dim() == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
