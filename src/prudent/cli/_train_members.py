"""`prudent train --num-members`: an ensemble, told in words."""

from pathlib import Path
from typing import Any

from prudent.cli._console import Outcome, table

__all__ = ["train_members"]


def train_members(model: str, data: str, output: str, **options: Any) -> Outcome:
    """An ensemble, told in a table: a row a member, then one of all together.

    Args:
        model: as for `prudent.posteriors.train_ensemble`, like all that follow.
        data: preferences.
        output: folder of the ensemble.
        options: all others.
    """
    from prudent.posteriors import train_ensemble

    result = train_ensemble(model, data, output, **options)
    rows: list[list[object]] = [
        [Path(run.output).name, run.settings["seed"], run.num_pairs, run.train_loss, run.accuracy, run.nll]
        for run in result.members
    ]
    if result.figures is not None:
        rows.append(["together", None, None, None, result.figures.accuracy, result.figures.nll])
    seconds = sum(run.seconds for run in result.members)
    verb = "had trained" if result.already_finished else "trained"
    own = "" if result.posterior is None else f", each with a posterior {result.posterior}"
    lines = [
        f"{verb} {len(rows) - (result.figures is not None)} members of {result.members[0].num_steps:,} steps in "
        f"{seconds:.0f} s{own}; ensemble in {result.output}",
        table(["member", "seed", "pairs", "mean loss", "accuracy", "NLL"], rows),
    ]
    resumed = [
        f"{Path(run.output).name} resumed from step {run.resumed_from_step}"
        for run in result.members
        if run.resumed_from_step and not run.already_finished
    ]
    first = result.members[0]
    remarks = {
        **dict.fromkeys(resumed, True),
        f"{first.num_truncated:,} responses cut": first.num_truncated,
        f"{first.num_skipped:,} pairs skipped as not valid": first.num_skipped,
    }
    counts = "; ".join(remark for remark, holds in remarks.items() if holds)
    return Outcome(
        result.to_dict(),
        "\n".join([*lines, *([counts] if counts else []), *(f"note: {note}" for note in result.notes)]),
    )
