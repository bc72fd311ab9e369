"""Reward models that the tests of this folder share."""

from pathlib import Path

import pytest
import torch

from prudent.posteriors import fit

PAIRS = [
    {"prompt": f"name a fruit {word}", "chosen": f"apple {word} yes", "rejected": f"{word} stone house"}
    for word in ("one", "two", "three", "four", "five", "six")
]


@pytest.fixture(scope="session")
def reward_models(tiny_models, tmp_path_factory) -> dict[str, Path]:
    """Folders: `plain` without a posterior, `helpful` and `harmless` with one, `heads` with members, `lora`."""
    folder = tmp_path_factory.mktemp("models")
    fit(tiny_models("llama"), PAIRS, folder / "helpful", progress=False)
    fit(tiny_models("bert"), PAIRS, folder / "harmless", progress=False)
    fit(tiny_models("llama"), PAIRS, folder / "heads", posterior="heads", num_members=4, progress=False)
    fit(_adapter(tiny_models("llama"), folder / "adapter"), PAIRS, folder / "lora", posterior="diag", progress=False)
    found = {name: folder / name for name in ("helpful", "harmless", "heads", "lora")}
    return {"plain": tiny_models("llama"), **found}


def _adapter(base: Path, folder: Path) -> Path:
    """A LoRA adapter on a reward model, its weights drawn by seed 0."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
