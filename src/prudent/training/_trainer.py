"""A thin layer on `transformers.Trainer`: batches of pairs in; loss, accuracy and likelihood out."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, TrainerState

from prudent.errors import ModelError
from prudent.models import progress_bar
from prudent.training._config import TrainingConfig
from prudent.training._losses import bradley_terry_loss, classification_loss, preference_nll
from prudent.training._pairs import LengthGroupedOrder, PairCollator, PairDataset, PairStream
from prudent.training._run import drop_older_checkpoints, mark_complete, seconds_until, write_error

__all__ = [
    "PairTrainer",
    "ProgressCallback",
    "mean_loss",
    "pairs_per_step",
    "preference_metrics",
    "require_finite_weights",
]


def preference_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and negative log-likelihood of preferences, margins and smoothing left out.

    The likelihood is that of Bradley-Terry whatever the model was trained by, so that figures can be compared.

    Args:
        prediction: `predictions` `[pairs, 2]` rewards of chosen and rejected, `label_ids` `[pairs]` p_chosen.

    Returns:
        `accuracy`, the share of pairs whose better response (by p_chosen) has the higher reward, equal rewards counting
        half and pairs with p_chosen = 1/2 left out; `nll`, the mean in nats.
    """
    rewards = torch.as_tensor(prediction.predictions, dtype=torch.float64)
    p_chosen = torch.as_tensor(prediction.label_ids, dtype=torch.float64)
    chosen, rejected = rewards.unbind(-1)
    agrees = torch.sign(chosen - rejected) * torch.sign(p_chosen - 0.5)
    decided = p_chosen != 0.5
    return {
        "accuracy": float((agrees[decided] + 1).mean() / 2),
        "nll": float(preference_nll(chosen, rejected, p_chosen=p_chosen).mean()),
    }


class PairTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` on preference pairs.

    Args:
        model: the classifier.
        args: from `training_arguments`.
        config: gives the loss its options.
        train_pairs: what to train on.
        eval_pairs: what to evaluate on.
        pad_token_id: of the model.
        callbacks: further Transformers callbacks.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Any,
        config: TrainingConfig,
        train_pairs: PairDataset | PairStream,
        eval_pairs: PairDataset | None,
        pad_token_id: int,
        callbacks: list[Any],
    ) -> None:
        self._config = config
        self._order = _OrderCallback()
        self._saving = _CheckpointCallback()
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(pad_token_id),
            train_dataset=train_pairs,
            eval_dataset=eval_pairs,
            compute_metrics=preference_metrics,
            callbacks=[self._saving, self._order, *callbacks],
        )
        # It would print every record to standard output.
        self.remove_callback(PrinterCallback)

    def fit(self, checkpoint: Path | None) -> tuple[int, float]:
        """Train to the end, from a checkpoint where one is given.

        Returns:
            The step at which this call took over, and the seconds of training, those before the checkpoint included.
        """
        if checkpoint is None:
            self.train()
            return 0, self._saving.seconds()
        earlier = seconds_until(checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= state.max_steps:
            # Transformers would take one step more.
            self._load_from_checkpoint(str(checkpoint))
            self.state = state
            return int(state.global_step), earlier
        self._saving.earlier_seconds = earlier
        self.train(resume_from_checkpoint=str(checkpoint))
        return int(state.global_step), self._saving.seconds()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch of pairs, and on request the rewards `[pairs, 2]`."""
        texts = {name: value for name, value in inputs.items() if name not in ("margin", "p_chosen")}
        chosen, rejected = model(**texts).logits.float().view(2, -1)
        labels: dict[str, Any] = {"p_chosen": inputs["p_chosen"], "label_smoothing": self._config.label_smoothing}
        if self._config.loss == "classification":
            loss = classification_loss(chosen, rejected, **labels)
        else:
            loss = bradley_terry_loss(
                chosen,
                rejected,
                margin=inputs["margin"],
                center_rewards_coefficient=self._config.center_rewards_coefficient,
                **labels,
            )
        return (loss, torch.stack([chosen, rejected], dim=-1)) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One step forward and back; a loss that is not finite ends the run.

        Raises:
            ModelError: the loss is NaN or infinite.
        """
        loss: Tensor = super().training_step(*args, **kwargs)
        if not bool(torch.isfinite(loss)):
            raise ModelError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: training diverged; "
                f"lower learning_rate (it is {self.args.learning_rate:g}) or raise warmup_ratio, and check margins"
            )
        return loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, rewards `[pairs, 2]` and labels of an evaluation batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, rewards = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach(), rewards.detach(), inputs["p_chosen"]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        pairs = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(pairs, PairDataset):
            return None
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self._order.sampler = LengthGroupedOrder(pairs.lengths, step, self.args.seed)
        return self._order.sampler

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        require_finite_weights(self.model, f"after step {self.state.global_step}")
        folder = Path(self.args.output_dir)
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            # Space is likely what lacks; the half-written checkpoint would hold it.
            if self.args.should_save:
                rmtree(folder / f"checkpoint-{self.state.global_step}", ignore_errors=True)
            raise write_error(folder, error) from error


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Progress bars of trained pairs and of evaluation, with rate and time left, on standard error."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._stack = ExitStack()
        self._advance: Callable[[int], None] | None = None
        self._advance_evaluation: Callable[[int], None] | None = None

    def close(self) -> None:
        """Leave the bar as it is; called whatever ends the training."""
        self._stack.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar over the pairs that are still to come."""
        remaining = (state.max_steps - state.global_step) * pairs_per_step(args)
        enabled = self._enabled and state.is_local_process_zero
        title = f"Training from step {state.global_step}" if state.global_step else "Training"
        bar = progress_bar(title, remaining, unit="pairs", enabled=enabled)
        self._advance = self._stack.enter_context(bar)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by the pairs of a step."""
        if self._advance is not None:
            self._advance(pairs_per_step(args))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar of training; an evaluation may follow with its own."""
        self._stack.close()
        self._advance = None

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar of the evaluation after training; those within it are left to the bar of training."""
        if self._advance is not None:
            return
        if self._advance_evaluation is None:
            enabled = self._enabled and state.is_local_process_zero
            bar = progress_bar("Evaluating", len(kwargs["eval_dataloader"]), unit="batches", enabled=enabled)
            self._advance_evaluation = self._stack.enter_context(bar)
        self._advance_evaluation(1)


class _CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint complete once all of it is written and drops older ones; keeps the record of losses whole."""

    def __init__(self) -> None:
        self.earlier_seconds = 0.0
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Time spent in training so far, over all sessions."""
        return self.earlier_seconds + time.monotonic() - self._began

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # What is summed since the last record is not in a checkpoint: record it before saving.
        if control.should_save or control.should_training_stop:
            control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.seconds())
            drop_older_checkpoints(Path(args.output_dir))


class _OrderCallback(TrainerCallback):  # type: ignore[misc]
    """Gives the sampler its epoch, resumed or not; loaders that skip batches do not pass it on."""

    def __init__(self) -> None:
        self.sampler: LengthGroupedOrder | None = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))


def require_finite_weights(model: nn.Module, when: str) -> None:
    """Refuse a model with NaN or infinite trained weights.

    Raises:
        ModelError: naming the weights.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"the weights {name} are not finite {when}: training diverged; "
                "lower learning_rate or raise warmup_ratio"
            )


def mean_loss(history: list[dict[str, Any]]) -> float:
    """Mean training loss over all steps of a run, from Transformers' records of it."""
    records = [record for record in history if "loss" in record]
    steps: list[int] = [0, *(record["step"] for record in records)]
    weighted: list[float] = [
        record["loss"] * (after - before) for record, before, after in zip(records, steps, steps[1:], strict=False)
    ]
    return sum(weighted) / max(1, steps[-1])


def pairs_per_step(args: Any) -> int:
    """Pairs of one optimizer step, over all devices."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
