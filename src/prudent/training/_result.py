"""What a training run leaves behind: figures, counts, and the model card that tells them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["TrainingResult", "model_card"]

# Of each loss: its name in words, and what a reward trained by it means.
_LOSSES = {
    "bradley_terry": (
        "the Bradley-Terry loss",
        "A Bradley-Terry reward is known up to a constant for each prompt: differences between responses to one prompt "
        "are log-odds of a preference, a single value means nothing.",
    ),
    "classification": (
        "the order-consistent classification loss (arXiv 2411.04991)",
        "A reward is the log-odds that the response wins its comparison. It orders the responses to one prompt; "
        "differences are log-odds of a preference only after calibration, by a temperature or a refitted last layer.",
    ),
}


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of `train`; it is saved as `training_result.json` beside the model.

    Attributes:
        output: the model's folder.
        base_model: hub name or folder that training started from.
        data: name of the training data.
        eval_data: name of the evaluation data.
        num_pairs: pairs trained on; None for a stream.
        num_eval_pairs: pairs evaluated on.
        num_skipped: bad rows of either that were left out.
        num_truncated: texts, chosen or rejected, whose response was cut on the right.
        num_prompt_truncated: texts whose prompt was cut from the left.
        num_steps: optimizer steps.
        num_epochs: passes over the pairs.
        train_loss: mean loss over all steps, in nats, with smoothing and penalty.
        accuracy: on the evaluation pairs, in [0, 1]; see `preference_metrics`.
        nll: on the evaluation pairs, in nats.
        seconds: time spent in training, over all sessions of a run that was resumed.
        pairs_per_second: pairs trained on, by that time.
        resumed_from_step: where the session that finished the run took over from a checkpoint.
        already_finished: the run had finished before, and nothing was done.
        history: records of loss, rate, gradient norm and evaluations, by step.
        settings: what names the run: every option, identity of the model, digests of the data.
    """

    output: str
    base_model: str
    data: str
    eval_data: str | None
    num_pairs: int | None
    num_eval_pairs: int
    num_skipped: int
    num_truncated: int
    num_prompt_truncated: int
    num_steps: int
    num_epochs: float
    train_loss: float
    accuracy: float | None
    nll: float | None
    seconds: float
    pairs_per_second: float
    resumed_from_step: int | None
    already_finished: bool
    history: list[dict[str, Any]]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


def model_card(result: TrainingResult, *, library: str, pad_token: str) -> str:
    """The README.md of a trained reward model, in the hub's form.

    Args:
        result: the run's outcome.
        library: `peft` or `transformers`.
        pad_token: of the tokenizer.

    Returns:
        Front matter and text.
    """
    header: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "prudent"],
    }
    # The hub refuses names that are paths.
    if not Path(result.base_model).exists():
        header["base_model"] = result.base_model
    loss = str(result.settings.get("loss", "bradley_terry"))
    options = {name: value for name, value in result.settings.items() if value is not None}
    figures = [f"mean training loss {result.train_loss:.4f} over {result.num_steps:,} steps"]
    if result.accuracy is not None and result.nll is not None:
        figures.append(
            f"on {result.num_eval_pairs:,} evaluation pairs: accuracy {result.accuracy:.3f}, "
            f"negative log-likelihood {result.nll:.3f} nats"
        )
    counts = "a stream of pairs" if result.num_pairs is None else f"{result.num_pairs:,} pairs"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False).strip(),
            "---",
            "",
            f"# Reward model from {Path(result.base_model).name}",
            "",
            f"Trained with [prudent](https://pypi.org/project/prudent/) by {_LOSSES[loss][0]} on {counts} "
            f"of `{Path(result.data).name}`.",
            "",
            "## Figures",
            "",
            *(f"- {figure}" for figure in figures),
            f"- texts whose response was cut at the length limit: {result.num_truncated:,}; prompt: "
            f"{result.num_prompt_truncated:,}",
            "",
            "## Reward scale",
            "",
            _LOSSES[loss][1],
            "",
            "## Use",
            "",
            "```python",
            "from prudent.models import RewardModel",
            "",
            f'model = RewardModel.from_pretrained("{Path(result.output).name}")',
            'model.rewards(["Name a fruit."], ["An apple."])',
            "```",
            "",
            *_plain_use(library, Path(result.output).name, pad_token),
            "",
            "## Options",
            "",
            "```yaml",
            yaml.safe_dump(options).strip(),
            "```",
            "",
        ]
    )


def _plain_use(library: str, name: str, pad_token: str) -> list[str]:
    kind = "AutoPeftModelForSequenceClassification" if library == "peft" else "AutoModelForSequenceClassification"
    return [
        f"The folder is an ordinary {'PEFT adapter' if library == 'peft' else 'Transformers model'}; padding needs the "
        "id of the padding token in the configuration:",
        "",
        "```python",
        f"from {library} import {kind}",
        "from transformers import AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")  # pads with {pad_token}',
        f'model = {kind}.from_pretrained("{name}", num_labels=1)',
        "model.config.pad_token_id = tokenizer.pad_token_id",
        "```",
    ]
