"""Preference pairs in words that the tiny models know, with a rule that can be learned."""

from typing import Any

import numpy as np
import pytest

_NOUNS = ("apple", "pear", "plum", "river", "stone", "bird", "door", "window", "house")
_GOOD = ("sunny", "warm", "yes")
_BAD = ("cold", "rainy", "no")


@pytest.fixture(scope="session")
def pairs() -> list[dict[str, Any]]:
    """48 pairs whose chosen reply has warm words."""
    return make_pairs(48, seed=0)


@pytest.fixture(scope="session")
def eval_pairs() -> list[dict[str, Any]]:
    """16 pairs of the same kind, with prompts of their own."""
    return make_pairs(16, seed=1, prefix="please")


def make_pairs(count: int, *, seed: int, prefix: str = "tell me about") -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)

    def reply(words: tuple[str, ...]) -> str:
        length = int(generator.integers(2, 9))
        return " ".join([*generator.choice(_NOUNS, length), *generator.choice(words, 2)])

    return [
        {"prompt": f"{prefix} {' '.join(generator.choice(_NOUNS, 3))}", "chosen": reply(_GOOD), "rejected": reply(_BAD)}
        for _ in range(count)
    ]
