"""`prudent explain`."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._named import one_utility
from prudent.cli._options import FILES, ScoredOption, SeedOption, UtilityOption

if TYPE_CHECKING:
    from prudent.scoring import ExplainedResponse, Explanation

WIDTH = 100
LEAST_TEXT = 20


@verb(
    panel="Look",
    example="""
    prudent explain --data scored.parquet --utility "center | log_sigmoid | lcb_std(1)" --prompt 3
    prudent explain --data scored.parquet --utility careful --prompt 3 --top 5 --json
    """,
)
def explain(
    common: Common,
    *,
    data: ScoredOption,
    prompt: Annotated[int, typer.Option("--prompt", metavar="ID", help="Number of the prompt, its prompt_id.")],
    utility: UtilityOption = "lcb_std",
    references: Annotated[
        str | None,
        typer.Option(
            "--references",
            metavar="SCORED",
            help="Other responses of the base policy to the same prompts, scored alike, as the references.",
            rich_help_panel=FILES,
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Show so many of the best responses.")] = 10,
    seed: SeedOption = 0,
) -> Outcome:
    """Show for one prompt every step's number of each response, and why the best one won."""
    from prudent.scoring import explain as explain_prompt

    found = explain_prompt(data, one_utility(utility), prompt, references=references, seed=seed)
    # those that a plain mean would have picked are worth a look however far down they come
    shown = [
        response
        for place, response in enumerate(found.responses)
        if place < top or response.response_id in found.by_mean.values()
    ]
    result = found.to_dict()
    kept = {response.response_id for response in shown}
    result["responses"] = [entry for entry in result["responses"] if entry["response_id"] in kept]
    result["num_responses"] = len(found.responses)
    return Outcome(result, _told(found, shown))


def _told(found: "Explanation", shown: "list[ExplainedResponse]") -> str:
    """Prompt, legend, tables of at most 100 columns, counts, and the reason."""
    lines = []
    if found.prompt is not None:
        lines.append(_short(f"prompt {found.prompt_id}: {found.prompt}", WIDTH))
    lines += ["", *(f"{step.label}  {_short(step.step, WIDTH - len(step.label) - 2)}" for step in found.steps), ""]
    lines.append("\n\n".join(_tables(found, shown)))
    hidden = len(found.responses) - len(shown)
    unscored = sum(response.rank is None for response in found.responses)
    remarks = [f"{hidden:,} more responses (--top)"] if hidden else []
    remarks += [f"{unscored:,} not scored"] if unscored else []
    if remarks:
        lines.append("; ".join(remarks))
    return "\n".join([*lines, "", textwrap.fill(found.why, WIDTH, break_on_hyphens=False)])


def _tables(found: "Explanation", shown: "list[ExplainedResponse]") -> list[str]:
    """One table, or several that each begin with the response where one would be too wide; texts stand in the last."""
    mark = "=" if len(found.winners) > 1 else "*"
    first = [
        ["", *(mark if response.response_id in found.winners else "" for response in shown)],
        ["rank", *("-" if response.rank is None else str(response.rank) for response in shown)],
        ["response", *(str(response.response_id) for response in shown)],
    ]
    columns = [
        [step.label, *_moments([one.mean[place] for one in shown], [one.std[place] for one in shown])]
        for place, step in enumerate(found.steps)
    ]
    if any(response.gold is not None for response in shown):
        columns.append(["gold", *_moments([one.gold for one in shown], [None] * len(shown))])
    if any(response.length is not None for response in shown):
        columns.append(["length", *("-" if one.length is None else str(one.length) for one in shown)])
    blocks = [list(first)]
    for column in columns:
        if _width([*blocks[-1], column]) > WIDTH:
            blocks.append(list(first))
        blocks[-1].append(column)
    if any(response.text is not None for response in shown):
        if _width(blocks[-1]) + 2 + LEAST_TEXT > WIDTH:
            blocks.append(list(first))
        room = WIDTH - _width(blocks[-1]) - 2
        texts = [_short(response.text or "", room) for response in shown]
        # the only column to the left
        blocks[-1].append(["text".ljust(room), *(text.ljust(room) for text in texts)])
    return ["\n".join(_lines(block)) for block in blocks]


def _width(columns: list[list[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _lines(columns: list[list[str]]) -> list[str]:
    """Rows of columns, all to the right."""
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _moments(means: Sequence[float | None], stds: Sequence[float | None]) -> list[str]:
    """Means with their standard deviations where there are any, all with as many decimals as the largest call for."""
    known = [[one for one in values if one is not None and math.isfinite(one)] for values in (means, stds)]
    largest = [max(map(abs, values), default=0.0) for values in known]
    # four digits of numbers alone; three of means, or two of the standard deviations beside them
    places = (2 if known[1] else 3, 1)
    wanted = [digits - math.floor(math.log10(one)) for digits, one in zip(places, largest, strict=True) if one > 0]
    decimals = min(6, max([0, *wanted]))

    def cell(mean: float | None, std: float | None) -> str:
        if mean is None or math.isnan(mean):
            return "-"
        return f"{mean:.{decimals}f}" + ("" if std is None or math.isnan(std) else f" ±{std:.{decimals}f}")

    return [cell(mean, std) for mean, std in zip(means, stds, strict=True)]


def _short(text: str, room: int) -> str:
    """The start of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= room else f"{text[: room - 3]}..."
