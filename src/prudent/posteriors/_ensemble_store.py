"""An ensemble on disk: which reward models are its members, and the scale on which each of them enters.

ensemble/posterior_config.json    kind "ensemble", the members with scale, offset and what names their weights
ensemble/posterior.safetensors    scale and offset, float64; the members' heads, by which they are known again
ensemble/member_0/                an ordinary reward-model folder, with or without a posterior; members may also lie
                                  elsewhere, or on the hub
"""

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from prudent.errors import ModelError, PosteriorError
from prudent.models import RewardModel, TextEncoder, atomic_file, load_reward_models, tokenizer_hash
from prudent.posteriors._ensemble import EnsembleScorer, ScoredMember
from prudent.posteriors._ensemble_places import (
    EnsembleMember,
    ensemble_folder,
    found_path,
    is_ensemble,
    member_folder,
    stored_path,
)
from prudent.posteriors._protocol import check_head
from prudent.posteriors._scorer import ModelScorer
from prudent.posteriors._store import CONFIG, FORMAT_VERSION, TENSORS, load_posterior, read_config, read_tensors

__all__ = ["load_ensemble", "load_members", "save_ensemble", "saved_members"]


def load_members(
    members: Sequence[EnsembleMember],
    *,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
    models: Sequence[RewardModel] | None = None,
) -> list[ScoredMember]:
    """Load models and their posteriors; adapters of one base share one copy of it.

    Args:
        members: where they are.
        max_length: tokens a text may have; by default what each member says of it, or its model.
        dtype: of the weights.
        models: `[M]` the models, where they are loaded already; by default they are loaded here.

    Raises:
        ModelError: a member cannot be loaded or its head was never trained; it is named.
        PosteriorError: a member's posterior does not belong to it, or a member is itself an ensemble; it is named.
    """
    folders = [member_folder(member) for member in members]
    for member, folder in zip(members, folders, strict=True):
        if is_ensemble(folder):
            raise PosteriorError(
                f"member {member.name} ({member.path}) is itself an ensemble; name its members instead"
            )
    if models is None:
        models = _load_models(members, folders, max_length, dtype)
    found = []
    for member, folder, model in zip(members, folders, models, strict=True):
        if max_length is None and member.max_length is not None:
            model.encoder = TextEncoder(model.tokenizer, member.max_length)
        try:
            posterior = load_posterior(folder, model)
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
    revisions: Sequence[str | None] | None = None,
    card: str | None = None,
) -> None:
    """Write what makes a folder an ensemble; the configuration, put in place last, says that it is whole.

    Args:
        folder: exists; members within it are named relative to it.
        ensemble: loaded.
        paths: `[M]` folder or hub name of each member.
        fitted_on: for the record: what the members were trained or calibrated on.
        calibration: figures on held-out pairs, for the record and for `evaluate`.
        revisions: `[M]` commit of each member that is on the hub, where it is known.
        card: text of the README.md; by default there is none, or the old one stays.
    """
    from safetensors.torch import save_file

    place = Path(folder)
    columns = {
        name: torch.tensor([getattr(member, name) for member in ensemble.members], dtype=torch.float64)
        for name in ("scale", "offset")
    }
    # The fingerprint names the weights below the head, which another precision would round.
    heads = {f"head_{place}": member.scorer.model.head_values()[0] for place, member in enumerate(ensemble.members)}
    described = [
        {
            "name": member.name,
            "path": stored_path(path, place),
            "revision": revision,
            "scale": member.scale,
            "offset": member.offset,
            "max_length": member.scorer.model.max_length,
            **_names_of(member.scorer.model),
            "posterior": member.scorer.kind,
            "posterior_basis_id": member.scorer.basis_id,
        }
        for member, path, revision in zip(
            ensemble.members, paths, revisions or [None] * ensemble.num_members, strict=True
        )
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
    # All are written before the first takes its place, in the opposite order. Without a configuration the folder is no
    # ensemble; with the old one it would be one of other members.
    with ExitStack() as files:
        temporary = files.enter_context(atomic_file(place / CONFIG))
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            files.enter_context(atomic_file(place / "README.md")).write_text(card, encoding="utf-8")
        save_file({**columns, **heads}, files.enter_context(atomic_file(place / TENSORS)))
        (place / CONFIG).unlink(missing_ok=True)


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
            EnsembleMember(
                entry["name"],
                found_path(entry["path"], place, entry["name"]),
                float(scale),
                float(offset),
                entry.get("max_length"),
                entry.get("revision"),
            )
            for entry, scale, offset in zip(
                read_config(place / CONFIG)["members"], tensors["scale"], tensors["offset"], strict=True
            )
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(place, error) from error


def load_ensemble(
    model: str | Path,
    *,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
    models: Sequence[RewardModel] | None = None,
) -> EnsembleScorer:
    """The ensemble in a folder, or on the hub, from where it is downloaded with the members that lie within it.

    Args:
        model: folder written by `save_ensemble`, or hub name of such a folder.
        max_length: tokens a text may have; by default what each member was joined with.
        dtype: of the weights.
        models: of the members, where they are loaded already.

    Raises:
        ModelError: a member is missing or damaged, or cannot be downloaded; it is named.
        PosteriorError: there is no ensemble, the folder is damaged, or a member is no longer what it was: its weights,
            its tokenizer or its posterior changed; it is named.
    """
    place = ensemble_folder(model)
    members = saved_members(place)
    try:
        expected = [
            {name: entry[name] for name in ("model_fingerprint", "tokenizer_hash", "posterior_basis_id")}
            for entry in read_config(place / CONFIG)["members"]
        ]
    except KeyError as error:
        raise _damaged(place, error) from error
    heads = read_tensors(place / TENSORS)
    loaded = load_members(members, max_length=max_length, dtype=dtype, models=models)
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
    members: Sequence[EnsembleMember],
    folders: Sequence[str],
    max_length: int | None,
    dtype: torch.dtype | str | None,
) -> list[RewardModel]:
    try:
        return load_reward_models(folders, max_length=max_length, dtype=dtype)
    except ModelError as error:
        # One folder's path may begin with another's.
        named = [
            (len(folder), member.name)
            for folder, member in zip(folders, members, strict=True)
            if re.search(rf"(?<![\w.-]){re.escape(folder.rstrip('/'))}(?![\w-])", str(error))
        ]
        raise ModelError(f"member {max(named)[1]}: {error}" if named else str(error)) from error
