from collections import Counter

import numpy as np
import pytest

from prudent.data import load_preferences, resample_prompts
from prudent.errors import DataError


def rows_of(prompts: list[str]) -> list[dict[str, str]]:
    return [{"prompt": prompt, "chosen": f"yes {place}", "rejected": "no"} for place, prompt in enumerate(prompts)]


def test_a_prompt_is_drawn_with_all_its_pairs_or_not_at_all() -> None:
    prompts = [f"name {place % 7}" + (" " if place % 2 else "") for place in range(40)]
    preferences = load_preferences(rows_of(prompts))
    for seed in range(20):
        drawn = resample_prompts(preferences, seed)
        counts = Counter(drawn.rows["row"])
        times = {place % 7: counts[place] for place in range(7)}
        # Every pair of a prompt stands there equally often, white space at its end or not, and 7 prompts were drawn.
        assert all(counts[place] == times[place % 7] for place in range(40))
        assert sum(times.values()) == 7
        assert len(drawn) == drawn.summary.num_rows == len(drawn.rows) == sum(counts.values())
        assert drawn.summary.source.endswith(f"(prompts resampled by seed {seed})")
    assert len(preferences) == 40


def test_draws_follow_the_seed_and_have_the_multinomial_law() -> None:
    preferences = load_preferences(rows_of([f"name {place}" for place in range(50)]))
    same = [resample_prompts(preferences, 3).rows["row"][:] for _ in range(2)]
    assert same[0] == same[1]
    shares = [len(set(resample_prompts(preferences, seed).rows["row"])) / 50 for seed in range(200)]
    # A prompt is missing with probability (1 - 1/50)^50; the standard error of the mean is about 0.003.
    assert np.mean(shares) == pytest.approx(1 - 0.98**50, abs=0.015)


def test_one_prompt_cannot_be_resampled_nor_can_a_stream() -> None:
    with pytest.raises(DataError, match="all 3 pairs have the same prompt"):
        resample_prompts(load_preferences(rows_of(["name"] * 3)), 0)
    with pytest.raises(DataError, match="stream cannot be resampled"):
        resample_prompts(load_preferences(rows_of(["name", "tell"]), streaming=True), 0)
