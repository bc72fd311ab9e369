"""Linear heads to convergence, all by one L-BFGS, preconditioned by the Laplace posterior that they spread around."""

import torch
from torch import Tensor

from prudent.posteriors._heads_prior import LinearPrior
from prudent.posteriors._heads_solver import minimize_members
from prudent.posteriors._heads_task import HeadsTask, member_weights

__all__ = ["train_linear"]


def train_linear(
    task: HeadsTask, prior: LinearPrior, generators: list[torch.Generator], *, bootstrap: bool
) -> tuple[Tensor, Tensor]:
    """Weights `[M, D, H]` and biases `[M, D]` float64 of M linear heads on the task's features.

    Head m minimises `sum_i n_mi loss_i(w) + precision / 2 ||w - a_m||^2`: `a_m` is drawn from the prior, for the output
    that is the reward, and 0 for others; `n_mi` counts how often datum i was drawn for it. For a linear head, training
    what is added to a fixed draw `a_m` (a prior function) is the same. With both, the covariance of the members tends
    to that of the Laplace posterior: about its mode `w_m` is off by `S (g_m + precision a_m)`, S that covariance and
    `g_m` the gradient that the draw of the data adds, whose covariance is the curvature H; so `S (H + precision) S =
    S`. Anchors alone give `S precision S` (compare arXiv 1810.05546).

    The average of few such draws is off the mode itself by their spread over sqrt(M), which would only make the mean
    worse. One more head is trained on all data without an anchor, and the reward of all members is moved alike, so that
    their average is that head; what they disagree about stays as it was.

    Args:
        task: float64.
        prior: of the weights.
        generators: of the members.
        bootstrap: see `member_weights`.
    """
    size, outputs, members = task.num_features, task.num_outputs, len(generators) + 1
    bias_mean, bias_std = task.bias_prior()
    draws = torch.stack([torch.randn(size, generator=generator, dtype=torch.float64) for generator in generators])
    weights = member_weights(task.group, generators, bootstrap=bootstrap)
    weights = torch.cat([weights, torch.ones_like(weights[:1])])  # the last one is the mode
    anchor = torch.zeros(members, outputs, size, dtype=torch.float64)
    anchor[:-1, task.reward_output] = draws / prior.precision**0.5
    inputs = task.inputs
    fixed = (anchor @ inputs.T).transpose(1, 2) + bias_mean
    # Coordinates in which the posterior of one head is about round: along eigenvectors of inputs and of outputs.
    rotated = inputs @ prior.vectors
    strength, mixing = torch.linalg.eigh(task.output_curvature())
    spread = (strength.clamp_min(0).outer(prior.curvature) + prior.precision).rsqrt()
    bias_spread = (strength.clamp_min(0) * len(task) / task.residual_std**2 + 1).rsqrt()

    def unpack(point: Tensor) -> tuple[Tensor, Tensor]:
        values = point.reshape(members, outputs, size + 1)
        return mixing @ (spread * values[..., :size]), (bias_spread * values[..., size]) @ mixing.T * bias_std

    def objective(point: Tensor) -> Tensor:
        moved, shift = unpack(point)
        found = fixed + (moved @ rotated.T).transpose(1, 2) + shift.unsqueeze(1)
        held = torch.where(bias_std > 0, shift / bias_std.clamp_min(1e-300), 0.0)
        pull = prior.precision * moved.square().sum((1, 2)) + held.square().sum(1)
        value: Tensor = (weights * task.losses(found)).sum(1) + 0.5 * pull
        return value

    start = torch.zeros(members, outputs, size + 1, dtype=torch.float64)
    towards = torch.zeros_like(anchor)
    towards[:, task.reward_output] = prior.mode - anchor[:, task.reward_output]
    start[..., :size] = mixing.T @ (towards @ prior.vectors) / spread
    kinked = task.kind == "quantile"
    found = minimize_members(
        objective,
        start.reshape(members, -1),
        tolerance=0.05 if kinked else 1e-5,
        max_steps=2000 if kinked else 500,
    )
    moved, shift = unpack(found)
    weight, bias = anchor + moved @ prior.vectors.T, bias_mean + shift
    for values in (weight, bias):
        reward = values[:, task.reward_output]
        reward[:-1] += reward[-1] - reward[:-1].mean(0)
    return weight[:-1], bias[:-1]
