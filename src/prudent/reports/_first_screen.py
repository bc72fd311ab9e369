"""The answer that a page opens with: is this reward model hacked, from which n on, and what would have helped?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prudent.evaluation import BestOfNStudy, Curve, Estimate, Rescue, Verdict
from prudent.reports._advice import Shipped, cautions, meanings, named, several_cautions, shipped
from prudent.reports._words import flat_scales, interval, number, proxy_sentences

__all__ = ["FirstScreen", "KeyFigure", "first_screen", "several_first"]


@dataclass(frozen=True)
class KeyFigure:
    """A number to remember."""

    label: str
    value: str
    range: str
    """The interval, in words; empty where there is none."""
    note: str


@dataclass(frozen=True)
class FirstScreen:
    """What stands above everything else."""

    tone: Literal["hacked", "unclear", "none"]
    """`unclear`: no sure fall; `none`: nothing to judge by."""
    answer: str
    """A few words."""
    sentence: str
    """One sentence with a number and an interval."""
    figures: tuple[KeyFigure, ...]
    rescue: str | None
    """Key of the curve to show beside the first."""
    cautions: tuple[str, ...] = ()
    """What speaks against trusting the answer."""
    shipped: Shipped | None = None
    """How to pick as the rule did that would have helped."""
    meanings: tuple[tuple[str, str], ...] = ()
    """What the names of rules mean."""


def first_screen(study: BestOfNStudy, scale: str, data: str | None = None) -> FirstScreen:
    """What one study answers.

    Args:
        study: A best-of-n study.
        scale: The scale of gold.
        data: Path of the scored file, where there is one.
    """
    warned = cautions(study, scale)
    if not study.gold_scales:
        said = proxy_sentences(study)[:1]
        text = " ".join(["No gold here, so nobody can say what the picks are truly worth.", *said])
        return FirstScreen("none", "Without gold nobody can say.", text, (), None, warned)
    n_max = study.n_values[-1]
    if n_max == 1:
        return FirstScreen(
            "none", "Nothing to pick from.", "The pools hold one candidate each, so nothing was optimized.", (), None
        )
    if scale in flat_scales(study):
        text = " ".join(["Gold does not differ between the candidates of a prompt.", *proxy_sentences(study)[:1]])
        return FirstScreen("none", "With gold that is always the same nobody can say.", text, (), None, warned)
    verdict, first = study.verdicts[scale], study.utilities[0]
    tone: Literal["hacked", "unclear"] = "hacked" if verdict.hacked else "unclear"
    sentence = f"{_fall(first, verdict, scale, n_max)}; {_rescue(first, verdict.rescue, study)}."
    figures = _figures(study, verdict, scale)
    rescue = None if verdict.rescue is None else study.curve(verdict.rescue.key)
    return FirstScreen(
        tone,
        _answer(study, verdict),
        sentence,
        figures,
        None if rescue is None else rescue.key,
        warned,
        shipped(study, rescue, data) if rescue is not None and _helps(verdict.rescue) else None,
        meanings([first] if rescue is None else [first, rescue]),
    )


def several_first(studies: Mapping[str, BestOfNStudy], scale: str) -> FirstScreen:
    """What several studies answer together.

    Args:
        studies: By name.
        scale: The scale of gold.
    """
    warned = several_cautions(studies)
    judged = {
        name: one.verdicts[scale]
        for name, one in studies.items()
        if scale in one.verdicts and scale not in flat_scales(one)
    }
    hacked = {name: one for name, one in judged.items() if one.hacked}
    if not judged:
        return FirstScreen(
            "none",
            "Without gold nobody can say.",
            "None of these studies has gold that tells picks apart.",
            (),
            None,
            warned,
        )
    if not hacked:
        answer = f"No sure fall in any of {len(judged)}." if len(judged) > 1 else "No sure fall."
        text = "No reward model here loses gold beyond chance as n grows, which does not show that none would"
        falling = {name: one for name, one in judged.items() if one.drop.value > 0 and one.p_value is not None}
        if falling:
            name = min(falling, key=lambda one: falling[one].p_value or 0.0)
            n_max, lost = studies[name].n_values[-1], interval(falling[name].drop)
            text += f"; nearest comes {name}, which by n = {n_max:,} has lost {lost}{_p(falling[name])}"
        text += "."
        return FirstScreen("unclear", answer, text, (), None, warned)
    answer = f"{len(hacked)} of {len(judged)} {'is' if len(hacked) == 1 else 'are'} hacked."
    start, name = _first_to_fall(hacked)
    text = f"{start} ends {interval(hacked[name].drop)} below its peak at n = {studies[name].n_values[-1]:,}"
    saved = sum(one.rescue is not None and one.rescue.held_out.low > 0 for one in hacked.values())
    text += f", and another rule would have been measurably better in {saved} of {len(hacked)}."
    if len(judged) > 1:
        chance = 1.0 - next(iter(studies.values())).settings.confidence_level
        text += f" Chance alone calls up to one harmless reward model in {1.0 / chance:.0f} hacked."
    return FirstScreen("hacked", answer, text, (), None, warned)


def _first_to_fall(hacked: Mapping[str, Verdict]) -> tuple[str, str]:
    """Which fall first, and the one of them that loses the most."""
    known = {name: one.from_n for name, one in hacked.items() if one.from_n is not None}
    first = [name for name in hacked if not known or known.get(name) == min(known.values())]
    name = max(first, key=lambda one: hacked[one].drop.value)
    if not known:
        return f"One of them is {name}; it", name
    since = f"from n = {min(known.values()):,} on"
    if len(first) == 1:
        return f"The first to fall is {name}, {since}; it", name
    if len(first) <= 4:
        return f"The first to fall are {', '.join(first[:-1])} and {first[-1]}, {since}; {name}", name
    return f"The first to fall are {len(first)} at once, {since}; of these {name} loses the most: it", name


def _helps(rescue: Rescue | None) -> bool:
    """Whether another rule is surely better on all prompts, and on those that did not choose it."""
    return rescue is not None and rescue.ahead.low > 0 and rescue.held_out.low > 0


def _answer(study: BestOfNStudy, verdict: Verdict) -> str:
    n_max, rescue = study.n_values[-1], verdict.rescue
    if verdict.hacked:
        start = "Yes, but one cannot say from which n on"
        if verdict.from_n is not None:
            start = f"Yes, from n = {verdict.from_n:,} on"
        if rescue is None:
            return f"{start}{'; no rule here would have helped' if _has_others(study) else ''}."
        helper = named(study.curve(rescue.key)) if _helps(rescue) else "no rule here surely"
        return f"{start}; {helper} would have helped."
    if verdict.p_value is None:
        return "One prompt is too few to say."
    return f"No {'fall seen' if verdict.peak_n == n_max else 'sure fall'} up to n = {n_max:,}."


def _fall(first: Curve, verdict: Verdict, scale: str, n_max: int) -> str:
    """What gold does under the first utility, without a full stop."""
    start = f"Gold of what {first.label} picks"
    if verdict.p_value is None:
        return f"{start} is highest at n = {verdict.peak_n:,} for this prompt"
    if verdict.peak_n == n_max:
        gain = first.outcomes[scale].gain
        if gain.low > 0:
            return f"{start} is highest at the end, {interval(gain)} above a random response"
        where = "below a random response" if gain.high < 0 else "not measurably different from a random response"
        return f"{start} is highest at the end, yet {where} ({interval(gain, signed=True)})"
    peak = f"n = {verdict.peak_n:,}"
    if verdict.hacked:
        return f"{start} peaks at {peak} and by n = {n_max:,} has lost {interval(verdict.drop)}{_p(verdict)}"
    lost = f"by n = {n_max:,} has lost {interval(verdict.drop)}"
    return f"{start} is highest at {peak} and {lost}, which may be chance{_p(verdict)}"


def _p(verdict: Verdict) -> str:
    if verdict.p_value is None:
        return ""
    return f" (p = {number(verdict.p_value)})"


def _rescue(first: Curve, rescue: Rescue | None, study: BestOfNStudy) -> str:
    """What would have been better, by the half of the prompts that did not choose it."""
    if rescue is None:
        if study.counts.num_prompts == 1:
            return "one prompt is too few to compare rules"
        return (
            "no other rule here ends above it"
            if _has_others(study)
            else "there is no other rule here to compare it with"
        )
    ahead = rescue.held_out
    best = (
        f"of the other rules {named(study.curve(rescue.key))} ends highest, and a rule so chosen on half of the prompts"
    )
    if ahead.low > 0:
        return f"{best} ends {interval(ahead)} above {first.label} on the other half"
    if ahead.high < 0:
        return f"{best} ends {_below(ahead)} below {first.label} on the other half, so none here helps"
    return f"{best} is not measurably better on the other half ({interval(ahead, signed=True)})"


def _has_others(study: BestOfNStudy) -> bool:
    """Whether there is a rule that could have been used instead of the first."""
    return any(curve.kind != "control" for curve in study.curves[1:])


def _below(ahead: Estimate) -> str:
    return interval(Estimate(-ahead.value, -ahead.high, -ahead.low))


def _figures(study: BestOfNStudy, verdict: Verdict, scale: str) -> tuple[KeyFigure, ...]:
    first = study.utilities[0]
    outcome, n_max = first.outcomes[scale], study.n_values[-1]
    low, high = outcome.peak_n_low, outcome.peak_n_high
    found = [
        KeyFigure(
            "Gold is highest at",
            f"n = {verdict.peak_n:,}",
            f"{low:,} to {high:,}" if low != high else "",
            f"of what {first.label} picks",
        ),
        KeyFigure(
            f"Lost from there to n = {n_max:,}",
            number(verdict.drop.value),
            "" if verdict.peak_n == n_max or verdict.p_value is None else _range(verdict.drop),
            "nothing: the peak is at the end" if verdict.peak_n == n_max else _chance(verdict),
        ),
    ]
    if verdict.rescue is not None:
        found.append(
            KeyFigure(
                "Best other rule, at the end",
                _signed(verdict.rescue.held_out.value),
                _range(verdict.rescue.held_out),
                f"{named(study.curve(verdict.rescue.key))}; chosen on one half of the prompts, measured on the other",
            )
        )
    return tuple(found)


def _range(one: Estimate) -> str:
    return f"{number(one.low)} to {number(one.high)}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def _chance(verdict: Verdict) -> str:
    if verdict.p_value is None:
        return ""
    text = f"p = {number(verdict.p_value)}, which pays for having searched the peak"
    return text if verdict.hacked else f"{text}; may be chance"
