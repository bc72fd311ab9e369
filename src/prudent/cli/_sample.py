"""`prudent sample`."""

from typing import TYPE_CHECKING, Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._options import (
    FILES,
    DtypeOption,
    OnlySplitOption,
    OverwriteOption,
    PolicyOption,
    PromptsOption,
    SeedOption,
    SkipBadOption,
    TemperatureOption,
    TokensPerBatchOption,
    finite,
)

if TYPE_CHECKING:
    from prudent.sampling import SampleSummary

SAMPLING = "Sampling"


@verb(
    panel="Use",
    example="""
    prudent sample --policy my-policy --data prompts.jsonl --num-candidates 64 --output pool.parquet
    prudent sample --policy my-policy --data preferences.jsonl --num-prompts 100 --temperature 0.7 \
        --gold-model gold-rm --output pool.parquet
    """,
)
def sample(
    common: Common,
    *,
    policy: PolicyOption,
    data: PromptsOption,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="FILE",
            help="The pool, as .parquet or .jsonl: a row a prompt, with its responses.",
            rich_help_panel=FILES,
        ),
    ],
    gold_model: Annotated[
        str | None,
        typer.Option(
            "--gold-model",
            metavar="NAME|FOLDER",
            help="A reward model or ensemble whose mean is taken for the true reward, gold.",
            rich_help_panel=FILES,
        ),
    ] = None,
    split: OnlySplitOption = None,
    num_prompts: Annotated[
        int | None,
        typer.Option("--num-prompts", min=1, help="Take the first so many prompts only.", rich_help_panel=FILES),
    ] = None,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    num_candidates: Annotated[
        int, typer.Option("--num-candidates", min=1, help="Responses to each prompt.", rich_help_panel=SAMPLING)
    ] = 16,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="Tokens that a response may have; a longer one is cut, and marked by finish_reason 'length'.",
            rich_help_panel=SAMPLING,
        ),
    ] = 256,
    temperature: TemperatureOption = 1.0,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            min=1e-6,
            max=1,
            callback=finite,
            help="Draw from the likeliest tokens that together have this probability.",
            rich_help_panel=SAMPLING,
        ),
    ] = 1.0,
    top_k: Annotated[
        int,
        typer.Option(
            "--top-k", min=0, help="Draw from so many of the likeliest tokens; 0 for all.", rich_help_panel=SAMPLING
        ),
    ] = 0,
    chat_template: Annotated[
        bool,
        typer.Option(
            "--chat-template/--no-chat-template",
            help="Read prompts by the tokenizer's chat template, where it has one, or as plain text to go on from.",
            rich_help_panel=SAMPLING,
        ),
    ] = True,
    dtype: DtypeOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    seed: SeedOption = 0,
) -> Outcome:
    """Sample a pool: several responses of a policy to each prompt, with their gold where there is a model of it.

    Responses are written as they are drawn; a run that was cut off goes on where it stopped when it is started again,
    and gives what it would have given at once.
    """
    from prudent.sampling import sample_pool

    summary = sample_pool(
        policy,
        data,
        output,
        num_candidates=num_candidates,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        chat_template=chat_template,
        gold_model=gold_model,
        split=split,
        num_prompts=num_prompts,
        dtype=None if dtype is None else dtype.value,
        tokens_per_batch=tokens_per_batch,
        skip_bad=skip_bad,
        overwrite=overwrite,
        seed=seed,
        progress=common.progress,
    )
    return Outcome(summary.to_dict(), _told(summary))


def _told(summary: "SampleSummary") -> str:
    template = "by the chat template" if summary.chat_template else "as plain text"
    text = (
        f"{summary.num_responses:,} responses to {summary.num_prompts:,} prompts in {summary.output}, "
        f"{summary.mean_tokens:.4g} tokens on average; prompts read {template}"
    )
    remarks = {
        "no token of the policy ends a text": not summary.can_stop,
        f"{summary.num_cut:,} cut at the longest": summary.num_cut,
        f"{summary.num_empty:,} empty": summary.num_empty,
        f"{summary.num_repeated:,} repeated": summary.num_repeated,
        f"mean gold {summary.mean_gold or 0:.4g}": summary.mean_gold is not None,
        f"{summary.num_without_gold:,} without gold (not finite)": summary.num_without_gold,
        f"{summary.num_skipped:,} rows skipped as not valid or too long": summary.num_skipped,
    }
    return "; ".join([text, *(remark for remark, holds in remarks.items() if holds)])
