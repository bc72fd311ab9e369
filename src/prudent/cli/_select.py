"""`prudent select`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._named import one_utility
from prudent.cli._options import FILES, UTILITY, ScoredOption, SeedOption, UtilityOption, refuse


@verb(
    panel="Use",
    example="""
    prudent select --data scored.parquet --utility "lcb_std(2)" --output picks.jsonl
    prudent select --data scored.parquet --utility "center(mean) | lcb_var(0.5)" --output picks.jsonl
    prudent select --data scored.parquet --utility prob_best --output picks.jsonl --curve curve.json
    prudent select --data scored.parquet --utility mean --strategy "pessimism(0.5)" --output picks.jsonl
    """,
)
def select(
    common: Common,
    *,
    data: ScoredOption,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="FILE",
            help="The pick of each prompt, as .jsonl, .parquet or .csv.",
            rich_help_panel=FILES,
        ),
    ],
    curve: Annotated[
        str | None,
        typer.Option(
            "--curve",
            metavar="FILE.json",
            help="Also what the utility picks out of n, for a grid of n: KL, proxy and gold reward.",
            rich_help_panel=FILES,
        ),
    ] = None,
    exclude_unscored: Annotated[
        bool,
        typer.Option(
            "--exclude-unscored",
            help="Leave out responses without a utility (or an embedding, for --strategy mbr or consensus), and prompts"
            " that have no others, and count them, instead of stopping.",
            rich_help_panel=FILES,
        ),
    ] = False,
    utility: UtilityOption = "lcb_std",
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            metavar="SPEC",
            help="How one is picked by the utility, instead of the best: 'top_k(64)', any of the top 1 in 64;"
            " 'soft(0.5)', at a temperature; 'pessimism(0.5)', with a penalty; 'mbr(2)', with a weight on resembling"
            " the others, or 'consensus', by that alone (both need `prudent score --embeddings`). The pick is drawn,"
            " with --seed.",
            rich_help_panel=UTILITY,
        ),
    ] = None,
    seed: SeedOption = 0,
) -> Outcome:
    """Pick the best response of each prompt, under a utility that counts what the model does not know."""
    utility = one_utility(utility)
    if strategy is not None:
        refuse(
            {"--curve": curve},
            "is of the best of n, and --strategy picks otherwise; prudent report and overopt compare strategies",
        )
    from prudent.evaluation import utility_curve
    from prudent.models import atomic_file
    from prudent.scoring import read_scored, require_apart
    from prudent.scoring import select as select_responses

    if curve is not None:
        if Path(curve).resolve() == Path(output).resolve():
            raise typer.BadParameter(f"--curve and --output are both {curve}: one would replace the other")
        require_apart(curve, [data])
    pool = read_scored(data)
    summary = select_responses(
        pool, output, utility=utility, strategy=strategy, exclude_unscored=exclude_unscored, seed=seed
    )
    found = summary.to_dict()
    if curve is not None:
        found["curve"] = utility_curve(pool, utility=utility, seed=seed, progress=common.progress).to_dict()
        with atomic_file(curve) as temporary:
            temporary.write_text(json.dumps(found["curve"], indent=2) + "\n", encoding="utf-8")
    text = (
        f"{summary.num_prompts:,} picks out of {summary.num_candidates:,} responses in {output}, by {summary.utility}"
        f"{'' if summary.strategy is None else ', ' + summary.strategy}: "
        f"{', '.join(_average(name, mean, summary.mean_std[name]) for name, mean in summary.mean_reward.items())}"
    )
    embedded = " or an embedding" if (summary.strategy or "").startswith(("mbr", "consensus")) else ""
    without = ""
    if summary.num_calibration_prompts:
        without = f" without the {summary.num_calibration_prompts:,} prompts that the members were calibrated on"
    remarks = {
        f"mean gold {summary.mean_gold or 0:.4g}{without}": summary.mean_gold is not None,
        f"{summary.num_prompts_with_ties:,} prompts with ties, drawn at random": (
            summary.num_prompts_with_ties and strategy is None
        ),
        f"{summary.num_excluded:,} responses excluded, without a utility{embedded}": summary.num_excluded,
        f"{summary.num_prompts_excluded:,} prompts without a pick": summary.num_prompts_excluded,
    }
    return Outcome(found, "; ".join([text, *(remark for remark, holds in remarks.items() if holds)]))


def _average(name: str, mean: float | None, std: float | None) -> str:
    """What the picks of all prompts have of a reward."""
    known = "unknown" if mean is None else f"{mean:.4g}"
    return f"mean {name} {known}{'' if std is None else f' (std {std:.4g})'}"
