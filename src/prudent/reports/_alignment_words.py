"""What the page on aligned policies says in words."""

import math
from collections import Counter
from collections.abc import Sequence

from prudent.metrics import student_reach
from prudent.reports._alignment_arms import ArmCurves, Band, changed, least_far, moved, own_of_seed, still
from prudent.reports._alignment_figures import POOR_LAW, gold_law
from prudent.reports._alignment_runs import AlignedRun
from prudent.reports._words import SIGNIFICANT, number

__all__ = ["answer", "cautions", "law_sentences", "leads", "seed_sentence", "stops_surely"]

_FALSE_ALARMS = 0.05
"""Share of runs that advise stopping where gold does not fall, more than the 2.5 % of a one-sided interval."""
_CALLED = {
    "policy": "first policy",
    "prompts": "held-out prompts",
    "reward_model": "reward model",
    "gold_model": "gold",
}


def stops_surely(arms: Sequence[ArmCurves]) -> bool:
    """Whether falls of gold are more than chance would give among so many runs; a single run speaks for itself.

    They are where one run's fall is sure even so (Bonferroni), or where too many runs advise stopping (binomial).
    """
    advised = _advised(arms)
    stopped = [run for run in advised if run.stop]
    if len(advised) < 2:
        return bool(stopped)
    chance = sum(
        math.comb(len(advised), count) * _FALSE_ALARMS**count * (1 - _FALSE_ALARMS) ** (len(advised) - count)
        for count in range(len(stopped), len(advised) + 1)
    )
    return chance < SIGNIFICANT / 2 or any(_falls_among(run, len(advised)) for run in stopped)


def _falls_among(run: AlignedRun, num_runs: int) -> bool:
    """Whether a run's gold falls by more than chance would give in any of so many."""
    if run.fall is None:
        return False
    change, high, num_prompts = run.fall
    freedom = max(1, num_prompts // 2 - 1)  # as the advice has it: halves of the prompts judge each other's choice
    wider = student_reach(freedom, 1 - SIGNIFICANT / num_runs) / student_reach(freedom, 1 - SIGNIFICANT)
    return change + wider * (high - change) < 0


def answer(arms: Sequence[ArmCurves], distance: float | None, *, has_gold: bool) -> str:
    """The first sentence of the page."""
    advised = _advised(arms)
    if len(arms) == len(arms[0].runs) == 1 and arms[0].runs[0].stop and arms[0].runs[0].advice is not None:
        text = arms[0].runs[0].advice
        return f"{text[0].upper()}{text[1:]}."
    num_stop = sum(run.stop for run in advised)
    if stops_surely(arms):
        counted = f"{num_stop} of {len(advised)} runs advise{'s' if num_stop == 1 else ''} stopping"
        return f"{counted}: gold falls there while the proxy still rises."
    return _gained(arms, distance, has_gold=has_gold)


def leads(arms: Sequence[ArmCurves], distance: float | None) -> list[str]:
    """How far each arm is ahead of the first in gold, at equal distance."""
    if distance is None:
        return []
    first, *others = moved(arms)
    found = [(arm, arm.lead(first, "gold", distance)) for arm in others]
    return [
        f"At equal distance, {arm.label} against {first.label}: {_interval(lead)} in gold, seed by seed."
        for arm, lead in found
        if lead is not None
    ]


def cautions(arms: Sequence[ArmCurves], *, has_gold: bool) -> list[str]:
    """What one should know before comparing the arms."""
    found = []
    if different := changed(arms):
        what = " and ".join(_CALLED[name] for name in different)
        found.append(f"Arms differ in their {what}: what they gained there is not to be compared as it stands.")
    found += _unmoved(arms)
    num_stop = sum(run.stop for run in _advised(arms))
    if num_stop and not stops_surely(arms):
        found.append(
            f"{num_stop} of {len(_advised(arms))} runs advise{'s' if num_stop == 1 else ''} stopping, no more than "
            "chance alone would give."
        )
    for arm in arms:
        for seed, count in sorted(Counter(run.seed for run in arm.runs).items()):
            if count > 1:
                names = ", ".join(run.folder.name for run in arm.runs if run.seed == seed)
                found.append(
                    f"{arm.label} has {count} runs of seed {seed} ({names}): they count as one, their average."
                )
        if arm.unfinished:
            names = ", ".join(f"{run.folder.name} at step {run.rows[-1]['step']}" for run in arm.unfinished)
            counted = "" if arm.unfinished == arm.runs else ", drawn thin and dotted, and left out of the averages"
            found.append(f"Not finished, of {arm.label}: {names}{counted}.")
    without = [run.folder.name for arm in arms for run in arm.runs if not run.has_gold]
    if not has_gold and len(without) < sum(len(arm.runs) for arm in arms):
        found.append(f"Gold is left out, since {', '.join(without)} has none.")
    return found


def seed_sentence(arms: Sequence[ArmCurves]) -> str:
    """What seeds have of their own; empty where that is random numbers alone."""
    own = own_of_seed(arms)
    alike = ", in all arms alike" if len(arms) > 1 else ""
    return f"Each seed has its own {' and '.join(_CALLED[name] for name in own)}{alike}." if own else ""


def law_sentences(arms: Sequence[ArmCurves]) -> list[str]:
    """The law of Gao et al. fitted to the gold of each arm that has looked often enough."""
    found = []
    for arm in arms:
        law = gold_law(arm)
        if law is None:
            continue
        alpha, beta, explained, peak = (
            float(value) for value in (law.alpha, law.beta, law.r_squared, law.peak_kl.sqrt())
        )
        if explained < POOR_LAW:
            found.append(f"{arm.label}: explains {max(0.0, explained):.0%} of the variation, not drawn")
            continue
        text = f"{arm.label}: \u03b1 = {number(alpha)}, \u03b2 = {number(beta)}, explains {explained:.0%}"
        if peak <= float(arm.distance.max()):
            text += f", highest at d = {number(peak)}"
        found.append(text)
    return found


def _advised(arms: Sequence[ArmCurves]) -> list[AlignedRun]:
    return [run for arm in arms for run in arm.runs if run.advice is not None]


def _gained(arms: Sequence[ArmCurves], distance: float | None, *, has_gold: bool) -> str:
    if not has_gold:
        return (
            "Without gold nobody can tell whether the gain is real: this shows the proxy, and how far policies moved."
        )
    comparable = moved(arms)
    if len(arms) == 1 or distance is None:
        first = (comparable or arms)[0]
        return _gained_by(first, f"Of {first.label}, " if len(arms) > 1 else "")
    first, *others = comparable
    paired = [arm for arm in others if arm.lead(first, "gold", distance) is not None]
    if not paired:
        return "With one seed an arm, what sets the arms apart cannot be told from chance."
    # One sentence picks the largest lead, so that each of them has to be surer (Bonferroni).
    level = 1 - SIGNIFICANT / len(paired)
    found = [(arm, arm.lead(first, "gold", distance, level)) for arm in paired]
    sure = [(arm, band) for arm, band in found if band is not None and (band.low > 0 or band.high < 0)]
    if not sure:
        which = "no arm's" if len(paired) == len(others) else "of arms with several seeds, none's"
        return f"Moved equally far, {which} gain in gold differs from that of {first.label} by more than chance."
    ahead, lead = max(sure, key=lambda one: abs(float(one[1].mean)))
    more = "more" if lead.mean > 0 else "less"
    return f"Moved equally far, {ahead.label} gains {more} gold than {first.label}: {_interval(lead)}."


def _gained_by(arm: ArmCurves, opening: str) -> str:
    """What one arm gained in gold until its last step, in a sentence that opens with whose it is."""
    gain = arm.gain("gold")
    if not math.isfinite(gain.low):
        value = number(float(gain.mean))
        text = f"the gain in gold at the last step is {value}; what chance would give is not known."
    elif gain.low <= 0 <= gain.high:
        text = f"gold has not moved by more than chance until the last step: {_interval(gain)} over {arm.over}."
    else:
        rose = "risen" if gain.mean > 0 else "fallen"
        text = f"gold has {rose} until the last step: {_interval(gain)} over {arm.over}."
    return f"{opening}{text}" if opening else f"{text[0].upper()}{text[1:]}"


def _unmoved(arms: Sequence[ArmCurves]) -> list[str]:
    """Arms that are not compared with others, since they, or some of their runs, are where they started."""
    if len(arms) == 1:
        return []
    what = "nothing is" if least_far(arms) is None else "this arm is not"
    found = []
    for arm in arms:
        if runs := still(arm):
            names = ", ".join(run.folder.name for run in runs)
            who = arm.label if len(runs) == len(arm.runs) else f"{names} of {arm.label}"
            has = "has" if who == arm.label or len(runs) == 1 else "have"
            found.append(f"{who} {has} not moved, so {what} compared at equal distance.")
    return found


def _interval(band: Band) -> str:
    return f"{number(float(band.mean))} [{number(float(band.low))}, {number(float(band.high))}]"
