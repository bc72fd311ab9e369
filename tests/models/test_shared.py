"""Adapters of one base: their common lower layers run once, and nothing changes by that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prudent.models import RewardModel, SharedLayers, add_lora, load_reward_models, rewards_of_each, tokenizer_hash

TEXTS = (
    ["name a fruit"] * 3 + ["tell me about the river"] * 2,
    ["apple", "pear", "one two", "cold water", "it is warm"],
)


def adapter(base: Path, folder: Path, seed: int, **options: Any) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    classifier = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = get_peft_model(classifier, LoraConfig(r=2, task_type="SEQ_CLS", **options))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "options", "shared"),
    [
        ("llama", {"target_modules": ["q_proj", "v_proj"]}, 0),
        ("llama", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}, 1),
        ("bert", {"target_modules": ["query"], "layers_to_transform": [1]}, 1),
        (
            "gpt2",
            {"target_modules": ["c_attn"], "layers_to_transform": [1], "layers_pattern": "h", "fan_in_fan_out": True},
            1,
        ),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"], "layers_to_transform": None}, 0),
    ],
)
def test_layers_below_the_adapters_run_once_and_rewards_stay(
    kind: str, options: dict[str, Any], shared: int, tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [adapter(tiny_models(kind), tmp_path / str(seed), seed, **options) for seed in range(3)]
    models = load_reward_models(folders)
    encoded = models[0].encode(*TEXTS)
    stack = next(module for module in models[0].model.modules() if isinstance(module, torch.nn.ModuleList))
    calls: list[int] = []
    hooks = [
        part.register_forward_hook(lambda *_: calls.append(1))
        for part in stack[0].modules()
        if isinstance(part, torch.nn.LayerNorm) or "RMSNorm" in type(part).__name__
    ]
    with SharedLayers(models) as context:
        assert context.count == shared
    found = rewards_of_each(models, encoded, tokens_per_batch=16)
    batches = len(list(models[0].batches(encoded, tokens_per_batch=16)))
    assert batches > 1
    assert len(calls) == len(hooks) * batches * (1 if shared else 3)
    for hook in hooks:
        hook.remove()
    assert "forward" not in vars(stack[0])
    for place, folder in enumerate(folders):
        alone = RewardModel.from_pretrained(folder).rewards(*TEXTS)
        torch.testing.assert_close(found[:, place], alone, rtol=1e-5, atol=1e-5)
    assert (found.var(1) > 1e-4).all()


def test_models_that_share_nothing_load_side_by_side(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    one = adapter(tiny_models("llama"), tmp_path / "one", 1, target_modules=["q_proj"])
    biased = adapter(tiny_models("llama"), tmp_path / "biased", 2, target_modules=["q_proj"], bias="all")
    models = load_reward_models([one, biased, tiny_models("bert"), tiny_models("llama")])
    assert len({id(model.model) for model in models}) == 4
    for model, folder in zip(models, [one, biased, tiny_models("bert"), tiny_models("llama")], strict=True):
        assert torch.equal(model.rewards(*TEXTS), RewardModel.from_pretrained(folder).rewards(*TEXTS))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "bert", "roberta"])
def test_adapters_on_the_upper_half_leave_the_lower_half_alone(kind: str, tiny_models: Callable[..., Path]) -> None:
    model = RewardModel.from_pretrained(tiny_models(kind))
    names = [
        name
        for name, _ in add_lora(model.model, rank=2, alpha=4, dropout=0.0, upper_half=True).named_parameters()
        if ".lora_A." in name
    ]
    assert names
    assert all(".1." in name and ".0." not in name for name in names)  # two layers


def test_a_dozen_adapters_keep_their_own_heads(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    """`adapter_1` is not `adapter_10`."""
    folders = [
        adapter(tiny_models("llama"), tmp_path / str(seed), seed, target_modules=["q_proj"]) for seed in range(12)
    ]
    models = load_reward_models(folders)
    found = rewards_of_each(models, models[0].encode(*TEXTS))
    alone = torch.stack([RewardModel.from_pretrained(folder).rewards(*TEXTS) for folder in folders], 1)
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_embeddings_of_their_own_are_below_all_layers(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    """GPT-2 calls its embedding wte."""
    options = {"target_modules": ["c_attn"], "layers_to_transform": [1], "layers_pattern": "h", "fan_in_fan_out": True}
    folders = [
        adapter(tiny_models("gpt2"), tmp_path / str(seed), seed, modules_to_save=["wte", "score"], **options)
        for seed in range(2)
    ]
    models = load_reward_models(folders)
    with SharedLayers(models) as context:
        assert context.count == 0
    found = rewards_of_each(models, models[0].encode(*TEXTS))
    alone = torch.stack([RewardModel.from_pretrained(folder).rewards(*TEXTS) for folder in folders], 1)
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_fingerprint_does_not_depend_on_the_company(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    """Other adapters rename weights of the base that this one leaves alone."""
    folders = [
        adapter(tiny_models("bert"), tmp_path / "all", 0, target_modules=["query", "value"]),
        adapter(tiny_models("bert"), tmp_path / "upper", 1, target_modules=["query"], layers_to_transform=[1]),
        adapter(tiny_models("bert"), tmp_path / "pooler", 2, target_modules=["key"], modules_to_save=["pooler"]),
    ]
    models = load_reward_models(folders)
    assert len({id(model.model) for model in models}) == 1
    alone = [RewardModel.from_pretrained(folder).fingerprint() for folder in folders]
    assert len(set(alone)) == 3
    assert [model.fingerprint() for model in models] == alone


def test_an_adapter_that_rewrites_the_base_has_it_to_itself(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    plain = adapter(tiny_models("llama"), tmp_path / "plain", 0, target_modules=["q_proj"])
    rewriting = adapter(
        tiny_models("llama"), tmp_path / "pissa", 1, target_modules=["q_proj"], init_lora_weights="pissa"
    )
    models = load_reward_models([plain, rewriting, plain])
    assert models[0].model is models[2].model
    assert models[1].model is not models[0].model
    torch.testing.assert_close(models[0].rewards(*TEXTS), RewardModel.from_pretrained(plain).rewards(*TEXTS))


def test_tokenizers_that_give_models_other_inputs_are_told_apart(tiny_models: Callable[..., Path]) -> None:
    tokenizer = RewardModel.from_pretrained(tiny_models("bert")).tokenizer
    same = tokenizer_hash(tokenizer)
    tokenizer("a text", padding="max_length", truncation=True, max_length=8)
    assert tokenizer_hash(tokenizer) == same
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert tokenizer_hash(tokenizer) != same
    again = RewardModel.from_pretrained(tiny_models("bert")).tokenizer
    again.sep_token = "<cls>"
    assert tokenizer_hash(again) != same
