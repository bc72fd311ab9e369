"""A utility made ready for a scored pool: parsed, and fitted on the pool's own reference responses."""

from prudent.errors import DataError
from prudent.scoring._scored import ScoredPool
from prudent.utility import FittedUtility, Utility, parse_utility

__all__ = ["utility_for"]


def utility_for(pool: ScoredPool, utility: str | Utility | FittedUtility) -> FittedUtility:
    """What a utility is for the responses of a pool.

    Args:
        pool: scored responses.
        utility: as text, as an expression, or fitted already (then it is returned as it is).

    Raises:
        UtilityError: the text is not a utility.
        DataError: the pool lacks a reward, a variance or references that the utility needs.
    """
    if isinstance(utility, FittedUtility):
        return utility
    expression = parse_utility(utility)
    if expression.reads_variance and not pool.has_variance:
        raise DataError(f"{pool.source} has no variances, which {expression} needs; fit a posterior and score again")
    return expression.fit(pool.reward_set())
