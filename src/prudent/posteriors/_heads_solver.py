"""The minima of M smooth functions at once: L-BFGS whose every step, length and memory is each member's own."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from prudent.errors import PosteriorError

__all__ = ["minimize_members"]

_MEMORY = 12
_SUFFICIENT_DECREASE = 1e-4
_SHORTEST_STEP = 1e-10


def minimize_members(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 500,
    what: str = "heads",
) -> Tensor:
    """Where each of M functions of its own P numbers is smallest, from `start` downhill.

    Limited-memory BFGS (Nocedal 1980) with halved steps, in float64. The members share the passes over the data and
    nothing else, so that M minimised together are the M minimised one by one.

    Args:
        function: takes `[M, P]` and gives the `[M]` values, one of each row, differentiable.
        start: `[M, P]` float64.
        tolerance: a member is done when the norm of its gradient is below this. Where the Hessian is at least the
            identity, as with a unit prior, that bounds its distance from the minimum.
        max_steps: passes at most.
        what: is minimised, for the message.

    Returns:
        `[M, P]` float64.

    Raises:
        PosteriorError: a member does not come down to the tolerance; it is named.
    """
    point = start
    value, gradient = _value_and_gradient(function, point)
    memory: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_MEMORY)
    moving = gradient.norm(dim=1) > tolerance
    for _ in range(max_steps):
        if not bool(moving.any()):
            return point
        direction = _direction(gradient, memory)
        slope = (gradient * direction).sum(1)
        # Curvature of a kinked or concave stretch can point uphill; the gradient never does.
        uphill = slope >= 0
        direction = torch.where(uphill.unsqueeze(1), -gradient, direction)
        slope = torch.where(uphill, -gradient.square().sum(1), slope)
        first = 1 / gradient.norm(dim=1).clamp_min(1.0) if not memory else torch.ones_like(value)
        length = torch.where(moving, first, torch.zeros_like(value))
        while True:
            proposed = point + length.unsqueeze(1) * direction
            value_there, gradient_there = _value_and_gradient(function, proposed)
            # Near the minimum the decrease drowns in the rounding of the value.
            allowed = value + _SUFFICIENT_DECREASE * length * slope + 1e-13 * value.abs()
            short = moving & ~(value_there <= allowed) & (length > _SHORTEST_STEP)
            if not bool(short.any()):
                break
            length = torch.where(short, length / 2, length)
        step, change = proposed - point, gradient_there - gradient
        curvature = (step * change).sum(1)
        usable = curvature > 1e-12 * step.norm(dim=1) * change.norm(dim=1)
        inverse = torch.where(usable, 1 / torch.where(usable, curvature, torch.ones_like(curvature)), 0.0)
        memory.append((step, change, inverse))
        point, value, gradient = proposed, value_there, gradient_there
        moving = moving & (gradient.norm(dim=1) > tolerance)
    if bool(moving.any()):
        worst = int(torch.where(moving, gradient.norm(dim=1), torch.zeros_like(value)).argmax())
        raise PosteriorError(
            f"member {worst} of the {what} has not converged in {max_steps} steps (gradient "
            f"{float(gradient[worst].norm()):.2g}); give a stronger prior_precision"
        )
    return point


def _value_and_gradient(function: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
    leaf = point.detach().requires_grad_(True)
    with torch.enable_grad():
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _direction(gradient: Tensor, memory: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion, of each member with what it has seen; a pair with inverse curvature 0 is left out."""
    direction = -gradient
    taken: list[Tensor] = []
    for step, change, inverse in reversed(memory):
        share = inverse * (step * direction).sum(1)
        taken.append(share)
        direction = direction - share.unsqueeze(1) * change
    scale = torch.ones(len(gradient), 1, dtype=gradient.dtype)
    for _, change, inverse in memory:
        length = inverse * change.square().sum(1)
        scale = torch.where((inverse > 0).unsqueeze(1), 1 / length.clamp_min(1e-300).unsqueeze(1), scale)
    direction = direction * scale
    for (step, change, inverse), share in zip(memory, reversed(taken), strict=True):
        direction = direction + (share - inverse * (change * direction).sum(1)).unsqueeze(1) * step
    return direction
