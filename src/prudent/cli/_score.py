"""`prudent score`."""

from typing import Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._options import (
    FILES,
    DtypeOption,
    MaxLengthOption,
    ModelOption,
    OverwriteOption,
    SeedOption,
    SkipBadOption,
    StrictOption,
    TokensPerBatchOption,
)


@verb(
    panel="Use",
    example="""
    prudent score --model rm --data pool.jsonl --output scored.parquet
    prudent score --model rm --data pool.jsonl --factor --output scored.parquet
    """,
)
def score(
    common: Common,
    *,
    model: ModelOption,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FILE|NAME",
            help="The pool: rows of a prompt and its responses, where known with gold (their true rewards).",
            rich_help_panel=FILES,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="FILE.parquet",
            help="A Parquet dataset (a folder of parts), one row a response.",
            rich_help_panel=FILES,
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="The split of data that have several; by default the only one.",
            rich_help_panel=FILES,
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            "--drop",
            metavar="COLUMN",
            help="Leave out the responses for which this column of the pool is true.",
            rich_help_panel=FILES,
        ),
    ] = None,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    factor: Annotated[
        bool,
        typer.Option("--factor", help="Store the covariance factor too, so that responses can be compared later."),
    ] = False,
    num_references: Annotated[
        int, typer.Option("--num-references", min=1, help="Responses in the fixed reference set of a prompt.")
    ] = 16,
    max_length: MaxLengthOption = None,
    dtype: DtypeOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> Outcome:
    """Score a pool of responses: the mean, variance and noise of the reward of each.

    Rows are written as they are scored; a run that was cut off goes on where it stopped when it is started again.
    """
    from prudent.scoring import score as score_pool

    summary = score_pool(
        model,
        data,
        output,
        factor=factor,
        num_references=num_references,
        split=split,
        drop=drop,
        max_length=max_length,
        dtype=None if dtype is None else dtype.value,
        tokens_per_batch=tokens_per_batch,
        strict=strict,
        skip_bad=skip_bad,
        overwrite=overwrite,
        seed=seed,
        progress=common.progress,
    )
    text = f"{summary.num_responses:,} responses of {summary.num_prompts:,} prompts scored in {summary.output}"
    remarks = {
        "without variance, since the model has no posterior": summary.posterior == "none",
        f"{summary.num_truncated:,} responses cut": summary.num_truncated,
        f"{summary.num_prompt_truncated:,} prompts cut": summary.num_prompt_truncated,
        f"{summary.num_not_scored:,} not scored (reward not finite)": summary.num_not_scored,
        f"{summary.num_skipped:,} pools skipped as not valid": summary.num_skipped,
    }
    return Outcome(summary.to_dict(), "; ".join([text, *(remark for remark, holds in remarks.items() if holds)]))
