"""Responses drawn by their weights, as a data set for supervised fine-tuning in TRL's prompt-completion format."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Generator, Tensor

from prudent.data import MESSAGES, DataSource, choose_split, load_prompts
from prudent.errors import DataError
from prudent.models import Message, as_messages, as_response, atomic_file, render_plain
from prudent.rewards import index_groups
from prudent.scoring import ScoredPool

__all__ = ["SAMPLES_SUFFIXES", "DrawnSamples", "draw_samples", "read_conversations"]

SAMPLES_SUFFIXES = (".jsonl", ".parquet")
_LOOKS_LIKE_TURNS = re.compile(r"\A(system|user|assistant|tool): .*\n(user|assistant|tool): ", re.DOTALL)


@dataclass(frozen=True)
class DrawnSamples:
    """What was drawn.

    Attributes:
        num_samples: rows.
        num_distinct: how many of them differ in prompt or completion.
        num_flattened: prompts that look like several turns written as one text, and were kept as one user message.
    """

    num_samples: int = 0
    num_distinct: int = 0
    num_flattened: int = 0


def draw_samples(
    pool: ScoredPool,
    rows: Tensor,
    weight: Tensor,
    path: Path,
    *,
    num_samples: int,
    conversations: dict[str, list[Message]] | None,
    conversational: bool,
    generator: Generator,
) -> DrawnSamples:
    """Draw responses of each prompt by their weights, with replacement, and write them.

    Args:
        pool: scored responses with their texts.
        rows: [N] those to draw from.
        weight: [N] their weights, which sum to 1 over a prompt.
        path: ends with one of `SAMPLES_SUFFIXES`.
        num_samples: draws for each prompt.
        conversations: the messages of prompts of several turns, see `read_conversations`.
        conversational: messages instead of texts.
        generator: source of randomness.

    Raises:
        DataError: the pool has no texts, or `conversations` lack one of its prompts.
    """
    for name in ("prompt", "response"):
        if name not in pool.table.column_names:
            raise DataError(f"{pool.source} has no column {name!r} to write samples of; score the pool again")
    index = index_groups(pool.group[rows])
    picked = [
        own[torch.multinomial(weight[own], num_samples, replacement=True, generator=generator)] for own in index.rows()
    ]
    taken = pool.table.select(["prompt", "response"]).take(pa.array(rows[torch.cat(picked)].numpy()))
    texts = [_text(pool, value, "prompt") for value in taken["prompt"].to_pylist()]
    responses = [_text(pool, value, "response") for value in taken["response"].to_pylist()]
    num_flattened = 0
    if conversational and conversations is None:
        num_flattened = sum(_LOOKS_LIKE_TURNS.match(text) is not None for text in texts[::num_samples])
    written = [
        _row(pool, text, response, conversations, conversational)
        for text, response in zip(texts, responses, strict=True)
    ]
    with atomic_file(path) as temporary:
        if path.suffix == ".parquet":
            kind = MESSAGES if conversational else pa.string()
            columns = {name: pa.array([row[name] for row in written], kind) for name in ("prompt", "completion")}
            pq.write_table(pa.table(columns), temporary)
        else:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
    return DrawnSamples(len(written), len(set(zip(texts, responses, strict=True))), num_flattened)


def _row(
    pool: ScoredPool,
    text: str,
    response: str,
    conversations: dict[str, list[Message]] | None,
    conversational: bool,
) -> dict[str, Any]:
    if conversations is not None and text not in conversations:
        raise DataError(
            f"prompts (--prompts) lack one that {pool.source} has, {text[:60]!r}; give the file that was scored"
        )
    if not conversational:
        messages = None if conversations is None else conversations[text]
        return {
            "prompt": text if messages is None else render_plain(messages, opens_reply=True),
            "completion": response,
        }
    return {
        "prompt": as_messages(text) if conversations is None else conversations[text],
        "completion": as_response(response),
    }


def read_conversations(prompts: DataSource) -> dict[str, list[Message]]:
    """The messages of prompts by how scored pools write them.

    Raises:
        PrudentError: as of `load_prompts`.
    """
    split = choose_split(prompts, None) or "train"
    return {render_plain(row["prompt"]): row["prompt"] for row in load_prompts(prompts, split=split)}


def _text(pool: ScoredPool, value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{pool.source}: a response to be drawn has no text in the column {column!r}")
    return value
