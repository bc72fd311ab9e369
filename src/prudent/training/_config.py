"""What can be chosen about a training run; names and meanings are those of TRL and Transformers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from prudent.errors import UnsupportedError

__all__ = ["LossName", "TrainingConfig", "require_integrations", "training_arguments"]

LossName = Literal["bradley_terry", "classification"]
"""`bradley_terry` compares the two responses of a pair, `classification` tells winners from losers, each alone."""

# Options that change neither the weights nor what is computed on the way to them: a run may resume with others.
HARMLESS = frozenset({"logging_steps", "save_steps", "report_to"})

_LORA_LAYERS = ("all", "upper_half")

# Those of Transformers that need no further options.
_SCHEDULES = ("linear", "cosine", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup")


@dataclass(frozen=True)
class TrainingConfig:
    """Options of `train`; every default works on CPU and on GPU.

    Attributes:
        loss: `bradley_terry`, whose differences of rewards are log-odds of a preference; or `classification`
            (2411.04991), whose reward is the log-odds that a response wins its comparison: right about the
            order, but its differences are no log-odds of a preference until they are calibrated. Pairs with margins are
            refused by it.
        learning_rate: peak of AdamW's rate; by default `default_learning_rate` of the model's hidden size.
        num_train_epochs: passes over the pairs; ignored where `max_steps` is set.
        max_steps: optimizer steps; -1 leaves the number to `num_train_epochs`.
        per_device_train_batch_size: pairs that go through the model at once on each device.
        per_device_eval_batch_size: the same for evaluation.
        gradient_accumulation_steps: batches that make one optimizer step.
        max_length: tokens of prompt and response together; by default what the model states, at most 1024.
        lora: train low-rank adapters and the head; False trains every weight.
        lora_r: rank of new adapters.
        lora_alpha: their scale is `lora_alpha / lora_r`.
        lora_dropout: on the input of new adapters, in [0, 1).
        lora_layers: layers of the transformer with new adapters: `all`, or the `upper_half`, which trains faster and
            lets the members of an ensemble share the lower half.
        label_smoothing: probability in [0, 0.5) that a label is taken to be flipped.
        center_rewards_coefficient: weight of `mean((chosen + rejected)^2)`; 0 leaves it out. Classification has no free
            constant to fix, so it takes none.
        weight_decay: of AdamW.
        lr_scheduler_type: linear, cosine, polynomial, inverse_sqrt, constant or constant_with_warmup.
        warmup_ratio: share of the steps in which the rate rises, in [0, 1).
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        seed: of a new head, new adapters, dropout and the order of the pairs.
        logging_steps: steps between records of the loss.
        eval_steps: steps between evaluations, a share of all steps where below 1; by default only at the end.
        save_steps: steps between checkpoints, a share of all steps where below 1.
        gradient_checkpointing: compute activations twice to hold fewer of them.
        bf16: compute in bfloat16 under autocast; by default on an accelerator that supports it, and not on CPU.
        use_cpu: leave accelerators alone.
        report_to: Transformers integrations to log to, such as `("wandb",)`.

    Example:
        >>> TrainingConfig(max_steps=100).default_learning_rate(hidden_size=2000)
        0.0005
    """

    loss: LossName = "bradley_terry"
    learning_rate: float | None = None
    num_train_epochs: float = 1.0
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    max_length: int | None = None
    lora: bool = True
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_layers: str = "all"
    label_smoothing: float = 0.0
    center_rewards_coefficient: float = 0.0
    weight_decay: float = 0.0
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 0
    logging_steps: int = 10
    eval_steps: float | None = None
    save_steps: float = 0.1
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    use_cpu: bool = False
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "lora_r",
            "lora_alpha",
            "logging_steps",
            "save_steps",
            "num_train_epochs",
        ):
            _require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        _require(self.loss in get_args(LossName), "loss", self.loss, "one of " + ", ".join(get_args(LossName)))
        _require(self.max_steps == -1 or self.max_steps > 0, "max_steps", self.max_steps, "positive, or -1")
        _require(self.learning_rate is None or self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        _require(self.eval_steps is None or self.eval_steps > 0, "eval_steps", self.eval_steps, "positive")
        _require(
            self.lr_scheduler_type in _SCHEDULES,
            "lr_scheduler_type",
            self.lr_scheduler_type,
            "one of " + ", ".join(_SCHEDULES),
        )
        _require(self.lora_layers in _LORA_LAYERS, "lora_layers", self.lora_layers, f"one of {', '.join(_LORA_LAYERS)}")
        _require(0 <= self.label_smoothing < 0.5, "label_smoothing", self.label_smoothing, "in [0, 0.5)")
        _require(0 <= self.lora_dropout < 1, "lora_dropout", self.lora_dropout, "in [0, 1)")
        _require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "in [0, 1)")
        for name in ("center_rewards_coefficient", "weight_decay", "max_grad_norm", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "zero or more")
        _require(
            self.loss == "bradley_terry" or self.center_rewards_coefficient == 0,
            "center_rewards_coefficient",
            self.center_rewards_coefficient,
            f"0 with loss {self.loss}, whose labels fix the constant",
        )
        _require(self.max_length is None or self.max_length >= 8, "max_length", self.max_length, "at least 8")

    def default_learning_rate(self, hidden_size: int) -> float:
        """The peak rate where none is given.

        With LoRA 5e-4 (2000 / H)^0.78, which Schulman et al. (LoRA Without Regret, 2025) fitted to sweeps over Llama
        models and which also serves small encoders (1.8e-3 at H = 384, where 3e-4 learns nothing from 1,000 pairs); in
        full a twentieth of that, which is customary (5e-5 at H = 768, 1.4e-5 at H = 4096).

        Args:
            hidden_size: H, width of the model.
        """
        rate = 5e-4 * math.pow(2000 / hidden_size, 0.78)
        return rate if self.lora else rate / 20


def require_integrations(names: Sequence[str]) -> None:
    """Make sure that Transformers can log to integrations.

    Args:
        names: of them.

    Raises:
        UnsupportedError: one is unknown or not installed.

    Example:
        >>> require_integrations([])
    """
    from transformers.integrations import get_available_reporting_integrations

    available = get_available_reporting_integrations()
    if missing := [name for name in names if name not in available]:
        raise UnsupportedError(
            f"report_to names {missing[0]}, which is unknown or not installed; "
            f"installed are: {', '.join(available) or 'none'}"
        )


def training_arguments(config: TrainingConfig, folder: Path, *, evaluate: bool) -> Any:
    """Transformers' `TrainingArguments` of a run whose checkpoints go to a folder.

    Raises:
        UnsupportedError: an integration to log to is not installed.
    """
    import torch
    from transformers import TrainingArguments
    from transformers.utils import is_torch_bf16_gpu_available

    require_integrations(config.report_to)
    accelerated = torch.accelerator.is_available() and not config.use_cpu
    return TrainingArguments(
        output_dir=str(folder),
        # A placeholder where it depends on a model that is not loaded yet.
        learning_rate=config.learning_rate or 0.0,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=config.logging_steps,
        eval_strategy="steps" if evaluate and config.eval_steps is not None else "no",
        eval_steps=config.eval_steps if evaluate else None,
        save_strategy="steps",
        save_steps=config.save_steps,
        bf16=accelerated and is_torch_bf16_gpu_available() if config.bf16 is None else config.bf16,
        use_cpu=not accelerated,
        report_to=list(config.report_to) or "none",
        # Losses that are not finite stop the run; Transformers would hide them in its average.
        logging_nan_inf_filter=False,
        dataloader_pin_memory=accelerated,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["p_chosen"],
        ddp_find_unused_parameters=False,
    )


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; it must be {wanted}")
