"""What the reader of the first screen may type, what its words mean, and what to be careful of."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prudent.evaluation import BestOfNStudy, Curve, StrengthFamily
from prudent.reports._words import flat_scales, interval

__all__ = [
    "FEW_PROMPTS",
    "FREER",
    "Shipped",
    "cautions",
    "chosen_strength",
    "meanings",
    "named",
    "several_cautions",
    "shipped",
]

FEW_PROMPTS, FEW_SEEDS = 20, 5
FREER = ("n", "share_of")
"""Parameters that hold a proxy back the less the larger they are."""
_MEANINGS = {
    "mean": "the reward model's score as it is",
    "lcb_std": "the score minus a multiple of its standard deviation",
    "lcb_var": "the score minus a multiple of its variance",
    "entropic": "an average of the score that fears the bad end",
    "worst": "the smallest score over the members of the ensemble",
    "uwo": "the members' average minus a multiple of the variance between them",
    "top_k": "one drawn from the best few, not the very best",
    "soft": "drawn, better scores more often",
    "pessimism": "drawn from the top of the pool, with a bound on how far that moves",
    "mbr": "the score together with likeness to the other candidates",
    "consensus": "the response most like the other candidates, whatever its score",
    "hedged n": "the best of fewer candidates",
    "random": "any response",
}
_RULE = re.compile(r"(?:center(?:\(.*?\))? \| )?([a-z_]+)(?:\([^|]*\))?")


@dataclass(frozen=True)
class Shipped:
    """How to pick as the rule did that would have been better."""

    sentence: str
    command: str | None
    """What to type; None where no verb does it."""


def named(curve: Curve) -> str:
    """What to call a curve in the middle of a sentence."""
    return f"tuned {curve.label.removesuffix(', tuned')}" if curve.label.endswith(", tuned") else curve.label


def chosen_strength(family: StrengthFamily) -> int | None:
    """Position of the strength that calibration prompts choose most often; None where none was chosen."""
    return None if max(family.chosen, default=0.0) <= 0 else family.chosen.index(max(family.chosen))


def shipped(study: BestOfNStudy, curve: Curve, data: str | None) -> Shipped | None:
    """How to pick as a curve does; None where that cannot be told.

    Args:
        study: A best-of-n study.
        curve: One of its curves.
        data: The scored file; None where it has no path.
    """
    family = next((one for one in study.families if curve.key in (one.key, f"{one.key}, tuned")), None)
    place = None if family is None else chosen_strength(family)
    if family is None or place is None:
        if curve.utility is None:
            return None
        return Shipped(f"To pick by {curve.label}:", _select(data, curve.utility, curve.strategy))
    text = family.texts[place]
    said = f"Calibration prompts choose {text} most often, in {family.chosen[place]:.0%} of the draws{_end(family)}."
    if study.settings.num_seeds > 1 and family.relative is not None:
        said += " That is in the units of the first seed."
    if family.parameter == "n":
        return Shipped(
            f"{said} To pick so, draw no more than {family.strengths[place]:,.0f} candidates a prompt.", None
        )
    if curve.utility is None:  # the strength is part of the rule
        return Shipped(f"{said} To pick so:", _select(data, text, None))
    return Shipped(f"{said} To pick so:", _select(data, curve.utility, text))


def cautions(study: BestOfNStudy, scale: str) -> tuple[str, ...]:
    """What speaks against trusting the answer, in plain words.

    Args:
        study: A best-of-n study.
        scale: The scale of gold.
    """
    found, prompts, seeds = [], study.counts.num_prompts, study.settings.num_seeds
    flat = [name for name, one in study.rewards.items() if not one.spread_of_means > 0]
    if flat and len(study.rewards) == 1:
        found.append("The reward is the same for all candidates of a prompt, so picks by it are by chance.")
    elif flat:
        found.append(f"The same for all candidates of a prompt: the reward {', '.join(flat)}.")
    if scale not in study.gold_scales:
        return tuple(found)
    if scale in flat_scales(study):
        found.append("Gold is the same for all candidates of a prompt, so it cannot say what a pick is worth.")
        return tuple(found)
    if prompts == 1:
        found.append("One prompt only: there are no intervals, and chance cannot be told from anything else.")
    elif prompts < FEW_PROMPTS:
        found.append(
            f"Only {prompts} prompts: a fall may have gone unseen, and intervals from so few are somewhat too narrow."
        )
    verdict = study.verdicts.get(scale)
    if verdict is not None and verdict.rescue is not None:
        curve = study.curve(verdict.rescue.key)
        ahead = curve.outcomes[scale].versus.get("longest")
        if ahead is not None and ahead.high < 0:
            found.append(
                f"The longest response of all is better still: {named(curve)} minus that is {interval(ahead)}. What "
                "gold rewards here may be length; see the scale that length is partialled out of."
            )
    if 1 < seeds < FEW_SEEDS:
        found.append(
            f"Only {seeds} seeds of the reward model: how much seeds differ is hardly known from so few, so "
            f"that intervals are very wide and p-values large. {FEW_SEEDS} seeds or more, or one by itself, say more."
        )
    return tuple(found)


def several_cautions(studies: Mapping[str, BestOfNStudy]) -> tuple[str, ...]:
    """What speaks against trusting the table of several studies, or against comparing its rows.

    Args:
        studies: By name.
    """
    found = []
    if flat := [name for name, one in studies.items() if "gold" in flat_scales(one)]:
        found.append(f"Gold is the same for all candidates of a prompt, so it says nothing of picks: {_some(flat)}.")
    counts = {name: one.counts.num_prompts for name, one in studies.items()}
    if few := [f"{name} ({count})" for name, count in counts.items() if count < FEW_PROMPTS]:
        found.append(f"Few prompts, so that a fall may go unseen: {_some(few)}.")
    seeds = {name: one.settings.num_seeds for name, one in studies.items()}
    if few := [f"{name} ({count})" for name, count in seeds.items() if 1 < count < FEW_SEEDS]:
        found.append(f"Few seeds, so that intervals are very wide: {_some(few)}.")
    if len(set(counts.values())) > 1:
        found.append("The rows rest on different numbers of prompts, so their gold is not comparable as it stands.")
    return tuple(found)


def meanings(curves: Sequence[Curve]) -> tuple[tuple[str, str], ...]:
    """What the names of curves mean, by what to call each; only of those that everybody's report has.

    Args:
        curves: Those that the first screen names.
    """
    found = {}
    for curve in curves:
        text = curve.key.removesuffix(", tuned") if curve.utility is None else (curve.utility or "")
        if curve.kind == "baseline":
            text = curve.key.removesuffix(", tuned")
        rule = _MEANINGS.get(text) or _rule(text)
        if rule is None:
            continue
        if text.startswith("center"):
            rule += ", relative to reference responses of the prompt"
        tuned = ", at the strength that other prompts chose" if curve.key.endswith(", tuned") else ""
        found[named(curve)] = f"{rule}{tuned}"
    return tuple(found.items())


def _rule(text: str) -> str | None:
    match = _RULE.fullmatch(text)
    return None if match is None else _MEANINGS.get(match[1])


def _end(family: StrengthFamily) -> str:
    """Whether the choice lies at an end of what was tried."""
    if family.parameter == "n" or len(family.strengths) < 2:
        return ""
    place, last = chosen_strength(family), len(family.strengths) - 1
    if place not in (0, last):
        return ""
    if (place == 0) == (family.parameter in FREER):
        return "; it is the strongest tried: a stronger one may be better"
    return "; it is the weakest tried: a weaker one may be better"


def _select(data: str | None, utility: str, strategy: str | None) -> str:
    parts = ["prudent select --data", "SCORED" if data is None else shlex.quote(data), f'--utility "{utility}"']
    if strategy is not None:
        parts.append(f'--strategy "{strategy}"')
    return " ".join([*parts, "--output picks.jsonl"])


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
