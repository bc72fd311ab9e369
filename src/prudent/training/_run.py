"""The output folder of a run: its settings, its whole checkpoints, and the last step to a finished model.

    output/checkpoints/run.json        the settings, written before the first step
    output/checkpoints/checkpoint-N/   Transformers' checkpoint; whole once it holds complete.json
    output/.partial/                   the finished model while it is being written
    output/...                         the finished model: its files are moved here, config and result last

A folder is finished exactly if it holds training_result.json. Until config.json (adapter_config.json) is moved, just
before it, nothing can load the folder as a model.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from shutil import disk_usage, rmtree
from typing import Any, ClassVar

from prudent.errors import ModelError
from prudent.models import MODEL_FILES, RewardModel
from prudent.training._config import HARMLESS, TrainingConfig

__all__ = [
    "RunFolder",
    "data_digest",
    "drop_older_checkpoints",
    "mark_complete",
    "model_identity",
    "run_settings",
    "seconds_until",
    "write_error",
]

_RESULT_NAME = "training_result.json"
_MARK_NAME = "complete.json"
_CONFIG_NAMES = ("config.json", "adapter_config.json")
# What a trained and fitted model folder consists of; overwriting deletes these and nothing else.
_RUN_FILES = (*MODEL_FILES, "*.json", "*.json.tmp", "*.safetensors", "*.jinja", "*.model", "README.md")
# What may come to lie beside the weights of a model, and is none of them.
_LEARNED_LATER = ("posterior.safetensors", "utility.safetensors")
_EDGE_BYTES = 2**20


class RunFolder:
    """One output folder.

    Args:
        output: the folder; it need not exist.

    Attributes:
        output: the folder.
        checkpoints: where its checkpoints are.
    """

    result_name: ClassVar[str] = _RESULT_NAME
    """The file of a finished run's result."""
    harmless: ClassVar[frozenset[str]] = HARMLESS
    """Settings with which a run may resume though they differ."""
    made: ClassVar[tuple[str, ...]] = _RUN_FILES
    """Files, as patterns, that overwriting deletes; anything else is in its way."""
    made_folders: ClassVar[tuple[str, ...]] = ()
    """Folders, beside that of the checkpoints, that it deletes as well."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.checkpoints = output / "checkpoints"
        self._run_file = self.checkpoints / "run.json"
        self._partial = output / ".partial"

    def finished(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The result of a finished run with these settings; None where a run may start or resume.

        Raises:
            ModelError: a run with other settings finished or stopped here, or the folder holds something else.
        """
        if self.output.exists() and not self.output.is_dir():
            raise ModelError(f"{self.output} is a file; name a folder for the model")
        result_file = self.output / self.result_name
        if result_file.exists():
            result = _read_json(result_file)
            self._require_same(self._known(result.get("settings", {})), settings, "a finished run")
            return result
        if self._run_file.exists():
            self._require_same(self._known(_read_json(self._run_file)), settings, "an unfinished run")
        elif self.output.is_dir():
            other = [path for path in self.output.iterdir() if path != self.checkpoints]
            self._refuse([*other, *self.checkpoints.glob("checkpoint-*")])
        return None

    def resumes(self, settings: dict[str, Any]) -> bool:
        """An unfinished run with these settings is here, to be continued even where an earlier model is overwritten."""
        if (self.output / self.result_name).exists() or not self._run_file.exists():
            return False
        return not self._changed(self._known(_read_json(self._run_file)), settings)

    def holds(self, settings: dict[str, Any]) -> bool:
        """A finished run with these settings is here."""
        result_file = self.output / self.result_name
        return result_file.exists() and not self._changed(
            self._known(_read_json(result_file).get("settings", {})), settings
        )

    def clear(self) -> None:
        """Delete what an earlier run made, finished or not; a folder that no run made is left alone.

        Raises:
            ModelError: something else lies there too.
        """
        if not (self.output / self.result_name).exists() and not self._run_file.exists():
            return
        made = {path for pattern in self.made for path in self.output.glob(pattern)}
        folders = {self.output / name for name in self.made_folders}
        own = {*made, *folders, self.checkpoints, self._partial}
        self._refuse([path for path in self.output.iterdir() if path not in own])
        # The marks go first, so that a folder half deleted is not taken for a whole one; run.json, by which a deletion
        # cut short can be repeated, goes last.
        for name in (self.result_name, *_CONFIG_NAMES):
            if (self.output / name).exists():
                self._keep_run_file()
                (self.output / name).unlink()
        for path in made:
            path.unlink(missing_ok=True)
        for folder in folders:
            rmtree(folder, ignore_errors=True)
        self._drop_work()

    def start(self, settings: dict[str, Any], *, writes: bool) -> Path | None:
        """Begin or resume: note the settings, discard half-written checkpoints, and name the last whole one.

        Args:
            settings: what names the run.
            writes: this process is the one that writes; others only look.
        """
        if writes:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not self._run_file.exists():
                _write_json(self._run_file, settings)
        whole: list[Path] = []
        for checkpoint in self.checkpoints.glob("checkpoint-*"):
            if _is_complete(checkpoint):
                whole.append(checkpoint)
            elif writes:
                rmtree(checkpoint)
        return max(whole, key=_step, default=None)

    def stage(self) -> Path:
        """An empty folder beside the final files, to write the finished model into."""
        rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self._partial

    def finish(self, result: dict[str, Any], *, keep: Path | None = None) -> None:
        """Move the staged files to their place, config last, then the result; drop the checkpoints but one to keep."""
        _write_json(self._partial / self.result_name, result)
        last = [name for name in (*_CONFIG_NAMES, self.result_name) if (self._partial / name).exists()]
        first = sorted(path.name for path in self._partial.iterdir() if path.name not in last)
        for name in (*first, *last):
            os.replace(self._partial / name, self.output / name)
        self._drop_work(keep)

    def _refuse(self, other: list[Path]) -> None:
        if other:
            shown = ", ".join(sorted(path.name for path in other)[:3])
            raise ModelError(f"{self.output} holds files of something else ({shown}); name another output folder")

    def _drop_work(self, keep: Path | None = None) -> None:
        rmtree(self._partial, ignore_errors=True)
        for checkpoint in self.checkpoints.glob("checkpoint-*"):
            if checkpoint != keep:
                rmtree(checkpoint, ignore_errors=True)
        if keep is None:
            rmtree(self.checkpoints, ignore_errors=True)

    def _known(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings noted by an earlier version: an option that is younger than the record had its default."""
        return {**_options(TrainingConfig()), **settings}

    def _changed(self, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
        return [name for name in sorted({*before, *now} - self.harmless) if before.get(name) != now.get(name)]

    def _keep_run_file(self) -> None:
        if not self._run_file.exists():
            self.checkpoints.mkdir(exist_ok=True)
            _write_json(self._run_file, {"overwritten": True})

    def _require_same(self, before: dict[str, Any], now: dict[str, Any], what: str) -> None:
        changed = [f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in self._changed(before, now)]
        if changed:
            raise ModelError(
                f"{self.output} holds {what} with other settings ({'; '.join(changed[:3])}); "
                "name another output folder, or discard that run with overwrite (--overwrite)"
            )


def run_settings(
    model: str | Path | RewardModel,
    config: TrainingConfig,
    *,
    data: str,
    eval_data: str | None,
    streaming: bool,
) -> dict[str, Any]:
    """What makes a run the same run: identity of the model, digests of the data, and every option."""
    return {
        "format_version": 1,
        "model": model_identity(model),
        "data": data,
        "eval_data": eval_data,
        "streaming": streaming,
        **_options(config),
    }


def _options(config: TrainingConfig) -> dict[str, Any]:
    options: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return options


def model_identity(model: str | Path | RewardModel) -> str:
    """A short name of the weights that training starts from.

    Of a folder it is a digest of the configuration and of size, beginning and end of each weight file (the beginning
    holds names and shapes); of a hub model its name; of a model in memory its fingerprint and its head.
    """
    if isinstance(model, RewardModel):
        head = hashlib.sha256(model.head.weight.detach().cpu().float().numpy().tobytes())
        return f"{model.fingerprint()}-{head.hexdigest()[:8]}"
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in _CONFIG_NAMES:
            digest.update(path.read_bytes())
        elif path.suffix in (".safetensors", ".bin") and path.name not in _LEARNED_LATER:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as weights:
                digest.update(weights.read(_EDGE_BYTES))
                weights.seek(max(0, size - _EDGE_BYTES))
                digest.update(weights.read(_EDGE_BYTES))
    return digest.hexdigest()[:16]


def data_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """Sixteen hexadecimal digits that name the rows, whatever file they came from.

    Args:
        rows: of JSON values.

    Example:
        >>> data_digest([{"row": 0}])
        '42d4fb1a3a36a3b2'
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def mark_complete(checkpoint: Path, seconds: float) -> None:
    """Say that all of a checkpoint is written, and how long it took to train until there."""
    _write_json(checkpoint / _MARK_NAME, {"files": _sizes(checkpoint), "seconds": seconds})


def seconds_until(checkpoint: Path) -> float:
    """How long it took to train until a complete checkpoint."""
    return float(_read_json(checkpoint / _MARK_NAME)["seconds"])


def drop_older_checkpoints(checkpoints: Path, *, best: int | None = None) -> None:
    """Keep the last two (should the last be damaged later, the one before it serves) and that of the best step."""
    for checkpoint in sorted(checkpoints.glob("checkpoint-*"), key=_step)[:-2]:
        if _step(checkpoint) != best:
            rmtree(checkpoint)


def write_error(folder: Path, error: Exception) -> ModelError:
    """What to say when a checkpoint or model cannot be written."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    exists = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return ModelError(
        f"cannot write to {folder} ({first}; {disk_usage(exists).free / 1e9:.1f} GB are free there): mend that and "
        "start again in the same way, to resume from the last complete checkpoint"
    )


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _is_complete(checkpoint: Path) -> bool:
    """The mark is there, and so is every file it lists, at its size."""
    mark = checkpoint / _MARK_NAME
    if not mark.exists():
        return False
    present = _sizes(checkpoint)
    return all(present.get(name) == size for name, size in _read_json(mark)["files"].items())


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}); discard that run with overwrite (--overwrite)") from error
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write all of it or nothing, and have it on the disk before going on."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
