"""How strongly to weigh what is not known, learned from a few prompts whose true reward is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.selection._curves import best_of_n_curve
from prudent.selection._scored import NanPolicy

__all__ = ["CalibratedStrength", "calibrated_strength"]


@dataclass(frozen=True)
class CalibratedStrength:
    """The gold reward of best-of-n at several strengths of a rule.

    Attributes:
        chosen: the strength of highest gold, the smallest of those that tie.
        one_standard_error: the smallest strength whose gold is within one standard error of the highest: with few
            prompts the safer choice, if the plain rule at the small end is what one would do knowing nothing. The error
            is that of the difference between the two on the same prompts, not of either alone.
        strengths: [S] float64, ascending.
        gold: [S] float64, mean over prompts of the gold reward of the best of n.
        standard_error: [S] float64, of `gold` over prompts (ddof 1).
        num_prompts: prompts that it rests on.
    """

    chosen: float
    one_standard_error: float
    strengths: Tensor
    gold: Tensor
    standard_error: Tensor
    num_prompts: int


def calibrated_strength(
    utility_at: Callable[[float], Tensor],
    gold: Tensor,
    group: Tensor,
    n: int,
    strengths: Sequence[float],
    *,
    nan: NanPolicy = "error",
) -> CalibratedStrength:
    """Choose how strong a rule should be by the gold reward of best-of-n on a small calibration set.

    With 50 prompts the standard error of a difference between strengths is 0.14 times its standard deviation between
    prompts. Gold at the chosen strength is the highest of several noisy numbers and so too high: judge the choice on
    other prompts, never on these.

    Args:
        utility_at: maps a strength (num_std of `lcb_std`, risk_aversion of `entropic`, ...) to the utilities [N] of
            the calibration responses. The utility must not depend on which other responses are present.
        gold: [N] true rewards.
        group: [N] integer prompt ids.
        n: candidates that picks will be made from; every subset of n of a prompt's candidates counts.
        strengths: at least one, for instance [0, 0.5, 1, 2, 4]. 0 is no caution for rules that are a mean minus a
            multiple of something; `entropic` takes positive ones alone: a small one, 0.01 say, comes close to the mean.
        nan: "error" to refuse responses that are not scored, "exclude" to leave them out.

    Returns:
        The strength of highest gold and the whole curve.

    Raises:
        DataError: fewer than two prompts have n scored candidates at every strength, or NaN while nan is "error".
        ValueError: no strengths, one is given twice, or shapes do not agree.

    Example:
        >>> import torch
        >>> mean, std = torch.tensor([1.0, 2.0, 1.0, 3.0]), torch.tensor([0.0, 3.0, 0.0, 3.0])
        >>> gold, group = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
        >>> found = calibrated_strength(lambda strength: mean - strength * std, gold, group, 2, [0.0, 0.5, 1.0])
        >>> found.chosen, found.gold.tolist()
        (1.0, [0.0, 0.5, 1.0])
    """
    ordered = sorted(float(strength) for strength in strengths)
    if not ordered or len(set(ordered)) < len(ordered):
        raise ValueError(f"strengths must be at least one and all different, got {list(strengths)}")
    curves = [best_of_n_curve(utility_at(strength), gold, group, [n], nan=nan)[:, 0] for strength in ordered]
    by_prompt = torch.stack(curves, 1)
    by_prompt = by_prompt[~by_prompt.isnan().any(1)]
    if len(by_prompt) < 2:
        raise DataError(
            f"{len(by_prompt)} prompts have n = {n} scored candidates at every strength, and at least 2 are needed: "
            "give more candidates, more prompts or a smaller n"
        )
    mean = by_prompt.mean(0)
    best = int(mean.argmax())
    shortfall = by_prompt[:, best : best + 1] - by_prompt
    near = shortfall.mean(0) <= _standard_error(shortfall)
    return CalibratedStrength(
        ordered[best],
        ordered[int(near.nonzero()[0])],
        torch.tensor(ordered, dtype=torch.float64),
        mean,
        _standard_error(by_prompt),
        len(by_prompt),
    )


def _standard_error(values: Tensor) -> Tensor:
    """Standard error [S] of the mean over prompts of values [B, S]."""
    error: Tensor = values.std(0) / len(values) ** 0.5
    return error
