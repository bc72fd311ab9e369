"""A reference reward that is predicted from what is known of the prompt, for prompts without reference responses.

Mean and standard deviation of a prompt's reference rewards are regressed on features of prompts by ridge regression,
in float64; its strength is what leaves the smallest error when each prompt in turn is left out, in closed form. The
error of the whole procedure is measured on prompts that had no part in it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.errors import DataError, PosteriorError
from prudent.rewards import MemberRewards, RewardPosterior, index_groups
from prudent.utility._affine import Shift
from prudent.utility._statistic import average, basis_digest, spread
from prudent.utility._transform import PromptFeatures, TransformState

__all__ = ["LearnedError", "learn_reference", "learned_error", "learned_shift"]

_FOLDS = 5
_WHAT = "center(of=learned)"
_STRENGTHS = (math.inf, *(10.0 ** (power / 2) for power in range(12, -13, -1)))
"""Of the penalty, in average eigenvalues; infinity is the constant."""


@dataclass(frozen=True)
class LearnedError:
    """How well a learned reference predicts that of prompts it has not seen, in 5 folds by prompt.

    What it is measured against is the reference that a prompt's own responses give, which itself is uncertain with few
    responses; so both errors are upper bounds on those against the reference of the policy.

    Attributes:
        rmse: root mean squared error of the learned reference, in logits.
        constant_rmse: of the best constant, the average over the other prompts. Features that say nothing leave `rmse`
            about here.
        num_prompts: prompts behind both.
    """

    rmse: float
    constant_rmse: float
    num_prompts: int


def learned_error(state: TransformState) -> LearnedError:
    """The error of a learned reference.

    Args:
        state: of `Center(of="learned")`.

    Raises:
        ValueError: the state of something else.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> from prudent.utility import Center, PromptFeatures
        >>> level = torch.arange(20.0).repeat_interleave(2)
        >>> references = GaussianRewards(level, torch.ones(40), level.long())
        >>> features = PromptFeatures(torch.arange(20), torch.arange(20.0)[:, None])
        >>> error = learned_error(Center("mean", of="learned").init(references, features))
        >>> error.rmse < 0.01 < error.constant_rmse
        True
    """
    shared = state.shared
    if "constant_rmse" not in shared:
        raise ValueError("the state holds no learned reference; only that of center(of=learned) does")
    return LearnedError(float(shared["rmse"]), float(shared["constant_rmse"]), int(shared["num_prompts"]))


def learn_reference(references: RewardPosterior, features: PromptFeatures | None, z: float) -> TransformState:
    """Learn to predict mean + z * std of a prompt's reference rewards, those of each member of an ensemble apart.

    Args:
        references: R scored reference responses.
        features: of their prompts.
        z: standard deviations above the mean; 0 learns the mean alone.

    Returns:
        A state with `mean_weights` [H, T], `mean_intercept` [T], the same of `std` unless z is 0, and the error; and
        what is `predicted` [B, T] for each prompt with features, so that these prompts need them no more. T is 1, or M
        for an ensemble of M members.

    Raises:
        DataError: features are missing, or there are fewer than 5 prompts to learn from (with two scored references
            each, where a standard deviation is needed).
    """
    index = index_groups(references.group)
    used = index.counts >= (1 if z == 0 else 2)
    if int(used.sum()) < _FOLDS:
        which = "" if z == 0 else " with two scored reference responses"
        raise DataError(
            f"{_WHAT} needs at least {_FOLDS} prompts{which} to learn from, and there are {int(used.sum())}: take one "
            "reference for all (of=all)"
        )
    references = references[used[index.position]]
    index = index_groups(references.group)
    values = (references.members if isinstance(references, MemberRewards) else references.mean[:, None]).double()
    inputs, targets = _features_of(features, index.ids), {"mean": average(values, index)}
    target = targets["mean"]
    if z != 0:
        targets["std"] = spread(values, index, _WHAT, "take statistic=mean")
        target = target + z * targets["std"]
    target = target.mean(1)
    predicted, constant = torch.empty_like(target), torch.empty_like(target)
    fold = torch.randperm(len(target), generator=torch.Generator().manual_seed(0)).to(target.device) % _FOLDS
    for number in range(_FOLDS):
        out = fold == number
        learned = _learn(inputs[~out], {name: values[~out] for name, values in targets.items()})
        predicted[out] = _predict(learned, inputs[out], z).mean(1)
        constant[out] = target[~out].mean()
    error = {
        "rmse": (predicted - target).square().mean().sqrt(),
        "constant_rmse": (constant - target).square().mean().sqrt(),
        "num_prompts": torch.tensor(len(target)),
        "basis": basis_digest(references),
    }
    learned = _learn(inputs, targets)
    assert features is not None  # or there were no inputs
    predicted = _predict(learned, _features_of(features, features.prompts.to(inputs.device)), z).cpu()
    shared = {name: values.cpu() for name, values in (learned | error).items()}
    return TransformState(features.prompts.cpu(), {"predicted": predicted}, shared)


def learned_shift(
    posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None, z: float
) -> Shift:
    """The predicted reference of each of N responses; NaN where a response is not scored.

    Args:
        posterior: of the responses.
        state: from `learn_reference`.
        features: of their prompts; None takes what was predicted for those that had features when it was learned.
        z: as when it was learned.

    Raises:
        DataError: features are missing.
        PosteriorError: members of another ensemble than the references.
    """
    scored = ~posterior.mean.isnan()
    ids, place = torch.unique(posterior.group[scored], return_inverse=True)
    if features is None and bool(torch.isin(ids.cpu(), state.prompts).all()):
        found = state.per_prompt["predicted"].to(ids.device)[state.position(ids, _WHAT)]
    else:
        learned = {name: values.to(ids.device) for name, values in state.shared.items()}
        found = _predict(learned, _features_of(features, ids), z)
    members = posterior.mean.new_full((len(posterior), found.shape[1]), torch.nan, dtype=torch.float64)
    members[scored] = found[place]
    if not isinstance(posterior, MemberRewards) or found.shape[1] == 1:
        return Shift(members.mean(1))
    if found.shape[1] != posterior.members.shape[1] or int(basis_digest(posterior)) != int(state.shared["basis"]):
        raise PosteriorError(f"{_WHAT} was learned from the members of another ensemble: fit the utility on this one")
    return Shift(members.mean(1), members)


def _features_of(features: PromptFeatures | None, prompts: Tensor) -> Tensor:
    """Features [B, H] of some prompts, float64."""
    if features is None:
        raise DataError(
            f"{_WHAT} needs features of the prompts: give the model that scored them (`prudent utility --model`), or "
            "take of=all"
        )
    known = features.prompts.to(prompts.device)
    place = torch.searchsorted(known, prompts).clamp(max=max(0, len(known) - 1))
    missing = torch.ones_like(prompts, dtype=torch.bool) if len(known) == 0 else known[place] != prompts
    if bool(missing.any()):
        raise DataError(f"{_WHAT} has no features for prompt {int(prompts[missing][0])}")
    values = features.values.to(prompts.device)[place].double()
    if not bool(values.isfinite().all()):
        row = int((~values.isfinite()).any(1).nonzero()[0])
        raise DataError(f"{_WHAT}: the features of prompt {int(prompts[row])} are not finite")
    return values


def _learn(inputs: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    weights, intercept = _ridge(inputs, torch.cat(list(targets.values()), 1))
    learned = {}
    blocks = zip(targets, weights.chunk(len(targets), 1), intercept.chunk(len(targets)), strict=True)
    for name, of_features, constant in blocks:
        learned[f"{name}_weights"], learned[f"{name}_intercept"] = of_features, constant
    return learned


def _predict(learned: dict[str, Tensor], inputs: Tensor, z: float) -> Tensor:
    if inputs.shape[1] != len(learned["mean_weights"]):
        raise DataError(
            f"{_WHAT} was learned from {len(learned['mean_weights'])} features of a prompt, and is given "
            f"{inputs.shape[1]}"
        )
    mean = inputs @ learned["mean_weights"] + learned["mean_intercept"]
    if z == 0:
        return mean
    return mean + z * (inputs @ learned["std_weights"] + learned["std_intercept"]).clamp(min=0)


def _ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression with an intercept on standardized columns, its strength by leaving out a row at a time.

    Args:
        inputs: [n, H] float64.
        targets: [n, T] float64, each with a strength of its own.

    Returns:
        Weights [H, T] and intercept [T].
    """
    center, mean = inputs.mean(0), targets.mean(0)
    size = inputs.std(0, correction=0)
    varies = size > 1e-9 * inputs.abs().amax(0)
    scale = torch.where(varies, 1 / torch.where(varies, size, 1.0), 0.0)
    rows = (inputs - center) * scale
    # Principal components, by the smaller of the two Gram matrices.
    if len(rows) <= rows.shape[1]:
        values, left = torch.linalg.eigh(rows @ rows.T)
        kept = values > 1e-10 * values[-1]
        values, left = values[kept], left[:, kept]
        components, back = left * values.sqrt(), rows.T @ (left / values.sqrt())
    else:
        values, back = torch.linalg.eigh(rows.T @ rows)
        kept = values > 1e-10 * values[-1]
        values, back = values[kept], back[:, kept]
        components = rows @ back
    deviation = targets - mean
    level = float(values.mean()) if len(values) else 1.0
    shrunk = 1 / (values[:, None] + level * torch.tensor(_STRENGTHS).to(values))  # [components, strengths]
    # Leaving out a row of a linear smoother: its residual over one minus its leverage.
    kept_out = 1 - 1 / len(rows) - components.square() @ shrunk
    coefficients = (components.T @ deviation)[:, None] * shrunk[:, :, None]
    fitted = (components @ coefficients.flatten(1)).unflatten(1, coefficients.shape[1:])
    error = ((deviation[:, None] - fitted) / kept_out[:, :, None]).square().sum(0)
    chosen = error.argmin(0)
    weights = scale[:, None] * (back @ coefficients[:, chosen, torch.arange(len(chosen), device=chosen.device)])
    return weights, mean - center @ weights
