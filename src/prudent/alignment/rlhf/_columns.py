"""What TRL's trainers are told beside the reward: the variance of each response, and how far to trust its advantage."""

import copy
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from prudent.alignment._arms import AdvantageWeight
from prudent.alignment._kl_weights import kl_weights, relative_variance
from prudent.errors import UnsupportedError

__all__ = ["MeasuredReward", "VarianceOf", "WeightColumns", "Weights"]

VarianceOf = Literal["reward", "contrast"]


@runtime_checkable
class MeasuredReward(Protocol):
    """A reward function that knows how far to trust its rewards; `PrudentReward` is one.

    Both columns are reward functions themselves, answered from the scoring of the same batch.
    """

    def variance_column(self, of: VarianceOf = "reward") -> Callable[..., list[float | None]]:
        """The variance of each response's reward, or of its difference to the others of its prompt."""

    def sign_column(self, kind: Literal["sign", "signcert"]) -> Callable[..., list[float | None]]:
        """The weight of each response's advantage, in [0, 1]."""


class Weights(NamedTuple):
    """What the columns said of the responses of all processes, [N] each; None where it was not asked for.

    Attributes:
        kl: weights of the KL penalty, of mean 1; NaN for responses without a reward.
        advantage: weights of the advantages; NaN for responses without a reward.
        metrics: what is worth logging of both, by name.
    """

    kl: Tensor | None
    advantage: Tensor | None
    metrics: dict[str, float]


class WeightColumns:
    """The zero-weight reward functions that carry variances and weights of advantages through TRL.

    TRL gathers what reward functions return over processes, so a variance told as one more reward of weight 0 arrives
    where it is needed, is logged as a reward is, and costs no second scoring.

    Args:
        reward_funcs: the user's reward functions, a `MeasuredReward` among them.
        variance_of: what the KL penalty is weighted by; None for a constant penalty.
        advantage_weight: what the reward's part of advantages is multiplied by.
        floor: see `kl_weights`.
        cap: see `kl_weights`.

    Attributes:
        reward_funcs: those given, then the columns.

    Raises:
        ValueError: no reward function knows variances, or several do; a floor or a cap out of range.
    """

    def __init__(
        self,
        reward_funcs: Any,
        *,
        variance_of: VarianceOf | None,
        advantage_weight: AdvantageWeight,
        floor: float,
        cap: float,
    ) -> None:
        own = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        kl_weights(torch.ones(1), floor=floor, cap=cap)  # a wrong floor shows before models are loaded
        self._floor, self._cap = floor, cap
        self._num_own = len(own)
        self._is_within_prompts = variance_of == "contrast" or advantage_weight != "none"
        columns: dict[str, Callable[..., list[float | None]]] = {}
        if variance_of is not None or advantage_weight != "none":
            reward = _measured(own)
            if variance_of is not None:
                columns["variance"] = reward.variance_column(variance_of)
            if advantage_weight != "none":
                columns["advantage"] = reward.sign_column(advantage_weight)
        self._places = {name: self._num_own + place for place, name in enumerate(columns)}
        self.reward_funcs = [*own, *columns.values()]

    def extend(self, args: Any, options: dict[str, Any]) -> Any:
        """TRL's configuration for `reward_funcs`: a copy of it whose reward weights end in zeros.

        Args:
            args: an `RLOOConfig` or `GRPOConfig`.
            options: further arguments of the trainer; its `reward_processing_classes` are made longer in place.

        Raises:
            ValueError: the weights given are not as many as the reward functions given.
            UnsupportedError: the responses of a prompt are spread over processes, and are to be compared.
        """
        given = [1.0] * self._num_own if args.reward_weights is None else list(args.reward_weights)
        if len(given) != self._num_own:
            raise ValueError(f"reward_weights has {len(given)} weights for {self._num_own} reward functions")
        if self._is_within_prompts:
            _check_prompts_are_whole(args)
        extended = copy.copy(args)
        extended.reward_weights = given + [0.0] * len(self._places)
        classes = options.get("reward_processing_classes")
        if classes is not None:
            classes = list(classes) if isinstance(classes, list | tuple) else [classes]
            options["reward_processing_classes"] = classes + [None] * len(self._places)
        return extended

    def read(self, rewards: Tensor) -> Weights:
        """What the columns say.

        A response of which the column knows nothing, but that another reward function has a reward for, gets the
        weight 1: it is trained on as TRL does.

        Args:
            rewards: [N, reward functions] as TRL gathered them. In place, the columns become NaN where no
                reward function of the user's has a value: TRL takes a response for scored if anything has.

        Returns:
            The weights of the N responses.
        """
        is_scored = ~rewards[:, : self._num_own].isnan().all(1)
        rewards[~is_scored, self._num_own :] = torch.nan
        kl, advantage = None, None
        metrics: dict[str, float] = {}
        if "variance" in self._places:
            variance = rewards[:, self._places["variance"]].double()
            kl = kl_weights(variance, floor=self._floor, cap=self._cap)
            metrics |= _metrics(kl, relative_variance(variance), self._floor, self._cap)
            kl = torch.where(kl.isnan() & is_scored, 1.0, kl)
        if "advantage" in self._places:
            advantage = rewards[:, self._places["advantage"]]
            metrics["advantage_weight/mean"] = advantage.nanmean().item()
            advantage = torch.where(advantage.isnan() & is_scored, 1.0, advantage)
        return Weights(kl, advantage, metrics)


def _metrics(weights: Tensor, ratio: Tensor, floor: float, cap: float) -> dict[str, float]:
    weights, ratio = weights[~weights.isnan()], ratio[~ratio.isnan()]
    if len(weights) == 0:
        return {}
    return {
        "kl_weight/min": weights.min().item(),
        "kl_weight/max": weights.max().item(),
        "kl_weight/share_floored": (ratio < floor).double().mean().item(),
        "kl_weight/share_capped": (ratio > cap).double().mean().item(),
    }


def _measured(reward_funcs: list[Any]) -> MeasuredReward:
    measured = [function for function in reward_funcs if isinstance(function, MeasuredReward)]
    if len(measured) != 1:
        raise ValueError(
            "weights by variance or by the sign of the advantage need one reward function that knows them "
            f"(a PrudentReward) among reward_funcs, got {len(measured)} of {len(reward_funcs)}"
        )
    return measured[0]


def _check_prompts_are_whole(args: Any) -> None:
    """Comparisons within a prompt are made where its responses are scored, so no prompt may lie in two processes."""
    local = args.per_device_train_batch_size * args.steps_per_generation
    for size, count, names in (
        (local, args.num_generations, "per_device_train_batch_size * steps_per_generation, num_generations"),
        (
            args.per_device_eval_batch_size,
            args.num_generations_eval or args.num_generations,
            "per_device_eval_batch_size, num_generations_eval",
        ),
    ):
        if args.world_size > 1 and size % count:
            raise UnsupportedError(
                f"{args.world_size} processes would share the responses of a prompt, which are compared with each "
                f"other: make the first a multiple of the second: {names} (now {size}, {count})"
            )
