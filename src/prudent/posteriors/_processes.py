"""The processes that share a fit, as `accelerate launch` or `torchrun` started them."""

from typing import Any

import torch

__all__ = ["process_state"]


def process_state() -> Any:
    """Accelerate's `PartialState`: how many processes there are, which one this is, and its device."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Accelerate joins processes on the CPU only where it is told that they are meant for it.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
