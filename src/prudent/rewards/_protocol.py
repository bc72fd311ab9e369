"""What every kind of reward posterior can do."""

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from torch import Generator, Tensor

from prudent.rewards._marginal import Marginal

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RewardPosterior"]


@runtime_checkable
class RewardPosterior(Protocol):
    """A joint posterior over the rewards of N responses, flat over prompts.

    Rewards are in logits (nats): sigma(r_i - r_j) is the probability that i is preferred to j. Only
    differences within a prompt mean anything. NaN in `mean` says "not scored" and comes out of every method
    as NaN. The *epistemic* part (doubt about the weights) is what counts by default; `include_noise=True`
    adds the *aleatoric* part (`noise`). A kind that cannot do something raises
    `prudent.errors.UnsupportedError`, which names the kind and what can.
    """

    @property
    def group(self) -> Tensor:
        """[N] int64, the prompt of each response; ids need not be dense or ordered."""

    @property
    def mean(self) -> Tensor:
        """[N] float32 or float64, posterior mean of each reward."""

    @property
    def variance(self) -> Tensor:
        """[N] marginal epistemic variance of each reward."""

    @property
    def noise(self) -> Tensor:
        """[N] aleatoric variance of each reward, zero where there is none."""

    def __len__(self) -> int:
        """N, the number of responses."""

    def __getitem__(self, index: slice | Tensor) -> Self:
        """The posterior of some responses (slice, integer or boolean tensor [n]); group ids are kept."""

    def contrast(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and variance of r_i - r_j for index tensors that broadcast; exactly 0 and 0 where i is j."""

    def covariance(self, index: Tensor | None = None, *, include_noise: bool = False) -> Tensor:
        """Covariance matrix [n, n] of the responses `index` [n] (all of them by default)."""

    def sample(self, num_samples: int, generator: Generator | None = None, *, include_noise: bool = False) -> Tensor:
        """Joint draws [S, N]; without noise, equal generators give a response the same draws in any slice."""

    def marginal(self, *, include_noise: bool = False) -> Marginal:
        """The distribution of every single response, which needs no factor: quantiles, tails, expectations."""

    def prob_greater(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """P(r_i > r_j) in float64, exact ties counting a half."""

    def prob_preferred(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """E sigma(r_i - r_j) in float64, the probability that a Bradley-Terry judge prefers i."""

    def prob_best(self, num_samples: int = 1024, generator: Generator | None = None) -> Tensor:
        """Probability of being the best of its prompt: [N] float64, sums to 1 in a prompt; ties share."""

    def to_arrow(self) -> "pa.Table":
        """An Arrow table that `from_arrow` reads back."""
