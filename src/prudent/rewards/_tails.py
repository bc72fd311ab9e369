"""Expectations of exponentials of what is normal, whose mass may lie far out in the tail.

E exp(-a r) of r ~ N(m, s^2) has its mass a s standard deviations below the mean, where a grid that serves for moments
does not reach. How far the grid must reach follows from the function itself, evaluated at a few points: beyond z the
integrand is below exp(u - z^2 / 2), where u is the exponent at the far end of an interval that it does not turn within.
"""

import math

import torch
from torch import Tensor

from prudent.errors import UnsupportedError
from prudent.rewards._marginal import Marginal, log_mean_exp
from prudent.rewards._rows import chunks

__all__ = ["log_expected_exp", "normal_grid"]

_REACH = 8.0
_STEP = 0.1
_STEP_OF_MEMBERS = 0.25
_NEGLIGIBLE = 32.0  # exp(-32) is 1e-14
_HALF_OCTAVES = 18
_LONGEST = _REACH * 2.0 ** (_HALF_OCTAVES / 2)
# what counts beyond the longest grid is refused; these find it however far out it lies
_BEYOND = [_LONGEST * 2.0**power for power in (1, 2, 4, 8, 16, 32, 64)]
_EDGES = torch.tensor([_REACH * 2.0 ** (half / 2) for half in range(_HALF_OCTAVES + 1)] + _BEYOND, dtype=torch.float64)
_CENTER = torch.arange(-3, 4, dtype=torch.float64) * 2


def normal_grid(num_members: int, low: float = -_REACH, high: float = _REACH) -> Tensor:
    """Points [Z] of the trapezoid rule over a standard normal, finer where there is one normal alone."""
    step = _STEP if num_members == 1 else _STEP_OF_MEMBERS
    return torch.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1, dtype=torch.float64) * step


def log_expected_exp(marginal: Marginal, scale: float) -> Tensor:
    """Log E exp(scale * t) [n] of functions t of normals, on a grid that reaches as far as there is anything to count.

    Raises:
        UnsupportedError: what counts lies more than 4096 standard deviations out, or the expectation is infinite.
    """
    values, weights = marginal.nodes()
    found = log_mean_exp(values, weights, scale)
    reach = _reach(marginal, scale)
    for ends in torch.unique(reach[(reach > 0).any(1)], dim=0):
        rows = (reach == ends).all(1).nonzero()[:, 0]
        low, high = _EDGES[ends.cpu()].tolist()
        grid = normal_grid(marginal.num_members, -low, high).to(values)
        for part in chunks(len(rows), 4 * len(grid) * marginal.num_members):
            found[rows[part]] = _log_average_exp(marginal[rows[part]], grid, scale)
    return found


def _reach(marginal: Marginal, scale: float) -> Tensor:
    """How many intervals between the edges count, below and above: [N, 2] int64; zeros where it is not scored."""
    z = torch.cat([-_EDGES.flip(0), _CENTER, _EDGES])
    exponents = scale * marginal.points(z)  # [M, Z, N]
    edges, z = _EDGES.to(exponents.device), z.to(exponents.device)
    scored = ~exponents.isnan().any(0).any(0)
    best = (exponents - 0.5 * z.square()[:, None]).amax((0, 1))
    count = len(edges)
    reach = []
    for side in (exponents[:, :count].flip(1), exponents[:, -count:]):
        bound = torch.maximum(side[:, :-1], side[:, 1:]).amax(0) - 0.5 * edges[:-1].square()[:, None]
        counts = ~(bound < best - _NEGLIGIBLE) & scored
        place = torch.arange(1, count, device=edges.device)[:, None]
        reach.append((counts * place).amax(0))
    far = torch.stack(reach, 1)
    if bool((far > _HALF_OCTAVES).any()):
        raise UnsupportedError(
            f"E exp(a t) of {int((far > _HALF_OCTAVES).any(1).sum())} of {len(far)} responses is infinite or lies more "
            f"than {_LONGEST:g} standard deviations out: take a smaller risk aversion, or the rule quantile or cvar"
        )
    return far


def _log_average_exp(marginal: Marginal, grid: Tensor, scale: float) -> Tensor:
    """Log E exp(scale * t) [n] by the trapezoid rule on a grid [Z], in logarithms."""
    step = float(grid[1] - grid[0])
    log_weight = -0.5 * grid.square() + math.log(step / math.sqrt(2 * math.pi) / marginal.num_members)
    logs = scale * marginal.points(grid) + log_weight[:, None]
    return torch.logsumexp(logs.flatten(0, 1).T.contiguous(), 1)
