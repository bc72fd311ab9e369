"""What can be chosen about an alignment run; names and meanings are those of TRL and Transformers."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from prudent.alignment._arms import Arm, parse_arm
from prudent.errors import PrudentError
from prudent.training import require_integrations

__all__ = ["HARMLESS", "LESS_AT_ONCE", "Algorithm", "AlignConfig", "trl_arguments"]

Algorithm = Literal["rloo", "grpo"]
"""`rloo` takes the KL penalty into the reward, `grpo` into the loss."""

# Options that change nothing but rounding, memory and what is told: a run may resume with others.
HARMLESS = frozenset(
    {
        "logging_steps",
        "report_to",
        "tokens_per_batch",
        "per_device_train_batch_size",
        "gradient_checkpointing",
        "num_monitor_completions",
    }
)

LESS_AT_ONCE = "lower tokens_per_batch (--tokens-per-batch), and start again to resume"
"""What to do where memory runs out in reading texts or in drawing those to held-out prompts."""

_ANEW = "which makes another run: start it anew with overwrite (--overwrite)"

# Those of Transformers that need no further options.
_SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass(frozen=True)
class AlignConfig:
    """Options of `align`.

    Attributes:
        arm: what is done about the reward's uncertainty, by its name in `prudent.alignment.ARMS`.
        utility: what a response is worth, as text or as the folder of a saved one; by default what the arm says. Arms
            that are a utility themselves (lcb, entropic, lsc, bounded, worst) take no other.
        algorithm: `rloo` or `grpo`.
        kl_coef: of the penalty on the KL to the policy that training starts from; zero or more.
        kl_weight_floor: least weight of the penalty on one response, where the arm weighs it by variance, in (0, 1].
        kl_weight_cap: largest such weight, at least 1.
        learning_rate: peak of AdamW's rate; by default 1e-5 with LoRA and 1e-6 in full.
        num_train_epochs: passes over the prompts; ignored where `max_steps` is set.
        max_steps: optimizer steps; -1 leaves the number to `num_train_epochs`.
        prompts_per_step: prompts of an optimizer step, over all devices.
        num_generations: completions of each of them, at least 2: each is compared with the others.
        per_device_train_batch_size: completions that go through the policy at once on each device; by default all of
            the device's share.
        max_completion_length: tokens that a completion may have.
        temperature: of the distribution of the next token; positive. KL is that to the reference at this temperature.
        truncation_penalty: subtracted from the value of completions cut at `max_completion_length`.
        num_references: responses of the first policy to each prompt, sampled where the utility needs references.
        lora: train low-rank adapters; False trains every weight.
        lora_r: rank of new adapters.
        lora_alpha: their scale is `lora_alpha / lora_r`.
        lr_scheduler_type: linear, cosine, constant or constant_with_warmup.
        warmup_ratio: share of the steps in which the rate rises, in [0, 1).
        max_grad_norm: gradients are scaled down to this norm.
        num_monitor_prompts: held-out prompts, at most; at most a fifth of the prompts where they are taken from these.
        num_monitor_completions: m, completions of each at each time.
        monitor_every: steps between looks at the held-out prompts, which are also those between checkpoints; a share of
            all steps below 1.
        logging_steps: steps between records of the training's own figures.
        gradient_checkpointing: compute activations twice to hold fewer of them.
        bf16: compute in bfloat16 under autocast; by default on an accelerator that supports it, and not on CPU.
        use_cpu: leave accelerators alone.
        tokens_per_batch: padded tokens that go through a reward model, or through the policy on held-out prompts, at
            once.
        report_to: Transformers integrations to log to.
        seed: of everything drawn.

    Example:
        >>> AlignConfig(max_steps=100, monitor_every=0.1).monitor_steps(100)
        10
    """

    arm: str = "mean"
    utility: str | None = None
    algorithm: Algorithm = "rloo"
    kl_coef: float = 0.05
    kl_weight_floor: float = 0.1
    kl_weight_cap: float = 10.0
    learning_rate: float | None = None
    num_train_epochs: float = 1.0
    max_steps: int = -1
    prompts_per_step: int = 8
    num_generations: int = 4
    per_device_train_batch_size: int | None = None
    max_completion_length: int = 256
    temperature: float = 1.0
    truncation_penalty: float = 0.0
    num_references: int = 16
    lora: bool = True
    lora_r: int = 16
    lora_alpha: int = 32
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    num_monitor_prompts: int = 32
    num_monitor_completions: int = 4
    monitor_every: float = 0.1
    logging_steps: int = 1
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    use_cpu: bool = False
    tokens_per_batch: int | None = None
    report_to: tuple[str, ...] = ("tensorboard",)
    seed: int = 0

    def __post_init__(self) -> None:
        parse_arm(self.arm)
        for name, least in {
            "prompts_per_step": 1,
            "num_generations": 2,
            "per_device_train_batch_size": 1,
            "max_completion_length": 1,
            "num_references": 2,
            "lora_r": 1,
            "lora_alpha": 1,
            "num_monitor_prompts": 1,
            "num_monitor_completions": 1,
            "logging_steps": 1,
            "tokens_per_batch": 1,
            "seed": 0,
        }.items():
            value = getattr(self, name)
            _require(value is None or value >= least, name, value, f"at least {least}")
        for name in ("learning_rate", "num_train_epochs", "temperature", "monitor_every"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, name, value, "positive")
        for name in ("kl_coef", "truncation_penalty", "max_grad_norm"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, name, value, "zero or more")
        for name, known in (("algorithm", get_args(Algorithm)), ("lr_scheduler_type", _SCHEDULES)):
            _require(getattr(self, name) in known, name, getattr(self, name), f"one of {', '.join(known)}")
        _require(0 < self.kl_weight_floor <= 1, "kl_weight_floor", self.kl_weight_floor, "above 0 and at most 1")
        _require(1 <= self.kl_weight_cap < math.inf, "kl_weight_cap", self.kl_weight_cap, "at least 1")
        _require(self.max_steps == -1 or self.max_steps > 0, "max_steps", self.max_steps, "positive, or -1")
        _require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "in [0, 1)")
        _require(
            self.monitor_every < 1 or self.monitor_every == int(self.monitor_every),
            "monitor_every",
            self.monitor_every,
            "a whole number of steps, or a share below 1",
        )
        completions = self.prompts_per_step * self.num_generations
        _require(
            self.per_device_train_batch_size is None or completions % self.per_device_train_batch_size == 0,
            "per_device_train_batch_size",
            self.per_device_train_batch_size,
            f"a divisor of the {completions} completions of a step: prompts_per_step ({self.prompts_per_step}) x "
            f"num_generations ({self.num_generations})",
        )
        own = self.uncertain_arm
        if self.utility is not None and replace(own, utility="mean") == Arm() != own:
            said = own.utility_at(self.kl_coef)
            _require(self.utility == said, "utility", self.utility, f"left out: the arm {self.arm} is {said}")
        if self.algorithm == "grpo" and self.uncertain_arm.kl_form == "in_reward":
            raise ValueError(f"the arm {self.arm} needs algorithm rloo: GRPO has its KL penalty in the loss")
        if self.uncertain_arm.kl_form != "constant":
            _require(self.kl_coef > 0, "kl_coef", self.kl_coef, f"positive for the arm {self.arm}, which weighs the KL")

    @property
    def uncertain_arm(self) -> Arm:
        """What the arm is."""
        return parse_arm(self.arm)

    @property
    def worth(self) -> str:
        """The utility in force: text, or the folder of a saved one."""
        if self.utility is not None:
            return self.utility
        return self.uncertain_arm.utility_at(self.kl_coef)

    def total_steps(self, num_prompts: int) -> int:
        """Optimizer steps over so many prompts."""
        if self.max_steps != -1:
            return self.max_steps
        return max(1, math.floor(num_prompts * self.num_train_epochs / self.prompts_per_step))

    def monitor_steps(self, total_steps: int) -> int:
        """Optimizer steps between looks at the held-out prompts."""
        if self.monitor_every >= 1:
            return int(self.monitor_every)
        return max(1, math.ceil(total_steps * self.monitor_every))

    def less_at_a_step(self) -> str:
        """What to do where memory runs out in a step of training."""
        return (
            "lower per_device_train_batch_size (--per-device-train-batch-size) or set gradient_checkpointing "
            "(--gradient-checkpointing), and start again to resume; where that does not help, lower prompts_per_step, "
            f"num_generations or max_completion_length, whose completions are drawn at once, {_ANEW}"
        )

    def less_to_train(self) -> str:
        """What to do where the models themselves, or the optimizer's state, do not fit."""
        smaller = "" if self.lora else "train adapters instead of every weight (lora, --lora) or "
        return f"{smaller}choose a smaller policy or reward model, {_ANEW}"

    def settings(self) -> dict[str, Any]:
        """Every option, as JSON holds it."""
        return {**asdict(self), "report_to": list(self.report_to)}


def trl_arguments(config: AlignConfig, folder: Path, *, total_steps: int) -> Any:
    """TRL's configuration of a run.

    Args:
        config: the options.
        folder: of the checkpoints.
        total_steps: optimizer steps.

    Raises:
        PrudentError: completions of a step that do not divide among devices.
        UnsupportedError: an integration to log to is not installed.
    """
    import torch
    from transformers.utils import is_torch_bf16_gpu_available
    from trl import GRPOConfig, RLOOConfig

    require_integrations(config.report_to)
    accelerated = torch.accelerator.is_available() and not config.use_cpu
    each, accumulation = _batches(config)
    every = config.monitor_steps(total_steps)
    return (RLOOConfig if config.algorithm == "rloo" else GRPOConfig)(
        output_dir=str(folder),
        learning_rate=config.learning_rate or (1e-5 if config.lora else 1e-6),
        max_steps=total_steps,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=accumulation,
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        beta=config.kl_coef,
        # The prompts come in the order in which they are to be taken.
        shuffle_dataset=False,
        lr_scheduler_type=config.lr_scheduler_type,
        # A single step would have a rate of 0.
        warmup_steps=min(math.ceil(total_steps * config.warmup_ratio), total_steps - 1),
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=config.logging_steps,
        save_strategy="steps",
        save_steps=every,
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=accelerated and is_torch_bf16_gpu_available() if config.bf16 is None else config.bf16,
        use_cpu=not accelerated,
        report_to=list(config.report_to) or "none",
        logging_nan_inf_filter=False,
        dataloader_pin_memory=accelerated,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
    )


def _batches(config: AlignConfig) -> tuple[int, int]:
    """Completions of a batch on each device, and batches of a step."""
    from accelerate import PartialState

    devices = PartialState().num_processes
    completions = config.prompts_per_step * config.num_generations
    share, rest = divmod(completions, devices)
    each = config.per_device_train_batch_size or share
    if rest or each < 1 or share % each:
        raise PrudentError(
            f"a step has {config.prompts_per_step} prompts x {config.num_generations} completions = {completions}, "
            f"which {devices} devices cannot share{f' in batches of {each}' if each else ''}: change prompts_per_step "
            "(--prompts-per-step), num_generations (--num-generations) or per_device_train_batch_size "
            "(--per-device-train-batch-size)"
        )
    return each, share // each


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; it must be {wanted}")
