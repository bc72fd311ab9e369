"""The prior precision of highest evidence, for curvature in eigen form."""

from collections.abc import Sequence

from prudent.metrics import minimize_on_log_scale
from prudent.posteriors._curvature import BlockCurvature

__all__ = ["PRIOR_BOUNDS", "log_evidence", "maximize_prior_precision"]

PRIOR_BOUNDS = (1e-4, 1e8)
"""Where the search for the evidence's maximum ends."""


def log_evidence(
    blocks: Sequence[BlockCurvature],
    squared_norms: Sequence[float],
    log_likelihood: float,
    prior_precisions: Sequence[float],
) -> float:
    """Laplace's log marginal likelihood, nats.

    `LL - 0.5 sum_b prior_b ||theta_b||^2 - 0.5 sum_b log det(I + H_b / prior_b)`, with the zero-centred prior of
    arXiv 2308.13111 and the signs as they follow from the Gaussian integral.

    Args:
        blocks: curvature of each block of weights.
        squared_norms: `||theta_b||^2` of each block.
        log_likelihood: of the pairs fitted on, at the trained weights.
        prior_precisions: one a block.
    """
    complexity = sum(
        prior * norm + block.log_determinant(prior)
        for block, norm, prior in zip(blocks, squared_norms, prior_precisions, strict=True)
    )
    return log_likelihood - 0.5 * complexity


def maximize_prior_precision(
    blocks: Sequence[BlockCurvature], squared_norms: Sequence[float], *, per_layer: bool
) -> tuple[float, ...]:
    """The prior precision of highest evidence, one for all blocks or each block's own.

    The weights stay those that were trained, so the blocks' terms are independent of each other.

    Args:
        blocks: curvature of each block.
        squared_norms: `||theta_b||^2` of each block.
        per_layer: each block has its own.
    """

    def best(chosen: Sequence[int]) -> float:
        parts = [blocks[place] for place in chosen]
        norms = [squared_norms[place] for place in chosen]
        return minimize_on_log_scale(
            lambda prior: -log_evidence(parts, norms, 0.0, [prior] * len(parts)), *PRIOR_BOUNDS
        )

    if per_layer:
        return tuple(best([place]) for place in range(len(blocks)))
    return (best(range(len(blocks))),) * len(blocks)
