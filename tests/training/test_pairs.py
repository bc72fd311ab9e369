from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prudent.data import load_preferences
from prudent.errors import DataError
from prudent.models import RewardModel
from prudent.training._pairs import (
    LengthGroupedOrder,
    Pair,
    PairCollator,
    PairDataset,
    PairStream,
    TruncationCount,
    encode_pairs,
)


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=400),
    st.integers(1, 16),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_order_holds_every_pair_once_and_depends_on_seed_and_epoch_alone(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    order = LengthGroupedOrder(np.array(lengths), batch_size, seed)
    order.set_epoch(epoch)
    first = list(order)
    assert sorted(first) == list(range(len(lengths)))
    again = LengthGroupedOrder(np.array(lengths), batch_size, seed)
    list(again)
    again.set_epoch(epoch)
    assert list(again) == first


def test_order_saves_padding_and_changes_with_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 1_000)
    order = LengthGroupedOrder(lengths, 8, 0)

    def padding(index: list[int]) -> float:
        batches = lengths[np.array(index)].reshape(-1, 8)
        return float((batches.max(1) * 8 - batches.sum(1)).sum() / lengths.sum())

    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    assert padding(first) < 0.1
    assert padding(np.random.default_rng(1).permutation(1_000).tolist()) > 0.5


def test_batches_of_the_order_do_not_run_from_long_to_short() -> None:
    lengths = np.arange(128)
    firsts = list(LengthGroupedOrder(lengths, 8, 0))[::8]
    assert firsts != sorted(firsts, reverse=True)


def test_collator_puts_chosen_rows_first_and_pads_on_the_right() -> None:
    def pair(chosen: list[int], rejected: list[int], margin: float, p_chosen: float) -> Pair:
        ids = (np.array(chosen, dtype=np.int32), np.array(rejected, dtype=np.int32))
        return Pair(ids=ids, types=None, margin=margin, p_chosen=p_chosen)

    batch = PairCollator(9)([pair([1, 2, 3], [4], 0.5, 1.0), pair([5, 6], [7, 8], 0.0, 0.7)])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 6, 9], [4, 9, 9], [7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert batch["margin"].tolist() == [0.5, 0.0]
    torch.testing.assert_close(batch["p_chosen"], torch.tensor([1.0, 0.7]))
    assert "token_type_ids" not in batch


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_encoded_pairs_are_the_texts_that_the_model_scores(
    kind: str, tiny_models: Callable[..., Path], pairs: list[dict[str, Any]]
) -> None:
    model = RewardModel.from_pretrained(tiny_models(kind))
    rows = load_preferences(pairs).rows
    encoded = list(encode_pairs(model, rows, TruncationCount(128, strict=True)))
    batch = PairCollator(model.tokenizer.pad_token_id)(encoded)
    labels = ("margin", "p_chosen")
    with torch.no_grad():
        logits = model.model(**{name: value for name, value in batch.items() if name not in labels}).logits
    prompts = [pair["prompt"] for pair in pairs]
    expected = [model.rewards(prompts, [pair[side] for pair in pairs]) for side in ("chosen", "rejected")]
    torch.testing.assert_close(logits.view(-1), torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_cut_texts_are_counted_and_strict_names_their_rows(tiny_models: Callable[..., Path]) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"), max_length=16)
    rows = load_preferences(
        [
            {"prompt": "apple ", "chosen": "yes", "rejected": "no"},
            {"prompt": "apple ", "chosen": "plum " * 40, "rejected": "no"},
            {"prompt": "river " * 40, "chosen": "yes", "rejected": "no"},
        ]
    ).rows
    count = TruncationCount(16, strict=False)
    list(encode_pairs(model, rows, count))
    assert (count.responses, count.prompts) == (1, 3)  # the long reply takes its prompt with it
    with pytest.raises(DataError, match=r"exceed 16 tokens: row 1 \(chosen\), row 2 \(chosen\), row 2 \(rejected\);"):
        list(encode_pairs(model, rows, TruncationCount(16, strict=True)))


def test_evaluation_pairs_are_sorted_by_length(tiny_models: Callable[..., Path], pairs: list[dict[str, Any]]) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"))
    count = TruncationCount(128, strict=False)
    dataset = PairDataset(list(encode_pairs(model, load_preferences(pairs).rows, count)))
    lengths = dataset.longest_first().lengths
    assert (np.diff(lengths) <= 0).all()
    assert sorted(lengths) == sorted(dataset.lengths)


def test_stream_is_endless_and_each_pass_holds_every_pair(
    tiny_models: Callable[..., Path], pairs: list[dict[str, Any]]
) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"))
    rows = load_preferences(pairs, streaming=True).rows
    stream = iter(PairStream(model, rows, TruncationCount(128, strict=False), seed=0))
    passes = [[next(stream)["ids"][0].tobytes() for _ in pairs] for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert passes[0] != passes[1]
