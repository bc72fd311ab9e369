"""Policies over stored pools by exact gradients, for many runs at once; closed forms are `prudent.alignment.bandit`'s.

A run is one reward model at one coefficient of the KL penalty. Tensors are `[S, C, B, n]`: S reward models, C
coefficients, B prompts, n candidates of each; fewer candidates than n are filled up with ones whose reference
probability is 0 (`log_reference` -inf), where everything else is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Weigh = Callable[[Tensor, Tensor], Tensor]
"""From a policy and its advantages to the weights of the advantages, all `[S, C, B, n]`."""


def log_ratio(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """log(pi / pi0), 0 where there is no candidate."""
    return torch.where(log_reference.isfinite(), log_policy - log_reference.nan_to_num(neginf=0.0), 0.0)


def advantages(values: Tensor, policy: Tensor) -> Tensor:
    """Values minus their expectation under the policy."""
    return values - (policy * values).sum(-1, keepdim=True)


def weighted_advantage_policy(
    reward: Tensor, kl_coef: Tensor, log_reference: Tensor, weigh: Weigh, *, num_steps: int = 40, every: int = 4
) -> Tensor:
    """The policy `[S, C, B, n]` at which rho_i A_i = kl_coef (log(pi_i / pi0_i) + const): KL in the loss.

    By natural gradient steps, of which each goes a part of the way to the point where the gradient vanishes at the
    present advantages.

    Args:
        reward: `[S, 1, B, n]`.
        kl_coef: `[S, C]`.
        log_reference: `[B, n]`.
        weigh: gives rho.
        num_steps: how many.
        every: so many steps the weights are found anew.
    """
    logits = torch.zeros(*kl_coef.shape, *log_reference.shape, dtype=reward.dtype)
    weights = logits
    for step in range(num_steps):
        policy = (log_reference + logits).softmax(-1)
        advantage = advantages(reward, policy)
        if step % every == 0:
            weights = weigh(policy, advantage)
        logits = logits + 0.3 * (weights * advantage / kl_coef[..., None, None] - logits)
    return (log_reference + logits).softmax(-1)


@dataclass(frozen=True)
class GradientRule:
    """What a step of policy gradient does with a sample.

    Attributes:
        reward: `[S, 1 or C, B, n]`.
        coefficient: `[S, C, B, n]` or smaller, b: of the KL penalty.
        exact: with the gradient's last term, which does not vanish where b differs between candidates.
        weigh: gives weights of the advantages, from advantages of the reward alone; None for 1.
        is_whole: whether these weigh the whole advantage or that of the reward alone, the KL penalty being in the loss.
    """

    reward: Tensor
    coefficient: Tensor
    exact: bool = True
    weigh: Weigh | None = None
    is_whole: bool = False

    def weights(self, policy: Tensor) -> Tensor | None:
        """rho."""
        return None if self.weigh is None else self.weigh(policy, advantages(self.reward, policy))

    def pull(self, log_policy: Tensor, log_reference: Tensor, weights: Tensor | None) -> Tensor:
        """`[S, C, B, n]` p with gradient sum_i p_i grad logit_i: pi times the centered worth of a sample."""
        policy = log_policy.exp()
        penalty = self.coefficient * (log_ratio(log_policy, log_reference) + float(self.exact))
        if weights is None:
            worth = self.reward - penalty
        elif self.is_whole:
            worth = weights * advantages(self.reward - penalty, policy)
        else:
            worth = weights * advantages(self.reward, policy) - penalty
        return policy * advantages(worth, policy)


def linear_policy(
    rule: GradientRule,
    kl_coef: Tensor,
    features: Tensor,
    log_reference: Tensor,
    *,
    num_steps: int,
    step_size: float = 0.2,
    momentum: float = 0.9,
    every: int = 10,
) -> Tensor:
    """Policies `[S, C, B, n]` with logits that are linear in features, one weight vector a run for all prompts.

    Args:
        rule: the gradient.
        kl_coef: `[S, C]`, by which steps are divided.
        features: `[B, n, K]`, white under the reference, so that steps need no further scale.
        log_reference: `[B, n]`.
        num_steps: of gradient ascent from the reference.
        step_size: times the gradient over `kl_coef`.
        momentum: of the steps.
        every: so many steps the weights of advantages are found anew.
    """
    flat = features.flatten(0, 1)
    weight = torch.zeros(*kl_coef.shape, flat.shape[1], dtype=features.dtype)
    speed = torch.zeros_like(weight)
    size = (step_size / kl_coef / len(features)).unsqueeze(-1)
    weights: Tensor | None = None

    def log_policy() -> Tensor:
        logits = (weight @ flat.T).unflatten(-1, log_reference.shape)
        return (log_reference + logits).log_softmax(-1)

    for step in range(num_steps):
        now = log_policy()
        if step % every == 0:
            weights = rule.weights(now.exp())
        gradient = rule.pull(now, log_reference, weights).flatten(-2) @ flat
        speed = momentum * speed + size * gradient
        weight = weight + speed
    return log_policy().exp()


def sign_rule(gram: Tensor) -> Weigh:
    """2 Phi(|z|) - 1, z the advantage under the policy over its posterior std.

    Args:
        gram: `[S, B, n, n]` covariances of the rewards within each prompt.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)[:, None]

    def weigh(policy: Tensor, advantage: Tensor) -> Tensor:
        variance = _squared_distances(gram, diagonal, policy)
        return torch.erf(advantage.abs() / variance.clamp_min(1e-12).sqrt() / 2**0.5)

    return weigh


def signcert_rule(gram: Tensor, quantile: float) -> Weigh:
    """max(0, 1 - radius / D), D the advantage over the distance of the features from their average under the policy.

    The radius is the quantile of D over samples of the policy to all prompts.

    Args:
        gram: `[1, B, n, n]` inner products of the features of a prompt's candidates.
        quantile: between 0 and 1.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)[:, None]

    def weigh(policy: Tensor, advantage: Tensor) -> Tensor:
        distance = advantage.abs() / _squared_distances(gram, diagonal, policy).clamp_min(1e-12).sqrt()
        order = distance.flatten(-2).argsort(-1)
        share = policy.flatten(-2).gather(-1, order).cumsum(-1)
        place = (share < quantile * share[..., -1:]).sum(-1, keepdim=True).clamp_max(share.shape[-1] - 1)
        radius = distance.flatten(-2).gather(-1, order.gather(-1, place)).unsqueeze(-1)
        return (1 - radius / distance.clamp_min(1e-12)).clamp_min(0)

    return weigh


def _squared_distances(gram: Tensor, diagonal: Tensor, policy: Tensor) -> Tensor:
    """Of each candidate from the policy's average, in the metric of the Gram matrices `[S or 1, B, n, n]`."""
    # [S, B, n, n] @ [S, B, n, C]
    inner = (gram @ policy.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return diagonal - 2 * inner + (policy * inner).sum(-1, keepdim=True)


def at_kl(values: Tensor, kl: Tensor, targets: Tensor) -> Tensor:
    """Values of runs where the average KL over prompts is as asked, linear in the root of KL between coefficients.

    Between the smallest coefficient with a KL below the target and the next smaller one; NaN where there is none.

    Args:
        values: `[S, C, ...]`, coefficients falling.
        kl: `[S, C]` nats.
        targets: `[T]` nats.
    """
    found = []
    for target in targets.tolist():
        is_below = kl <= target
        place = kl.shape[1] - 1 - is_below.flip(1).int().argmax(1)
        known = is_below.any(1) & (place < kl.shape[1] - 1)
        left = place.clamp_max(kl.shape[1] - 2)
        runs = torch.arange(len(kl))
        low, high = kl[runs, left].sqrt(), kl[runs, left + 1].sqrt()
        share = ((target**0.5 - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        share = torch.where(known, share, torch.nan).reshape(-1, *[1] * (values.dim() - 2))
        found.append(values[runs, left] * (1 - share) + values[runs, left + 1] * share)
    return torch.stack(found, 1)
