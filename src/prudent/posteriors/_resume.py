"""Sums over pairs kept on the disk while a fit runs, so that one that was killed goes on where it was.

    output.partial/fit.json                   what the sums are of
    output.partial/PASS-PROCESS.safetensors   the sums of one process after a number of batches

Sums are additive and batches always the same, so the end is that of a fit without a break: to the last bit where the
machine computes the same twice, as CPUs do.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.models import atomic_file, manifest_changes, write_manifest
from prudent.posteriors._processes import process_state

__all__ = ["SumsCheckpoint"]

_MANIFEST = "fit.json"
_SECONDS = 60.0
"""Between savings, at least."""
_SHARE = 0.05
"""Of the time that savings may take where they are slow."""


class SumsCheckpoint:
    """The sums of one fit, one file a pass and process, each whole or not there.

    Args:
        output: where the finished posterior goes; the sums are kept beside it.
        overwrite: discard sums of a fit with other settings.
    """

    def __init__(self, output: str | Path, *, overwrite: bool = False) -> None:
        self.folder = Path(output).parent / f"{Path(output).name}.partial"
        self._overwrite = overwrite
        self._manifest: dict[str, Any] = {}
        self._index = 0
        self._due = 0.0

    def begin(self, manifest: dict[str, Any]) -> None:
        """Say what the sums are of; those of an earlier fit stay if they are of the same.

        Args:
            manifest: names pairs, model, and all that the sums depend on.

        Raises:
            PosteriorError: sums of something else are there, and are not to be overwritten.
        """
        process = process_state()
        self._index = process.process_index
        self._manifest = {"format_version": 1, "num_processes": process.num_processes, **manifest}
        if not self._overwrite:
            if changes := self._changes():
                raise PosteriorError(
                    f"{self.folder} holds an unfinished fit with another {', '.join(changes)}; give another output or "
                    "overwrite"
                )
        elif process.is_main_process and self._changes():
            shutil.rmtree(self.folder)
        process.wait_for_everyone()
        self._due = time.monotonic() + _SECONDS

    def restore(self, name: str, tensors: Sequence[Tensor]) -> int:
        """Fill in the sums of a pass as they were last saved by this process.

        Args:
            name: of the pass.
            tensors: to be filled in.

        Returns:
            How many batches these sums are of; 0 where none were saved.

        Raises:
            PosteriorError: the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(name)
        if not path.exists():
            return 0
        try:
            saved = load_file(path)
        except SafetensorError as error:
            raise PosteriorError(f"{path} is damaged ({error}); remove {self.folder} and fit again") from error
        for place, tensor in enumerate(tensors):
            tensor.copy_(saved[str(place)])
        return int(saved["batches"])

    def save(self, name: str, tensors: Sequence[Tensor], batches: int, *, force: bool = False) -> None:
        """Keep the sums of a pass, where it is time to.

        Args:
            name: of the pass.
            tensors: its sums.
            batches: how many batches they are of.
            force: whether or not it is time.
        """
        from safetensors.torch import save_file

        start = time.monotonic()
        if not force and start < self._due:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _MANIFEST).exists():
            write_manifest(self.folder / _MANIFEST, self._manifest)
        held = {str(place): tensor.detach().cpu().contiguous() for place, tensor in enumerate(tensors)}
        with atomic_file(self._path(name)) as temporary:
            save_file({**held, "batches": torch.tensor(batches)}, temporary)
        end = time.monotonic()
        self._due = end + max(_SECONDS, (end - start) / _SHARE)

    def remove(self) -> None:
        """The fit has ended: what is left of it or of an earlier one for the same output goes."""
        if (self.folder / _MANIFEST).exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _changes(self) -> list[str]:
        if (self.folder / _MANIFEST).exists():
            return manifest_changes(self.folder / _MANIFEST, self._manifest)
        # A fit killed before its manifest was written has left at most a temporary file.
        if self.folder.exists() and any(path.suffix != ".tmp" for path in self.folder.iterdir()):
            raise PosteriorError(f"{self.folder} exists and was not written by a fit; give another output")
        return []

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}-{self._index}.safetensors"
