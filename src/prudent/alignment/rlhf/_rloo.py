"""TRL's RLOO with a KL penalty that is strong where the reward is uncertain."""

from typing import Any

import torch
from torch import Tensor
from trl import RLOOConfig, RLOOTrainer

from prudent.alignment._arms import AdvantageWeight, Arm, KlForm
from prudent.alignment.rlhf._coefficient import ResponseCoefficient
from prudent.alignment.rlhf._weighted import WeightedTrainer

__all__ = ["VarianceAwareRLOOTrainer"]


class VarianceAwareRLOOTrainer(WeightedTrainer, RLOOTrainer):  # type: ignore[misc]  # TRL has no types
    """`trl.RLOOTrainer` that weighs the KL penalty by the reward's variance, and advantages by how sure they are.

    The objective is E_pi[R(x, y) - b(x, y) log(pi(y|x) / pi0(y|x))]. There b is kl_coef times `kl_weights` of the
    variances of the batch (all processes, one generation): the policy may move where the reward model knows, and is
    held where it guesses. Since b depends on the response, the gradient is

        E[(R - b log(pi / pi0) - b) grad log pi],

    whose last term, the derivative of the log-ratio, vanishes only for constant b. `exact` has it: the reward of a
    sample is R - b (log-ratio + 1), and under the leave-one-out baseline the expected update is the gradient of the
    objective for given b. `in_reward` is what weighing TRL's penalty alone gives, R - b log-ratio. Its update is larger
    by grad E_pi[b]: it is drawn to uncertain responses, against the objective's purpose. (At pi0 the objective's own
    gradient is that of E_pi[R - b], so `exact` leaves uncertain responses at once.) With equal variances both are TRL's
    own trainer to the last bit. As in TRL, log-ratios are those of the policy that generated, so the gradient is exact
    for the first update on a generation.

    b is not quite given: the mean variance is that of the batch, in which a response and its siblings count
    themselves. What `exact` is off by falls as one over the responses of a generation. Of the last term's length, with
    policies over four responses: 0.14 to 0.42 with 4 responses a generation, 0.07 to 0.20 with 8, 0.02 to 0.05 with
    32. Take 32 or more.

    `advantage_weight` multiplies the reward's part of advantages and leaves the penalty's as it is,
    rho (A - A_penalty) + A_penalty, where A_penalty is what the penalty that TRL subtracted has put into A: what is
    not sure to be better is held, and not merely left alone. Multiplied into whole advantages the weights would leave
    the optimum where it is without them, where whole advantages are 0. `VarianceAwareGRPOTrainer`, whose penalty is in
    the loss, does the same.

    Responses that no reward function scores (all None) have no weight and no advantage; those that others score, and
    the one that knows variances does not, are trained on as TRL does, with the weights 1. Logged beside TRL's metrics:
    least and greatest KL weight, the shares of responses at the floor and at the cap, the coefficient of a constant
    penalty of the same size (`kl_coef/effective`), and the mean weight of advantages. The columns of variances and of
    weights appear among the rewards, with weight 0. TRL's own table of completions has the advantages before they are
    weighed.

    Args:
        model: as TRL's trainer takes it.
        reward_funcs: as TRL's trainer takes them; one must know variances (`PrudentReward`).
        args: TRL's configuration; its `beta` is kl_coef, and its `reward_weights` speak of the functions given.
        kl_form: `exact` or `in_reward` as above; `constant` for TRL's own penalty.
        advantage_weight: multiply the reward's part of advantages by `sign_weights` (`sign`), by `signcert_weights`
            (`signcert`), or not.
        variance_of: the variance of a reward, which is the paper's, or of its contrast with the other responses of its
            prompt. A reward is known up to a constant per prompt, so doubt that a prompt's responses share makes the
            former larger and changes no comparison; the latter does not count it.
        kl_weight_floor: see `kl_weights`.
        kl_weight_cap: see `kl_weights`.
        **options: the further arguments of TRL's trainer (`train_dataset`, `peft_config`, ...).

    Raises:
        ValueError: no reward function (or more than one) knows variances, `args.beta` is 0 while the penalty is to
            be weighed, advantages are weighed that TRL normalizes with the penalty in them (`normalize_advantages`,
            beta > 0), or an option is none of what it can be.
        UnsupportedError: several processes would share a prompt whose responses are to be compared, or the TRL
            installed does not apply its coefficient where 1.16 does (found out at the first step).

    Source: Uncertainty-aware RLHF (2410.23726); the regularizer that knows the reward's variance is as the abstract of
    2507.15906 describes it, the objective's form and the derivation of its gradient are this project's. Leave-one-out
    REINFORCE: 2402.14740.

    Example:
        >>> from prudent.alignment import PrudentReward
        >>> reward = PrudentReward("rm-ensemble")
        >>> args = RLOOConfig("aligned", beta=0.05)  # doctest: +SKIP
        >>> trainer = VarianceAwareRLOOTrainer("my-policy", reward, args, train_dataset=prompts)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: RLOOConfig,
        *,
        kl_form: KlForm = "exact",
        advantage_weight: AdvantageWeight = "none",
        **options: Any,
    ) -> None:
        Arm(kl_form=kl_form)  # its name is checked there
        is_apart = advantage_weight != "none" and args is not None and args.beta != 0
        if is_apart and args.normalize_advantages:
            raise ValueError(
                f"advantage_weight={advantage_weight!r} weighs the reward's part of advantages, which TRL normalizes "
                "together with the KL penalty's: leave normalize_advantages out, or take GRPO, whose penalty is in "
                "the loss"
            )
        super().__init__(model, reward_funcs, args, kl_form=kl_form, advantage_weight=advantage_weight, **options)
        if is_apart and self._kl_coefficient is None:
            # TRL's own penalty, but known, so that it can be told from the reward
            self._kl_coefficient = self.beta = ResponseCoefficient(args.beta, "in_reward")

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        if self._kl_coefficient is not None:
            kl = self._response_weights.kl
            # TRL takes the penalty from the rewards next
            self._kl_coefficient.give(torch.where(rewards.isnan().all(1), torch.nan, 1.0) if kl is None else kl)
        return rewards

    def _advantages_of_reward(self, advantages: Tensor, local: slice) -> Tensor:
        penalty = None if self._kl_coefficient is None else self._kl_coefficient.penalty
        if penalty is None:  # beta is 0; or TRL made none, which `take` says next
            return advantages
        count = self.num_generations if self.model.training else self.num_generations_eval
        return advantages + leave_one_out(penalty, count)[local]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self._kl_coefficient is not None:
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["kl_coef/effective"].append(self._kl_coefficient.take())
        return output


def leave_one_out(values: Tensor, count: int) -> Tensor:
    """Values [N] less the average of the others of their prompt, `count` responses each that lie together.

    NaN counts nowhere; 0 for it, and where there are no others.
    """
    rows = values.view(-1, count)
    others = (rows.nansum(1, keepdim=True) - rows) / ((~rows.isnan()).sum(1, keepdim=True) - 1)
    return (rows - others).flatten().nan_to_num()
