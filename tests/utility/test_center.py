"""Centering on references, against numpy's quantiles and dense covariance algebra."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prudent.errors import DataError, PosteriorError
from prudent.rewards import GaussianRewards, MemberRewards, RewardPosterior, TransformedRewards
from prudent.utility import Center, TransformState, chain

GROUP = torch.tensor([7, 3, 7, 7, 3, 9, 3, 7, 3, 7])
IS_REFERENCE = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
CENTERS = [
    Center(),
    Center(q=0.3),
    Center("mean"),
    Center(fit="normal"),
    Center(of="all"),
    Center("mean", of="all"),
]


def values(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(shift: Tensor | None = None, factor: bool = True, per_prompt_columns: bool = False) -> GaussianRewards:
    """Rewards with a factor of three columns, and one that stands for the constants of the three prompts."""
    columns = values(1, 10, 3)
    if per_prompt_columns:
        columns = torch.cat([columns, 5 * (GROUP[:, None] == torch.tensor([3, 7, 9]))], 1)
    mean = values(0, 10) if shift is None else values(0, 10) + shift
    variance, noise = columns.square().sum(1), torch.full((10,), 0.5, dtype=torch.float64)
    text_id = torch.tensor([0, 0, 1, 1, 2, 0, 1, 2, 2, 3])
    return GaussianRewards(mean, variance, GROUP, columns if factor else None, noise, text_id, "basis")


def members(shift: Tensor | None = None, within: bool = False) -> MemberRewards:
    """Rewards by four members; a shift is a constant [N, 1], or one for each member [N, 4]."""
    factor = values(3, 10, 2)
    return MemberRewards(
        values(2, 10, 4) if shift is None else values(2, 10, 4) + shift,
        GROUP,
        basis_id="ensemble",
        within_variance=factor.square().sum(1) if within else None,
        within_factor=factor if within else None,
    )


def centered(center: Center, posterior: RewardPosterior) -> RewardPosterior:
    known = IS_REFERENCE | (GROUP == 7) if center.fit == "normal" else IS_REFERENCE
    if center.fit == "normal":  # prompt 9 has a single response
        posterior, known = posterior[GROUP != 9], known[GROUP != 9]
    return center.apply(posterior, center.init(posterior[known]))


def test_quantiles_are_those_of_numpy() -> None:
    rewards = gaussian()
    for q in (0.01, 0.3, 0.5, 0.85, 0.999):
        center = Center(q=q)
        state = center.init(rewards[IS_REFERENCE])
        assert state.prompts.tolist() == [3, 7, 9]
        for prompt, reference in zip((3, 7, 9), state.per_prompt["reference"], strict=True):
            sample = rewards.mean[IS_REFERENCE & (prompt == GROUP)].numpy()
            assert reference.item() == pytest.approx(np.quantile(sample, q), abs=1e-12)
        pooled = Center(q=q, of="all").init(rewards[IS_REFERENCE]).shared["reference"]
        assert pooled.item() == pytest.approx(np.quantile(rewards.mean[IS_REFERENCE].numpy(), q), abs=1e-12)
        torch.testing.assert_close(
            center.apply(rewards, state).mean,
            rewards.mean - state.per_prompt["reference"][torch.searchsorted(state.prompts, GROUP)],
        )


def test_mean_and_normal_fit() -> None:
    rewards = gaussian()[GROUP != 9]
    for prompt, mean, normal in zip(
        (3, 7),
        Center("mean").init(rewards).per_prompt["reference"],
        Center(fit="normal").init(rewards).per_prompt["reference"],
        strict=True,
    ):
        sample = rewards.mean[rewards.group == prompt].numpy()
        assert mean.item() == pytest.approx(sample.mean())
        assert normal.item() == pytest.approx(sample.mean() + 1.0364333894937896 * sample.std(ddof=1))
    pooled = Center(fit="normal", of="all").init(rewards).shared["reference"].item()
    sample = rewards.mean.numpy()
    assert pooled == pytest.approx(sample.mean() + 1.0364333894937896 * sample.std(ddof=1))


def weights_of(center: Center, mean: Tensor, rows: Tensor) -> Tensor:
    """Weights [N] of the reference among all rewards, given that `rows` are its responses and their ranking."""
    weights = torch.zeros(len(mean), dtype=torch.float64)
    if center.statistic == "mean" or center.fit == "normal":
        weights[rows] = 1 / len(rows)
        return weights
    ranked = rows[mean[rows].argsort()]
    place = (len(rows) - 1) * center.q
    low = math.floor(place)
    weights[ranked[low]] += 1 - (place - low)
    weights[ranked[min(low + 1, len(rows) - 1)]] += place - low
    return weights


@pytest.mark.parametrize("center", CENTERS, ids=str)
@pytest.mark.parametrize("kind", ["gaussian", "within"])
def test_variances_are_those_of_contrasts_by_dense_algebra(center: Center, kind: str) -> None:
    """Rows of I - W times the covariance of everything, W holding the weights of each row's reference."""
    rewards = gaussian() if kind == "gaussian" else members(within=True)
    if center.fit == "normal":
        rewards = rewards[GROUP != 9]
    group, reference = rewards.group, IS_REFERENCE[GROUP != 9] if center.fit == "normal" else IS_REFERENCE
    factor = rewards.factor if isinstance(rewards, GaussianRewards) else rewards.within_factor
    assert factor is not None
    own = [reference & ((group == prompt) | (center.of == "all")) for prompt in group]
    contrast = torch.eye(len(group), dtype=torch.float64) - torch.stack(
        [weights_of(center, rewards.mean, rows.nonzero().flatten()) for rows in own]
    )
    truth = contrast @ factor @ factor.T @ contrast.T
    found = center.apply(rewards, center.init(rewards[reference]))
    if isinstance(found, GaussianRewards):
        torch.testing.assert_close(found.variance, truth.diagonal())
        torch.testing.assert_close(found.covariance(), truth)
        assert isinstance(rewards, GaussianRewards)
        assert torch.equal(found.noise, rewards.noise)
        assert torch.equal(found.text_id, rewards.text_id)
        assert found.basis_id == "basis"
    else:
        assert isinstance(found, MemberRewards)
        torch.testing.assert_close(found.within_variance, truth.diagonal())
        torch.testing.assert_close(found.within_factor @ found.within_factor.T, truth)


def test_each_member_subtracts_its_own_reference() -> None:
    rewards = members()
    center = Center(q=0.6)
    state = center.init(rewards[IS_REFERENCE])
    found = center.apply(rewards, state)
    assert isinstance(found, MemberRewards)
    for row, prompt in enumerate(GROUP.tolist()):
        sample = rewards.members[IS_REFERENCE & (prompt == GROUP)].numpy()
        expected = rewards.members[row].numpy() - np.quantile(sample, 0.6, axis=0)
        np.testing.assert_allclose(found.members[row].numpy(), expected, atol=1e-12)
    torch.testing.assert_close(state.per_prompt["reference"], state.per_prompt["members"].mean(1))


@pytest.mark.parametrize("center", [center for center in CENTERS if center.of == "prompt"], ids=str)
def test_constants_of_a_prompt_change_nothing(center: Center) -> None:
    """Neither of its rewards, nor of each member's rewards, nor one that is not known (a column of the factor)."""
    constant = torch.tensor([100.0, -30.0, 4.0]).double()[torch.searchsorted(torch.tensor([3, 7, 9]), GROUP)]
    by_member = constant[:, None] * torch.tensor([1.0, -2.0, 0.5, 0.0])
    for plain, shifted in (
        (gaussian(), gaussian(constant)),
        (gaussian(), gaussian(constant, per_prompt_columns=True)),
        (gaussian(factor=False), gaussian(constant, factor=False)),
        (members(), members(by_member)),
        (members(within=True), members(by_member, within=True)),
    ):
        one, other = centered(center, plain), centered(center, shifted)
        torch.testing.assert_close(one.mean, other.mean, atol=1e-10, rtol=0)
        torch.testing.assert_close(one.variance, other.variance, atol=1e-10, rtol=0)


def test_constants_of_a_prompt_change_nothing_of_transformed_rewards() -> None:
    constant = torch.tensor([100.0, -30.0, 4.0]).double()[torch.searchsorted(torch.tensor([3, 7, 9]), GROUP)]
    one = centered(Center(), TransformedRewards(members(), plus, parameters=(torch.zeros(10).double(),)))
    other = centered(Center(), TransformedRewards(members(), plus, parameters=(constant,)))
    assert isinstance(one, TransformedRewards)
    torch.testing.assert_close(one.mean, other.mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(one.variance, other.variance, atol=1e-10, rtol=0)
    torch.testing.assert_close(one.variance, members().variance)


def plus(draws: Tensor, parameter: Tensor) -> Tensor:
    return draws + parameter


def test_without_a_factor_the_variance_stays() -> None:
    rewards = gaussian(factor=False)
    for references in (rewards[IS_REFERENCE], gaussian()[IS_REFERENCE]):
        found = Center().apply(rewards, Center().init(references))
        torch.testing.assert_close(found.variance, rewards.variance)
    known = Center().init(rewards[IS_REFERENCE])
    torch.testing.assert_close(Center().apply(gaussian(), known).variance, rewards.variance)
    alone = members(within=True)
    without = MemberRewards(alone.members, GROUP, basis_id="ensemble", within_variance=alone.within_variance)
    found = Center().apply(without, Center().init(alone[IS_REFERENCE]))
    assert isinstance(found, MemberRewards)
    torch.testing.assert_close(found.within_variance, alone.within_variance)


def test_the_mean_of_references_is_what_a_gaussian_centers_on_itself() -> None:
    rewards = gaussian()
    found, expected = centered(Center("mean"), rewards), rewards.center(IS_REFERENCE)
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.variance, expected.variance)


def test_a_canned_response_is_the_reference() -> None:
    rewards = gaussian()
    canned = rewards[torch.tensor([0, 1, 5])]  # one a prompt
    center = Center(canned="Sorry, no.")
    found = center.apply(rewards, center.init(canned))
    assert found.mean[[0, 1, 5]].tolist() == [0, 0, 0]
    assert found.variance[[0, 1, 5]].tolist() == [0, 0, 0]
    torch.testing.assert_close(found.variance[2], rewards.contrast(2, 0)[1])
    twice = center.init(rewards[torch.tensor([0, 1, 5, 5])])
    torch.testing.assert_close(twice.per_prompt["reference"], center.init(canned).per_prompt["reference"])
    with pytest.raises(DataError, match="of prompt 7 differ"):
        center.init(rewards[torch.tensor([0, 2, 1, 5])])


def test_a_constant_needs_no_references() -> None:
    center = Center(at=-1.5)
    assert not center.needs_references
    assert Center().needs_references
    for rewards in (gaussian(), members(), TransformedRewards(members(), torch.neg)):
        found = center.apply(rewards, TransformState())
        torch.testing.assert_close(found.mean, rewards.mean + 1.5)
        torch.testing.assert_close(found.variance, rewards.variance)
    state = center.init(gaussian())
    assert not state.per_prompt
    assert not state.shared


def test_one_reference_is_its_own_quantile_and_has_no_spread() -> None:
    rewards = gaussian()
    found = Center().apply(rewards, Center().init(rewards[IS_REFERENCE]))
    assert found.mean[5].item() == 0
    assert found.variance[5].item() == 0
    with pytest.raises(DataError, match=r"prompt 9 has one .*fit=empirical.*of=all"):
        Center(fit="normal").init(rewards)


def test_references_that_are_not_scored_are_left_out() -> None:
    rewards = gaussian()
    mean = rewards.mean.clone()
    mean[[0, 5]] = torch.nan  # 0 is one of three references of prompt 7, and 5 the only one of prompt 9
    partly = GaussianRewards(mean, rewards.variance, GROUP, rewards.factor, basis_id="basis")
    state = Center("mean").init(partly[IS_REFERENCE])
    assert state.prompts.tolist() == [3, 7]
    torch.testing.assert_close(state.per_prompt["reference"][1], mean[[3, 7]].mean())
    found = Center("mean").apply(partly, state)
    assert found.mean.isnan().tolist() == mean.isnan().tolist()
    with pytest.raises(DataError, match=r"prompt 9 .*of=all"):
        Center("mean").apply(rewards, state)
    with pytest.raises(DataError, match="none of the 1 given is scored"):
        Center().init(partly[5:6])
    by_member = members().members.clone()
    by_member[0, 2] = torch.nan
    state = Center().init(MemberRewards(by_member, GROUP)[IS_REFERENCE])
    expected = np.quantile(by_member[[3, 7]].numpy(), 0.85, axis=0)
    np.testing.assert_allclose(state.per_prompt["members"][1].numpy(), expected)


def test_nothing_need_be_known_of_prompts_without_scored_responses() -> None:
    state = Center().init(gaussian()[IS_REFERENCE])
    nothing = GaussianRewards(torch.full((2,), torch.nan), torch.ones(2), torch.tensor([100, 101]))
    assert Center().apply(nothing, state).mean.isnan().all()
    none = state.taking(torch.tensor([100]), torch.tensor([0]))
    assert len(none.prompts) == 0
    assert Center().apply(nothing, none).mean.isnan().all()


def test_unknown_prompts_are_refused() -> None:
    rewards = gaussian()
    state = Center().init(rewards[GROUP == 7])
    with pytest.raises(DataError, match=r"center has no reference responses for prompt 3 \(2 such prompts\)"):
        Center().apply(rewards, state)
    everywhere = Center(of="all").init(rewards[GROUP == 7])
    assert not Center(of="all").apply(rewards, everywhere).mean.isnan().any()


def test_other_models_are_refused() -> None:
    rewards = gaussian()
    state = Center().init(rewards[IS_REFERENCE])
    other = GaussianRewards(rewards.mean, rewards.variance, GROUP, rewards.factor, basis_id="another")
    with pytest.raises(PosteriorError, match="another model"):
        Center().apply(other, state)
    wider = GaussianRewards(rewards.mean, rewards.variance, GROUP, values(5, 10, 4), basis_id="basis")
    with pytest.raises(PosteriorError, match="another model"):
        Center().apply(wider, state)
    ensemble = Center().init(members()[IS_REFERENCE])
    with pytest.raises(PosteriorError, match="ensemble"):
        Center().apply(MemberRewards(members().members, GROUP, basis_id="another"), ensemble)
    with pytest.raises(PosteriorError, match="ensemble"):
        Center().apply(MemberRewards(members().members[:, :3], GROUP, basis_id="ensemble"), ensemble)


@pytest.mark.parametrize("center", CENTERS, ids=str)
def test_a_state_survives_as_plain_tensors_and_serves_other_responses(center: Center) -> None:
    for rewards in (gaussian(), members(within=True)):
        if center.fit == "normal":
            rewards = rewards[GROUP != 9]
        state = center.init(rewards)
        for tensor in (*state.per_prompt.values(), *state.shared.values()):
            assert tensor.dtype in (torch.float64, torch.int64)
        plain = {f"each/{name}": tensor.clone() for name, tensor in state.per_prompt.items()}
        plain |= {f"all/{name}": tensor.clone() for name, tensor in state.shared.items()}
        again = TransformState(
            state.prompts.clone(),
            {name[5:]: tensor for name, tensor in plain.items() if name.startswith("each/")},
            {name[4:]: tensor for name, tensor in plain.items() if name.startswith("all/")},
        )
        other = rewards[torch.tensor([6, 2, 4, 0, 1])]
        found, expected = center.apply(other, again), center.apply(rewards, state)[torch.tensor([6, 2, 4, 0, 1])]
        assert type(found) is type(rewards)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.variance, expected.variance)
        assert torch.equal(found.group, other.group)


@given(
    rewards=st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=8),
    center=st.sampled_from(CENTERS),
    order=st.randoms(use_true_random=False),
)
def test_monotone_and_the_same_in_any_order(rewards: list[float], center: Center, order: random.Random) -> None:
    permutation = list(range(len(rewards)))
    order.shuffle(permutation)
    mean = torch.tensor(rewards, dtype=torch.float64)
    posterior = GaussianRewards(mean, torch.ones_like(mean), factor=values(0, len(mean), 2))
    found = center.apply(posterior, center.init(posterior))
    shuffled = center.apply(posterior[torch.tensor(permutation)], center.init(posterior[torch.tensor(permutation)]))
    assert bool(found.mean.isfinite().all())
    ranked = mean.argsort(stable=True)
    assert bool((found.mean[ranked].diff() >= 0).all())
    torch.testing.assert_close(shuffled.mean, found.mean[permutation], atol=1e-9, rtol=1e-12)
    if len(set(rewards)) == len(rewards):  # equal rewards may stand in for each other
        torch.testing.assert_close(shuffled.variance, found.variance[permutation])


def test_single_precision_stays_and_extremes_stay_exact() -> None:
    mean = torch.tensor([1e4, 1e4 + 1, -1e4])
    rewards = GaussianRewards(mean, torch.ones(3))
    found = Center(q=0.5).apply(rewards, Center(q=0.5).init(rewards))
    assert found.mean.dtype == torch.float32
    assert found.mean.tolist() == [0.0, 1.0, -2e4]


def test_a_chain_fits_each_on_what_came_before() -> None:
    rewards = gaussian()
    both = chain(Center(at=2.0), Center("mean"))
    found = both.apply(rewards, both.init(rewards))
    torch.testing.assert_close(found.mean, centered_on_all(rewards))


def centered_on_all(rewards: GaussianRewards) -> Tensor:
    same = (rewards.group[:, None] == rewards.group).to(rewards.mean)
    return rewards.mean - same @ rewards.mean / same.sum(1)


def test_many_rows_at_a_time_and_a_factor_in_half_precision() -> None:
    group, factor = torch.arange(9001) % 3, values(0, 9001, 4).half()
    rewards = GaussianRewards(values(1, 9001).float(), torch.ones(9001), group, factor, basis_id="basis")
    found = Center("mean").apply(rewards, Center("mean").init(rewards))
    assert isinstance(found, GaussianRewards)
    rows = factor.double()
    average = torch.stack([rows[group == prompt].mean(0) for prompt in range(3)])
    torch.testing.assert_close(found.factor, (rows - average[group]).float())
    torch.testing.assert_close(found.variance, (rows - average[group]).square().sum(1).float())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"statistic": "median"}, "statistic must be quantile or mean, got 'median'"),
        ({"fit": "kernel"}, "fit must be empirical or normal"),
        ({"of": "pool"}, "of must be prompt or all or learned"),
        ({"q": 0.0}, "q must lie between 0 and 1"),
        ({"q": math.nan}, "q must lie between 0 and 1"),
        ({"at": math.inf}, "at must be finite"),
        ({"at": 0.0, "canned": "No."}, "at=0.0 is a constant, which canned='No.' contradicts"),
        ({"at": 0.0, "of": "all"}, "which of='all' contradicts"),
        ({"canned": "No.", "q": 0.5}, "canned='No.' is a single response, which q=0.5 contradicts"),
        ({"canned": "No.", "of": "learned"}, "which of='learned' contradicts"),
        ({"statistic": "mean", "q": 0.5}, "q=0.5 is for a quantile"),
        ({"statistic": "mean", "fit": "normal"}, "fit='normal' is for a quantile"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Center(**arguments)  # type: ignore[arg-type]
