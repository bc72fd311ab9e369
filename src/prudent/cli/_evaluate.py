"""`prudent evaluate`."""

from typing import Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._options import (
    FILES,
    MaxLengthOption,
    ModelOption,
    PreferencesOption,
    SeedOption,
    SkipBadOption,
    StrictOption,
    TokensPerBatchOption,
)


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
    skip_bad: SkipBadOption = False,
    max_length: MaxLengthOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> Outcome:
    """Measure a reward model on preferences it has not seen: accuracy and calibration, with intervals over prompts."""
    raise SystemExit
