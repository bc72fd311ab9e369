"""Adapters of one base: their common lower layers run once, and nothing changes by that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prudent.models import RewardModel, SharedLayers, add_lora, load_reward_models, rewards_of_each

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
