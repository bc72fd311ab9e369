"""What is not known of rewards besides which member is right: Gaussian with mean zero, the same for all members."""

from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards._gaussian import GaussianRewards

__all__ = ["WithinMembers"]


class WithinMembers:
    """The doubt within members, and aleatoric noise, of N responses.

    Args:
        like: [N, M] rewards of the members, whose type and device this has.
        group: [N] integer prompt ids.
        variance: [N] exact marginal variance within a member; None for members that are sure of themselves.
        factor: [N, K] factor of that covariance; None where it is not known.
        noise: [N] aleatoric variances; None for zeros.
        text_id: [N] responses of a prompt with the same id share their noise.

    Attributes:
        is_absent: no doubt within members.
        noise: [N] aleatoric variance.
        text_id: [N] as given.

    Raises:
        ValueError: wrong shapes, a negative variance, or a factor without its variance.
    """

    def __init__(
        self,
        like: Tensor,
        group: Tensor,
        variance: Tensor | None,
        factor: Tensor | None,
        noise: Tensor | None,
        text_id: Tensor | None,
    ) -> None:
        if variance is None and factor is not None:
            raise ValueError("within_factor needs within_variance, the exact marginal variances beside it")
        self.is_absent = variance is None
        zeros = like.new_zeros(len(like))
        if variance is None:
            variance, factor = zeros, like.new_zeros(len(like), 0)
        self._gaussian = GaussianRewards(zeros, variance, group, factor, noise, text_id)
        self.noise, self.text_id = self._gaussian.noise, self._gaussian.text_id

    @property
    def variance(self) -> Tensor | None:
        """[N] of a reward within a member; None where members have none."""
        return None if self.is_absent else self._gaussian.variance

    @property
    def factor(self) -> Tensor | None:
        """[N, K] of the covariance within a member; None where there is none, or it is not known."""
        return None if self.is_absent else self._gaussian.factor

    @property
    def num_columns(self) -> int | str:
        """K; `none` where the factor is not known."""
        return "none" if self.factor is None else self.factor.shape[1]

    def arguments(self, rows: Tensor) -> dict[str, Tensor | None]:
        """What `MemberRewards` takes, of some rows."""
        named = {
            "within_variance": self.variance,
            "within_factor": self.factor,
            "noise": self.noise,
            "text_id": self.text_id,
        }
        return {name: None if values is None else values[rows] for name, values in named.items()}

    def is_nothing(self, include_noise: bool) -> bool:
        """Whether nothing is random here: no doubt within members, and no noise to count."""
        return self.is_absent and not (include_noise and bool((self.noise > 0).any()))

    def joint(self, what: str) -> GaussianRewards:
        """The joint distribution, for what needs more than single responses.

        Raises:
            UnsupportedError: the factor is not known; `what` is named.
        """
        if self._gaussian.factor is None:
            raise UnsupportedError(
                f"MemberRewards with a variance within members but not its factor cannot do {what}: it knows single "
                "responses only. Score with the factor stored (score --factor)"
            )
        return self._gaussian

    def marginal_variance(self, include_noise: bool) -> Tensor | None:
        """[N] variance that a single reward has from here; None where nothing is random here."""
        if self.is_nothing(include_noise):
            return None
        return self._gaussian.variance + self.noise if include_noise else self._gaussian.variance

    def contrast(self, i: Tensor | int, j: Tensor | int, include_noise: bool, what: str) -> Tensor | None:
        """Variance that r_i - r_j has from here; None where nothing is random here. See `joint` for errors."""
        if self.is_nothing(include_noise):
            return None
        return self.joint(what).contrast(i, j, include_noise=include_noise)[1]
