"""`prudent report`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome, table
from prudent.cli._named import labeled
from prudent.cli._options import FILES, UTILITY, NumBootstrapOption, OnePolicyOption, SeedOption, refuse

if TYPE_CHECKING:
    from prudent.evaluation import BestOfNStudy


_NUM_BOOTSTRAP = 1000


class Scale(StrEnum):
    """The scales of gold."""

    gold = "gold"
    gold_standardized = "gold_standardized"
    gold_length_adjusted = "gold_length_adjusted"


@verb(
    panel="Look",
    example="""
    prudent report --data scored.parquet --output report.html
    prudent report --data scored.parquet --evaluation evaluation.json --output report.html
    prudent report --data scored.parquet --utility mean --utility careful="lcb_std(2)" --output report.html
    prudent report --data aligned --output alignment.html
    """,
)
def report(
    common: Common,
    *,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="SCORED|FOLDER",
            help="What `prudent score` wrote; or the folder of an aligned policy, or one that holds several: arms, and"
            " seeds of each.",
            rich_help_panel=FILES,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="FILE.html",
            help="The page; its figures become FILE_gold.png and so on.",
            rich_help_panel=FILES,
        ),
    ],
    title: Annotated[str | None, typer.Option("--title", help="The heading of the page.")] = None,
    scale: Annotated[
        Scale,
        typer.Option(
            "--scale", help="Gold as given, standardized within prompts, or with length partialled out as well."
        ),
    ] = Scale.gold,
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            "--evaluation",
            metavar="FILE.json",
            help="What `prudent evaluate` wrote, to show held-out pairs too; repeat it for up to six.",
            rich_help_panel=FILES,
        ),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            metavar="FILE.json",
            help="What `prudent evaluate --benchmark` wrote, to show it too; repeat it for up to twelve.",
            rich_help_panel=FILES,
        ),
    ] = None,
    utility: Annotated[
        list[str] | None,
        typer.Option(
            "--utility",
            metavar="[NAME=]SPEC|FOLDER",
            help="A utility to show, such as 'center(mean) | lcb_std(2)', with NAME= under a name of your own; give it"
            " again for several, which are compared with the first. By default, the usual ones for these rewards.",
            rich_help_panel=UTILITY,
        ),
    ] = None,
    one_policy: OnePolicyOption = None,
    num_bootstrap: NumBootstrapOption = _NUM_BOOTSTRAP,
    seed: SeedOption = 0,
) -> Outcome:
    """Show whether optimising the reward helped or hacked: one page that opens offline, and its figures."""
    from prudent.reports import alignment_folders, alignment_report
    from prudent.reports import report as write_report

    if folders := alignment_folders(data):
        why = "is about scored responses, and not about aligned policies"
        of_responses = {
            "--evaluation": evaluation,
            "--benchmark": benchmark,
            "--utility": utility,
            "--scale": None if scale is Scale.gold else scale,
            "--one-policy": one_policy,
            "--num-bootstrap": None if num_bootstrap == _NUM_BOOTSTRAP else num_bootstrap,
            "--seed": seed or None,
        }
        refuse(of_responses, why)
        shown = alignment_report(folders, output, title=title, command=common.typed)
        told = [_aligned(shown.rows), *shown.notes, f"report in {shown.html}"]
        return Outcome({"output": shown.html, "figures": shown.figures, "arms": shown.rows}, "\n".join(told))

    chosen: dict[str, Any] = {"utilities": labeled(utility)} if utility else {}
    written = write_report(
        data,
        output,
        title=title,
        scale=scale.value,
        evaluations=evaluation or (),
        benchmarks=benchmark or (),
        command=common.typed,
        one_policy=one_policy,
        num_bootstrap=num_bootstrap,
        seed=seed,
        **chosen,
    )
    study = next(iter(written.studies.values()))
    result = {
        "output": written.html,
        "figures": written.figures,
        "counts": asdict(study.counts),
        "notes": list(study.notes),
        "utilities": {curve.key: curve.rows(study.n_values) for curve in study.curves},
    }
    return Outcome(result, "\n".join([last_points(study), *study.notes, f"report in {written.html}"]))


def _aligned(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each arm came to, as a table."""
    header = {"kl": "KL", "proxy_gain": "proxy gain", "gold_gain": "gold gain", "length": "tokens"}
    known = {name: label for name, label in header.items() if any(row[name] for row in rows)}
    body = [[row["label"], row["num_seeds"], *((row[name] or {}).get("value") for name in known)] for row in rows]
    return table(["arm", "seeds", *known.values()], body)


def last_points(study: "BestOfNStudy") -> str:
    """Each curve at the largest n, as a table."""
    header = ["utility", "n", "gold", "low", "high", "proxy"]
    rows = [[curve.label, *(curve.rows(study.n_values)[-1][key] for key in header[1:])] for curve in study.curves]
    return table(header, rows)
