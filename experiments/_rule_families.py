"""Risk rules with one dial each, as utilities are written, and what the dials have in common."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from _rule_pools import POSTERIORS

View = Literal["marginal", "centered"]
VIEWS: tuple[View, ...] = ("marginal", "centered")
"""Variance of the reward itself, its reference taken as known, or of its contrast with the reference."""
STRENGTHS = [2.0**power for power in range(-3, 5)]
"""Strengths tried: what a typical posterior variance costs, in units of the spread of posterior means."""
THRESHOLDS = [1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -4.0, -8.0]
"""Thresholds tried, in the same units; the lower, the more careful."""
MOST_STDS = 30.0
MATCHED = ("lcb_std", "lcb_var", "entropic", "E[log sigma]")


def normal_cdf(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


def cvar_stds(level: float) -> float:
    """By how many standard deviations the mean of the worst `level` of a normal lies below its mean."""
    z = float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / level


def cvar_level(stds: float) -> float:
    """The level at which a CVaR of a normal is mean - stds * std, by bisection in the logarithm."""
    low, high = -600.0, -1e-12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if cvar_stds(math.exp(middle)) > stds else (low, middle)
    return math.exp(low)


@dataclass(frozen=True)
class Scale:
    """Sizes of a posterior's numbers, in which strengths are measured.

    Attributes:
        spread: standard deviation of the posterior means of the references within prompts.
        std: root of the mean posterior variance.
    """

    spread: float
    std: float


def dial(kind: str, weight: float, scale: Scale) -> float:
    """The strength of a rule that goes with a weight on the variance.

    Exact on a Gaussian for `aversion`; the same penalty at a typical standard deviation for `std`, `quantile`, `cvar`;
    for a temperature T by E log sigma(r / T) = r / 2T - v / 8T^2 near the reference.
    """
    stds = min(weight * scale.std, MOST_STDS)
    match kind:
        case "std":
            return stds
        case "quantile":
            return normal_cdf(-stds)
        case "cvar":
            return cvar_level(stds)
        case "weight":
            return weight
        case "aversion":
            return 2 * weight
        case "temperature":
            return 1 / (4 * weight)
    raise ValueError(kind)


def strengths_of(kind: str, scale: Scale) -> list[float]:
    """Strengths to choose from, mild first."""
    if kind == "threshold":
        return [times * scale.spread for times in THRESHOLDS]
    return [dial(kind, strength * scale.spread / scale.std**2, scale) for strength in STRENGTHS]


@dataclass(frozen=True)
class Family:
    """A rule with one dial.

    Attributes:
        template: a utility, `{center}` the reference and `{strength}` the dial.
        kind: of the dial; None: there is none.
        default: its value at the default.
        posteriors: on which it is asked for.
    """

    template: str
    kind: str | None = None
    default: float | None = None
    posteriors: tuple[str, ...] = POSTERIORS
    views: tuple[View, ...] = VIEWS

    def text(self, view: View, strength: float | None) -> str:
        center = "center(at=0)" if view == "marginal" else "center(mean)"
        lead = "" if view == "marginal" else "center(mean) | "
        number = "" if strength is None else f"{strength:.10g}"
        return self.template.format(lead=lead, center=center, strength=number)


_LSC = "{center} | temperature({strength}) | log_sigmoid | mean"
_GOOD = "{center} | temperature({strength}) | log_probability_good"
_PROBIT = "{center} | temperature({strength}) | log_probability_good(probit)"
_ABOVE = "{center} | probability_above({strength})"
FAMILIES: dict[str, Family] = {
    "mean": Family("mean", views=("marginal",)),
    "lcb_std": Family("{lead}lcb_std({strength})", "std", 1.0),
    "lcb_var": Family("{lead}lcb_var({strength})", "weight", 1.0),
    "entropic": Family("{lead}entropic({strength})", "aversion", 1.0),
    "quantile": Family("{lead}quantile({strength})", "quantile", 0.1),
    "cvar": Family("{lead}cvar({strength})", "cvar", 0.1),
    "worst": Family("{lead}worst", posteriors=("members",)),
    "thompson": Family("thompson", views=("marginal",)),
    "E[log sigma]": Family(_LSC, "temperature", 1.0),
    "log E[sigma]": Family(_GOOD, "temperature", 1.0),
    "log E[sigma], probit": Family(_PROBIT, "temperature", 1.0),
    "probability_good": Family("{center} | probability_good"),
    "P(r > t)": Family(_ABOVE, "threshold", 0.0),
    "E[log sigma], q=0.85": Family(
        _LSC.format(center="center(q=0.85)", strength="{strength}"), "temperature", 1.0, views=("centered",)
    ),
    "log E[sigma], q=0.85": Family(
        _GOOD.format(center="center(q=0.85)", strength="{strength}"), "temperature", 1.0, views=("centered",)
    ),
    "P(r > t), q=0.85": Family(
        _ABOVE.format(center="center(q=0.85)", strength="{strength}"), "threshold", 0.0, views=("centered",)
    ),
}
SHUFFLED = ("lcb_std", "lcb_var", "entropic", "log E[sigma]", "E[log sigma]")
"""Families that are also shown with doubts shuffled among the candidates of a prompt, at their own strengths."""


def asked(posteriors: tuple[str, ...] = POSTERIORS) -> Iterator[tuple[str, View, str, Family]]:
    for posterior in posteriors:
        for name, family in FAMILIES.items():
            if posterior in family.posteriors:
                for view in family.views:
                    yield posterior, view, name, family
