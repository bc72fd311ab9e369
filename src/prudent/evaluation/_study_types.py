"""What a best-of-n study found: small frozen records that turn into JSON and back."""

from dataclasses import dataclass

from prudent.evaluation._curve_types import Band, Curve, Estimate
from prudent.evaluation._records import Record
from prudent.evaluation._trade_off_types import TradeOff
from prudent.evaluation._verdict_types import LawFit, StrengthFamily, Verdict

__all__ = [
    "BestOfNStudy",
    "Counts",
    "Disagreement",
    "EnsembleFacts",
    "Hacked",
    "Pick",
    "PickedReward",
    "Reliability",
    "RewardScale",
    "StudySettings",
]


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


@dataclass(frozen=True)
class Disagreement:
    """A prompt on which the utilities pick different responses."""

    prompt_id: int
    prompt: str
    pool_size: int
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class Hacked:
    """A prompt on which the first utility was fooled: what it picked from the whole pool beside what others would have.

    Chosen by their outcome, the worst first: they show how it looks, not how often it happens.
    """

    prompt_id: int
    prompt: str
    pool_size: int
    mean_gold: float
    """Gold of a random response of the pool."""
    picks: tuple[Pick, ...]
    """By the first utility; then, where it picks another response, by the best at the largest n of the other curves
    that pick the response of highest value (a tuned penalty at the strength that was chosen most often), which need
    not be the rescue of the verdict; then the best gold (`oracle`)."""


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
    num_prompts_calibrated_on: int
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


@dataclass(frozen=True)
class StudySettings:
    """How the study was made."""

    confidence_level: float
    num_bootstrap: int
    num_shuffles: int
    num_calibration_prompts: int
    """Prompts of each draw that chooses the strengths of tuned curves; 0 where there are too few for that."""
    num_resamples: int
    """Subsets drawn for each prompt and n where a strategy's picks depend on which candidates are present, at least."""
    num_seeds: int
    """Proxies whose curves were averaged: those of one kind, trained with several seeds."""
    seed: int


@dataclass(frozen=True)
class BestOfNStudy(Record):
    """Best-of-n under several utilities on one pool, scored once or by several seeds of a proxy, with intervals.

    `curves` holds utilities first, then baselines and controls; the first is what others are compared with.
    `gold_scales` names the scales of gold present in each curve: `gold` as given, `gold_standardized` (z-scored within
    each prompt) and `gold_length_adjusted` (standardized, the length of the response partialled out within each
    prompt). It is empty where the file has no gold.
    """

    called = "a study"
    format_version = 5

    n_values: tuple[int, ...]
    one_policy: bool
    gold_scales: tuple[str, ...]
    curves: tuple[Curve, ...]
    reliability: tuple[Reliability, ...]
    disagreements: tuple[Disagreement, ...]
    hacked: tuple[Hacked, ...]
    families: tuple[StrengthFamily, ...]
    """Rules and strategies at several strengths, behind the tuned curves."""
    laws: dict[str, dict[str, tuple[LawFit, ...]]]
    """Of each curve that has a KL of its own and moves, by its key: the laws fitted, for each scale of gold."""
    verdicts: dict[str, Verdict]
    """For each scale of gold."""
    trade_off: TradeOff | None
    """Where the utilities pick in the plane of the first two rewards; None where there is one reward, or no response
    has both."""
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
        """The curves that are utilities, without baselines and controls."""
        return tuple(curve for curve in self.curves if curve.kind == "utility")

    @property
    def proxies(self) -> dict[str, str]:
        """The band that holds the mean of each reward, by its name."""
        if len(self.rewards) == 1:
            return dict.fromkeys(self.rewards, "proxy")
        bands = {name: f"proxy_{name}" for name in self.rewards}
        return {name: band for name, band in bands.items() if band in self.curves[0].bands}
