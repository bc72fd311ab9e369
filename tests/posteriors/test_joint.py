"""The joint posterior of a few candidates: exact covariances, whatever the kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prudent.errors import UnsupportedError
from prudent.models import RewardModel
from prudent.posteriors import PlainRewards, Posterior, fit, joint_rewards
from prudent.rewards import concatenate

KINDS = ["last_layer", "kron", "ekfac", "diag", "full"]


@pytest.fixture(scope="module")
def fitted(
    lora_model: Callable[..., RewardModel], lora_pairs: list[dict[str, Any]]
) -> Callable[[str], tuple[RewardModel, Posterior]]:
    """A LoRA model and its posterior of a kind, each made once."""
    made: dict[str, tuple[RewardModel, Posterior]] = {}

    def make(kind: str) -> tuple[RewardModel, Posterior]:
        if kind not in made:
            model = lora_model("llama", dtype=torch.float32)
            made[kind] = model, fit(model, lora_pairs, posterior=kind, prior_precision=2.0, progress=False).posterior
        return made[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_means_and_covariances_are_those_of_the_posterior(
    kind: str, fitted: Callable[..., Any], lora_texts: tuple[list[str], list[str]]
) -> None:
    model, posterior = fitted(kind)
    prompts, responses = lora_texts
    rewards = joint_rewards(model, prompts, responses, posterior=posterior)
    mean, exact = posterior.exact(model, model.encode(prompts, responses))
    scale = exact.square().sum(1).max().item()
    torch.testing.assert_close(rewards.mean, mean.double(), rtol=1e-4, atol=1e-5)
    for rows in (slice(0, 6), slice(6, 12)):
        covariance = exact[rows].double() @ exact[rows].double().T
        found = rewards[torch.arange(12)[rows]].covariance()
        torch.testing.assert_close(found, covariance, rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(rewards.variance[rows], covariance.diagonal(), rtol=1e-4, atol=1e-5 * scale)
    i, j = torch.tensor([0, 1, 7, 3]), torch.tensor([5, 2, 11, 3])
    difference = exact[i].double() - exact[j].double()
    torch.testing.assert_close(rewards.contrast(i, j)[1], difference.square().sum(1), rtol=1e-3, atol=1e-5 * scale)
    torch.testing.assert_close(rewards.factor.square().sum(1), rewards.variance)
    assert rewards.group.tolist() == [0] * 6 + [1] * 6
    predicted = posterior.predict(
        model, model.encode(prompts, responses), group=rewards.group, reference_weight=torch.zeros(12)
    )
    torch.testing.assert_close(rewards.variance, predicted.variance.double(), rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", ["last_layer", "ekfac"])
def test_prompts_may_come_in_any_order_and_equal_texts_have_one_reward(
    kind: str, fitted: Callable[..., Any], lora_texts: tuple[list[str], list[str]]
) -> None:
    model, posterior = fitted(kind)
    prompts, responses = lora_texts
    straight = joint_rewards(model, prompts, responses, posterior=posterior)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    order = torch.cat([order, order[:1]])
    mixed = joint_rewards(
        model, [prompts[row] for row in order], [responses[row] for row in order], posterior=posterior
    )
    torch.testing.assert_close(mixed.mean, straight.mean[order], rtol=1e-4, atol=1e-5)
    assert [value.item() for value in mixed.contrast(0, 12)] == [0.0, 0.0]
    assert mixed.text_id[0] == mixed.text_id[12]
    inside = (order.unsqueeze(1) < 6) == (order < 6)
    expected = straight.covariance()[order][:, order]
    torch.testing.assert_close(mixed.covariance(), expected * inside, rtol=1e-3, atol=1e-6)
    assert mixed.covariance()[~inside].count_nonzero() == 0
    best = mixed.prob_best(256)
    for number in (0, 1):
        assert best[mixed.group == number].sum().item() == pytest.approx(1)


def test_factors_of_other_texts_do_not_mix(fitted: Callable[..., Any], lora_texts: tuple[list[str], list[str]]) -> None:
    model, posterior = fitted("kron")
    prompts, responses = lora_texts
    one = joint_rewards(model, prompts[:6], responses[:6], posterior=posterior)
    assert one.basis_id == joint_rewards(model, prompts[:6], responses[:6], posterior=posterior).basis_id
    other = joint_rewards(model, prompts[6:], responses[6:], posterior=posterior)
    with pytest.raises(ValueError, match="bas"):
        concatenate([one, other])


def test_messages_and_folders_are_taken(
    lora_folders: Callable[..., Path], lora_pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    fit(lora_folders("llama"), lora_pairs, tmp_path / "rm", posterior="diag", progress=False)
    texts = joint_rewards(tmp_path / "rm", ["name a fruit"] * 2, ["pear", "apple"], max_length=32)
    message = [{"role": "user", "content": "name a fruit"}]
    mixed = joint_rewards(
        tmp_path / "rm",
        [message, "name a fruit"],
        [[{"role": "assistant", "content": "pear"}], "apple"],
        max_length=32,
    )
    assert torch.equal(texts.mean, mixed.mean)
    assert torch.equal(texts.covariance(), mixed.covariance())
    assert mixed.group.tolist() == [0, 0]


def test_what_cannot_be_done_is_said(fitted: Callable[..., Any]) -> None:
    model, posterior = fitted("diag")
    responses = [f"the pear {'is ' * count}" for count in range(65)]
    prompts = ["tell me"] * 2 + ["name a fruit"] * 65
    with pytest.raises(UnsupportedError, match=r"prompt of row 2 has 65 responses.*at most 64"):
        joint_rewards(model, prompts, [*responses[:2], *responses], posterior=posterior)
    with pytest.raises(ValueError, match="2 prompts and 1 responses"):
        joint_rewards(model, ["a", "b"], ["c"], posterior=posterior)
    with pytest.raises(ValueError, match="needs its posterior"):
        joint_rewards(model, ["a"], ["c"])
    with pytest.raises(UnsupportedError, match="has no posterior"):
        joint_rewards(model, ["a"], ["c"], posterior=PlainRewards())
    assert len(joint_rewards(model, ["name a fruit"] * 64, responses[:64], posterior=posterior)) == 64
    assert len(joint_rewards(model, [], [], posterior=posterior)) == 0
