"""Frozen features of real texts, read once and kept: the seeds of an experiment then cost seconds.

Kept under `.cache/experiments/`, a file a chunk of texts, so that an interrupted run goes on. Nothing of it is
committed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from prudent.models import Pooling, RewardModel, progress_bar

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "experiments"
CHUNK = 1024


def text_key(prompt: Any, response: Any) -> str:
    """Names a prompt with its response."""
    reply = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
    return hashlib.sha256(json.dumps([prompt, reply]).encode()).hexdigest()


def frozen_features(
    model: RewardModel, name: str, prompts: list[Any], responses: list[Any], *, pooling: Pooling = "mean"
) -> torch.Tensor:
    """Features `[N, H]` float32 of N prompt-response texts, each distinct text read once, ever.

    Args:
        model: the frozen model.
        name: of the set of texts, for the progress bar.
        prompts: N prompts.
        responses: N responses.
        pooling: what the features are.
    """
    dtype = str(model.head.weight.dtype).removeprefix("torch.")
    folder = CACHE / f"{model.fingerprint()}-{pooling}-{dtype}-{model.max_length}"
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, torch.Tensor] = {}
    for place in sorted(folder.glob("*.pt")):
        chunk = torch.load(place, weights_only=True)
        known.update(zip(chunk["keys"], chunk["values"], strict=True))
    keys = [text_key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    missing = {key: index for index, key in enumerate(keys) if key not in known}
    # Chunks of texts of like length waste little on padding.
    order = sorted(missing, key=lambda key: len(str(responses[missing[key]])))
    with progress_bar(name, len(order), unit="texts") as advance:
        for start in range(0, len(order), CHUNK):
            chunk_keys = order[start : start + CHUNK]
            rows = [missing[key] for key in chunk_keys]
            encoded = model.encode([prompts[row] for row in rows], [responses[row] for row in rows])
            values = model.features(encoded, pooling=pooling, tokens_per_batch=4096)[0]
            place = folder / f"{hashlib.sha256(''.join(chunk_keys).encode()).hexdigest()[:24]}.pt"
            torch.save({"keys": chunk_keys, "values": values}, place.with_suffix(".tmp"))
            place.with_suffix(".tmp").rename(place)
            known.update(zip(chunk_keys, values, strict=True))
            advance(len(rows))
    return torch.stack([known[key] for key in keys])
