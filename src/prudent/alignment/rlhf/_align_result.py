"""What an alignment run leaves behind: figures, settings, and the model card that tells them."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from prudent.alignment._early_stop import EarlyStopAdvice
from prudent.errors import ModelError

__all__ = ["AlignSummary", "align_card"]


@dataclass(frozen=True)
class AlignSummary:
    """The outcome of `align`; it is saved as `align_result.json` beside the policy.

    Attributes:
        output: the policy's folder.
        policy: hub name or folder that training started from.
        reward_model: the proxy, by the names in the utility where there are several.
        gold_model: the held-out truth; None without one.
        arm: what is done about the reward's uncertainty.
        utility: what a response is worth.
        algorithm: `rloo` or `grpo`.
        num_prompts: prompts trained on.
        num_monitor_prompts: held-out prompts.
        num_skipped: faulty rows and prompts left out.
        num_without_references: prompts trained on of which the utility has no references; they give no signal.
        num_steps: optimizer steps.
        seconds: time spent in training, monitoring included, over all sessions of a run that was resumed.
        resumed_from_step: where the session that finished the run took over from a checkpoint.
        already_finished: the run had finished before, and nothing was done.
        start: the row of `monitor.parquet` before the first step.
        end: its row after the last.
        advice: about stopping; None without gold or with too few prompts.
        no_advice: why there is none, where there is a gold model.
        best_checkpoint: folder of the policy of the step that the advice says to take; None where that is the last
            step or the first policy.
        settings: what names the run: every option, identities of the models, digests of the prompts.
    """

    output: str
    policy: str
    reward_model: str | dict[str, str]
    gold_model: str | None
    arm: str
    utility: str
    algorithm: str
    num_prompts: int
    num_monitor_prompts: int
    num_skipped: int
    num_without_references: int
    num_steps: int
    seconds: float
    resumed_from_step: int | None
    already_finished: bool
    start: dict[str, Any]
    end: dict[str, Any]
    advice: EarlyStopAdvice | None
    no_advice: str | None
    best_checkpoint: str | None
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AlignSummary":
        """What `to_dict` gave.

        Raises:
            ModelError: another version of prudent wrote it.
        """
        lacking = [field.name for field in fields(cls) if field.name not in values]
        if lacking:
            raise ModelError(
                f"the run in {values.get('output')} finished under another version of prudent (its result has no "
                f"{lacking[0]}); name another output folder, or discard that run with overwrite (--overwrite)"
            )
        known = {field.name: values[field.name] for field in fields(cls)}
        advice = known["advice"]
        return cls(**{**known, "advice": None if advice is None else EarlyStopAdvice(**advice)})


def align_card(result: AlignSummary, *, library: str) -> str:
    """The README.md of an aligned policy, in the hub's form.

    Args:
        result: the run's outcome.
        library: `peft` or `transformers`.

    Returns:
        Front matter and text.
    """
    header: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["prudent", "trl", result.algorithm],
    }
    # The hub refuses names that are paths.
    if not Path(result.policy).exists():
        header["base_model"] = result.policy
    rows = []
    for label, name in (("proxy", "proxy"), ("gold", "gold"), ("KL to the start, in nats", "kl"), ("tokens", "length")):
        before, after = result.start.get(name), result.end.get(name)
        if before is not None and after is not None:
            rows.append(f"| {label} | {before:.4g} | {after:.4g} |")
    options = {name: value for name, value in result.settings.items() if value is not None}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False).strip(),
            "---",
            "",
            f"# Policy from {Path(result.policy).name}",
            "",
            f"Trained with [prudent](https://pypi.org/project/prudent/) and TRL by {result.algorithm.upper()} on "
            f"{result.num_prompts:,} prompts for {result.num_steps:,} steps; a response was worth `{result.utility}`, "
            f"arm `{result.arm}`.",
            "",
            "## Figures",
            "",
            f"On {result.num_monitor_prompts:,} held-out prompts, before and after:",
            "",
            "| | start | end |",
            "|---|---|---|",
            *rows,
            "",
            *([] if result.advice is None else [f"Early stopping: {result.advice.text}.", ""]),
            *([] if result.no_advice is None else [f"Early stopping: no advice, since {result.no_advice}.", ""]),
            "## Options",
            "",
            "```yaml",
            yaml.safe_dump(options).strip(),
            "```",
            "",
        ]
    )
