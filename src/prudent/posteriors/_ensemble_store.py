"""An ensemble on disk: which reward models are its members, and the scale on which each of them enters.

ensemble/posterior_config.json    kind "ensemble", the members with scale, offset and what names their weights
ensemble/posterior.safetensors    scale and offset, float64; the members' heads, by which they are known again
ensemble/member_0/                an ordinary reward-model folder, with or without a posterior; members may also lie
                                  elsewhere, or on the hub
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prudent.errors import ModelError, PosteriorError
from prudent.models import RewardModel, atomic_file, load_reward_models, tokenizer_hash
from prudent.posteriors._ensemble import EnsembleScorer, ScoredMember
from prudent.posteriors._protocol import check_head
from prudent.posteriors._scorer import ModelScorer
from prudent.posteriors._store import CONFIG, FORMAT_VERSION, TENSORS, load_posterior, read_config, read_tensors

__all__ = ["EnsembleMember", "is_ensemble", "load_ensemble", "load_members", "save_ensemble", "saved_members"]


@dataclass(frozen=True)
class EnsembleMember:
    """A member of an ensemble, by its place; its reward enters as `scale * r + offset`.

    Attributes:
        name: for messages.
        path: folder, or hub name.
        scale: logits per unit of its reward, positive.
        offset: added, in logits.
    """

    name: str
    path: str | Path
    scale: float = 1.0
    offset: float = 0.0


def is_ensemble(folder: str | Path) -> bool:
    """Whether a folder holds an ensemble.

    Raises:
        PosteriorError: its configuration is damaged, or of a newer format.
    """
    place = Path(folder) / CONFIG
    return place.is_file() and read_config(place).get("kind") == "ensemble"


def load_members(
    members: Sequence[EnsembleMember], *, max_length: int | None = None, dtype: torch.dtype | str | None = None
) -> list[ScoredMember]:
    """Load models and their posteriors; adapters of one base share one copy of it.

    Args:
        members: where they are.
        max_length: tokens a text may have.
        dtype: of the weights.

    Raises:
        ModelError: a member cannot be loaded or its head was never trained; it is named.
        PosteriorError: a member's posterior does not belong to it, or a member is itself an ensemble; it is named.
    """
    for member in members:
        if is_ensemble(member.path):
            raise PosteriorError(
                f"member {member.name} ({member.path}) is itself an ensemble; name its members instead"
            )
    models = _load_models(members, max_length, dtype)
    found = []
    for member, model in zip(members, models, strict=True):
        try:
            posterior = load_posterior(member.path, model)
        except PosteriorError as error:
            raise PosteriorError(f"member {member.name}: {error}") from error
        if model.head_is_new and not posterior.has_variance:
            raise ModelError(
                f"member {member.name}: its head was never trained, its rewards mean nothing; train it or fit a "
                "posterior first"
            )
        found.append(ScoredMember(member.name, ModelScorer(model, posterior), member.scale, member.offset))
    return found


def save_ensemble(
    folder: str | Path,
    ensemble: EnsembleScorer,
    paths: Sequence[str | Path],
    *,
    fitted_on: dict[str, Any],
    calibration: dict[str, Any] | None = None,
) -> None:
    """Write what makes a folder an ensemble; the configuration, written last, says that it is whole.

    Args:
        folder: exists; members within it are named relative to it.
        ensemble: loaded.
        paths: `[M]` folder or hub name of each member.
        fitted_on: for the record: what the members were trained or calibrated on.
        calibration: figures on held-out pairs, for the record and for `evaluate`.
    """
    from safetensors.torch import save_file

    columns = {
        name: torch.tensor([getattr(member, name) for member in ensemble.members], dtype=torch.float64)
        for name in ("scale", "offset")
    }
    # The fingerprint names the weights below the head, which another precision would round.
    heads = {f"head_{place}": member.scorer.model.head_values()[0] for place, member in enumerate(ensemble.members)}
    save_file({**columns, **heads}, Path(folder) / TENSORS)
    described = [
        {
            "name": member.name,
            "path": _stored_path(path, Path(folder)),
            "scale": member.scale,
            "offset": member.offset,
            **_names_of(member.scorer.model),
            "posterior": member.scorer.kind,
            "posterior_basis_id": member.scorer.basis_id,
        }
        for member, path in zip(ensemble.members, paths, strict=True)
    ]
    config = {
        "format_version": FORMAT_VERSION,
        "kind": ensemble.kind,
        "num_members": ensemble.num_members,
        "ddof": 1,
        "members": described,
        "basis_id": ensemble.basis_id,
        "fitted_on": fitted_on,
        "calibration": calibration,
    }
    with atomic_file(Path(folder) / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def saved_members(folder: str | Path) -> list[EnsembleMember]:
    """The members of the ensemble in a folder, without loading them.

    Args:
        folder: written by `save_ensemble`.

    Raises:
        ModelError: the folder of a member is missing.
        PosteriorError: the folder is damaged.
    """
    place = Path(folder)
    if not (place / TENSORS).is_file():
        raise PosteriorError(f"{folder} has {CONFIG} but no {TENSORS}; make the ensemble again")
    tensors = read_tensors(place / TENSORS)
    try:
        return [
            EnsembleMember(entry["name"], _found_path(entry["path"], place, entry["name"]), float(scale), float(offset))
            for entry, scale, offset in zip(
                read_config(place / CONFIG)["members"], tensors["scale"], tensors["offset"], strict=True
            )
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(place, error) from error


def load_ensemble(
    folder: str | Path, *, max_length: int | None = None, dtype: torch.dtype | str | None = None
) -> EnsembleScorer:
    """The ensemble in a folder.

    Args:
        folder: written by `save_ensemble`.
        max_length: tokens a text may have.
        dtype: of the weights.

    Raises:
        ModelError: a member is missing or damaged; it is named.
        PosteriorError: the folder is damaged, or a member is no longer what it was: its weights, its tokenizer or its
            posterior changed; it is named.
    """
    place = Path(folder)
    members = saved_members(place)
    try:
        expected = [
            {name: entry[name] for name in ("model_fingerprint", "tokenizer_hash", "posterior_basis_id")}
            for entry in read_config(place / CONFIG)["members"]
        ]
    except KeyError as error:
        raise _damaged(place, error) from error
    heads = read_tensors(place / TENSORS)
    loaded = load_members(members, max_length=max_length, dtype=dtype)
    for number, (member, wanted) in enumerate(zip(loaded, expected, strict=True)):
        here = {**_names_of(member.scorer.model), "posterior_basis_id": member.scorer.basis_id}
        for name, what in (
            ("model_fingerprint", "weights"),
            ("tokenizer_hash", "tokenizer"),
            ("posterior_basis_id", "posterior"),
        ):
            if here[name] != wanted[name]:
                raise _changed(place, what, member.name)
        try:
            check_head(heads[f"head_{number}"], member.scorer.model)
        except (KeyError, RuntimeError, PosteriorError) as error:
            raise _changed(place, "head", member.name) from error
    return EnsembleScorer(loaded)


def _changed(folder: Path, what: str, name: str) -> PosteriorError:
    return PosteriorError(f"{folder}: the {what} of member {name} changed after the ensemble was made; make it again")


def _damaged(folder: Path, error: Exception) -> PosteriorError:
    return PosteriorError(f"{folder / CONFIG}: an entry is missing or wrong ({error}); make the ensemble again")


def _names_of(model: RewardModel) -> dict[str, str]:
    return {"model_fingerprint": model.fingerprint(), "tokenizer_hash": tokenizer_hash(model.tokenizer)}


def _load_models(
    members: Sequence[EnsembleMember], max_length: int | None, dtype: torch.dtype | str | None
) -> list[RewardModel]:
    try:
        return load_reward_models([member.path for member in members], max_length=max_length, dtype=dtype)
    except ModelError as error:
        named = [member for member in members if str(member.path) in str(error)]
        raise ModelError(f"member {named[0].name}: {error}" if named else str(error)) from error


def _stored_path(path: str | Path, folder: Path) -> str:
    """`./` and the way from the ensemble for what lies within it, absolute for other folders, hub names as they are."""
    if not Path(path).exists():
        return str(path)
    inner, outer = Path(path).resolve(), folder.resolve()
    return f"./{inner.relative_to(outer).as_posix()}" if outer in inner.parents else str(inner)


def _found_path(path: str, folder: Path, name: str) -> str:
    """Where a member is; a folder that is gone is never looked for on the hub, where another may have its name."""
    found = folder / path if path.startswith("./") else Path(path)
    if not path.startswith("./") and not found.is_absolute():
        return path
    if not found.is_dir():
        raise ModelError(
            f"member {name} is missing: there is no folder {found}; put it back or make the ensemble again"
        )
    return str(found)
