"""`prudent reweight`."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._named import one_utility
from prudent.cli._options import FILES, OverwriteOption, ScoredOption, SeedOption, UtilityOption, finite, refuse

if TYPE_CHECKING:
    from prudent.alignment import ReweightSummary

STRENGTH = "Strength"


class KlFormName(StrEnum):
    """How the KL penalty weighs responses."""

    constant = "constant"
    exact = "exact"
    in_reward = "in_reward"


@verb(
    panel="Use",
    example="""
    prudent reweight --data scored.parquet --utility "lcb_std(1)" --target-kl 1 --output weighted.parquet
    prudent reweight --data scored.parquet --utility mean --target-kl 1 --kl-form exact --output weighted.parquet
    prudent reweight --data scored.parquet --utility mean --kl-coef 0.1 --output weighted.parquet \
        --samples sft.jsonl --num-samples 4
    """,
)
def reweight(
    common: Common,
    *,
    data: ScoredOption,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="FILE.parquet",
            help="The scored pool with a column `weight`, which sums to 1 over the responses of a prompt.",
            rich_help_panel=FILES,
        ),
    ],
    samples: Annotated[
        str | None,
        typer.Option(
            "--samples",
            metavar="FILE",
            help="Also responses drawn by the weights, as .jsonl or .parquet with prompt and completion: TRL's format"
            " for supervised fine-tuning.",
            rich_help_panel=FILES,
        ),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(
            "--num-samples",
            min=1,
            help="How many for each prompt, with replacement; by default 1.",
            rich_help_panel=FILES,
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE|NAME",
            help="The prompts or pool that were scored, for samples whose prompts have several turns.",
            rich_help_panel=FILES,
        ),
    ] = None,
    conversational: Annotated[
        bool,
        typer.Option(
            "--conversational/--plain-text",
            help="Samples as messages, for models with a chat template, or as texts to be read one after the other.",
            rich_help_panel=FILES,
        ),
    ] = True,
    overwrite: OverwriteOption = False,
    exclude_unscored: Annotated[
        bool,
        typer.Option(
            "--exclude-unscored",
            help="Leave out responses without a utility and count them, instead of stopping.",
            rich_help_panel=FILES,
        ),
    ] = False,
    utility: UtilityOption = "lcb_std",
    target_kl: Annotated[
        float | None,
        typer.Option(
            "--target-kl",
            min=1e-6,
            callback=finite,
            help="How far to move from the policy that wrote the pool, in nats, on average over prompts. With n"
            " responses a prompt it is below ln n.",
            rich_help_panel=STRENGTH,
        ),
    ] = None,
    per_prompt: Annotated[
        bool,
        typer.Option(
            "--per-prompt",
            help="Reach --target-kl for each prompt, by a coefficient of its own.",
            rich_help_panel=STRENGTH,
        ),
    ] = False,
    kl_coef: Annotated[
        float | None,
        typer.Option(
            "--kl-coef",
            min=1e-12,
            callback=finite,
            help="The coefficient of the KL penalty, in units of the utility, instead of a target.",
            rich_help_panel=STRENGTH,
        ),
    ] = None,
    kl_form: Annotated[
        KlFormName,
        typer.Option(
            "--kl-form",
            help="The KL penalty alike for all responses, or weighted by the variance that the utility's last step"
            " reads: exactly (a small KL, of some tenths of a nat,"
            " may then be out of reach), or as policy gradients have it that add it to the reward.",
            rich_help_panel=STRENGTH,
        ),
    ] = KlFormName.constant,
    seed: SeedOption = 0,
) -> Outcome:
    """Align offline: weigh stored responses by a utility, as far from their policy as a KL allows, and draw by it.

    The weights are what reinforcement learning with that KL penalty would tend to, if the policy could only choose
    among the responses of the pool, which one policy must have written.
    """
    utility = one_utility(utility)
    if (target_kl is None) == (kl_coef is None):
        raise typer.BadParameter("give either --target-kl, how far to move, or --kl-coef")
    if target_kl is None:
        refuse({"--per-prompt": per_prompt or None}, "is for --target-kl; with --kl-coef all prompts have the same")
    if samples is None:
        refuse(
            {"--num-samples": num_samples, "--prompts": prompts, "--plain-text": None if conversational else True},
            "is for --samples, which is not given",
        )
    from prudent.alignment import reweight_pool

    summary = reweight_pool(
        data,
        output,
        utility=utility,
        target_kl=target_kl,
        kl_coef=kl_coef,
        per_prompt=per_prompt,
        kl_form=kl_form.value,
        samples=samples,
        num_samples=num_samples,
        prompts=prompts,
        conversational=conversational,
        exclude_unscored=exclude_unscored,
        seed=seed,
        overwrite=overwrite,
    )
    return Outcome(summary.to_dict(), _told(summary))


def _told(summary: "ReweightSummary") -> str:
    low, high = (f"{one:.4g}" for one in (summary.min_kl_coef, summary.max_kl_coef))
    form = "" if summary.kl_form == "constant" else f", weighted by the variance ({summary.kl_form})"
    text = (
        f"weights of {summary.num_candidates:,} responses to {summary.num_prompts:,} prompts in {summary.output}, by "
        f"{summary.utility}: mean KL {summary.mean_kl:.4g}, KL coefficient {low if low == high else f'{low} to {high}'}"
        f"{form}; {summary.mean_effective_sample_size:.4g} responses effective a prompt (least "
        f"{summary.min_effective_sample_size:.4g}); mean utility {summary.mean_utility_before:.4g} before, "
        f"{summary.mean_utility_after:.4g} after"
    )
    gold = ""
    if summary.mean_gold_after is not None:
        gold = (
            f"mean gold {summary.mean_gold_before:.4g} before, {summary.mean_gold_after:.4g} after, a gain of "
            f"{summary.gold_gain:.4g} [{summary.gold_gain_low:.4g}, {summary.gold_gain_high:.4g}] (95 % interval over "
            f"{summary.num_prompts_with_gold:,} prompts)"
        )
    remarks = {
        gold: gold,
        f"of {summary.num_prompts_thin:,} prompts fewer than ten responses are effective, a thin base for these "
        "figures; ask for less KL, or score more responses a prompt": summary.num_prompts_thin,
        f"{summary.num_samples:,} samples, {summary.num_distinct_samples:,} distinct, in {summary.samples}": (
            summary.num_samples
        ),
        f"{summary.num_prompts_short:,} prompts cannot have the KL asked for, and are as near as they can be": (
            summary.num_prompts_short
        ),
        f"{summary.num_flattened:,} prompts look like several turns, and are one user message in the samples; give the"
        " file that was scored by --prompts": summary.num_flattened,
        f"{summary.num_excluded:,} responses excluded, without a utility": summary.num_excluded,
        f"{summary.num_prompts_excluded:,} prompts without weights": summary.num_prompts_excluded,
    }
    return "; ".join([text, *(remark for remark, holds in remarks.items() if holds)])
