"""Why a response won: every number that a utility came by on its way, for the responses of one prompt."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.scoring._saved_utility import SavedUtility
from prudent.scoring._scored import ScoredPool, read_scored
from prudent.scoring._utilities import utility_for
from prudent.scoring._why import why
from prudent.utility import Combined, FittedUtility, Piped, RewardSet, TracedStep, Utility

__all__ = ["ExplainedResponse", "ExplainedStep", "Explanation", "explain"]


@dataclass(frozen=True)
class ExplainedStep:
    """One step of a utility.

    Attributes:
        label: a letter that stands for it.
        step: what it does, with earlier steps by their letters, as in `a | center`.
        source: the utility up to this step, as it is written.
    """

    label: str
    step: str
    source: str


@dataclass(frozen=True)
class ExplainedResponse:
    """One response and what every step made of it.

    Attributes:
        response_id: its number within the prompt.
        rank: 1 for the best; equal values share a rank; None where it is not scored.
        mean: posterior mean, or the value after a risk rule, at each step; NaN where it is not scored.
        std: epistemic standard deviation at each step; None after a risk rule.
        gold: its true reward, where it is known.
        length: characters, where the text is known.
        text: the response, where it is known.
    """

    response_id: int
    rank: int | None
    mean: tuple[float, ...]
    std: tuple[float | None, ...]
    gold: float | None
    length: int | None
    text: str | None


@dataclass(frozen=True)
class Explanation:
    """Why the best response of a prompt won.

    Attributes:
        prompt_id: the prompt.
        prompt: its text, where it is known.
        utility: as it is written.
        steps: in the order of the calculation; the last gives the value.
        responses: all of the prompt, best first, those that are not scored last.
        winners: ids of the best responses; several where they tie, none where none is scored.
        runner_up: id of the best of those below; None where there is none.
        by_mean: for each reward, the response with the largest mean.
        why: all that in a few sentences.
    """

    prompt_id: int
    prompt: str | None
    utility: str
    steps: tuple[ExplainedStep, ...]
    responses: tuple[ExplainedResponse, ...]
    winners: tuple[int, ...]
    runner_up: int | None
    by_mean: dict[str, int]
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, where what is not scored is null."""
        found = asdict(self)
        for entry, response in zip(found["responses"], self.responses, strict=True):
            entry["scored"] = response.rank is not None
            for name in ("mean", "std"):
                entry[name] = [None if value is None or math.isnan(value) else value for value in entry[name]]
        return found


def explain(
    data: str | Path | ScoredPool,
    utility: str | Path | Utility | FittedUtility | SavedUtility,
    prompt: int,
    *,
    references: str | Path | ScoredPool | None = None,
    seed: int = 0,
) -> Explanation:
    """Every step's number for the responses of one prompt, and what decided between them.

    Args:
        data: what `score` wrote, or its path.
        utility: as `utility_for` takes it.
        prompt: number of the prompt in the file, its `prompt_id`.
        references: other responses of the base policy to the same prompts, scored by the same models.
        seed: of utilities that draw.

    Raises:
        UtilityError: the text is not a utility.
        DataError: there is no such prompt, or the pool lacks what the utility needs.
        UnsupportedError: a rule needs what the rewards do not have.

    Example:
        >>> import pyarrow as pa
        >>> columns = {"prompt_id": [0, 0], "response_id": [0, 1], "reward_mean": [1.0, 2.0]}
        >>> pool = ScoredPool(pa.table({**columns, "reward_variance": [0.0, 4.0]}))
        >>> found = explain(pool, "lcb_std(1)", prompt=0)
        >>> found.winners, [response.mean for response in found.responses]
        ((0,), [(1.0, 1.0), (2.0, 0.0)])
    """
    pool = data if isinstance(data, ScoredPool) else read_scored(data)
    rows = torch.nonzero(pool.group == prompt).flatten()
    if len(rows) == 0:
        ids = torch.unique(pool.group)
        raise DataError(
            f"{pool.source} has no prompt {prompt}; its {len(ids)} prompts have numbers from {int(ids[0])} to "
            f"{int(ids[-1])}"
        )
    fitted = utility_for(pool, utility, references=references)
    rewards = pool.reward_set()
    # A reward that is read twice is one step.
    trace = {step.source: step for step in _trace(fitted, rewards, rows, seed)}
    steps = tuple(trace.values())
    value = steps[-1].mean
    order = torch.argsort(value.nan_to_num(nan=-torch.inf), descending=True, stable=True).tolist()
    ranks = _ranks(value)
    best = [place for place in order if ranks[place] == 1]
    runner_up = next((place for place in order if ranks[place] not in (None, 1)), None)
    own = rewards[rows]
    by_mean = _best_by_mean(own, fitted.utility)
    columns = _columns(pool, rows)
    ids_of = columns["response_id"]
    responses = tuple(
        ExplainedResponse(
            response_id=ids_of[place],
            rank=ranks[place],
            mean=tuple(float(step.mean[place]) for step in steps),
            std=tuple(None if step.std is None else float(step.std[place]) for step in steps),
            gold=columns["gold"][place],
            length=columns["length"][place],
            text=columns["response"][place],
        )
        for place in sorted(order, key=lambda place: ranks[place] is None)
    )
    return Explanation(
        prompt_id=prompt,
        prompt=columns["prompt"][0],
        utility=str(fitted),
        steps=_lettered(fitted.utility, steps),
        responses=responses,
        winners=tuple(ids_of[place] for place in best),
        runner_up=None if runner_up is None else ids_of[runner_up],
        by_mean={name: ids_of[place] for name, place in by_mean.items()},
        why=why(fitted.utility, trace, own, best, runner_up, by_mean, ids_of),
    )


def _trace(fitted: FittedUtility, rewards: RewardSet, rows: Tensor, seed: int) -> tuple[TracedStep, ...]:
    """What every step makes of some rows; where something is drawn, as it is drawn for the whole pool."""
    generator = torch.Generator().manual_seed(seed)
    if not (fitted.utility.depends_on_pool or fitted.utility.draws):
        return fitted.trace(rewards[rows], generator)
    return tuple(
        replace(step, mean=step.mean[rows], std=None if step.std is None else step.std[rows])
        for step in fitted.trace(rewards, generator)
    )


def _ranks(value: Tensor) -> list[int | None]:
    """1 for the largest; equal values share a rank; None for what is not scored."""
    known = value[~value.isnan()].sort().values
    above = len(known) - torch.searchsorted(known, value, right=True)
    return [None if bool(one.isnan()) else 1 + int(count) for one, count in zip(value, above, strict=True)]


def _best_by_mean(rewards: RewardSet, utility: Utility) -> dict[str, int]:
    """The place of the largest mean of each reward that is read; rewards that are nowhere scored are left out."""
    found = {}
    for name in utility.reward_names:
        mean = rewards.rewards[rewards.resolve(name)].mean
        if not bool(mean.isnan().all()):
            found[name] = int(mean.nan_to_num(nan=-torch.inf).argmax())
    return found


def _columns(pool: ScoredPool, rows: Tensor) -> dict[str, list[Any]]:
    """What the file says of the responses besides their rewards; None for what it does not say."""
    table = pool.table.take(rows.numpy())
    found: dict[str, list[Any]] = {
        name: table[name].to_pylist() if name in table.column_names else [None] * len(rows)
        for name in ("response_id", "prompt", "response", "gold", "length")
    }
    found["response_id"] = [place if one is None else one for place, one in enumerate(found["response_id"])]
    return found


def _lettered(utility: Utility, steps: tuple[TracedStep, ...]) -> tuple[ExplainedStep, ...]:
    letters = {step.source: label for step, label in zip(steps, _labels(), strict=False)}
    nodes = {str(node): node for node in utility.nodes()}
    found = []
    for step in steps:
        node = nodes.get(step.source)
        if isinstance(node, Piped):
            text = f"{letters[str(node.source)]} | {step.label}"
        elif isinstance(node, Combined):
            text = _combined(node, letters)
        elif node is None:  # the mean at the end, where none is written
            text = f"{letters[str(utility)]} | {step.label}"
        else:
            text = step.label
        found.append(ExplainedStep(letters[step.source], text, step.source))
    return tuple(found)


def _combined(node: Combined, letters: dict[str, str]) -> str:
    """A combination as it is written, its parts by their letters."""
    rest = str(node).removeprefix(f"{node.combination.name}(")
    for part in node.parts:
        rest = rest.removeprefix(str(part)).removeprefix(", ")
    parts = ", ".join(letters[str(part)] for part in node.parts)
    return f"{node.combination.name}({parts}{')' if rest == ')' else ', ' + rest}"


def _labels() -> Iterator[str]:
    """Letters a, b, ..., z, then a2, b2 and so on."""
    number = 1
    while True:
        for letter in "abcdefghijklmnopqrstuvwxyz":
            yield letter if number == 1 else f"{letter}{number}"
        number += 1
