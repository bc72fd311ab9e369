"""In words: which step put the best response ahead of the next one, and what plain means would have picked."""

from collections.abc import Mapping, Sequence

import torch

from prudent.utility import Combined, Piped, RewardSet, TracedStep, Utility

__all__ = ["why"]


def why(
    utility: Utility,
    trace: Mapping[str, TracedStep],
    rewards: RewardSet,
    best: Sequence[int],
    runner_up: int | None,
    by_mean: Mapping[str, int],
    ids: Sequence[int],
) -> str:
    """What decided between the responses of a prompt.

    Args:
        utility: what it was.
        trace: what each step gave, by the utility up to it; the last is the value.
        rewards: of the responses.
        best: places of the best responses.
        runner_up: place of the best of the others.
        by_mean: for each reward the place of its largest mean.
        ids: of the responses.
    """
    if not best:
        return "No response of this prompt is scored."
    value = list(trace.values())[-1].mean
    winner = best[0]
    if len(best) > 1:
        names = _listed([str(ids[place]) for place in best])
        rest = "" if runner_up is None else f"; the next is response {ids[runner_up]} with {_number(value[runner_up])}"
        first = f"Responses {names} tie with {_number(value[winner])}, and one of them is drawn at random{rest}."
    elif runner_up is None:
        first = f"Response {ids[winner]} is the only one that is scored."
    else:
        first = (
            f"Response {ids[winner]} wins with {_number(value[winner])}, before response {ids[runner_up]} with "
            f"{_number(value[runner_up])}."
        )
    sentences = [first]
    if runner_up is not None:
        sentences.append(_decided(utility, trace, winner, runner_up, ids))
    if len(best) + (runner_up is not None) > 1:
        sentences.append(_plain(rewards, best, by_mean, ids))
    return " ".join(sentences)


def _decided(utility: Utility, trace: Mapping[str, TracedStep], winner: int, runner_up: int, ids: Sequence[int]) -> str:
    """The step after which the winner stayed ahead."""
    trunk: list[Utility] = [utility]
    while isinstance(node := trunk[0], Piped):
        trunk.insert(0, node.source)
    steps = [trace[str(node)] for node in trunk]
    last = list(trace.values())[-1]
    if last.source != steps[-1].source:  # the mean at the end, where none is written
        steps.append(last)
    gains = [float(step.mean[winner] - step.mean[runner_up]) for step in steps]
    behind = [place for place, gain in enumerate(gains) if not gain > 0]
    if behind:
        before, step = steps[behind[-1]], steps[behind[-1] + 1]
        if gains[behind[-1]] == 0:
            how = f"before it the two were level ({_both(before, winner, runner_up)})"
        else:
            how = f"before it response {ids[runner_up]} was ahead ({_both(before, runner_up, winner)})"
        return f"`{step.label}` decided: {how}."
    if isinstance(trunk[0], Combined):
        return _decided_by_part(trunk[0], trace, winner, runner_up, ids)
    after = " and no step after it changed that" if len(steps) > 1 else ""
    return f"It is ahead in the reward itself ({_both(steps[0], winner, runner_up)}){after}."


def _decided_by_part(
    node: Combined, trace: Mapping[str, TracedStep], winner: int, runner_up: int, ids: Sequence[int]
) -> str:
    """Which part of a combination says most for the winner, which speak against it, and which are missing."""
    steps = [trace[str(part)] for part in node.parts]
    weights = getattr(node.combination, "weights", None) or (1.0,) * len(steps)
    gains: dict[int, float] = {}
    missing = []
    for place, (weight, step) in enumerate(zip(weights, steps, strict=True)):
        unknown = [response for response in (winner, runner_up) if bool(step.mean[response].isnan())]
        if unknown:
            responses = _listed([str(ids[response]) for response in unknown])
            missing.append(f"`{step.source}` is not known of response{'s' * (len(unknown) - 1)} {responses}")
        else:
            gains[place] = weight * (_added(node, step.mean[winner]) - _added(node, step.mean[runner_up]))
    rest = f" {'; '.join(missing)}." if missing else ""
    if not gains:
        return f"No part is known of both.{rest}"
    if node.combination.name == "minimum":
        place = min(gains, key=lambda number: float(steps[number].mean[runner_up]))
    else:
        place = max(gains, key=lambda number: gains[number])
    text, numbers = steps[place].source, _both(steps[place], winner, runner_up)
    against = [f"`{steps[other].source}`" for other, gain in gains.items() if gain < 0 and other != place]
    if not against and gains[place] > 0:
        return f"No part speaks against it, and `{text}` speaks most for it ({numbers}).{rest}"
    if gains[place] <= 0:
        return f"Of the parts known of both none speaks for it, nearest comes `{text}` ({numbers}).{rest}"
    verb = "speaks" if len(against) == 1 else "speak"
    return f"`{text}` decided ({numbers}), though {_listed(against)} {verb} for the other.{rest}"


def _added(node: Combined, value: torch.Tensor) -> float:
    """What a combination adds up of a part: of `any_of` minus the logarithms of what is left to certainty."""
    if node.combination.name != "any_of":
        return float(value)
    log_probability = value.double().clamp(max=-torch.finfo(torch.float64).tiny)
    return -float(torch.log(-torch.expm1(log_probability)))


def _plain(rewards: RewardSet, best: Sequence[int], by_mean: Mapping[str, int], ids: Sequence[int]) -> str:
    """What the largest mean would have picked: of each reward, and of their sum where there are several."""

    def picked(place: int) -> str:
        if place in best:
            return "it would have won too" if len(best) == 1 else f"response {ids[place]} would have won too"
        return f"response {ids[place]} would have won"

    if len(by_mean) == 1:
        (name, place), winner = next(iter(by_mean.items())), best[0]
        mean = rewards.rewards[rewards.resolve(name)].mean
        numbers = "" if place in best else f" ({_number(mean[place])} against {_number(mean[winner])})"
        return f"By the plain mean of the reward {picked(place)}{numbers}."
    total = torch.stack([rewards.rewards[rewards.resolve(name)].mean for name in by_mean]).sum(0)
    ways: dict[int, list[str]] = {}
    for name, place in by_mean.items():
        ways.setdefault(place, []).append(f"by the mean of {name} alone")
    if not bool(total.isnan().all()):
        ways.setdefault(int(total.nan_to_num(nan=-torch.inf).argmax()), []).append("by the sum of the means")
    text = "; ".join(f"{_listed(some)} {picked(place)}" for place, some in ways.items())
    return f"{text[0].upper()}{text[1:]}."


def _both(step: TracedStep, first: int, second: int) -> str:
    return f"{_with_std(step, first)} against {_with_std(step, second)}"


def _with_std(step: TracedStep, place: int) -> str:
    std = "" if step.std is None or bool(step.std[place].isnan()) else f" ± {float(step.std[place]):.2g}"
    return f"{_number(step.mean[place])}{std}"


def _number(value: torch.Tensor) -> str:
    return f"{float(value):.4g}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
