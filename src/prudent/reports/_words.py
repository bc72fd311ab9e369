"""What a study shows, in sentences: each claims only what its interval allows."""

from collections.abc import Sequence

from prudent.evaluation import BestOfNStudy, Curve, EnsembleFacts, Estimate, Figure, Reliability
from prudent.reports._held_out import HeldOut
from prudent.reports._style import HINDSIGHT, SCALE_LABELS

__all__ = [
    "NOTHING",
    "SIGNIFICANT",
    "ensemble_sentence",
    "flat_scales",
    "held_out_sentence",
    "interval",
    "number",
    "proxy_sentences",
    "sentences",
]

SIGNIFICANT = 0.05
NOTHING = 1e-9
"""What rounding errors leave of a zero is smaller."""


def number(value: float) -> str:
    """About three significant digits, with thousands separated and a true minus sign; rounding errors read as zero.

    Example:
        >>> number(12345.6), number(0.12345), number(-2.0), number(-3e-17)
        ('12,346', '0.123', '\u22122.00', '0.000')
    """
    value = 0.0 if abs(value) < NOTHING else value
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    if 0 < size < 0.0005:
        return f"{value:.1e}".replace("-", "\u2212", 1) if value < 0 else f"{value:.1e}"
    text = f"{value:,.{digits}f}"
    return text.replace("-", "\u2212")


def interval(estimate: Estimate | Figure, *, signed: bool = False) -> str:
    """A value with its interval, such as `+0.31 [0.12, 0.50]`."""
    sign = "+" if signed and estimate.value >= NOTHING else ""
    return f"{sign}{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def sentences(study: BestOfNStudy, scale: str) -> list[str]:
    """The findings one by one: each utility, the controls, the proxy, the variance, the reliability."""
    found = []
    if study.gold_scales and study.counts.num_prompts == 1 < study.n_values[-1]:
        found.append("Of one prompt nothing can be said beyond what the pictures show: rules cannot be compared.")
        found += proxy_sentences(study)
    elif scale in flat_scales(study):
        found += [
            "Gold is the same for all candidates of a prompt: it tells nothing of rules.",
            *proxy_sentences(study),
        ]
    elif study.gold_scales:
        first = study.utilities[0]
        found.append(f"{_turn(first, study, scale)}{_keeping(first, scale)}.")
        found += _others_turn(study, scale)
        main, against = _main(study), f"{first.label} at n = {study.n_values[-1]:,}"
        found += _comparisons(main, scale, "first", f"Against {against}")
        baselines = [curve for curve in study.curves if curve.kind == "baseline" and curve.key not in HINDSIGHT]
        found += _comparisons(baselines, scale, "first", f"Other ways to pick, against {against}")
        adjusted = "gold_length_adjusted"
        if adjusted in study.gold_scales and scale != adjusted:
            found += _comparisons(main, adjusted, "first", f"The same in {SCALE_LABELS[adjusted]}")
        found += _comparisons(main, scale, "shuffled", "Against the same utility with shuffled variances")
        found += _comparisons(main, scale, "longest", "Against picking the longest response")
        found += _comparisons(study.utilities, scale, "marginal", "Relative to reference responses, against without")
        found += proxy_sentences(study)
    if "variance" in study.curves[0].bands:
        found.append(_variance_sentence(study))
    if study.counts.num_prompts > 1:  # of one prompt the intervals have no width
        found += [_reliability_sentence(one) for one in study.reliability]
    return found


def flat_scales(study: BestOfNStudy) -> list[str]:
    """Scales on which gold is the same whatever is picked, by the best gold as well; none where that is not drawn."""
    if study.n_values[-1] == 1 or all(curve.key != "oracle" for curve in study.curves):
        return []
    found = []
    for scale in study.gold_scales:
        values = [value for curve in study.curves for value in curve.bands[scale].value]
        if max(values) - min(values) <= NOTHING * max(1.0, *map(abs, values)):
            found.append(scale)
    return found


def _main(study: BestOfNStudy) -> list[Curve]:
    """The utilities that words are about: not those beside the same one without a reference."""
    return [curve for curve in study.utilities if curve.beside is None]


def _turn(curve: Curve, study: BestOfNStudy, scale: str) -> str:
    """What one gold curve does along n, without a full stop."""
    outcome, n_max, name = curve.outcomes[scale], study.n_values[-1], f"Gold under {curve.label}"
    if n_max == 1:
        return "The pools hold one candidate each, so there is nothing to pick"
    gain = f"it ends {_from_random(outcome.gain)}"
    if outcome.peak_n == n_max:
        return f"{name} rises to the end, n = {n_max:,}; {gain}"
    p_value, fall = outcome.drop_p_value, interval(outcome.drop)
    shown = "" if p_value is None else f" (p = {number(p_value)})"
    if p_value is not None and p_value < SIGNIFICANT:
        text = f"{name} turns over at n = {outcome.peak_n:,} and ends {fall} below its peak{shown}"
    else:
        text = f"{name} is highest at n = {outcome.peak_n:,} and ends {fall} below that, not a significant fall{shown}"
    return f"{text}; {gain}"


def _from_random(gain: Estimate) -> str:
    if gain.low > 0:
        return f"{interval(gain)} above a random response"
    if gain.high < 0:
        return f"{interval(Estimate(-gain.value, -gain.high, -gain.low))} below a random response"
    return f"where a random response is, within the interval ({interval(gain, signed=True)})"


def _keeping(curve: Curve, scale: str) -> str:
    outcome = curve.outcomes[scale]
    kept = outcome.kept
    if kept is None or outcome.drop.value == 0:
        return ""
    if kept.high < 0:
        return ", with all of its best gain lost and more"
    return f", keeping {interval(kept)} of its best gain"


def _others_turn(study: BestOfNStudy, scale: str) -> list[str]:
    """Which of the other utilities turn over, in one sentence."""
    others = _main(study)[1:]
    if not others or study.n_values[-1] == 1:
        return []
    falls = [(curve, curve.outcomes[scale]) for curve in others]
    turning = [
        f"{curve.label} (at n = {outcome.peak_n:,}, by {interval(outcome.drop)})"
        for curve, outcome in falls
        if outcome.drop_p_value is not None and outcome.drop_p_value < SIGNIFICANT
    ]
    if not turning:
        return [f"No significant fall under {_listed([curve.label for curve in others])}."]
    rest = len(others) - len(turning)
    return [f"Also turning over: {_listed(turning)}{'; the others do not' if rest else ''}."]


def _comparisons(curves: Sequence[Curve], scale: str, with_name: str, start: str) -> list[str]:
    """Which curves end above, below or level with another one, by the intervals of the paired differences."""
    above, level, below = [], [], []
    for curve in curves:
        lead = curve.outcomes[scale].versus.get(with_name)
        if lead is None:
            continue
        if lead.low > 0:
            above.append(f"{curve.label} {interval(lead, signed=True)}")
        elif lead.high < 0:
            below.append(f"{curve.label} {interval(lead)}")
        else:
            level.append(f"{curve.label} {interval(lead, signed=True)}")
    parts = [
        f"{verdict} {_listed(named)}"
        for verdict, named in (("above:", above), ("no sure difference:", level), ("below:", below))
        if named
    ]
    return [f"{start}: {'; '.join(parts)}."] if parts else []


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def proxy_sentences(study: BestOfNStudy) -> list[str]:
    """What the rewards themselves say of the picks, a sentence each."""
    last = f"n = {study.n_values[-1]:,}"
    if len(study.rewards) == 1:
        first = study.utilities[0]
        end = first.bands["proxy"].at(-1)
        gain = interval(end) if study.counts.num_prompts > 1 else number(end.value)
        return [f"By the proxy's own account {first.label} gains {gain} over the pool's average by {last}."]
    found = []
    for name, band in study.proxies.items():
        said = [f"{interval(curve.bands[band].at(-1), signed=True)} under {curve.label}" for curve in _main(study)]
        found.append(f"By its own account {name} of the pick at {last} is, over the pool's average: {_listed(said)}.")
    return found


def _variance_sentence(study: BestOfNStudy) -> str:
    shares = []
    for curve in _main(study):
        variance = curve.bands["variance"].value
        if variance[0] > 0:
            shares.append(f"{number(variance[-1] / variance[0])} under {curve.label}")
    if not shares:
        return "The variance of an average candidate is 0: these rewards carry no doubt."
    return (
        f"The variance of the pick at n = {study.n_values[-1]:,}, as a multiple of an average candidate's: "
        f"{', '.join(shares)}."
    )


def _reliability_sentence(one: Reliability) -> str:
    where = "On random pairs" if one.pairs == "random" else "On pairs with one from the proxy's top tenth"
    gap = one.overconfidence
    if gap.low > 0:
        verdict = "surer than it is right"
    elif gap.high < 0:
        verdict = "less sure than it is right"
    else:
        verdict = "as sure as it is right, within the interval"
    rough = "" if one.exact_contrast else " (independent approximation)"
    half = one.risk.at(one.coverage.index(0.5))
    sure = interval(Estimate(1 - half.value, 1 - half.high, 1 - half.low))
    return (
        f"{where} the posterior is {verdict}{rough}: the candidate that it favors has the higher gold in "
        f"{interval(one.accuracy)}, in the surer half of them in {sure}, and its confidence differs from the former by "
        f"{interval(gap, signed=True)} on average."
    )


def ensemble_sentence(ensemble: EnsembleFacts) -> str:
    """What the variance is where an ensemble gave the rewards, and how well so few members know it."""
    count = ensemble.num_members
    text = f"The reward is the average of {count:,} members, the variance that between them (divided by "
    text += f"{count - ensemble.ddof:,})"
    if count > 1:
        text += f", which so many know to a relative standard error of about {(2 / (count - 1)) ** 0.5:.0%}"
    if ensemble.has_within_variance:
        text += "; added is the members' own variance, averaged"
    return f"{text}."


def held_out_sentence(one: HeldOut) -> str:
    """How well held-out pairs are predicted, and whether the variance makes that better."""
    found = one.evaluation
    start = f"On {found.num_pairs:,} held-out pairs, {one.label} ranks {interval(found.accuracy)} as labeled"
    if found.nll_difference is None or found.area_difference is None:
        return f"{start}."
    return (
        f"{start}; against the mean alone the variance makes its probabilities {_verdict(found.nll_difference)} "
        f"(negative log-likelihood {interval(found.nll_difference, signed=True)}) and their order by confidence "
        f"{_verdict(found.area_difference)} (AURC {interval(found.area_difference, signed=True)})."
    )


def _verdict(difference: Figure) -> str:
    """What is known for sure of a difference whose negative values are good."""
    return "better" if difference.high < 0 else "worse" if difference.low > 0 else "neither better nor worse for sure"
