"""The command line: a verb a file. See `prudent --help`."""

from typing import Annotated

import typer

from prudent import __version__
from prudent.cli._align import align
from prudent.cli._app import app, unwrapped
from prudent.cli._clean import clean
from prudent.cli._demo import demo
from prudent.cli._ensemble import ensemble
from prudent.cli._evaluate import evaluate
from prudent.cli._explain import explain
from prudent.cli._export import export
from prudent.cli._fit import fit
from prudent.cli._overopt import overopt
from prudent.cli._report import report
from prudent.cli._reweight import reweight
from prudent.cli._sample import sample
from prudent.cli._score import score
from prudent.cli._select import select
from prudent.cli._train import train
from prudent.cli._utility import utility

__all__ = ["app", "main"]

for declared in (
    demo,
    clean,
    train,
    fit,
    ensemble,
    sample,
    score,
    utility,
    select,
    reweight,
    align,
    explain,
    export,
    evaluate,
    overopt,
    report,
):
    declared.add_to(app)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"prudent {__version__}")
        raise typer.Exit


INTRODUCTION = """
Reward models that know what they do not know, and best-of-n that respects it.

The usual way: [bold]train[/bold] a reward model on preferences, [bold]fit[/bold] how sure it is, [bold]score[/bold]
a pool of responses, [bold]select[/bold] the best of each prompt under a rule that counts what the model does not
know, and look at the [bold]report[/bold]. To see it all at once on a small world whose true reward is known:
[bold]prudent demo[/bold].

Exit codes: 0 done; 2 an error in the input or around it, told in one line; 130 interrupted; 1 a defect of prudent.
"""


@app.callback(invoke_without_command=True, help=unwrapped(INTRODUCTION))
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Show the help where no verb was given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line."""
    app()
