"""`prudent train`."""

from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._fit import POSTERIOR, PosteriorName
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
    with_option_names,
)
from prudent.cli._train_members import train_members
from prudent.cli._train_posterior import fit_trained, require_fittable, saved_by_train
from prudent.cli._training_options import (
    ADAPTER,
    MACHINE,
    OPTIMIZER,
    STEPS,
    Bf16Option,
    GradientCheckpointingOption,
    LoraAlphaOption,
    LoraRankOption,
    LrSchedulerOption,
    MaxGradNormOption,
    MaxStepsOption,
    UseCpuOption,
    WarmupRatioOption,
)

ENSEMBLE = "Ensemble"


class LossName(StrEnum):
    """The losses by name, spelled here because `--help` must not import torch."""

    bradley_terry = "bradley_terry"
    classification = "classification"


class LoraLayers(StrEnum):
    """Which layers get adapters."""

    all = "all"
    upper_half = "upper_half"


@verb(
    panel="Make",
    example="""
    prudent train --model org/base --data pairs.jsonl --eval-data heldout.jsonl --output rm
    prudent train --model org/base --data pairs.jsonl --posterior ekfac --output rm
    prudent train --model org/base --data pairs.jsonl --num-members 5 --output ensemble
    prudent train --config train.yaml --max-steps 20
    """,
)
def train(
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
            help="Preferences to evaluate on; no prompt may stand in both.",
            rich_help_panel=FILES,
        ),
    ] = None,
    split: SplitOption = "train",
    eval_split: EvalSplitOption = None,
    streaming: Annotated[
        bool,
        typer.Option(
            "--streaming",
            help="Read the pairs while training instead of holding them in memory; needs --max-steps.",
            rich_help_panel=FILES,
        ),
    ] = False,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    posterior: Annotated[
        PosteriorName | None,
        typer.Option(
            "--posterior",
            help="Fit a posterior of this kind to the trained model, on the same pairs and into the same folder. `fit`"
            " has all its options.",
            rich_help_panel=POSTERIOR,
        ),
    ] = None,
    num_members: Annotated[
        int | None,
        typer.Option(
            "--num-members",
            help="Train an ensemble: this many models one after another, by the seeds --seed, --seed + 1 and so on.",
            rich_help_panel=ENSEMBLE,
        ),
    ] = None,
    bootstrap: Annotated[
        bool,
        typer.Option(
            "--bootstrap",
            help="Train each member on prompts drawn with replacement by its seed, a prompt with all its pairs.",
            rich_help_panel=ENSEMBLE,
        ),
    ] = False,
    num_train_epochs: Annotated[
        float, typer.Option("--num-train-epochs", help="Passes over the pairs.", rich_help_panel=STEPS)
    ] = 1.0,
    max_steps: MaxStepsOption = -1,
    per_device_train_batch_size: Annotated[
        int,
        typer.Option(
            "--per-device-train-batch-size",
            "--batch-size",
            help="Pairs that go through the model at once.",
            rich_help_panel=STEPS,
        ),
    ] = 8,
    per_device_eval_batch_size: Annotated[
        int,
        typer.Option("--per-device-eval-batch-size", help="The same in evaluation.", rich_help_panel=STEPS),
    ] = 16,
    gradient_accumulation_steps: Annotated[
        int,
        typer.Option(
            "--gradient-accumulation-steps", help="Batches that make one optimizer step.", rich_help_panel=STEPS
        ),
    ] = 1,
    max_length: MaxLengthOption = None,
    strict: StrictOption = False,
    loss: Annotated[
        LossName,
        typer.Option(
            "--loss",
            help="Compare the responses of a pair, or classify each alone as winner or loser (robust to wrong labels;"
            " right about the order, to be calibrated before its differences are read as log-odds).",
            rich_help_panel=OPTIMIZER,
        ),
    ] = LossName.bradley_terry,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="By default it goes by the size of the model.", rich_help_panel=OPTIMIZER),
    ] = None,
    label_smoothing: Annotated[
        float,
        typer.Option(
            "--label-smoothing", help="Probability that a label is taken to be flipped.", rich_help_panel=OPTIMIZER
        ),
    ] = 0.0,
    center_rewards_coefficient: Annotated[
        float,
        typer.Option(
            "--center-rewards-coefficient",
            help="Weight of the squared sum of both rewards; 0 leaves it out.",
            rich_help_panel=OPTIMIZER,
        ),
    ] = 0.0,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Of AdamW.", rich_help_panel=OPTIMIZER)] = 0.0,
    lr_scheduler_type: LrSchedulerOption = "linear",
    warmup_ratio: WarmupRatioOption = 0.1,
    max_grad_norm: MaxGradNormOption = 1.0,
    lora: Annotated[
        bool,
        typer.Option("--lora/--full", help="Train adapters and the head, or every weight.", rich_help_panel=ADAPTER),
    ] = True,
    lora_r: LoraRankOption = 8,
    lora_alpha: LoraAlphaOption = 16,
    lora_dropout: Annotated[
        float, typer.Option("--lora-dropout", help="On the input of adapters.", rich_help_panel=ADAPTER)
    ] = 0.0,
    lora_layers: Annotated[
        LoraLayers,
        typer.Option(
            "--lora-layers",
            help="Layers with adapters; members of an ensemble share the lower half where only the upper one has any.",
            rich_help_panel=ADAPTER,
        ),
    ] = LoraLayers.all,
    logging_steps: Annotated[
        int, typer.Option("--logging-steps", help="Steps between records of the loss.", rich_help_panel=MACHINE)
    ] = 10,
    eval_steps: Annotated[
        float | None,
        typer.Option(
            "--eval-steps",
            help="Steps between evaluations, a share of all below 1; by default at the end alone.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    save_steps: Annotated[
        float,
        typer.Option(
            "--save-steps",
            help="Steps between checkpoints to resume from, a share of all below 1.",
            rich_help_panel=MACHINE,
        ),
    ] = 0.1,
    gradient_checkpointing: GradientCheckpointingOption = False,
    bf16: Bf16Option = None,
    use_cpu: UseCpuOption = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            "--report-to", help="An integration of Transformers to log to; repeatable.", rich_help_panel=MACHINE
        ),
    ] = None,
    seed: SeedOption = 0,
) -> Outcome:
    """Train a reward model on preferences, from a base model or from a reward model.

    A run that was cut off, even killed, goes on from its last checkpoint when the same command is started again. The
    folder written is an ordinary PEFT or Transformers folder; with --posterior, its posterior lies beside it. With
    --num-members it holds one such folder a member, and is scored, evaluated and fitted as one model.
    """
    from prudent.training import TrainingConfig
    from prudent.training import train as train_model

    try:
        config = TrainingConfig(
            loss=loss.value,
            learning_rate=learning_rate,
            num_train_epochs=num_train_epochs,
            max_steps=max_steps,
            per_device_train_batch_size=per_device_train_batch_size,
            per_device_eval_batch_size=per_device_eval_batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            max_length=max_length,
            lora=lora,
            lora_r=lora_r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            lora_layers=lora_layers.value,
            label_smoothing=label_smoothing,
            center_rewards_coefficient=center_rewards_coefficient,
            weight_decay=weight_decay,
            lr_scheduler_type=lr_scheduler_type,
            warmup_ratio=warmup_ratio,
            max_grad_norm=max_grad_norm,
            seed=seed,
            logging_steps=logging_steps,
            eval_steps=eval_steps,
            save_steps=save_steps,
            gradient_checkpointing=gradient_checkpointing,
            bf16=bf16,
            use_cpu=use_cpu,
            report_to=tuple(report_to or ()),
        )
    except ValueError as error:
        names = [field.name for field in fields(TrainingConfig)]
        raise typer.BadParameter(with_option_names(str(error), names)) from error
    require_fittable(posterior, streaming=streaming, lora=lora)
    if bootstrap and num_members is None:
        raise typer.BadParameter("--bootstrap is for the members of an ensemble; give --num-members too")
    source: dict[str, Any] = {
        "eval_data": eval_data,
        "split": split,
        "eval_split": eval_split,
        "strict": strict,
        "skip_bad": skip_bad,
        "progress": common.progress,
    }
    if num_members is not None:
        if streaming:
            raise typer.BadParameter("members share pairs held in memory; leave --streaming or --num-members out")
        kind = None if posterior is None else posterior.value
        return train_members(
            model,
            data,
            output,
            num_members=num_members,
            bootstrap=bootstrap,
            posterior=kind,
            config=config,
            overwrite=overwrite,
            **source,
        )
    fitted, keep_same = None, False
    if posterior is not None:
        fitted, keep_same = saved_by_train(output, posterior, overwrite=overwrite)
    result = train_model(
        model,
        data,
        output,
        streaming=streaming,
        config=config,
        overwrite=overwrite,
        keep_same=keep_same,
        **source,
    )
    verb = "had trained" if result.already_finished else "trained"
    text = (
        f"{verb} {result.num_steps:,} steps in {result.seconds:.0f} s, mean loss {result.train_loss:.4f}; "
        f"model in {result.output}"
    )
    remarks = {
        f"resumed from step {result.resumed_from_step}": result.resumed_from_step,
        f"accuracy {result.accuracy or 0:.3f}, negative log-likelihood {result.nll or 0:.3f} nats on "
        f"{result.num_eval_pairs:,} evaluation pairs": result.accuracy is not None,
        f"{result.num_truncated:,} responses cut": result.num_truncated,
        f"{result.num_skipped:,} pairs skipped as not valid": result.num_skipped,
    }
    told = "; ".join([text, *(remark for remark, holds in remarks.items() if holds)])
    if posterior is None:
        return Outcome(result.to_dict(), told)
    if result.already_finished and fitted is not None:
        return Outcome({**result.to_dict(), "posterior": fitted}, f"{told}; its posterior {posterior.value} was there")
    entries, more = fit_trained(output, data, posterior, config, source)
    return Outcome({**result.to_dict(), "posterior": entries}, f"{told}\n{more}")
