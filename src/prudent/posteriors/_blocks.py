"""The weights that a LoRA posterior is about: adapter matrices, the reward head, and linear layers trained in full."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prudent.errors import PosteriorError, UnsupportedError
from prudent.models import RewardModel

__all__ = ["LinearBlock", "find_blocks", "held_fixed"]


@dataclass(frozen=True)
class LinearBlock:
    """One linear layer whose weight has a posterior.

    Attributes:
        name: of the module within the model.
        module: the layer itself.
        is_head: the reward head. Its bias moves all rewards alike, so no pair tells anything about it: it is left out.
    """

    name: str
    module: nn.Linear
    is_head: bool = False

    @property
    def has_bias(self) -> bool:
        """The bias belongs to the block, as a last column of its weight."""
        return self.module.bias is not None and not self.is_head

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the layer, the bias being one more input."""
        return self.module.out_features, self.module.in_features + int(self.has_bias)

    def value(self) -> Tensor:
        """The weights as they are, `shape`, float64 on CPU."""
        weight = self.module.weight.detach().double().cpu()
        return (
            torch.cat([weight, self.module.bias.detach().double().cpu().unsqueeze(1)], 1) if self.has_bias else weight
        )


def find_blocks(model: RewardModel) -> list[LinearBlock]:
    """The blocks of a LoRA reward model: matrices A and B of adapted layers, linear layers trained in full, the head.

    Args:
        model: a reward model with one active LoRA adapter, made by prudent or not.

    Returns:
        Blocks in the order of the model, the head last.

    Raises:
        PosteriorError: there is no adapter, or it has no LoRA layer.
        UnsupportedError: DoRA or another variant, another kind of adapter, several active ones, one that is merged, or
            LoRA on a layer that is not linear.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapter = _active_adapter(model)
    blocks: list[LinearBlock] = []
    for name, module in model.model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        if not isinstance(module, LoraLayer):
            raise UnsupportedError(
                f"{name} carries {type(module).__name__}, not LoRA; only LoRA layers have a posterior"
            )
        layer: Any = module
        if adapter in layer.lora_embedding_A:
            raise UnsupportedError(f"{name} is an embedding with LoRA; only LoRA on linear layers has a posterior")
        if adapter not in layer.lora_A:
            continue
        if layer.merged or layer.disable_adapters:
            raise UnsupportedError(
                f"the adapter of {name} is merged or switched off; load the model with its adapter on"
            )
        if adapter in getattr(layer, "lora_variant", {}) or getattr(layer, "use_dora", {}).get(adapter):
            raise UnsupportedError(
                f"{name} has DoRA or another variant of LoRA; a posterior needs plain LoRA or rsLoRA"
            )
        for part in ("lora_A", "lora_B"):
            matrix = getattr(layer, part)[adapter]
            if not isinstance(matrix, nn.Linear):
                raise UnsupportedError(f"{name}.{part} is {type(matrix).__name__}; only LoRA on linear layers is known")
            blocks.append(LinearBlock(f"{name}.{part}", matrix))
    if not blocks:
        raise PosteriorError("the adapter has no LoRA layer; use posterior 'last_layer', or train with LoRA first")
    for name, module in _trained_in_full(model, adapter):
        if isinstance(module, nn.Linear) and module is not model.head:
            blocks.append(LinearBlock(name, module))
    blocks.append(LinearBlock("head", model.head, is_head=True))
    return blocks


def held_fixed(model: RewardModel, blocks: list[LinearBlock]) -> list[str]:
    """Names of weights that were trained with the adapter and that the posterior takes as known."""
    adapter = _active_adapter(model)
    within = {id(parameter) for block in blocks for parameter in block.module.parameters()}
    fixed = [
        f"{name}.{own}" if own else name
        for name, module in _trained_in_full(model, adapter)
        for own, parameter in module.named_parameters(recurse=False)
        if id(parameter) not in within
    ]
    biases: Any = model.model
    if biases.peft_config[adapter].bias != "none":
        fixed.append(f"the biases trained along (bias={biases.peft_config[adapter].bias!r})")
    return fixed


def _active_adapter(model: RewardModel) -> str:
    wrapped: Any = model.model
    if not hasattr(wrapped, "peft_config"):
        raise PosteriorError(
            "the model has no LoRA adapter, and this posterior is about LoRA weights; use posterior 'last_layer', or "
            "train with LoRA"
        )
    model.activate()
    active = wrapped.active_adapters
    active = active() if callable(active) else active
    if len(active) != 1:
        raise UnsupportedError(f"{len(active)} adapters are active ({', '.join(active)}); a posterior is about one")
    adapter = str(active[0])
    kind = wrapped.peft_config[adapter].peft_type
    if str(getattr(kind, "value", kind)) != "LORA":
        raise UnsupportedError(f"the adapter is {getattr(kind, 'value', kind)}; only LoRA (or rsLoRA) has a posterior")
    return adapter


def _trained_in_full(model: RewardModel, adapter: str) -> list[tuple[str, nn.Module]]:
    """Modules within what PEFT trained and saved in full, in their trained version."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.model.named_modules():
        trained: Any = getattr(module, "modules_to_save", None)
        if isinstance(trained, nn.ModuleDict) and adapter in trained:
            found += [(f"{name}.{own}" if own else name, part) for own, part in trained[adapter].named_modules()]
    return found
