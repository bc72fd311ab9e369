"""Weights over stored candidates for a KL divergence."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prudent.alignment import kl_weights, reweight
from prudent.alignment.bandit import weighted_kl_optimum
from prudent.errors import DataError


def pools(seed: int, sizes: tuple[int, ...] = (6, 3, 9)) -> tuple[torch.Tensor, torch.Tensor]:
    """Utilities and prompts of some pools, the rows in no order."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes)) * 5, sizes))
    return torch.from_numpy(rng.normal(size=len(group))), torch.from_numpy(group)


def by_hand(utility: torch.Tensor, kl_coef: float) -> tuple[torch.Tensor, float]:
    """The tilted policy over one prompt's candidates, and its KL."""
    policy = torch.softmax(utility / kl_coef, 0)
    return policy, (policy * (policy * len(policy)).log()).sum().item()


def test_a_coefficient_gives_the_tilted_policy_of_each_prompt() -> None:
    utility, group = pools(0)
    found = reweight(utility, group, kl_coef=0.4)
    assert found.prompt_id.tolist() == [0, 5, 10]
    assert found.is_reached.all()
    for place, prompt in enumerate(found.prompt_id):
        own = group == prompt
        policy, kl = by_hand(utility[own], 0.4)
        torch.testing.assert_close(found.weight[own], policy)
        assert found.kl[place].item() == pytest.approx(kl)
        assert found.effective_sample_size[place].item() == pytest.approx(1 / policy.square().sum().item())


@given(seed=st.integers(0, 10_000), target=st.floats(0.001, 1.2), scale=st.floats(1e-3, 1e3), per_prompt=st.booleans())
@settings(max_examples=40)
def test_the_target_is_reached_whatever_the_units(seed: int, target: float, scale: float, per_prompt: bool) -> None:
    utility, group = pools(seed, (6, 4, 9))
    found = reweight(scale * utility, group, target_kl=target, per_prompt=per_prompt)
    assert found.is_reached.all()
    torch.testing.assert_close(
        found.weight, reweight(utility, group, target_kl=target, per_prompt=per_prompt).weight, atol=1e-5, rtol=1e-4
    )
    if per_prompt:
        np.testing.assert_allclose(found.kl, target, rtol=1e-5)
    else:
        assert found.kl.mean().item() == pytest.approx(target, rel=1e-5)
        assert len(set(found.kl_coef.tolist())) == 1


def test_what_cannot_be_reached_is_told() -> None:
    utility, group = pools(1, (4, 4))
    with pytest.raises(DataError, match=r"a KL of 1.5 nats: the mean KL is at most 1.386 with 4 candidates a prompt"):
        reweight(utility, group, target_kl=1.5)
    with pytest.raises(DataError, match=r"the KL of a prompt is at most 1\.386"):
        reweight(utility, group, target_kl=1.5, per_prompt=True)
    tied = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    both = torch.arange(8) // 4
    found = reweight(tied, both, target_kl=1.0, per_prompt=True)  # the first has ln 4 - ln 2 at most
    assert found.is_reached.tolist() == [False, True]
    np.testing.assert_allclose(found.weight[:4], [0.5, 0.5, 0, 0], atol=1e-9)
    np.testing.assert_allclose(found.kl, [math.log(2), 1.0], rtol=1e-5)
    with pytest.raises(DataError, match=r"at most 1.04 "):  # the mean of ln 2 and ln 4
        reweight(tied, both, target_kl=1.1)
    with pytest.raises(DataError, match=r"at most 0 with 1 candidates"):
        reweight(torch.zeros(2), torch.arange(2), target_kl=0.1)
    # a small target is not reached by doing nothing
    with pytest.raises(DataError, match="the KL of a prompt is at most 0 with 4"):
        reweight(torch.zeros(4), torch.zeros(4, dtype=torch.long), target_kl=5e-7, per_prompt=True)
    assert reweight(utility, group, target_kl=1e-7).is_reached.all()
    # one coefficient for prompts of very different scales: what was tried is told
    uneven = torch.tensor([0.0, 1e12, 0.0, 1e-3], dtype=torch.float64)
    with pytest.raises(DataError, match=r"the mean KL is at most 0\.3466 .* by coefficients from 1e\+03 to 1e\+21"):
        reweight(uneven, torch.tensor([0, 0, 1, 1]), target_kl=0.5)


@pytest.mark.parametrize("kl_form", ["exact", "in_reward"])
def test_weighted_penalties_are_those_of_the_bandit(kl_form: str) -> None:
    utility, group = pools(2)
    weight = kl_weights(torch.from_numpy(np.random.default_rng(3).uniform(0.1, 4, len(utility))))
    found = reweight(utility, group, target_kl=0.5, kl_weight=weight, kl_form=kl_form)
    assert found.kl.mean().item() == pytest.approx(0.5, rel=1e-5)
    coefficient = found.kl_coef[0].item()
    for prompt in found.prompt_id:
        own = group == prompt
        uniform = torch.full((int(own.sum()),), 1 / int(own.sum()), dtype=torch.float64)
        expected = weighted_kl_optimum(utility[own], weight[own], uniform, coefficient, kl_form=kl_form)
        torch.testing.assert_close(found.weight[own], expected)
    plain = reweight(utility, group, target_kl=0.5)
    equal = reweight(utility, group, target_kl=0.5, kl_weight=torch.ones_like(utility), kl_form=kl_form)
    torch.testing.assert_close(equal.weight, plain.weight, atol=1e-6, rtol=1e-5)


def test_a_small_kl_is_out_of_reach_of_the_exact_form_alone() -> None:
    utility, group = pools(4, (6, 6))
    weight = kl_weights(torch.tensor([0.01, 1, 1, 9, 1, 1] * 2))
    with pytest.raises(DataError, match=r"at least 0\.2\d+ and at most 1.79.*in_reward start at 0"):
        reweight(utility, group, target_kl=0.001, kl_weight=weight, kl_form="exact")
    found = reweight(utility, group, target_kl=0.001, kl_weight=weight, kl_form="in_reward")
    assert found.kl.mean().item() == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_coef": 0.1}, "either target_kl or kl_coef"),
        ({"target_kl": None}, "either target_kl or kl_coef"),
        ({"target_kl": 0.0}, "target_kl must be a finite number above 0"),
        ({"target_kl": None, "kl_coef": math.nan}, "kl_coef must be a finite number above 0"),
        ({"target_kl": None, "kl_coef": 0.1, "per_prompt": True}, "per_prompt is for target_kl"),
        ({"kl_weight": torch.ones(18)}, "kl_weight is for"),
        ({"kl_form": "exact"}, "kl_weight is for"),
        ({"kl_form": "other"}, "kl_form must be"),
        ({"kl_form": "exact", "kl_weight": torch.ones(3)}, r"kl_weight must have shape \[18\]"),
        ({"kl_form": "exact", "kl_weight": torch.arange(18.0)}, "weight must be finite and above 0, got 0.0 in row 0"),
        ({"group": torch.zeros(3, dtype=torch.long)}, "vectors of one length"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict, message: str) -> None:
    utility, group = pools(5)
    with pytest.raises(ValueError, match=message):
        reweight(**{"utility": utility, "group": group, "target_kl": 0.3, **change})


def test_candidates_without_a_utility_are_named() -> None:
    utility, group = torch.tensor([0.0, math.nan, math.inf]), torch.tensor([3, 3, 4])
    with pytest.raises(DataError, match=r"2 of 3 candidates have no finite utility, the first in row 1 \(prompt 3\)"):
        reweight(utility, group, kl_coef=1.0)
