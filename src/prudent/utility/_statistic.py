"""Statistics of the reference rewards of each prompt, and what they subtract from rewards to come."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prudent.errors import DataError, PosteriorError
from prudent.rewards import GaussianRewards, GroupIndex, MemberRewards, RewardPosterior, index_groups
from prudent.utility._affine import Shift
from prudent.utility._transform import TransformState

__all__ = [
    "as_state",
    "ascending_rows",
    "average",
    "basis_digest",
    "by_prompt",
    "factor_of",
    "mean_tensors",
    "place_of",
    "pooled_spread",
    "positive_spread",
    "quantile_tensors",
    "scored_rows",
    "shift_from",
    "spread",
    "take",
]


_ROUNDING = 1e-6
"""Of rewards in single precision, relative to their size."""


def scored_rows(references: RewardPosterior, what: str) -> RewardPosterior:
    """The reference responses that are scored.

    Raises:
        DataError: none is.
    """
    scored = ~references.mean.isnan()
    if not bool(scored.any()):
        raise DataError(f"{what} needs scored reference responses, and none of the {len(references)} given is scored")
    return references[scored]


def by_prompt(references: RewardPosterior, pooled: bool) -> GroupIndex:
    """Which references belong together: those of a prompt, or all of them."""
    return index_groups(torch.zeros_like(references.group) if pooled else references.group)


def mean_tensors(references: RewardPosterior, index: GroupIndex) -> dict[str, Tensor]:
    """The mean over the references of each prompt; see `_weighted`."""
    return _weighted(references, lambda values, ranks: average(values, index))


def quantile_tensors(references: RewardPosterior, index: GroupIndex, q: float) -> dict[str, Tensor]:
    """The empirical quantile, linear between two order statistics (type 7, as numpy has it); see `_weighted`."""
    start = index.counts.cumsum(0) - index.counts
    place = (index.counts - 1).double() * q
    low = place.floor().long()
    high = torch.minimum(low + 1, index.counts - 1)

    def between(values: Tensor, ranks: Tensor) -> Tensor:
        order = ascending_rows(ranks, index)
        weight = (place - low).reshape(-1, *[1] * (values.dim() - 1))
        return torch.lerp(values[order[start + low]], values[order[start + high]], weight)

    return _weighted(references, between)


def _weighted(references: RewardPosterior, statistic: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """A statistic that is a weighted sum of the references of each prompt, with weights that depend on their ranking.

    Args:
        references: R scored responses.
        statistic: maps values [R] or [R, K], and rewards [R] that rank the responses, to [B] or [B, K].

    Returns:
        `reference` [B]; `members` [B, M], the statistic of each member's own rewards as it ranks them itself, whose
        average `reference` then is; and `factor` [B, K], where there is one, of the statistic with the responses ranked
        at their posterior means. All float64.
    """
    mean, factor = references.mean.double(), factor_of(references)
    found = {}
    if isinstance(references, MemberRewards):
        members = references.members.double()
        found["members"] = torch.stack([statistic(member, member) for member in members.unbind(1)], 1)
        found["reference"] = found["members"].mean(1)
    else:
        found["reference"] = statistic(mean, mean)
    if factor is not None:
        found["factor"] = statistic(factor.double(), mean)
    return found


def ascending_rows(values: Tensor, index: GroupIndex) -> Tensor:
    """Row numbers [R] prompt by prompt, by ascending `values` [R] within a prompt."""
    order = torch.argsort(values, stable=True)
    return order[torch.argsort(index.position[order], stable=True)]


def average(values: Tensor, index: GroupIndex) -> Tensor:
    """Mean [B, ...] of `values` [R, ...] over the references of each prompt."""
    return index.sum(values) / index.counts.reshape(-1, *[1] * (values.dim() - 1))


def spread(values: Tensor, index: GroupIndex, what: str, remedy: str) -> Tensor:
    """Standard deviation (ddof 1) over the references of each prompt.

    Args:
        values: [R] or [R, M].
        index: whose they are.
        what: names the transform.
        remedy: what to write instead where it is not possible.

    Returns:
        [B] or [B, M] in the type of `values`.

    Raises:
        DataError: a prompt has a single scored reference.
    """
    if bool((index.counts < 2).any()):
        prompt = int(index.ids[index.counts < 2][0])
        raise DataError(
            f"{what} needs two scored reference responses for a standard deviation, and prompt {prompt} has one "
            f"({int((index.counts < 2).sum())} such prompts): {remedy}"
        )
    count = index.counts.reshape(-1, *[1] * (values.dim() - 1))
    deviation = values - average(values, index)[index.position]
    return (index.sum(deviation.square()) / (count - 1)).sqrt()


def positive_spread(references: RewardPosterior, index: GroupIndex, what: str, remedy: str) -> Tensor:
    """Standard deviation (ddof 1) [B] of the posterior means of each prompt's references.

    Raises:
        DataError: those of a prompt do not differ, or by rounding alone.
    """
    values = references.mean.double()
    std = spread(values, index, what, remedy)
    size = torch.zeros_like(std).scatter_reduce_(0, index.position, values.abs(), "amax")
    differs = std > _ROUNDING * size
    if not bool(differs.all()):
        raise DataError(
            f"{what}: the reference rewards of prompt {int(index.ids[~differs][0])} are all the same "
            f"({int((~differs).sum())} such prompts): {remedy}"
        )
    return std


def pooled_spread(references: RewardPosterior, index: GroupIndex, what: str) -> Tensor:
    """Standard deviation [1] of the posterior means about the mean of their prompt, over all prompts.

    The sum of squares is divided by the number of references less that of prompts.

    Raises:
        DataError: no prompt has references that differ.
    """
    values = references.mean.double()
    deviation = values - average(values, index)[index.position]
    std = (deviation.square().sum() / max(1, len(values) - len(index.ids))).sqrt()
    if not bool(std > _ROUNDING * values.square().mean().sqrt()):
        raise DataError(f"{what}: no prompt has reference rewards that differ; give more references")
    return std[None]


def as_state(
    tensors: Mapping[str, Tensor],
    index: GroupIndex,
    pooled: bool,
    references: RewardPosterior,
    shared: Mapping[str, Tensor] | None = None,
) -> TransformState:
    """The state that remembers tensors [B, ...] of each prompt, or [1, ...] of all together; `shared` is of all too."""
    tensors = {name: values.cpu() for name, values in tensors.items()}
    both = {name: values.cpu() for name, values in (shared or {}).items()} | {"basis": basis_digest(references)}
    if pooled:
        return TransformState(shared=tensors | both)
    return TransformState(index.ids.cpu(), tensors, both)


def place_of(posterior: RewardPosterior, state: TransformState, what: str) -> Tensor:
    """The row [N] of each response in the tensors of a state, one past the last where the response is not scored.

    Args:
        posterior: of N responses.
        state: made by `as_state`.
        what: names the transform.

    Raises:
        DataError: nothing is known of the prompt of a scored response.
    """
    if "reference" in state.shared:
        return torch.zeros_like(posterior.group)
    scored = ~posterior.mean.isnan()
    place = torch.full_like(posterior.group, len(state.prompts))
    place[scored] = state.position(posterior.group[scored], what)
    return place


def take(state: TransformState, name: str, place: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows [N, ...] of a tensor of a state at `place` [N], on its device; NaN past the last row of a prompt's own."""
    if name in state.shared:
        return state.shared[name].to(place.device, dtype)[torch.zeros_like(place)]
    return _with_unknown(state.per_prompt[name].to(place.device, dtype))[place]


def shift_from(posterior: RewardPosterior, state: TransformState, place: Tensor) -> Shift:
    """What is subtracted from each response of a posterior.

    Args:
        posterior: of N responses.
        state: made by `as_state`.
        place: from `place_of`.

    Raises:
        PosteriorError: members or factors that do not mean the same as those of the references.
    """
    known = {**state.shared, **state.per_prompt}
    members, factor, row = None, None, None
    if "members" in known and isinstance(posterior, MemberRewards):
        _check_same("members", posterior, posterior.members, known)
        members = take(state, "members", place)
    own = factor_of(posterior)
    if "factor" in known and own is not None:
        _check_same("factor", posterior, own, known)
        factor = _with_unknown(known["factor"].to(place.device, posterior.mean.dtype))
        row = torch.zeros_like(place) if "factor" in state.shared else place
    return Shift(take(state, "reference", place), members, factor, row)


def basis_digest(posterior: RewardPosterior) -> Tensor:
    """An int64 that stands for the `basis_id` of a posterior, since a state holds tensors alone; 0 without one."""
    name = posterior.basis_id if isinstance(posterior, GaussianRewards | MemberRewards) else None
    if name is None:
        return torch.tensor(0)
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return torch.tensor(int.from_bytes(digest, "little", signed=True))


def factor_of(posterior: RewardPosterior) -> Tensor | None:
    """The factor of a Gaussian, or within members; None where there is none."""
    if isinstance(posterior, GaussianRewards):
        return posterior.factor
    return posterior.within_factor if isinstance(posterior, MemberRewards) else None


def _with_unknown(values: Tensor) -> Tensor:
    """Rows and one more of NaN, for responses that are not scored."""
    return torch.cat([values, values.new_full((1, *values.shape[1:]), torch.nan)])


def _check_same(name: str, posterior: RewardPosterior, own: Tensor, known: Mapping[str, Tensor]) -> None:
    if int(basis_digest(posterior)) != int(known["basis"]) or own.shape[1] != known[name].shape[1]:
        raise PosteriorError(
            "the rewards are of another model, ensemble or projection than the reference rewards that the utility was "
            "fitted on, so they cannot be compared: fit the utility on reference responses scored in the same way"
        )
