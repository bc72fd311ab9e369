"""The last linear layer of a reward model, and the features it reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prudent.errors import ModelError

__all__ = ["Pooling", "capture_head_input", "find_backbone", "find_head", "pool_features"]

Pooling = Literal["head", "mean"]
"""What the head reads: `head` is the model's own choice (last token of a decoder, pooled first token of an encoder);
`mean` is the average of the last hidden states over the text's tokens, as sentence encoders are trained."""


def find_head(model: nn.Module, adapter: str | None = None) -> nn.Linear:
    """The last linear layer with one output, in its trained version where PEFT keeps two.

    Args:
        model: a sequence-classification model with one output, plain or with PEFT adapters.
        adapter: whose head it is, of a model with several adapters.

    Returns:
        The layer itself: changing its weight changes the model.

    Raises:
        ModelError: there is none, or an adapter sits on it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = list(model.named_modules())
    # What lies within an adapted layer (its base, its low-rank factors) is part of that layer.
    adapted = tuple(name + "." for name, module in modules if isinstance(module, BaseTunerLayer))
    heads = [
        (name, module)
        for name, module in modules
        if isinstance(module, nn.Linear | BaseTunerLayer)
        and getattr(module, "out_features", None) == 1
        and "original_module" not in name
        and not name.startswith(adapted)
        and (adapter is None or f".modules_to_save.{adapter}." in f"{name}." or ".modules_to_save." not in name)
    ]
    if not heads:
        raise ModelError(f"{type(model).__name__} has no linear layer with one output to read rewards from")
    name, head = heads[-1]
    if not isinstance(head, nn.Linear):
        raise ModelError(f"an adapter sits on the reward head {name}; merge it, or train the head by modules_to_save")
    return head


def find_backbone(model: nn.Module) -> nn.Module:
    """The transformer under the head: called on token ids it returns `last_hidden_state`."""
    wrapped: Any = model
    classifier = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    backbone = getattr(classifier, classifier.base_model_prefix, None)
    if not isinstance(backbone, nn.Module):
        raise ModelError(f"{type(classifier).__name__} has no transformer named {classifier.base_model_prefix!r}")
    return backbone


@contextmanager
def capture_head_input(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Collect what enters the head while the block runs: tensors `[b, H]` or `[b, T, H]`."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        hook.remove()


def pool_features(hidden: Tensor, inputs: dict[str, Tensor], pad_token_id: int | None, pooling: Pooling) -> Tensor:
    """One float32 feature vector a text.

    Args:
        hidden: `[b, T, H]` states of all tokens, or `[b, H]` already pooled by the model.
        inputs: the model's inputs, `input_ids` and `attention_mask` `[b, T]`.
        pad_token_id: the model's padding token.
        pooling: `head` takes the last token that is not padding, by the rule of Transformers' classifiers
            (the right-most token unlike the padding token); `mean` averages over the attention mask.

    Returns:
        `[b, H]` float32 (float64 of a float64 model).
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    if hidden.dim() == 2:
        return hidden.to(dtype)
    if pooling == "mean":
        mask = inputs["attention_mask"].unsqueeze(-1).to(dtype)
        total: Tensor = (hidden.to(dtype) * mask).sum(1)
        return total / mask.sum(1)
    ids = inputs["input_ids"]
    positions = torch.arange(ids.shape[1], device=ids.device)
    last = (positions * (ids != pad_token_id)).argmax(-1)
    return hidden[torch.arange(len(ids), device=hidden.device), last].to(dtype)
