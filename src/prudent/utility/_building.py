"""Utilities made in Python: rewards by name, piped through steps and combined."""

from prudent.utility._combination import Combination
from prudent.utility._expression import Combined, Reward, Utility
from prudent.utility._reward_set import ONLY

__all__ = ["combine", "reward"]


def reward(name: str = ONLY) -> Reward:
    """The reward of a name, the beginning of a utility.

    Args:
        name: what it is called in a scored file; by default the only one, whatever it is called.

    Raises:
        ValueError: it is no word, or means something else in a utility.

    Example:
        >>> from prudent.utility import Center, LogSigmoid
        >>> str(reward("helpful") | Center(q=0.5) | LogSigmoid())
        'helpful | center(q=0.5) | log_sigmoid'
    """
    return Reward(name)


def combine(combination: Combination, *parts: Utility) -> Combined:
    """Several utilities in one.

    Args:
        combination: `AllOf()`, `AnyOf()`, `Weighted(...)`, `Minimum()`, `Ensemble()` or `Product()`.
        parts: at least one; all posteriors, or all values after a risk rule.

    Raises:
        ValueError: parts that do not go together; the part is named.

    Example:
        >>> from prudent.utility import AllOf, Center, LogSigmoid
        >>> parts = [reward(name) | Center() | LogSigmoid() for name in ("helpful", "harmless")]
        >>> str(combine(AllOf(), *parts))
        'all_of(helpful | center | log_sigmoid, harmless | center | log_sigmoid)'
    """
    if not parts:
        raise ValueError(f"{combination.name} needs at least one part")
    return Combined(combination, parts)
