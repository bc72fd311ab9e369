"""Runs of `prudent align` put together: which are seeds of one arm, and the curve of each arm over its seeds."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prudent.metrics import student_reach
from prudent.reports._alignment_runs import AlignedRun

__all__ = ["ArmCurves", "Band", "arms_of", "changed", "least_far", "moved", "own_of_seed", "still"]

_OWN_OF_SEED = ("prompts", "reward_model", "references", "saved_utility")
"""What a seed may have of its own: prompts held out by it, a proxy trained by it, and what is fitted on that proxy."""
_BASIS = ("policy", "prompts", "reward_model", "gold_model")
"""What arms are compared on: the same in all of them, at least seed by seed."""
_HARMLESS = frozenset(
    {
        "format_version",
        "gradient_checkpointing",
        "logging_steps",
        "monitor_every",
        "num_monitor_completions",
        "num_monitor_prompts",
        "per_device_train_batch_size",
        "report_to",
        "tokens_per_batch",
        "use_cpu",
    }
)
"""Settings that leave the trained policy alone, but for rounding; held-out prompts are told apart by `prompts`."""
_FIRST = ("arm", "utility", "algorithm", "kl_coef", "learning_rate")
"""Settings that a label names before others."""
_LEVEL = 0.95
_LIMITS = {
    "proxy_below_reference": (0.0, 1.0),
    "gold_below_reference": (0.0, 1.0),
    "kl": (0.0, np.inf),
    "length": (0.0, np.inf),
}
"""What a figure cannot leave; an interval of few seeds would."""
_Measure = Callable[[AlignedRun], NDArray[np.float64]]


@dataclass(frozen=True)
class Band:
    """A mean with its interval, of 95 % where nothing else is said; the interval is NaN where it is not known."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class ArmCurves:
    """Runs that differ in their seed alone, and in what leaves the policy alone.

    Runs of one seed are averaged before anything is said over seeds, since they are no two seeds.

    Attributes:
        label: the arm, and what sets it apart from the other arms.
        runs: whose figures count: those that have finished, or all where none has.
        unfinished: runs that stopped before their last step; beside finished ones they do not count.
        silent: settings that other arms' labels name, and this one's does not since most arms have them.
    """

    label: str
    runs: tuple[AlignedRun, ...]
    unfinished: tuple[AlignedRun, ...] = ()
    silent: tuple[str, ...] = ()

    @cached_property
    def steps(self) -> list[int]:
        """Steps that all runs looked at."""
        shared = set.intersection(*({row["step"] for row in run.rows} for run in self.runs))
        return sorted(shared)

    @cached_property
    def seeds(self) -> list[int]:
        """The different seeds."""
        return sorted({run.seed for run in self.runs})

    @property
    def over(self) -> str | None:
        """What its intervals of gains are over: `seeds`, `prompts`, or nothing."""
        if len(self.seeds) > 1:
            return "seeds"
        return "prompts" if len(self.runs) == 1 and self.runs[0].prompt_gains else None

    @property
    def distance(self) -> NDArray[np.float64]:
        """Square root of the KL at each step, averaged over seeds."""
        return self._over_seeds(lambda run: run.distance[self.places(run)]).mean

    def band(self, name: str) -> Band:
        """A figure at each step, over the seeds; of a single run over its prompts, where its rows tell that."""
        if len(self.runs) > 1 or f"{name}_standard_error" not in self.runs[0].rows[0]:
            return _within(name, self._over_seeds(lambda run: run.values(name)[self.places(run)]))
        (run,) = self.runs
        mean = run.values(name)
        reach = student_reach(max(1, run.rows[0]["num_prompts"] - 1)) * run.values(f"{name}_standard_error")
        return _within(name, Band(mean, mean - reach, mean + reach))

    def gains(self, name: str) -> Band:
        """What a figure has gained since the first step, at each step."""
        if (prompts := self._prompt_gains(name)) is not None:
            return _student_band(prompts)
        return self._over_seeds(lambda run: run.gains(name)[self.places(run)])

    def gain(self, name: str, distance: float | None = None) -> Band:
        """What a figure has gained at the last step, or at a distance."""

        def at(run: AlignedRun, values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(values[..., -1]) if distance is None else run.at_distance(values, distance)

        if (prompts := self._prompt_gains(name)) is not None:
            return _student_band(at(self.runs[0], prompts))
        return self._over_seeds(lambda run: at(run, run.gains(name)))

    def lead(self, other: "ArmCurves", name: str, distance: float, level: float = _LEVEL) -> Band | None:
        """What it gains more than another at a distance, seed by seed; None where they do not share two seeds."""
        own, others = (arm._by_seed(lambda run: run.at_distance(run.gains(name), distance)) for arm in (self, other))
        shared = sorted(own.keys() & others.keys())
        if len(shared) < 2:
            return None
        return _student_band(np.array([own[seed] - others[seed] for seed in shared]), level)

    def end(self, name: str) -> Band:
        """A figure at the last step, over the seeds."""
        return _within(name, self._over_seeds(lambda run: np.asarray(run.values(name)[-1])))

    def places(self, run: AlignedRun) -> list[int]:
        """Where the shared steps stand in a run."""
        at = {row["step"]: place for place, row in enumerate(run.rows)}
        return [at[step] for step in self.steps]

    def _prompt_gains(self, name: str) -> NDArray[np.float64] | None:
        return self.runs[0].prompt_gains.get(name) if len(self.runs) == 1 else None

    def _by_seed(self, measure: _Measure) -> dict[int, NDArray[np.float64]]:
        found = {seed: [measure(run) for run in self.runs if run.seed == seed] for seed in self.seeds}
        return {seed: np.mean(values, axis=0) for seed, values in found.items()}

    def _over_seeds(self, measure: _Measure) -> Band:
        return _student_band(np.stack(list(self._by_seed(measure).values())))


def arms_of(runs: Sequence[AlignedRun]) -> list[ArmCurves]:
    """Runs put together that differ in their seed alone, under labels that tell what sets them apart.

    Prompts, reward model and references may belong to the seed: runs of one seed then share them. A label is silent
    about what most arms have. Arms that train on the posterior mean as it is come first.
    """
    named = sorted({name for run in runs for name in run.settings} - _HARMLESS - {"seed"})
    groups = _split(runs, [name for name in named if name not in _OWN_OF_SEED])
    groups = sorted((part for group in groups for part in _apart(group)), key=_is_mean, reverse=True)
    told = sorted(
        (name for name in named if name not in _OWN_OF_SEED and _tells_apart(runs, name)),
        key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name),
    )
    usual = _usual([group[0] for group in groups], told)
    labels = [", ".join([*_label(group[0], told, usual), *_other_models(group, groups[0])]) for group in groups]
    arms = []
    for group, label in zip(groups, labels, strict=True):
        finished = tuple(run for run in group if run.is_finished)
        unfinished = tuple(run for run in group if not run.is_finished)
        unique = label if labels.count(label) == 1 else f"{label} ({group[0].folder.name})"
        silent = tuple(said for name, said in usual.items() if _said(group[0], name) == said)
        arms.append(ArmCurves(unique, finished or unfinished, unfinished, silent))
    return arms


def _is_mean(runs: Sequence[AlignedRun]) -> bool:
    settings = runs[0].settings
    return settings["arm"] == "mean" and settings.get("utility") is None


def changed(arms: Sequence[ArmCurves]) -> list[str]:
    """What arms are compared on and yet differ in, by name: policy, prompts, reward_model, gold_model."""
    runs = _recorded(_counted(arms))
    strangers = [[*arm.runs, *arms[0].runs] for arm in arms if not set(arm.seeds) & set(arms[0].seeds)]
    return [
        name
        for name in _BASIS
        if not (_is_shared(runs, name) and all(_is_same(_recorded(one), name) for one in strangers))
    ]


def own_of_seed(arms: Sequence[ArmCurves]) -> list[str]:
    """What seeds have of their own, in all arms alike: prompts, reward_model."""
    runs = _recorded(_counted(arms))
    return [name for name in ("prompts", "reward_model") if name not in changed(arms) and not _is_same(runs, name)]


def least_far(arms: Sequence[ArmCurves]) -> tuple[float, AlignedRun] | None:
    """The largest distance that every run of the arms that moved has come to, and the run that came no further.

    None where fewer than two arms moved, since nothing can then be compared.
    """
    if len(comparable := moved(arms)) < 2:
        return None
    far, _, run = min((_far(run), place, run) for place, run in enumerate(_counted(comparable)))
    return far, run


def moved(arms: Sequence[ArmCurves]) -> list[ArmCurves]:
    """Arms all of whose runs have moved; one that has just started would leave no distance to compare the others at."""
    return [arm for arm in arms if not still(arm)]


def still(arm: ArmCurves) -> list[AlignedRun]:
    """Runs of an arm that are where they started."""
    return [run for run in arm.runs if _far(run) == 0]


def _far(run: AlignedRun) -> float:
    """How far a run has been; nowhere at its first look, which is at the first policy up to rounding."""
    return float(np.max(np.nan_to_num(run.distance[1:]), initial=0.0))


def _counted(arms: Sequence[ArmCurves]) -> list[AlignedRun]:
    return [run for arm in arms for run in arm.runs]


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _recorded(runs: Iterable[AlignedRun]) -> list[AlignedRun]:
    """Runs whose settings are known."""
    return [run for run in runs if "settings" not in run.settings]


def _split(runs: Sequence[AlignedRun], names: Sequence[str]) -> list[list[AlignedRun]]:
    """Runs by their values of some settings."""
    found: dict[str, list[AlignedRun]] = {}
    for run in runs:
        found.setdefault(_text([run.settings.get(name) for name in names]), []).append(run)
    return list(found.values())


def _apart(group: Sequence[AlignedRun]) -> list[list[AlignedRun]]:
    """Runs of otherwise equal settings, by what a seed may have of its own and runs of one seed do not share."""
    free = [name for name in _OWN_OF_SEED if not _is_shared(group, name)]
    by_value = _split(group, free)
    if any(len({run.seed for run in part}) > 1 for part in by_value):
        return by_value
    parts: list[list[AlignedRun]] = []
    for run in group:  # each seed has its own: a second run of a seed with another is of another arm
        fitting = (part for part in parts if all(_is_shared([*part, run], name) for name in free))
        if (part := next(fitting, None)) is None:
            parts.append(part := [])
        part.append(run)
    return parts


def _is_same(runs: Sequence[AlignedRun], name: str) -> bool:
    return len({_text(run.settings.get(name)) for run in runs}) <= 1


def _is_shared(runs: Sequence[AlignedRun], name: str) -> bool:
    """Whether runs have a setting in common; those of one seed, for what a seed may have of its own."""
    if name not in _OWN_OF_SEED:
        return _is_same(runs, name)
    return all(_is_same([run for run in runs if run.seed == seed], name) for seed in {run.seed for run in runs})


def _tells_apart(runs: Sequence[AlignedRun], name: str) -> bool:
    """Whether a label needs a setting; a utility that is not the arm's own is always named."""
    if name == "utility":
        return True
    return not _is_shared(runs if name in (*_FIRST, "settings") else _recorded(runs), name)


def _usual(runs: Sequence[AlignedRun], told: Sequence[str]) -> dict[str, str]:
    """What most arms, or else the first, have of each setting that tells arms apart; labels are silent about it."""
    found = {}
    for name in told:
        known = Counter(_said(run, name) for run in runs if name in run.settings)
        if name not in ("arm", "utility", "settings"):
            found[name] = known.most_common(1)[0][0]
    return found


def _label(run: AlignedRun, told: Sequence[str], usual: Mapping[str, str]) -> list[str]:
    parts = [str(run.settings["arm"])]
    for name in told:
        is_own = name == "arm" or (name == "utility" and run.settings.get(name) is None)
        if name in run.settings and not is_own and (said := _said(run, name)) != usual.get(name):
            parts.append(said)
    return parts


def _other_models(group: Sequence[AlignedRun], first: Sequence[AlignedRun]) -> list[str]:
    """Prompts, reward model and references, where runs of one seed in the first arm have others."""
    return [
        _said(group[0], name) if _is_same(group, name) else f"{name} of each seed"
        for name in _OWN_OF_SEED
        if not _is_shared(_recorded([*group, *first]), name)
    ]


def _said(run: AlignedRun, name: str) -> str:
    """A setting in words."""
    value = run.settings.get(name)
    if value is None:
        return f"{name} by default"
    if name in (*_BASIS, *_OWN_OF_SEED):
        return f"{name} {run.models.get(name) or (Path(value).name if isinstance(value, str) else 'unnamed')}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _student_band(values: NDArray[np.float64], level: float = _LEVEL) -> Band:
    """Mean over the first axis, and Student's t interval of it; a value that one of them lacks makes it NaN."""
    count = len(values)
    mean = values.mean(0)
    if count < 2:
        return Band(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    reach = student_reach(count - 1, level) * values.std(0, ddof=1) / np.sqrt(count)
    return Band(mean, mean - reach, mean + reach)


def _within(name: str, band: Band) -> Band:
    least, most = _LIMITS.get(name, (-np.inf, np.inf))
    return Band(band.mean, np.clip(band.low, least, most), np.clip(band.high, least, most))
