"""One process's part of a run: from a model and settings to the finished folder."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from safetensors import SafetensorError

from prudent.data import Preferences
from prudent.models import RewardModel, progress_bar
from prudent.training._config import TrainingConfig
from prudent.training._pairs import PairDataset, PairStream, TruncationCount, encode_pairs
from prudent.training._prepare import base_name, load_for_training, prepare_model, restore_dtypes
from prudent.training._result import TrainingResult, model_card
from prudent.training._resumable import require_finite_weights
from prudent.training._run import RunFolder, write_error
from prudent.training._trainer import (
    PairTrainer,
    ProgressCallback,
    mean_loss,
    pairs_per_step,
)

__all__ = ["Session"]


class Session:
    """Loads the model, then encodes, then runs.

    Args:
        model: as given to `train`.
        config: options of the run.
        arguments: the same for Transformers.
        folder: where the run lives.
        settings: what names the run.
    """

    def __init__(
        self,
        model: str | Path | RewardModel,
        config: TrainingConfig,
        arguments: Any,
        folder: RunFolder,
        settings: dict[str, Any],
    ) -> None:
        self._config = config
        self._arguments = arguments
        self._folder = folder
        self._settings = settings
        self._model = load_for_training(model, config, device=arguments.device, bf16=arguments.bf16)
        self._base = base_name(model, self._model)
        if config.learning_rate is None:
            arguments.learning_rate = config.default_learning_rate(self._model.feature_size)

    def encode(self, pairs: Preferences, eval_pairs: Preferences | None, *, strict: bool, progress: bool) -> None:
        """Tokenise what is held in memory; a stream is tokenised while it is read.

        Raises:
            DataError: `strict` and a text is too long, or the chat template refuses a conversation.
        """
        progress = progress and self._arguments.local_process_index == 0
        self._count = TruncationCount(self._model.max_length, strict=strict)
        self._train_pairs: PairDataset | PairStream
        if isinstance(pairs.rows, IterableDataset):
            self._train_pairs = PairStream(self._model, pairs.rows, self._count, self._config.seed)
        else:
            self._train_pairs = self._encoded(pairs, progress)
        self._eval_pairs = None
        if eval_pairs is not None:
            self._eval_pairs = self._encoded(eval_pairs, progress).longest_first()

    def run(self, pairs: Preferences, eval_pairs: Preferences | None, *, progress: bool) -> TrainingResult:
        """Train, from a checkpoint where there is one, evaluate, and write the folder.

        Raises:
            ModelError: training diverged, or the folder cannot be written.
        """
        dtypes = prepare_model(self._model, self._config, bf16=self._arguments.bf16)
        with self._arguments.main_process_first(local=False), self._writing():
            checkpoint = self._folder.start(self._settings, writes=self._arguments.should_save)
        bar = ProgressCallback(enabled=progress)
        trainer = PairTrainer(
            self._model.model,
            self._arguments,
            self._config,
            self._train_pairs,
            self._eval_pairs,
            self._model.config.get_text_config().pad_token_id,
            [bar],
        )
        try:
            start, seconds = trainer.fit(checkpoint)
            require_finite_weights(trainer.model, "after training")
            metrics = _finite(trainer.evaluate()) if self._eval_pairs is not None else {}
        finally:
            bar.close()
        state = trainer.state
        trained = state.global_step * pairs_per_step(self._arguments)
        result = TrainingResult(
            output=str(self._folder.output),
            base_model=self._base,
            data=pairs.summary.source,
            eval_data=None if eval_pairs is None else eval_pairs.summary.source,
            num_pairs=len(self._train_pairs) if isinstance(self._train_pairs, PairDataset) else None,
            num_eval_pairs=0 if self._eval_pairs is None else len(self._eval_pairs),
            num_skipped=sum(part.summary.num_skipped for part in (pairs, eval_pairs) if part is not None),
            num_truncated=self._count.responses,
            num_prompt_truncated=self._count.prompts,
            num_steps=state.global_step,
            num_epochs=float(state.epoch or 0.0),
            train_loss=mean_loss(state.log_history),
            accuracy=metrics.get("eval_accuracy"),
            nll=metrics.get("eval_nll"),
            seconds=seconds,
            pairs_per_second=trained / seconds if seconds else 0.0,
            resumed_from_step=start or None,
            already_finished=False,
            history=[_finite(record) for record in state.log_history],
            settings=self._settings,
        )
        if self._arguments.should_save:
            with self._writing():
                self._write(result)
        trainer.accelerator.wait_for_everyone()
        self._model.head_is_new, self._model.new_modules = False, ()
        self._model.model.eval()
        restore_dtypes(dtypes)
        return result

    def _encoded(self, pairs: Preferences, progress: bool) -> PairDataset:
        encoded = []
        with progress_bar("Tokenizing", len(pairs), unit="pairs", enabled=progress) as advance:
            for pair in encode_pairs(self._model, pairs.rows, self._count):
                encoded.append(pair)
                advance(1)
        return PairDataset(encoded)

    def _write(self, result: TrainingResult) -> None:
        staged = self._folder.stage()
        self._model.save_pretrained(staged)
        library = "peft" if hasattr(self._model.model, "peft_config") else "transformers"
        card = model_card(result, library=library, pad_token=self._model.tokenizer.pad_token)
        (staged / "README.md").write_text(card, encoding="utf-8")
        self._folder.finish(result.to_dict())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise write_error(self._folder.output, error) from error


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """None for what JSON cannot hold: a gradient norm that overflowed, the accuracy where no pair is decided."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
