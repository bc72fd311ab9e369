"""Whether a policy should have been stopped: gold falls on held-out prompts while the proxy rises."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prudent.metrics import student_reach

__all__ = ["LEAST_PROMPTS", "EarlyStopAdvice", "best_step", "early_stop_advice", "prompt_means", "why_no_advice"]

LEAST_PROMPTS = 8
"""Held-out prompts with gold by which a run can be judged."""


@dataclass(frozen=True)
class EarlyStopAdvice:
    """What the held-out prompts say about stopping.

    Attributes:
        stop: gold fell by more than chance while the proxy rose.
        best_step: the step at which gold is highest.
        from_step: from about this step on gold lies below that by more than chance; None where `stop` is False.
        gold_change: gold at the last step minus gold at the best one, each prompt judged at the step that is best on
            the other half of the prompts, so that no prompt chooses the step that it judges.
        gold_change_low: lower end of its 95 % interval over prompts.
        gold_change_high: upper end.
        proxy_change: of the proxy, likewise.
        num_prompts: with gold at every step.
        text: the same in a sentence.
    """

    stop: bool
    best_step: int
    from_step: int | None
    gold_change: float
    gold_change_low: float
    gold_change_high: float
    proxy_change: float
    num_prompts: int
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def early_stop_advice(samples: pa.Table | str | Path) -> EarlyStopAdvice | None:
    """Advice from the completions of held-out prompts.

    Gold of a prompt is the average over its completions. It falls where the 95 % interval of the last step minus the
    best one, over prompts in pairs, lies below 0. The best step is a maximum over noisy averages, which would look like
    a fall where there is none; so half of the prompts choose it and the other half judge, both ways. The interval is
    Student's t with the degrees of freedom of one half: by simulation 1 to 4 % of runs in which gold stands still look
    like a fall at the end, with 8 prompts as with 100. Asked at every look, more do at one of them.

    Args:
        samples: `samples.parquet` of a run, or its path: columns `step`, `prompt_id`, `gold`, `reward_mean`.

    Returns:
        The advice; None with fewer than 8 prompts that have gold at every step, or with a single step.

    Example:
        >>> places = [(step, prompt) for step in (0, 9) for prompt in range(8)]
        >>> rows = [{"step": s, "prompt_id": p, "reward_mean": float(s), "gold": p - float(s)} for s, p in places]
        >>> early_stop_advice(pa.Table.from_pylist(rows)).text
        'gold falls from about step 9 on, by 9 [9, 9] at the end, while the proxy rises by 9: take the policy of step 0'
    """
    steps, gold, proxy = _judged(samples)
    if _too_few(steps, gold) is not None:
        return None
    change, proxy_change = np.empty(len(gold)), np.empty(len(gold))
    for half in (0, 1):
        own = np.arange(len(gold)) % 2 == half
        chosen = int(gold[~own].mean(0).argmax())
        change[own] = gold[own, -1] - gold[own, chosen]
        proxy_change[own] = proxy[own, -1] - proxy[own, chosen]
    low, high = (float(end) for end in _interval(change))
    best, rise = int(gold.mean(0).argmax()), float(proxy_change.mean())
    stop = high < 0 < rise
    from_step = steps[_below(gold, best)] if stop else None
    found: dict[str, Any] = {
        "stop": stop,
        "best_step": steps[best],
        "from_step": from_step,
        "gold_change": float(change.mean()),
        "gold_change_low": low,
        "gold_change_high": high,
        "proxy_change": rise,
        "num_prompts": len(gold),
    }
    return EarlyStopAdvice(**found, text=_sentence(found, steps[-1]))


def best_step(samples: pa.Table) -> int | None:
    """The step at which gold is highest over the prompts that have it at every step; None without any.

    Args:
        samples: as of `early_stop_advice`.

    Example:
        >>> best_step(pa.table({"step": [0, 9], "prompt_id": [0, 0], "gold": [1.0, 2.0], "reward_mean": [0.0, 1.0]}))
        9
    """
    steps, gold, _ = _judged(samples)
    return steps[int(gold.mean(0).argmax())] if len(gold) else None


def why_no_advice(samples: pa.Table | str | Path) -> str | None:
    """Why `early_stop_advice` gives none; None where it gives some.

    Args:
        samples: as there.

    Example:
        >>> columns = {"step": [0, 9], "prompt_id": [0, 0], "gold": [1.0, 2.0], "reward_mean": [0.0, 1.0]}
        >>> why_no_advice(pa.table(columns))
        'it takes 8 held-out prompts with gold at every step, and there are 1'
    """
    steps, gold, _ = _judged(samples)
    return _too_few(steps, gold)


def prompt_means(values: NDArray[np.float64], prompt: NDArray[np.float64]) -> dict[int, float]:
    """Mean of the values of each prompt, those that are missing left out."""
    found: dict[int, float] = {}
    for number in np.unique(prompt):
        own = values[(prompt == number) & ~np.isnan(values)]
        if len(own):
            found[int(number)] = float(own.mean())
    return found


def _judged(samples: pa.Table | str | Path) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """Steps, and gold and proxy [P, steps] of the prompts that have both at every step."""
    table = samples if isinstance(samples, pa.Table) else pq.read_table(samples)
    steps = sorted(set(table["step"].to_pylist()))
    gold, proxy = _by_prompt(table, steps, "gold"), _by_prompt(table, steps, "reward_mean")
    known = ~(np.isnan(gold) | np.isnan(proxy)).any(1)
    return steps, gold[known], proxy[known]


def _too_few(steps: list[int], gold: NDArray[np.float64]) -> str | None:
    if len(steps) < 2:
        return "it takes two looks at the held-out prompts, and there was one"
    if len(gold) < LEAST_PROMPTS:
        return f"it takes {LEAST_PROMPTS} held-out prompts with gold at every step, and there are {len(gold)}"
    return None


def _by_prompt(table: pa.Table, steps: list[int], column: str) -> NDArray[np.float64]:
    """[P, steps] average over the completions of each prompt; NaN where it is not known."""
    step, prompt = table["step"].to_numpy(), table["prompt_id"].to_numpy()
    prompts = sorted(set(prompt.tolist()))
    values = np.asarray(table[column].to_numpy(), dtype=np.float64)  # null becomes NaN
    found = np.full((len(prompts), len(steps)), np.nan)
    for place, number in enumerate(steps):
        means = prompt_means(values[step == number], prompt[step == number])
        found[:, place] = [means.get(one, np.nan) for one in prompts]
    return found


def _interval(change: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends [...] of the 95 % interval of means over P prompts, of values [P, ...]."""
    reach = student_reach(len(change) // 2 - 1) * change.std(0, ddof=1) / np.sqrt(len(change))
    return change.mean(0) - reach, change.mean(0) + reach


def _below(gold: NDArray[np.float64], best: int) -> int:
    """The first step from which on gold lies below the best one by more than chance; the last at the latest."""
    if best + 1 >= gold.shape[1]:
        return best
    below = (_interval(gold[:, best + 1 :] - gold[:, [best]])[1] < 0).tolist()
    first = len(below) - 1
    while first > 0 and below[first - 1]:
        first -= 1
    return best + 1 + first


def _sentence(found: dict[str, Any], last_step: int) -> str:
    change, low, high = (found[name] for name in ("gold_change", "gold_change_low", "gold_change_high"))
    if found["stop"]:
        return (
            f"gold falls from about step {found['from_step']} on, by {-change:.3g} [{-high:.3g}, {-low:.3g}] at the "
            f"end, while the proxy rises by {found['proxy_change']:.3g}: take the policy of step {found['best_step']}"
        )
    if found["best_step"] == last_step:
        return f"no fall of gold: over {found['num_prompts']} prompts it is highest at the last step, {last_step}"
    return (
        f"no fall of gold that {found['num_prompts']} prompts would show: {change:+.3g} [{low:.3g}, {high:.3g}] from "
        "its best step to the last"
    )
