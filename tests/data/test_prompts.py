"""When prompts are the same, and the pairs that a score makes of the responses to one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prudent.data import check_leak, draw_ordered_pairs, load_preferences, prompt_groups
from prudent.errors import DataError


def test_prompts_are_numbered_as_the_leak_check_compares_them():
    texts = ["a", "b", "a ", "\na", "A", "b"]
    rows = [{"prompt": text, "chosen": "yes", "rejected": "no"} for text in texts]
    found = prompt_groups(load_preferences(rows).rows["prompt"])
    assert found == [0, 1, 0, 0, 2, 1]
    for first in range(len(rows)):
        for second in range(first):
            one, other = load_preferences([rows[first]]), load_preferences([rows[second]])
            if found[first] == found[second]:
                with pytest.raises(DataError):
                    check_leak(one, other)
            else:
                assert check_leak(one, other) is other


def test_pairs_of_one_prompt_are_one_group_for_posteriors_as_well(tiny_models):
    from prudent.data import load_pools
    from prudent.models import RewardModel
    from prudent.posteriors import encode_pairs
    from prudent.posteriors._scored_texts import encode_scored

    model = RewardModel.from_pretrained(tiny_models("llama"))
    rows = [{"prompt": text, "chosen": "apple", "rejected": "pear"} for text in ("name", "name ", "please")]
    pairs = encode_pairs(model, load_preferences(rows).rows)
    assert pairs.group.tolist() == [0, 0, 1]
    pools = [{"prompt": text, "responses": ["apple", "pear"], "gold": [1.0, 2.0]} for text in ("name", "name ")]
    assert encode_scored(model, load_pools(pools).rows).group.unique().tolist() == [0]


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 80), st.integers(0, 9))
def test_ordered_pairs_are_some_of_all(scores, most, seed):
    values = [float("nan") if score == 4 else float(score) for score in scores]
    better, worse = draw_ordered_pairs(values, most, np.random.default_rng(seed))
    every = {(i, j) for i, high in enumerate(values) for j, low in enumerate(values) if high > low}
    found = list(zip(better.tolist(), worse.tolist(), strict=True))
    assert set(found) <= every
    assert len(found) == len(set(found)) == min(most, len(every))


def test_every_ordered_pair_is_drawn_as_often():
    generator = np.random.default_rng(0)
    counts = np.zeros((5, 5))
    for _ in range(3000):
        better, worse = draw_ordered_pairs([0.0, 1.0, 1.0, 2.0, 5.0], 3, generator)
        counts[better, worse] += 1
    drawn = counts[counts > 0]
    assert len(drawn) == 9
    assert np.abs(drawn - 1000).max() < 5 * 1000**0.5


def test_a_pool_of_many_responses_takes_no_memory_by_pairs():
    better, worse = draw_ordered_pairs(np.arange(1_000_000.0), 64, np.random.default_rng(0))
    assert bool((better > worse).all())
    assert len(better) == 64
