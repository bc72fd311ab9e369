"""Curves of a best-of-n study and what they do: small frozen records that turn into JSON and back."""

from dataclasses import dataclass

__all__ = ["Band", "Curve", "Estimate", "Outcome"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over prompts (percentile bootstrap) and seeds (Student's t), in its own units.

    What prompts chose (the strength of a tuned curve) is chosen again in every resample of them.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Band:
    """A curve over the study's `n_values` with pointwise bounds as of `Estimate`; three tuples of equal length."""

    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, index: int) -> Estimate:
        """Value and bounds at one position of the grid (negative counts from the end)."""
        return Estimate(self.value[index], self.low[index], self.high[index])


@dataclass(frozen=True)
class Outcome:
    """What a utility's gold curve does on one scale of gold: where it peaks, what it keeps, how it compares."""

    peak_n: int
    """The n of the grid with the highest mean gold (the smallest such n)."""
    peak_n_low: int
    peak_n_high: int
    """Percentiles of the peak's n when prompts (and seeds) are resampled and the peak is searched anew."""
    gain: Estimate
    """Gold at the largest n minus gold at n = 1, paired over prompts."""
    drop: Estimate
    """Gold at the peak minus gold at the largest n, paired over prompts at the peak found (0 where it is the last)."""
    drop_p_value: float | None
    """One-sided p-value of "no n of the grid beats the largest n" by the bootstrap-t, corrected for having searched all
    n.

    None where there are too few prompts to say (fewer than 2).
    """
    kept: Estimate | None
    """(gold(n_max) - gold(1)) / (gold(peak) - gold(1)), with the peak searched anew in each resample.

    None where the curve does not rise above n = 1, or not in 95 % of the resamples.
    """
    versus: dict[str, Estimate]
    """Gold at the largest n minus that of another curve, paired over prompts, by the other's part: `first` (the
    study's first utility), `longest`, `shuffled` (the control made from the same utility) or `marginal` (the same
    utility without its `center`); of utilities and baselines also `consensus`, which needs no reward; of those that
    read a variance also `oracle_n`, `hedged_n`, and the tuned `top_k`, `soft`, `pessimism` and `mbr`, which the
    variance must beat or be decoration: these pick by the first utility, and are compared with where that one reads no
    variance. Curves that the study does not hold are absent."""
    share_above_first: float | None
    """Share of prompts (of prompts and seeds, where there are several) whose gold at the largest n is above that of the
    first utility; equal ones count one half. None for the first itself."""


@dataclass(frozen=True)
class Curve:
    """One utility (or control) over the whole grid of n."""

    key: str
    """What `BestOfNStudy.curve` knows it by: the label given to a utility, or the utility as it is written; of
    baselines `random`, `consensus`, `worst`, `uwo`, `hedged n`, or a family with its strength `KEY, tuned`; of controls
    `shuffled: KEY`, `length as variance: KEY`, `length out of variance: KEY`, `longest`, `oracle n` or `oracle`."""
    label: str
    """What to call it in a picture."""
    kind: str
    """`utility`; `baseline`, another way to pick that one could use; or `control`, which shows what a gain is not, or
    what was to be had in hindsight."""
    utility: str | None
    """The utility that picks, as it is written: of strategies, `hedged n` and `oracle n` the first one. None for
    controls without one, and where its own strength is tuned."""
    strategy: str | None
    """How one of n is picked by the utility, as `prudent.selection.parse_strategy` reads it; None: the best of n. Of
    several seeds that of the first; the strengths of others are in their own units."""
    variance: str | None
    """The variance that the utility reads, or the members that it comes from: `marginal`, `centered` (of the reward
    minus a reference), or None where it reads none. The mean of a curved step (`log_sigmoid`), of a `minimum` or of an
    `any_of` reads it too, where the file has any."""
    beside: str | None
    """Key of the same utility without its `center`, beside which this one is shown; None where there is none. Of a
    control it is that of the unchanged utility."""
    kl: tuple[float, ...] | None
    """KL divergence in nats between what is picked and the policy, at each n; None for pools of several policies, and
    where it is not known: of strategies other than best-of-n, and of tuned curves."""
    standard_error: dict[str, tuple[float, ...]] | None
    """Monte Carlo error of each of the `bands` at each n, of picks evaluated on drawn subsets; None: exact."""
    effective_size: tuple[float, ...] | None
    """On how many candidates of a prompt each point rests, averaged over prompts: 1 / sum of squared weights of the
    all-subsets estimator. At 1 it is the argmax of the pool. None where picks are not by best-of-n."""
    bands: dict[str, Band]
    """Expected value of the picked response: `gold` and its other scales, `proxy`, `variance`, `std`, `length`, those
    that the file knows. `proxy` is the mean of the reward minus its average over the pool. Where there are several
    rewards that is `proxy_NAME` of each, `proxy` the utility itself minus its average (absent for controls without
    one), and there is no `variance` and no `std`."""
    outcomes: dict[str, Outcome]
    """For each scale of gold in `bands`."""
    by_seed: dict[str, tuple[tuple[float, ...], ...]]
    """For each scale of gold the curve of every seed of the proxy alone, whose average is in `bands`; empty where there
    is one seed."""

    def rows(self, n_values: tuple[int, ...], scale: str = "gold") -> list[dict[str, float | int | None]]:
        """One flat record for each n: `n`, `kl`, `gold`, `low`, `high`, `proxy`; None where there is none."""
        gold, proxy = self.bands.get(scale), self.bands.get("proxy")
        return [
            {
                "n": n,
                "kl": None if self.kl is None else self.kl[i],
                "gold": None if gold is None else gold.value[i],
                "low": None if gold is None else gold.low[i],
                "high": None if gold is None else gold.high[i],
                "proxy": None if proxy is None else proxy.value[i],
            }
            for i, n in enumerate(n_values)
        ]
