"""Utilities over sets of rewards: fitting on references, values, traces, and what they say of themselves."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prudent.errors import DataError
from prudent.rewards import GaussianRewards, MemberRewards
from prudent.utility import FittedUtility, RewardSet, parse_utility

LSC = "all_of(a | center(mean) | log_sigmoid, b | center(mean) | log_sigmoid)"


def two_rewards(a: list[float], b: list[float], variance: float = 0.0, num_references: int = 1) -> RewardSet:
    """Responses of one prompt; the first ones are references."""
    is_reference = torch.arange(len(a)) < num_references
    rewards = {
        name: GaussianRewards(torch.tensor(values, dtype=torch.float64), torch.full((len(a),), variance))
        for name, values in (("a", a), ("b", b))
    }
    return RewardSet(rewards, is_reference=is_reference)


def test_and_takes_the_balanced_response_where_the_sum_takes_the_lopsided_one():
    rewards = two_rewards([0.0, 10.0, 1.0], [0.0, -5.0, 1.0])
    raw = parse_utility("weighted(a, b, weights=[1, 1])")(rewards)
    both = parse_utility(LSC)(rewards)
    assert raw.argmax() == 1
    assert both.argmax() == 2
    expected = F.logsigmoid(torch.tensor([0.0, 10, 1])) + F.logsigmoid(torch.tensor([0.0, -5, 1]))
    torch.testing.assert_close(both.float(), expected)


def test_a_constant_per_prompt_changes_nothing_after_centering():
    torch.manual_seed(0)
    group = torch.arange(12) // 4
    mean, factor = torch.randn(12, dtype=torch.float64), torch.randn(12, 5, dtype=torch.float64)
    shift = torch.tensor([3.0, -100.0, 7.0], dtype=torch.float64)[group]
    is_reference = torch.arange(12) % 4 < 2
    for text in ("center | log_sigmoid | lcb_std", "center(mean) | entropic(2)", "center | log_probability_good"):
        values = [
            parse_utility(text)(
                RewardSet(
                    {"reward": GaussianRewards(one, factor.square().sum(1), group, factor, basis_id="one")},
                    is_reference=is_reference,
                )
            )
            for one in (mean, mean + shift)
        ]
        torch.testing.assert_close(values[0], values[1])


def test_best_of_one_reward_is_not_changed_by_log_sigmoid():
    torch.manual_seed(0)
    rewards = RewardSet(
        {"helpful": GaussianRewards(torch.randn(30, dtype=torch.float64), torch.zeros(30))},
        is_reference=torch.arange(30) < 8,
    )
    order = parse_utility("mean")(rewards).argsort()
    assert torch.equal(parse_utility("center | log_sigmoid")(rewards).argsort(), order)


def test_expected_log_sigmoid_is_not_log_expected_sigmoid():
    rewards = two_rewards([0.0, 1.0], [0.0, 1.0], variance=4.0)
    inside = parse_utility("a | center(mean) | log_sigmoid | mean")(rewards)
    outside = parse_utility("a | center(mean) | log_probability_good")(rewards)
    of_mean = F.logsigmoid(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert bool((inside < outside).all())
    assert bool((inside < of_mean).all())
    assert outside[1] < of_mean[1]
    torch.testing.assert_close(outside[0], of_mean[0])  # at the reference a symmetric doubt changes nothing


def test_fitted_on_one_set_and_applied_to_another():
    group = torch.tensor([3, 3, 9, 9])
    references = RewardSet(
        {"reward": GaussianRewards(torch.tensor([1.0, 3.0, 10.0, 20.0]), torch.ones(4), group)},
        is_reference=torch.ones(4, dtype=torch.bool),
    )
    fitted = parse_utility("center(mean)").fit(references)
    new = GaussianRewards(torch.tensor([15.0, 2.5]), torch.ones(2), torch.tensor([9, 3]))
    torch.testing.assert_close(fitted(new), torch.tensor([0.0, 0.5]), check_dtype=False)
    with pytest.raises(DataError, match="prompt 4"):
        fitted(GaussianRewards(torch.zeros(1), torch.ones(1), torch.tensor([4])))
    renamed = fitted.taking(torch.tensor([9, 3, 9]), torch.tensor([1, 0, 2]))
    moved = GaussianRewards(torch.tensor([15.0, 2.5, 16.0]), torch.ones(3), torch.tensor([1, 0, 2]))
    torch.testing.assert_close(renamed(moved), torch.tensor([0.0, 0.5, 1.0]), check_dtype=False)


def test_the_contrast_variance_is_read_after_center_only():
    wide = GaussianRewards(torch.tensor([0.0, 1.0]), torch.tensor([9.0, 9.0]))
    narrow = GaussianRewards(torch.tensor([0.0, 1.0]), torch.tensor([0.25, 1.0]))
    rewards = RewardSet({"reward": wide}, {"reward": narrow}, is_reference=torch.tensor([True, False]))
    torch.testing.assert_close(parse_utility("lcb_std")(rewards), torch.tensor([-3.0, -2.0]))
    torch.testing.assert_close(
        parse_utility("center(mean) | lcb_std")(rewards), torch.tensor([-0.5, 0.0]), check_dtype=False
    )


def test_who_reads_the_contrast_variance():
    wide = GaussianRewards(torch.tensor([0.0, 2.0]), torch.tensor([9.0, 9.0]))
    narrow = GaussianRewards(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 1.0]))
    rewards = RewardSet({"reward": wide}, {"reward": narrow}, is_reference=torch.tensor([True, True]))
    scale = 2**0.5  # of two references that differ by 2
    for written, std in {
        "center(mean)": 1.0,
        "center(mean, of=all)": 3.0,
        "center(at=0)": 3.0,
        "standardize": 1 / scale,
        "standardize(all)": 1 / scale,
    }.items():
        last = parse_utility(written).fit(rewards).trace(rewards)[1]
        assert last.label == written
        torch.testing.assert_close(last.std[1], torch.tensor(std), check_dtype=False)


def test_a_trace_says_what_every_step_gave():
    rewards = two_rewards([0.0, 10.0, 1.0], [0.0, -5.0, 1.0], variance=1.0)
    fitted = parse_utility(f"{LSC} | lcb_std").fit(rewards)
    steps = fitted.trace(rewards)
    labels = ["a", "center(mean)", "log_sigmoid", "b", "center(mean)", "log_sigmoid", "all_of", "lcb_std"]
    assert [step.label for step in steps] == labels
    assert torch.equal(steps[-1].mean, fitted(rewards))
    assert steps[-1].std is None
    assert steps[6].std is not None
    torch.testing.assert_close(steps[-1].mean, steps[6].mean - steps[6].std)
    assert steps[2].source == "a | center(mean) | log_sigmoid"


def test_a_posterior_at_the_end_counts_by_its_mean():
    rewards = two_rewards([0.0, 2.0], [1.0, 1.0])
    steps = parse_utility("a | center(mean)").fit(rewards).trace(rewards)
    assert steps[-1].label == "mean"


def test_transforms_may_follow_a_combination():
    rewards = two_rewards([0.0, 2.0, 4.0], [1.0, 1.0, 3.0], num_references=2)
    values = parse_utility("ensemble(a, b) | center(mean) | temperature(2) | worst")(rewards)
    # each member less its own average over the two references
    members = (torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 3.0]]) - torch.tensor([1.0, 1.0])) / 2
    torch.testing.assert_close(values, members.amin(1), check_dtype=False)


def test_what_utilities_say_of_themselves():
    assert parse_utility("prob_best").depends_on_pool
    assert not parse_utility(LSC).depends_on_pool
    assert parse_utility("lcb_std").reads_variance
    assert not parse_utility(LSC).reads_variance
    assert parse_utility("worst").needs_members
    assert not parse_utility("ensemble(a, b) | worst").needs_members
    assert parse_utility(LSC).scale == "log_probability"


def test_bad_sets_and_names():
    rewards = two_rewards([0.0, 1.0], [0.0, 1.0])
    with pytest.raises(DataError, match=r"there are several rewards, a, b"):
        parse_utility("lcb_std")(rewards)
    with pytest.raises(DataError, match=r"no reward 'c' here; there is a, b"):
        parse_utility("c | mean")(rewards)
    with pytest.raises(DataError, match=r"not known which responses are the references of 'reward'"):
        parse_utility("center | log_sigmoid")(GaussianRewards(torch.zeros(2), torch.ones(2)))
    with pytest.raises(ValueError, match="other responses"):
        RewardSet({"a": MemberRewards(torch.zeros(2, 2)), "b": MemberRewards(torch.zeros(3, 2))})
    with pytest.raises(ValueError, match="at least one"):
        RewardSet({})


def test_an_error_while_fitting_names_the_part_of_the_utility():
    group = torch.tensor([0, 0, 9, 9])
    rewards = {
        "varied": GaussianRewards(torch.tensor([1.0, 2.0, 1.0, 3.0]), torch.zeros(4), group),
        "flat": GaussianRewards(torch.tensor([1.0, 2.0, 1.0, 1.0]), torch.zeros(4), group),
    }
    utility = parse_utility("all_of(varied | standardize | log_sigmoid, flat | standardize | log_sigmoid)")
    with pytest.raises(DataError, match=r"in 'flat \| standardize': .* prompt 9 are all the same"):
        utility(RewardSet(rewards, is_reference=torch.ones(4, dtype=torch.bool)))


def test_a_canned_reference_must_be_the_one_scored_against():
    posterior = GaussianRewards(torch.tensor([1.0, 3.0]), torch.ones(2))
    canned = GaussianRewards(torch.tensor([2.0]), torch.zeros(1))
    known = RewardSet({"a": posterior}, references={"a": canned}, canned={"a": "No."})
    torch.testing.assert_close(
        parse_utility('a | center(canned="No.")')(known), torch.tensor([-1.0, 1.0]), check_dtype=False
    )
    with pytest.raises(DataError, match=r"scored against the canned response 'No.'"):
        parse_utility("a | center")(known)
    with pytest.raises(DataError, match=r"scored against the canned response 'No.'; score the pool again"):
        parse_utility('a | center(canned="Never.")')(known)
    with pytest.raises(DataError, match="its own responses"):
        parse_utility('a | center(canned="No.")')(RewardSet({"a": posterior}, is_reference=torch.ones(2).bool()))


def test_utilities_pickle():
    import pickle

    rewards = two_rewards([0.0, 10.0, 1.0], [0.0, -5.0, 1.0], variance=1.0)
    fitted = parse_utility(f"{LSC} | cvar(0.2)").fit(rewards)
    again = pickle.loads(pickle.dumps(fitted))
    assert isinstance(again, FittedUtility)
    assert torch.equal(again(rewards), fitted(rewards))


@given(st.permutations(range(6)), st.sampled_from([LSC, "a | center | lcb_std", "weighted(a, b, weights=[1, 2])"]))
def test_the_order_of_responses_does_not_matter(order: list[int], text: str):
    rewards = two_rewards([0.0, 1, -2, 3, 0.5, 9], [1.0, 0, 5, -3, 0.2, 1], variance=0.5, num_references=3)
    rows = torch.tensor(order)
    torch.testing.assert_close(parse_utility(text)(rewards[rows]), parse_utility(text)(rewards)[rows])
