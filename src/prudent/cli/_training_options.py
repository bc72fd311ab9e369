"""Options of verbs that train, so that they read the same."""

from typing import Annotated

import typer

__all__ = [
    "ADAPTER",
    "MACHINE",
    "OPTIMIZER",
    "STEPS",
    "Bf16Option",
    "GradientCheckpointingOption",
    "LoraAlphaOption",
    "LoraRankOption",
    "LrSchedulerOption",
    "MaxGradNormOption",
    "MaxStepsOption",
    "UseCpuOption",
    "WarmupRatioOption",
]

STEPS = "Steps and batches"
OPTIMIZER = "Loss and optimizer"
ADAPTER = "Adapter"
MACHINE = "Machine and logging"

LrSchedulerOption = Annotated[
    str, typer.Option("--lr-scheduler-type", help="A schedule of Transformers.", rich_help_panel=OPTIMIZER)
]
WarmupRatioOption = Annotated[
    float,
    typer.Option("--warmup-ratio", help="Share of the steps in which the rate rises.", rich_help_panel=OPTIMIZER),
]
MaxGradNormOption = Annotated[
    float,
    typer.Option("--max-grad-norm", help="Gradients are scaled down to this norm.", rich_help_panel=OPTIMIZER),
]
MaxStepsOption = Annotated[
    int, typer.Option("--max-steps", help="Optimizer steps; -1: as the epochs say.", rich_help_panel=STEPS)
]
GradientCheckpointingOption = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="Spend time to save activation memory.", rich_help_panel=MACHINE),
]
Bf16Option = Annotated[
    bool | None,
    typer.Option(
        "--bf16/--no-bf16",
        help="Compute in bfloat16; by default on accelerators that can.",
        rich_help_panel=MACHINE,
    ),
]
UseCpuOption = Annotated[bool, typer.Option("--use-cpu", help="Leave accelerators alone.", rich_help_panel=MACHINE)]
LoraRankOption = Annotated[int, typer.Option("--lora-r", help="Rank of new adapters.", rich_help_panel=ADAPTER)]
LoraAlphaOption = Annotated[
    int, typer.Option("--lora-alpha", help="Their scale is this over the rank.", rich_help_panel=ADAPTER)
]
