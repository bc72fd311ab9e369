"""MLP heads by Adam: all members see the same batches, each with its own weights of the data and its own best epoch."""

import torch
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.posteriors._heads_network import Layers, apply_heads, layer_sizes
from prudent.posteriors._heads_task import HeadsTask, member_weights

__all__ = ["MIN_MLP_DATA", "train_mlp"]

MIN_MLP_DATA = 20
"""Fewer pairs or responses cannot give a tenth to stop early by."""

_HELD_OUT_SHARE = 0.1
_LEARNING_RATE = 1e-3
_BATCH_SIZE = 128
_NUM_EPOCHS = 60


def train_mlp(
    task: HeadsTask,
    prior_precision: float,
    generators: list[torch.Generator],
    *,
    bootstrap: bool,
    prior_function: bool,
    seed: int,
) -> list[tuple[Tensor, Tensor]]:
    """Layers float32 of M heads on the task's features, each head the sum of two networks over a prior function.

    The prior draws hidden weights from N(0, 2 / inputs) and output weights so that a reward has variance
    `H / prior_precision`, that of a linear head under the same precision. `anchor` pulls every parameter to the draw it
    starts from, by its precision under the prior; `prior_function` leaves the draw as it is and adds a network whose
    output starts at 0 (arXiv 1806.03335). Noise and widths of quantiles start alike in all heads. Adam takes 60 epochs,
    its rate falling to 0; each member keeps its best epoch by the loss on a tenth of the prompts, which none trains on.

    Args:
        task: of any floating type.
        prior_precision: positive.
        generators: of the members.
        bootstrap: see `member_weights`.
        prior_function: instead of anchors.
        seed: of the prompts held out and of the order of batches, which the members share.

    Returns:
        Of each layer the weights `[M * S, out, in]` and biases `[M * S, out]`, S the number of networks of a head.

    Raises:
        PosteriorError: fewer than 20 data, or the loss of a member is finite after no epoch.
    """
    if len(task) < MIN_MLP_DATA:
        raise PosteriorError(f"mlp heads need at least {MIN_MLP_DATA} data to stop by, there are {len(task)}")
    task = task.to(torch.float32)
    order = torch.Generator().manual_seed(seed)
    held_out = _held_out_rows(task.group, order)
    test, train = task.select(held_out.nonzero().flatten()), task.select((~held_out).nonzero().flatten())
    anchors, spreads = _draw(task, prior_precision, generators)
    fixed = [(weight.clone(), bias.clone()) for weight, bias in anchors] if prior_function else None
    if prior_function:
        last = anchors[-1][0]
        anchors[-1] = (torch.zeros_like(last), torch.zeros_like(anchors[-1][1]))
    weights = member_weights(train.group, generators, bootstrap=bootstrap).float()
    layers = [(weight.clone().requires_grad_(True), bias.clone().requires_grad_(True)) for weight, bias in anchors]
    optimizer = torch.optim.Adam([tensor for layer in layers for tensor in layer], lr=_LEARNING_RATE)

    def outputs(inputs: Tensor) -> Tensor:
        found = apply_heads(layers, inputs)
        return found if fixed is None else found + apply_heads(fixed, inputs)

    best = _detached(layers)
    best_loss = torch.full((len(generators),), torch.inf)
    for epoch in range(_NUM_EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * (1 - epoch / _NUM_EPOCHS)
        for rows in torch.split(torch.randperm(len(train), generator=order), _BATCH_SIZE):
            batch = train.select(rows)
            loss = (weights[:, rows] * batch.losses(outputs(batch.inputs))).sum() / len(rows)
            loss = loss + 0.5 * _pull(layers, anchors, spreads) / len(train)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            losses = test.losses(outputs(test.inputs)).mean(1)
        better = losses < best_loss
        best_loss = torch.where(better, losses, best_loss)
        for kept, now in zip(best, _detached(layers), strict=True):
            for old, new in zip(kept, now, strict=True):
                old[better] = new[better]
    if not bool(best_loss.isfinite().all()):
        member = int((~best_loss.isfinite()).nonzero()[0])
        raise PosteriorError(
            f"member {member} of the mlp heads has no finite loss after any epoch: under a prior precision of "
            f"{prior_precision:.3g} its rewards overflow; give a larger prior_precision, or take linear heads"
        )
    if fixed is None:
        return best
    # A head's two networks lie side by side.
    pairs = zip(best, fixed, strict=True)
    return [
        (torch.stack([weight, more], 1).flatten(0, 1), torch.stack([bias, shift], 1).flatten(0, 1))
        for (weight, bias), (more, shift) in pairs
    ]


def _held_out_rows(group: Tensor, generator: torch.Generator) -> Tensor:
    """`[P]` whether a datum is held out: all of a tenth of the prompts, or a tenth of the data of fewer than ten."""
    _, local = torch.unique(group, return_inverse=True)
    size = int(local.max()) + 1
    if size < 10:
        size, local = len(group), torch.arange(len(group))
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[torch.randperm(size, generator=generator)[: max(1, round(_HELD_OUT_SHARE * size))]] = True
    return chosen[local]


def _draw(
    task: HeadsTask, prior_precision: float, generators: list[torch.Generator]
) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[float, Tensor]]]:
    """Parameters drawn from the prior, and of each layer the standard deviations of its weights and biases."""
    bias_mean, bias_std = (values.float() for values in task.bias_prior())
    sizes = layer_sizes("mlp", task.num_features, task.num_outputs)
    layers: list[tuple[Tensor, Tensor]] = []
    spreads: list[tuple[float, Tensor]] = []
    for place, (fan_in, fan_out) in enumerate(sizes):
        last = place == len(sizes) - 1
        std = (task.num_features / prior_precision / fan_in) ** 0.5 if last else (2 / fan_in) ** 0.5
        weight = std * torch.stack([torch.randn(fan_out, fan_in, generator=generator) for generator in generators])
        bias = torch.zeros(len(generators), fan_out)
        if last:
            drawn = torch.zeros_like(weight)
            drawn[:, task.reward_output] = weight[:, task.reward_output]
            weight, bias = drawn, bias + bias_mean
        layers.append((weight, bias))
        spreads.append((std, bias_std if last else torch.ones(fan_out)))
    return layers, spreads


def _pull(layers: Layers, anchors: Layers, spreads: list[tuple[float, Tensor]]) -> Tensor:
    """Squared distances from the anchors in units of the prior, summed over all members."""
    total = torch.zeros(())
    for (weight, bias), (weight_anchor, bias_anchor), (std, spread) in zip(layers, anchors, spreads, strict=True):
        # A bias that the data say nothing about is centred away in the end.
        scale = torch.where(spread > 0, spread, torch.ones_like(spread))
        total = total + ((weight - weight_anchor) / std).square().sum() + ((bias - bias_anchor) / scale).square().sum()
    return total


def _detached(layers: Layers) -> list[tuple[Tensor, Tensor]]:
    return [(weight.detach().clone(), bias.detach().clone()) for weight, bias in layers]
