"""`prudent demo`."""

from pathlib import Path
from typing import Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._options import FILES, SeedOption


@verb(panel="Start here", example="prudent demo --output runs/demo")
def demo(
    common: Common,
    *,
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="The folder to write.", rich_help_panel=FILES)
    ] = Path("runs/demo"),
    seed: SeedOption = 0,
    num_seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="How many worlds, from --seed upwards; the figures are over all.")
    ] = 1,
) -> Outcome:
    """See the main job end to end on a small world whose true reward is known: no data, no network, a few minutes."""
    raise SystemExit
