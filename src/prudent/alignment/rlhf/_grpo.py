"""TRL's GRPO with a KL penalty that is strong where the reward is uncertain."""

from typing import Any, Literal

from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from prudent.alignment.rlhf._weighted import WeightedTrainer

__all__ = ["VarianceAwareGRPOTrainer"]


class VarianceAwareGRPOTrainer(WeightedTrainer, GRPOTrainer):  # type: ignore[misc]  # TRL has no types
    """`trl.GRPOTrainer` that weighs the KL penalty by the reward's variance, and advantages by how sure they are.

    GRPO keeps the penalty out of the reward: its loss adds kl_coef times k3 = pi0 / pi - 1 - log(pi0 / pi) of each
    token. Here the coefficient of a response is b = kl_coef times `kl_weights` of the variances of the batch. On the
    policy's own samples, held fixed, the gradient of E[b k3] is that of a weighted divergence which is 0 at pi0 alone,

        sum_y b(y) (pi0(y) log(pi0(y) / pi(y)) - pi0(y) + pi(y)),

    token by token (b of a token being the mean over what may follow it). So there is one form, `in_loss`: a forward
    divergence, weighted, and not the objective of `VarianceAwareRLOOTrainer`, whose `exact` and `in_reward` speak of a
    penalty inside the reward. With equal variances it is TRL's own trainer to the last bit.

    Responses that no reward function scores (all None) have no advantage; the penalty holds them with weight 1, as
    TRL's does. Those that others score, and the one that knows variances does not, have the weights 1 for both.
    Logged beside TRL's metrics: least and greatest KL weight, the shares of responses at the floor and at the cap, and
    the mean weight of advantages. TRL's own table of completions has the advantages before they are weighed.

    Args:
        model: as TRL's trainer takes it.
        reward_funcs: as TRL's trainer takes them; one must know variances (`PrudentReward`).
        args: TRL's configuration; its `beta` is kl_coef, and its `reward_weights` speak of the functions given.
        kl_form: `in_loss` as above, or `constant` for TRL's own penalty.
        advantage_weight: multiply advantages by `sign_weights` (`sign`), by `signcert_weights` (`signcert`), or not.
        variance_of: see `VarianceAwareRLOOTrainer`.
        kl_weight_floor: see `kl_weights`.
        kl_weight_cap: see `kl_weights`.
        **options: the further arguments of TRL's trainer (`train_dataset`, `peft_config`, ...).

    Raises:
        ValueError: as of `VarianceAwareRLOOTrainer`.
        UnsupportedError: as of `VarianceAwareRLOOTrainer`.

    Source: GRPO: 2402.03300; the weighting as in `VarianceAwareRLOOTrainer`, its divergence derived here.

    Example:
        >>> from prudent.alignment import PrudentReward
        >>> reward = PrudentReward("rm-ensemble")
        >>> args = GRPOConfig("aligned", beta=0.05)  # doctest: +SKIP
        >>> trainer = VarianceAwareGRPOTrainer("my-policy", reward, args, train_dataset=prompts)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: GRPOConfig,
        *,
        kl_form: Literal["constant", "in_loss"] = "in_loss",
        **options: Any,
    ) -> None:
        if kl_form not in ("constant", "in_loss"):
            raise ValueError(
                f"GRPO's KL penalty stands in the loss: kl_form must be in_loss or constant, got {kl_form!r} "
                "(exact and in_reward are forms of VarianceAwareRLOOTrainer)"
            )
        super().__init__(model, reward_funcs, args, kl_form=kl_form, **options)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self._kl_coefficient is not None:
            self._kl_coefficient.give(inputs["kl_weight"].nan_to_num(1.0))
        loss: Tensor = super()._compute_loss(model, inputs)
        if self._kl_coefficient is not None:
            self._kl_coefficient.take()
        return loss
