import math

import numpy as np
import pytest
import torch

from prudent.rewards import MemberRewards, RewardPosterior


def make(ddof: int = 1) -> MemberRewards:
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return MemberRewards(members, torch.tensor([3, 3, 3, 3, 1, 1, 1, 1]), ddof, "five")


@pytest.mark.parametrize("ddof", [0, 1])
def test_moments_are_numpys(ddof: int) -> None:
    rewards = make(ddof)
    assert isinstance(rewards, RewardPosterior)
    members = rewards.members.numpy()
    np.testing.assert_allclose(rewards.mean, members.mean(1))
    np.testing.assert_allclose(rewards.variance, members.var(1, ddof=ddof))
    np.testing.assert_allclose(rewards.covariance(), np.cov(members, ddof=ddof))
    np.testing.assert_allclose(rewards.covariance(torch.tensor([2, 0])), np.cov(members[[2, 0]], ddof=ddof))
    np.testing.assert_allclose(rewards.worst, members.min(1))
    mean, variance = rewards.contrast(torch.tensor([[0], [1]]), torch.tensor([1, 2]))
    difference = members[[0, 1], None] - members[None, [1, 2]]
    np.testing.assert_allclose(mean, difference.mean(-1))
    np.testing.assert_allclose(variance, difference.var(-1, ddof=ddof), atol=1e-15)
    assert variance[1, 0].item() == 0
    assert (rewards.noise == 0).all()


def test_probabilities_are_shares_of_members() -> None:
    rewards = MemberRewards(torch.tensor([[1.0, 3.0, 0.0], [0.0, 4.0, 0.0]]))
    zero, one = torch.tensor(0), torch.tensor(1)
    assert rewards.prob_greater(zero, one).item() == pytest.approx(0.5)  # won, lost, tied
    expected = np.mean(1 / (1 + np.exp(-np.array([1.0, -1.0, 0.0]))))
    assert rewards.prob_preferred(zero, one).item() == pytest.approx(expected)
    assert rewards.prob_best().tolist() == [0.5, 0.5]


def test_prob_best_counts_members_by_prompt() -> None:
    rewards = make()
    best = rewards.prob_best()
    members = rewards.members.numpy()
    for rows in (range(4), range(4, 8)):
        wins = np.bincount(members[list(rows)].argmax(0), minlength=4) / 5
        np.testing.assert_allclose(best[list(rows)], wins)
    unscored = MemberRewards(torch.tensor([[math.nan, 1.0], [0.0, 0.0]]))
    assert unscored.prob_best()[0].isnan()
    assert unscored.prob_best()[1].item() == 1
    assert unscored.prob_greater(0, 1).isnan()
    assert unscored.prob_greater(1, 1).item() == 0.5


def test_samples_are_members_taken_jointly() -> None:
    rewards = make()
    samples = rewards.sample(400, torch.Generator().manual_seed(2))
    columns = {tuple(column) for column in rewards.members.T.tolist()}
    assert {tuple(draw) for draw in samples.tolist()} == columns
    assert torch.equal(rewards[2:5].sample(9), rewards.sample(9)[:, 2:5])
    with pytest.raises(ValueError, match="num_samples"):
        rewards.sample(0)


def test_log_expected_exp_is_exact_and_does_not_overflow() -> None:
    rewards = make()
    np.testing.assert_allclose(
        rewards.marginal().log_expected_exp(-2.0), np.log(np.exp(-2 * rewards.members.numpy()).mean(1)), rtol=1e-12
    )
    far = MemberRewards(torch.tensor([[-1000.0, 1000.0]]))
    assert far.marginal().log_expected_exp(-3.0).item() == pytest.approx(3000 - math.log(2))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape \[N, M\]"):
        MemberRewards(torch.zeros(3))
    with pytest.raises(ValueError, match="needs at least 2 members"):
        MemberRewards(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="ddof must be 0 or 1"):
        MemberRewards(torch.zeros(3, 2), ddof=2)
    with pytest.raises(ValueError, match="infinite in row 1"):
        MemberRewards(torch.tensor([[0.0, 1.0], [math.inf, 1.0]]))
    assert MemberRewards(torch.zeros(3, 1), ddof=0).variance.tolist() == [0, 0, 0]


def test_a_bad_response_does_not_make_good_ones_tie() -> None:
    members = torch.tensor([[10.0, 10.0], [11.0, 11.0], [-50.0, -50.0]])
    assert MemberRewards(members).prob_best().tolist() == [0, 1, 0]
    assert MemberRewards(torch.nn.functional.logsigmoid(members)).prob_best().tolist() == [0, 1, 0]
    # the last bits of a matrix product
    near = torch.tensor([[10.0], [torch.nextafter(torch.tensor(10.0), torch.tensor(11.0))], [-1e6]])
    assert MemberRewards(near, ddof=0).prob_best().tolist() == [0.5, 0.5, 0]
    assert MemberRewards(near[:1], ddof=0).prob_best().tolist() == [1]


@pytest.mark.parametrize(
    "index",
    [slice(None), slice(1, 3), slice(3, 1), slice(None, None, 2), slice(-2, None), slice(0, 0),
     torch.tensor([4, 0, 0]), torch.tensor([-1, -5]), torch.tensor([], dtype=torch.int64),
     torch.tensor([True, False, True, False, False]), torch.tensor([3], dtype=torch.int32)],
)  # fmt: skip
def test_rows_are_those_that_a_tensor_has(index: slice | torch.Tensor) -> None:
    members = torch.arange(10.0).reshape(5, 2)
    assert torch.equal(MemberRewards(members)[index].members, members[index])


def test_rows_that_there_are_not() -> None:
    rewards = MemberRewards(torch.zeros(5, 2))
    for row in (5, -6):
        with pytest.raises(IndexError, match=f"index {row} is out of range for 5 responses"):
            rewards[torch.tensor([1, row])]
    with pytest.raises(ValueError, match="a boolean index must have shape"):
        rewards[torch.tensor([True])]
