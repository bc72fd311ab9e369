"""`ensemble`: reward models made anywhere, put on one scale and joined."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prudent.data import DataSource, Preferences, choose_split, load_preferences, prompt_groups
from prudent.errors import DataError, PosteriorError
from prudent.models import progress_bar
from prudent.posteriors._ensemble import EnsembleScorer, ScoredMember, mixture
from prudent.posteriors._ensemble_card import write_ensemble
from prudent.posteriors._ensemble_places import EnsembleMember, is_ensemble, member_folder, pinned_member
from prudent.posteriors._ensemble_store import load_members
from prudent.posteriors._held_out import PairFigures, pair_figures
from prudent.posteriors._member_calibration import MemberCalibration, calibrate_member
from prudent.posteriors._member_logits import require_logits
from prudent.posteriors._member_texts import MemberPairs, MemberTexts
from prudent.posteriors._protocol import Contrasts
from prudent.posteriors._store import CONFIG, TENSORS
from prudent.posteriors._training_record import training_settings
from prudent.training import data_digest

__all__ = ["EnsembleResult", "MemberFigures", "ensemble"]

_FEWEST_PAIRS = 10
_FEW_PAIRS = 100
_OFFSET_TEXTS = 256
"""Texts whose mean reward an offset brings to zero; only levels of single rewards depend on it, no comparison does."""


@dataclass(frozen=True)
class MemberFigures:
    """A member and what the calibration pairs say of it.

    Attributes:
        name: of the member.
        path: folder or hub name.
        posterior: kind of its own posterior, `none` without one.
        scale: logits per unit of its reward.
        offset: added to it, in logits.
        accuracy: share of the pairs that it ranks as labelled; None without pairs, like all that follow.
        temperature: 1 / scale; above 1 for rewards that are too sure as they are.
        nll_before: nats a pair by its rewards as they are.
        nll_after: nats a pair by its rewards times the scale.
    """

    name: str
    path: str
    posterior: str
    scale: float
    offset: float
    accuracy: float | None
    temperature: float | None
    nll_before: float | None
    nll_after: float | None


@dataclass(frozen=True)
class EnsembleResult:
    """What `ensemble` made.

    Attributes:
        output: folder of the ensemble.
        members: one each, in the order given.
        figures: of the members together on the calibration pairs, which chose the scales and so flatter it a little.
        num_skipped: pairs left out as faulty.
        num_truncated: texts whose response was cut for some member.
        notes: what a user should know, a sentence each.
    """

    output: Path
    members: tuple[MemberFigures, ...]
    figures: PairFigures | None
    num_skipped: int
    num_truncated: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "output": str(self.output)}


def ensemble(
    members: Sequence[str | Path],
    output: str | Path,
    *,
    data: DataSource | Preferences | None = None,
    split: str | None = None,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> EnsembleResult:
    """Join reward models, of any families and tokenizers, into one posterior on a common scale of logits.

    Rewards of different models have different units. On preferences that no member was trained on, each member's
    rewards are multiplied by the scale that makes its Bradley-Terry probabilities most likely, and shifted so that
    their mean is zero on the texts of these pairs. The scale is that of the mean alone, also where a member has a
    posterior of its own, whose variance is scaled along: a moderated likelihood would mend a posterior that is too wide
    by an ever larger scale. The members stay where they are; the folder written names them, by a path relative to it
    where they lie inside, with what their weights, tokenizer and posterior must be when it is loaded.

    Args:
        members: at least two folders or hub names of reward models, with or without posteriors.
        output: folder to write.
        data: preferences to calibrate on, at least 10 pairs. Without them the rewards are taken as logits: those of
            members of one base model, trained by prudent with the Bradley-Terry loss or with a head fitted so.
        split: the split of data that have several; by default as in `prudent.evaluation.evaluate`.
        max_length: tokens a text may have, here and whenever the ensemble is loaded.
        tokens_per_batch: padded tokens of a batch.
        strict: an over-long text is an error.
        skip_bad: leave faulty rows out instead of stopping.
        overwrite: replace an ensemble that is there; members inside the folder stay.
        progress: show a bar.

    Raises:
        DataError: the preferences are faulty or too few.
        ModelError: a member cannot be loaded, has several outputs, or a head that was never trained; it is named.
        PosteriorError: fewer than two members, one of them twice, an ensemble among them; a member that ranks against
            the labels, no better than a coin, or gives one reward to everything; without `data`, members of different
            bases, or whose rewards are not known to be logits; `output` holds something else.

    Example:
        >>> result = ensemble(["org/small-rm", "my-rm"], "both", data="heldout.jsonl")  # doctest: +SKIP
        >>> [round(member.temperature, 2) for member in result.members]  # doctest: +SKIP
        [1.74, 0.98]
    """
    folder = Path(output)
    places = _places(members)
    _require_free(folder, places, overwrite=overwrite)
    pairs = None
    if data is not None:
        pairs = data if isinstance(data, Preferences) else _load_pairs(data, split, skip_bad=skip_bad)
        if len(pairs) < _FEWEST_PAIRS:
            raise DataError(
                f"{pairs.summary.source} has {len(pairs)} pairs; calibration needs at least {_FEWEST_PAIRS}, better "
                "some hundred"
            )
    places = [pinned_member(place) for place in places]
    loaded = load_members(places, max_length=max_length)
    _require_different(loaded)
    if pairs is None:
        require_logits(loaded, [member_folder(place) for place in places])
        return _write(folder, loaded, places, None, [None] * len(loaded), None)
    raw = EnsembleScorer(loaded)
    encoded = raw.encode_pairs(pairs.rows, strict=strict)
    with progress_bar("Calibrating members", len(encoded), unit="pairs", enabled=progress) as advance:
        contrasts = raw.member_contrasts(encoded, tokens_per_batch=tokens_per_batch, advance=advance)
    group = torch.tensor(prompt_groups(pairs.rows["prompt"]))
    found = [
        calibrate_member(member.name, one.mean, encoded.label, group)
        for member, one in zip(loaded, contrasts, strict=True)
    ]
    level = _mean_rewards(raw, encoded, tokens_per_batch)
    calibrated = [
        replace(member, scale=one.scale, offset=-one.scale * mean)
        for member, one, mean in zip(loaded, found, level, strict=True)
    ]
    scaled = [
        Contrasts(one.scale * each.mean, one.scale**2 * each.variance, one.scale**2 * each.noise)
        for one, each in zip(found, contrasts, strict=True)
    ]
    together = mixture(scaled)
    figures = pair_figures(pairs.summary.source, together.mean, together.variance + together.noise, encoded.label)
    result = _write(folder, calibrated, places, figures, found, pairs)
    return replace(result, num_truncated=encoded.num_truncated, num_skipped=pairs.summary.num_skipped)


def _places(members: Sequence[str | Path]) -> list[EnsembleMember]:
    """Members by name: that of the folder, or all of the path where two folders have the same name."""
    if len(members) < 2:
        raise PosteriorError(
            f"an ensemble needs at least two members, {'one was' if members else 'none were'} given; a single model is "
            "given a posterior by fit"
        )
    known: dict[str, str] = {}
    for member in map(str, members):
        same = str(Path(member).resolve()) if Path(member).exists() else member
        if same in known:
            raise PosteriorError(f"member {member} is given twice; its copies would agree and make it seem sure")
        known[same] = member
    short = [Path(member).resolve().name if Path(member).exists() else str(member) for member in members]
    return [
        EnsembleMember(name if short.count(name) == 1 else str(member), member)
        for name, member in zip(short, members, strict=True)
    ]


def _require_free(folder: Path, places: Sequence[EnsembleMember], *, overwrite: bool) -> None:
    """What stands in the output folder are members, or an ensemble that may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise PosteriorError(f"{folder} is a file; give another output folder")
    if not folder.is_dir():
        return
    here = is_ensemble(folder)
    # Without a configuration it is what a call left that died while it put its files in place.
    unfinished = (folder / TENSORS).is_file() and not (folder / CONFIG).exists()
    if here and not overwrite:
        raise PosteriorError(f"{folder} holds an ensemble already; give another folder or say overwrite (--overwrite)")
    inside = [Path(place.path).resolve() for place in places if Path(place.path).exists()]
    own = (CONFIG, TENSORS, "README.md") if here or unfinished else ()
    for path in sorted(folder.iterdir()):
        whole = path.resolve()
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name) and path.is_file():
            continue  # half of a file of ours
        if path.name not in own and not any(member == whole or whole in member.parents for member in inside):
            raise PosteriorError(f"{folder} holds {path.name}, which is no member; give another output folder")


def _load_pairs(data: Any, split: str | None, *, skip_bad: bool) -> Preferences:
    chosen = choose_split(data, split, held_out=True) or "train"
    return load_preferences(data, split=chosen, on_bad="skip" if skip_bad else "error")


def _require_different(loaded: Sequence[ScoredMember]) -> None:
    seen: dict[str, str] = {}
    for member in loaded:
        identity = member.scorer.identity()
        other = seen.setdefault(f"{identity['model']} {identity['posterior']}", member.name)
        if other != member.name:
            raise PosteriorError(
                f"members {other} and {member.name} are the same model; copies agree and make it seem sure, so leave "
                "one out"
            )


def _mean_rewards(raw: EnsembleScorer, encoded: MemberPairs, tokens_per_batch: int | None) -> list[float]:
    """`[M]` mean reward of each member on some of the texts, spread evenly over them."""
    texts = MemberTexts(tuple(part.encoded for part in encoded.parts), encoded.which)
    index = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), _OFFSET_TEXTS)).astype(np.int64))
    chosen = texts.select(index)
    found = raw.predict(
        chosen,
        group=torch.arange(len(chosen)),
        reference_weight=torch.zeros(len(chosen)),
        tokens_per_batch=tokens_per_batch,
    )
    assert found.members is not None
    means: list[float] = found.members.double().mean(0).tolist()
    return means


def _write(
    folder: Path,
    loaded: Sequence[ScoredMember],
    places: Sequence[EnsembleMember],
    figures: PairFigures | None,
    found: Sequence[MemberCalibration | None],
    pairs: Preferences | None,
) -> EnsembleResult:
    members = tuple(
        MemberFigures(
            name=member.name,
            path=str(place.path),
            posterior=member.scorer.kind,
            scale=member.scale,
            offset=member.offset,
            accuracy=None if one is None else one.accuracy,
            temperature=None if one is None else 1 / one.scale,
            nll_before=None if one is None else one.nll_before,
            nll_after=None if one is None else one.nll_after,
        )
        for member, place, one in zip(loaded, places, found, strict=True)
    )
    notes = tuple(_notes(places, pairs))
    data = None if pairs is None else pairs.summary.source
    folder.mkdir(parents=True, exist_ok=True)
    write_ensemble(
        folder,
        EnsembleScorer(loaded),
        [place.path for place in places],
        about="Joined by prudent from reward models made apart, "
        + ("taken as they are." if data is None else f"calibrated to logits on `{Path(data).name}`."),
        fitted_on={"data": data, "members": [asdict(member) for member in members], "notes": notes},
        figures=figures,
        notes=notes,
        revisions=[place.revision for place in places],
    )
    return EnsembleResult(folder, members, figures, 0, 0, notes)


def _notes(places: Sequence[EnsembleMember], pairs: Preferences | None) -> list[str]:
    if pairs is None:
        return ["the members were not calibrated: their rewards are taken as logits as they are"]
    notes = []
    if len(pairs) < _FEW_PAIRS:
        notes.append(f"only {len(pairs)} pairs chose the scales; others may choose other ones")
    digest = data_digest(pairs.rows)
    seen = [place.name for place in places if training_settings(member_folder(place)).get("data") == digest]
    if seen:
        notes.append(
            f"{', '.join(seen)} {'was' if len(seen) == 1 else 'were'} trained on these very pairs, so the scale found "
            "is too large; calibrate on held-out pairs"
        )
    return notes
