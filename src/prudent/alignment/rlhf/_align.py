"""`align`: a policy, prompts and a reward model in; a moved policy out, watched on held-out prompts."""

import warnings
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError

from prudent.alignment._arms import parse_arm
from prudent.alignment._early_stop import best_step, early_stop_advice, why_no_advice
from prudent.alignment._memory import out_of_memory
from prudent.alignment._reward import PrudentReward
from prudent.alignment.rlhf._align_config import LESS_AT_ONCE, AlignConfig, trl_arguments
from prudent.alignment.rlhf._align_folder import (
    AlignFolder,
    check_reference,
    fitted_references,
    sampled_references,
)
from prudent.alignment.rlhf._align_inputs import (
    AlignPrompts,
    RewardModels,
    check_reward,
    content_digest,
    is_saved,
    load_gold,
    load_policy,
    monitor_cautions,
    needs_references,
    prompts_for,
    trainer_prompt,
)
from prudent.alignment.rlhf._align_result import AlignSummary, align_card
from prudent.alignment.rlhf._align_trainer import ProgressCallback, make_trainer
from prudent.alignment.rlhf._monitor import Gold, Monitor, MonitorCallback
from prudent.alignment.rlhf._monitor_tables import MonitorTables
from prudent.alignment.rlhf._policy_kl import Reference, reference_of
from prudent.alignment.rlhf._stated import Stated, keep_model_alone
from prudent.data import DataSource
from prudent.errors import DataError
from prudent.models import load_causal_model, quiet_transformers
from prudent.sampling import Policy
from prudent.training import (
    CheckpointCallback,
    model_identity,
    own_random_state,
    require_apart,
    require_finite_weights,
    write_error,
)
from prudent.utility import Utility

__all__ = ["align"]

_TOKENS_PER_BATCH = 16_384


def align(
    policy: str | Path,
    prompts: DataSource,
    output: str | Path,
    *,
    reward_model: RewardModels,
    gold_model: str | Path | Gold | None = None,
    references: str | Path | None = None,
    monitor_prompts: DataSource | None = None,
    config: AlignConfig | None = None,
    split: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> AlignSummary:
    """Train a policy on a reward that may be wrong, by RLOO or GRPO, and watch it on held-out prompts.

    Everything is loaded and checked before anything takes long. Where the utility compares with the first policy
    (`center`), and no references are given, so many responses of it to every prompt are sampled and scored first.

    Completions are drawn from the policy's distribution at the temperature, whatever its checkpoint says of generation
    beside special tokens; that is saved with the trained policy as it was.

    The output is an ordinary Transformers or PEFT folder, with `monitor.parquet` (a row a look at the held-out prompts:
    proxy, gold, KL to the first policy, length, ...), `samples.parquet` (a row a completion) and `align_result.json`.
    Killed and started again with the same arguments, a run resumes from its last whole checkpoint and gives the
    same figures and weights; when finished, it only reports.

    Args:
        policy: hub name or folder of a causal language model, or of a PEFT adapter on one.
        prompts: to train on, anything that `prudent.data.load_prompts` reads. A text is what a user says to a policy
            with a chat template, and what one without goes on from.
        output: folder to write to.
        reward_model: folder or hub name of a reward model or ensemble, a posterior beside it is used; or several by the
            names in the utility.
        gold_model: what is taken for the truth: a reward model by folder or name, or a function of prompts and
            responses. It is only watched, never trained on. A function is known by its name alone: change what it does,
            and the run passes for the same.
        references: a scored file, as `score` writes it, with responses of the first policy to all prompts; for a
            utility that compares with them.
        monitor_prompts: held-out prompts, none of which may be trained on; by default some of `prompts` are held out.
        config: options; by default those of `AlignConfig`.
        split: the split of `prompts` that have several; by default the only one.
        skip_bad: leave faulty rows and over-long prompts out instead of raising.
        overwrite: discard what an earlier run left in `output`, but for an unfinished run with the same settings.
        progress: show progress with rate and time left on standard error.

    Returns:
        Figures of the run, and advice about stopping.

    Raises:
        ValueError: options that do not go together.
        DataError: prompts cannot be used or are in both sets; or the reward model lacks what utility or arm need.
        ModelError: a model cannot be loaded or saved, training diverged, memory ran out, the reference drifted, or
            `output` holds something else.
        UnsupportedError: an integration of `config.report_to` is not installed.
        KeyboardInterrupt: as it came, with a message that says from where the run will resume.

    Example:
        >>> from prudent.alignment.rlhf import AlignConfig, align
        >>> config = AlignConfig(arm="lsc", max_steps=200)
        >>> found = align("my-policy", "prompts.jsonl", "aligned", reward_model="rm", config=config)  # doctest: +SKIP
        >>> found.end["proxy"], found.end["kl"]  # doctest: +SKIP
        (1.93, 4.1)
    """
    config = config or AlignConfig()
    folder = AlignFolder(Path(output))
    if Path(policy).is_dir():
        require_apart(Path(policy), folder.output)
    with own_random_state(), quiet_transformers(), out_of_memory(config.less_to_train()):
        loaded = load_policy(policy, config)
        taken = prompts_for(loaded, prompts, monitor_prompts, config, split=split, skip_bad=skip_bad)
        arguments = trl_arguments(config, folder.checkpoints, total_steps=config.total_steps(len(taken.rows)))
        utility, reward_identity, has_variance = check_reward(reward_model, config)
        gold, gold_identity = load_gold(gold_model, config.tokens_per_batch)
        if references is not None and (is_saved(config) or not needs_references(utility)):
            knows = "knows its own references" if is_saved(config) else "compares with nothing"
            raise DataError(f"references are given, and the utility {utility} {knows}: leave them out")
        settings: dict[str, Any] = {
            "format_version": 1,
            "policy": model_identity(policy),
            "prompts": taken.digest(),
            "reward_model": reward_identity,
            "gold_model": gold_identity,
            "references": None if references is None else content_digest(references, "*.parquet"),
            **config.settings(),
        }
        if is_saved(config):
            settings["utility"] = f"saved {content_digest(config.worth, 'utility.yaml', 'utility.safetensors')}"
        anew = overwrite and not folder.resumes(settings)
        finished = None if anew else folder.finished(settings)
        if finished is not None:
            return replace(AlignSummary.from_dict(finished), already_finished=True)
        run = _Run(loaded, taken, reward_model, utility, gold, config, folder, settings, arguments)
        with TemporaryDirectory() as scratch:
            run.check_references(references, Path(scratch))
            for caution in monitor_cautions(taken, config, is_drawn=monitor_prompts is None, has_gold=gold is not None):
                warnings.warn(caution, stacklevel=2)
            if anew:
                with arguments.main_process_first(local=False):
                    if arguments.should_save:
                        folder.clear()
                folder.finished(settings)  # what no run made is in the way
            run.start(Path(scratch))
            run.sample_references(has_variance=has_variance, progress=progress)
            is_named = isinstance(gold_model, str | Path)
            facts = {"policy": str(policy), "gold_model": str(gold_model) if is_named else gold_identity}
            try:
                return run.train(facts, progress=progress)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"training was interrupted; start it again in the same way to resume from {folder.checkpoints}"
                ) from None


class _Run:
    """One process's part of a run, after the checks."""

    def __init__(
        self,
        policy: Policy,
        prompts: AlignPrompts,
        reward_model: RewardModels,
        utility: Utility,
        gold: Gold | None,
        config: AlignConfig,
        folder: AlignFolder,
        settings: dict[str, Any],
        arguments: Any,
    ) -> None:
        self._policy = policy
        self._prompts = prompts
        self._reward_model = reward_model
        self._utility = utility
        self._gold = gold
        self._config = config
        self._folder = folder
        self._settings = settings
        self._arguments = arguments
        self._budget = config.tokens_per_batch or _TOKENS_PER_BATCH
        self._reward: PrudentReward | None = None

    def check_references(self, references: str | Path | None, scratch: Path) -> None:
        """Make the reward function, unless references have to be sampled first; nothing is written to the output.

        Args:
            references: scored responses of the first policy, where they are given.
            scratch: folder for the utility that is fitted on them.
        """
        if references is not None:
            with out_of_memory(LESS_AT_ONCE):
                worth = fitted_references(references, self._utility, self._reward_model, scratch)
            self._make_reward(worth, told=references)
        elif is_saved(self._config) or not needs_references(self._utility):
            self._make_reward(self._config.worth)

    def start(self, scratch: Path) -> None:
        """Begin or resume, and keep what was fitted on given references."""
        writes = self._arguments.should_save
        try:
            self._checkpoint = self._folder.start(self._settings, writes=writes)
            if writes and any(scratch.iterdir()):
                copytree(scratch, self._folder.references, dirs_exist_ok=True)
        except OSError as error:
            raise write_error(self._folder.output, error) from error

    def sample_references(self, *, has_variance: bool, progress: bool) -> None:
        """Make the reward function of responses of the first policy, where it needs some and has none."""
        if self._reward is not None:
            return
        with self._arguments.main_process_first(local=False), out_of_memory(LESS_AT_ONCE):
            scored = sampled_references(
                self._policy,
                [trainer_prompt(self._policy, row) for row in self._prompts.every_row],
                self._reward_model,
                self._folder.references,
                self._config,
                factor=has_variance,
                progress=progress,
            )
            worth = fitted_references(scored, self._utility, self._reward_model, self._folder.references)
        self._make_reward(worth)

    def _make_reward(self, worth: str | Path, *, told: str | Path | None = None) -> None:
        config = self._config
        self._reward = reward = PrudentReward(
            self._reward_model,
            worth,
            truncation_penalty=config.truncation_penalty,
            max_completion_length=config.max_completion_length,
            eos_token_id=self._policy.eos_token_ids,
            tokens_per_batch=config.tokens_per_batch,
        )
        if parse_arm(config.arm).advantage_weight == "signcert":
            reward.sign_column("signcert")  # said before the model is loaded, which otherwise is loaded twice
        knows = reward.load().knows([trainer_prompt(self._policy, row) for row in self._prompts.rows])
        self._num_unknown = len(knows) - sum(knows)
        if not any(knows):
            raise DataError(
                f"{told or worth} has references of none of the {len(knows):,} prompts, which {self._utility} needs: "
                "sample some of the policy's responses to them and score these, or leave references out"
            )
        if self._num_unknown:
            warnings.warn(
                f"{told or worth} has no references of {self._num_unknown:,} of the {len(knows):,} prompts to train "
                f"on, which {self._utility} needs: these give no signal; leave references out, and they are sampled",
                stacklevel=4,
            )

    def train(self, facts: dict[str, Any], *, progress: bool) -> AlignSummary:
        """Train, from a checkpoint where there is one, and write the folder."""
        config, folder, reward = self._config, self._folder, self._reward
        assert reward is not None, "references come first"
        tables = MonitorTables(folder.output)
        if self._checkpoint is not None:
            tables.resume(int(self._checkpoint.name.removeprefix("checkpoint-")))
        monitor = Monitor(
            [trainer_prompt(self._policy, row) for row in self._prompts.monitor_rows],
            self._prompts.monitor_ids,
            reward=reward,
            gold=self._gold,
            num_completions=config.num_monitor_completions,
            max_completion_length=config.max_completion_length,
            temperature=config.temperature,
            tokens_per_batch=self._budget,
            seed=config.seed,
            tables=tables,
            labels={
                "utility": str(self._utility),
                **{name: getattr(config, name) for name in ("arm", "algorithm", "kl_coef", "seed")},
            },
        )
        looking = MonitorCallback(monitor, config.monitor_steps(self._arguments.max_steps))
        bar = ProgressCallback(enabled=progress)
        stated = Stated(self._policy.model)
        checkpointing = CheckpointCallback(best=lambda: best_step(tables.samples))
        trainer = make_trainer(
            self._policy,
            self._prompts.rows,
            reward,
            config,
            self._arguments,
            [bar, looking],
            checkpointing,
            folder.output / "logs",
        )
        model = trainer.accelerator.unwrap_model(trainer.model)
        reference = self._reference(trainer, model)
        looking.attach(trainer, Policy(model, self._policy.tokenizer, name=self._policy.name), reference)
        texts = [[*ids, self._policy.eos_token_ids[0]] for ids in self._prompts.monitor_ids]
        kept = folder.output / "reference.json"
        check_reference(kept, reference, texts, at_start=self._checkpoint is None, tokens_per_batch=self._budget)
        try:
            start, seconds = trainer.fit(self._checkpoint)
        finally:
            bar.close()
        trainer.accelerator.wait_for_everyone()
        tables.resume(trainer.state.global_step)  # one process wrote them
        require_finite_weights(model, "after training")
        check_reference(kept, reference, texts, at_start=False, tokens_per_batch=self._budget)
        rows, advice = tables.rows, early_stop_advice(tables.samples)
        best = None if advice is None or not advice.stop else folder.checkpoints / f"checkpoint-{advice.best_step}"
        if best is not None and not best.is_dir():
            best = None
        result = AlignSummary(
            output=str(folder.output),
            reward_model=_named(self._reward_model),
            arm=config.arm,
            utility=config.worth,
            algorithm=config.algorithm,
            num_prompts=len(self._prompts.rows),
            num_monitor_prompts=len(self._prompts.monitor_rows),
            num_skipped=self._prompts.num_skipped,
            num_without_references=self._num_unknown,
            num_steps=trainer.state.global_step,
            seconds=seconds,
            resumed_from_step=start or None,
            already_finished=False,
            start=rows[0],
            end=rows[-1],
            advice=advice,
            no_advice=None if self._gold is None else why_no_advice(tables.samples),
            best_checkpoint=None if best is None else str(best),
            settings=self._settings,
            **facts,
        )
        if self._arguments.should_save:
            try:
                self._write(model, stated, result, best)
            except (OSError, SafetensorError) as error:
                raise write_error(folder.output, error) from error
        trainer.accelerator.wait_for_everyone()
        return result

    def _reference(self, trainer: Any, model: Any) -> Reference:
        kept = trainer.ref_model
        if kept is None and not hasattr(model, "peft_config"):
            # TRL loads none where there is no penalty; the distance is of interest all the same. Prepared as the policy
            # is, so that both compute in the same precision.
            kept = load_causal_model(self._policy.name, dtype=model.dtype, device=self._arguments.device)
            kept = trainer.accelerator.prepare_model(kept, evaluation_mode=True)
        return reference_of(model, kept)

    def _write(self, model: Any, stated: Stated, result: AlignSummary, best: Path | None) -> None:
        staged = self._folder.stage()
        stated.restore(model)
        adapted = hasattr(model, "peft_config")
        model.save_pretrained(staged, **({"selected_adapters": ["default"]} if adapted else {}))
        self._policy.tokenizer.save_pretrained(staged)
        model_files = [place.name for place in staged.iterdir()]
        card = align_card(result, library="peft" if adapted else "transformers")
        (staged / "README.md").write_text(card, encoding="utf-8")
        self._folder.finish(result.to_dict(), keep=best)
        if best is not None:
            keep_model_alone(best, self._folder.output, model_files)


def _named(reward_model: RewardModels) -> str | dict[str, str]:
    if isinstance(reward_model, str | Path):
        return str(reward_model)
    return {name: str(model) for name, model in reward_model.items()}
