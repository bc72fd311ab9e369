"""The aleatoric part of a Gaussian: independent between texts, shared by equal texts of a prompt."""

import torch
from torch import Generator, Tensor

from prudent.rewards._rows import draw_normal

__all__ = ["noise_covariance", "noise_draws", "noise_of_contrast"]


def noise_of_contrast(noise: Tensor, group: Tensor, text_id: Tensor | None, i: Tensor, j: Tensor) -> Tensor:
    """What noise of variance [N] adds to the variance of r_i - r_j, rows [P]: it cancels between equal texts."""
    a, b = noise[i], noise[j]
    return torch.where(_same_text(group, text_id, i, j), (a.sqrt() - b.sqrt()).square(), a + b)


def noise_covariance(noise: Tensor, group: Tensor, text_id: Tensor | None, rows: Tensor) -> Tensor:
    """Covariance [n, n] of the noise of some rows [n]."""
    std = noise[rows].sqrt()
    return _same_text(group, text_id, rows[:, None], rows) * (std[:, None] * std)


def noise_draws(
    noise: Tensor, group: Tensor, text_id: Tensor | None, num_samples: int, generator: Generator | None
) -> Tensor:
    """Draws [S, N] of the noise, one normal for each distinct text of a prompt."""
    text = torch.arange(len(noise), device=noise.device) if text_id is None else text_id
    _, text = torch.unique(torch.stack([group, text], 1), dim=0, return_inverse=True)
    z = draw_normal((num_samples, int(text.max()) + 1 if len(text) else 0), generator, noise)
    return z[:, text] * noise.sqrt()


def _same_text(group: Tensor, text_id: Tensor | None, i: Tensor, j: Tensor) -> Tensor:
    if text_id is None:
        return i == j
    return (i == j) | ((text_id[i] == text_id[j]) & (group[i] == group[j]))
