"""What TRL's RLOO and GRPO have in common once they weigh responses."""

from typing import Any, Literal

from torch import Tensor

from prudent.alignment._arms import AdvantageWeight, Arm
from prudent.alignment.rlhf._coefficient import ResponseCoefficient
from prudent.alignment.rlhf._columns import VarianceOf, WeightColumns, Weights
from prudent.alignment.rlhf._order import OrderOfEpoch

__all__ = ["WeightedTrainer"]


class WeightedTrainer:
    """Goes before a trainer of TRL's among the bases of a class, which uses the KL weights in its own place.

    Args:
        model: as TRL's trainer takes it.
        reward_funcs: likewise; one must be a `MeasuredReward` unless nothing is weighed.
        args: TRL's configuration.
        kl_form: `constant`, or the form of a `ResponseCoefficient`.
        advantage_weight: what the reward's part of advantages is multiplied by.
        variance_of: what the KL penalty is weighted by.
        kl_weight_floor: see `kl_weights`.
        kl_weight_cap: see `kl_weights`.
        **options: the further arguments of TRL's trainer.
    """

    def __init__(
        self: Any,
        model: Any,
        reward_funcs: Any,
        args: Any,
        *,
        kl_form: Literal["constant", "exact", "in_reward", "in_loss"],
        advantage_weight: AdvantageWeight = "none",
        variance_of: VarianceOf = "reward",
        kl_weight_floor: float = 0.1,
        kl_weight_cap: float = 10.0,
        **options: Any,
    ) -> None:
        if args is None:
            raise ValueError("args must be TRL's configuration, such as RLOOConfig(FOLDER, beta=0.05), got None")
        Arm(advantage_weight=advantage_weight)  # its name is checked there
        self._kl_coefficient = None if kl_form == "constant" else ResponseCoefficient(args.beta, kl_form)
        self._weight_columns = WeightColumns(
            reward_funcs,
            variance_of=None if kl_form == "constant" else variance_of,
            advantage_weight=advantage_weight,
            floor=kl_weight_floor,
            cap=kl_weight_cap,
        )
        self._response_weights = Weights(None, None, {})
        args = self._weight_columns.extend(args, options)
        super().__init__(model, self._weight_columns.reward_funcs, args, **options)  # type: ignore[call-arg]
        if self._kl_coefficient is not None:
            self.beta = self._kl_coefficient  # not sooner: TRL decides on a plain number whether it loads the reference

    def _get_train_sampler(self: Any, dataset: Any = None) -> OrderOfEpoch:
        return OrderOfEpoch(super()._get_train_sampler(dataset), lambda: self.state.epoch or 0)  # type: ignore[misc]

    def _calculate_rewards(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        self._response_weights = self._weight_columns.read(rewards)
        return rewards

    def _advantages_of_reward(self, advantages: Tensor, local: slice) -> Tensor:
        """The part of TRL's advantages that is the reward's, of this process's responses."""
        return advantages

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        kl, advantage, metrics = self._response_weights
        start = self.accelerator.process_index * len(inputs)
        local = slice(start, start + len(inputs))
        if kl is not None:
            output["kl_weight"] = kl[local]  # travels with its response when TRL shuffles and splits
        if advantage is not None:
            # where the weight is 1, TRL's advantages stay as they are, to the last bit
            less = advantage[local].nan_to_num(1.0) - 1
            output["advantages"] = output["advantages"] + less * self._advantages_of_reward(output["advantages"], local)
        for name, value in metrics.items():
            self._metrics["train" if self.model.training else "eval"][name].append(value)
        return output
