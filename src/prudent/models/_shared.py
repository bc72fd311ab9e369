"""Several reward models in one: adapters of one base take turns on it, and share the layers below the first of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from prudent.models._encoding import EncodedTexts
from prudent.models._loading import choose_device, load_adapters, load_tokenizer, shareable_base
from prudent.models._reward_model import RewardModel

__all__ = ["SharedLayers", "load_reward_models", "rewards_of_each"]

_ABOVE_LAYERS = frozenset({"score", "classifier", "pooler", "pre_classifier", "head", "norm", "ln_f"})
"""Names, in one architecture or another, of what reads the states of the last layer."""


def load_reward_models(
    names_or_paths: Sequence[str | Path],
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    max_length: int | None = None,
    seed: int = 0,
) -> list[RewardModel]:
    """Load reward models, those that are adapters of one base with one copy of that base in memory.

    Args:
        names_or_paths: folders or hub names, as for `RewardModel.from_pretrained`.
        dtype: of the weights; by default float32 on CPU and what the checkpoint says on an accelerator.
        device: by default an accelerator where there is one.
        max_length: tokens a text may have.
        seed: of new heads.

    Returns:
        The models in the order given. Those that share a base take turns: each puts its own adapter on before it reads.

    Raises:
        ModelError: one of them cannot be loaded.

    Example:
        >>> models = load_reward_models(["ensemble/member_0", "ensemble/member_1"])  # doctest: +SKIP
        >>> models[0].model is models[1].model  # doctest: +SKIP
        True
    """
    chosen = choose_device(device)
    names = [str(name) for name in names_or_paths]
    together: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        base = shareable_base(name)
        together.setdefault(f"alone {place}" if base is None else base, []).append(place)
    found: dict[int, RewardModel] = {}
    for places in together.values():
        if len(places) == 1:
            found[places[0]] = RewardModel.from_pretrained(
                names[places[0]], dtype=dtype, device=chosen, max_length=max_length, seed=seed
            )
            continue
        model, adapters = load_adapters([names[place] for place in places], dtype=dtype, device=chosen, seed=seed)
        for place, (adapter, new_modules) in zip(places, adapters, strict=True):
            tokenizer = load_tokenizer(names[place], revision=None)
            found[place] = RewardModel(
                model, tokenizer, max_length=max_length, new_modules=new_modules, adapter=adapter
            )
    return [found[place] for place in range(len(names))]


@torch.no_grad()
def rewards_of_each(
    models: Sequence[RewardModel],
    encoded: EncodedTexts,
    *,
    tokens_per_batch: int | None = None,
    advance: Callable[[int], None] = lambda amount: None,
) -> Tensor:
    """Rewards `[N, M]` float32 of texts by M models that share a base, whose common lower layers run once a batch.

    Args:
        models: from `load_reward_models`, with one copy of the base and the same tokens for a text.
        encoded: N texts.
        tokens_per_batch: padded tokens of a batch.
        advance: called with the number of texts done.
    """
    rewards = torch.empty(len(encoded), len(models))
    with SharedLayers(models) as shared:
        for batch in models[0].batches(encoded, tokens_per_batch=tokens_per_batch):
            shared.forget()
            for place, model in enumerate(models):
                rewards[batch.index, place] = model.forward(batch)[1].float().cpu()
            advance(len(batch))
    return rewards


class SharedLayers:
    """A context in which the layers below the first adapted one run once a batch, whichever adapter is on.

    Args:
        models: that share a base.
    """

    def __init__(self, models: Sequence[RewardModel]) -> None:
        self._layers = _layers_below_adapters(models)
        self._output: Any = None

    @property
    def count(self) -> int:
        """Layers that are shared."""
        return len(self._layers)

    def forget(self) -> None:
        """The next forward pass reads another batch."""
        self._output = None

    def __enter__(self) -> Self:
        # An instance may have a forward of its own, put there by others.
        self._before = [vars(layer).get("forward") for layer in self._layers]
        for place, layer in enumerate(self._layers):
            layer.forward = self._shared(layer.forward, place == len(self._layers) - 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer, before in zip(self._layers, self._before, strict=True):
            if before is None:
                del layer.forward  # the class's own is seen again
            else:
                layer.forward = before
        self._output = None

    def _shared(self, forward: Callable[..., Any], is_last: bool) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            # Once the last shared layer has spoken, each of them says what it said: only the next one above listens.
            if self._output is not None:
                return self._output
            output = forward(*arguments, **options)
            if is_last:
                self._output = output
            return output

        return run


def _layers_below_adapters(models: Sequence[RewardModel]) -> list[Any]:
    """Layers of the transformer, from the lowest up, that no adapter changes, nor anything below them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = {model.adapter for model in models}
    if len(models) < 2 or any(model.model is not models[0].model for model in models):
        return []
    changed = [
        name
        for name, module in models[0].model.named_modules()
        if (isinstance(module, BaseTunerLayer) and not adapters.isdisjoint(_adapters_on(module)))
        or (
            isinstance(saved := getattr(module, "modules_to_save", None), nn.ModuleDict)
            and not adapters.isdisjoint(saved)
        )
    ]
    stacks = [
        (name, module)
        for name, module in models[0].model.named_modules()
        if isinstance(module, nn.ModuleList) and any(other.startswith(f"{name}.") for other in changed)
    ]
    if len(stacks) != 1:
        return []
    name, stack = stacks[0]
    outside = [other for other in changed if not other.startswith(f"{name}.")]
    # What is not known to come after the layers, an embedding above all, may come before them.
    if any(_ABOVE_LAYERS.isdisjoint(other.split(".")) for other in outside):
        return []
    first = min(int(other.removeprefix(f"{name}.").split(".")[0]) for other in changed if other.startswith(f"{name}."))
    return list(stack)[:first]


def _adapters_on(layer: Any) -> set[str]:
    return {adapter for part in layer.adapter_layer_names for adapter in getattr(layer, part, {})}
