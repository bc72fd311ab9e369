"""`prudent score`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome, table
from prudent.cli._options import (
    FILES,
    DtypeOption,
    MaxLengthOption,
    OverwriteOption,
    SeedOption,
    SkipBadOption,
    StrictOption,
    TokensPerBatchOption,
)

MEMBERS = "Scores made elsewhere"


@verb(
    panel="Use",
    example="""
    prudent score --model rm --data pool.jsonl --output scored.parquet
    prudent score --model rm --data pool.jsonl --factor --output scored.parquet
    prudent score --columns rm_a,rm_b,rm_c --data pool_with_scores.jsonl --output scored.parquet
    """,
)
def score(
    common: Common,
    *,
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
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME|FOLDER",
            help="A model by hub name or folder, with or without an adapter, or an ensemble.",
            rich_help_panel=FILES,
        ),
    ] = None,
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
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="A,B,...",
            help="Instead of --model: columns of the pool that hold the scores of one model each, two or more.",
            rich_help_panel=MEMBERS,
        ),
    ] = None,
    calibration_data: Annotated[
        str | None,
        typer.Option(
            "--calibration-data",
            metavar="FILE|NAME",
            help="Preferences with columns chosen_A, rejected_A, chosen_B, ... that bring the scores to logits; without"
            " them, pairs of responses that differ in gold do.",
            rich_help_panel=MEMBERS,
        ),
    ] = None,
    calibration_share: Annotated[
        float | None,
        typer.Option(
            "--calibration-share",
            min=1e-9,
            max=1,
            help="Share of the prompts whose gold does, by default 0.2; figures of gold leave them out.",
            rich_help_panel=MEMBERS,
        ),
    ] = None,
    prompt_column: Annotated[
        str | None,
        typer.Option("--prompt-column", metavar="NAME", help="By default prompt.", rich_help_panel=MEMBERS),
    ] = None,
    response_column: Annotated[
        str | None,
        typer.Option(
            "--response-column",
            metavar="NAME",
            help="By default responses or response; the texts may be absent.",
            rich_help_panel=MEMBERS,
        ),
    ] = None,
    gold_column: Annotated[
        str | None,
        typer.Option("--gold-column", metavar="NAME", help="By default gold.", rich_help_panel=MEMBERS),
    ] = None,
    seed: SeedOption = 0,
) -> Outcome:
    """Score a pool of responses: the mean, variance and noise of the reward of each.

    Rows are written as they are scored; a run that was cut off goes on where it stopped when it is started again.

    Scores that other programs wrote, one column a model (--columns), become a posterior of the same form: each column
    is calibrated to logits on preferences, and the spread of the models is the variance.
    """
    of_members = {
        "--calibration-data": calibration_data,
        "--calibration-share": calibration_share,
        "--prompt-column": prompt_column,
        "--response-column": response_column,
        "--gold-column": gold_column,
    }
    of_model = {
        "--factor": factor or None,
        "--max-length": max_length,
        "--dtype": dtype,
        "--tokens-per-batch": tokens_per_batch,
        "--strict": strict or None,
    }
    if columns is not None:
        _refuse({"--model": model, **of_model}, "does not go with --columns")
        named = {"prompt": prompt_column, "gold": gold_column, "calibration_share": calibration_share}
        return _score_columns(
            data,
            output,
            [name.strip() for name in columns.split(",") if name.strip()],
            calibration_data=calibration_data,
            response=response_column,
            num_references=num_references,
            split=split,
            drop=drop,
            skip_bad=skip_bad,
            overwrite=overwrite,
            seed=seed,
            **{name: value for name, value in named.items() if value is not None},
        )
    _refuse(of_members, "goes with --columns")
    if model is None:
        raise typer.BadParameter("give --model, or --columns of scores made elsewhere")
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


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"{name} {why}")


def _score_columns(data: str, output: str, columns: list[str], **options: Any) -> Outcome:
    """The outcome for scores made elsewhere: how each member was calibrated, and what was written."""
    from prudent.scoring import score_members

    summary = score_members(data, output, columns, **options)
    rows = [(one.name, one.accuracy, one.scale, one.nll_before, one.nll_after) for one in summary.members]
    lines = [table(("member", "accuracy", "scale", "nll before", "nll after"), rows)]
    counts = f"{summary.num_responses:,} responses of {summary.num_prompts:,} prompts"
    lines.append(f"{counts} with {len(summary.members)} members in {summary.output}")
    on = f"calibrated on {summary.num_calibration_pairs:,} pairs"
    if summary.num_calibration_prompts:
        on += f" of {summary.num_calibration_prompts:,} prompts, which is_calibration marks"
    lines.append(on)
    if summary.num_skipped:
        lines.append(f"{summary.num_skipped:,} rows skipped as not valid")
    return Outcome(summary.to_dict(), "\n".join(lines))
