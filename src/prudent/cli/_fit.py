"""`prudent fit`."""

from enum import StrEnum
from typing import Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._options import (
    MaxLengthOption,
    ModelOption,
    OutputFolderOption,
    OverwriteOption,
    PreferencesOption,
    SeedOption,
    SkipBadOption,
    SplitOption,
    StrictOption,
    TokensPerBatchOption,
)

POSTERIOR = "Posterior"


class PosteriorName(StrEnum):
    """The kinds of posterior that can be fitted."""

    last_layer = "last_layer"


class PoolingName(StrEnum):
    """What the last layer reads."""

    head = "head"
    mean = "mean"


class HeadName(StrEnum):
    """What happens to the head."""

    refit = "refit"
    kept = "kept"


@verb(
    panel="Make",
    example="""
    prudent fit --model rm --data pairs.jsonl --posterior last_layer --output rm-posterior
    prudent fit --model org/reward-model --data pairs.jsonl --head kept --output rm-posterior
    """,
)
def fit(
    common: Common,
    *,
    model: ModelOption,
    data: PreferencesOption,
    output: OutputFolderOption,
    split: SplitOption = "train",
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    posterior: Annotated[
        PosteriorName, typer.Option("--posterior", help="The kind of posterior.", rich_help_panel=POSTERIOR)
    ] = PosteriorName.last_layer,
    pooling: Annotated[
        PoolingName,
        typer.Option(
            "--pooling",
            help="What the last layer reads: what the model's own head reads, or the mean over tokens.",
            rich_help_panel=POSTERIOR,
        ),
    ] = PoolingName.head,
    head: Annotated[
        HeadName,
        typer.Option(
            "--head",
            help="Move the head to the mode of the posterior (and save it), or keep it as trained.",
            rich_help_panel=POSTERIOR,
        ),
    ] = HeadName.refit,
    standardize: Annotated[
        bool,
        typer.Option(
            "--standardize/--no-standardize",
            help="Put the prior on features of unit variance.",
            rich_help_panel=POSTERIOR,
        ),
    ] = True,
    prior_precision: Annotated[
        float | None,
        typer.Option(
            "--prior-precision",
            min=1e-12,
            help="By default, the one of highest marginal likelihood.",
            rich_help_panel=POSTERIOR,
        ),
    ] = None,
    posterior_temperature: Annotated[
        float,
        typer.Option(
            "--posterior-temperature",
            min=1e-12,
            help="Factor on the covariance of the posterior; 1 is Bayes.",
            rich_help_panel=POSTERIOR,
        ),
    ] = 1.0,
    max_length: MaxLengthOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> Outcome:
    """Fit how sure a reward model is, from preferences, in one pass over their texts.

    The model may be one that prudent trained or any reward model with one output. The folder written holds both the
    model and its posterior.
    """
    from prudent.posteriors import fit as fit_posterior

    result = fit_posterior(
        model,
        data,
        output,
        split=split,
        posterior=posterior.value,
        pooling=pooling.value,
        head=head.value,
        standardize=standardize,
        prior_precision=prior_precision,
        posterior_temperature=posterior_temperature,
        max_length=max_length,
        tokens_per_batch=tokens_per_batch,
        strict=strict,
        skip_bad=skip_bad,
        overwrite=overwrite,
        seed=seed,
        progress=common.progress,
    )
    text = (
        f"posterior of {result.num_pairs:,} pairs in {output}: prior precision {result.posterior.prior_precision:.4g}, "
        f"log marginal likelihood {result.posterior.log_marginal_likelihood:.4g}, "
        f"accuracy on these pairs {result.train_accuracy:.3f}"
    )
    remarks = {
        f"{result.num_truncated:,} responses cut": result.num_truncated,
        f"{result.num_skipped:,} pairs skipped as not valid": result.num_skipped,
    }
    told = [text, *(remark for remark, holds in remarks.items() if holds), *result.notes]
    return Outcome(result.to_dict(), "; ".join(told))
