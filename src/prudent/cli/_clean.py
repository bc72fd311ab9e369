"""`prudent clean`."""

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._fit import PoolingName
from prudent.cli._options import (
    FILES,
    DtypeOption,
    MaxLengthOption,
    OverwriteOption,
    PreferencesOption,
    SeedOption,
    SkipBadOption,
    SplitOption,
    StrictOption,
    TokensPerBatchOption,
)

if TYPE_CHECKING:
    from prudent.posteriors import CleanSummary

STRENGTH = "Strength of preferences"
TREATMENT = "Treatment"


class TreatmentName(StrEnum):
    """What can be done about likely flips."""

    flip = "flip"
    drop = "drop"
    soft = "soft"
    margin = "margin"
    mark = "mark"


@verb(
    panel="Make",
    example="""
    prudent clean --model base --data pairs.jsonl --treatment flip --output cleaned.jsonl
    prudent clean --model org/reward-model --no-cross-fit --data pairs.jsonl --output marked.parquet
    """,
)
def clean(
    common: Common,
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME|FOLDER",
            help="A base or reward model, on whose features heads are trained; or a reward model with a posterior, or"
            " an ensemble, that judges as it is.",
            rich_help_panel=FILES,
        ),
    ],
    data: PreferencesOption,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="FILE.jsonl|FILE.parquet",
            help="The cleaned preferences: all columns as they were, the strengths, and what was changed.",
            rich_help_panel=FILES,
        ),
    ],
    split: SplitOption = "train",
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    treatment: Annotated[
        TreatmentName,
        typer.Option(
            "--treatment",
            help="Mark alone; flip or drop the labels that are likely wrong; replace each by the probability that it is"
            " right; or ask for margins as large as the strengths.",
            rich_help_panel=TREATMENT,
        ),
    ] = TreatmentName.mark,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0,
            max=1,
            help="Flip or drop a label that is wrong with a higher probability than this.",
            rich_help_panel=TREATMENT,
        ),
    ] = 0.5,
    bottom_share: Annotated[
        float | None,
        typer.Option(
            "--bottom-share",
            min=0,
            max=1,
            help="Instead of the threshold: flip or drop this share of the pairs, those of lowest strength.",
            rich_help_panel=TREATMENT,
        ),
    ] = None,
    cross_fit: Annotated[
        bool | None,
        typer.Option(
            "--cross-fit/--no-cross-fit",
            help="Train heads on the model's features, so that no pair is judged by heads that saw its prompt; or let"
            " the model judge as it is, which must not have learned from these pairs. By default the latter for"
            " ensembles and models with a posterior.",
            rich_help_panel=STRENGTH,
        ),
    ] = None,
    num_folds: Annotated[
        int,
        typer.Option("--num-folds", min=2, help="Parts that the prompts are cut into.", rich_help_panel=STRENGTH),
    ] = 5,
    num_members: Annotated[
        int,
        typer.Option("--num-members", min=2, help="Heads that judge each pair.", rich_help_panel=STRENGTH),
    ] = 10,
    pooling: Annotated[
        PoolingName | None,
        typer.Option(
            "--pooling",
            help="What heads read: what the model's own head reads, or the mean over tokens, the default for bases.",
            rich_help_panel=STRENGTH,
        ),
    ] = None,
    max_length: MaxLengthOption = None,
    dtype: DtypeOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> Outcome:
    """Find preference labels that are likely flipped, and flip, drop, soften or mark them.

    How strongly an ensemble prefers the chosen response is compared with the labels: that gives the share of flipped
    labels, and for each label the probability that it is one of them. A flipped row has chosen and rejected exchanged;
    exchange them back to undo it.
    """
    from prudent.posteriors import clean as clean_preferences

    summary = clean_preferences(
        data,
        output,
        model=model,
        cross_fit=cross_fit,
        treatment=treatment.value,
        threshold=threshold,
        bottom_share=bottom_share,
        num_folds=num_folds,
        num_members=num_members,
        pooling=None if pooling is None else pooling.value,
        split=split,
        max_length=max_length,
        dtype=None if dtype is None else dtype.value,
        tokens_per_batch=tokens_per_batch,
        strict=strict,
        skip_bad=skip_bad,
        overwrite=overwrite,
        seed=seed,
        progress=common.progress,
    )
    return Outcome(summary.to_dict(), "\n".join(describe(summary)))


def describe(summary: "CleanSummary") -> Iterator[str]:
    """What was found, in lines."""
    changes = ", ".join(f"{count:,} {change}" for change, count in sorted(summary.changes.items()))
    yield f"{summary.num_pairs:,} pairs in {summary.output}: {changes}"
    yield (
        f"flipped labels: {summary.flip_rate:.1%} by likelihood ({summary.flip_rate_low:.0%} to"
        f" {summary.flip_rate_high:.0%}); {summary.num_suspect:,} suspect; {summary.agreement:.1%} of the pairs are"
        " ranked as labelled"
    )
    deciles = " ".join(f"{value:.3g}" for value in summary.strength_deciles)
    yield f"strength, minimum, deciles and maximum: {deciles}"
    for column, groups in summary.groups.items():
        for name, figures in groups.items():
            yield (
                f"{column} {name}: {figures['num_suspect']:,} of {figures['num_pairs']:,} suspect,"
                f" {figures['agreement']:.1%} ranked as labelled"
            )
    if summary.num_skipped:
        yield f"{summary.num_skipped:,} rows skipped as not valid"
    if summary.num_truncated:
        yield f"{summary.num_truncated:,} texts cut"
    yield from (f"note: {note}" for note in summary.notes)
