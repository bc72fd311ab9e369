"""How well an ensemble predicts preferences, and the folder that it is saved to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from prudent.metrics import expected_calibration_error, pair_scores
from prudent.models import atomic_file
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._ensemble_store import save_ensemble
from prudent.posteriors._held_out import best_temperature
from prudent.posteriors._protocol import Contrasts
from prudent.posteriors._store import CONFIG

__all__ = ["EnsembleFigures", "ensemble_figures", "write_ensemble"]


@dataclass(frozen=True)
class EnsembleFigures:
    """How the members together predict pairs.

    Attributes:
        data: where the pairs come from.
        num_pairs: P.
        accuracy: share of pairs ranked as labelled by the mean of the members.
        nll_map: nats a pair, by the sigmoid of the mean difference.
        nll: nats a pair, with the spread of the members and their own variances.
        brier: squared error of the probability, by the same.
        ece: expected calibration error, by the same.
        logit_temperature: the mean difference divided by it predicts best without a variance; None where these pairs do
            not determine one.
        nll_temperature: nats a pair, by the sigmoid of that.
    """

    data: str
    num_pairs: int
    accuracy: float
    nll_map: float
    nll: float
    brier: float
    ece: float
    logit_temperature: float | None
    nll_temperature: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def ensemble_figures(data: str, contrasts: Contrasts, label: Tensor) -> EnsembleFigures:
    """Figures from the contrasts of P pairs.

    Args:
        data: where the pairs come from.
        contrasts: of the ensemble.
        label: `[P]` probability that chosen is the better one.
    """
    scores = pair_scores(contrasts.mean, contrasts.variance + contrasts.noise, label)
    temperature, nll_temperature = best_temperature(contrasts.mean, label)
    return EnsembleFigures(
        data=data,
        num_pairs=len(label),
        accuracy=float(scores.accuracy.mean()),
        nll_map=float(pair_scores(contrasts.mean, None, label).nll.mean()),
        nll=float(scores.nll.mean()),
        brier=float(scores.brier.mean()),
        ece=expected_calibration_error(scores.probability, label),
        logit_temperature=temperature,
        nll_temperature=nll_temperature,
    )


def write_ensemble(
    folder: Path,
    ensemble: EnsembleScorer,
    paths: Sequence[str | Path],
    *,
    about: str,
    fitted_on: dict[str, Any],
    figures: EnsembleFigures | None,
    notes: Sequence[str],
) -> None:
    """Make a folder that may hold members already into an ensemble: card first, configuration last.

    Args:
        folder: exists; an ensemble there is replaced, its members are left.
        ensemble: loaded.
        paths: `[M]` folder or hub name of each member.
        about: a sentence for the card: how the members came about.
        fitted_on: for the record.
        figures: on held-out or calibration pairs.
        notes: what a user should know, a sentence each.
    """
    # Without a configuration the folder is no ensemble; with the old one it would be one of other members.
    (folder / CONFIG).unlink(missing_ok=True)
    with atomic_file(folder / "README.md") as temporary:
        temporary.write_text(_card(folder, ensemble, paths, about, figures, notes), encoding="utf-8")
    save_ensemble(
        folder, ensemble, paths, fitted_on=fitted_on, calibration=None if figures is None else figures.to_dict()
    )


def _card(
    folder: Path,
    ensemble: EnsembleScorer,
    paths: Sequence[str | Path],
    about: str,
    figures: EnsembleFigures | None,
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
            f"{about} A member's reward r enters as scale * r + offset, in logits; the spread of the members (divided "
            "by M - 1) is the variance of the reward, beside what their own posteriors say.",
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
            f"prudent score --model {folder.name} --data pool.jsonl --output scored",
            "```",
            "",
        ]
    )
