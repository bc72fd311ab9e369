"""A posterior on disk: `posterior.safetensors` and `posterior_config.json` beside an ordinary reward-model folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from prudent.errors import PosteriorError
from prudent.models import RewardModel, find_model_file, template_hash
from prudent.posteriors._heads import HeadsPosterior, averages_to_model_head
from prudent.posteriors._heads_losses import HeadsKind
from prudent.posteriors._last_layer import LastLayerPosterior
from prudent.posteriors._lora_laplace import LoraLaplacePosterior, Structure
from prudent.posteriors._plain import PlainRewards
from prudent.posteriors._protocol import Posterior

__all__ = [
    "CONFIG",
    "FORMAT_VERSION",
    "TENSORS",
    "load_posterior",
    "moved_head",
    "read_config",
    "read_tensors",
    "save_posterior",
    "saved_calibration",
    "saved_posterior",
]

FORMAT_VERSION = 1
CONFIG = "posterior_config.json"
TENSORS = "posterior.safetensors"

_KINDS: dict[str, Any] = {
    "last_layer": LastLayerPosterior,
    **dict.fromkeys(get_args(Structure), LoraLaplacePosterior),
    **dict.fromkeys(get_args(HeadsKind), HeadsPosterior),
}


def save_posterior(
    posterior: Posterior,
    model: RewardModel,
    folder: str | Path,
    *,
    fitted_on: dict[str, Any],
    calibration: dict[str, Any] | None = None,
) -> None:
    """Write a posterior beside the model it belongs to; the configuration, written last, says that it is whole.

    Args:
        posterior: to be saved.
        model: the reward model, as it was saved to `folder`.
        folder: exists.
        fitted_on: what the posterior was fitted on, for the record.
        calibration: figures on held-out pairs, for the record and for `evaluate`.
    """
    from safetensors.torch import save_file

    tensors, entries = posterior.state()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / TENSORS)
    base = model.base_name_and_revision()
    config = {
        "format_version": FORMAT_VERSION,
        **entries,
        "model_fingerprint": model.fingerprint(),
        "base_model_name_or_path": base[0],
        "base_revision": base[1],
        "chat_template_hash": template_hash(model.tokenizer),
        "max_length": model.max_length,
        "fitted_on": fitted_on,
        "calibration": calibration,
    }
    (Path(folder) / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def saved_posterior(folder: str | Path) -> dict[str, Any] | None:
    """What `posterior_config.json` says of the posterior in a folder; None where there is none, or not a whole one.

    Args:
        folder: of a reward model; it need not exist.

    Raises:
        PosteriorError: the configuration is damaged, or of a newer format.

    Example:
        >>> import tempfile
        >>> saved_posterior(tempfile.mkdtemp()) is None
        True
    """
    if not (Path(folder) / CONFIG).is_file() or not (Path(folder) / TENSORS).is_file():
        return None
    return read_config(Path(folder) / CONFIG)


def moved_head(saved: Mapping[str, Any]) -> bool:
    """Whether fitting a posterior replaced the head of its model, which then is no longer the one that was trained.

    Args:
        saved: what `saved_posterior` says of it.

    Example:
        >>> moved_head({"kind": "last_layer", "head": "refit", "pooling": "head"}), moved_head({"kind": "ekfac"})
        (True, False)
    """
    if saved["kind"] == "last_layer":
        return (saved["head"], saved["pooling"]) == ("refit", "head")
    if saved["kind"] in get_args(HeadsKind):
        return averages_to_model_head(saved["kind"], saved["architecture"], saved["pooling"])
    return False


def saved_calibration(model: str | Path) -> dict[str, Any]:
    """The figures on held-out pairs that `fit` saved beside a model; none where it had no such pairs.

    Args:
        model: a folder or a hub name.

    Raises:
        PosteriorError: the configuration is damaged, or of a newer format.
        ModelError: whether a hub model has a posterior cannot be told, for want of a connection.
    """
    place = find_model_file(model, CONFIG)
    return {} if place is None else (read_config(place).get("calibration") or {})


def load_posterior(folder: str | Path, model: RewardModel) -> Posterior:
    """The posterior beside a reward model, or `PlainRewards` where there is none.

    Args:
        folder: folder of the model; a hub name is looked up in the same place.
        model: the model loaded from there.

    Raises:
        PosteriorError: the files are damaged, of a newer format, or belong to another base, adapter, head or chat
            template.
        ModelError: whether a hub model has a posterior cannot be told, for want of a connection.
    """
    config_path = find_model_file(folder, CONFIG)
    if config_path is None:
        if (Path(folder) / TENSORS).is_file():
            raise PosteriorError(f"{folder} has {TENSORS} but no {CONFIG}; fit the posterior again")
        return PlainRewards()
    tensor_path = find_model_file(folder, TENSORS)
    if tensor_path is None:
        raise PosteriorError(f"{folder} has {CONFIG} but no {TENSORS}; fit the posterior again")
    config = read_config(config_path)
    tensors = read_tensors(tensor_path)
    kind = _KINDS.get(config.get("kind", ""))
    if kind is None:
        raise PosteriorError(
            f"{config_path}: posterior kind {config.get('kind')!r} is not known to this version of prudent"
        )
    try:
        posterior: Posterior = kind.from_state(tensors, config)
        stated = {name: config[name] for name in ("basis_id", "model_fingerprint", "chat_template_hash")}
    except (KeyError, TypeError, IndexError) as error:
        raise PosteriorError(
            f"{config_path}: an entry or tensor is missing or unknown ({error}); fit it again"
        ) from error
    if posterior.basis_id != stated["basis_id"]:
        raise PosteriorError(f"{tensor_path} does not belong to {config_path}; fit the posterior again")
    _check_model(posterior, stated, model, str(folder))
    return posterior


def _check_model(posterior: Posterior, stated: dict[str, Any], model: RewardModel, folder: str) -> None:
    if stated["model_fingerprint"] != model.fingerprint():
        raise PosteriorError(
            f"{folder}: the posterior was fitted on other weights than these (base or adapter changed); fit it again"
        )
    if stated["chat_template_hash"] != template_hash(model.tokenizer):
        raise PosteriorError(f"{folder}: the chat template changed after the posterior was fitted; fit it again")
    try:
        posterior.check_model(model)
    except PosteriorError as error:
        raise PosteriorError(f"{folder}: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """What a `posterior_config.json` says.

    Raises:
        PosteriorError: it is damaged, or of a newer format.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PosteriorError(f"{path} is not readable JSON ({error}); fit the posterior again") from error
    if not isinstance(config, dict) or "format_version" not in config:
        raise PosteriorError(f"{path} has no format_version; fit the posterior again")
    if config["format_version"] > FORMAT_VERSION:
        raise PosteriorError(
            f"{path} has format {config['format_version']}, this prudent reads up to {FORMAT_VERSION}; upgrade"
        )
    return config


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """What a `posterior.safetensors` holds.

    Raises:
        PosteriorError: it is damaged, or holds values that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise PosteriorError(f"{path} is damaged ({error}); fit the posterior again") from error
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise PosteriorError(f"{path}: {name} is not finite; fit the posterior again")
    return tensors
