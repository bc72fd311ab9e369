"""`prudent evaluate`."""

from typing import TYPE_CHECKING, Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome, table
from prudent.cli._options import (
    FILES,
    MaxLengthOption,
    ModelOption,
    NumBootstrapOption,
    PreferencesOption,
    SeedOption,
    SkipBadOption,
    StrictOption,
    TokensPerBatchOption,
)

if TYPE_CHECKING:
    from prudent.evaluation import Evaluation, Figure


@verb(
    panel="Look",
    example="""
    prudent evaluate --model rm-posterior --data heldout.jsonl --output evaluation.json
    """,
)
def evaluate(
    common: Common,
    *,
    model: ModelOption,
    data: PreferencesOption,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE.json", help="Where to write the figures.", rich_help_panel=FILES),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="The split of data that have several; by default test, else validation, else the only one.",
            rich_help_panel=FILES,
        ),
    ] = None,
    skip_bad: SkipBadOption = False,
    max_length: MaxLengthOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    strict: StrictOption = False,
    num_bootstrap: NumBootstrapOption = 1000,
    seed: SeedOption = 0,
) -> Outcome:
    """Measure a reward model on preferences it has not seen: accuracy and calibration, with intervals over prompts."""
    from prudent.evaluation import evaluate as evaluate_model

    found = evaluate_model(
        model,
        data,
        output,
        split=split,
        num_bootstrap=num_bootstrap,
        max_length=max_length,
        tokens_per_batch=tokens_per_batch,
        strict=strict,
        skip_bad=skip_bad,
        seed=seed,
        progress=common.progress,
    )
    return Outcome(found.to_dict(), _figures(found))


def _figures(found: "Evaluation") -> str:
    """The figures by the mean alone and by the whole posterior, with their intervals."""
    kinds = [found.map] if found.moderated is None else [found.map, found.moderated]
    figures = {
        "accuracy": [found.accuracy for _ in kinds],
        "negative log-likelihood, nats": [kind.nll for kind in kinds],
        "Brier score": [kind.brier for kind in kinds],
        "calibration error": [kind.ece for kind in kinds],
    }
    of_split = f" of {found.split}" if found.split else ""
    header = [f"{found.num_pairs:,} pairs{of_split}, {found.num_prompts:,} prompts", "mean alone", "whole posterior"]
    return table(header[: len(kinds) + 1], [[name, *map(_interval, row)] for name, row in figures.items()])


def _interval(figure: "Figure") -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
