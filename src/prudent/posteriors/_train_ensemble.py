"""`train_ensemble`: several reward models from one base, and the ensemble that they make."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prudent.data import DataSource, Preferences, resample_prompts
from prudent.errors import PosteriorError, PrudentError, UnsupportedError
from prudent.models import progress_bar, progress_within
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._ensemble_card import write_ensemble
from prudent.posteriors._ensemble_places import EnsembleMember, is_ensemble
from prudent.posteriors._ensemble_store import load_members
from prudent.posteriors._fit import fit
from prudent.posteriors._fit_ensemble import MemberKind, require_member_kind
from prudent.posteriors._held_out import PairFigures, pair_figures
from prudent.posteriors._processes import process_state
from prudent.posteriors._store import CONFIG, TENSORS, moved_head, read_config, saved_posterior
from prudent.training import TrainingConfig, TrainingResult, load_training_pairs, train, train_members

__all__ = ["EnsembleTrainingResult", "train_ensemble"]


@dataclass(frozen=True)
class EnsembleTrainingResult:
    """What `train_ensemble` made.

    Attributes:
        output: folder of the ensemble.
        members: figures and counts of each member's run.
        bootstrap: each member was trained on prompts resampled by its seed.
        posterior: kind of the members' own posteriors, if they have any.
        figures: of the members together on the evaluation pairs, where there were any.
        already_finished: all of it had been done before.
        notes: what a user should know, a sentence each.
    """

    output: Path
    members: tuple[TrainingResult, ...]
    bootstrap: bool
    posterior: str | None
    figures: PairFigures | None
    already_finished: bool
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output": str(self.output),
            "num_members": len(self.members),
            "bootstrap": self.bootstrap,
            "posterior": self.posterior,
            "figures": None if self.figures is None else self.figures.to_dict(),
            "already_finished": self.already_finished,
            "notes": list(self.notes),
            "members": [member.to_dict() for member in self.members],
        }


def train_ensemble(
    model: str | Path,
    data: DataSource | Preferences,
    output: str | Path,
    *,
    num_members: int = 5,
    bootstrap: bool = False,
    posterior: MemberKind | None = None,
    eval_data: DataSource | Preferences | None = None,
    split: str = "train",
    eval_split: str | None = None,
    config: TrainingConfig | None = None,
    skip_bad: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> EnsembleTrainingResult:
    """Train an ensemble of reward models on one set of preferences, one after another (Coste et al. 2310.02743).

    Member m is an ordinary run of `prudent.training.train` with the seed `config.seed + m`, in `output/member_m`: its
    own new head, adapters, dropout and order of the pairs. With LoRA the members share their base, which is loaded once
    to score. The data are loaded and checked once. Killed and called again in the same way, the member that was cut off
    goes on from its last checkpoint; those that had finished are left as they are; with a larger `num_members`,
    members are added.

    Args:
        model: hub name or folder of a base model, a reward model or an adapter. Members of a model that has a trained
            head and adapters already differ by the order of the pairs alone.
        data: preference pairs, anything that `prudent.data.load_preferences` reads, held in memory.
        output: folder to write to.
        num_members: M, at least 2.
        bootstrap: train each member on prompts drawn with replacement by its seed, a prompt with all its pairs.
        posterior: also fit a posterior of this kind to each member, on the pairs that it was trained on: an ensemble of
            Laplace posteriors.
        eval_data: pairs to evaluate each member and the ensemble on, with none of the prompts of `data`.
        split: see `prudent.training.train`.
        eval_split: see there.
        config: options of all members.
        skip_bad: see there.
        strict: see there.
        overwrite: discard what an earlier call left in `output`, but for members of an unfinished one with the same
            settings: these are kept, or continued, without a posterior of another kind that they have; one whose head
            that posterior moved is trained again.
        progress: show progress with rate and time left, and the member, on standard error.

    Raises:
        DataError: as for `train`; with `bootstrap`, all pairs have the same prompt.
        ModelError: as for `train`; or `output` holds something else, other settings, or more members.
        PosteriorError: fewer than two members, or members that have a posterior of another kind.
        UnsupportedError: a kind of posterior that is not for members of an ensemble.

    Example:
        >>> result = train_ensemble("my-base", "pairs.jsonl", "my-ensemble", num_members=3)  # doctest: +SKIP
        >>> [member.settings["seed"] for member in result.members]  # doctest: +SKIP
        [0, 1, 2]
    """
    config = config or TrainingConfig()
    folder = Path(output)
    if num_members < 2:
        raise PosteriorError(
            f"num_members is {num_members}; an ensemble needs at least 2, one model is trained without num_members"
        )
    if posterior is not None:
        _require_for_members(posterior, config)
    pairs, held_out = load_training_pairs(
        data, eval_data=eval_data, split=split, eval_split=eval_split, skip_bad=skip_bad
    )
    own_pairs = [pairs] * num_members
    if bootstrap:
        own_pairs = [resample_prompts(pairs, config.seed + place) for place in range(num_members)]
    paths = [folder / f"member_{place}" for place in range(num_members)]
    if not overwrite:
        _require_same_kind(paths, posterior)
    runs = train_members(
        model,
        own_pairs,
        folder,
        eval_data=held_out,
        config=config,
        strict=strict,
        overwrite=overwrite,
        progress=progress,
    )
    process = process_state()
    others = _posteriors_of_other_kinds(paths, posterior)
    process.wait_for_everyone()  # all processes have seen the same
    for place in others:
        if others[place]:
            with progress_within(f"Member {place + 1} of {num_members}"):
                retrained = train(
                    model,
                    own_pairs[place],
                    paths[place],
                    eval_data=held_out,
                    config=replace(config, seed=config.seed + place),
                    strict=strict,
                    overwrite=True,
                    progress=progress,
                )
            runs = (*runs[:place], retrained, *runs[place + 1 :])
    if process.is_main_process:
        for place in range(num_members):
            if saved_posterior(paths[place]) is None or others.get(place) is False:
                # Of one that a call was killed in dropping, half may be left.
                for name in (CONFIG, TENSORS):
                    (paths[place] / name).unlink(missing_ok=True)
    process.wait_for_everyone()
    finished = all(run.already_finished for run in runs) and _holds(folder, num_members, posterior)
    if not finished:
        if posterior is not None:
            _fit_members(paths, own_pairs, posterior, config, strict=strict, progress=progress)
        if process.is_main_process:
            _write(folder, paths, runs, held_out, config, bootstrap, progress=progress)
        process.wait_for_everyone()
    stated = read_config(folder / CONFIG)
    return EnsembleTrainingResult(
        output=folder,
        members=runs,
        bootstrap=bootstrap,
        posterior=posterior,
        figures=None if stated["calibration"] is None else PairFigures(**stated["calibration"]),
        already_finished=finished,
        notes=tuple(stated["fitted_on"]["notes"]),
    )


def _require_for_members(posterior: str, config: TrainingConfig) -> None:
    require_member_kind(posterior)
    if posterior != "last_layer" and not config.lora:
        raise UnsupportedError(
            f"posterior {posterior!r} is about LoRA weights, which training in full does not make; take 'last_layer'"
        )


def _require_same_kind(paths: Sequence[Path], posterior: str | None) -> None:
    for path in paths:
        stated = saved_posterior(path)
        if stated is not None and stated.get("kind") != posterior:
            raise PosteriorError(
                f"{path} holds a posterior {stated.get('kind')}, and {posterior or 'none'} is asked for; ask for the "
                "same, give another output folder, or discard this one with overwrite (--overwrite)"
            )


def _posteriors_of_other_kinds(paths: Sequence[Path], posterior: str | None) -> dict[int, bool]:
    """Members that have a posterior which is not asked for, and whether its fit moved the head that was trained."""
    saved = {place: saved_posterior(path) for place, path in enumerate(paths)}
    return {
        place: moved_head(stated)
        for place, stated in saved.items()
        if stated is not None and stated.get("kind") != posterior
    }


def _holds(folder: Path, num_members: int, posterior: str | None) -> bool:
    """An ensemble of these members is there, with posteriors of that kind, or without if none is asked for."""
    if not is_ensemble(folder):
        return False
    members = read_config(folder / CONFIG)["members"]
    return len(members) == num_members and all(member["posterior"] == (posterior or "none") for member in members)


def _fit_members(
    paths: Sequence[Path],
    pairs: Sequence[Preferences],
    posterior: MemberKind,
    config: TrainingConfig,
    *,
    strict: bool,
    progress: bool,
) -> None:
    """A posterior for each member that lacks one, in its own folder."""
    for place, (path, own) in enumerate(zip(paths, pairs, strict=True)):
        if saved_posterior(path) is not None:
            continue
        try:
            with progress_within(f"Member {place + 1} of {len(paths)}"):
                fit(
                    path,
                    own,
                    path,
                    posterior=posterior,
                    max_length=config.max_length,
                    seed=config.seed + place,
                    strict=strict,
                    overwrite=True,
                    progress=progress,
                )
        except PrudentError as error:
            raise type(error)(
                f"the members are trained and lie in {path.parent}, the posterior of {path.name} is not fitted: {error}"
            ) from error


def _write(
    folder: Path,
    paths: Sequence[Path],
    runs: Sequence[TrainingResult],
    held_out: Preferences | None,
    config: TrainingConfig,
    bootstrap: bool,
    *,
    progress: bool,
) -> None:
    members = load_members([EnsembleMember(path.name, path) for path in paths], max_length=config.max_length)
    ensemble = EnsembleScorer(members)
    figures = None
    if held_out is not None:
        encoded = ensemble.encode_pairs(held_out.rows)
        with progress_bar("Evaluating the ensemble", len(encoded), unit="pairs", enabled=progress) as advance:
            found = ensemble.contrasts(encoded, advance=advance)
        figures = pair_figures(held_out.summary.source, found.mean, found.variance + found.noise, encoded.label)
    notes = tuple(_notes(ensemble, config, bootstrap))
    write_ensemble(
        folder,
        ensemble,
        paths,
        about=f"Trained by prudent from one model, {runs[0].base_model}, by {len(runs)} seeds"
        f"{', each on prompts resampled by its own' if bootstrap else ''}.",
        fitted_on={
            "base_model": runs[0].base_model,
            "data": [run.data for run in runs] if bootstrap else runs[0].data,
            "num_pairs": [run.num_pairs for run in runs],
            "seeds": [run.settings["seed"] for run in runs],
            "bootstrap": bootstrap,
            "notes": notes,
        },
        figures=figures,
        notes=notes,
    )


def _notes(ensemble: EnsembleScorer, config: TrainingConfig, bootstrap: bool) -> list[str]:
    notes = []
    if config.loss == "classification":
        notes.append(
            "members were trained by classification, whose rewards are right about the order but are no logits of a "
            "preference; prudent ensemble with --data puts them on that scale"
        )
    return notes
