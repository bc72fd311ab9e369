"""Pools cut into shards of a few thousand responses: the unit of memory, of writing and of resuming."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Shard", "Slice", "iterate_shards"]


@dataclass(frozen=True)
class Slice:
    """Responses `start` to `stop` of one prompt.

    Attributes:
        prompt_id: number of the prompt in the pool file.
        row: the pool's row: `prompt`, `responses`, and whatever else it has.
        start: first response.
        stop: one past the last response.
    """

    prompt_id: int
    row: dict[str, Any]
    start: int
    stop: int

    @property
    def whole(self) -> bool:
        """All responses of the prompt are here."""
        return self.start == 0 and self.stop == len(self.row["responses"])


Shard = list[Slice]


def iterate_shards(rows: Iterable[dict[str, Any]], max_responses: int) -> Iterator[Shard]:
    """Consecutive prompts, together at most `max_responses` responses; a longer prompt is cut into shards of its own.

    Where the cuts fall depends on the pool alone, so that a run that was cut off finds them again.

    Example:
        >>> rows = [{"responses": ["a"] * n} for n in (2, 3, 7)]
        >>> [[(s.prompt_id, s.start, s.stop) for s in shard] for shard in iterate_shards(rows, 5)]
        [[(0, 0, 2), (1, 0, 3)], [(2, 0, 5)], [(2, 5, 7)]]
    """
    shard: Shard = []
    size = 0
    for prompt_id, row in enumerate(rows):
        total = len(row["responses"])
        if shard and size + total > max_responses:
            yield shard
            shard, size = [], 0
        if total > max_responses:
            for start in range(0, total, max_responses):
                yield [Slice(prompt_id, row, start, min(start + max_responses, total))]
        else:
            shard.append(Slice(prompt_id, row, 0, total))
            size += total
    if shard:
        yield shard
