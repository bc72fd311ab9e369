"""What a best-of-n study found: small frozen records that turn into JSON and back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from prudent.evaluation._trade_off_types import TradeOff

__all__ = [
    "Band",
    "BestOfNStudy",
    "Counts",
    "Curve",
    "Disagreement",
    "EnsembleFacts",
    "Estimate",
    "Outcome",
    "Pick",
    "PickedReward",
    "Reliability",
    "RewardScale",
    "StudySettings",
    "plain",
]

FORMAT_VERSION = 4


@dataclass(frozen=True)
class Estimate:
    """A number with a percentile bootstrap interval over prompts, in the units of the number."""

    value: float
    low: float
    high: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        return cls(data["value"], data["low"], data["high"])


@dataclass(frozen=True)
class Band:
    """A curve over the study's `n_values` with pointwise percentile bootstrap bounds; three tuples of equal length."""

    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, index: int) -> Estimate:
        """Value and bounds at one position of the grid (negative counts from the end)."""
        return Estimate(self.value[index], self.low[index], self.high[index])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, from lists or tuples."""
        return cls(tuple(data["value"]), tuple(data["low"]), tuple(data["high"]))


@dataclass(frozen=True)
class Outcome:
    """What a utility's gold curve does on one scale of gold: where it peaks, what it keeps, how it compares."""

    peak_n: int
    """The n of the grid with the highest mean gold (the smallest such n)."""
    peak_n_low: int
    peak_n_high: int
    """Percentiles of the peak's n when prompts are resampled and the peak is searched anew."""
    gain: Estimate
    """Gold at the largest n minus gold at n = 1, paired over prompts."""
    drop: Estimate
    """Gold at the peak minus gold at the largest n, paired over prompts at the peak found (0 where it is the last)."""
    drop_p_value: float | None
    """One-sided bootstrap p-value of "no n of the grid beats the largest n", corrected for having searched all n.

    None where there are too few prompts to say (fewer than 2).
    """
    kept: Estimate | None
    """(gold(n_max) - gold(1)) / (gold(peak) - gold(1)), with the peak searched anew in each resample.

    None where the curve does not rise above n = 1, or not in 95 % of the resamples.
    """
    versus: dict[str, Estimate]
    """Gold at the largest n minus that of another curve, paired over prompts, by the other's part: `first` (the
    study's first utility), `longest`, `shuffled` (the control made from the same utility) or `marginal` (the same
    utility without its `center`). Curves that the study does not hold are absent."""
    share_above_first: float | None
    """Share of prompts whose gold at the largest n is above that of the first utility; equal ones count one half. None
    for the first itself."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        values = dict(data)
        for name in ("gain", "drop", "kept"):
            values[name] = None if values[name] is None else Estimate.from_dict(values[name])
        values["versus"] = {name: Estimate.from_dict(one) for name, one in values["versus"].items()}
        return cls(**values)


@dataclass(frozen=True)
class Curve:
    """One utility (or control) over the whole grid of n."""

    key: str
    """What `BestOfNStudy.curve` knows it by: the label given to a utility, or the utility as it is written; of
    controls `shuffled: KEY`, `longest`, `random` or `oracle`."""
    label: str
    """What to call it in a picture."""
    kind: str
    """`utility` or `control`."""
    utility: str | None
    """The utility that picks, as it is written; None for controls without one."""
    variance: str | None
    """The variance that the utility reads, or the members that it comes from: `marginal`, `centered` (of the reward
    minus a reference), or None where it reads none."""
    beside: str | None
    """Key of the same utility without its `center`, beside which this one is shown; None where there is none."""
    kl: tuple[float, ...] | None
    """KL divergence in nats between best-of-n and the policy, at each n; None for pools of several policies."""
    bands: dict[str, Band]
    """Expected value of the picked response: `gold` and its other scales, `proxy`, `variance`, `std`, `length`, those
    that the file knows. `proxy` is the mean of the reward minus its average over the pool. Where there are several
    rewards that is `proxy_NAME` of each, `proxy` the utility itself minus its average (absent for controls without
    one), and there is no `variance` and no `std`."""
    outcomes: dict[str, Outcome]
    """For each scale of gold in `bands`."""

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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        values = dict(data)
        values["kl"] = None if values["kl"] is None else tuple(values["kl"])
        values["bands"] = {name: Band.from_dict(band) for name, band in values["bands"].items()}
        values["outcomes"] = {name: Outcome.from_dict(one) for name, one in values["outcomes"].items()}
        return cls(**values)


@dataclass(frozen=True)
class Reliability:
    """Do the posterior's probabilities come true: P(r_i > r_j) against which candidate has the higher gold.

    And is it right more often where it is surer: risk and coverage of the same pairs.
    """

    pairs: str
    """How the pairs were drawn: `random` within a prompt, or `top` (one of the two from the proxy's top tenth)."""
    num_pairs: int
    num_gold_ties: int
    """Pairs drawn but left out because both candidates have the same gold."""
    exact_contrast: bool
    """True: the variance of r_i - r_j came from the joint posterior. False: the two were taken as independent."""
    confidence: tuple[float, ...]
    """Mean of max(P, 1 - P) in each of up to ten bins of about equally many pairs, ascending."""
    share_right: Band
    """Share of the bin's pairs in which the favored candidate has the higher gold."""
    count: tuple[int, ...]
    accuracy: Estimate
    overconfidence: Estimate
    """Mean confidence minus accuracy: above 0 the posterior is surer than it is right."""
    brier: Estimate
    coverage: tuple[float, ...]
    """Shares of the pairs kept, the surest first: 0.05 to 1."""
    risk: Band
    """Share of the kept pairs in which the favored candidate has the lower gold, at each coverage."""
    area: Estimate
    """AURC: that share averaged over all coverages; lower is better."""
    calibration_error: float
    """Expected calibration error over the bins, weighted by their counts. Sampling alone keeps it above 0, and in a
    bootstrap twice so, hence no interval."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        values = dict(data)
        for name in ("share_right", "risk"):
            values[name] = Band.from_dict(values[name])
        for name in ("accuracy", "overconfidence", "brier", "area"):
            values[name] = Estimate.from_dict(values[name])
        for name in ("confidence", "count", "coverage"):
            values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True)
class PickedReward:
    """One reward of a picked response."""

    mean: float
    std: float | None
    """None where the file has no variance."""
    centered_std: float | None
    """Of the reward minus that of the prompt's references; None where that is not stored."""


@dataclass(frozen=True)
class Pick:
    """The response that some utilities pick from a whole pool."""

    utilities: tuple[str, ...]
    """Keys of their curves."""
    response_id: int
    text: str
    cut: int
    """Characters of the text that were left out of `text`."""
    rewards: dict[str, PickedReward]
    """By the name of the reward; `reward` is one without a name."""
    gold: float | None
    gold_rank: int | None
    """1 is the best gold of the pool; ties share the best rank."""
    length: int | None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        rewards = {name: PickedReward(**one) for name, one in data["rewards"].items()}
        return cls(**{**data, "utilities": tuple(data["utilities"]), "rewards": rewards})


@dataclass(frozen=True)
class Disagreement:
    """A prompt on which the utilities pick different responses."""

    prompt_id: int
    prompt: str
    pool_size: int
    picks: tuple[Pick, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**data, "picks": tuple(Pick.from_dict(pick) for pick in data["picks"])})


@dataclass(frozen=True)
class Counts:
    """What the study was made of, and what it had to leave out."""

    num_prompts: int
    num_candidates: int
    num_distinct: int | None
    """Distinct (prompt, response) texts among the candidates; None where the file holds no texts."""
    smallest_pool: int
    largest_pool: int
    num_truncated: int | None
    """Candidates whose text was cut before scoring; None where the file does not say."""
    num_unscored: int
    """Rows left out because a utility has no value there, or their mean or variance is not finite."""
    num_without_gold: int
    """Rows left out because they have no gold although others have."""
    num_prompts_left_out: int
    """Prompts left out because they have fewer candidates than the largest n."""
    num_models: int | None
    """Distinct values of the column `model`; None where there is no such column."""
    num_calibration_prompts: int
    """Prompts left out because the members of an ensemble were calibrated on their gold."""


@dataclass(frozen=True)
class EnsembleFacts:
    """The ensemble that gave a reward: its variance is that between members, divided by num_members - ddof.

    With `has_within_variance` members have variances of their own too, whose average is added.
    """

    num_members: int
    ddof: int
    has_within_variance: bool


@dataclass(frozen=True)
class RewardScale:
    """How large the numbers of a reward are."""

    spread_of_means: float
    """Average over prompts of the standard deviation of the mean within the prompt: the scale of a penalty."""
    median_std: float | None
    """Median over candidates of the posterior standard deviation (marginal); None without a posterior."""
    median_centered_std: float | None
    """That of the reward minus the prompt's references; None where it is not stored."""
    ensemble: EnsembleFacts | None
    """None for the reward of a single model."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        ensemble = data["ensemble"]
        return cls(**{**data, "ensemble": None if ensemble is None else EnsembleFacts(**ensemble)})


@dataclass(frozen=True)
class StudySettings:
    """How the study was made."""

    confidence_level: float
    num_bootstrap: int
    num_shuffles: int
    seed: int


@dataclass(frozen=True)
class BestOfNStudy:
    """Best-of-n under several utilities on one scored file, with intervals over prompts.

    `curves` holds utilities first, then controls; the first is what others are compared with. `gold_scales` names the
    scales of gold present in each curve: `gold` as given, `gold_standardized` (z-scored within each prompt) and
    `gold_length_adjusted` (standardized, the length of the response partialled out within each prompt). It is empty
    where the file has no gold.
    """

    n_values: tuple[int, ...]
    one_policy: bool
    gold_scales: tuple[str, ...]
    curves: tuple[Curve, ...]
    reliability: tuple[Reliability, ...]
    disagreements: tuple[Disagreement, ...]
    trade_off: TradeOff | None
    """Where the utilities pick in the plane of the first two rewards; None where there is one."""
    counts: Counts
    rewards: dict[str, RewardScale]
    """The rewards of the file by name; `reward` is one without a name."""
    settings: StudySettings
    notes: tuple[str, ...]
    """Sentences on what the reader must know: approximations, parts that could not be computed and why."""

    def curve(self, key: str) -> Curve:
        """The curve of one utility or control.

        Raises:
            KeyError: If the study holds no such curve.
        """
        for curve in self.curves:
            if curve.key == key:
                return curve
        raise KeyError(f"no curve {key!r} in this study; it holds {', '.join(c.key for c in self.curves)}")

    @property
    def utilities(self) -> tuple[Curve, ...]:
        """The curves that are utilities, without the controls."""
        return tuple(curve for curve in self.curves if curve.kind == "utility")

    @property
    def proxies(self) -> dict[str, str]:
        """The band that holds the mean of each reward, by its name."""
        if len(self.rewards) == 1:
            return dict.fromkeys(self.rewards, "proxy")
        bands = {name: f"proxy_{name}" for name in self.rewards}
        return {name: band for name, band in bands.items() if band in self.curves[0].bands}

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, numbers and strings that `json.dumps` takes with `allow_nan=False`."""
        return {"format_version": FORMAT_VERSION, **{f.name: plain(getattr(self, f.name)) for f in fields(self)}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also after a trip through JSON.

        Raises:
            ValueError: If the dict was written in a format that this version does not know.
        """
        if data.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"a study of format {data.get('format_version')!r}: this version reads {FORMAT_VERSION}")
        return cls(
            n_values=tuple(data["n_values"]),
            one_policy=data["one_policy"],
            gold_scales=tuple(data["gold_scales"]),
            curves=tuple(Curve.from_dict(curve) for curve in data["curves"]),
            reliability=tuple(Reliability.from_dict(one) for one in data["reliability"]),
            disagreements=tuple(Disagreement.from_dict(one) for one in data["disagreements"]),
            trade_off=None if data["trade_off"] is None else TradeOff.from_dict(data["trade_off"]),
            counts=Counts(**data["counts"]),
            rewards={name: RewardScale.from_dict(one) for name, one in data["rewards"].items()},
            settings=StudySettings(**data["settings"]),
            notes=tuple(data["notes"]),
        )


def plain(value: Any) -> Any:
    """Dataclasses to dicts and tuples to lists, through any nesting."""
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value
