"""Held-out prompts, looked at while a policy is trained: what it writes, what that is worth, how far it has moved."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import nn
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from prudent.alignment._early_stop import early_stop_advice
from prudent.alignment._memory import out_of_memory
from prudent.alignment._reward import PrudentReward
from prudent.alignment.rlhf._align_config import LESS_AT_ONCE
from prudent.alignment.rlhf._monitor_tables import MonitorTables
from prudent.alignment.rlhf._policy_kl import Reference, sequence_kl
from prudent.errors import DataError, ModelError
from prudent.models import Message, as_messages, render_plain, token_budget_batches
from prudent.sampling import Completion, Policy, uniforms
from prudent.training import own_random_state

__all__ = ["Gold", "Monitor", "MonitorCallback", "undisturbed"]

Prompt = str | Sequence[Message]
Gold = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""Prompts and responses to the true reward of each, higher is truer; NaN where it is not known."""

_NUM_SHOWN = 8
"""Completions that are shown in the trainer's logs, one each of the first prompts."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a block; leave its modes and all random numbers as they were.

    Args:
        model: in training.

    Example:
        >>> model = nn.Dropout()
        >>> with undisturbed(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with own_random_state():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Monitor:
    """Draws completions to held-out prompts by fixed random numbers, and tells what they are.

    The numbers by which a completion is drawn are the same at every step, so that steps are compared in pairs; they are
    others than those of the reference responses.

    Args:
        prompts: the held-out ones, as the trainer has others.
        encoded: their token ids.
        reward: the proxy.
        gold: the true reward, where there is one.
        num_completions: m, of each prompt.
        max_completion_length: tokens that a completion may have.
        temperature: of the next token.
        tokens_per_batch: padded tokens that go through the policy at once.
        seed: of the numbers.
        tables: where the figures are kept.
        labels: arm, utility, algorithm, kl_coef and seed of the run.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        encoded: Sequence[list[int]],
        *,
        reward: PrudentReward,
        gold: Gold | None,
        num_completions: int,
        max_completion_length: int,
        temperature: float,
        tokens_per_batch: int,
        seed: int,
        tables: MonitorTables,
        labels: Mapping[str, Any],
    ) -> None:
        self._prompts = prompts
        self._texts = [render_plain(as_messages(prompt)) for prompt in prompts]
        self._encoded = encoded
        self._reward = reward
        self._gold = gold
        self._each = num_completions
        self._place = [number for number in range(len(prompts)) for _ in range(num_completions)]
        self._longest = max_completion_length
        self._temperature = temperature
        self._tokens_per_batch = tokens_per_batch
        self._seed = seed
        self._labels = labels
        self.tables = tables

    def look(self, policy: Policy, reference: Reference, step: int) -> dict[str, Any]:
        """Draw, score and measure, and write the tables.

        Args:
            policy: as it is now; its model is left as it was, and so are all random numbers.
            reference: what training started from.
            step: of the training.

        Returns:
            The step's row.

        Raises:
            DataError: the true reward gives no number for each response, or an infinite one.
            ModelError: memory runs out, or what the policy gives is not finite.
        """
        with undisturbed(policy.model), out_of_memory(LESS_AT_ONCE):
            try:
                drawn = self._draw(policy)
            except ModelError as error:
                if step == 0:
                    raise
                raise ModelError(
                    f"after step {step} the policy's logits are not finite: training diverged; lower learning_rate "
                    "(--learning-rate)"
                ) from error
            kl, log_ratio = sequence_kl(
                policy.model,
                reference,
                [self._encoded[number] for number in self._place],
                [one.token_ids for one in drawn],
                temperature=self._temperature,
                tokens_per_batch=self._tokens_per_batch,
            )
        if not bool(kl.isfinite().all()):
            raise ModelError(f"the KL to the reference is not finite at step {step}; lower learning_rate")
        with own_random_state(), out_of_memory(LESS_AT_ONCE):
            prompts = [self._prompts[number] for number in self._place]
            texts = [one.text for one in drawn]
            measured = self._reward.measure(prompts, texts, [one.token_ids for one in drawn])
            gold = self._judge(prompts, texts)
        only = next(iter(measured.components.values())) if len(measured.components) == 1 else measured.mean
        samples = [
            {
                "step": step,
                "prompt_id": number,
                "completion_id": row % self._each,
                "prompt": self._texts[number],
                "response": texts[row],
                "num_tokens": one.num_tokens,
                "is_empty": not one.text.strip(),
                "is_cut": not one.finished,
                "reward_mean": _known(only[row]),
                "reward_std": _known(measured.std[row]),
                "value": _known(measured.value[row]),
                "gold": gold[row],
                "kl": float(kl[row]),
                "log_ratio": float(log_ratio[row]),
            }
            for row, (number, one) in enumerate(zip(self._place, drawn, strict=True))
        ]
        return self.tables.add(samples, self._labels)

    def _judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        """The true reward of each text; None where it is not known."""
        if self._gold is None:
            return [None] * len(texts)
        found = [_known(value) for value in self._gold(prompts, texts)]
        if len(found) != len(texts):
            raise DataError(
                f"the gold model gave {len(found)} values for {len(texts)} responses; it must give one each"
            )
        wrong = next((row for row, value in enumerate(found) if value is not None and np.isinf(value)), None)
        if wrong is not None:
            raise DataError(
                f"the gold model gave {found[wrong]} for the response {texts[wrong][:60]!r}; where the truth is not "
                "known it must give NaN, and a finite number elsewhere"
            )
        return found

    def _draw(self, policy: Policy) -> list[Completion]:
        lengths = np.array([len(self._encoded[number]) + self._longest for number in self._place])
        found: dict[int, Completion] = {}
        for batch in token_budget_batches(lengths, self._tokens_per_batch):
            rows = batch.tolist()
            numbers = [
                uniforms(self._seed, f"monitor {self._texts[self._place[row]]}", row % self._each, self._longest)
                for row in rows
            ]
            drawn = policy.complete(
                [self._encoded[self._place[row]] for row in rows], np.stack(numbers), temperature=self._temperature
            )
            found.update(zip(rows, drawn, strict=True))
        return [found[row] for row in range(len(self._place))]


class MonitorCallback(TrainerCallback):  # type: ignore[misc]
    """Looks at the held-out prompts before the first step, every so many steps and after the last.

    Once gold falls while the proxy rises, that is told; whoever watches decides whether to stop.

    Args:
        monitor: what looks.
        every: steps between looks.
    """

    def __init__(self, monitor: Monitor, every: int) -> None:
        self._monitor = monitor
        self._every = every
        self._trainer: Any = None
        self._has_warned = False

    def attach(self, trainer: Any, policy: Policy, reference: Reference) -> None:
        """Say whose policy is looked at, once there is a trainer."""
        self._trainer, self._policy, self._reference = trainer, policy, reference

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the policy that training starts from."""
        if state.global_step == 0:
            self._look(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look where it is time to."""
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            self._look(state)

    def _look(self, state: Any) -> None:
        if state.is_world_process_zero:
            row = self._monitor.look(self._policy, self._reference, state.global_step)
            figures = {
                f"eval_monitor/{name}": value
                for name, value in row.items()
                if isinstance(value, float) and name != "kl_coef"
            }
            figures |= self._judged(state)
            with undisturbed(self._trainer.model):  # in training mode TRL would close its averages of the step
                self._trainer.log(figures)
            self._show(state.global_step)
        self._trainer.accelerator.wait_for_everyone()

    def _judged(self, state: Any) -> dict[str, float]:
        """What gold has lost since its best step, for the logs."""
        advice = early_stop_advice(self._monitor.tables.samples)
        if advice is None:
            return {}
        if advice.stop and not self._has_warned and state.global_step < state.max_steps:
            self._has_warned = True
            warnings.warn(
                f"at step {state.global_step} {advice.text}. Training goes on, and its end is judged again; asked at "
                "every look, chance raises such an alarm more often than once",
                stacklevel=2,
            )
        names = ("gold_change", "gold_change_low", "gold_change_high")
        return {f"eval_monitor/{name}": getattr(advice, name) for name in names}

    def _show(self, step: int) -> None:
        """Some of the completions, as a table among TensorBoard's texts."""
        boards = [
            one.tb_writer
            for one in self._trainer.callback_handler.callbacks
            if isinstance(one, TensorBoardCallback) and one.tb_writer is not None
        ]
        for board in boards:
            board.add_text("monitor/samples", _markdown(self._monitor.tables.samples, step), step)


def _markdown(samples: pa.Table, step: int) -> str:
    first = (pc.field("step") == step) & (pc.field("completion_id") == 0)
    shown = samples.filter(first).to_pylist()[:_NUM_SHOWN]
    lines = ["| prompt | response | reward | gold | KL |", "|---|---|---|---|---|"]
    for row in shown:
        texts = [" ".join(row[name].split()).replace("|", "\\|") for name in ("prompt", "response")]
        numbers = ["" if row[name] is None else f"{row[name]:.3g}" for name in ("reward_mean", "gold", "kl")]
        lines.append(f"| {' | '.join([*texts, *numbers])} |")
    return "\n".join(lines)


def _known(value: Any) -> float | None:
    """A number; None for one that is not known."""
    if value is None:
        return None
    number = float(value)
    return None if np.isnan(number) else number
