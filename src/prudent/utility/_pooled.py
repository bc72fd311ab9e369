"""The posterior of several rewards combined, in closed form where there is one."""

from collections.abc import Sequence
from typing import Literal, TypeGuard

import torch
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards import (
    CombinedRewards,
    Elementwise,
    GaussianRewards,
    MemberRewards,
    RewardPosterior,
    WeightedSum,
    check_same_responses,
)

__all__ = ["combine_rewards", "ensemble_rewards", "fuse_rewards"]


def combine_rewards(
    parts: Sequence[RewardPosterior], function: Elementwise, correlation: float | Literal["members"]
) -> RewardPosterior:
    """A function of several posteriors over the same N responses, of the simplest kind that holds it.

    A weighted sum of Gaussians is `GaussianRewards`; a function of ensembles whose members belong together, and are
    sure of themselves, is `MemberRewards`; anything else is `CombinedRewards`, which says what is exact.

    Args:
        parts: at least one.
        function: of the parts.
        correlation: of the parts of one response, as in `CombinedRewards`.

    Raises:
        ValueError: parts of different responses.
        UnsupportedError: this correlation means nothing for these parts.
    """
    combined = CombinedRewards(parts, function, correlation=correlation)
    if correlation == "members":
        members = combined.as_members()
        return combined if members is None else members
    if isinstance(function.function, WeightedSum) and _all_gaussian(parts):
        return _gaussian_sum(parts, function, function.function.weights, correlation)
    return combined


def ensemble_rewards(parts: Sequence[RewardPosterior], ddof: int) -> MemberRewards:
    """Several models of the same reward as the members of one ensemble.

    Args:
        parts: posteriors over the same responses. Each is one member, at its mean; of `MemberRewards` all members are.
        ddof: of the variance between the members.

    Returns:
        Members in the order of the parts; the variance within them, and the noise, is the average over the parts.

    Raises:
        ValueError: parts of different responses.
        UnsupportedError: parts with different numbers of members, or fewer than ddof + 1 members in all.
    """
    check_same_responses(parts)
    members = [part.members if isinstance(part, MemberRewards) else part.mean[:, None] for part in parts]
    for place, one in enumerate(members[1:], 2):
        if one.shape[1] != members[0].shape[1]:
            raise UnsupportedError(
                f"part {place} of ensemble has {_count(one)} and part 1 has {_count(members[0])}, so that they would "
                "not weigh alike: make ensembles of equal size, or combine them with weighted or product"
            )
    together = torch.cat(members, 1)
    if together.shape[1] < ddof + 1:
        raise UnsupportedError(f"ensemble with ddof={ddof} needs at least {ddof + 1} members, got {together.shape[1]}")
    within = torch.stack([_within(part) for part in parts]).mean(0)
    return MemberRewards(
        together,
        parts[0].group,
        ddof,
        _joint_name("ensemble", parts),
        within_variance=within if bool((within > 0).any()) else None,
        noise=torch.stack([part.noise for part in parts]).mean(0),
        text_id=_text_id(parts),
    )


def fuse_rewards(parts: Sequence[RewardPosterior], correlation: float) -> GaussianRewards:
    """Estimates of the same reward, weighted by their precision (generalized least squares).

    With the parts' variances v_p and errors that correlate alike, the covariance of the estimates of one response is
    S[p, q] = correlation * sqrt(v_p v_q); the mean is 1' S^-1 m / 1' S^-1 1 and the variance 1 / 1' S^-1 1. Without
    correlation that is inverse-variance weighting, the product of Gaussian densities. With it a part that is much
    less precise than another may get a negative weight. A part without variance decides alone; several share.

    Args:
        parts: posteriors over the same responses, on one scale: centered, since levels of rewards are arbitrary.
        correlation: 0 <= correlation < 1, of the errors of any two parts.

    Returns:
        With a factor where the parts are independent and all have one. The noise is the average over the parts.

    Raises:
        ValueError: parts of different responses.
    """
    check_same_responses(parts)
    std = torch.stack([part.variance for part in parts]).double().sqrt()
    smallest = std.amin(0)
    certain = smallest == 0
    # precision relative to the best part, so that nothing overflows
    root = torch.where(certain, (std == 0).double(), smallest / std)
    shared = (~certain).double() * (correlation / (1 + (len(parts) - 1) * correlation))
    weight = root * (root - shared * root.sum(0))
    total = weight.sum(0)
    variance = smallest.square() * (1 - correlation) / total
    weight = weight / total
    means = torch.stack([part.mean for part in parts])
    factor = None
    if correlation == 0 and _all_gaussian(parts):
        factor = _joint_factor(parts, weight.to(means))
    return GaussianRewards(
        (weight * means).sum(0).to(means),
        variance.to(means),
        parts[0].group,
        factor,
        torch.stack([part.noise for part in parts]).mean(0),
        _text_id(parts),
        _joint_name("product", parts),
    )


def _gaussian_sum(
    parts: Sequence[GaussianRewards],
    function: Elementwise,
    weights: tuple[float, ...],
    correlation: float | Literal["members"],
) -> GaussianRewards:
    assert not isinstance(correlation, str)
    means = torch.stack([part.mean for part in parts])
    missing = means.isnan()
    weight = torch.tensor(weights, dtype=means.dtype, device=means.device)[:, None].expand_as(means)
    if function.neutral is not None:
        weight = weight.masked_fill(missing, 0)
    # what is neutral has no variance, whatever stands in a row that is not scored
    variances, noises = (
        torch.where(missing & (weight == 0), 0.0, torch.stack(found))
        for found in ([part.variance for part in parts], [part.noise for part in parts])
    )
    independent = (weight.square() * variances).sum(0)
    together = (weight * variances.sqrt()).sum(0).square()
    return GaussianRewards(
        function(means),
        (1 - correlation) * independent + correlation * together,
        parts[0].group,
        _joint_factor(parts, weight) if correlation == 0 else None,
        (weight.square() * noises).sum(0),
        _text_id(parts),
        _joint_name(f"sum of {', '.join(f'{w:g}' for w in weights)} times", parts),
    )


def _joint_factor(parts: Sequence[GaussianRewards], weight: Tensor) -> Tensor | None:
    """The factor [N, sum of K] of a sum of independent parts with weights [P, N]; None where one has none."""
    found = [part.factor for part in parts]
    present = [factor for factor in found if factor is not None]
    if len(present) < len(found):
        return None
    columns = [
        torch.where(w[:, None] == 0, 0, w[:, None] * factor.to(w.dtype))
        for w, factor in zip(weight, present, strict=True)
    ]
    return torch.cat(columns, 1)


def _all_gaussian(parts: Sequence[RewardPosterior]) -> TypeGuard[Sequence[GaussianRewards]]:
    return all(isinstance(part, GaussianRewards) for part in parts)


def _within(part: RewardPosterior) -> Tensor:
    """[N] variance within the members that a part is."""
    if not isinstance(part, MemberRewards):
        return part.variance
    return torch.zeros_like(part.mean) if part.within_variance is None else part.within_variance


def _count(members: Tensor) -> str:
    return f"{members.shape[1]} member{'s' if members.shape[1] > 1 else ''}"


def _text_id(parts: Sequence[RewardPosterior]) -> Tensor | None:
    """Which responses are the same text, from the first part that knows."""
    known = (part.text_id for part in parts if isinstance(part, GaussianRewards | MemberRewards))
    return next((text for text in known if text is not None), None)


def _joint_name(what: str, parts: Sequence[RewardPosterior]) -> str | None:
    names = [part.basis_id if isinstance(part, GaussianRewards | MemberRewards) else None for part in parts]
    return None if None in names else f"{what} {', '.join(map(str, names))}"
