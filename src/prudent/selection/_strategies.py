"""Ways to pick one of n responses that do not simply take the highest utility.

References:
    Sriraman and Block, https://arxiv.org/abs/2603.05739, COLT 2026 (uniform top-k).
    Verdun et al., Soft Best-of-n Sampling, https://arxiv.org/abs/2505.03156, 2025.
    Huang et al., Is Best-of-N the Best of Them?, https://arxiv.org/abs/2503.21878, ICML 2025 (chi-squared pessimism).
    Jinnai et al., Regularized Best-of-N with Minimum Bayes Risk, https://arxiv.org/abs/2404.01054, NAACL 2025.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from prudent.rewards import index_groups
from prudent.selection._pools import Pools, directions
from prudent.selection._scored import equal_blocks, scored_rows

__all__ = [
    "CONSENSUS",
    "MinimumBayesRisk",
    "Pessimism",
    "SoftBestOfN",
    "Strategy",
    "TopK",
    "pessimism_threshold",
    "pick_probabilities",
]

CONSENSUS = "consensus"
"""What minimum Bayes risk is called at an infinite weight."""
_COSINE_ERROR = 1e-6


class Strategy(Protocol):
    """How one of the candidates present is picked, given what each of them is worth.

    What is picked depends on all candidates present, so no all-subsets curve holds but for `TopK`.
    """

    name: ClassVar[str]
    """What it is called in text: "soft"."""

    @property
    def text(self) -> str:
        """As it is written for `parse_strategy`: "soft(0.5)"."""

    def weights(self, pools: Pools, /) -> Tensor:
        """Weights [m, n], at least 0: in each pool, proportional to the probability that the candidate is picked."""


@dataclass(frozen=True)
class TopK:
    """A uniform pick among the ceil(n / share_of) candidates of highest utility.

    Attributes:
        share_of: at least 1; one in so many is among those picked from. 1 is a random candidate, n or more best-of-n.

    Raises:
        ValueError: share_of is not a whole number of at least 1.

    Example:
        >>> TopK(64).text
        'top_k(64)'
    """

    share_of: int
    name: ClassVar[str] = "top_k"

    def __post_init__(self) -> None:
        if isinstance(self.share_of, bool) or not isinstance(self.share_of, int) or self.share_of < 1:
            raise ValueError(f"top_k takes a whole number of at least 1, got {self.share_of!r}")

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.name}({self.share_of})"

    def weights(self, pools: Pools) -> Tensor:
        """See `Strategy`; candidates that tie for the last places share them."""
        top = -(-pools.utility.shape[1] // self.share_of)
        last = pools.utility.topk(top, 1).values[:, -1:]
        better, tied = pools.utility > last, pools.utility == last
        places = top - better.sum(1, keepdim=True)
        return better + tied * (places / tied.sum(1, keepdim=True))


@dataclass(frozen=True)
class SoftBestOfN:
    """Candidate i is picked with probability proportional to exp(u_i / temperature), u the utility.

    As n grows the picks tend to the policy tilted by exp(u / temperature), with an error of order 1/n.

    Attributes:
        temperature: above 0, in the units of the utility; towards 0 it is best-of-n, towards infinity random.

    Raises:
        ValueError: the temperature is not a finite number above 0.

    Example:
        >>> SoftBestOfN(0.5).text
        'soft(0.5)'
    """

    temperature: float
    name: ClassVar[str] = "soft"

    def __post_init__(self) -> None:
        _check_positive(self.name, "temperature", self.temperature)

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.name}({_written(self.temperature)})"

    def weights(self, pools: Pools) -> Tensor:
        """See `Strategy`."""
        return (pools.shortfall * (-1 / self.temperature)).exp_()


@dataclass(frozen=True)
class Pessimism:
    """Candidate i is picked with probability relu((u_i - threshold) / penalty) / n, u the utility (chi-squared).

    The threshold is such that these sum to 1 (`pessimism_threshold`). The rejection sampler of Huang et al. keeps one
    of n fresh draws with probability in proportion to the same weights, that is, it picks by these normalized weights.

    Attributes:
        penalty: above 0, in the units of the utility; towards 0 it is best-of-n, towards infinity random.

    Raises:
        ValueError: the penalty is not a finite number above 0.

    Example:
        >>> Pessimism(2.0).text
        'pessimism(2)'
    """

    penalty: float
    name: ClassVar[str] = "pessimism"

    def __post_init__(self) -> None:
        _check_positive(self.name, "penalty", self.penalty)

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.name}({_written(self.penalty)})"

    def weights(self, pools: Pools) -> Tensor:
        """See `Strategy`."""
        return (pools.relative_threshold(self.penalty).to(pools.shortfall.dtype) - pools.shortfall).clamp_(min=0)


@dataclass(frozen=True)
class MinimumBayesRisk:
    """The candidate of highest utility + weight x average cosine to the embeddings of all candidates present.

    The average counts the candidate itself: it adds weight / n to every one and does not change the pick.

    Attributes:
        weight: at least 0, in the units of the utility; 0 is best-of-n, infinity the candidate most like the others
            whatever its utility, which is called consensus.

    Raises:
        ValueError: the weight is not a number of at least 0.

    Example:
        >>> MinimumBayesRisk(2.0).text
        'mbr(2)'
        >>> MinimumBayesRisk(math.inf).text
        'consensus'
    """

    weight: float
    name: ClassVar[str] = "mbr"

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"mbr takes a weight of at least 0, got {self.weight!r}")

    @property
    def text(self) -> str:
        """As it is written."""
        return CONSENSUS if math.isinf(self.weight) else f"{self.name}({_written(self.weight)})"

    def weights(self, pools: Pools) -> Tensor:
        """See `Strategy`; candidates that tie, as far as cosines in single precision tell, share the pick."""
        if math.isinf(self.weight):
            alike = pools.similarity
            return (alike >= alike.amax(1, keepdim=True) - _COSINE_ERROR).to(alike.dtype)
        score = pools.utility + self.weight * pools.similarity
        return (score >= score.amax(1, keepdim=True) - _COSINE_ERROR * self.weight).to(score.dtype)


def pick_probabilities(
    strategy: Strategy, utility: Tensor, group: Tensor, *, embedding: Tensor | None = None
) -> Tensor:
    """With what probability a strategy picks each response, when all of its prompt's candidates are present.

    Args:
        strategy: how one is picked.
        utility: [N] what each response is worth.
        group: [N] integer prompt ids, in any order.
        embedding: [N, D] of the responses; `MinimumBayesRisk` alone needs them.

    Returns:
        float64 [N]; they sum to 1 over the candidates of each prompt, and equal candidates have equal ones.

    Raises:
        DataError: a utility is NaN, or embeddings are needed and not given.
        ValueError: shapes do not agree.

    Example:
        >>> import torch
        >>> utility, group = torch.tensor([1.0, 3.0, 3.0, 0.0]), torch.tensor([0, 0, 0, 7])
        >>> pick_probabilities(Pessimism(1.0), utility, group).tolist()
        [0.0, 0.5, 0.5, 1.0]
    """
    also = () if embedding is None else (embedding,)
    keep = scored_rows(utility, group, "error", *also)
    out = torch.empty(len(utility), dtype=torch.float64, device=utility.device)
    width = 1 if embedding is None else embedding.shape[1]
    for prompts, rows, size in equal_blocks(index_groups(group), keep, width):
        shape = (len(prompts), size)
        vectors = None if embedding is None else directions(embedding[rows]).reshape(*shape, width)
        weights = strategy.weights(Pools(utility[rows].reshape(shape).double(), vectors)).double()
        out[rows] = (weights / weights.sum(1, keepdim=True)).reshape(-1)
    return out


def pessimism_threshold(utility: Tensor, group: Tensor, penalty: float) -> Tensor:
    """The utility below which `Pessimism` never picks, where the mean of relu((u - threshold) / penalty) is 1.

    Found in closed form from the sorted utilities. It may lie below all of them: then every candidate may be picked.

    Args:
        utility: [N] what each response is worth.
        group: [N] integer prompt ids, in any order.
        penalty: above 0, in the units of the utility.

    Returns:
        float64 [B], prompts in ascending order of their ids.

    Raises:
        DataError: a utility is NaN.
        ValueError: shapes do not agree, or the penalty is not a finite number above 0.

    Example:
        >>> import torch
        >>> pessimism_threshold(torch.tensor([0.0, 3.0, 4.0]), torch.zeros(3, dtype=torch.long), 1.0).tolist()
        [2.0]
    """
    _check_positive(Pessimism.name, "penalty", penalty)
    keep = scored_rows(utility, group, "error")
    index = index_groups(group)
    out = torch.empty(len(index.ids), dtype=torch.float64, device=utility.device)
    for prompts, rows, size in equal_blocks(index, keep):
        values = utility[rows].reshape(len(prompts), size).double()
        out[prompts] = values.amax(1) - Pools(values).relative_threshold(penalty)[:, 0]
    return out


def _written(number: float) -> str:
    """A number as short as reads back the same."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def _check_positive(name: str, what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} takes a finite {what} above 0, got {value!r}")
