"""`prudent utility`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome, table
from prudent.cli._named import by_name, named_path
from prudent.cli._options import FILES, OutputFolderOption, OverwriteOption, ScoredOption, TokensPerBatchOption

if TYPE_CHECKING:
    from prudent.scoring import LearnedStep, SavedUtility

STRENGTH = "Choosing a strength"


@verb(
    panel="Use",
    example="""
    prudent utility --data scored.parquet --utility "center | log_sigmoid | lcb_std(1)" --output careful
    prudent select --data other.parquet --utility careful --output picks.jsonl
    prudent utility --data scored.parquet --utility "center(of=learned) | mean" --model rm --output learned
    prudent utility --data few_with_gold.parquet --utility "lcb_std(strength)" --strengths 0,1,2,4 --n 64 --output tuned
    """,
)
def utility(
    common: Common,
    *,
    data: ScoredOption,
    utility: Annotated[
        str, typer.Option("--utility", metavar="SPEC", help="What a response is worth.", rich_help_panel=FILES)
    ],
    output: OutputFolderOption,
    overwrite: OverwriteOption = False,
    all_rows: Annotated[
        bool,
        typer.Option(
            "--all-rows", help="Take all responses as references, not only those that scoring marked as such."
        ),
    ] = False,
    strengths: Annotated[
        str | None,
        typer.Option(
            "--strengths",
            metavar="A,B,...",
            help="Numbers to try for the word strength in the utility; the gold of what it picks decides.",
            rich_help_panel=STRENGTH,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            min=2,
            help="Candidates that picks will be made from, by default as many as the smallest pool has (of those at"
            " least half as large as the median).",
            rich_help_panel=STRENGTH,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[NAME=]FOLDER",
            help="For center(of=learned): the model that gave the rewards, whose features of prompts references are "
            "predicted from; once for each reward where there are several.",
            rich_help_panel=FILES,
        ),
    ] = None,
    tokens_per_batch: TokensPerBatchOption = None,
) -> Outcome:
    """Fit a utility on responses of the base policy, and save it.

    What it learns is saved with it: the reference rewards of each prompt above all. `select`, `explain` and the others
    take the folder as their --utility, on any scored responses to the same prompts. The folder may be that of a model.
    """
    models = by_name("--model", [named_path(one) for one in model or []])
    if n is not None and strengths is None:
        raise typer.BadParameter("--n goes with --strengths")
    tried = None if strengths is None else _numbers(strengths)
    from prudent.scoring import check_place, fit_utility, read_scored, tune_utility

    check_place(output, overwrite=overwrite)
    pool = read_scored(data)
    how: dict[str, Any] = {
        "all_rows": all_rows,
        "model": models.get("", models) if models else None,
        "tokens_per_batch": tokens_per_batch,
        "progress": common.progress,
    }
    tuned = None if tried is None else tune_utility(pool, utility, tried, n=n, **how)
    saved = fit_utility(pool, utility if tuned is None else tuned.utility, output, overwrite=overwrite, **how)
    found = {
        "output": output,
        "utility": str(saved.utility),
        "rewards": dict(saved.basis_ids),
        "fitted_on": dict(saved.fitted_on),
        "learned": [step.to_dict() for step in saved.learned],
    }
    if tuned is None:
        return Outcome(found, _told(saved, output))
    found["tuned"] = tuned.to_dict()
    rows = list(zip(tuned.strengths, tuned.gold, tuned.standard_error, strict=True))
    lines = [
        table(["strength", f"gold of the best of {tuned.n:,}", "standard error"], rows),
        f"on {tuned.num_prompts:,} prompts; judge it on others; smallest within a standard error: {tuned.smallest}",
        _told(saved, output),
    ]
    return Outcome(found, "\n".join(lines))


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise typer.BadParameter(f"--strengths {text!r}: numbers with commas between are meant, such as 0,1,2")
    if len(set(found)) < len(found):
        raise typer.BadParameter(f"--strengths {text}: one is given twice; give each once")
    return found


def _told(saved: "SavedUtility", output: str) -> str:
    """The utility, a row for each step that learned something, and what it was learned from."""
    lines = [f"{saved.utility} in {output}"]
    steps, num_prompts = saved.learned, saved.fitted_on["num_prompts"]
    known = [step for step in steps if step.rmse is None]
    if known:
        rows = [
            [step.step, step.num_prompts or "all", _each(step, num_prompts), step.reference_mean, step.reference_std]
            for step in known
        ]
        lines.append(table(["reference", "prompts", "responses each", "mean", "std over prompts"], rows))
    learned = [step for step in steps if step.rmse is not None]
    if learned:
        rows = [[step.step, step.num_prompts, step.rmse, step.constant_rmse] for step in learned]
        lines.append(table(["learned reference", "prompts", "error held out", "of a constant"], rows))
    if not steps:
        lines.append("it needs no reference responses")
    return "\n".join(lines)


def _each(step: "LearnedStep", num_prompts: int) -> str:
    """Reference responses a prompt, for each reward that they are of."""
    counts = [None if count is None else f"{count / num_prompts:.4g}" for count in step.num_references.values()]
    return ", ".join(count or "-" for count in dict.fromkeys(counts))
