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
    "basis_digest",
    "by_prompt",
    "look_up",
    "mean_tensors",
    "quantile_tensors",
    "scored_rows",
    "shift_from",
    "spread",
    "take_rows",
]


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

    def average(values: Tensor, ranks: Tensor) -> Tensor:
        return index.sum(values) / index.counts.reshape(-1, *[1] * (values.dim() - 1))

    return _weighted(references, average)


def quantile_tensors(references: RewardPosterior, index: GroupIndex, q: float) -> dict[str, Tensor]:
    """The empirical quantile, linear between two order statistics (type 7, as numpy has it); see `_weighted`."""
    start = index.counts.cumsum(0) - index.counts
    place = (index.counts - 1).double() * q
    low = place.floor().long()
    high = torch.minimum(low + 1, index.counts - 1)

    def between(values: Tensor, ranks: Tensor) -> Tensor:
        order = torch.argsort(ranks, stable=True)
        order = order[torch.argsort(index.position[order], stable=True)]
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
    mean, factor = references.mean.double(), _factor(references)
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
    deviation = values - (index.sum(values) / count)[index.position]
    return (index.sum(deviation.square()) / (count - 1)).sqrt()


def as_state(
    tensors: Mapping[str, Tensor], index: GroupIndex, pooled: bool, references: RewardPosterior
) -> TransformState:
    """The state that remembers tensors [B, ...] of each prompt, or of all prompts together."""
    tensors = {name: values.cpu() for name, values in tensors.items()}
    basis = {"basis": basis_digest(references)}
    if pooled:
        return TransformState(shared=tensors | basis)
    return TransformState(index.ids.cpu(), tensors, basis)


def look_up(posterior: RewardPosterior, state: TransformState, what: str) -> tuple[Mapping[str, Tensor], Tensor]:
    """The tensors of a state, and the row [N] in them of each response; one past the last where it is not scored.

    Raises:
        DataError: nothing is known of the prompt of a scored response.
    """
    if "reference" in state.shared:
        return state.shared, torch.zeros_like(posterior.group)
    scored = ~posterior.mean.isnan()
    place = torch.full_like(posterior.group, len(state.prompts))
    place[scored] = state.position(posterior.group[scored], what)
    return state.per_prompt, place


def take_rows(values: Tensor, place: Tensor) -> Tensor:
    """Rows of `values` [B, ...] at `place` [N], on its device; NaN where the place is B."""
    padded = torch.cat([values, values.new_full((1, *values.shape[1:]), torch.nan)])
    return padded.to(place.device)[place]


def shift_from(posterior: RewardPosterior, state: TransformState, what: str) -> Shift:
    """What is subtracted from each response of a posterior.

    Args:
        posterior: of N responses.
        state: made by `as_state`.
        what: names the transform.

    Raises:
        DataError: nothing is known of the prompt of a scored response.
        PosteriorError: members or factors that do not mean the same as those of the references.
    """
    tensors, place = look_up(posterior, state, what)
    members, factor = tensors.get("members"), tensors.get("factor")
    if not isinstance(posterior, MemberRewards):
        members = None
    if _factor(posterior) is None:
        factor = None
    if members is not None or factor is not None:
        _check_basis(posterior, state.shared["basis"], members, factor)
    if factor is not None:
        factor = factor.to(posterior.mean.dtype)
    return Shift(
        take_rows(tensors["reference"], place),
        None if members is None else take_rows(members, place),
        None if factor is None else take_rows(factor, place),
    )


def basis_digest(posterior: RewardPosterior) -> Tensor:
    """An int64 that stands for the `basis_id` of a posterior, since a state holds tensors alone; 0 without one."""
    name = posterior.basis_id if isinstance(posterior, GaussianRewards | MemberRewards) else None
    if name is None:
        return torch.tensor(0)
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return torch.tensor(int.from_bytes(digest, "little", signed=True))


def _factor(posterior: RewardPosterior) -> Tensor | None:
    if isinstance(posterior, GaussianRewards):
        return posterior.factor
    return posterior.within_factor if isinstance(posterior, MemberRewards) else None


def _check_basis(posterior: RewardPosterior, basis: Tensor, members: Tensor | None, factor: Tensor | None) -> None:
    is_same = int(basis_digest(posterior)) == int(basis)
    if members is not None and isinstance(posterior, MemberRewards):
        is_same &= members.shape[1] == posterior.members.shape[1]
    own = _factor(posterior)
    if factor is not None and own is not None:
        is_same &= factor.shape[1] == own.shape[1]
    if not is_same:
        raise PosteriorError(
            "the rewards are of another model, ensemble or projection than the reference rewards that the utility was "
            "fitted on, so they cannot be compared: fit the utility on reference responses scored in the same way"
        )
