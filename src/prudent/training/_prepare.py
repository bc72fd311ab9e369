"""A model made ready for training: loaded, given adapters or not, and told which weights learn."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from prudent.errors import ModelError
from prudent.models import RewardModel, TextEncoder, add_lora, find_head
from prudent.training._config import TrainingConfig

__all__ = ["base_name", "load_for_training", "prepare_model", "restore_dtypes"]


def load_for_training(
    model: str | Path | RewardModel, config: TrainingConfig, *, device: torch.device, bf16: bool
) -> RewardModel:
    """The model in memory, with the dtype that training wants.

    Weights that learn are float32, always. Frozen ones under bfloat16 autocast keep the dtype of their checkpoint,
    which is what fits a large base model on one accelerator.
    """
    if isinstance(model, RewardModel):
        if config.max_length is not None:
            model.encoder = TextEncoder(model.tokenizer, config.max_length)
        return model
    return RewardModel.from_pretrained(
        model,
        dtype="auto" if bf16 and config.lora and device.type != "cpu" else torch.float32,
        device=device,
        max_length=config.max_length,
        seed=config.seed,
    )


def prepare_model(model: RewardModel, config: TrainingConfig, *, bf16: bool) -> list[tuple[nn.Parameter, torch.dtype]]:
    """Choose the weights that learn: an adapter that is there already, a new one, or all (merging what is there).

    They become float32, and without autocast so do all others.

    Returns:
        The parameters whose dtype was changed though others of the model keep theirs, with that dtype.

    Raises:
        ModelError: the base of a LoRA model is in memory only, so that its adapter could never be loaded again.
    """
    classifier: Any = model.model
    adapted = hasattr(classifier, "peft_config")
    if config.lora and not adapted:
        _lasting_name(classifier.name_or_path)
        torch.manual_seed(config.seed)
        adapted = True
        classifier = add_lora(
            classifier,
            rank=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            upper_half=config.lora_layers == "upper_half",
            new_modules=model.new_modules,
        )
    elif config.lora:
        classifier.set_adapter(classifier.active_adapter)
    elif adapted:
        classifier = classifier.merge_and_unload()
        adapted = False
    if adapted:
        adapter = classifier.peft_config[classifier.active_adapter]
        adapter.base_model_name_or_path = _lasting_name(adapter.base_model_name_or_path)
    else:
        classifier.requires_grad_(True)
    if not bf16:
        classifier.float()
    changed = [(p, p.dtype) for p in classifier.parameters() if p.requires_grad and p.dtype != torch.float32]
    for parameter, _ in changed:
        parameter.data = parameter.data.float()
    if config.gradient_checkpointing:
        # The form that needs no input with a gradient, which a frozen embedding under LoRA has not.
        non_reentrant = {"use_reentrant": False}
        if hasattr(classifier, "activation_checkpointing_enable"):
            classifier.activation_checkpointing_enable(activation_checkpointing_kwargs=non_reentrant)
        else:
            classifier.gradient_checkpointing_enable(gradient_checkpointing_kwargs=non_reentrant)
    model.model = classifier
    model.head = find_head(classifier)
    return changed


def restore_dtypes(changed: list[tuple[nn.Parameter, torch.dtype]]) -> None:
    """Bring trained weights back to the dtype of the others, for inference without autocast."""
    for parameter, dtype in changed:
        parameter.data = parameter.data.to(dtype)


def base_name(model: str | Path | RewardModel, loaded: RewardModel) -> str:
    """What training started from, in words that last."""
    name = (loaded.config.name_or_path or "a model in memory") if isinstance(model, RewardModel) else str(model)
    return str(Path(name).resolve()) if Path(name).exists() else name


def _lasting_name(base: str | None) -> str:
    """A hub name as it is, a folder by its absolute path, so that the adapter finds its base from anywhere."""
    if not base:
        raise ModelError(
            "the base model is in memory only, and an adapter saved without it could not be loaded; "
            "save it and load it by from_pretrained first, or train in full with lora=False"
        )
    return str(Path(base).resolve()) if Path(base).exists() else base
