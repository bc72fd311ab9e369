"""`fit_ensemble`: a posterior of its own for each member of an ensemble."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_args

from prudent.data import DataSource, Preferences
from prudent.errors import PosteriorError, PrudentError, UnsupportedError
from prudent.models import find_model_file, manifest_changes, progress_bar, progress_within, write_manifest
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._ensemble_card import write_ensemble
from prudent.posteriors._ensemble_places import EnsembleMember, ensemble_folder, is_ensemble, member_folder
from prudent.posteriors._ensemble_store import load_members, saved_members
from prudent.posteriors._fit import FitResult, fit
from prudent.posteriors._held_out import PairFigures, pair_figures
from prudent.posteriors._processes import process_state
from prudent.posteriors._store import CONFIG, TENSORS, read_config, saved_posterior
from prudent.training import data_digest, load_training_pairs

__all__ = ["EnsembleFitResult", "MemberKind", "fit_ensemble", "require_member_kind"]

MemberKind = Literal["last_layer", "kron", "ekfac", "diag", "full"]
"""The kinds of posterior that a member of an ensemble can have: those around the weights of one model."""

_MANIFEST = "fit.json"
_HARMLESS = ("max_length", "strict", "tokens_per_batch")
"""Options that may change between a call that was killed and the next; lengths are noted for each member."""
_MEMBER = re.compile(r"member_\d+")


@dataclass(frozen=True)
class EnsembleFitResult:
    """What `fit_ensemble` made.

    Attributes:
        output: folder of the new ensemble.
        posterior: kind of the members' posteriors.
        members: what was fitted to each member; None for one that an earlier call had fitted.
        figures: of the members together on the held-out pairs, where there were any.
        notes: what a user should know, a sentence each.
    """

    output: Path
    posterior: MemberKind
    members: tuple[FitResult | None, ...]
    figures: PairFigures | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output": str(self.output),
            "posterior": self.posterior,
            "num_members": len(self.members),
            "figures": None if self.figures is None else self.figures.to_dict(),
            "notes": list(self.notes),
            "members": [None if member is None else member.to_dict() for member in self.members],
        }


def fit_ensemble(
    model: str | Path,
    data: DataSource | Preferences,
    output: str | Path,
    *,
    posterior: MemberKind,
    split: str = "train",
    eval_data: DataSource | Preferences | None = None,
    eval_split: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> EnsembleFitResult:
    """Fit a posterior to each member of an ensemble, one after another: an ensemble of Laplace posteriors.

    The new ensemble holds the members themselves, each with its posterior, in `output/member_0` and so on. It is made
    in `output.partial`, and takes its place, that of an older one too, when it is whole. Killed and called again in the
    same way, members that were fitted are left as they are. Members whose rewards were scaled to logits when they were
    joined can only have their heads refitted, by which they are logits: curvature and evidence are about rewards as
    they are.

    Args:
        model: folder of an ensemble, or hub name of one.
        data: preferences, loaded or in any form that `prudent.data.load_preferences` takes.
        output: folder of the new ensemble; neither that of `model`, nor where one of its members lies.
        posterior: the kind.
        split: see `fit`.
        eval_data: held-out preferences; see `fit`. The ensemble is measured on them too.
        eval_split: see `fit`.
        skip_bad: see `fit`.
        overwrite: replace an ensemble in the output folder, and discard what an unfinished call of another kind left.
        progress: show bars, which name the member.
        **options: further options of `fit`, for every member; `max_length` is by default what each was joined with.

    Raises:
        DataError: the preferences are faulty, or held-out prompts are among those fitted on.
        ModelError: a member cannot be loaded.
        PosteriorError: as for `fit`, naming the member; `model` is no ensemble; a member with a scale would keep its
            head; `output` holds something else, or members of `model`.
        TypeError: an option that `fit` does not have.
        UnsupportedError: a kind that is not for members of an ensemble, or one that a member has no weights for.

    Example:
        >>> result = fit_ensemble("ensemble", "pairs.jsonl", "posterior", posterior="ekfac")  # doctest: +SKIP
        >>> len(result.members)  # doctest: +SKIP
        5
    """
    require_member_kind(posterior)
    signature(fit).bind(model, data, posterior=posterior, **options)
    folder = Path(output)
    work = folder.with_name(f"{folder.name}.partial")
    source = ensemble_folder(model)
    stated = read_config(source / CONFIG)
    members = saved_members(source)
    refits = posterior == "last_layer" and options.get("head") != "kept"
    _require_free(folder, overwrite=overwrite)
    places = [member_folder(member) for member in members]
    _require_possible(members, places, posterior, refits=refits)
    for written in (folder, work):
        _require_apart(written, source, members, places)
    pairs, held_out = load_training_pairs(
        data, eval_data=eval_data, split=split, eval_split=eval_split, skip_bad=skip_bad
    )
    lengths = [options.get("max_length") or member.max_length for member in members]
    process = process_state()
    if process.is_main_process:
        _begin(
            work,
            {
                "format_version": 1,
                "ensemble": stated["basis_id"],
                "posterior": posterior,
                "data": data_digest(pairs.rows),
                "eval_data": None if held_out is None else data_digest(held_out.rows),
                "max_length": lengths,
                "options": {name: str(value) for name, value in sorted(options.items()) if name not in _HARMLESS},
            },
            overwrite=overwrite,
        )
    process.wait_for_everyone()
    paths = [work / f"member_{place}" for place in range(len(members))]
    fitted: list[FitResult | None] = []
    for member, place, length, path in zip(members, places, lengths, paths, strict=True):
        if saved_posterior(path) is not None:
            fitted.append(None)
            continue
        try:
            with progress_within(f"Member {len(fitted) + 1} of {len(members)}"):
                fitted.append(
                    fit(
                        place,
                        pairs,
                        path,
                        posterior=posterior,
                        eval_data=held_out,
                        progress=progress,
                        **{**options, "max_length": length},
                    )
                )
        except PrudentError as error:
            raise type(error)(f"member {member.name}: {error}") from error
    # They are named by where they will be found.
    placed = tuple(
        None if one is None else replace(one, output=folder / path.name)
        for one, path in zip(fitted, paths, strict=True)
    )
    result = EnsembleFitResult(folder, posterior, placed, None, tuple(_notes(members, refits=refits)))
    if process.is_main_process:
        moved = [
            EnsembleMember(member.name, path, offset=0.0 if refits else member.offset, max_length=length)
            for member, path, length in zip(members, paths, lengths, strict=True)
        ]
        ensemble = EnsembleScorer(load_members(moved))
        if held_out is not None:
            encoded = ensemble.encode_pairs(held_out.rows)
            with progress_bar("Evaluating the ensemble", len(encoded), unit="pairs", enabled=progress) as advance:
                contrasts = ensemble.contrasts(encoded, advance=advance)
            known = contrasts.variance + contrasts.noise
            figures = pair_figures(held_out.summary.source, contrasts.mean, known, encoded.label)
            result = replace(result, figures=figures)
        write_ensemble(
            work,
            ensemble,
            paths,
            about=f"Members of another ensemble, each with a posterior `{posterior}` fitted by prudent to "
            f"{len(pairs):,} pairs of `{Path(pairs.summary.source).name}`.",
            fitted_on={**stated["fitted_on"], "posterior_data": pairs.summary.source, "notes": result.notes},
            figures=result.figures,
            notes=result.notes,
            name=folder.name,
        )
        _put_in_place(work, folder)
    process.wait_for_everyone()
    return result


def require_member_kind(posterior: str) -> None:
    """Refuse kinds of posterior that are ensembles by themselves.

    Raises:
        UnsupportedError: it is one, or not known.
    """
    if posterior not in get_args(MemberKind):
        raise UnsupportedError(
            f"posterior {posterior!r} is not for the members of an ensemble; {', '.join(get_args(MemberKind))} are. "
            "Fit it to one model"
        )


def _require_possible(
    members: Sequence[EnsembleMember], places: Sequence[str], posterior: str, *, refits: bool
) -> None:
    """Each member can have a posterior of this kind."""
    for member, place in zip(members, places, strict=True):
        if not refits and member.scale != 1.0:
            raise PosteriorError(
                f"member {member.name} enters with a scale of {member.scale:.3g}, and curvature and evidence would be "
                "taken at its rewards without it; fit each member by itself before they are joined, or refit the heads "
                "(posterior 'last_layer')"
            )
        if posterior != "last_layer" and find_model_file(place, "adapter_config.json") is None:
            raise UnsupportedError(
                f"member {member.name} has no adapter, and posterior {posterior!r} is about LoRA weights; take "
                "'last_layer'"
            )


def _require_free(folder: Path, *, overwrite: bool) -> None:
    """Nothing is in the output folder, or an ensemble that may be replaced, and nothing beside it."""
    if folder.exists() and not folder.is_dir():
        raise PosteriorError(f"{folder} is a file; give another output folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise PosteriorError(f"{folder} already holds files; give another output folder or say overwrite (--overwrite)")
    own = {CONFIG, TENSORS, "README.md", _MANIFEST}
    other = [path.name for path in folder.iterdir() if path.name not in own and not _MEMBER.fullmatch(path.name)]
    if not is_ensemble(folder) or other:
        told = f" ({', '.join(sorted(other)[:3])})" if other else ""
        raise PosteriorError(f"{folder} holds files of something else{told}; give another output folder")


def _require_apart(folder: Path, source: Path, members: Sequence[EnsembleMember], places: Sequence[str]) -> None:
    """What is written, or replaced, is no part of what is fitted."""
    outer = folder.resolve()
    if source.resolve() == outer or outer in source.resolve().parents:
        raise PosteriorError(f"{folder} holds the ensemble to be fitted; give another output folder")
    for member, place in zip(members, places, strict=True):
        inner = Path(place).resolve()
        if inner == outer or outer in inner.parents:
            raise PosteriorError(
                f"{folder} holds member {member.name}, which is to be fitted; give another output folder"
            )
        if inner in outer.parents:
            raise PosteriorError(f"{folder} lies in member {member.name}; give another output folder")


def _begin(work: Path, manifest: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder to work in, or find it as an earlier call of the same kind left it."""
    if (work / _MANIFEST).is_file():
        changes = manifest_changes(work / _MANIFEST, manifest)
        if not changes:
            return
        if not overwrite and any(work.glob("member_*")):
            raise PosteriorError(
                f"{work} holds an unfinished fit of an ensemble with another {', '.join(changes)}; give another "
                "output or say overwrite (--overwrite)"
            )
        shutil.rmtree(work)
    elif work.exists():
        raise PosteriorError(f"{work}, which is needed to work in, holds something else; give another output folder")
    work.mkdir(parents=True)
    write_manifest(work / _MANIFEST, manifest)


def _put_in_place(work: Path, folder: Path) -> None:
    """The whole new ensemble takes the place of what is there; killed in between, the same call ends it."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    work.rename(folder)
    (folder / _MANIFEST).unlink()
    shutil.rmtree(old, ignore_errors=True)


def _notes(members: Sequence[EnsembleMember], *, refits: bool) -> list[str]:
    if refits and any((member.scale, member.offset) != (1.0, 0.0) for member in members):
        return ["the heads were refitted to logits on these pairs, so the scales of the members are 1 from now on"]
    return []
