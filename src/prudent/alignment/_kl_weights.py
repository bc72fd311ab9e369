"""How strongly the KL penalty holds each response: in proportion to the variance of its reward."""

import torch
from torch import Tensor

__all__ = ["kl_weights", "relative_variance"]


def kl_weights(variance: Tensor, *, floor: float = 0.1, cap: float = 10.0) -> Tensor:
    """Weights of the KL penalty: variances over their mean, floored and capped, then scaled to mean 1.

    With coefficients `kl_coef * kl_weights(variance)` the penalty is the paper's, strong where the reward is uncertain,
    at the average strength of a constant `kl_coef`: without the scaling, two ways of weighing would differ by a mere
    change of `kl_coef`. The floor keeps an anchor where the variance vanishes (without one, the optimum follows the
    reward there as far as it goes); the cap keeps one response from owning the penalty. The mean is over the values
    given, so give many at once: a mean over few responses is noisy, the weights with it, and what is computed with both
    is biased by an order of one over their number (see `VarianceAwareRLOOTrainer`).

    Args:
        variance: [N] variances of rewards, >= 0; NaN for responses without a reward, which count nowhere.
        floor: least weight before the last scaling, in (0, 1].
        cap: greatest weight before the last scaling, >= 1.

    Returns:
        [N] weights of mean 1 over the responses that have one, NaN for the others, in the type of `variance`. Exactly
        1.0 where all variances are equal, zero among them.

    Raises:
        ValueError: `floor` or `cap` out of range, a variance that is negative or infinite, or not a float vector.

    Source: Uncertainty-aware RLHF (2410.23726) and its successor (2507.15906), whose abstract speaks of a regularizer
    that knows the reward's variance; the scaling, the floor and the cap are this project's.

    Example:
        >>> import torch
        >>> kl_weights(torch.tensor([1.0, 3.0, float("nan")])).tolist()
        [0.5, 1.5, nan]
        >>> kl_weights(torch.tensor([0.3, 0.3, 0.3])).tolist()
        [1.0, 1.0, 1.0]
    """
    if not 0 < floor <= 1 <= cap:
        raise ValueError(f"floor must lie in (0, 1] and cap be at least 1, got {floor} and {cap}")
    return _over_mean(relative_variance(variance).clamp(floor, cap)).to(variance.dtype)


def relative_variance(variance: Tensor) -> Tensor:
    """Variances over their mean, [N] float64: what the floor and the cap of `kl_weights` are put on.

    Raises:
        ValueError: a variance is negative or infinite, or `variance` is no float vector.

    Example:
        >>> import torch
        >>> relative_variance(torch.tensor([1.0, 3.0])).tolist()
        [0.5, 1.5]
    """
    if variance.dim() != 1 or not variance.is_floating_point():
        raise ValueError(f"variance must be a float vector [N], got shape {tuple(variance.shape)} {variance.dtype}")
    wrong = (variance < 0) | variance.isinf()
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(f"variance must be finite and not negative, got {variance[row].item()} in row {row}")
    return _over_mean(variance.double())


def _over_mean(values: Tensor) -> Tensor:
    """Values over the mean of those that are not NaN; exactly 1 where all are equal, whatever their mean rounds to."""
    known = values[~values.isnan()]
    if len(known) == 0:
        return values
    if bool((known == known[0]).all()):
        return torch.where(values.isnan(), values, 1.0)
    return values / known.mean()
