"""Runs of a `transformers.Trainer` that can be killed at any moment: whole checkpoints, and training from the last."""

import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState

from prudent.errors import ModelError
from prudent.training._run import drop_older_checkpoints, mark_complete, seconds_until, write_error

__all__ = ["CheckpointCallback", "ResumableTrainer", "require_finite_weights"]


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint complete once all of it is written and drops older ones; keeps the record of losses whole.

    Args:
        best: gives the step whose checkpoint is kept beside the last two; None for no such step.
    """

    def __init__(self, best: Callable[[], int | None] = lambda: None) -> None:
        self.earlier_seconds = 0.0
        self._best = best
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Time spent in training so far, over all sessions."""
        return self.earlier_seconds + time.monotonic() - self._began

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record what is summed since the last record before saving: it is not in a checkpoint."""
        if control.should_save or control.should_training_stop:
            control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint."""
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.seconds())
            drop_older_checkpoints(Path(args.output_dir), best=self._best())


class ResumableTrainer:
    """What a `transformers.Trainer` becomes resumable by, put before it among the bases of a class.

    Attributes:
        checkpointing: one of the trainer's callbacks, to be set before `fit`.
    """

    checkpointing: CheckpointCallback

    def fit(self: Any, checkpoint: Path | None) -> tuple[int, float]:
        """Train to the end, from a checkpoint where one is given.

        Returns:
            The step at which this call took over, and the seconds of training, those before the checkpoint included.
        """
        if checkpoint is None:
            self.train()
            return 0, self.checkpointing.seconds()
        earlier = seconds_until(checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= state.max_steps:
            # Transformers would take one step more.
            self._load_from_checkpoint(str(checkpoint))
            self.state = state
            return int(state.global_step), earlier
        self.checkpointing.earlier_seconds = earlier
        self.train(resume_from_checkpoint=str(checkpoint))
        return int(state.global_step), self.checkpointing.seconds()

    def _save_checkpoint(self: Any, model: nn.Module, trial: Any) -> None:
        require_finite_weights(self.model, f"after step {self.state.global_step}")
        folder = Path(self.args.output_dir)
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        except (OSError, RuntimeError, SafetensorError) as error:
            # Space is likely what lacks; the half-written checkpoint would hold it.
            if self.args.should_save:
                rmtree(folder / f"checkpoint-{self.state.global_step}", ignore_errors=True)
            raise write_error(folder, error) from error


def require_finite_weights(model: nn.Module, when: str) -> None:
    """Refuse a model with NaN or infinite trained weights.

    Raises:
        ModelError: naming the weights.

    Example:
        >>> require_finite_weights(nn.Linear(2, 1), "after training")
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"the weights {name} are not finite {when}: training diverged; "
                "lower learning_rate or raise warmup_ratio"
            )
