"""GRPO whose KL penalty knows variances, against TRL's own trainer and against its divergence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from prudent.alignment import kl_weights
from prudent.errors import UnsupportedError

pytest.importorskip("trl")
Tokens = Callable[[dict[str, Tensor]], list[list[int]]]
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # of TRL's own making


def test_expected_gradient_on_policy_is_that_of_the_weighted_divergence() -> None:
    from prudent.alignment.rlhf._coefficient import ResponseCoefficient

    generator = torch.Generator().manual_seed(0)
    logits, reference, weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    logits, weight, log_reference = logits.requires_grad_(), weight.exp(), reference.log_softmax(0)
    log_policy = logits.log_softmax(0)
    coefficient = ResponseCoefficient(0.3, "in_loss")
    coefficient.give(weight)
    difference = log_reference - log_policy
    penalty = (coefficient * (difference.exp() - difference - 1)[:, None])[:, 0]  # TRL's k3, a response of one token
    on_policy = torch.autograd.grad((log_policy.exp().detach() * penalty).sum(), logits, retain_graph=True)[0]
    divergence = log_reference.exp() * difference - log_reference.exp() + log_policy.exp()
    expected = torch.autograd.grad((0.3 * weight * divergence).sum(), logits)[0]
    assert bool((divergence >= 0).all())
    torch.testing.assert_close(on_policy, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lora", [False, True])
def test_equal_variances_are_trls_own_trainer_to_the_bit(
    short_run: Callable[..., Any], measured: Any, lora: bool
) -> None:
    from trl import GRPOTrainer

    from prudent.alignment.rlhf import VarianceAwareGRPOTrainer

    own = short_run(GRPOTrainer, [measured()], lora=lora)
    assert own.gradients[0]
    equal = measured(variance=lambda ids: 0.3, weight=lambda ids: 1.0)
    options = {"advantage_weight": "sign"}
    assert own.same_as(short_run(VarianceAwareGRPOTrainer, [equal], lora=lora, options=options))


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_weights_stay_with_their_responses_and_weigh_the_loss(
    short_run: Callable[..., Any], measured: Any, monkeypatch: pytest.MonkeyPatch, loss_type: str, tokens_of: Tokens
) -> None:
    """Two parts of a generation, shuffled by TRL: each loss has the weights of its own responses."""
    from trl import GRPOTrainer

    from prudent.alignment.rlhf import VarianceAwareGRPOTrainer

    reward = measured()
    parts: list[tuple[dict[str, Tensor], float]] = []
    compute = VarianceAwareGRPOTrainer._compute_loss

    def recorded(self: Any, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        loss = compute(self, model, inputs)
        # the penalty is linear in the weights: TRL's own loss with each response's coefficient in turn
        beta, self.beta = self.beta, 0.0
        with torch.no_grad():
            bare = GRPOTrainer._compute_loss(self, model, inputs)
            alone = []
            for row in range(len(inputs["completion_ids"])):
                self.beta = type(beta)(float(beta), "in_loss")
                self.beta.give(torch.eye(len(inputs["completion_ids"]))[row])
                alone.append(GRPOTrainer._compute_loss(self, model, inputs) - bare)
        self.beta = beta
        expected = bare + (torch.stack(alone) * inputs["kl_weight"]).sum()
        torch.testing.assert_close(loss.detach().double(), expected.double(), rtol=0, atol=1e-6)
        parts.append((inputs, loss.item()))
        return loss

    monkeypatch.setattr(VarianceAwareGRPOTrainer, "_compute_loss", recorded)
    run = short_run(
        VarianceAwareGRPOTrainer,
        [reward],
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=2,
        loss_type=loss_type,
    )
    for scoring, output in enumerate(run.scored):
        variance = {tuple(ids): reward.variance(ids) for ids in tokens_of(output)}
        weights = kl_weights(torch.tensor([variance[tuple(ids)] for ids in tokens_of(output)], dtype=torch.float64))
        torch.testing.assert_close(output["kl_weight"].double(), weights, rtol=0, atol=1e-6)
        of_tokens = dict(zip(map(tuple, tokens_of(output)), output["kl_weight"].tolist(), strict=True))
        for inputs, _ in parts[2 * scoring : 2 * scoring + 2]:
            assert [of_tokens[tuple(ids)] for ids in tokens_of(inputs)] == inputs["kl_weight"].tolist()
    assert len(parts) == 4
    logged = run.trainer.state.log_history[0]
    assert logged["kl_weight/min"] < 1 < logged["kl_weight/max"]


def test_responses_without_a_reward_are_held_with_weight_one(
    short_run: Callable[..., Any], measured: Any, tokens_of: Tokens
) -> None:
    from prudent.alignment.rlhf import VarianceAwareGRPOTrainer

    reward = measured(reward=lambda ids: None if sum(ids) % 3 == 0 else sum(ids) % 11 / 5)
    run = short_run(VarianceAwareGRPOTrainer, [reward], options={"advantage_weight": "sign"}, train=False)
    given: list[Tensor] = []
    give = run.trainer._kl_coefficient.give
    run.trainer._kl_coefficient.give = lambda weights: given.append(weights) or give(weights)
    run.trainer.train()
    rows = 0
    for output in run.scored:
        missing = torch.tensor([sum(ids) % 3 == 0 for ids in tokens_of(output)])
        rows += int(missing.sum())
        assert output["kl_weight"].isnan().tolist() == missing.tolist()
        assert bool((output["advantages"][missing] == 0).all())
    assert rows == int((torch.cat(given) == 1).sum()) > 0
    assert all(bool(p.isfinite().all()) for p in run.trainer.model.parameters())


def test_advantages_are_weighted(short_run: Callable[..., Any], measured: Any, tokens_of: Tokens) -> None:
    from prudent.alignment.rlhf import VarianceAwareGRPOTrainer

    reward = measured()
    options = {"kl_form": "constant", "advantage_weight": "signcert"}
    run = short_run(VarianceAwareGRPOTrainer, [reward], options=options, scale_rewards="none", max_steps=1, beta=0.0)
    (output,) = run.scored
    tokens = tokens_of(output)
    value = torch.tensor([reward.reward(ids) for ids in tokens]).view(-1, 4)
    rho = torch.tensor([reward.weight(ids) for ids in tokens])
    torch.testing.assert_close(output["advantages"], rho * (value - value.mean(1, keepdim=True)).view(-1))
    assert reward.asked == ["signcert"]


def test_a_trl_that_does_not_use_the_coefficient_is_an_error(short_run: Callable[..., Any], measured: Any) -> None:
    from prudent.alignment.rlhf import VarianceAwareGRPOTrainer

    run = short_run(VarianceAwareGRPOTrainer, [measured()], train=False)
    run.trainer.beta = 0.5
    with pytest.raises(UnsupportedError, match="0 times where once was due"):
        run.trainer.train()


def test_forms_of_a_penalty_in_the_reward_are_refused(short_run: Callable[..., Any], measured: Any) -> None:
    from prudent.alignment.rlhf import VarianceAwareGRPOTrainer

    with pytest.raises(ValueError, match="must be in_loss or constant, got 'exact'"):
        short_run(VarianceAwareGRPOTrainer, [measured()], options={"kl_form": "exact"})
