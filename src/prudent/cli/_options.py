"""Options that more than one verb has, so that they read the same everywhere."""

import math
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated

import typer

__all__ = [
    "Dtype",
    "DtypeOption",
    "EvalSplitOption",
    "MaxLengthOption",
    "ModelOption",
    "NumBootstrapOption",
    "OnePolicyOption",
    "OnlySplitOption",
    "OutputFolderOption",
    "OverwriteOption",
    "PolicyOption",
    "PreferencesOption",
    "PromptsOption",
    "ScoredOption",
    "SeedOption",
    "SkipBadOption",
    "SplitOption",
    "StrictOption",
    "TemperatureOption",
    "TokensPerBatchOption",
    "UtilityOption",
    "finite",
    "refuse",
    "with_option_names",
]

FILES = "Input and output"
UTILITY = "Utility"


class Dtype(StrEnum):
    """Floating types to read a model in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def finite(value: float | None) -> float | None:
    """Callback of an option: infinity and NaN are numbers to Typer, and pass its minimum.

    Raises:
        typer.BadParameter: the value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME|FOLDER",
        help="A model by hub name or folder, with or without an adapter.",
        rich_help_panel=FILES,
    ),
]
PreferencesOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="FILE|NAME",
        help="Preferences with chosen, rejected and usually prompt: JSONL, JSON, CSV, Parquet, a folder or a hub name.",
        rich_help_panel=FILES,
    ),
]
ScoredOption = Annotated[
    str, typer.Option("--data", metavar="SCORED", help="What `prudent score` wrote.", rich_help_panel=FILES)
]
OutputFolderOption = Annotated[
    str, typer.Option("--output", metavar="FOLDER", help="The folder to write.", rich_help_panel=FILES)
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that is there already.", rich_help_panel=FILES)
]
SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave out rows that are not valid, and count them, instead of stopping.",
        rich_help_panel=FILES,
    ),
]
SplitOption = Annotated[
    str, typer.Option("--split", metavar="NAME", help="The split of data that have several.", rich_help_panel=FILES)
]
OnlySplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME",
        help="The split of data that have several; by default the only one.",
        rich_help_panel=FILES,
    ),
]
EvalSplitOption = Annotated[
    str | None,
    typer.Option(
        "--eval-split",
        metavar="NAME",
        help="The split of the held-out data, by default as in `evaluate`; without --eval-data, the split of --data to"
        " hold out.",
        rich_help_panel=FILES,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="The seed of everything drawn at random.", min=0)]
MaxLengthOption = Annotated[
    int | None, typer.Option("--max-length", min=8, help="Longest text in tokens; by default, the model's limit.")
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype", help="Of the weights while reading; by default float32 on CPU, elsewhere as the checkpoint says."
    ),
]
TokensPerBatchOption = Annotated[
    int | None, typer.Option("--tokens-per-batch", min=1, help="Padded tokens of a batch; lower it if memory is short.")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Make an over-long text an error instead of cutting it.")]
UtilityOption = Annotated[
    str,
    typer.Option(
        "--utility",
        metavar="SPEC|FOLDER",
        help="What a response is worth: rewards piped through steps, such as 'lcb_std(1)', 'center(mean) | lcb_var(2)'"
        " or 'all_of(helpful | center | log_sigmoid, harmless | center | log_sigmoid) | lcb_std(1)'; or what `prudent"
        " utility` saved.",
        rich_help_panel=UTILITY,
    ),
]
NumBootstrapOption = Annotated[
    int, typer.Option("--num-bootstrap", min=2, help="Resamples over prompts behind the intervals.")
]

OnePolicyOption = Annotated[
    bool | None,
    typer.Option(
        "--one-policy/--many-policies",
        help="Whether one policy wrote a prompt's responses, so that a KL exists. By default, what the pool says.",
    ),
]


PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="NAME|FOLDER",
        help="A causal language model by hub name or folder, or a PEFT adapter on one.",
        rich_help_panel=FILES,
    ),
]
PromptsOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="FILE|NAME",
        help="Rows with a prompt: prompts alone, preferences, or a pool. Equal prompts count once.",
        rich_help_panel=FILES,
    ),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature", min=1e-6, callback=finite, help="Of the next token; positive.", rich_help_panel="Sampling"
    ),
]


def refuse(options: Mapping[str, object], why: str) -> None:
    """Make sure that options are not given which what is asked for has no use for.

    Args:
        options: values by the name of the option; None where it is not given.
        why: said after the name.

    Raises:
        typer.BadParameter: one is given.
    """
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"{name} {why}")


def with_option_names(message: str, settings: Iterable[str]) -> str:
    """A message about settings with their names as those of options: in front, and where they are not common words.

    Example:
        >>> with_option_names("arm is x; set num_steps for an arm", ["arm", "num_steps"])
        '--arm is x; set --num-steps for an arm'
    """
    known = set(settings)

    def spelled(match: re.Match[str]) -> str:
        name = match[0]
        return f"--{name.replace('_', '-')}" if name in known and (match.start() == 0 or "_" in name) else name

    return re.sub(r"\b[a-z]\w*", spelled, message)
