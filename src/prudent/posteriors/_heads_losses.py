"""What heads are trained for: four objectives, each the loss of every datum under every head, in nats or like nats."""

import math
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prudent.training import preference_nll

__all__ = [
    "QUANTILE_LEVELS",
    "HeadsKind",
    "increment_outputs",
    "log_sigmoid_of_normal",
    "monotone_quantiles",
    "num_outputs",
    "pair_loss",
    "pinball_loss",
]

HeadsKind = Literal["heads", "classification", "mean_variance", "quantile"]
"""Bradley-Terry; each response classified by itself; Thurstone with a noise of each text; quantiles of a score."""

QUANTILE_LEVELS: tuple[float, ...] = tuple(step / 20 for step in range(1, 20))
"""0.05, 0.10, ..., 0.95 (QRM, arXiv 2409.10164)."""

_MEDIAN = len(QUANTILE_LEVELS) // 2
_INCREMENT_RATE = 0.3


def num_outputs(kind: HeadsKind) -> int:
    """D, what a head of a kind puts out: a reward; with it the noise before `softplus`; or what makes the quantiles."""
    return {"heads": 1, "classification": 1, "mean_variance": 2, "quantile": len(QUANTILE_LEVELS)}[kind]


def pair_loss(kind: HeadsKind, chosen: Tensor, rejected: Tensor, label: Tensor, margin: Tensor) -> Tensor:
    """Negative log-likelihood of each pair under each head, nats.

    `heads` is Bradley-Terry. `classification` is the order-consistent objective (arXiv 2411.04991): whether a response
    won is a datum of its own, `-log sigma(f_w) - log(1 - sigma(f_l))`, and a soft label weighs both readings of the
    pair. It is the sum, since a prior is weighed against the likelihood of all data; `prudent.training` takes half of
    it (`classification_loss`, nats a response), which there is a matter of the learning rate alone.

    `mean_variance` is `-log E sigma(z)`, `z ~ N(mu_w - mu_l, v_w + v_l)`, the log of an expectation: the expectation of
    the log, as PURM has it (arXiv 2503.22480), grows with the variance everywhere, so it drives every noise to 0.

    Args:
        kind: but `quantile`.
        chosen: `[M, P, D]` outputs of M heads for the chosen texts of P pairs.
        rejected: `[M, P, D]` for the rejected ones.
        label: `[P]` probability that chosen is the better one.
        margin: `[P]` by how much its reward should exceed the other; no part of `classification`.

    Returns:
        `[M, P]`.
    """
    first, second = chosen[..., 0], rejected[..., 0]
    if kind == "heads":
        return preference_nll(first, second, margin=margin, p_chosen=label)
    if kind == "classification":
        zero = torch.zeros_like(first)
        return preference_nll(first, zero, p_chosen=label) + preference_nll(zero, second, p_chosen=label)
    logit = first - second - margin
    variance = softplus(chosen[..., 1]) + softplus(rejected[..., 1])
    won, lost = log_sigmoid_of_normal(torch.stack([logit, -logit]), variance)
    loss: Tensor = -label * won - (1 - label) * lost
    return loss


def increment_outputs(increments: Tensor) -> Tensor:
    """The outputs that give positive increments between quantiles: the inverse of their `softplus`."""
    return increments.expm1().log() / _INCREMENT_RATE


def log_sigmoid_of_normal(mean: Tensor, variance: Tensor) -> Tensor:
    """`log E sigma(z)`, `z ~ N(mean, variance)`, with gradients that are smooth down to variance 0.

    A logistic variable is a normal one whose standard deviation is twice a Kolmogorov variable (Andrews and Mallows
    1974), so the expectation is an average of normal distribution functions, `E Phi(mean / sqrt(t^2 + variance))`: a
    sum over 24 values of t. It is off the exact integral by at most 1e-9 for means up to 10 and 2e-5 up to 25. This is
    for training; elsewhere `log_expected_sigmoid` of `prudent.rewards` is exact in both tails, but not as smooth.

    Args:
        mean: any shape.
        variance: not negative, broadcast against `mean`.
    """
    square, log_weight = (values.to(mean) for values in _scale_mixture())
    total: Tensor = torch.logsumexp(
        log_weight + torch.special.log_ndtr(mean.unsqueeze(-1) / (square + variance.unsqueeze(-1)).sqrt()), -1
    )
    return total


@cache
def _scale_mixture() -> tuple[Tensor, Tensor]:
    """Squares of the standard deviations t of the mixture, and logarithms of their weights; both `[24]` float64."""
    log_t = torch.linspace(math.log(0.5), math.log(11.0), 24, dtype=torch.float64)
    half = log_t.exp() / 2
    order = torch.arange(1, 60, dtype=torch.float64).unsqueeze(1)
    # Kolmogorov's density by its two series, each where it converges fast.
    far = 8 * half * ((-1) ** (order + 1) * order**2 * (-2 * order**2 * half**2).exp()).sum(0)
    odd = ((2 * order - 1) * math.pi) ** 2 / 8
    near = math.sqrt(2 * math.pi) * ((2 * odd / half**4 - 1 / half**2) * (-odd / half**2).exp()).sum(0)
    weight = torch.where(half < 1, near, far) * half
    return log_t.exp() ** 2, (weight / weight.sum()).log()


def monotone_quantiles(outputs: Tensor) -> Tensor:
    """Quantiles that cannot cross: the median, and increments up and down from it that are positive by `softplus`.

    What widths do is a matter of their logarithm, which moves less than the median: hence the rate of 0.3 of their
    outputs.

    Args:
        outputs: `[..., Q]` of a head; the middle one is the median.

    Returns:
        `[..., Q]` in ascending order.
    """
    median = outputs[..., _MEDIAN : _MEDIAN + 1]
    up = median + softplus(_INCREMENT_RATE * outputs[..., _MEDIAN + 1 :]).cumsum(-1)
    down = median - softplus(_INCREMENT_RATE * outputs[..., :_MEDIAN]).flip(-1).cumsum(-1).flip(-1)
    return torch.cat([down, median, up], -1)


def pinball_loss(quantiles: Tensor, scores: Tensor, width: float) -> Tensor:
    """Average pinball loss over the levels, in units of the scores, its kink rounded off.

    Args:
        quantiles: `[M, N, Q]` of M heads.
        scores: `[N]` absolute scores.
        width: half-width of the rounded part, positive; quantiles move by no more than that.

    Returns:
        `[M, N]`.
    """
    level = torch.tensor(QUANTILE_LEVELS).to(quantiles)
    error = scores.unsqueeze(-1) - quantiles
    size = error.abs()
    rounded = torch.where(size < width, error.square() / (2 * width) + width / 2, size)
    loss: Tensor = ((level - 0.5) * error + 0.5 * rounded).mean(-1)
    return loss
