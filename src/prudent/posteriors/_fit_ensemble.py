"""`fit_ensemble`: a posterior of its own for each member of an ensemble."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from prudent.data import DataSource, Preferences
from prudent.errors import PosteriorError, PrudentError, UnsupportedError
from prudent.models import manifest_changes, progress_bar, progress_within, write_manifest
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._ensemble_card import write_ensemble
from prudent.posteriors._ensemble_places import EnsembleMember, is_ensemble
from prudent.posteriors._ensemble_store import load_members, saved_members
from prudent.posteriors._fit import FitResult, fit
from prudent.posteriors._held_out import PairFigures, pair_figures
from prudent.posteriors._processes import process_state
from prudent.posteriors._store import CONFIG, read_config, saved_posterior
from prudent.training import data_digest, load_training_pairs

__all__ = ["EnsembleFitResult", "MemberKind", "fit_ensemble", "require_member_kind"]

MemberKind = Literal["last_layer", "kron", "ekfac", "diag", "full"]
"""The kinds of posterior that a member of an ensemble can have: those around the weights of one model."""

_MANIFEST = "fit.json"


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

    The new ensemble holds the members themselves, each with its posterior, in `output/member_0` and so on. A member
    that entered with a scale keeps it; its posterior's variance is scaled along. Killed and called again in the same
    way, members that were fitted are left as they are.

    Args:
        model: folder of an ensemble.
        data: preferences, loaded or in any form that `prudent.data.load_preferences` takes.
        output: folder of the new ensemble; another than that of `model`.
        posterior: the kind.
        split: see `fit`.
        eval_data: held-out preferences; see `fit`. The ensemble is measured on them too.
        eval_split: see `fit`.
        skip_bad: see `fit`.
        overwrite: replace an existing output folder, but for what an unfinished call of the same kind left there.
        progress: show bars, which name the member.
        **options: further options of `fit`, for every member.

    Raises:
        DataError: the preferences are faulty, or held-out prompts are among those fitted on.
        ModelError: a member cannot be loaded.
        PosteriorError: as for `fit`, naming the member; or `output` holds something else.
        UnsupportedError: a kind that is not for members of an ensemble, or one that a member has no weights for.

    Example:
        >>> result = fit_ensemble("ensemble", "pairs.jsonl", "posterior", posterior="ekfac")  # doctest: +SKIP
        >>> len(result.members)  # doctest: +SKIP
        5
    """
    require_member_kind(posterior)
    source, folder = Path(model), Path(output)
    if source.resolve() == folder.resolve():
        raise PosteriorError(f"{folder} holds the ensemble to be fitted; give another output folder")
    stated = read_config(source / CONFIG)
    members = saved_members(source)
    pairs, held_out = load_training_pairs(
        data, eval_data=eval_data, split=split, eval_split=eval_split, skip_bad=skip_bad
    )
    process = process_state()
    if process.is_main_process:
        _begin(
            folder,
            {
                "format_version": 1,
                "ensemble": stated["basis_id"],
                "posterior": posterior,
                "data": data_digest(pairs.rows),
                "eval_data": None if held_out is None else data_digest(held_out.rows),
                "options": {name: str(value) for name, value in sorted(options.items())},
            },
            overwrite=overwrite,
        )
    process.wait_for_everyone()
    paths = [folder / f"member_{place}" for place in range(len(members))]
    fitted: list[FitResult | None] = []
    for place, (member, path) in enumerate(zip(members, paths, strict=True)):
        if saved_posterior(path) is not None:
            fitted.append(None)
            continue
        try:
            with progress_within(f"Member {place + 1} of {len(members)}"):
                fitted.append(
                    fit(
                        member.path,
                        pairs,
                        path,
                        posterior=posterior,
                        eval_data=held_out,
                        progress=progress,
                        **options,
                    )
                )
        except PrudentError as error:
            raise type(error)(f"member {member.name}: {error}") from error
    result = EnsembleFitResult(folder, posterior, tuple(fitted), None, tuple(_notes(members, posterior, options)))
    if process.is_main_process:
        moved = [
            EnsembleMember(member.name, path) if result.notes else replace(member, path=path)
            for member, path in zip(members, paths, strict=True)
        ]
        ensemble = EnsembleScorer(load_members(moved, max_length=options.get("max_length")))
        if held_out is not None:
            encoded = ensemble.encode_pairs(held_out.rows)
            with progress_bar("Evaluating the ensemble", len(encoded), unit="pairs", enabled=progress) as advance:
                contrasts = ensemble.contrasts(encoded, advance=advance)
            known = contrasts.variance + contrasts.noise
            figures = pair_figures(held_out.summary.source, contrasts.mean, known, encoded.label)
            result = replace(result, figures=figures)
        write_ensemble(
            folder,
            ensemble,
            paths,
            about=f"Members of another ensemble, each with a posterior `{posterior}` fitted by prudent to "
            f"{len(pairs):,} pairs of `{Path(pairs.summary.source).name}`.",
            fitted_on={**stated["fitted_on"], "posterior_data": pairs.summary.source, "notes": result.notes},
            figures=result.figures,
            notes=result.notes,
        )
        (folder / _MANIFEST).unlink()
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


def _begin(folder: Path, manifest: dict[str, Any], *, overwrite: bool) -> None:
    """Make the output folder, or find it as an earlier call of the same kind left it."""
    if folder.exists() and not folder.is_dir():
        raise PosteriorError(f"{folder} is a file; give another output folder")
    if (folder / _MANIFEST).is_file():
        changes = manifest_changes(folder / _MANIFEST, manifest)
        if not changes:
            return
        if not overwrite:
            raise PosteriorError(
                f"{folder} holds an unfinished fit of an ensemble with another {', '.join(changes)}; give another "
                "output or overwrite"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise PosteriorError(f"{folder} already holds files; give another output folder or say overwrite")
        if not is_ensemble(folder):
            raise PosteriorError(f"{folder} holds files of something else; give another output folder")
    if folder.is_dir():
        (folder / CONFIG).unlink(missing_ok=True)
        for path in folder.glob("member_*"):
            shutil.rmtree(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / _MANIFEST, manifest)


def _notes(members: list[EnsembleMember], posterior: str, options: dict[str, Any]) -> list[str]:
    scaled = any((member.scale, member.offset) != (1.0, 0.0) for member in members)
    if scaled and posterior == "last_layer" and options.get("head") != "kept":
        return ["the heads were refitted to logits on these pairs, so the scales of the members are 1 from now on"]
    return []
