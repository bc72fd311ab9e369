"""M small networks on the same features as one tensor problem: applied together, drawn together, trained together."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["HIDDEN_SIZE", "Layers", "apply_heads", "layer_sizes"]

HIDDEN_SIZE = 128
"""Width of the two hidden layers of an mlp, as RewardUQ's ensemble of heads has them (arXiv 2602.24040)."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Of each layer the weights `[M, out, in]` and biases `[M, out]` of M networks; between layers stands a ReLU."""


def layer_sizes(architecture: str, num_features: int, num_outputs: int) -> list[tuple[int, int]]:
    """Inputs and outputs of each layer of a head.

    Args:
        architecture: `linear` or `mlp`.
        num_features: H.
        num_outputs: D.
    """
    hidden = [] if architecture == "linear" else [HIDDEN_SIZE, HIDDEN_SIZE]
    widths = [num_features, *hidden, num_outputs]
    return list(pairwise(widths))


def apply_heads(layers: Layers, features: Tensor) -> Tensor:
    """Outputs of M networks for the same texts; the first layers of all are one matrix product.

    Args:
        layers: of the networks.
        features: `[N, H]`, of the layers' dtype.

    Returns:
        `[M, N, D]`.
    """
    weight, bias = layers[0]
    members, width, _ = weight.shape
    first = torch.addmm(bias.reshape(-1), features, weight.reshape(members * width, -1).T)
    values = first.reshape(len(features), members, width).transpose(0, 1)
    for weight, bias in layers[1:]:
        values = torch.baddbmm(bias.unsqueeze(1), values.relu(), weight.transpose(1, 2))
    return values
