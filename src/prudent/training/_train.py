"""`train`: preferences and a model in, a reward model out, resumable at any moment."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset

from prudent.data import DataSource, Preferences, check_eval_split, check_leak, choose_split, load_preferences
from prudent.errors import DataError, ModelError
from prudent.models import RewardModel
from prudent.training._config import TrainingConfig, training_arguments
from prudent.training._result import TrainingResult
from prudent.training._run import RunFolder, data_digest, run_settings
from prudent.training._session import Session

__all__ = ["load_training_pairs", "own_random_state", "plan_run", "require_apart", "train"]

_STREAM_DIGEST_ROWS = 100


def train(
    model: str | Path | RewardModel,
    data: DataSource | Preferences,
    output: str | Path,
    *,
    eval_data: DataSource | Preferences | None = None,
    split: str = "train",
    eval_split: str | None = None,
    config: TrainingConfig | None = None,
    streaming: bool = False,
    skip_bad: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    keep_same: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train a reward model on preference pairs, or continue training one.

    A base model gets a new head and, unless `config.lora` is off, LoRA adapters; a reward model or adapter made
    earlier, here or elsewhere, is trained further as it is. Data are checked before a model is loaded. The output is an
    ordinary PEFT or Transformers folder with tokenizer, model card and `training_result.json`.

    Killed and called again with the same arguments, a run resumes from its last whole checkpoint in
    `output/checkpoints` and ends at the same weights. Called again when it has finished, it returns the saved result,
    with `already_finished` set, without training. The files of the finished model appear in `output` only once all are
    written.

    Args:
        model: hub name or folder of a base model, a reward model or an adapter; or a loaded model, which is then
            trained in place.
        data: preference pairs, anything that `prudent.data.load_preferences` reads.
        output: folder to write to.
        eval_data: pairs to evaluate on, with none of the prompts of `data` (which is checked unless `data` is a stream
            from the hub).
        split: the split of `data` that have several.
        eval_split: the split of `eval_data` that have several, by default `test`, without one the validation split, or
            the only split there is; without `eval_data`, the split of `data` to evaluate on, by default none.
        config: options; by default those of `TrainingConfig`.
        streaming: read the pairs while training instead of holding them in memory; needs `config.max_steps`.
        skip_bad: leave bad rows out, and evaluation rows whose prompt is in `data`, instead of raising.
        strict: a text over the length limit is an error instead of being cut.
        overwrite: discard what an earlier run left in `output`, but for an unfinished run with the same settings, which
            is continued.
        keep_same: with `overwrite`, keep a finished run with the same settings too, instead of training it again.
        progress: show progress with rate and time left on standard error.

    Returns:
        Figures and counts of the run.

    Raises:
        DataError: the data cannot be used, are fewer than two pairs, share prompts with `eval_data`, or have margins
            where the loss is classification.
        ModelError: the model cannot be loaded or saved, training diverged, or `output` holds another run.
        UnsupportedError: an integration of `config.report_to` is not installed.
        KeyboardInterrupt: as it came, with a message that says from where the run will resume.

    Example:
        >>> from prudent.training import TrainingConfig, train
        >>> result = train("my-base", "pairs.jsonl", "my-reward-model")  # doctest: +SKIP
        >>> result.train_loss  # doctest: +SKIP
        0.6412
    """
    config = config or TrainingConfig()
    folder = RunFolder(Path(output))
    if not isinstance(model, RewardModel) and Path(model).is_dir():
        require_apart(Path(model), folder.output)
    pairs, eval_pairs = load_training_pairs(
        data,
        eval_data=eval_data,
        split=split,
        eval_split=eval_split,
        streaming=streaming,
        skip_bad=skip_bad,
    )
    settings = plan_run(model, pairs, eval_pairs, config)
    arguments = training_arguments(config, folder.checkpoints, evaluate=eval_pairs is not None)
    if overwrite and not folder.resumes(settings) and not (keep_same and folder.holds(settings)):
        with arguments.main_process_first(local=False):
            if arguments.should_save:
                folder.clear()
    finished = folder.finished(settings)
    if finished is not None:
        return replace(TrainingResult(**finished), already_finished=True)
    with own_random_state():
        session = Session(model, config, arguments, folder, settings)
        session.encode(pairs, eval_pairs, strict=strict, progress=progress)
        try:
            return session.run(pairs, eval_pairs, progress=progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"training was interrupted; start it again in the same way to resume from {folder.checkpoints}"
            ) from None


def plan_run(
    model: str | Path | RewardModel, pairs: Preferences, eval_pairs: Preferences | None, config: TrainingConfig
) -> dict[str, Any]:
    """What names a run, once it is sure that it can be made of these pairs.

    Raises:
        DataError: margins where the loss has no place for them, or a stream without `max_steps`.
    """
    if config.loss == "classification":
        _require_no_margins(pairs)
    if isinstance(pairs.rows, IterableDataset) and config.max_steps == -1:
        raise DataError("a stream has no known end: set max_steps, or read the data without streaming")
    return run_settings(
        model,
        config,
        data=_digest(pairs),
        eval_data=None if eval_pairs is None else _digest(eval_pairs),
        streaming=isinstance(pairs.rows, IterableDataset),
    )


def require_apart(model: Path, output: Path) -> None:
    """Refuse to write where the model lies that training starts from.

    Raises:
        ModelError: it lies in the output folder.
    """
    inner, outer = model.resolve(), output.resolve()
    if inner == outer or outer in inner.parents:
        raise ModelError(f"the model {model} lies in the output folder {output}; name another output folder")


def load_training_pairs(
    data: DataSource | Preferences,
    *,
    eval_data: DataSource | Preferences | None = None,
    split: str = "train",
    eval_split: str | None = None,
    streaming: bool = False,
    skip_bad: bool = False,
) -> tuple[Preferences, Preferences | None]:
    """The pairs to train on and those to evaluate on, checked as `train` does, for runs that share them.

    Args:
        data: see `train`, like all that follow.
        eval_data: see there.
        split: see there.
        eval_split: see there.
        streaming: see there.
        skip_bad: see there.

    Raises:
        DataError: the data cannot be used, are fewer than two pairs, or share prompts with `eval_data`.

    Example:
        >>> rows = [{"prompt": f"Name {n}.", "chosen": "Yes.", "rejected": "No."} for n in range(4)]
        >>> pairs, eval_pairs = load_training_pairs(rows[:2], eval_data=rows[2:])
        >>> len(pairs), len(eval_pairs)
        (2, 2)
    """
    if eval_data is None and eval_split is not None:
        check_eval_split(data, eval_split, split=split)
        eval_data = data
    if isinstance(data, Preferences):
        pairs = data
    else:
        pairs = load_preferences(
            data,
            split=split,
            streaming=streaming or isinstance(data, IterableDataset),
            on_bad="skip" if skip_bad else "error",
        )
    if pairs.summary.complete and len(pairs) < 2:
        raise DataError(f"{pairs.summary.source} has {len(pairs)} pair; training needs at least 2")
    if eval_data is None:
        return pairs, None
    if isinstance(eval_data, Preferences):
        eval_pairs = eval_data
    else:
        eval_split = choose_split(eval_data, eval_split, held_out=True) or "train"
        eval_pairs = load_preferences(eval_data, split=eval_split, on_bad="skip" if skip_bad else "error")
    if isinstance(eval_pairs.rows, IterableDataset):
        raise DataError("evaluation data cannot be a stream; load them without streaming")
    if pairs.summary.complete:
        eval_pairs = check_leak(pairs, eval_pairs, on_bad="skip" if skip_bad else "error")
    return pairs, eval_pairs


def _require_no_margins(pairs: Preferences) -> None:
    """A margin says by how much one response should beat the other; each alone has none."""
    if "margin" not in (pairs.rows.column_names or []):
        return
    remedy = "leave the column margin out, or train by the bradley_terry loss"
    if isinstance(pairs.rows, IterableDataset):
        raise DataError(f"{pairs.summary.source}: pairs with margins cannot be classified; {remedy}")
    given = np.flatnonzero(np.asarray(pairs.rows["margin"]))
    if len(given):
        row = pairs.rows[int(given[0])]["row"]
        raise DataError(
            f"{pairs.summary.source}: {len(given):,} pairs have a margin (row {row} first), which classification "
            f"has no place for; {remedy}"
        )


def _digest(pairs: Preferences) -> str:
    """Names the rows; of a stream, its first rows and its source."""
    if isinstance(pairs.rows, IterableDataset):
        return data_digest([{"source": pairs.summary.source}, *islice(pairs.rows, _STREAM_DIGEST_ROWS)])
    return data_digest(pairs.rows)


@contextmanager
def own_random_state() -> Iterator[None]:
    """Seeding inside leaves the caller's random numbers alone.

    Example:
        >>> before = torch.random.initial_seed()
        >>> with own_random_state():
        ...     _ = torch.manual_seed(before + 1)
        >>> torch.random.initial_seed() == before
        True
    """
    python: Any = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002  Transformers seeds the legacy generator
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
