"""A score is what plain Transformers computes, whatever the batch, the order and the side of padding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prudent.errors import ModelError
from prudent.models import RewardModel, progress_bar

KINDS = ["bert", "roberta", "llama", "qwen2", "gpt2"]
WORDS = [
    "apple",
    "pear",
    "plum",
    "river",
    "stone",
    "bird",
    "door",
    "window",
    "house",
    "sunny",
    "warm",
    "yes",
    "cold",
    "rainy",
    "no",
]
EXACT: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def mixed_texts(count: int = 24) -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(0)
    prompts = [" ".join(generator.choice(WORDS, int(generator.integers(1, 30)))) for _ in range(count)]
    responses = [" ".join(generator.choice(WORDS, int(generator.integers(1, 40)))) for _ in range(count)]
    return prompts, responses


def plain_logits(folder: Path, ids: list[list[int]], types: list[list[int]] | None) -> Tensor:
    """One text at a time, nothing padded, by Transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = []
    for row, tokens in enumerate(ids):
        segments = {} if types is None else {"token_type_ids": torch.tensor([types[row]])}
        with torch.no_grad():
            logits.append(model(input_ids=torch.tensor([tokens]), **segments).logits.view(1))
    return torch.cat(logits)


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_equal_plain_transformers(kind: str, tiny_models: Callable[..., Path]) -> None:
    model = RewardModel.from_pretrained(tiny_models(kind))
    prompts, responses = mixed_texts()
    encoded = model.encode(prompts, responses)
    rewards = model.rewards(prompts, responses)
    expected = plain_logits(tiny_models(kind), encoded.input_ids, encoded.token_type_ids)
    torch.testing.assert_close(rewards, expected, **EXACT)
    assert rewards.std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["head", "mean"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens_per_batch=st.integers(1, 3_000), seed=st.integers(0, 100), side=st.sampled_from(["left", "right"]))
def test_scores_do_not_depend_on_batches_order_or_padding(
    kind: str, pooling: Any, tokens_per_batch: int, seed: int, side: str, tiny_models: Callable[..., Path]
) -> None:
    model = _cached(tiny_models(kind))
    model.tokenizer.padding_side = side
    prompts, responses = mixed_texts()
    alone = model.features(model.encode(prompts, responses), pooling=pooling, tokens_per_batch=1)
    order = np.random.default_rng(seed).permutation(len(prompts))
    shuffled = model.encode([prompts[i] for i in order], [responses[i] for i in order])
    features, rewards = model.features(shuffled, pooling=pooling, tokens_per_batch=tokens_per_batch)
    torch.testing.assert_close(features, alone[0][order], **EXACT)
    torch.testing.assert_close(rewards, alone[1][order], **EXACT)


_loaded: dict[Path, RewardModel] = {}


def _cached(folder: Path) -> RewardModel:
    return _loaded.setdefault(folder, RewardModel.from_pretrained(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_are_the_head_on_the_features(kind: str, tiny_models: Callable[..., Path]) -> None:
    model = RewardModel.from_pretrained(tiny_models(kind))
    prompts, responses = mixed_texts(8)
    features, rewards = model.features(model.encode(prompts, responses))
    assert features.shape == (8, model.feature_size)
    assert features.dtype == rewards.dtype == torch.float32
    bias = 0.0 if model.head.bias is None else model.head.bias.item()
    torch.testing.assert_close(rewards, features @ model.head.weight.detach()[0] + bias, **EXACT)


def test_mean_pooling_averages_the_last_states(tiny_models: Callable[..., Path]) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"))
    encoded = model.encode(["apple pear"], ["plum river stone"])
    features, _ = model.features(encoded, pooling="mean")
    plain: Any = model.model
    with torch.no_grad():
        states = plain.model(input_ids=torch.tensor(encoded.input_ids)).last_hidden_state
    torch.testing.assert_close(features, states.mean(1), **EXACT)


def test_gradients_flow_through_forward(tiny_models: Callable[..., Path]) -> None:
    model = RewardModel.from_pretrained(tiny_models("bert"))
    batch = next(model.batches(model.encode(*mixed_texts(3))))
    _, rewards = model.forward(batch)
    rewards.sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.model.named_parameters() if "word" in name)


@pytest.mark.parametrize("kind", KINDS)
def test_new_head_values_are_what_transformers_loads(
    kind: str, tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    model = RewardModel.from_pretrained(tiny_models(kind))
    prompts, responses = mixed_texts(6)
    encoded = model.encode(prompts, responses)
    features, before = model.features(encoded)
    weight = torch.randn(model.feature_size, generator=torch.Generator().manual_seed(0))
    model.set_head(weight, 0.7)
    bias = 0.0 if model.head.bias is None else 0.7
    rewards = model.rewards(prompts, responses)
    torch.testing.assert_close(rewards, features @ weight + bias, **EXACT)
    assert not torch.allclose(rewards, before, atol=1e-2)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(plain_logits(tmp_path, encoded.input_ids, encoded.token_type_ids), rewards, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_scores_the_same(kind: str, tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    model = RewardModel.from_pretrained(tiny_models(kind))
    model.save_pretrained(tmp_path)
    texts = mixed_texts(6)
    torch.testing.assert_close(
        RewardModel.from_pretrained(tmp_path).rewards(*texts), model.rewards(*texts), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_scored_as_they_are_cut(kind: str, tiny_models: Callable[..., Path]) -> None:
    model = RewardModel.from_pretrained(tiny_models(kind))
    assert model.max_length == 128
    encoded = model.encode(["apple " * 300, "pear"], ["plum", "river " * 300])
    assert encoded.lengths.tolist() == [128, 128]
    assert encoded.truncated.tolist() == [False, True]
    rewards = model.features(encoded)[1]
    torch.testing.assert_close(
        rewards, plain_logits(tiny_models(kind), encoded.input_ids, encoded.token_type_ids), **EXACT
    )


def test_decoder_without_padding_token_pads_with_end_of_text(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    """As GPT-2 comes: no padding token in tokenizer or configuration."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_models("gpt2"))
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_models("gpt2"))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = RewardModel.from_pretrained(tmp_path)
    assert loaded.config.pad_token_id == tokenizer.eos_token_id
    prompts, responses = mixed_texts(8)
    alone = torch.cat([loaded.rewards([p], [r]) for p, r in zip(prompts, responses, strict=True)])
    torch.testing.assert_close(loaded.rewards(prompts, responses), alone, **EXACT)
    # By Transformers' rule the padding token does not count as the last: the token before it is read.
    ids = [row[:-1] for row in loaded.encode(prompts, responses).input_ids]
    torch.testing.assert_close(alone, plain_logits(tmp_path, ids, None), **EXACT)


def test_negative_padding_id_of_old_llama_checkpoints_is_none(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_models("llama"))
    expected = RewardModel.from_pretrained(tiny_models("llama")).rewards(*mixed_texts(6))
    model.config.pad_token_id = -1
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_models("llama")).save_pretrained(tmp_path)
    torch.testing.assert_close(RewardModel.from_pretrained(tmp_path).rewards(*mixed_texts(6)), expected, **EXACT)


def test_tokenizer_that_can_pad_with_nothing_is_refused(tiny_models: Callable[..., Path]) -> None:
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_models("llama"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_models("llama"))
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither a padding nor an end-of-text token"):
        RewardModel(plain, tokenizer)


def test_nothing_to_score(tiny_models: Callable[..., Path]) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"))
    assert model.rewards([], []).shape == (0,)
    assert model.features(model.encode([], []))[0].shape == (0, 32)


def test_progress_goes_to_standard_error(tiny_models: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"))
    with progress_bar("Reading texts", 4, unit="texts") as advance:
        model.features(model.encode(*mixed_texts(4)), tokens_per_batch=64, advance=advance)
    out, err = capfd.readouterr()
    assert out == ""
    assert "4/4" in err
    assert "texts/s" in err
    with progress_bar("Reading texts", None, enabled=False) as advance:
        model.features(model.encode(*mixed_texts(4)), advance=advance)
    assert capfd.readouterr() == ("", "")
