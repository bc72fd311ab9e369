"""One member of an ensemble on the scale of logits, from preferences it was not trained on.

Scores of different reward models have different units, and only some are logits. Before they can stand for draws of one
reward, each is multiplied by the scale that makes its Bradley-Terry probabilities most likely on common preferences.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.metrics import MAX_LOGIT_TEMPERATURE, MIN_LOGIT_TEMPERATURE, fit_logit_temperature, pair_scores
from prudent.rewards import index_groups

__all__ = ["MemberCalibration", "calibrate_member"]

# One-sided 1 % point of the normal distribution.
_REVERSED = -2.33


@dataclass(frozen=True)
class MemberCalibration:
    """How a member's scores become logits.

    Attributes:
        scale: what to multiply scores by, > 0.
        accuracy: share of the pairs that the member ranks as labelled, ties counting a half.
        nll_before: mean negative log-likelihood of the pairs with the scores as they are, nats.
        nll_after: the same with the scores times `scale`; below log 2.
    """

    scale: float
    accuracy: float
    nll_before: float
    nll_after: float


def calibrate_member(
    name: str, contrast: Tensor, label: Tensor | None = None, group: Tensor | None = None
) -> MemberCalibration:
    """Fit the scale on which a member's score differences are logits of preference, or say why there is none.

    The scale maximizes the Bradley-Terry likelihood, as `prudent.metrics.fit_logit_temperature` does, after division by
    the root mean square of the differences, so that scores in any unit have one.

    Args:
        name: the member's name, for messages.
        contrast: `[P]` its score of the chosen response minus that of the rejected one, any unit.
        label: `[P]` probability that the chosen one is preferred, in [0, 1]; ones by default.
        group: `[P]` integers; pairs of one group (a prompt) depend on each other. Each alone by default.

    Returns:
        The scale, and how well the member predicts the pairs.

    Raises:
        PosteriorError: there are no pairs; a difference is not finite; all are zero; the member ranks against the
            labels (at the 1 % level), does not tell better than a coin which response is preferred, or ranks all
            pairs as labelled, so that no scale is too large.

    Example:
        >>> import torch
        >>> contrast = torch.tensor([40.0, 40.0, 40.0, -40.0])  # right three times out of four: a logit of log 3
        >>> calibration = calibrate_member("points", contrast)
        >>> round(40 * calibration.scale, 2), calibration.accuracy
        (1.1, 0.75)
    """
    contrast = contrast.double()
    label = torch.ones_like(contrast) if label is None else label.double()
    if len(contrast) == 0:
        raise PosteriorError(f"member {name}: there are no pairs to calibrate it on")
    if not bool(contrast.isfinite().all()):
        pair = int((~contrast.isfinite()).nonzero()[0])
        raise PosteriorError(f"member {name}: the scores of pair {pair} do not have a finite difference")
    # Divided by the largest first, so that squares neither overflow nor vanish.
    largest = float(contrast.abs().max())
    if largest == 0:
        raise PosteriorError(
            f"member {name} gives both responses of every pair the same score; leave it out, or see what it reads"
        )
    size = largest * float((contrast / largest).square().mean().sqrt())
    unit = contrast / size
    accuracy = pair_scores(unit, None, label).accuracy
    told = f"member {name} ranks {accuracy.mean():.1%} of {len(contrast)} pairs as labelled"
    if _z(accuracy, group) < _REVERSED:
        raise PosteriorError(f"{told}: its direction is reversed; negate its scores, or leave it out")
    # The likelihood is concave in the scale: this is its slope at zero.
    if float(((label - 0.5) * unit).sum()) <= 0:
        raise PosteriorError(
            f"{told}, and no scale makes it better than a coin; leave it out, negate it where less is better, or give "
            "more pairs"
        )
    temperature = fit_logit_temperature(unit, label)
    if temperature < 2 * MIN_LOGIT_TEMPERATURE:
        raise PosteriorError(f"{told}, which leaves its scale open; calibrate on more, or on harder, pairs")
    if temperature > MAX_LOGIT_TEMPERATURE / 2:
        raise PosteriorError(f"{told}, and hardly better than a coin; leave it out, or give more pairs")
    return MemberCalibration(
        scale=1 / (temperature * size),
        accuracy=float(accuracy.mean()),
        nll_before=float(pair_scores(contrast, None, label).nll.mean()),
        nll_after=float(pair_scores(unit / temperature, None, label).nll.mean()),
    )


def _z(accuracy: Tensor, group: Tensor | None) -> float:
    """Standard score of the accuracy against a half, with the pairs of a group counted as one draw."""
    excess = accuracy - 0.5
    if group is not None:
        excess = index_groups(group).sum(excess)
    spread = float(excess.square().sum().sqrt())
    return 0.0 if spread == 0 else float(excess.sum()) / spread
