"""Responses with an absolute score each, as texts that a model reads, each text once."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prudent.data import (
    OnBad,
    Pools,
    Preferences,
    check_leak,
    choose_split,
    draw_ordered_pairs,
    load_pools,
    load_preferences,
    prompt_groups,
)
from prudent.errors import DataError, PosteriorError
from prudent.models import EncodedTexts, Message, RewardModel

__all__ = ["ScoredTexts", "encode_scored", "load_scored"]

_PAIRS_PER_PROMPT = 64


@dataclass(frozen=True)
class ScoredTexts:
    """N responses with a score.

    Attributes:
        encoded: texts, each once.
        place: `[N]` place of each response among them.
        scores: `[N]` float64.
        group: `[N]` number of each response's prompt; see `prudent.data.prompt_groups`.
        names: of each response its row in the file and its place in it, for messages.
    """

    encoded: EncodedTexts
    place: Tensor
    scores: Tensor
    group: Tensor
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.place)

    def ordered_pairs(self, seed: int) -> tuple[Tensor, Tensor]:
        """The better and the worse one of responses to one prompt with different scores, `[P]` places.

        Of a prompt with more than 64 such pairs 64 are drawn.

        Args:
            seed: of the draws.
        """
        generator = np.random.default_rng(seed)
        order = torch.argsort(self.group, stable=True)
        better, worse = [order[:0]], [order[:0]]
        for responses in torch.split(order, torch.bincount(self.group).tolist()):
            first, second = draw_ordered_pairs(self.scores[responses].numpy(), _PAIRS_PER_PROMPT, generator)
            better.append(responses[torch.from_numpy(first)])
            worse.append(responses[torch.from_numpy(second)])
        return torch.cat(better), torch.cat(worse)

    def require_finite(self, values: Tensor, what: str) -> None:
        """Make sure that a value of each response is finite.

        Args:
            values: `[N]` on CPU.
            what: they are.

        Raises:
            PosteriorError: one is not; its row is named.
        """
        faulty = (~values.isfinite()).nonzero().flatten().tolist()
        if faulty:
            raise PosteriorError(
                f"the {what} of {len(faulty)} responses is not finite ({self.names[faulty[0]]} first); the model"
                " overflows there, load it in float32 or leave those responses out"
            )


def load_scored(
    data: Any, split: str, eval_data: Any, eval_split: str | None, *, on_bad: OnBad
) -> tuple[Pools, Preferences | None]:
    """Pools with a gold score of every response to fit on, and pairs held out, which share no prompt.

    Args:
        data: pools in any form that `prudent.data.load_pools` takes.
        split: of data that have several.
        eval_data: preferences.
        eval_split: their split.
        on_bad: "skip" leaves out what is faulty.

    Raises:
        DataError: the data are no pools, or a response has no score.
    """
    needed = "quantile heads are fitted to absolute scores: give pools with `gold`, a number for each response"
    try:
        pools = load_pools(data, split=split, on_bad=on_bad)
    except DataError as error:
        raise DataError(f"{error} ({needed})") from error
    source = pools.summary.source
    if "gold" not in pools.rows.column_names:
        raise DataError(f"{source}: no column gold; {needed}")
    if pools.summary.num_without_gold and on_bad == "error":
        row, place = next(
            (pool["row"], place)
            for pool in pools.rows
            for place, gold in enumerate(pool["gold"])
            if gold is None or math.isnan(gold)
        )
        raise DataError(
            f"{source}: {pools.summary.num_without_gold:,} responses have no gold, response {place} of row {row} first;"
            ' quantile heads need a score for each, so give it, or leave them out with on_bad="skip" (--skip-bad)'
        )
    if eval_data is None and eval_split is not None:
        raise DataError(
            f"{source}: a split of the pools cannot be held out; give preferences, whose prompts are others, by"
            " eval_data"
        )
    if eval_data is None:
        return pools, None
    held_out = eval_data
    if not isinstance(eval_data, Preferences):
        held_out = load_preferences(
            eval_data, split=choose_split(eval_data, eval_split, held_out=True) or "train", on_bad=on_bad
        )
    return pools, check_leak(pools, held_out, on_bad=on_bad)


def encode_scored(model: RewardModel, rows: Any, *, strict: bool = False) -> ScoredTexts:
    """Tokenise responses that have a score; equal responses to a prompt are read once.

    Args:
        model: whose tokenizer reads.
        rows: of `prudent.data.load_pools`.
        strict: an over-long text is an error.

    Raises:
        DataError: `strict` and a text is too long.
    """
    seen: dict[str, int] = {}
    prompts: list[list[Message]] = []
    responses: list[str] = []
    names: list[str] = []
    place: list[int] = []
    scores: list[float] = []
    group: list[int] = []
    name_of_each: list[str] = []
    for row, number in zip(rows, prompt_groups(rows["prompt"]), strict=True):
        prompt_key = json.dumps(row["prompt"])
        for position, (response, score) in enumerate(zip(row["responses"], row["gold"], strict=True)):
            if score is None or math.isnan(score):
                continue
            key = prompt_key + json.dumps(response)
            name = f"row {row['row']}, response {position}"
            if key not in seen:
                seen[key] = len(prompts)
                prompts.append(row["prompt"])
                responses.append(response)
                names.append(name)
            place.append(seen[key])
            scores.append(score)
            group.append(number)
            name_of_each.append(name)
    return ScoredTexts(
        encoded=model.encode(prompts, responses, strict=strict, names=names),
        place=torch.tensor(place, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float64),
        group=torch.tensor(group, dtype=torch.int64),
        names=name_of_each,
    )
