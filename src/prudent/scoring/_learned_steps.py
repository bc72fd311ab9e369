"""What the steps of a fitted utility learned of reference responses, in figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prudent.utility import Center, FittedUtility, Piped, Transform, Utility, learned_error

__all__ = ["LearnedStep", "learned_steps", "transforms_of"]


@dataclass(frozen=True)
class LearnedStep:
    """What one step of a utility learned of reference responses.

    Attributes:
        step: the utility up to this step, as it is written.
        of: `prompt` for a reference a prompt, `all` for one that serves all, `learned` for a prediction.
        num_prompts: prompts that have a reference of their own, or that the prediction was learned from; 0 for `all`.
        num_references: scored reference responses, by the reward they are of.
        reference_mean: of the references, over prompts; None for a prediction.
        reference_std: of the references, over prompts (ddof 1); None for a prediction, or where there is one alone.
        rmse: of a prediction, root mean squared error on prompts held out.
        constant_rmse: the same of the best constant.
    """

    step: str
    of: str
    num_prompts: int
    num_references: Mapping[str, int | None]
    reference_mean: float | None = None
    reference_std: float | None = None
    rmse: float | None = None
    constant_rmse: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and YAML, without what is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def transforms_of(utility: Utility) -> list[tuple[Piped, Transform]]:
    """The transforms in a utility, each with the part that ends in it; equal parts once."""
    found = {
        str(node): (node, node.step)
        for node in utility.nodes()
        if isinstance(node, Piped) and isinstance(node.step, Transform)
    }
    return list(found.values())


def learned_steps(fitted: FittedUtility, num_references: Mapping[str, int | None]) -> tuple[LearnedStep, ...]:
    """What each step that looks at references learned, in the order of the calculation.

    Args:
        fitted: the utility.
        num_references: scored reference responses by reward; None where it is not known which they are.
    """
    found = []
    for node, step in transforms_of(fitted.utility):
        state = fitted.states[str(node)]
        counts = {name: num_references.get(name) for name in node.reward_names}
        if not step.needs_references:
            continue
        if isinstance(step, Center) and step.of == "learned":
            error = learned_error(state)
            errors = {"rmse": error.rmse, "constant_rmse": error.constant_rmse}
            found.append(LearnedStep(str(node), "learned", error.num_prompts, counts, **errors))
            continue
        values = {**state.shared, **state.per_prompt}["reference"].double()
        of = "prompt" if state.per_prompt else "all"
        std = float(values.std()) if values.numel() > 1 else None
        found.append(LearnedStep(str(node), of, len(state.prompts), counts, float(values.mean()), std))
    return tuple(found)
