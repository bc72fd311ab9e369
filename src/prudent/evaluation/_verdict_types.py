"""What a study concludes: laws of its curves, strengths that were tried, and whether the proxy was hacked."""

from dataclasses import dataclass

from prudent.evaluation._curve_types import Band, Estimate

__all__ = ["LawFit", "Rescue", "StrengthFamily", "Verdict"]


@dataclass(frozen=True)
class LawFit:
    """A law of overoptimization fitted to a gold curve (Gao et al. 2023, arXiv 2210.10760, section 3).

    The gain R over n = 1 against d = sqrt(KL): `best_of_n` is R = d (alpha - beta d), `rl` R = d (alpha - beta ln d).
    Intervals refit the law in every resample of prompts (and seeds).
    """

    form: str
    """`best_of_n` or `rl`."""
    alpha: Estimate
    beta: Estimate
    r_squared: float
    """Share of the variation of R over the grid that the law explains."""
    peak_kl: Estimate | None
    """KL in nats where the law says that gold is highest; None where it never falls (beta <= 0), or does not in more
    than 5 % of the resamples."""
    peak_n: float | None
    """The n of best-of-n whose KL that is, a real number. Where candidates tie, so that the KL stays below its formula,
    it is interpolated between the n that were measured; None beyond these."""
    peak_gain: Estimate | None
    """The law's gain over n = 1 there."""
    within: bool | None
    """Whether the peak lies inside the KL that was measured; beyond it is an extrapolation."""


@dataclass(frozen=True)
class StrengthFamily:
    """A rule or a strategy at several strengths: what each is worth, and which of them calibration prompts choose."""

    key: str
    """What the family is called: `lcb_std`, `soft`, `top_k`, ... Its tuned curve in the study is `KEY, tuned`."""
    parameter: str
    """What the strength is: `num_std`, `temperature`, ..."""
    strengths: tuple[float, ...]
    """Ascending. Of several seeds that of the first; each seed has strengths in its own units."""
    relative: tuple[float, ...] | None
    """The strengths in units of the spread of the proxy (see `RewardScale`), which is what seeds share; None where they
    are plain numbers (the M of `top_k`, the n of `hedged n`)."""
    texts: tuple[str, ...]
    """Each as one would write it: a utility, or a strategy."""
    gold: dict[str, tuple[Band, ...]]
    """For each scale of gold, the curve at each strength."""
    chosen: tuple[float, ...]
    """Share of the calibration draws that chose each strength at the largest n."""


@dataclass(frozen=True)
class Rescue:
    """What would have been better than the first utility at the largest n."""

    key: str
    """The curve (a utility or a baseline that one could have used) of the highest gold at the largest n."""
    ahead: Estimate
    """Its gold minus that of the first utility, paired over prompts; flattered by having been chosen on them."""
    held_out: Estimate
    """The same of whatever curve was best on one half of the prompts, measured on the other half, both ways round; its
    interval counts that other prompts may choose another curve."""


@dataclass(frozen=True)
class Verdict:
    """Is the first utility hacked on one scale of gold, from which n on, and what would have saved it?"""

    hacked: bool
    """Gold at its peak is above that at the largest n: p below 1 - confidence level, corrected for the search."""
    peak_n: int
    from_n: int | None
    """The smallest n after the peak from which on gold lies below the peak, at every larger n too, by paired intervals;
    None where there is none, and for a single prompt. These are not corrected for the search, as `hacked` is."""
    drop: Estimate
    """Gold at the peak minus gold at the largest n."""
    p_value: float | None
    rescue: Rescue | None
    """None where nothing ends above the first utility, controls aside, and for a single prompt."""
