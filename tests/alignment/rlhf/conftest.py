"""A reward that needs no model, and short runs of TRL's trainers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

Of = Callable[[list[int]], float | None]


@dataclass
class MeasuredByTokens:
    """A reward, its variance and its advantage's weight as functions of a completion's tokens."""

    reward: Of = lambda ids: (sum(ids) % 11) / 5
    variance: Of = lambda ids: 0.5 + ids[0] % 5 + (ids[-1] % 3) / 3
    weight: Of = lambda ids: (sum(ids) % 5) / 4
    asked: list[str] = field(default_factory=list)

    def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [self.reward(ids) for ids in completion_ids]

    def variance_column(self, of: str = "reward") -> Callable[..., list[float | None]]:
        self.asked.append(of)

        def variance(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
            return [self.variance(ids) for ids in completion_ids]

        return variance

    def sign_column(self, kind: str) -> Callable[..., list[float | None]]:
        self.asked.append(kind)

        def sign_weight(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
            return [self.weight(ids) for ids in completion_ids]

        return sign_weight


@pytest.fixture
def measured() -> type[MeasuredByTokens]:
    return MeasuredByTokens


def tokens_of(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """The tokens of each completion of a batch of TRL's."""
    pairs = zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


@pytest.fixture(name="tokens_of")
def tokens_of_fixture() -> Callable[[dict[str, torch.Tensor]], list[list[int]]]:
    return tokens_of


@dataclass
class Recorded:
    """A short run: the trainer, the loss and gradient of every step, and what every scoring gave."""

    trainer: Any
    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    scored: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def same_as(self, other: "Recorded") -> bool:
        """Whether losses, gradients and final weights agree to the last bit."""
        return (
            self.losses == other.losses
            and len(self.gradients) == len(other.gradients) > 0
            and all(_equal(a, b) for a, b in zip(self.gradients, other.gradients, strict=True))
            and _equal(self.trainer.model.state_dict(), other.trainer.model.state_dict())
        )


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def short_run(tiny_models: Callable[..., Path], tmp_path: Path) -> Callable[..., Recorded]:
    """Train the tiny policy for three steps on the CPU: `short_run(trainer_class, reward_funcs, lora=..., beta=...)`.

    With `train=False` the trainer comes back as it is built. `options` are the trainer's own; what else is named is
    TRL's configuration.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig

    prompts = [
        "the bird sings",
        "one small apple",
        "tell me about the river",
        "is it cold today",
        "the door",
        "I think",
    ]

    def run(
        trainer_class: Any,
        reward_funcs: Any,
        *,
        policy: str | None = None,
        lora: bool = False,
        options: dict[str, Any] | None = None,
        train: bool = True,
        resume: str | None = None,
        **config: Any,
    ) -> Recorded:
        recorded = Recorded(None)

        class Gradients(TrainerCallback):  # type: ignore[misc]
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
                recorded.gradients.append(gradients)

        arguments: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 6,
            "max_steps": 3,
            "learning_rate": 0.01,
            "beta": 0.5,
            "use_cpu": True,
            "bf16": False,
            "report_to": [],
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
        }
        trainer = trainer_class(
            policy or str(tiny_models("llama", head=False)),
            reward_funcs,
            (GRPOConfig if issubclass(trainer_class, GRPOTrainer) else RLOOConfig)(**arguments | config),
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            callbacks=[Gradients()],
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if lora else None,
            **options or {},
        )
        compute_loss, score = trainer.compute_loss, trainer._generate_and_score_completions

        def recorded_loss(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = compute_loss(*args, **kwargs)
            recorded.losses.append(loss.item())
            return loss

        def recorded_score(inputs: Any) -> dict[str, Any]:
            output: dict[str, Any] = score(inputs)
            recorded.scored.append(copy.copy(output))
            return output

        trainer.compute_loss, trainer._generate_and_score_completions = recorded_loss, recorded_score
        recorded.trainer = trainer
        if train:
            trainer.train(resume_from_checkpoint=resume)
        return recorded

    return run
