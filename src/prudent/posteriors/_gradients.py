"""Gradients of each text's reward, from one backward pass of the summed rewards.

Every text's reward depends on its own row of the batch alone, so the gradient of the sum with respect to a layer's
output holds each text's own gradient in its rows. The layer's weight gradient of a text is then the product of that
with the layer's input, summed over tokens. Nothing loops over texts, no weight gradient of the sum is computed, and
what a layer gave is freed before the next layer's turn.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from prudent.errors import UnsupportedError
from prudent.models import Batch, RewardModel
from prudent.posteriors._blocks import LinearBlock

__all__ = ["Consume", "RewardGradients", "each_gradient", "gradient_tokens_per_batch", "weight_gradients"]

Consume = Callable[[int, Tensor, Tensor], None]
"""Takes the number of a block, its inputs `[b, T, n]` and the gradients at its outputs `[b, T, m]`."""


def gradient_tokens_per_batch(model: RewardModel, tokens_per_batch: int | None) -> int:
    """Padded tokens of a batch that also goes backward, whose activations are all kept: fewer than without."""
    return tokens_per_batch or (4_096 if model.device.type == "cpu" else 8_192)


class _Float32Attention(TorchFunctionMode):
    """Attention in float32 within a bfloat16 model.

    On CPU torch's bfloat16 attention goes backward two to three times slower than the float32 one, casts included;
    it took half of the time of reading texts with their gradients.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Cast what goes into scaled_dot_product_attention and what comes out of it; leave all else alone."""
        options = kwargs or {}
        if func is not scaled_dot_product_attention or args[0].dtype != torch.bfloat16:
            return func(*args, **options)
        wide = [part.float() if _is_bfloat16(part) else part for part in args]
        options = {name: part.float() if _is_bfloat16(part) else part for name, part in options.items()}
        return func(*wide, **options).to(torch.bfloat16)


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16


class RewardGradients:
    """A context in which a model gives, batch by batch, inputs and output gradients of its blocks.

    Args:
        model: the reward model; left as it was at the end.
        blocks: from `find_blocks`, the head last.
    """

    def __init__(self, model: RewardModel, blocks: Sequence[LinearBlock]) -> None:
        self._model = model
        self._blocks = blocks
        self._handles: list[Any] = []
        self._total: Tensor | None = None
        self._features: Tensor | None = None
        self._consume: Consume | None = None
        self._used: set[int] = set()
        self._size = 0
        # Gradients of float16 layers would underflow.
        half = any(block.module.weight.dtype == torch.float16 for block in blocks)
        self._scale = 1024.0 if half else 1.0

    def __enter__(self) -> Self:
        module = self._model.model
        self._learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._was_training = module.training
        module.eval()
        for parameter in self._learning:
            parameter.requires_grad_(False)
        for index, block in enumerate(self._blocks):
            if not block.is_head:
                hook = self._hook(index, block)
                self._handles.append(block.module.register_forward_hook(hook))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for parameter in self._learning:
            parameter.requires_grad_(True)
        self._model.model.train(self._was_training)
        self._total = self._features = self._consume = None

    def forward(self, batch: Batch) -> Tensor:
        """Rewards `[b]` of a batch; what `backward` needs is kept until it is called."""
        self._used.clear()
        self._size = len(batch)
        attention = _Float32Attention() if self._model.device.type == "cpu" else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), attention:
            features, rewards = self._model.forward(batch)
            self._total = rewards.sum() * self._scale
        self._features = features.detach()
        idle = [block.name for index, block in enumerate(self._blocks) if not block.is_head and index not in self._used]
        if idle:
            raise UnsupportedError(f"{idle[0]} takes no part in the forward pass; its weights have no gradient")
        return rewards.detach()

    def backward(self, consume: Consume) -> None:
        """One backward pass of the summed rewards; `consume` is called once a block, the head first."""
        if self._total is None or self._features is None:
            raise ValueError("backward needs a forward before it")
        features = self._features.unsqueeze(1)
        consume(len(self._blocks) - 1, features, torch.ones_like(features[:, :, :1]))
        self._consume = consume
        with torch.inference_mode(False):
            self._total.backward()  # type: ignore[no-untyped-call]
        self._total = self._features = self._consume = None

    def _hook(self, index: int, block: LinearBlock) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def seen(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            inputs = arguments[0].detach()
            if index in self._used:
                raise UnsupportedError(f"{block.name} is used twice in a forward pass; shared layers are not supported")
            if len(inputs) != self._size or inputs.dim() not in (2, 3):
                raise UnsupportedError(
                    f"{block.name} sees inputs of shape {list(inputs.shape)}, not one row a text; load the model with "
                    "attn_implementation='sdpa' and without packing"
                )
            self._used.add(index)
            if not output.requires_grad:
                # The first adapted layer: nothing below it needs a gradient, so the backward pass ends here.
                output.requires_grad_(True)
            output.register_hook(lambda gradient: self._seen(index, inputs, gradient))  # type: ignore[no-untyped-call]

        return seen

    def _seen(self, index: int, inputs: Tensor, gradient: Tensor) -> None:
        if self._consume is not None:
            if inputs.dim() == 2:
                inputs, gradient = inputs.unsqueeze(1), gradient.unsqueeze(1)
            # Layers of a model that is spread over several devices meet where the head is.
            place, dtype = self._model.device, torch.promote_types(gradient.dtype, torch.float32)
            gradient = gradient.detach().to(place, dtype)
            self._consume(index, inputs.to(place), gradient if self._scale == 1 else gradient / self._scale)


def weight_gradients(block: LinearBlock, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Each text's gradient of the reward with respect to a block's weight.

    Args:
        block: the layer.
        inputs: `[b, T, n]`.
        gradients: `[b, T, m]` at its outputs; zero where there is only padding.

    Returns:
        `[b, m, n]`, with one more column for a bias, float32 (float64 for a float64 model).
    """
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    outer = gradients.to(dtype).transpose(1, 2) @ inputs.to(dtype)
    return torch.cat([outer, gradients.to(dtype).sum(1).unsqueeze(2)], 2) if block.has_bias else outer


def each_gradient(blocks: Sequence[LinearBlock], joined: bool, take: Callable[[int, Tensor], None]) -> Consume:
    """A consumer that hands on the gradients of each text, `[b, m, n]`, block by block.

    Args:
        blocks: from `find_blocks`.
        joined: wait for all blocks and hand on all weights in a row, `[b, 1, P]`, as block 0.
        take: called with the number of the block and the gradients.
    """
    if not joined:
        return lambda index, inputs, gradients: take(index, weight_gradients(blocks[index], inputs, gradients))
    seen: dict[int, Tensor] = {}

    def gather(index: int, inputs: Tensor, gradients: Tensor) -> None:
        seen[index] = weight_gradients(blocks[index], inputs, gradients).flatten(1)
        if len(seen) == len(blocks):
            take(0, torch.cat([seen[place] for place in range(len(blocks))], 1).unsqueeze(1))

    return gather
