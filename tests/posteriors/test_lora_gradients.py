"""Per-example gradients from one backward of a padded batch against autograd, text by text."""

import pytest
import torch

from prudent.errors import UnsupportedError
from prudent.posteriors._blocks import find_blocks, held_fixed
from prudent.posteriors._gradients import RewardGradients, weight_gradients

CASES = [
    ("llama", {}),
    ("llama", {"use_rslora": True, "r": 3, "target_modules": "all-linear"}),
    ("bert", {"modules_to_save": ["classifier", "pooler"]}),
    ("bert", {"target_modules": ["query", "dense"], "bias": "lora_only"}),
    ("roberta", {}),
    ("gpt2", {"r": 4}),
    ("gpt2", {"lora_bias": True}),
    ("qwen2", {}),
]


def batch_gradients(model, encoded, tokens_per_batch=None):
    """Rewards `[N]` and by block `[N, m, n]`, in the order of the texts."""
    blocks = find_blocks(model)
    rewards = torch.empty(len(encoded), dtype=torch.float64)
    found = [torch.empty(len(encoded), *block.shape, dtype=torch.float64) for block in blocks]
    with RewardGradients(model, blocks) as gradients:
        for batch in model.batches(encoded, tokens_per_batch=tokens_per_batch):
            rewards[batch.index] = gradients.forward(batch).double()

            def consume(block, inputs, gradient, batch=batch):
                found[block][batch.index] = weight_gradients(blocks[block], inputs, gradient).double()

            gradients.backward(consume)
    return blocks, rewards, found


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_gradients_are_those_of_autograd(kind, options, reference, lora_model, lora_texts):
    model = lora_model(kind, **options)
    encoded = model.encode(*lora_texts)
    expected_blocks = reference.parameter_blocks(model.model)
    expected_rewards, jacobian = reference.gradients(model.model, expected_blocks, encoded)
    blocks, rewards, found = batch_gradients(model, encoded)
    torch.testing.assert_close(rewards, expected_rewards, rtol=1e-6, atol=1e-6)
    by_module = {id(block.module): gradient for block, gradient in zip(blocks, found, strict=True)}
    assert by_module.keys() == {id(block.module) for block in expected_blocks}
    assert blocks[-1].is_head
    pieces = reference.named_gradients(expected_blocks, jacobian)
    for block, (name, expected) in zip(expected_blocks, pieces, strict=True):
        assert expected.abs().max() > 0, name
        scale = float(expected.abs().max())
        torch.testing.assert_close(by_module[id(block.module)], expected, rtol=1e-6, atol=1e-6 * scale, msg=name)


def test_the_weights_left_out_are_named(lora_model):
    model = lora_model("bert", modules_to_save=["classifier", "embeddings.LayerNorm"], bias="lora_only")
    place = "base_model.model.bert.embeddings.LayerNorm"
    biases = "the biases trained along (bias='lora_only')"
    assert held_fixed(model, find_blocks(model)) == [f"{place}.weight", f"{place}.bias", biases]
    plain = lora_model("bert")
    assert held_fixed(plain, find_blocks(plain)) == []


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_float32_batches_of_any_size_give_the_same(kind, lora_model, lora_texts):
    model = lora_model(kind, dtype=torch.float32)
    encoded = model.encode(*lora_texts)
    _, _, whole = batch_gradients(model, encoded)
    _, _, single = batch_gradients(model, encoded, tokens_per_batch=1)
    for first, second in zip(whole, single, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5 * float(first.abs().max()))


def test_gradient_checkpointing_and_training_mode_change_nothing_and_are_left_as_they_were(lora_model, lora_texts):
    plain = lora_model("llama")
    expected = batch_gradients(plain, plain.encode(*lora_texts))[2]
    model = lora_model("llama")
    model.model.gradient_checkpointing_enable()
    model.model.train()
    learning = {name for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    found = batch_gradients(model, model.encode(*lora_texts))[2]
    for first, second in zip(found, expected, strict=True):
        assert torch.equal(first, second)
    assert model.model.training
    assert {name for name, parameter in model.model.named_parameters() if parameter.requires_grad} == learning
    assert all(parameter.grad is None for parameter in model.model.parameters())


def _one_backward(model, blocks, encoded, consume):
    with RewardGradients(model, blocks) as gradients:
        gradients.forward(next(iter(model.batches(encoded))))
        gradients.backward(consume)


def test_the_model_is_as_it_was_after_an_error(lora_model, lora_texts):
    model = lora_model("llama")
    encoded = model.encode(*lora_texts)
    model.model.train()
    blocks = find_blocks(model)

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _one_backward(model, blocks, encoded, fail)
    assert model.model.training
    assert not any(block.module._forward_hooks for block in blocks)


def test_a_layer_used_twice_is_refused(lora_model, lora_texts):
    model = lora_model("llama")
    layers = model.model.get_base_model().model.layers
    layers[1].self_attn.q_proj = layers[0].self_attn.q_proj
    blocks = find_blocks(model)
    with pytest.raises(UnsupportedError, match="used twice"), RewardGradients(model, blocks) as gradients:
        gradients.forward(next(iter(model.batches(model.encode(*lora_texts)))))


def test_a_layer_that_takes_no_part_is_refused(lora_model, lora_texts):
    model = lora_model("bert", target_modules=["query", "value"], modules_to_save=["classifier", "pooler"])
    blocks = find_blocks(model)
    layer = model.model.get_base_model().bert.encoder.layer[0].attention.self
    layer.query.forward = layer.query.base_layer.forward
    with pytest.raises(UnsupportedError, match=r"query.*takes no part"), RewardGradients(model, blocks) as gradients:
        gradients.forward(next(iter(model.batches(model.encode(*lora_texts)))))
