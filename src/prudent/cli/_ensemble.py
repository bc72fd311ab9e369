"""`prudent ensemble`."""

from typing import TYPE_CHECKING, Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome, table
from prudent.cli._options import (
    FILES,
    MaxLengthOption,
    OutputFolderOption,
    OverwriteOption,
    SkipBadOption,
    StrictOption,
    TokensPerBatchOption,
)

if TYPE_CHECKING:
    from prudent.posteriors import EnsembleResult

__all__ = ["ensemble"]


@verb(
    panel="Make",
    example="""
    prudent ensemble --member org/small-rm --member my-rm --data heldout.jsonl --output both
    prudent ensemble --member rm-1 --member rm-2 --member rm-3 --output three
    """,
)
def ensemble(
    common: Common,
    *,
    member: Annotated[
        list[str],
        typer.Option(
            "--member",
            metavar="NAME|FOLDER",
            help="A reward model by hub name or folder, with or without a posterior; give two or more.",
            rich_help_panel=FILES,
        ),
    ],
    output: OutputFolderOption,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE|NAME",
            help="Preferences that no member was trained on, by which their rewards become logits on one scale. Only"
            " members trained from one model by prudent can do without.",
            rich_help_panel=FILES,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="The split of data that have several, by default as in `evaluate`.",
            rich_help_panel=FILES,
        ),
    ] = None,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    max_length: MaxLengthOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    strict: StrictOption = False,
) -> Outcome:
    """Join reward models made anywhere, of any families and tokenizers, into one that knows where they disagree.

    The members stay where they are; the folder written names them with their scales, and is scored, evaluated and
    selected from as one model. To train members, see `prudent train --num-members`.
    """
    from prudent.posteriors import ensemble as join

    result = join(
        member,
        output,
        data=data,
        split=split,
        max_length=max_length,
        tokens_per_batch=tokens_per_batch,
        strict=strict,
        skip_bad=skip_bad,
        overwrite=overwrite,
        progress=common.progress,
    )
    return Outcome(result.to_dict(), _told(result))


def _told(result: "EnsembleResult") -> str:
    """A line, a table with a row a member and one of all together, counts and notes."""
    figures = result.figures
    lines = [f"ensemble of {len(result.members)} members in {result.output}"]
    if figures is not None:
        lines[0] += f", calibrated on {figures.num_pairs:,} pairs"
        rows: list[list[object]] = [
            [one.name, one.posterior, one.accuracy, one.temperature, one.nll_before, one.nll_after]
            for one in result.members
        ]
        rows.append(["together", None, figures.accuracy, None, None, figures.nll])
        lines.append(table(["member", "posterior", "accuracy", "temperature", "NLL before", "NLL after"], rows))
    remarks = {
        f"{result.num_truncated:,} responses cut": result.num_truncated,
        f"{result.num_skipped:,} pairs skipped as not valid": result.num_skipped,
    }
    counts = "; ".join(remark for remark, holds in remarks.items() if holds)
    return "\n".join([*lines, *([counts] if counts else []), *(f"note: {note}" for note in result.notes)])
