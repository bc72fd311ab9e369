"""The scale of the logits that makes probabilities come true."""

from torch import Tensor

from prudent.metrics._pairs import pair_scores
from prudent.metrics._search import minimize_on_log_scale

__all__ = ["MAX_LOGIT_TEMPERATURE", "MIN_LOGIT_TEMPERATURE", "fit_logit_temperature"]

MIN_LOGIT_TEMPERATURE, MAX_LOGIT_TEMPERATURE = 1e-3, 1e3
"""Where the search ends: pairs that are all ranked as labelled want no temperature at all."""


def fit_logit_temperature(mean: Tensor, label: Tensor | None = None, variance: Tensor | None = None) -> float:
    """The t > 0 by which to divide differences of rewards so that held-out pairs are most likely.

    Minimises the mean negative log-likelihood of E sigma(x / t), x ~ N(mean, variance): without a variance
    temperature scaling (Guo et al. 2017, arXiv 1706.04599), which is convex in 1 / t; with one, of the moderated
    probability. It leaves every ranking by the mean as it is. A grid on log t finds the region, a golden-section search
    refines it to 0.1 %.

    Args:
        mean: [P] posterior mean of r_chosen - r_rejected, logits, of pairs that the model was not fitted on.
        label: [P] probability that the chosen one is preferred, in [0, 1]; ones by default.
        variance: [P] of the difference; None for the mean alone.

    Returns:
        The temperature, above 1 for a model that is too sure. Next to `MIN_LOGIT_TEMPERATURE` (0.001) or
        `MAX_LOGIT_TEMPERATURE` (1000) it says that the pairs do not determine one.

    Raises:
        ValueError: no pairs, or as for `pair_scores`.

    Example:
        >>> import torch
        >>> mean = torch.tensor([4.0, 4.0, 4.0, 4.0])  # right three times out of four: a logit of log 3
        >>> round(fit_logit_temperature(mean, torch.tensor([1.0, 1.0, 1.0, 0.0])), 2)
        3.64
    """
    if len(mean) == 0:
        raise ValueError("there are no pairs to fit a temperature to")
    m, v = mean.double(), None if variance is None else variance.double()

    def loss(t: float) -> float:
        return pair_scores(m / t, None if v is None else v / t**2, label).nll.mean().item()

    return minimize_on_log_scale(loss, MIN_LOGIT_TEMPERATURE, MAX_LOGIT_TEMPERATURE)
