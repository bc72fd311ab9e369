"""A thin layer on `transformers.Trainer`: batches of pairs in; loss, accuracy and likelihood out."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from prudent.errors import ModelError
from prudent.models import progress_bar
from prudent.training._config import TrainingConfig
from prudent.training._losses import bradley_terry_loss, classification_loss, preference_nll
from prudent.training._pairs import LengthGroupedOrder, PairCollator, PairDataset, PairStream
from prudent.training._resumable import CheckpointCallback, ResumableTrainer

__all__ = [
    "PairTrainer",
    "ProgressCallback",
    "mean_loss",
    "pairs_per_step",
    "preference_metrics",
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


class PairTrainer(ResumableTrainer, Trainer):  # type: ignore[misc]
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
        self.checkpointing = CheckpointCallback()
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(pad_token_id),
            train_dataset=train_pairs,
            eval_dataset=eval_pairs,
            compute_metrics=preference_metrics,
            callbacks=[self.checkpointing, self._order, *callbacks],
        )
        # It would print every record to standard output.
        self.remove_callback(PrinterCallback)

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


class _OrderCallback(TrainerCallback):  # type: ignore[misc]
    """Gives the sampler its epoch, resumed or not; loaders that skip batches do not pass it on."""

    def __init__(self) -> None:
        self.sampler: LengthGroupedOrder | None = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))


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
