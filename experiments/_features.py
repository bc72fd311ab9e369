"""Frozen features of real texts, read once and kept: the seeds of an experiment then cost seconds.

Kept under `.cache/experiments/`, a file a chunk of texts, so that an interrupted run goes on; nothing of it is committed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from prudent.models import Pooling, RewardModel, progress_bar

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "experiments"
CHUNK = 1024


def frozen_features(
    model: RewardModel, name: str, prompts: list[Any], responses: list[Any], *, pooling: Pooling = "mean"
) -> torch.Tensor:
    """Features `[N, H]` float32 of N prompt-response texts, each distinct text read once.

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
    keys = [json.dumps([prompt, response]) for prompt, response in zip(prompts, responses, strict=True)]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    distinct = list(dict.fromkeys(keys))
    # Chunks of texts of like length waste little on padding.
    order = sorted(range(len(distinct)), key=lambda index: len(distinct[index]))
    features = torch.empty(len(distinct), model.feature_size)
    with progress_bar(name, len(distinct), unit="texts") as advance:
        for start in range(0, len(order), CHUNK):
            rows = order[start : start + CHUNK]
            digest = hashlib.sha256("\0".join(distinct[row] for row in rows).encode()).hexdigest()[:24]
            place = folder / f"{digest}.pt"
            if place.exists():
                values = torch.load(place, weights_only=True)
            else:
                texts = [first[distinct[row]] for row in rows]
                encoded = model.encode([prompts[text] for text in texts], [responses[text] for text in texts])
                values = model.features(encoded, pooling=pooling, tokens_per_batch=4096)[0]
                temporary = place.with_suffix(".tmp")
                torch.save(values, temporary)
                temporary.rename(place)
            features[torch.tensor(rows)] = values
            advance(len(rows))
    position = {key: index for index, key in enumerate(distinct)}
    return features[torch.tensor([position[key] for key in keys])]
