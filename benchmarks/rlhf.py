"""Time of a training step with weights by variance, against TRL's own trainers with the same reward.

    python benchmarks/rlhf.py --policy FOLDER [--steps 24] [--rounds 3] [--completions 16] [--length 32] [--json]

The reward model has the policy's base, a random head and a last-layer posterior fitted on a few pairs: what it says
does not matter here, what it costs is what a reward model of the policy's size costs. Trainers take turns, round by
round; the figure is the median processor time of a step (its first two left out), and its ratio to TRL's.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from prudent.alignment import PrudentReward
from prudent.alignment.rlhf import VarianceAwareGRPOTrainer, VarianceAwareRLOOTrainer
from prudent.posteriors import fit

PROMPTS = ["Once upon a time", "The little dog", "Lily went to", "One day a boy", "It was cold", "Tom saw a"]
PAIRS = [
    {"prompt": prompt, "chosen": f" was happy {word}.", "rejected": f" {word} {word} {word}"}
    for prompt in PROMPTS
    for word in ("today", "again", "here")
]
WAYS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "TRL RLOO": (RLOOTrainer, RLOOConfig, {}),
    "prudent RLOO, constant": (VarianceAwareRLOOTrainer, RLOOConfig, {"kl_form": "constant"}),
    "prudent RLOO, exact": (VarianceAwareRLOOTrainer, RLOOConfig, {"kl_form": "exact"}),
    "prudent RLOO, exact and sign": (
        VarianceAwareRLOOTrainer,
        RLOOConfig,
        {"kl_form": "exact", "advantage_weight": "sign"},
    ),
    "TRL GRPO": (GRPOTrainer, GRPOConfig, {}),
    "prudent GRPO, in_loss and sign": (VarianceAwareGRPOTrainer, GRPOConfig, {"advantage_weight": "sign"}),
}


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Processor time of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self._began)


def reward_model(policy: str, folder: Path) -> Path:
    """A reward model on the policy's base, with a posterior."""
    AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(policy).save_pretrained(folder / "base")
    fit(folder / "base", PAIRS, folder / "reward", progress=False)
    return folder / "reward"


def step_times(
    way: str, policy: str, reward: Path, completions: int, length: int, steps: int, folder: Path
) -> list[float]:
    """Seconds of each step but the first two, which load the reward model and warm up."""
    trainer_class, config_class, options = WAYS[way]
    times = StepTimes()
    trainer = trainer_class(
        policy,
        [PrudentReward(reward, "mean", max_completion_length=length)],
        config_class(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=completions,
            num_generations=4,
            max_completion_length=length,
            max_steps=steps,
            beta=0.05,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=steps,
        ),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        callbacks=[times],
        **options,
    )
    trainer.train()
    return times.seconds[2:]


def main() -> None:
    """Time all ways and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--completions", type=int, default=16)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        reward = reward_model(args.policy, folder)
        for _ in range(args.rounds):
            for way, found in seconds.items():
                found += step_times(way, args.policy, reward, args.completions, args.length, args.steps, folder)
    rows = []
    for way, found in seconds.items():
        median = statistics.median(found)
        base = statistics.median(seconds["TRL GRPO" if "GRPO" in way else "TRL RLOO"])
        rows.append({"way": way, "step_ms": 1000 * median, "ratio": median / base})
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['way']:34} {row['step_ms']:8.1f} ms  {row['ratio']:6.3f}")


if __name__ == "__main__":
    main()
