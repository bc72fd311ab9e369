"""LoRA reward models with drawn adapters, preferences for them, and the reference they are checked against."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from prudent.models import RewardModel

TARGETS = {
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
}


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """`lora_reference.py` beside this file; test files are no package, so it is loaded by its place."""
    spec = importlib.util.spec_from_file_location("lora_reference", Path(__file__).parent / "lora_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lora_reference"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def lora_folders(tiny_models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make (once) the folder of a LoRA reward model: `lora_folders("llama", r=2, use_rslora=True)`, B drawn by a seed.

    Further keywords are those of `peft.LoraConfig`; `zero_b=True` leaves the adapters as PEFT starts them; seeds other
    than 1 also move the head.
    """
    made: dict[str, Path] = {}

    def make(kind: str, *, r: int = 2, zero_b: bool = False, seed: int = 1, **options: Any) -> Path:
        key = repr((kind, r, zero_b, seed, sorted(options.items())))
        if key not in made:
            made[key] = _write_adapter(
                tiny_models(kind), tmp_path_factory.mktemp(f"lora-{kind}"), kind, r, zero_b, seed, options
            )
        return made[key]

    return make


def _write_adapter(
    base: Path, folder: Path, kind: str, r: int, zero_b: bool, seed: int, options: dict[str, Any]
) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    classifier = AutoModelForSequenceClassification.from_pretrained(base)
    given = {"lora_alpha": 8, "lora_dropout": 0.1, "target_modules": TARGETS[kind], "task_type": "SEQ_CLS", **options}
    torch.manual_seed(0)
    adapted = get_peft_model(classifier, LoraConfig(r=r, fan_in_fan_out=kind == "gpt2", **given))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name and not zero_b:
                parameter.normal_(std=0.1, generator=generator)
            if seed != 1 and "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lora_model(lora_folders: Callable[..., Path]) -> Callable[..., RewardModel]:
    """A freshly loaded LoRA reward model, in float64 unless `dtype` says otherwise."""

    def load(kind: str, *, dtype: torch.dtype = torch.float64, **options: Any) -> RewardModel:
        model = RewardModel.from_pretrained(lora_folders(kind, **options))
        model.model.to(dtype)
        return model

    return load


@pytest.fixture(scope="session")
def lora_pairs() -> list[dict[str, Any]]:
    """Twelve pairs of mixed lengths; one response stands in three pairs, another is chosen once and rejected once."""
    return make_pairs(12)


@pytest.fixture(scope="session")
def many_pairs() -> list[dict[str, Any]]:
    """Some three hundred pairs of the same kind."""
    return [row for row in make_pairs(300, seed=5) if row["chosen"] != row["rejected"]]


@pytest.fixture(scope="session")
def lora_texts() -> tuple[list[str], list[str]]:
    """Prompts and responses not fitted on: six responses to each of two prompts."""
    generator = np.random.default_rng(7)
    prompts = ["tell me about the river"] * 6 + ["name a fruit please"] * 6
    return prompts, [sentence(generator) for _ in prompts]


def make_pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    rows = [
        {
            "prompt": f"tell me about {sentence(generator, 3)}",
            "chosen": sentence(generator),
            "rejected": sentence(generator),
        }
        for _ in range(count)
    ]
    if count > 4:
        for row in rows[1:4]:
            row["prompt"] = rows[1]["prompt"]
        rows[2]["chosen"] = rows[1]["chosen"]
        rows[3]["rejected"] = rows[1]["chosen"]
    return rows


def sentence(generator: np.random.Generator, longest: int = 14) -> str:
    words = (
        "apple",
        "pear",
        "river",
        "stone",
        "bird",
        "sings",
        "sunny",
        "warm",
        "cold",
        "rainy",
        "one",
        "two",
        "house",
    )
    return " ".join(generator.choice(words, int(generator.integers(1, longest + 1))))
