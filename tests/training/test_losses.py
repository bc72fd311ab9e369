import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prudent.training import bradley_terry_loss, centering_penalty, classification_loss, preference_nll

finite = st.floats(-50, 50, allow_nan=False)


def vectors(*columns: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in columns]


@given(finite, finite, st.floats(-5, 5), st.floats(0, 1))
def test_matches_the_formula_of_trl(chosen: float, rejected: float, margin: float, coefficient: float) -> None:
    r_c, r_r, m = vectors(chosen, rejected, margin)
    expected = -nn.functional.logsigmoid(r_c - r_r - m).mean() + coefficient * torch.mean((r_c + r_r) ** 2)
    loss = bradley_terry_loss(r_c, r_r, margin=m, center_rewards_coefficient=coefficient)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


@given(finite, finite, st.floats(0, 1), st.floats(0, 0.49))
def test_soft_labels_are_the_expected_loss_of_flipped_hard_ones(
    chosen: float, rejected: float, probability: float, smoothing: float
) -> None:
    r_c, r_r, p = vectors(chosen, rejected, probability)
    # P(the label as given is the true one), then P(it was not flipped): enumerate the four cases.
    expected = torch.zeros(1, dtype=torch.float64)
    for label, label_weight in ((1, probability), (0, 1 - probability)):
        for flipped, flip_weight in ((0, 1 - smoothing), (1, smoothing)):
            won = bool(label) != bool(flipped)
            hard = preference_nll(r_c, r_r) if won else preference_nll(r_r, r_c)
            expected += label_weight * flip_weight * hard
    loss = preference_nll(r_c, r_r, p_chosen=p, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


@given(finite, finite, st.floats(-5, 5), st.floats(0, 1), st.floats(0, 0.49))
def test_gradient_is_probability_minus_target(
    chosen: float, rejected: float, margin: float, probability: float, smoothing: float
) -> None:
    r_c, r_r, m, p = vectors(chosen, rejected, margin, probability)
    r_c.requires_grad_()
    preference_nll(r_c, r_r, margin=m, p_chosen=p, label_smoothing=smoothing).sum().backward()
    target = probability * (1 - smoothing) + (1 - probability) * smoothing
    expected = torch.sigmoid(r_c.detach() - r_r - m) - target
    torch.testing.assert_close(r_c.grad, expected, rtol=1e-9, atol=1e-12)


def test_closed_forms() -> None:
    zero = torch.zeros(1)
    assert preference_nll(zero, zero).item() == pytest.approx(math.log(2))
    assert preference_nll(zero, zero, p_chosen=torch.tensor([0.3])).item() == pytest.approx(math.log(2))
    # At its minimum over the difference the loss of a soft label is the label's entropy.
    p = torch.tensor([0.8], dtype=torch.float64)
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert preference_nll(torch.logit(p), torch.zeros(1).double(), p_chosen=p).item() == pytest.approx(entropy)
    assert centering_penalty(torch.tensor([1.0, 2.0]), torch.tensor([1.0, -2.0])).item() == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_rewards_neither_overflow_nor_cancel(dtype: torch.dtype) -> None:
    high = torch.tensor([1e4], dtype=dtype, requires_grad=True)
    low = torch.tensor([-1e4], dtype=dtype, requires_grad=True)
    assert preference_nll(high, low).item() == 0.0
    assert preference_nll(low, high).item() == 2e4
    # 0.999 of nothing plus 0.001 of 20,000.
    soft = preference_nll(high, low, p_chosen=torch.tensor([0.999], dtype=dtype))
    assert soft.item() == pytest.approx(20, rel=1e-4)
    loss = bradley_terry_loss(low, high, p_chosen=torch.tensor([0.5], dtype=dtype), center_rewards_coefficient=0.01)
    gradients = torch.autograd.grad(loss, [high, low])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_the_constant_of_a_prompt_is_free_but_for_the_penalty() -> None:
    chosen, rejected = torch.randn(6, generator=torch.Generator().manual_seed(0)).view(2, 3)
    shifted = bradley_terry_loss(chosen + 3, rejected + 3)
    torch.testing.assert_close(shifted, bradley_terry_loss(chosen, rejected))
    penalised = [
        bradley_terry_loss(chosen + shift, rejected + shift, center_rewards_coefficient=0.1) for shift in (0.0, 3.0)
    ]
    assert penalised[1] > penalised[0]


@given(finite, finite, st.floats(0, 1), st.floats(0, 0.49))
def test_classification_is_torchs_cross_entropy_of_each_response_alone(
    chosen: float, rejected: float, probability: float, smoothing: float
) -> None:
    r_c, r_r, p = vectors(chosen, rejected, probability)
    rewards = torch.cat([r_c, r_r]).requires_grad_()
    target = probability * (1 - smoothing) + (1 - probability) * smoothing
    targets = torch.tensor([target, 1 - target], dtype=torch.float64)
    expected = nn.functional.binary_cross_entropy_with_logits(rewards.detach(), targets)
    loss = classification_loss(rewards[:1], rewards[1:], p_chosen=p, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    gradient = torch.autograd.grad(loss, rewards)[0]
    torch.testing.assert_close(gradient, (torch.sigmoid(rewards.detach()) - targets) / 2, rtol=1e-9, atol=1e-12)


def test_classification_in_closed_form_and_at_extremes() -> None:
    zero, far = torch.zeros(3), torch.full((3,), 1e4)
    assert classification_loss(zero, zero).item() == pytest.approx(math.log(2))
    assert classification_loss(far, -far).item() == 0.0
    assert classification_loss(-far, far).item() == 1e4
    # Half of the sum in 2411.04991: -log sigmoid(f(y_w)) - log(1 - sigmoid(f(y_l))), averaged over pairs.
    chosen, rejected = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    paper = -(torch.log(torch.sigmoid(chosen)) + torch.log(1 - torch.sigmoid(rejected))).mean()
    assert classification_loss(chosen, rejected).item() == pytest.approx(paper.item() / 2)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8))
def test_a_misordered_pair_has_a_misclassified_response(rewards: list[tuple[float, float]]) -> None:
    chosen, rejected = torch.tensor(rewards, dtype=torch.float64).unbind(1)
    # On which order consistency rests: with chosen <= rejected the two responses cost log 2 each, or more on average.
    misordered = (chosen <= rejected).double().mean()
    assert classification_loss(chosen, rejected) >= misordered * math.log(2) - 1e-12
