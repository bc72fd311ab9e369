"""Strategies as text."""

import math
import re

from prudent.errors import UtilityError
from prudent.selection._strategies import CONSENSUS, MinimumBayesRisk, Pessimism, SoftBestOfN, Strategy, TopK

__all__ = ["parse_strategy"]

_KINDS = {kind.name: kind for kind in (SoftBestOfN, Pessimism, MinimumBayesRisk)}
_KNOWN = "top_k(share_of), soft(temperature), pessimism(penalty), mbr(weight) or consensus"


def parse_strategy(text: str | Strategy) -> Strategy:
    """The strategy that a text describes, such as "soft(0.5)".

    Args:
        text: `top_k(share_of)`, `soft(temperature)`, `pessimism(penalty)` or `mbr(weight)`, each with one number; or
            `consensus`, which is `mbr` at an infinite weight. A strategy is returned as it is.

    Raises:
        UtilityError: the text is not a strategy.

    Example:
        >>> parse_strategy("soft(0.5)")
        SoftBestOfN(temperature=0.5)
        >>> parse_strategy("top_k( 64 )").text
        'top_k(64)'
        >>> parse_strategy("softmax(1)")
        Traceback (most recent call last):
        ...
        prudent.errors.UtilityError: no strategy is called 'softmax': write top_k(share_of), soft(temperature), ...
    """
    if not isinstance(text, str):
        return text
    found = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    if found is None:
        raise UtilityError(f"{text!r} is not a strategy: write {_KNOWN}")
    name, argument = found[1], (found[2] or "").strip()
    if name == CONSENSUS and not argument:
        return MinimumBayesRisk(math.inf)
    try:
        if name == TopK.name:
            return TopK(int(argument))
        kind, number = _KINDS[name], float(argument)
    except KeyError:
        if name == CONSENSUS:
            raise UtilityError(f"{CONSENSUS} takes no number, and is given {argument}") from None
        raise UtilityError(f"no strategy is called {name!r}: write {_KNOWN}") from None
    except ValueError:
        what = "one whole number of at least 1" if name == TopK.name else "one number"
        raise UtilityError(f"{name} takes {what}, as in {name}(2), and is given {argument or 'none'}") from None
    try:
        return kind(number)
    except ValueError as error:
        raise UtilityError(str(error)) from None
