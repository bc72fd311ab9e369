"""`prudent align`."""

from dataclasses import fields
from enum import StrEnum
from typing import Annotated

import typer

from prudent.cli._align_words import told_of
from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._named import by_name, named_path
from prudent.cli._options import (
    FILES,
    UTILITY,
    OnlySplitOption,
    OutputFolderOption,
    OverwriteOption,
    PolicyOption,
    PromptsOption,
    SeedOption,
    SkipBadOption,
    TemperatureOption,
    TokensPerBatchOption,
    finite,
    with_option_names,
)
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

SAMPLING = "Sampling"
MONITOR = "Monitor"


class ArmName(StrEnum):
    """The arms by name, spelled here because `--help` must not import torch."""

    mean = "mean"
    lcb = "lcb"
    entropic = "entropic"
    lsc = "lsc"
    bounded = "bounded"
    worst = "worst"
    variance_kl = "variance_kl"
    variance_kl_in_reward = "variance_kl_in_reward"
    sign = "sign"
    signcert = "signcert"


class AlgorithmName(StrEnum):
    """The algorithms by name."""

    rloo = "rloo"
    grpo = "grpo"


@verb(
    panel="Use",
    example="""
    prudent align --policy my-policy --data prompts.jsonl --reward-model rm-posterior --arm variance_kl --output aligned
    prudent align --policy my-policy --data prompts.jsonl --reward-model rm --gold-model bigger-rm --arm lsc \
        --max-steps 200 --output aligned
    prudent align --config align.yaml --max-steps 20 --output aligned
    """,
)
def align(
    common: Common,
    *,
    policy: PolicyOption,
    data: PromptsOption,
    output: OutputFolderOption,
    reward_model: Annotated[
        list[str],
        typer.Option(
            "--reward-model",
            metavar="[NAME=]MODEL",
            help="A reward model or ensemble by hub name or folder, whose posterior is used if there is one; for a"
            " utility of several rewards, each by its NAME.",
            rich_help_panel=FILES,
        ),
    ],
    gold_model: Annotated[
        str | None,
        typer.Option(
            "--gold-model",
            metavar="NAME|FOLDER",
            help="A reward model or ensemble that is taken for the truth. It is watched on held-out prompts, never"
            " trained on.",
            rich_help_panel=FILES,
        ),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            "--references",
            metavar="SCORED",
            help="What `prudent score` wrote of the policy's responses to all prompts, for a utility that centers. By"
            " default they are sampled and scored first.",
            rich_help_panel=FILES,
        ),
    ] = None,
    monitor_data: Annotated[
        str | None,
        typer.Option(
            "--monitor-data",
            metavar="FILE|NAME",
            help="Held-out prompts, none of which is trained on; by default some of --data are held out.",
            rich_help_panel=FILES,
        ),
    ] = None,
    split: OnlySplitOption = None,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    arm: Annotated[
        ArmName,
        typer.Option(
            "--arm",
            help="What is done where the reward is uncertain: nothing (mean), a penalty on it (lcb, entropic, worst of"
            " an ensemble), a bounded gain over the first policy (lsc, bounded), a KL penalty that is strong there"
            " (variance_kl), or a reward that counts less where an advantage could have the other sign (sign,"
            " signcert).",
            rich_help_panel=UTILITY,
        ),
    ] = ArmName.mean,
    utility: Annotated[
        str | None,
        typer.Option(
            "--utility",
            metavar="SPEC|FOLDER",
            help="What a response is worth, such as 'center | log_sigmoid | lcb_std(1)', or what `prudent utility`"
            " saved; by default the mean, or what the arm says.",
            rich_help_panel=UTILITY,
        ),
    ] = None,
    truncation_penalty: Annotated[
        float,
        typer.Option(
            "--truncation-penalty",
            min=0,
            callback=finite,
            help="What a completion loses that is cut at the longest.",
            rich_help_panel=UTILITY,
        ),
    ] = 0.0,
    num_references: Annotated[
        int,
        typer.Option(
            "--num-references", min=2, help="Responses to each prompt that are sampled first.", rich_help_panel=UTILITY
        ),
    ] = 16,
    algorithm: Annotated[
        AlgorithmName,
        typer.Option("--algorithm", help="The KL penalty in the reward, or in the loss.", rich_help_panel=OPTIMIZER),
    ] = AlgorithmName.rloo,
    kl_coef: Annotated[
        float,
        typer.Option(
            "--kl-coef",
            min=0,
            callback=finite,
            help="Of the penalty on the KL to the first policy.",
            rich_help_panel=OPTIMIZER,
        ),
    ] = 0.05,
    kl_weight_floor: Annotated[
        float,
        typer.Option(
            "--kl-weight-floor",
            help="With an arm variance_kl: least weight of it on one response.",
            rich_help_panel=OPTIMIZER,
        ),
    ] = 0.1,
    kl_weight_cap: Annotated[
        float,
        typer.Option(
            "--kl-weight-cap", help="With an arm variance_kl: largest such weight.", rich_help_panel=OPTIMIZER
        ),
    ] = 10.0,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", help="By default 1e-5 with adapters and 1e-6 in full.", rich_help_panel=OPTIMIZER
        ),
    ] = None,
    lr_scheduler_type: LrSchedulerOption = "linear",
    warmup_ratio: WarmupRatioOption = 0.1,
    max_grad_norm: MaxGradNormOption = 1.0,
    num_train_epochs: Annotated[
        float, typer.Option("--num-train-epochs", help="Passes over the prompts.", rich_help_panel=STEPS)
    ] = 1.0,
    max_steps: MaxStepsOption = -1,
    prompts_per_step: Annotated[
        int, typer.Option("--prompts-per-step", help="Prompts of an optimizer step.", rich_help_panel=STEPS)
    ] = 8,
    num_generations: Annotated[
        int,
        typer.Option("--num-generations", help="Completions of each, compared with each other.", rich_help_panel=STEPS),
    ] = 4,
    per_device_train_batch_size: Annotated[
        int | None,
        typer.Option(
            "--per-device-train-batch-size",
            "--batch-size",
            help="Completions that go through the policy at once; by default all of a step.",
            rich_help_panel=STEPS,
        ),
    ] = None,
    max_completion_length: Annotated[
        int,
        typer.Option("--max-completion-length", help="Tokens that a completion may have.", rich_help_panel=SAMPLING),
    ] = 256,
    temperature: TemperatureOption = 1.0,
    num_monitor_prompts: Annotated[
        int,
        typer.Option(
            "--num-monitor-prompts",
            help="Held-out prompts, at most, and at most a fifth of --data without --monitor-data. Advice about"
            " stopping takes 8, and gold.",
            rich_help_panel=MONITOR,
        ),
    ] = 32,
    num_monitor_completions: Annotated[
        int, typer.Option("--num-monitor-completions", help="Completions of each.", rich_help_panel=MONITOR)
    ] = 4,
    monitor_every: Annotated[
        float,
        typer.Option(
            "--monitor-every",
            help="Steps between looks at them, and between checkpoints to resume from; a share of all below 1.",
            rich_help_panel=MONITOR,
        ),
    ] = 0.1,
    lora: Annotated[
        bool, typer.Option("--lora/--full", help="Train adapters, or every weight.", rich_help_panel=ADAPTER)
    ] = True,
    lora_r: LoraRankOption = 16,
    lora_alpha: LoraAlphaOption = 32,
    logging_steps: Annotated[
        int, typer.Option("--logging-steps", help="Steps between records of the training.", rich_help_panel=MACHINE)
    ] = 1,
    gradient_checkpointing: GradientCheckpointingOption = False,
    bf16: Bf16Option = None,
    use_cpu: UseCpuOption = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            "--report-to",
            help="An integration of Transformers to log to, by default tensorboard, or none; repeatable. Completions"
            " are shown in TensorBoard alone.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    tokens_per_batch: TokensPerBatchOption = None,
    seed: SeedOption = 0,
) -> Outcome:
    """Align a policy: train it on a reward model by reinforcement learning, careful where the reward is uncertain.

    On held-out prompts it is told from time to time what the policy gains in the reward, in gold where there is a model
    of it, how far it has moved, and in the end whether it should have been stopped. A run that was cut off, even
    killed, goes on from its last checkpoint when the same command is started again. Needs the extra `align`.
    """
    from prudent.alignment.rlhf import AlignConfig
    from prudent.alignment.rlhf import align as align_policy

    models = by_name("--reward-model", [named_path(one) for one in reward_model])
    try:
        config = AlignConfig(
            arm=arm.value,
            utility=utility,
            algorithm=algorithm.value,
            kl_coef=kl_coef,
            kl_weight_floor=kl_weight_floor,
            kl_weight_cap=kl_weight_cap,
            learning_rate=learning_rate,
            num_train_epochs=num_train_epochs,
            max_steps=max_steps,
            prompts_per_step=prompts_per_step,
            num_generations=num_generations,
            per_device_train_batch_size=per_device_train_batch_size,
            max_completion_length=max_completion_length,
            temperature=temperature,
            truncation_penalty=truncation_penalty,
            num_references=num_references,
            lora=lora,
            lora_r=lora_r,
            lora_alpha=lora_alpha,
            lr_scheduler_type=lr_scheduler_type,
            warmup_ratio=warmup_ratio,
            max_grad_norm=max_grad_norm,
            num_monitor_prompts=num_monitor_prompts,
            num_monitor_completions=num_monitor_completions,
            monitor_every=monitor_every,
            logging_steps=logging_steps,
            gradient_checkpointing=gradient_checkpointing,
            bf16=bf16,
            use_cpu=use_cpu,
            tokens_per_batch=tokens_per_batch,
            report_to=tuple(name for name in report_to or ("tensorboard",) if name != "none"),
            seed=seed,
        )
    except ValueError as error:
        names = [field.name for field in fields(AlignConfig)]
        raise typer.BadParameter(with_option_names(str(error), names)) from error
    summary = align_policy(
        policy,
        data,
        output,
        reward_model=models.get("", models),
        gold_model=gold_model,
        references=references,
        monitor_prompts=monitor_data,
        config=config,
        split=split,
        skip_bad=skip_bad,
        overwrite=overwrite,
        progress=common.progress,
    )
    return Outcome(summary.to_dict(), told_of(summary))
