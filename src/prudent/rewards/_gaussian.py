"""A jointly Gaussian posterior over rewards."""

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from prudent.errors import UnsupportedError
from prudent.rewards._arrow import gaussian_table
from prudent.rewards._groups import index_groups
from prudent.rewards._mixture import NormalMixture
from prudent.rewards._noise import noise_covariance, noise_draws, noise_of_contrast
from prudent.rewards._prob_best import sampled_prob_best
from prudent.rewards._rows import (
    check_moments,
    check_vector,
    chunks,
    draw_normal,
    group_vector,
    row_index,
    row_pairs,
)
from prudent.rewards._sigmoid import expected_sigmoid, normal_greater

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["GaussianRewards"]


class GaussianRewards:
    """Rewards of N responses under one Gaussian: r ~ N(mean, factor @ factor.T), plus independent noise.

    The factor is epistemic: responses share the model's weights, so they correlate. `variance` is the exact
    marginal variance and need not equal the row norms of the factor, which may be a random projection of a
    wider one; comparisons (`contrast`, `covariance`, `sample`, `prob_best`) use the factor, everything about
    single responses uses `variance`.

    Args:
        mean: [N] posterior means in logits, float32 or float64 (others become float32). NaN: not scored.
        variance: [N] marginal epistemic variances, >= 0. NaN: not known, and then whatever reads it is NaN, as where
            the response is not scored; the mean stays (scores made elsewhere have no more than that).
        group: [N] integer prompt ids; by default all responses answer one prompt.
        factor: [N, K] of any floating type (float16 halves a file); computed with in the type of `mean`.
        noise: [N] aleatoric variances, >= 0; zeros by default.
        text_id: [N] integers; responses of a prompt with the same id are the same text and share their noise.
        basis_id: name of what the factor's columns mean. Factors with different ids cannot be mixed.

    Raises:
        ValueError: shapes do not agree, or a variance is negative or infinite.

    Example:
        >>> import torch
        >>> factor = torch.tensor([[1.0, 0.0], [1.0, 0.5]])
        >>> rewards = GaussianRewards(torch.tensor([0.0, 1.0]), factor.square().sum(1), factor=factor)
        >>> [x.item() for x in rewards.contrast(torch.tensor(1), torch.tensor(0))]
        [1.0, 0.25]
        >>> round(rewards.prob_greater(torch.tensor(1), torch.tensor(0)).item(), 4)
        0.9772
    """

    def __init__(
        self,
        mean: Tensor,
        variance: Tensor,
        group: Tensor | None = None,
        factor: Tensor | None = None,
        noise: Tensor | None = None,
        text_id: Tensor | None = None,
        basis_id: str | None = None,
    ) -> None:
        if mean.dim() != 1:
            raise ValueError(f"mean must be a vector [N], got shape {list(mean.shape)}")
        size, device = len(mean), mean.device
        self.mean = mean if mean.dtype == torch.float64 else mean.float()
        if bool(self.mean.isinf().any()):
            raise ValueError(f"mean is infinite in row {int(self.mean.isinf().nonzero()[0])}; use NaN for not scored")
        check_moments("variance", variance, size)
        self.variance = variance.to(self.mean)
        self.group = group_vector(group, size, device)
        if noise is None:
            self.noise = torch.zeros_like(self.mean)
        else:
            check_moments("noise", noise, size)
            self.noise = noise.to(self.mean)
        if factor is not None and (factor.dim() != 2 or len(factor) != size or not factor.is_floating_point()):
            raise ValueError(f"factor must be floating [{size}, K], got {list(factor.shape)} {factor.dtype}")
        self.factor = None if factor is None else factor.to(device)
        if text_id is not None:
            check_vector("text_id", text_id, size)
            if text_id.is_floating_point():
                raise ValueError(f"text_id must hold integers, got {text_id.dtype}")
            text_id = text_id.to(device=device, dtype=torch.int64)
        self.text_id = text_id
        self.basis_id = basis_id

    def __len__(self) -> int:
        return len(self.mean)

    def __repr__(self) -> str:
        columns = "none" if self.factor is None else self.factor.shape[1]
        return f"GaussianRewards(N={len(self)}, factor columns={columns}, basis_id={self.basis_id!r})"

    def __getitem__(self, index: slice | Tensor) -> "GaussianRewards":
        rows = row_index(index, len(self), self.mean.device)
        return GaussianRewards(
            self.mean[rows],
            self.variance[rows],
            self.group[rows],
            None if self.factor is None else self.factor[rows],
            self.noise[rows],
            None if self.text_id is None else self.text_id[rows],
            self.basis_id,
        )

    def contrast(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and variance of r_i - r_j.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: add the aleatoric variances; identical texts share theirs, so it cancels.

        Returns:
            Mean and variance (>= 0) of the broadcast shape; exactly 0 and 0 where i is j.

        Raises:
            UnsupportedError: there is no factor.

        Example:
            >>> import torch
            >>> rewards = GaussianRewards(torch.zeros(2), torch.ones(2), factor=torch.eye(2), noise=torch.ones(2))
            >>> rewards.contrast(torch.tensor([0, 0]), torch.tensor([0, 1]), include_noise=True)[1].tolist()
            [0.0, 4.0]
        """
        factor = self._require_factor("contrast")
        i, j = row_pairs(i, j, self.mean.device)
        shape, i, j = i.shape, i.reshape(-1), j.reshape(-1)
        variance = torch.empty(len(i), dtype=self.mean.dtype, device=self.mean.device)
        for part in chunks(len(i), factor.shape[1]):
            difference = factor[i[part]].to(self.mean.dtype) - factor[j[part]].to(self.mean.dtype)
            variance[part] = difference.square().sum(1)
        if include_noise:
            variance = variance + noise_of_contrast(self.noise, self.group, self.text_id, i, j)
        return (self.mean[i] - self.mean[j]).reshape(shape), variance.reshape(shape)

    def covariance(self, index: Tensor | None = None, *, include_noise: bool = False) -> Tensor:
        """Covariance matrix of some responses, as the factor has it (so it is positive semi-definite).

        Args:
            index: [n] row numbers or booleans [N]; all rows by default.
            include_noise: add the aleatoric variances, shared between identical texts.

        Returns:
            [n, n] in the type of `mean`.

        Raises:
            UnsupportedError: there is no factor.

        Example:
            >>> import torch
            >>> rewards = GaussianRewards(torch.zeros(2), torch.ones(2), factor=torch.ones(2, 1))
            >>> rewards.covariance().tolist()
            [[1.0, 1.0], [1.0, 1.0]]
        """
        rows = row_index(slice(None) if index is None else index, len(self), self.mean.device)
        factor = self._require_factor("covariance")[rows].to(self.mean.dtype)
        covariance = factor @ factor.T
        if include_noise:
            covariance = covariance + noise_covariance(self.noise, self.group, self.text_id, rows)
        return covariance

    def sample(self, num_samples: int, generator: Generator | None = None, *, include_noise: bool = False) -> Tensor:
        """Joint draws of the rewards.

        Args:
            num_samples: S, at least 1.
            generator: source of randomness; seed 0 by default.
            include_noise: add aleatoric draws, shared between identical texts.

        Returns:
            [S, N] in the type of `mean`. Without noise a response has the same draws in every slice.

        Raises:
            UnsupportedError: there is no factor.

        Example:
            >>> import torch
            >>> rewards = GaussianRewards(torch.zeros(2), torch.ones(2), factor=torch.ones(2, 1))
            >>> draws = rewards.sample(5)
            >>> draws.shape, bool((draws[:, 0] == draws[:, 1]).all())
            (torch.Size([5, 2]), True)
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        factor = self._require_factor("sample")
        z = draw_normal((num_samples, factor.shape[1]), generator, self.mean)
        samples = torch.empty(num_samples, len(self), dtype=self.mean.dtype, device=self.mean.device)
        for part in chunks(len(self), factor.shape[1]):
            samples[:, part] = self.mean[part] + z @ factor[part].to(self.mean.dtype).T
        if include_noise:
            samples += noise_draws(self.noise, self.group, self.text_id, num_samples, generator)
        return samples

    def marginal(self, *, include_noise: bool = False) -> NormalMixture:
        """The distribution of every single response, from the exact marginal variance; no factor is needed.

        Args:
            include_noise: count the aleatoric variance too.

        Returns:
            Normal distributions, exact.

        Example:
            >>> import torch
            >>> marginal = GaussianRewards(torch.tensor([1.0]), torch.tensor([4.0])).marginal()
            >>> marginal.log_expected_exp(-1.0).tolist()  # -mean + variance / 2
            [1.0]
        """
        return NormalMixture(self.mean[:, None], self.variance, self.noise if include_noise else None)

    def prob_greater(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """P(r_i > r_j), accurate in the tails; a half where the two are equal for sure.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: count the aleatoric variance too.

        Returns:
            float64 probabilities of the broadcast shape.

        Raises:
            UnsupportedError: there is no factor.

        Example:
            >>> import torch
            >>> rewards = GaussianRewards(torch.zeros(1), torch.ones(1), factor=torch.ones(1, 1))
            >>> rewards.prob_greater(torch.tensor(0), torch.tensor(0)).item()
            0.5
        """
        return normal_greater(*self.contrast(i, j, include_noise=include_noise))

    def prob_preferred(self, i: Tensor | int, j: Tensor | int, *, include_noise: bool = False) -> Tensor:
        """E sigma(r_i - r_j): what a Bradley-Terry judge does, averaged over the posterior.

        Args:
            i: row numbers, an integer tensor of any shape or a plain integer.
            j: the same; broadcasts against `i`.
            include_noise: count the aleatoric variance too.

        Returns:
            float64 probabilities of the broadcast shape (quadrature, error below 1e-12).

        Raises:
            UnsupportedError: there is no factor.

        Example:
            >>> import torch
            >>> rewards = GaussianRewards(torch.tensor([2.0, 0.0]), torch.ones(2), factor=3 * torch.eye(2))
            >>> round(rewards.prob_preferred(torch.tensor(0), torch.tensor(1)).item(), 4)
            0.6681
        """
        return expected_sigmoid(*self.contrast(i, j, include_noise=include_noise))

    def prob_best(self, num_samples: int = 1024, generator: Generator | None = None) -> Tensor:
        """Probability of being the best response of its prompt, by joint draws of the epistemic part.

        Args:
            num_samples: S; the standard error of a probability p is sqrt(p (1 - p) / S).
            generator: source of randomness; seed 0 by default.

        Returns:
            [N] float64 that sums to 1 over the scored responses of a prompt; exact ties share. NaN: not
            scored.

        Raises:
            UnsupportedError: there is no factor.

        Example:
            >>> import torch
            >>> rewards = GaussianRewards(torch.zeros(2), torch.ones(2), factor=torch.ones(2, 1))
            >>> rewards.prob_best(16).tolist()  # perfectly correlated, equal means: always tied
            [0.5, 0.5]
        """
        return sampled_prob_best(self, num_samples, generator)

    def center(self, is_reference: Tensor) -> "GaussianRewards":
        """Rewards relative to the mean reward of the reference responses of each prompt.

        A pair likelihood never identifies a constant per prompt; centering removes the variance that stands
        for it. References that are not scored are left out. The noise is kept as it is: that of the
        references is not added. When the factor is a projection, so is the variance computed here; scoring
        stores the exact one.

        Args:
            is_reference: [N] booleans, at least one per prompt.

        Returns:
            Posterior of r - mean over the prompt's references, same groups and basis.

        Raises:
            UnsupportedError: there is no factor.
            ValueError: wrong shape or type, or a prompt has no reference.

        Example:
            >>> import torch
            >>> rewards = GaussianRewards(torch.tensor([1.0, 3.0]), torch.ones(2), factor=torch.ones(2, 1))
            >>> centered = rewards.center(torch.tensor([True, False]))
            >>> centered.mean.tolist(), centered.variance.tolist()
            ([0.0, 2.0], [0.0, 0.0])
        """
        factor = self._require_factor("center").to(self.mean.dtype)
        check_vector("is_reference", is_reference, len(self))
        if is_reference.dtype != torch.bool:
            raise ValueError(f"is_reference must be boolean, got {is_reference.dtype}")
        groups = index_groups(self.group)
        is_reference = is_reference.to(self.mean.device)
        missing = groups.sum(is_reference.long()) == 0
        if bool(missing.any()):
            raise ValueError(f"prompt {int(groups.ids[missing][0])} has no reference response")
        used = is_reference & ~self.mean.isnan()
        position, count = groups.position[used], groups.sum(used.to(self.mean.dtype))
        mean = torch.zeros_like(count).index_add_(0, position, self.mean[used]) / count
        columns = factor.new_zeros(len(count), factor.shape[1]).index_add_(0, position, factor[used])
        centered = factor - (columns / count.clamp(min=1)[:, None])[groups.position]
        return GaussianRewards(
            self.mean - mean[groups.position],
            centered.square().sum(1),
            self.group,
            centered,
            self.noise,
            self.text_id,
            self.basis_id,
        )

    def to_arrow(self) -> "pa.Table":
        """Columns reward_mean, reward_variance, reward_noise, prompt_id and, where present, reward_factor and text_id.

        Returns:
            A table that `from_arrow` reads back bit for bit (a bfloat16 factor becomes float32).

        Example:
            >>> import torch
            >>> GaussianRewards(torch.zeros(2), torch.ones(2)).to_arrow().column_names
            ['prompt_id', 'reward_mean', 'reward_variance', 'reward_noise']
        """
        return gaussian_table(
            self.group, self.mean, self.variance, self.noise, self.factor, self.text_id, self.basis_id
        )

    def _require_factor(self, what: str) -> Tensor:
        if self.factor is None:
            raise UnsupportedError(
                f"GaussianRewards without a factor cannot do {what}: it knows single responses only. "
                "Score with the factor stored (score --factor)"
            )
        return self.factor
