"""Leave-one-out REINFORCE whose KL penalty knows variances, against TRL's own trainer and against enumeration."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from prudent.alignment import kl_weights
from prudent.errors import UnsupportedError

pytest.importorskip("trl")
Tokens = Callable[[dict[str, Tensor]], list[list[int]]]
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # of TRL's own making

KL_COEF = 0.3


class Bandit:
    """A softmax policy over four responses with rewards and coefficients of their own, in float64."""

    def __init__(self, seed: int, *, constant: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        logits, reference, self.reward, weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        self.logits = logits.requires_grad_()
        self.log_reference = reference.log_softmax(0)
        self.weight = torch.ones(4, dtype=torch.float64) if constant else weight.exp()

    def log_ratio(self) -> Tensor:
        return self.logits.log_softmax(0) - self.log_reference

    def gradient_of(self, objective: Tensor) -> Tensor:
        return torch.autograd.grad(objective, self.logits)[0]

    def gradient(self) -> Tensor:
        """Of E_pi[R - b log(pi / pi0)], by autograd."""
        penalty = KL_COEF * self.weight * self.log_ratio()
        return self.gradient_of((self.logits.softmax(0) * (self.reward - penalty)).sum())

    def expected_update(self, form: Literal["exact", "in_reward"], count: int = 3, rho: Tensor | None = None) -> Tensor:
        """Mean of the leave-one-out update over all tuples of `count` responses, weighted by their probability.

        With `rho` [4] the reward's part of the advantages is weighed by it, as the trainer does.
        """
        from prudent.alignment.rlhf._coefficient import ResponseCoefficient
        from prudent.alignment.rlhf._rloo import leave_one_out

        coefficient = ResponseCoefficient(KL_COEF, form)
        probability = self.logits.softmax(0).detach()
        score = torch.eye(4, dtype=torch.float64) - probability  # gradient of log pi(y) in the logits, a row each
        kl = self.log_ratio().detach()
        total = torch.zeros(4, dtype=torch.float64)
        for responses in itertools.product(range(4), repeat=count):
            drawn = torch.tensor(responses)
            coefficient.give(self.weight[drawn])
            reward = self.reward[drawn] - coefficient * kl[drawn]  # the line of TRL's trainer
            coefficient.take()
            advantage = reward - (reward.sum() - reward) / (count - 1)
            if rho is not None:
                assert coefficient.penalty is not None
                advantage += (rho[drawn] - 1) * (advantage + leave_one_out(coefficient.penalty, count))
            total += probability[drawn].prod() * (advantage[:, None] * score[drawn]).mean(0)
        return total


@pytest.mark.parametrize("seed", range(3))
def test_expected_update_of_exact_is_the_gradient_of_the_objective(seed: int) -> None:
    bandit = Bandit(seed)
    torch.testing.assert_close(bandit.expected_update("exact"), bandit.gradient(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_in_reward_is_off_by_the_gradient_of_the_mean_coefficient(seed: int) -> None:
    bandit = Bandit(seed)
    third = bandit.gradient_of((bandit.logits.softmax(0) * KL_COEF * bandit.weight).sum())
    difference = bandit.expected_update("in_reward") - bandit.gradient()
    assert third.norm() > 0.01
    torch.testing.assert_close(difference, third, rtol=0, atol=1e-10)


def test_the_mean_variance_of_a_batch_biases_exact_by_one_over_its_size() -> None:
    """As the trainer has it, b is relative to the batch; the objective's is relative to the policy's mean variance."""
    bandit = Bandit(0)
    generator = torch.Generator().manual_seed(0)
    policy, log_ratio = bandit.logits.softmax(0).detach(), bandit.log_ratio().detach()
    relative = bandit.weight / (policy @ bandit.weight)
    third = bandit.gradient_of((bandit.logits.softmax(0) * KL_COEF * relative).sum()).norm()
    drawn = torch.multinomial(policy, 800_000, replacement=True, generator=generator)
    bias = []
    for num_prompts in (1, 2, 8):
        rows = drawn.view(-1, num_prompts, 4)
        weight = bandit.weight[rows] / bandit.weight[rows].mean((1, 2), keepdim=True)
        torch.testing.assert_close(weight[0].flatten(), kl_weights(bandit.weight[rows[0]].flatten()))  # unclamped
        # the difference of the updates, less noisy than either
        reward = -KL_COEF * (weight - relative[rows]) * (log_ratio[rows] + 1)
        advantage = (reward - (reward.sum(2, keepdim=True) - reward) / 3).flatten()
        of_response = torch.zeros(4, dtype=torch.float64).index_add(0, rows.flatten(), advantage) / len(advantage)
        bias.append(((of_response - advantage.mean() * policy).norm() / third).item())
    assert bias == pytest.approx([0.42, 0.20, 0.05], rel=0.1)


@pytest.mark.parametrize("form", ["exact", "in_reward"])
def test_both_forms_are_the_gradient_for_a_constant_coefficient(form: Any) -> None:
    bandit = Bandit(7, constant=True)
    torch.testing.assert_close(bandit.expected_update(form), bandit.gradient(), rtol=0, atol=1e-10)


def test_sign_weights_move_the_optimum_and_hold_what_they_do_not_trust() -> None:
    bandit = Bandit(3, constant=True)
    bandit.reward *= KL_COEF
    rho = torch.tensor([0.9, 0.1, 0.6, 0.3], dtype=torch.float64)
    mean_optimum = (bandit.log_reference + bandit.reward / KL_COEF).softmax(0)
    with torch.no_grad():
        bandit.logits.copy_(mean_optimum.log())
    assert bandit.expected_update("in_reward").norm() < 1e-12
    assert bandit.expected_update("in_reward", rho=rho).norm() > 0.01
    # at rest rho (R - its mean) = KL_COEF log-ratio, up to a constant
    policy = mean_optimum
    for _ in range(200):
        sure = rho * (bandit.reward - policy @ bandit.reward)
        policy = (policy + (bandit.log_reference + sure / KL_COEF).softmax(0)) / 2
    assert (policy - mean_optimum).abs().max() > 0.1
    with torch.no_grad():
        bandit.logits.copy_(policy.log())
    torch.testing.assert_close(
        bandit.expected_update("in_reward", rho=rho), torch.zeros(4).double(), rtol=0, atol=1e-10
    )
    # where no reward is trusted, the reference is where it rests
    with torch.no_grad():
        bandit.logits.copy_(bandit.log_reference)
    nothing = bandit.expected_update("exact", rho=torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(nothing, torch.zeros(4).double(), rtol=0, atol=1e-12)


def test_leave_one_out_counts_those_there_are() -> None:
    from prudent.alignment.rlhf._rloo import leave_one_out

    values = torch.tensor([1.0, 4.0, float("nan"), float("nan"), 5.0, float("nan")])
    assert leave_one_out(values, 3).tolist() == [-3.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    assert leave_one_out(values[:2], 1).tolist() == [0.0, 0.0]


def test_coefficient_is_a_number_when_asked() -> None:
    from prudent.alignment.rlhf._coefficient import ResponseCoefficient

    coefficient = ResponseCoefficient(0.1, "exact")
    assert coefficient == 0.1
    assert coefficient != 0.0
    assert float(coefficient) == 0.1
    with pytest.raises(ValueError, match="beta"):
        ResponseCoefficient(0.0, "exact")


def test_effective_coefficient_is_that_of_a_constant_penalty_of_the_same_size() -> None:
    from prudent.alignment.rlhf._coefficient import ResponseCoefficient

    coefficient = ResponseCoefficient(0.5, "in_reward")
    coefficient.give(torch.tensor([0.5, 1.5, float("nan")]))
    kl = torch.tensor([3.0, 1.0, 2.0])
    penalty = coefficient * kl
    assert penalty[:2].tolist() == [0.75, 0.75]
    assert penalty[2].isnan()
    assert coefficient.take() == pytest.approx(1.5 / 4.0)


@pytest.mark.parametrize("lora", [False, True])
def test_equal_variances_are_trls_own_trainer_to_the_bit(
    short_run: Callable[..., Any], measured: Any, lora: bool
) -> None:
    from trl import RLOOTrainer

    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    own = short_run(RLOOTrainer, [measured()], lora=lora)
    assert own.gradients[0]
    equal = measured(variance=lambda ids: 0.3, weight=lambda ids: 1.0)
    forms = [("constant", "none"), ("exact", "signcert")]
    if not lora:
        forms = [("exact", "none"), ("in_reward", "sign"), ("constant", "sign")]
    for kl_form, advantage_weight in forms:
        options = {"kl_form": kl_form, "advantage_weight": advantage_weight}
        assert own.same_as(short_run(VarianceAwareRLOOTrainer, [equal], lora=lora, options=options))


def test_a_real_language_model_to_the_bit(shared_data: Path, short_run: Callable[..., Any], measured: Any) -> None:
    from trl import RLOOTrainer

    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    policy = str(shared_data / "tiny_lm_stories260K")
    common = {"policy": policy, "max_steps": 2, "max_completion_length": 12}
    own = short_run(RLOOTrainer, [measured()], **common)
    equal = measured(variance=lambda ids: 0.3)
    assert own.same_as(short_run(VarianceAwareRLOOTrainer, [equal], **common))


class LogRatios:
    """Log-ratios of each scoring of a trainer, taken where TRL computes log-probabilities, without its arithmetic."""

    def __init__(self, trainer: Any) -> None:
        self.calls: list[tuple[Any, Tensor, Tensor]] = []
        compute = trainer._get_per_token_logps_and_entropies

        def wrapped(model: Any, input_ids: Tensor, attention_mask: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = compute(model, input_ids, attention_mask, *args, **kwargs)
            if not torch.is_grad_enabled():
                self.calls.append((model, input_ids.clone(), result[0].clone()))
            return result

        trainer._get_per_token_logps_and_entropies = wrapped

    def of(self, scoring: int, mask: Tensor) -> Tensor:
        policy, reference = self.calls[2 * scoring], self.calls[2 * scoring + 1]
        return ((policy[2] - reference[2]) * mask).sum(1).double()


@pytest.mark.parametrize("form", ["exact", "in_reward", "constant"])
def test_two_responses_by_hand(short_run: Callable[..., Any], measured: Any, form: str, tokens_of: Tokens) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    reward = measured()
    run = short_run(
        VarianceAwareRLOOTrainer,
        [reward],
        num_generations=2,
        per_device_train_batch_size=4,
        options={"kl_form": form, "advantage_weight": "sign", "kl_weight_floor": 0.5, "kl_weight_cap": 1.5},
        train=False,
    )
    ratios = LogRatios(run.trainer)
    run.trainer.train()
    for scoring, output in enumerate(run.scored):
        tokens = tokens_of(output)
        variance = torch.tensor([reward.variance(ids) for ids in tokens], dtype=torch.float64)
        weight = (variance / variance.mean()).clamp(0.5, 1.5)
        coefficient = 0.5 * weight / weight.mean()
        if form == "constant":
            coefficient = torch.full_like(weight, 0.5)
        log_ratio = ratios.of(scoring, output["completion_mask"])
        value = torch.tensor([reward.reward(ids) for ids in tokens])
        penalty = coefficient * (log_ratio + (form == "exact"))
        rho = torch.tensor([reward.weight(ids) for ids in tokens])

        def apart(values: Tensor) -> Tensor:
            return values - values.view(-1, 2).flip(1).view(-1)  # the other response is the baseline

        advantage = rho * apart(value) - apart(penalty)  # the penalty holds whatever the weight
        torch.testing.assert_close(output["advantages"].double(), advantage, rtol=0, atol=1e-5)
        assert scoring == 0 or bool((log_ratio.abs() > 1e-3).any())


def test_the_coefficient_is_used_once_a_scoring(
    short_run: Callable[..., Any], measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer
    from prudent.alignment.rlhf._coefficient import ResponseCoefficient

    counts: list[int] = []
    take = ResponseCoefficient.take

    def counted(self: Any) -> float:
        counts.append(self._products)
        return take(self)

    monkeypatch.setattr(ResponseCoefficient, "take", counted)
    run = short_run(VarianceAwareRLOOTrainer, [measured()])
    assert counts == [1] * len(run.scored) == [1, 1, 1]


def test_a_trl_that_does_not_use_the_coefficient_is_an_error(short_run: Callable[..., Any], measured: Any) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    run = short_run(VarianceAwareRLOOTrainer, [measured()], train=False)
    run.trainer.beta = 0.5  # what TRL multiplies by is no longer what was put there
    with pytest.raises(UnsupportedError, match="0 times where once was due"):
        run.trainer.train()


def test_a_trl_that_uses_the_coefficient_elsewhere_is_an_error() -> None:
    from prudent.alignment.rlhf._coefficient import ResponseCoefficient

    coefficient = ResponseCoefficient(0.5, "exact")
    with pytest.raises(UnsupportedError, match="there are none"):
        coefficient * torch.ones(2)
    coefficient.give(torch.ones(2))
    with pytest.raises(UnsupportedError, match=r"shape \(2, 3\)"):
        coefficient * torch.ones(2, 3)  # the penalty of tokens, not of responses
    with pytest.raises(UnsupportedError, match=r"shape \(3,\)"):
        coefficient * torch.ones(3)
    coefficient * torch.ones(2)
    coefficient * torch.ones(2)
    with pytest.raises(UnsupportedError, match="2 times"):
        coefficient.take()


def test_the_reference_of_an_adapter_stays_the_first_policy(
    short_run: Callable[..., Any], measured: Any, tiny_models: Callable[..., Path]
) -> None:
    from transformers import AutoModelForCausalLM

    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    run = short_run(VarianceAwareRLOOTrainer, [measured()], lora=True, learning_rate=0.1, train=False)
    ratios = LogRatios(run.trainer)
    run.trainer.train()
    first = AutoModelForCausalLM.from_pretrained(tiny_models("llama", head=False)).eval()
    pad = run.trainer._tokenizer.pad_token_id
    for scoring, output in enumerate(run.scored):
        prompt_length, kept = output["prompt_ids"].shape[1], output["completion_mask"].bool()
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        ids = ratios.calls[2 * scoring + 1][1]
        assert int(attention.sum()) >= int((ids != pad).sum())
        with torch.no_grad():
            logits = first(input_ids=ids, attention_mask=attention).logits[:, prompt_length - 1 : -1]
        of_first = logits.log_softmax(-1).gather(2, ids[:, prompt_length:, None])[..., 0]
        torch.testing.assert_close(ratios.calls[2 * scoring + 1][2][kept], of_first[kept], rtol=0, atol=1e-4)
    assert ratios.of(2, output["completion_mask"]).abs().max() > 1e-2  # the policy moved, the reference did not


def test_responses_without_a_reward_have_no_weight_and_no_advantage(
    short_run: Callable[..., Any], measured: Any, tokens_of: Tokens
) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    def is_missing(ids: list[int]) -> bool:
        return sum(ids) % 3 == 0

    # the columns have values for all: they must not make a response count as scored
    reward = measured(reward=lambda ids: None if is_missing(ids) else sum(ids) % 11 / 5)
    run = short_run(VarianceAwareRLOOTrainer, [reward], options={"advantage_weight": "sign"}, train=False)
    given: list[Tensor] = []
    give = run.trainer._kl_coefficient.give
    run.trainer._kl_coefficient.give = lambda weights: given.append(weights) or give(weights)
    run.trainer.train()
    missing_rows = 0
    for weights, output in zip(given, run.scored, strict=True):
        tokens = tokens_of(output)
        missing = torch.tensor([is_missing(ids) for ids in tokens])
        missing_rows += int(missing.sum())
        assert bool(weights[missing].isnan().all())
        assert bool((output["advantages"][missing] == 0).all())
        variance = torch.tensor([reward.variance(ids) for ids in tokens])
        torch.testing.assert_close(weights[~missing].float(), kl_weights(variance[~missing]))
    assert 0 < missing_rows < 24
    assert all(bool(p.isfinite().all()) for p in run.trainer.model.parameters())


def test_responses_that_another_reward_scores_are_trained_on(
    short_run: Callable[..., Any], measured: Any, tokens_of: Tokens
) -> None:
    """A reward that is not applicable to a prompt's responses leaves TRL's numbers for them."""
    from prudent.alignment.rlhf import VarianceAwareGRPOTrainer, VarianceAwareRLOOTrainer

    def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(len(set(ids))) for ids in completion_ids]

    def never(ids: list[int]) -> None:
        return None

    def odd(of: Callable[[list[int]], float]) -> Callable[[list[int]], float | None]:
        return lambda ids: of(ids) if ids[0] % 2 else None

    from trl import RLOOTrainer

    own = short_run(RLOOTrainer, [length])
    mixed = measured(reward=never, variance=never, weight=never)
    assert own.same_as(short_run(VarianceAwareRLOOTrainer, [length, mixed], options={"advantage_weight": "sign"}))
    reward = measured()
    reward.reward, reward.variance, reward.weight = map(odd, (reward.reward, reward.variance, reward.weight))
    for trainer_class in (VarianceAwareRLOOTrainer, VarianceAwareGRPOTrainer):
        run = short_run(trainer_class, [reward, length], options={"advantage_weight": "sign"}, max_steps=1)
        (output,) = run.scored
        missing = torch.tensor([ids[0] % 2 == 0 for ids in tokens_of(output)])
        assert 0 < int(missing.sum()) < 8
        assert bool((output["kl_weight"][missing] == 1).all())
        assert not bool((output["kl_weight"][~missing] == 1).all())
        assert bool((output["advantages"][missing] != 0).any())


def test_vanishing_variances_are_held_at_the_floor_and_logged(
    short_run: Callable[..., Any], measured: Any, tokens_of: Tokens
) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    reward = measured(variance=lambda ids: float(ids[0] % 2))
    run = short_run(VarianceAwareRLOOTrainer, [reward], options={"advantage_weight": "sign"})
    for output, logged in zip(run.scored, run.trainer.state.log_history, strict=False):
        tokens = tokens_of(output)
        zero = sum(ids[0] % 2 == 0 for ids in tokens) / len(tokens)
        assert 0 < zero < 1
        ratio = [max(0.1, (ids[0] % 2) / (1 - zero)) for ids in tokens]
        assert logged["kl_weight/min"] == pytest.approx(0.1 / (sum(ratio) / len(ratio)))
        assert logged["kl_weight/max"] == pytest.approx(max(ratio) / (sum(ratio) / len(ratio)))
        assert logged["kl_weight/share_floored"] == pytest.approx(zero)
        assert logged["kl_weight/share_capped"] == 0
        assert logged["advantage_weight/mean"] == pytest.approx(sum(map(reward.weight, tokens)) / len(tokens))
        assert 0.5 * logged["kl_weight/min"] <= logged["kl_coef/effective"] <= 0.5 * logged["kl_weight/max"]


def test_resumed_training_has_the_same_log(
    short_run: Callable[..., Any], measured: Any, tmp_path: Path, tokens_of: Tokens
) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    def log_of(run: Any) -> list[dict[str, float]]:
        untimed = [{k: v for k, v in row.items() if k != "step_time"} for row in run.trainer.state.log_history]
        return [row for row in untimed if "loss" in row]

    common = {"max_steps": 5, "save_strategy": "steps", "save_steps": 1, "options": {"advantage_weight": "sign"}}
    whole = short_run(VarianceAwareRLOOTrainer, [measured()], **common)
    for done in (3, 4):  # three steps an epoch: between two epochs, and inside one
        checkpoint = str(tmp_path / "out" / f"checkpoint-{done}")
        resumed = short_run(VarianceAwareRLOOTrainer, [measured()], **common, resume=checkpoint)
        assert [tokens_of(a) for a in whole.scored[done:]] == [tokens_of(a) for a in resumed.scored]
        assert whole.losses[done:] == resumed.losses
        assert log_of(whole) == log_of(resumed)


def test_the_order_of_prompts_is_trls_in_every_epoch() -> None:
    from trl.trainer.utils import RepeatSampler

    from prudent.alignment.rlhf._order import OrderOfEpoch

    def sampler() -> RepeatSampler:
        return RepeatSampler(range(7), mini_repeat_count=2, batch_size=3, repeat_count=2, seed=3)

    own = sampler()
    orders = [list(own) for _ in range(4)]
    assert orders[0] != orders[1]
    for epoch in (2, 0, 3, 1):
        order = OrderOfEpoch(sampler(), partial(float, epoch + 0.25))
        assert list(order) == list(order) == orders[epoch]
        assert len(order) == len(own)


def test_other_reward_functions_keep_their_weights(short_run: Callable[..., Any], measured: Any) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    def short(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [-float(len(set(ids))) for ids in completion_ids]

    run = short_run(VarianceAwareRLOOTrainer, [short, measured()], reward_weights=[0.25, 2.0])
    assert run.trainer.reward_weights.tolist() == [0.25, 2.0, 0.0]
    assert run.trainer.reward_func_names[-1] == "variance"
    assert {"rewards/short/mean", "rewards/variance/mean"} < run.trainer.state.log_history[0].keys()


def test_evaluation_weighs_too(short_run: Callable[..., Any], measured: Any) -> None:
    from prudent.alignment.rlhf import VarianceAwareGRPOTrainer, VarianceAwareRLOOTrainer

    for trainer_class in (VarianceAwareRLOOTrainer, VarianceAwareGRPOTrainer):
        run = short_run(trainer_class, [measured()], options={"advantage_weight": "sign"}, max_steps=1)
        run.trainer.evaluate(run.trainer.train_dataset.select(range(4)))
        logged = run.trainer.state.log_history[-1]
        assert logged["eval_kl_weight/min"] < 1 < logged["eval_kl_weight/max"]
        assert 0 < logged["eval_advantage_weight/mean"] < 1


def test_a_reward_model_is_read_once_a_scoring(
    short_run: Callable[..., Any], reward_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prudent.alignment import PrudentReward
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    readings: list[Any] = []
    measured = PrudentReward._measured

    def recorded(self: Any, *args: Any) -> Any:
        readings.append(measured(self, *args))
        return readings[-1]

    monkeypatch.setattr(PrudentReward, "_measured", recorded)
    run = short_run(
        VarianceAwareRLOOTrainer,
        PrudentReward(reward_models["heads"], "lcb_std(1)"),
        options={"advantage_weight": "sign", "variance_of": "contrast"},
        max_steps=2,
    )
    assert len(readings) == len(run.scored) == 2
    for found, row in zip(readings, run.trainer.state.log_history, strict=False):
        weights = kl_weights(found.contrast_std.double() ** 2)
        assert row["kl_weight/min"] == pytest.approx(weights.min().item(), rel=1e-4)
        assert row["kl_weight/max"] == pytest.approx(weights.max().item(), rel=1e-4)
        assert row["kl_weight/min"] < row["kl_weight/max"]
        assert 0 < row["advantage_weight/mean"] < 1


def test_what_the_columns_are_asked_for(short_run: Callable[..., Any], measured: Any) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    reward = measured()
    options = {"variance_of": "contrast", "advantage_weight": "signcert"}
    short_run(VarianceAwareRLOOTrainer, [reward], options=options, train=False)
    assert reward.asked == ["contrast", "signcert"]


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({"kl_form": "in_loss"}, {}, "kl_form must be one of constant, exact, in_reward"),
        ({"advantage_weight": "all"}, {}, "advantage_weight must be one of"),
        ({"kl_weight_floor": 0.0}, {}, "floor must lie"),
        ({}, {"beta": 0.0}, "beta"),
        (
            {"kl_form": "constant", "advantage_weight": "sign"},
            {"normalize_advantages": True},
            "normalizes together with the KL penalty's",
        ),
        ({}, {"reward_weights": [1.0, 0.0]}, "2 weights for 1 reward functions"),
    ],
)
def test_refuses(
    short_run: Callable[..., Any], measured: Any, options: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    with pytest.raises(ValueError, match=message):
        short_run(VarianceAwareRLOOTrainer, [measured()], options=options, **config)


def test_needs_a_configuration(measured: Any) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    with pytest.raises(ValueError, match="args must be TRL's configuration"):
        VarianceAwareRLOOTrainer("policy", measured(), None, advantage_weight="sign")  # type: ignore[arg-type]


def test_needs_one_reward_that_knows_variances(short_run: Callable[..., Any], measured: Any) -> None:
    from prudent.alignment.rlhf import VarianceAwareRLOOTrainer

    def plain(completions: list[str], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match="got 0 of 1"):
        short_run(VarianceAwareRLOOTrainer, plain)
    with pytest.raises(ValueError, match="got 2 of 2"):
        short_run(VarianceAwareRLOOTrainer, [measured(), measured()])


def test_prompts_may_not_straddle_processes_where_responses_are_compared(measured: Any) -> None:
    from types import SimpleNamespace

    from prudent.alignment.rlhf._columns import WeightColumns

    args = SimpleNamespace(
        reward_weights=None,
        world_size=2,
        per_device_train_batch_size=3,
        steps_per_generation=1,
        num_generations=2,
        per_device_eval_batch_size=4,
        num_generations_eval=None,
    )
    common = {"floor": 0.1, "cap": 10.0}
    marginal = WeightColumns([measured()], variance_of="reward", advantage_weight="none", **common)
    assert marginal.extend(args, {}).reward_weights == [1.0, 0.0]
    compared = WeightColumns([measured()], variance_of="contrast", advantage_weight="none", **common)
    with pytest.raises(UnsupportedError, match="num_generations"):
        compared.extend(args, {})
    args.per_device_train_batch_size = 4
    options: dict[str, Any] = {"reward_processing_classes": "given"}
    assert compared.extend(args, options).reward_weights == [1.0, 0.0]
    assert options["reward_processing_classes"] == ["given", None]
