"""What a checkpoint says beside its weights, which training changes, and which is saved as it was."""

import copy
from collections.abc import Collection
from pathlib import Path
from shutil import copyfile, rmtree
from typing import Any

from torch import nn

__all__ = ["Stated", "keep_model_alone"]

_NAMES = ("config.json", "generation_config.json")


class Stated:
    """Configuration and generation settings of a policy, put aside until it is saved.

    TRL sets temperature, top_k, top_p and repetition penalty, and Transformers takes what else it generates by from the
    checkpoint: a min_p or no_repeat_ngram_size there would draw from another distribution than that of which
    log-probabilities, KL and held-out prompts speak. So only its special tokens stay while the policy is trained.

    Args:
        model: the policy, with an adapter or without, as it was loaded.
    """

    def __init__(self, model: nn.Module) -> None:
        from transformers import GenerationConfig

        owner = _owner(model)
        self._config, self._generation = copy.deepcopy(owner.config), owner.generation_config
        tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
        owner.generation_config = GenerationConfig(**{name: getattr(self._generation, name) for name in tokens})

    def restore(self, model: nn.Module) -> None:
        """Give both back to the policy, which is to be saved and trained no further."""
        owner = _owner(model)
        owner.config, owner.generation_config = self._config, self._generation


def keep_model_alone(checkpoint: Path, saved: Path, names: Collection[str]) -> None:
    """Leave of a checkpoint what a saved model consists of, without what was there to resume from.

    Args:
        checkpoint: of the same policy at another step.
        saved: folder of the saved model, whose settings it gets.
        names: of the files that the saved model consists of.
    """
    for path in checkpoint.iterdir():
        if path.name not in names:
            rmtree(path) if path.is_dir() else path.unlink()
    for name in _NAMES:
        if (saved / name).exists():
            copyfile(saved / name, checkpoint / name)


def _owner(model: nn.Module) -> Any:
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(wrapped, "peft_config") else wrapped
