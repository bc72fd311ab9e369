"""Where ensembles and their members are: in folders, or on the hub, at the commit that they were found at."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prudent.errors import ModelError, PosteriorError
from prudent.models import find_model_file
from prudent.posteriors._store import CONFIG, TENSORS, read_config

__all__ = [
    "EnsembleMember",
    "ensemble_folder",
    "found_path",
    "is_ensemble",
    "member_folder",
    "pinned_member",
    "stored_path",
]

# Weights that prudent does not read, beside those that it does.
_OTHER_WEIGHTS = ("*.h5", "*.msgpack", "*.ot", "*.onnx*", "*.gguf", "*.tflite", "onnx/*", "openvino/*")
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class EnsembleMember:
    """A member of an ensemble, by its place; its reward enters as `scale * r + offset`.

    Attributes:
        name: for messages.
        path: folder, or hub name.
        scale: logits per unit of its reward, positive.
        offset: added, in logits.
        max_length: tokens a text may have; None for what the model states.
        revision: commit of a hub member; None for the newest.
    """

    name: str
    path: str | Path
    scale: float = 1.0
    offset: float = 0.0
    max_length: int | None = None
    revision: str | None = None


def is_ensemble(model: str | Path) -> bool:
    """Whether a folder, or a hub name, holds an ensemble.

    What the hub cannot be asked about is none: loading it as a model says what is wrong.

    Raises:
        PosteriorError: its configuration is damaged, or of a newer format.
    """
    place = _config_of(model)
    return place is not None and read_config(place).get("kind") == "ensemble"


def ensemble_folder(model: str | Path) -> Path:
    """The folder of an ensemble; one on the hub is downloaded, with the members that lie within it.

    Raises:
        ModelError: the download failed.
        PosteriorError: it is no ensemble, or its configuration is damaged.
    """
    place = _config_of(model)
    if place is None or not is_ensemble(model):
        raise PosteriorError(f"{model} is no ensemble; make one by ensemble, or fit a single model with fit")
    if Path(model).is_dir():
        return Path(model)
    inside = [path.removeprefix("./") for path in _paths_of(read_config(place)) if path.startswith("./")]
    wanted = [CONFIG, TENSORS, *(f"{path}/*" for path in inside)]
    return Path(_downloaded(str(model), _commit_of(place), allow_patterns=wanted))


def pinned_member(member: EnsembleMember) -> EnsembleMember:
    """The member with the commit that the hub has it at now, where it is on the hub and that can be known."""
    if Path(member.path).exists() or not _may_be_on_hub(str(member.path)):
        return member
    for name in ("adapter_config.json", "config.json"):
        try:
            found = find_model_file(member.path, name, revision=member.revision)
        except ModelError:
            continue  # loading says what is wrong
        if found is not None:
            return replace(member, revision=_commit_of(found) or member.revision)
    return member


def member_folder(member: EnsembleMember) -> str:
    """Where a member is loaded from: its folder; of a hub member at a known commit, the folder of its download.

    Raises:
        ModelError: the download failed; the member is named.
    """
    name = str(member.path)
    if member.revision is None:
        return name
    try:
        safe = any(find_model_file(name, file, revision=member.revision) is not None for file in _SAFE_WEIGHTS)
        ignored = [*_OTHER_WEIGHTS, *(["*.bin"] if safe else [])]
        return _downloaded(name, member.revision, ignore_patterns=ignored)
    except ModelError as error:
        raise ModelError(f"member {member.name}: {error}") from error


def stored_path(path: str | Path, folder: Path) -> str:
    """`./` and the way from the ensemble for what lies within it, absolute for other folders, hub names as they are."""
    if not Path(path).exists():
        return str(path)
    inner, outer = Path(path).resolve(), folder.resolve()
    return f"./{inner.relative_to(outer).as_posix()}" if outer in inner.parents else str(inner)


def found_path(path: str, folder: Path, name: str) -> str:
    """Where a member is; a folder that is gone is never looked for on the hub, where another may have its name.

    Raises:
        ModelError: it is not there.
    """
    found = folder / path if path.startswith("./") else Path(path)
    if not path.startswith("./") and not found.is_absolute():
        return path
    if not found.is_dir():
        raise ModelError(
            f"member {name} is missing: there is no folder {found}; put it back or make the ensemble again"
        )
    return str(found)


def _config_of(model: str | Path) -> Path | None:
    if not Path(model).is_dir() and not _may_be_on_hub(str(model)):
        return None
    try:
        return find_model_file(model, CONFIG)
    except ModelError:
        return None


def _may_be_on_hub(name: str) -> bool:
    return not Path(name).exists() and not name.startswith((".", "/", "~")) and name.count("/") <= 1


def _paths_of(config: dict[str, Any]) -> Iterator[str]:
    """Paths of members; what is damaged is refused where the members are read."""
    for entry in config.get("members") or ():
        if isinstance(entry, dict):
            yield str(entry.get("path", ""))


def _commit_of(file: Path) -> str | None:
    """The commit whose snapshot in the hub's cache a file is part of."""
    return file.parent.name if re.fullmatch(r"[0-9a-f]{40}", file.parent.name) else None


def _downloaded(
    name: str,
    revision: str | None,
    *,
    allow_patterns: list[str] | None = None,
    ignore_patterns: list[str] | None = None,
) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(
            name, revision=revision, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"cannot download {name}: the hub was not reached and it is not in the cache; connect once, or give the "
            "folder of a downloaded copy"
        ) from error
    except (OSError, HFValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"cannot download {name}: {reason}") from error
