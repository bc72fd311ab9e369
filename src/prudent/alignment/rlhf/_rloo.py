"""TRL's RLOO with a KL penalty that is strong where the reward is uncertain."""

from typing import Any

from torch import Tensor
from trl import RLOOConfig, RLOOTrainer

from prudent.alignment._arms import Arm, KlForm
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
    for the first update on a generation; and the mean variance is that of the batch, quieter in a larger one.

    Responses without a reward (None) have no weight and no advantage. Logged beside TRL's metrics: least and greatest
    KL weight, the shares of responses at the floor and at the cap, the coefficient of a constant penalty of the same
    size (`kl_coef/effective`), and the mean weight of advantages. The columns of variances and of weights appear
    among the rewards, with weight 0.

    Args:
        model: as TRL's trainer takes it.
        reward_funcs: as TRL's trainer takes them; one must know variances (`PrudentReward`).
        args: TRL's configuration; its `beta` is kl_coef, and its `reward_weights` speak of the functions given.
        kl_form: `exact` or `in_reward` as above; `constant` for TRL's own penalty.
        advantage_weight: multiply advantages by `sign_weights` (`sign`), by `signcert_weights` (`signcert`), or not.
        variance_of: the variance of a reward, which is the paper's, or of its contrast with the other responses of its
            prompt. A reward is known up to a constant per prompt, so doubt that a prompt's responses share makes the
            former larger and changes no comparison; the latter does not count it.
        kl_weight_floor: see `kl_weights`.
        kl_weight_cap: see `kl_weights`.
        **options: the further arguments of TRL's trainer (`train_dataset`, `peft_config`, ...).

    Raises:
        ValueError: no reward function (or more than one) knows variances, `args.beta` is 0 while the penalty is to
            be weighed, or an option is none of what it can be.
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
        self, model: Any, reward_funcs: Any, args: RLOOConfig, *, kl_form: KlForm = "exact", **options: Any
    ) -> None:
        Arm(kl_form=kl_form)  # its name is checked there
        super().__init__(model, reward_funcs, args, kl_form=kl_form, **options)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        kl = self._response_weights.kl
        if self._kl_coefficient is not None and kl is not None:
            self._kl_coefficient.give(kl)  # TRL takes the penalty from the rewards next
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self._kl_coefficient is not None:
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["kl_coef/effective"].append(self._kl_coefficient.take())
        return output
