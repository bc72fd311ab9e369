"""`prudent export`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._named import by_name, named_path, one_utility
from prudent.cli._options import (
    FILES,
    UTILITY,
    DtypeOption,
    OverwriteOption,
    TokensPerBatchOption,
    UtilityOption,
    finite,
    refuse,
)


class Trainer(StrEnum):
    """Trainers of policies that are told of a reward by a file."""

    trl = "trl"
    openrlhf = "openrlhf"
    verl = "verl"


@verb(
    panel="Use",
    example="""
    prudent export --model rm-posterior --utility "lcb_std(1)" --trainer trl --output my_reward.py
    prudent export --model helpful=rm-1 --model harmless=rm-2 --utility careful --trainer verl --output my_reward.py
    """,
)
def export(
    common: Common,
    *,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="[REWARD=]MODEL",
            help="A reward model or an ensemble by hub name or folder; several under the names that the utility has for"
            " them, such as helpful=FOLDER.",
            rich_help_panel=FILES,
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", metavar="FILE.py", help="The Python file to write.", rich_help_panel=FILES),
    ],
    trainer: Annotated[
        Trainer, typer.Option("--trainer", help="What reads the file.", rich_help_panel=FILES)
    ] = Trainer.trl,
    utility: UtilityOption = "mean",
    references: Annotated[
        str | None,
        typer.Option(
            "--references",
            metavar="SCORED",
            help="What `prudent score` wrote of reference responses to every prompt of the training, for a utility that"
            " centers on them and is not saved.",
            rich_help_panel=FILES,
        ),
    ] = None,
    max_completion_length: Annotated[
        int | None,
        typer.Option(
            "--max-completion-length",
            min=1,
            help="The limit of TRL's trainer in tokens, by which completions that were cut are known and counted.",
            rich_help_panel=UTILITY,
        ),
    ] = None,
    truncation_penalty: Annotated[
        float | None,
        typer.Option("--truncation-penalty", min=0, callback=finite, help="What those lose.", rich_help_panel=UTILITY),
    ] = None,
    dtype: DtypeOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    overwrite: OverwriteOption = False,
) -> Outcome:
    """Write a small Python file with a reward in it, for a trainer of policies: TRL, OpenRLHF or verl.

    The model and the utility are loaded first, so that what is wrong shows now and not in the training.
    """
    if trainer is not Trainer.trl:
        refuse(
            {"--max-completion-length": max_completion_length, "--truncation-penalty": truncation_penalty},
            f"is for TRL, which gives a reward the tokens; {trainer.value} gives texts alone",
        )
    if truncation_penalty is not None and max_completion_length is None:
        raise typer.BadParameter(
            "--truncation-penalty needs --max-completion-length, by which cut completions are known"
        )
    from prudent.alignment import write_reward_file

    options: dict[str, Any] = {
        "references": references,
        "max_completion_length": max_completion_length,
        "truncation_penalty": truncation_penalty,
        "dtype": None if dtype is None else dtype.value,
        "tokens_per_batch": tokens_per_batch,
    }
    models = by_name("--model", [named_path(one) for one in model])
    written = write_reward_file(
        output,
        models.get("", models),
        one_utility(utility),
        trainer=trainer.value,
        overwrite=overwrite,
        **{name: value for name, value in options.items() if value is not None},
    )
    return Outcome(written.to_dict(), f"{written.path} holds the reward; use it as\n  {written.usage}")
