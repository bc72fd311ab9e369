"""TRL's trainers as `align` runs them: resumable, guarded, with a bar."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

from prudent.alignment._memory import out_of_memory
from prudent.alignment._reward import PrudentReward
from prudent.alignment.rlhf._align_config import AlignConfig
from prudent.alignment.rlhf._align_inputs import trainer_prompt
from prudent.alignment.rlhf._grpo import VarianceAwareGRPOTrainer
from prudent.alignment.rlhf._rloo import VarianceAwareRLOOTrainer
from prudent.errors import ModelError
from prudent.models import progress_bar
from prudent.sampling import Policy
from prudent.training import CheckpointCallback, ResumableTrainer

__all__ = ["ProgressCallback", "make_trainer"]


class _Guarded(ResumableTrainer):
    """Stops at a loss that is no number, and says what to do where memory runs out."""

    less_at_a_step: str
    """What to do where memory runs out, to be set before `fit`."""

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        try:
            with out_of_memory(self.less_at_a_step):
                loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
            if bool(torch.isfinite(loss)):
                return loss
            what = f"the loss is {loss.item()}"
        except RuntimeError as error:
            if "probability tensor" not in str(error):  # of the next token, from logits that are not finite
                raise
            what = "the policy's logits are not finite"
        raise ModelError(
            f"{what} at step {self.state.global_step + 1}: training diverged; lower "
            f"learning_rate (it is {self.args.learning_rate:g}) or raise kl_coef (it is {float(self.beta):g})"
        )


class _RLOO(_Guarded, VarianceAwareRLOOTrainer):
    """RLOO."""


class _GRPO(_Guarded, VarianceAwareGRPOTrainer):
    """GRPO."""


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """A bar over the steps, with rate and time left, on standard error.

    Args:
        enabled: show it.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._stack = ExitStack()
        self._advance: Callable[[int], None] = lambda amount: None

    def close(self) -> None:
        """Leave the bar as it is; called whatever ends the training."""
        self._stack.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar over the steps that are still to come."""
        title = f"Aligning from step {state.global_step}" if state.global_step else "Aligning"
        enabled = self._enabled and state.is_local_process_zero
        bar = progress_bar(title, state.max_steps - state.global_step, unit="steps", enabled=enabled)
        self._advance = self._stack.enter_context(bar)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by a step."""
        self._advance(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self._stack.close()


def make_trainer(
    policy: Policy,
    rows: Sequence[dict[str, Any]],
    reward: PrudentReward,
    config: AlignConfig,
    arguments: Any,
    callbacks: Sequence[Any],
    checkpointing: CheckpointCallback,
    logs: Path,
) -> Any:
    """TRL's trainer of a run.

    Args:
        policy: to train.
        rows: of `load_prompts`, to train on.
        reward: the proxy.
        config: the options.
        arguments: the same for TRL.
        callbacks: further Transformers callbacks.
        checkpointing: marks checkpoints.
        logs: folder of what TensorBoard reads.
    """
    arm = config.uncertain_arm
    kl_form: Any = arm.kl_form if config.algorithm == "rloo" or arm.kl_form == "constant" else "in_loss"
    trainer: Any = (_RLOO if config.algorithm == "rloo" else _GRPO)(
        policy.model,
        [reward],
        arguments,
        kl_form=kl_form,
        advantage_weight=arm.advantage_weight,
        kl_weight_floor=config.kl_weight_floor,
        kl_weight_cap=config.kl_weight_cap,
        train_dataset=_in_order(policy, rows, arguments.max_steps * config.prompts_per_step, config.seed),
        processing_class=policy.tokenizer,
        callbacks=[*callbacks, checkpointing],
        peft_config=_adapters(policy, config),
    )
    trainer.checkpointing = checkpointing
    trainer.less_at_a_step = config.less_at_a_step()
    # It would print every record to standard output.
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(logs)
    return trainer


def _in_order(policy: Policy, rows: Sequence[dict[str, Any]], count: int, seed: int) -> Dataset:
    """The prompts as they are to be taken: all in random order, then all in another, as often as it takes.

    TRL would leave out of each pass what does not fill a step, and end a step where a pass ends.
    """
    generator = np.random.default_rng([seed, 1])
    passes = [generator.permutation(len(rows)) for _ in range(-(-count // len(rows)))]
    prompts = Dataset.from_dict({"prompt": [trainer_prompt(policy, row) for row in rows]})
    return prompts.select(np.concatenate(passes)[:count])


def _adapters(policy: Policy, config: AlignConfig) -> Any:
    """New adapters, where the policy has none."""
    from peft import LoraConfig

    if not config.lora or hasattr(policy.model, "peft_config"):
        return None
    return LoraConfig(task_type="CAUSAL_LM", r=config.lora_r, lora_alpha=config.lora_alpha, target_modules="all-linear")
