"""`prudent select`."""

import json
from typing import Annotated, Any

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._options import (
    FILES,
    RULES,
    CenteredOption,
    NumStdOption,
    RiskAversionOption,
    Rule,
    ScoredOption,
    SeedOption,
    VarianceWeightOption,
)


@verb(
    panel="Use",
    example="""
    prudent select --data scored.parquet --rule lcb_std --num-std 1 --output picks.jsonl
    prudent select --data scored.parquet --rule prob_best --output picks.jsonl --curve curve.json
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
            help="Also what the rule picks out of n, for a grid of n: KL, proxy and gold reward.",
            rich_help_panel=FILES,
        ),
    ] = None,
    exclude_unscored: Annotated[
        bool,
        typer.Option(
            "--exclude-unscored",
            help="Leave out responses without a reward, and count them, instead of stopping.",
            rich_help_panel=FILES,
        ),
    ] = False,
    rule: Annotated[
        Rule, typer.Option("--rule", help="What a response is worth; worst is for ensembles.", rich_help_panel=RULES)
    ] = Rule.lcb_std,
    num_std: NumStdOption = 1.0,
    variance_weight: VarianceWeightOption = 1.0,
    risk_aversion: RiskAversionOption = 1.0,
    centered: CenteredOption = False,
    seed: SeedOption = 0,
) -> Outcome:
    """Pick the best response of each prompt, under a rule that counts what the model does not know."""
    from prudent.evaluation import rule_curve
    from prudent.models import atomic_file
    from prudent.scoring import read_scored
    from prudent.scoring import select as select_responses

    how: dict[str, Any] = {
        "rule": rule.value,
        "num_std": num_std,
        "variance_weight": variance_weight,
        "risk_aversion": risk_aversion,
        "centered": bool(centered),
        "seed": seed,
    }
    pool = read_scored(data)
    summary = select_responses(pool, output, exclude_unscored=exclude_unscored, **how)
    found = summary.to_dict()
    if curve is not None:
        found["curve"] = rule_curve(pool, progress=common.progress, **how).to_dict()
        with atomic_file(curve) as temporary:
            temporary.write_text(json.dumps(found["curve"], indent=2) + "\n", encoding="utf-8")
    text = (
        f"{summary.num_prompts:,} picks out of {summary.num_candidates:,} responses in {output}, by {summary.rule} on "
        f"the {'centered' if summary.centered else 'marginal'} variance: mean reward {summary.mean_reward:.4g}"
    )
    without = ""
    if summary.num_calibration_prompts:
        without = f" without the {summary.num_calibration_prompts:,} prompts that the members were calibrated on"
    remarks = {
        f"mean std {summary.mean_std or 0:.4g}": summary.mean_std is not None,
        f"mean gold {summary.mean_gold or 0:.4g}{without}": summary.mean_gold is not None,
        f"{summary.num_prompts_with_ties:,} prompts with ties, drawn at random": summary.num_prompts_with_ties,
        f"{summary.num_excluded:,} responses excluded, not scored": summary.num_excluded,
    }
    return Outcome(found, "; ".join([text, *(remark for remark, holds in remarks.items() if holds)]))
