"""An ensemble's folder with its card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._ensemble_store import save_ensemble
from prudent.posteriors._held_out import PairFigures

__all__ = ["write_ensemble"]


def write_ensemble(
    folder: Path,
    ensemble: EnsembleScorer,
    paths: Sequence[str | Path],
    *,
    about: str,
    fitted_on: dict[str, Any],
    figures: PairFigures | None,
    notes: Sequence[str],
    name: str | None = None,
    revisions: Sequence[str | None] | None = None,
) -> None:
    """Make a folder that may hold members already into an ensemble, with a card.

    Args:
        folder: exists; an ensemble there is replaced, its members are left.
        ensemble: loaded.
        paths: `[M]` folder or hub name of each member.
        about: a sentence for the card: how the members came about.
        fitted_on: for the record.
        figures: on held-out or calibration pairs.
        notes: what a user should know, a sentence each.
        name: of the folder in the end, for the card.
        revisions: `[M]` commit of each member that is on the hub, where it is known.
    """
    save_ensemble(
        folder,
        ensemble,
        paths,
        fitted_on=fitted_on,
        calibration=None if figures is None else figures.to_dict(),
        revisions=revisions,
        card=_card(name or folder.name, ensemble, paths, about, figures, notes),
    )


def _card(
    folder_name: str,
    ensemble: EnsembleScorer,
    paths: Sequence[str | Path],
    about: str,
    figures: PairFigures | None,
    notes: Sequence[str],
) -> str:
    header = {"pipeline_tag": "text-classification", "tags": ["reward-model", "prudent", "uncertainty", "ensemble"]}
    rows = [
        f"| {member.name} | `{Path(path).name}` | {member.scorer.kind} | {member.scale:.4g} | {member.offset:.4g} |"
        for member, path in zip(ensemble.members, paths, strict=True)
    ]
    told = []
    if figures is not None:
        told = [
            f"On {figures.num_pairs:,} pairs of `{Path(figures.data).name}`: accuracy {figures.accuracy:.3f}, negative "
            f"log-likelihood {figures.nll:.4f} nats with the spread of the members, {figures.nll_map:.4f} by their "
            f"mean alone, calibration error {figures.ece:.3f}.",
            "",
        ]
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
            "",
            f"# Ensemble of {ensemble.num_members} reward models",
            "",
            f"{about} A member's reward r enters as scale * r + offset, in logits; the variance over "
            "the members (divided by M - 1) is that of the reward, beside what their own posteriors say.",
            "",
            "| member | model | posterior | scale | offset |",
            "| --- | --- | --- | ---: | ---: |",
            *rows,
            "",
            *told,
            *(f"- {note}" for note in notes),
            *([""] if notes else []),
            "Each member is an ordinary reward model that loads without prudent. Together, with their variance:",
            "",
            "```sh",
            f"prudent score --model {folder_name} --data pool.jsonl --output scored",
            "```",
            "",
        ]
    )
