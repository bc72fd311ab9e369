"""`prudent fit`."""

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._fit_words import describe
from prudent.cli._options import (
    FILES,
    EvalSplitOption,
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

if TYPE_CHECKING:
    from prudent.posteriors import EnsembleFitResult, PriorChoice

__all__ = [
    "LORA_KINDS",
    "POSTERIOR",
    "ArchitectureName",
    "DiversityName",
    "HeadName",
    "PoolingName",
    "PosteriorName",
    "fit",
]

POSTERIOR = "Posterior"
LORA = "Posterior over LoRA weights"
HEADS = "Members on shared features"


class PosteriorName(StrEnum):
    """The kinds of posterior that can be fitted."""

    last_layer = "last_layer"
    kron = "kron"
    ekfac = "ekfac"
    diag = "diag"
    full = "full"
    heads = "heads"
    classification = "classification"
    mean_variance = "mean_variance"
    quantile = "quantile"


LORA_KINDS = (PosteriorName.kron, PosteriorName.ekfac, PosteriorName.diag, PosteriorName.full)


class PoolingName(StrEnum):
    """What the last layer, or heads, read."""

    head = "head"
    mean = "mean"


class HeadName(StrEnum):
    """What happens to the head."""

    refit = "refit"
    kept = "kept"


class ArchitectureName(StrEnum):
    """What a head is."""

    linear = "linear"
    mlp = "mlp"


class DiversityName(StrEnum):
    """How a draw from the prior keeps heads apart."""

    anchor = "anchor"
    prior_function = "prior_function"


@verb(
    panel="Make",
    example="""
    prudent fit --model rm --data pairs.jsonl --posterior ekfac --eval-data heldout.jsonl --output rm-posterior
    prudent fit --model org/reward-model --data pairs.jsonl --posterior last_layer --head kept --output rm-posterior
    """,
)
def fit(
    common: Common,
    *,
    model: ModelOption,
    data: PreferencesOption,
    output: OutputFolderOption,
    eval_data: Annotated[
        str | None,
        typer.Option(
            "--eval-data",
            metavar="FILE|NAME",
            help="Held-out preferences: which prior precision they prefer, and how well they are predicted. No prompt"
            " may stand in both.",
            rich_help_panel=FILES,
        ),
    ] = None,
    split: SplitOption = "train",
    eval_split: EvalSplitOption = None,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    posterior: Annotated[
        PosteriorName,
        typer.Option(
            "--posterior",
            help="Over the weights of the last layer (last_layer); over those of a LoRA adapter and the head, by what"
            " is kept of their curvature (kron, ekfac, diag, full); or many heads on the same features, by what each is"
            " trained for: pairs (heads), whether a response won (classification), pairs with a noise of each text"
            " (mean_variance), or absolute scores, in pools with gold (quantile).",
            rich_help_panel=POSTERIOR,
        ),
    ] = PosteriorName.last_layer,
    prior_precision: Annotated[
        str,
        typer.Option(
            "--prior-precision",
            metavar="NUMBER|evidence|held_out",
            help="A number; the one of highest marginal likelihood; or the one under which the held-out pairs are most"
            " likely.",
            rich_help_panel=POSTERIOR,
        ),
    ] = "evidence",
    posterior_temperature: Annotated[
        float,
        typer.Option(
            "--posterior-temperature",
            min=1e-12,
            help="Factor on the covariance of the posterior; 1 is Bayes.",
            rich_help_panel=POSTERIOR,
        ),
    ] = 1.0,
    head: Annotated[
        HeadName | None,
        typer.Option(
            "--head",
            help="Move the head to the mode of the posterior (and save it), or keep it as trained. By default"
            " last_layer moves it; LoRA kinds always keep it, linear heads replace it by their average.",
            rich_help_panel=POSTERIOR,
        ),
    ] = None,
    pooling: Annotated[
        PoolingName,
        typer.Option(
            "--pooling",
            help="What last_layer and heads read: what the model's own head reads, or the mean over tokens.",
            rich_help_panel=POSTERIOR,
        ),
    ] = PoolingName.head,
    standardize: Annotated[
        bool,
        typer.Option(
            "--standardize/--no-standardize",
            help="For last_layer: put the prior on features of unit variance.",
            rich_help_panel=POSTERIOR,
        ),
    ] = True,
    per_layer: Annotated[
        bool,
        typer.Option(
            "--per-layer",
            help="A prior precision of its own for each weight matrix; not for full.",
            rich_help_panel=LORA,
        ),
    ] = False,
    max_rank: Annotated[
        int,
        typer.Option(
            "--max-rank",
            min=1,
            help="For kron and ekfac: directions kept of the longer side of a weight matrix.",
            rich_help_panel=LORA,
        ),
    ] = 64,
    center_rewards_coefficient: Annotated[
        float | None,
        typer.Option(
            "--center-rewards-coefficient",
            min=0,
            help="The one that the model was trained with; by default as prudent's training recorded it, else 0.",
            rich_help_panel=LORA,
        ),
    ] = None,
    num_members: Annotated[
        int,
        typer.Option("--num-members", help="Heads that are trained together, at least 2.", rich_help_panel=HEADS),
    ] = 10,
    architecture: Annotated[
        ArchitectureName,
        typer.Option(
            "--architecture", help="A linear head, or an MLP with two hidden layers of 128.", rich_help_panel=HEADS
        ),
    ] = ArchitectureName.linear,
    bootstrap: Annotated[
        bool,
        typer.Option(
            "--bootstrap/--no-bootstrap", help="Each head has prompts drawn with replacement.", rich_help_panel=HEADS
        ),
    ] = True,
    diversity: Annotated[
        DiversityName,
        typer.Option(
            "--diversity",
            help="Pull each head to a draw from the prior, or train it on top of one; for linear heads this is the"
            " same.",
            rich_help_panel=HEADS,
        ),
    ] = DiversityName.anchor,
    max_length: MaxLengthOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> Outcome:
    """Fit how sure a reward model is, from preferences, in one pass over their texts.

    The model may be one that prudent trained or any reward model with one output; kron, ekfac, diag and full are for
    LoRA adapters. The folder written holds both the model and its posterior. Under `torchrun`, processes share the
    pairs of a LoRA kind. To an ensemble of models a posterior is fitted member by member, into a new ensemble.
    """
    from prudent.posteriors import fit as fit_posterior
    from prudent.posteriors import fit_ensemble, is_ensemble

    options: dict[str, Any] = {
        "split": split,
        "eval_data": eval_data,
        "eval_split": eval_split,
        "posterior": posterior.value,
        "pooling": pooling.value,
        "head": None if head is None else head.value,
        "standardize": standardize,
        "prior_precision": _prior_precision(prior_precision),
        "per_layer": per_layer,
        "max_rank": max_rank,
        "center_rewards_coefficient": center_rewards_coefficient,
        "posterior_temperature": posterior_temperature,
        "num_members": num_members,
        "architecture": architecture.value,
        "bootstrap": bootstrap,
        "diversity": diversity.value,
        "max_length": max_length,
        "tokens_per_batch": tokens_per_batch,
        "strict": strict,
        "skip_bad": skip_bad,
        "overwrite": overwrite,
        "seed": seed,
        "progress": common.progress,
    }
    if is_ensemble(model):
        fitted = fit_ensemble(model, data, output, **options)
        return Outcome(fitted.to_dict(), _describe_members(fitted, prior_precision))
    result = fit_posterior(model, data, output, **options)
    return Outcome(result.to_dict(), f"{describe(result, prior_precision)}\nmodel and posterior in {output}")


def _describe_members(result: "EnsembleFitResult", prior_precision: str) -> str:
    """The same of each member of an ensemble, then a line on all together."""
    lines = []
    for place, member in enumerate(result.members):
        told = "had been fitted" if member is None else describe(member, prior_precision)
        lines.append(f"member {place + 1} of {len(result.members)}: {told}")
    if (figures := result.figures) is not None:
        lines.append(
            f"together: on {figures.num_pairs:,} held-out pairs accuracy {figures.accuracy:.3f}, negative "
            f"log-likelihood {figures.nll:.4f} nats ({figures.nll_map:.4f} by the mean alone), calibration error "
            f"{figures.ece:.3f}"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes), f"ensemble in {result.output}"])


def _prior_precision(text: str) -> "float | PriorChoice":
    if text == "evidence":
        return "evidence"
    if text == "held_out":
        return "held_out"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise typer.BadParameter(
            f"{text!r} is none of: a positive number, evidence, held_out", param_hint="'--prior-precision'"
        )
    return number
