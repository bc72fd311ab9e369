"""How well a posterior over reward differences predicts preferences."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.metrics._calibration import expected_calibration_error
from prudent.rewards import log_expected_sigmoid

__all__ = ["PairMetrics", "PairScores", "pair_metrics", "pair_scores"]


@dataclass(frozen=True)
class PairScores:
    """Figures of single pairs, all [P] float64; average them, or bootstrap the averages.

    A soft label p counts as p pairs won and 1 - p pairs lost, so every figure is the expectation over the label.

    Attributes:
        probability: predicted P(chosen is preferred), in [0, 1].
        logit: its log odds. Their size orders pairs by confidence, also where the probability rounds to 1.
        accuracy: 1 where the sign of the difference agrees with the label, a half where the difference is zero.
        nll: negative log-likelihood in nats, from logarithms that do not underflow.
        brier: squared error of the probability.
    """

    probability: Tensor
    logit: Tensor
    accuracy: Tensor
    nll: Tensor
    brier: Tensor


@dataclass(frozen=True)
class PairMetrics:
    """Averages over P pairs.

    Attributes:
        count: P.
        accuracy: share of pairs ranked as labelled, ties counting a half.
        nll: mean negative log-likelihood, nats.
        brier: mean squared error of the probability of the label.
        ece: expected calibration error of the confidence, see `expected_calibration_error`.
    """

    count: int
    accuracy: float
    nll: float
    brier: float
    ece: float


def pair_scores(mean: Tensor, variance: Tensor | None = None, label: Tensor | None = None) -> PairScores:
    """Score the predicted preference of each pair.

    Args:
        mean: [P] posterior mean of r_chosen - r_rejected, logits.
        variance: [P] its variance: the probability is then *moderated*, E sigma(r_chosen - r_rejected). None for the
            MAP probability sigma(mean).
        label: [P] probability that the chosen one is preferred, in [0, 1]; ones by default.

    Returns:
        Probability, its log odds, accuracy, negative log-likelihood and Brier score of each pair.

    Raises:
        ValueError: shapes do not agree, a mean is not a number, or a label is outside [0, 1].

    Example:
        >>> import torch
        >>> scores = pair_scores(torch.tensor([0.0, 2.0]))
        >>> scores.accuracy.tolist(), [round(x, 4) for x in scores.nll.tolist()]
        ([0.5, 1.0], [0.6931, 0.1269])
    """
    if mean.dim() != 1:
        raise ValueError(f"mean must be a vector [P], got shape {list(mean.shape)}")
    m = mean.double()
    v = torch.zeros_like(m) if variance is None else variance.double()
    won = torch.ones_like(m) if label is None else label.double()
    for name, values in (("variance", v), ("label", won)):
        if values.shape != m.shape:
            raise ValueError(f"{name} must have shape {list(m.shape)}, got {list(values.shape)}")
    if bool((m.isnan() | v.isnan()).any()):
        raise ValueError(f"pair {int((m.isnan() | v.isnan()).nonzero()[0])} is not scored (NaN); leave it out first")
    if not bool(((won >= 0) & (won <= 1)).all()):
        raise ValueError("label must lie in [0, 1]")
    log_win, log_loss = log_expected_sigmoid(m, v), log_expected_sigmoid(-m, v)
    win, loss = log_win.exp(), log_loss.exp()
    lost = 1 - won
    sign = torch.sign(m)
    return PairScores(
        probability=win,
        logit=log_win - log_loss,
        accuracy=0.5 * (1 + sign * (won - lost)),
        # 0 * -inf must be 0: a label of 1 says nothing about the probability of losing
        nll=-(torch.where(won > 0, won * log_win, 0.0) + torch.where(lost > 0, lost * log_loss, 0.0)),
        brier=won * loss.square() + lost * win.square(),
    )


def pair_metrics(
    mean: Tensor, variance: Tensor | None = None, label: Tensor | None = None, *, num_bins: int = 10
) -> PairMetrics:
    """Accuracy, negative log-likelihood, Brier score and calibration error over pairs.

    Call it without the variance for the MAP probabilities and with it for the moderated ones; the accuracy is the same.

    Args:
        mean: [P] posterior mean of r_chosen - r_rejected, logits.
        variance: [P] its variance, for moderated probabilities; None for the MAP.
        label: [P] probability that the chosen one is preferred, in [0, 1]; ones by default.
        num_bins: equal-count bins of the calibration error.

    Returns:
        The averages.

    Raises:
        ValueError: no pairs, shapes do not agree, a mean is not a number, or a label is outside [0, 1].

    Example:
        >>> import torch
        >>> metrics = pair_metrics(torch.tensor([0.0, 2.0]), num_bins=1)
        >>> metrics.accuracy, round(metrics.brier, 4), round(metrics.ece, 4)
        (0.75, 0.1321, 0.0596)
    """
    scores = pair_scores(mean, variance, label)
    if len(mean) == 0:
        raise ValueError("there are no pairs to measure")
    return PairMetrics(
        count=len(mean),
        accuracy=scores.accuracy.mean().item(),
        nll=scores.nll.mean().item(),
        brier=scores.brier.mean().item(),
        ece=expected_calibration_error(scores.probability, label, num_bins=num_bins),
    )
