"""Rewards relative to a reference reward of the prompt.

References:
    Wang et al., Transforming and Combining Rewards for Aligning Large Language Models,
        https://arxiv.org/abs/2402.00742, 2024 (a quantile of the base policy's rewards, or a canned response).
    Fu et al., Reward Shaping to Mitigate Reward Hacking in RLHF, https://arxiv.org/abs/2502.18770, 2025 (0.85, and a
        normal fit to the stored samples, in its re-implementation of that paper).
"""

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prudent.errors import DataError
from prudent.rewards import GroupIndex, MemberRewards, RewardPosterior
from prudent.utility._affine import Shift, affine
from prudent.utility._learned import learn_reference, learned_shift
from prudent.utility._statistic import (
    as_state,
    average,
    by_prompt,
    mean_tensors,
    place_of,
    quantile_tensors,
    scored_rows,
    shift_from,
    spread,
)
from prudent.utility._transform import PromptFeatures, Scale, TransformState

__all__ = ["Center"]

_SAME_RESPONSE = 1e-3
"""How far, relative to its size, the reward of one response may differ between two rows: rounding of half precision."""


@dataclass(frozen=True)
class Center:
    """Subtract a reference reward of the prompt, by default the 0.85 quantile of what the base policy's responses get.

    A Bradley-Terry reward is known up to a constant per prompt, so only r - reference means anything. What is
    subtracted has a posterior too. Between a Gaussian with a factor and references in the same basis the variance
    becomes that of the contrast with the reference: with the mean (weights 1/R), with a canned response, with the two
    order statistics that an empirical quantile lies between, *their ranking taken as known* at the posterior means; a
    normal fit counts as its mean, *its spread taken as known*. Each member of an ensemble subtracts the statistic of
    its own rewards, as it ranks them itself; a factor within members is treated as that of a Gaussian. A variance from
    a factor that is a projection is right on average only.

    Without a factor the variance stays as it is. In a scored file that is right for the mean of a prompt's references
    and for a canned response, since the exact variance of that contrast is stored, and read instead of the reward's
    own. For a quantile without a factor *the contrast with the mean of the references stands in* for that with the
    order statistics; with the factor in the file it is computed. Where no contrast is stored, and for `at`, `of="all"`
    without a factor and `of="learned"`, the variance is the reward's own: the reference counts as known. The noise
    stays as it is.

    Reference responses that are not scored are left out.

    Attributes:
        statistic: "quantile" or "mean" of the reference rewards.
        q: level of the quantile, between 0 and 1.
        fit: "empirical", linear between two order statistics (numpy's default, type 7; a single response is its own
            quantile), or "normal", mean + z_q * std (ddof 1), for few samples.
        of: "prompt", the references of the response's own prompt; "all", one statistic over those of all prompts;
            "learned", mean and standard deviation of a prompt's reference rewards predicted from its features (the
            reference is mean + z_q * std, whatever `fit`), for prompts without references; see `learned_error`.
        canned: text of the response that is the only reference of every prompt; who calls `init` gives its rewards.
        at: a constant, where the reference is known without responses.

    Raises:
        ValueError: a field is out of range, or two contradict each other; both are named.

    Example:
        >>> import torch
        >>> from prudent.rewards import GaussianRewards
        >>> rewards = GaussianRewards(torch.tensor([1.0, 3.0, 2.0]), torch.ones(3), factor=torch.ones(3, 1))
        >>> center = Center("mean")
        >>> centered = center.apply(rewards, center.init(rewards))
        >>> centered.mean.tolist(), centered.variance.tolist()
        ([-1.0, 1.0, 0.0], [0.0, 0.0, 0.0])
    """

    statistic: Literal["quantile", "mean"] = "quantile"
    q: float = 0.85
    fit: Literal["empirical", "normal"] = "empirical"
    of: Literal["prompt", "all", "learned"] = "prompt"
    canned: str | None = None
    at: float | None = None
    name: ClassVar[str] = "center"
    takes: ClassVar[tuple[Scale, ...]] = ("reward", "centered", "number")

    def __post_init__(self) -> None:
        for field, known in (
            ("statistic", ("quantile", "mean")),
            ("fit", ("empirical", "normal")),
            ("of", ("prompt", "all", "learned")),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"center: {field} must be {' or '.join(known)}, got {getattr(self, field)!r}")
        if not 0 < self.q < 1:
            raise ValueError(f"center: q must lie between 0 and 1, got {self.q}")
        if self.at is not None:
            if not math.isfinite(self.at):
                raise ValueError(f"center: at must be finite, got {self.at}")
            self._alone("at", "is a constant")
        elif self.canned is not None:
            self._alone("canned", "is a single response")
        elif self.statistic == "mean":
            for field in ("q", "fit"):
                if not self._is_default(field):
                    raise ValueError(
                        f"center: {field}={getattr(self, field)!r} is for a quantile, not statistic='mean'"
                    )

    @property
    def needs_references(self) -> bool:
        """Whether `init` must be given reference responses."""
        return self.at is None

    def gives(self, scale: Scale) -> Scale:
        """Relative to a reference."""
        return "centered"

    def init(self, references: RewardPosterior, features: PromptFeatures | None = None) -> TransformState:
        """Find the reference of each prompt.

        Args:
            references: rewards of reference responses; of a canned response, a row for each prompt.
            features: of their prompts, for `of="learned"`.

        Raises:
            DataError: none is scored; a normal fit of a single response; several different responses where one is
                canned; features that do not serve to learn from.
        """
        if self.at is not None:
            return TransformState()
        scored = scored_rows(references, self.name)
        if self.of == "learned":
            return learn_reference(scored, features, self._z)
        index = by_prompt(scored, pooled=self.of == "all")
        return as_state(self._tensors(scored, index), index, self.of == "all", scored)

    def apply(
        self, posterior: RewardPosterior, state: TransformState, features: PromptFeatures | None = None
    ) -> RewardPosterior:
        """Centered rewards of N responses.

        Args:
            posterior: rewards, in the basis of the references.
            state: from `init`.
            features: of the prompts of these responses, for `of="learned"`; those of `init` are remembered without.

        Raises:
            DataError: nothing is known of the prompt of a scored response.
            PosteriorError: members or factors do not mean the same as those of the references.
        """
        if self.at is not None:
            return affine(posterior, Shift(torch.full_like(posterior.mean, self.at, dtype=torch.float64)))
        if self.of == "learned":
            return affine(posterior, learned_shift(posterior, state, features, self._z))
        return affine(posterior, shift_from(posterior, state, place_of(posterior, state, self.name)))

    def _tensors(self, references: RewardPosterior, index: GroupIndex) -> dict[str, Tensor]:
        if self.canned is not None:
            _require_one_response(references, index)
            return mean_tensors(references, index)
        if self.statistic == "mean":
            return mean_tensors(references, index)
        if self.fit == "empirical":
            return quantile_tensors(references, index, self.q)
        tensors, z = mean_tensors(references, index), self._z
        remedy = "write fit=empirical, or take one reference for all (of=all)"
        if isinstance(references, MemberRewards):
            tensors["members"] += z * spread(references.members.double(), index, "center(fit=normal)", remedy)
            tensors["reference"] = tensors["members"].mean(1)
        else:
            tensors["reference"] += z * spread(references.mean.double(), index, "center(fit=normal)", remedy)
        return tensors

    @property
    def _z(self) -> float:
        """Standard deviations that the reference lies above the mean, of a normal distribution."""
        return (
            0.0 if self.statistic == "mean" else float(torch.special.ndtri(torch.tensor(self.q, dtype=torch.float64)))
        )

    def _alone(self, field: str, what: str) -> None:
        for other in fields(self):
            if other.name != field and not self._is_default(other.name):
                raise ValueError(
                    f"center: {field}={getattr(self, field)!r} {what}, which {other.name}="
                    f"{getattr(self, other.name)!r} contradicts"
                )

    def _is_default(self, field: str) -> bool:
        return bool(getattr(self, field) == getattr(type(self), field))


def _require_one_response(references: RewardPosterior, index: GroupIndex) -> None:
    """A canned response has one reward a prompt, in however many rows it stands."""
    mean = references.mean.double()
    one = average(mean, index)[index.position]
    differs = (mean - one).abs() > _SAME_RESPONSE * (1 + one.abs())
    if bool(differs.any()):
        raise DataError(
            f"center(canned=...) needs the reward of one response for each prompt, and those of prompt "
            f"{int(references.group[differs][0])} differ: give the rewards of the canned response alone"
        )
