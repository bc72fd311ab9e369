"""Which version of the rewards a utility reads, against dense covariance algebra."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prudent.errors import DataError, UnsupportedError
from prudent.rewards import GaussianRewards, MemberRewards
from prudent.utility import PromptFeatures, RewardSet, parse_utility

GROUP = torch.arange(12) // 6
IS_REFERENCE = torch.arange(12) % 6 < 4
# rows of I - W: each response minus the average of its prompt's references
CONTRAST = torch.eye(12).double() - (GROUP[:, None] == GROUP) * IS_REFERENCE / 4.0
LCB = "lcb_std(1)"


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factor(seed: int) -> Tensor:
    """A factor with a large part that all responses of a prompt share."""
    return torch.cat([draws(seed, 12, 3), 5 * (GROUP[:, None] == torch.arange(2)).double()], 1)


def gaussian(seed: int, with_factor: bool) -> GaussianRewards:
    rows = factor(seed)
    return GaussianRewards(
        draws(seed + 100, 12), rows.square().sum(1), GROUP, rows if with_factor else None, basis_id=f"basis {seed}"
    )


def against(rewards: GaussianRewards, seed: int) -> GaussianRewards:
    """What scoring stores: the exact variance of the contrast with the average of the references."""
    return GaussianRewards(rewards.mean, (CONTRAST @ factor(seed)).square().sum(1), GROUP)


def one(with_factor: bool = False, stored: bool = True) -> RewardSet:
    rewards = gaussian(0, with_factor)
    return RewardSet({"reward": rewards}, {"reward": against(rewards, 0)} if stored else {}, IS_REFERENCE)


def two(first: bool = False, second: bool = False) -> RewardSet:
    rewards = {"a": gaussian(0, first), "b": gaussian(1, second)}
    stored = {"a": against(rewards["a"], 0), "b": against(rewards["b"], 1)}
    return RewardSet(rewards, stored, IS_REFERENCE)


def expected(weights: Tensor, seed: int = 0, num_std: float = 1.0) -> Tensor:
    """lcb_std of the contrasts W r."""
    return weights @ draws(seed + 100, 12) - num_std * (weights @ factor(seed)).square().sum(1).sqrt()


def value(text: str, rewards: RewardSet) -> Tensor:
    return parse_utility(text)(rewards).double()


@pytest.mark.parametrize("with_factor", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "center(mean) | temperature(2)",
        "temperature(2) | center(mean)",
        "temperature(4) | center(at=1) | center(mean) | temperature(0.5)",
        "center(of=all) | temperature(2) | center(mean)",
        "center(q=0.3) | temperature(2) | center(mean)",
        "temperature(2) | standardize(of=all) | center(mean) | temperature(STD)",
    ],
)
def test_the_order_of_affine_steps_does_not_matter(text: str, with_factor: bool):
    references = draws(100, 12)[IS_REFERENCE].reshape(2, 4)
    std = ((references - references.mean(1, keepdim=True)).square().sum() / 6).sqrt() / 2
    text = text.replace("STD", repr(float(1 / std)))
    found = value(f"{text} | {LCB}", one(with_factor))
    torch.testing.assert_close(found, expected(CONTRAST) / 2)


@pytest.mark.parametrize("with_factor", [False, True])
def test_combinations_may_be_centered_after_or_before(with_factor: bool):
    rewards = two(with_factor, with_factor)
    before = value(f"weighted(a | center(mean), b | center(mean), weights=[1, 2]) | {LCB}", rewards)
    after = value(f"weighted(a, b, weights=[1, 2]) | center(mean) | {LCB}", rewards)
    std = ((CONTRAST @ factor(0)).square().sum(1) + 4 * (CONTRAST @ factor(1)).square().sum(1)).sqrt()
    torch.testing.assert_close(after, CONTRAST @ (draws(100, 12) + 2 * draws(101, 12)) - std)
    torch.testing.assert_close(before, after)
    before = value(f"ensemble(a | center(mean), b | center(mean)) | {LCB}", rewards)
    torch.testing.assert_close(value(f"ensemble(a, b) | center(mean) | {LCB}", rewards), before)


def test_a_clipped_reward_is_that_of_the_contrast():
    """A bound that no draw reaches changes nothing."""
    found = value(f"clip(-1000, 1000) | center(mean) | {LCB}", one())
    torch.testing.assert_close(found, expected(CONTRAST), atol=1e-6, rtol=1e-6)


def order_statistics(q: float) -> Tensor:
    """Rows of I - W for the empirical quantile of four references."""
    weights = torch.eye(12).double()
    mean = draws(100, 12)
    for prompt in range(2):
        ranked = [int(row) for row in mean.argsort() if IS_REFERENCE[row] and GROUP[row] == prompt]
        low = int(3 * q)
        weights[prompt == GROUP, ranked[low]] -= 1 - (3 * q - low)
        weights[prompt == GROUP, ranked[low + 1]] -= 3 * q - low
    return weights


@pytest.mark.parametrize("text", ["center", "temperature(2) | center | temperature(0.5)", "center(mean) | center"])
def test_a_quantile_is_contrasted_by_the_factor_and_by_the_mean_without(text: str):
    exact = expected(order_statistics(0.85))
    torch.testing.assert_close(value(f"{text} | {LCB}", one(with_factor=True)), exact)
    torch.testing.assert_close(value(f"{text} | {LCB}", one(with_factor=True, stored=False)), exact)
    mean = order_statistics(0.85) @ draws(100, 12)
    stands_in = mean - (CONTRAST @ factor(0)).square().sum(1).sqrt()
    torch.testing.assert_close(value(f"{text} | {LCB}", one()), stands_in)
    # a normal fit counts as its mean
    normal = parse_utility(f"center(fit=normal) | {LCB}").fit(one(with_factor=True)).trace(one(with_factor=True))
    torch.testing.assert_close(normal[1].std, (CONTRAST @ factor(0)).square().sum(1).sqrt())


def test_a_quantile_of_a_sum_needs_the_factor_of_every_part():
    text = f"weighted(a, b, weights=[1, 1]) | center(q=0.5) | {LCB}"
    half, both, neither = value(text, two(first=True)), value(text, two(True, True)), value(text, two())
    torch.testing.assert_close(half, neither)
    assert not torch.allclose(both, neither)


def test_fitted_with_and_without_the_factor():
    """What one side lacks of the factor, the stored contrast stands in for."""
    utility = parse_utility(f"center | {LCB}")
    with_factor, without = one(with_factor=True), one()
    exact, stands_in = value(str(utility), with_factor), value(str(utility), without)
    torch.testing.assert_close(utility.fit(without)(with_factor).double(), stands_in)
    torch.testing.assert_close(utility.fit(with_factor)(without).double(), stands_in)
    # rewards that come without a stored contrast are contrasted by their factor, also with the mean
    for text, rows in (
        ("center", order_statistics(0.85)),
        ("temperature(2) | center(mean) | temperature(0.5)", CONTRAST),
    ):
        fitted = parse_utility(f"{text} | {LCB}").fit(with_factor)
        torch.testing.assert_close(fitted(one(with_factor=True, stored=False)).double(), expected(rows))
    torch.testing.assert_close(utility.fit(with_factor)(with_factor).double(), exact)


def test_a_rule_that_draws_takes_no_contrast_from_other_rewards():
    """The reward without a factor keeps its contrast, the one with a factor is drawn jointly."""
    rewards = two(first=True)
    for rule, other in (("thompson", LCB), ("prob_best", "probability_above(0.1)")):
        alone = value(f"b | center(mean) | {other}", rewards)
        text = f"weighted(a | center(mean) | {rule}, b | center(mean) | {other}, weights=[0, 1])"
        torch.testing.assert_close(value(text, rewards), alone)
    joint = GaussianRewards(
        CONTRAST @ draws(100, 12), (CONTRAST @ factor(0)).square().sum(1), GROUP, CONTRAST @ factor(0)
    )
    torch.testing.assert_close(
        value("a | center(mean) | prob_best", rewards), joint.prob_best(generator=torch.Generator().manual_seed(0))
    )
    with pytest.raises(UnsupportedError, match="factor"):
        value("b | center(mean) | thompson", rewards)


def test_two_draws_in_one_utility_are_two():
    members = MemberRewards(draws(5, 12, 50), GROUP)
    rewards = RewardSet({"a": members, "b": members})
    assert bool(value("weighted(a | thompson, b | thompson, weights=[1, -1])", rewards).any())
    assert torch.equal(value("a | thompson", rewards), value("b | thompson", rewards))


def test_a_learned_reference_counts_as_known():
    """As texts to come are valued, of which no contrast is stored."""
    group = torch.arange(12) // 2
    rewards = GaussianRewards(draws(0, 12), 1 + draws(1, 12).square(), group)
    stored = GaussianRewards(rewards.mean, torch.zeros(12), group)
    features = PromptFeatures(torch.arange(6), draws(2, 6, 1))
    known = RewardSet({"reward": rewards}, {"reward": stored}, torch.ones(12).bool(), features={"reward": features})
    fitted = parse_utility("center(mean, of=learned)").fit(known)
    torch.testing.assert_close(fitted.trace(known)[1].std, rewards.variance.sqrt(), check_dtype=False)
    torch.testing.assert_close(fitted(known), fitted(replace(known, against_references={})))


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("lcb_std", False),
        ("center | lcb_std", True),
        ("center(at=0) | lcb_std", False),
        ("center(of=all) | lcb_std", False),
        ("center(of=learned) | lcb_std", False),
        ('center(canned="No.") | lcb_std', True),
        ("temperature(2) | center(mean) | log_sigmoid | lcb_std", True),
        ("standardize(of=all)", True),
        ("quantile_rank", True),
        ("ensemble(a, b) | center | worst", True),
        ("minimum(a | center, b | center(at=0))", False),
    ],
)
def test_who_reads_contrasts(text: str, reads: bool):
    assert parse_utility(text).reads_contrast is reads


def test_whose_variance_and_members_must_be_known():
    def needed(text: str) -> list[str]:
        return sorted(parse_utility(text).needs_variance_of)

    assert needed("weighted(a | lcb_std, b | mean, ensemble(c, d) | lcb_std, weights=[1, 2, 3])") == ["a"]
    assert needed("product(a | center, b | center)") == ["a", "b"]
    assert needed("weighted(a, b, weights=[1, 2]) | entropic") == ["a", "b"]
    assert needed("ensemble(product(a | center, b | center), c | center) | lcb_std") == ["a", "b"]
    assert needed("mean") == []
    assert parse_utility("weighted(a | worst, ensemble(b, c) | worst, weights=[1, 1])").needs_members
    assert parse_utility("weighted(a, ensemble(b, c), weights=[1, 1], correlation=members) | worst").needs_members
    assert not parse_utility("ensemble(a | center, b | center) | temperature(2) | worst").needs_members


def test_worst_of_functions_of_members():
    """An increasing function of the worst member is the worst of the function."""
    members = draws(5, 12, 3)
    rewards = RewardSet({"reward": MemberRewards(members, GROUP)}, {}, IS_REFERENCE)
    contrasts = CONTRAST @ members
    torch.testing.assert_close(value("center(mean) | log_sigmoid | worst", rewards), F.logsigmoid(contrasts.amin(1)))
    torch.testing.assert_close(value("clip(0) | temperature(2) | worst", rewards), members.amin(1).clamp(min=0) / 2)
    within = MemberRewards(members, GROUP, within_variance=torch.ones(12).double())
    for posterior in (within, gaussian(0, True)):
        with pytest.raises(UnsupportedError, match=r"worst needs the rewards of each member.*cvar with a small level"):
            parse_utility("center(at=0) | log_sigmoid | worst")(posterior)
    assert torch.equal(parse_utility("worst")(within), members.amin(1))


@pytest.mark.parametrize("step", ["quantile_rank", "standardize", "standardize(of=all)", "center", "center(of=all)"])
def test_a_single_canned_response_is_no_set_of_references(step: str):
    canned = GaussianRewards(torch.zeros(2).double(), torch.zeros(2).double(), torch.arange(2))
    rewards = RewardSet({"a": gaussian(0, False)}, references={"a": canned}, canned={"a": "No."})
    for text in (f"a | {step}", f"a | temperature(2) | {step}"):
        with pytest.raises(DataError, match=r"scored against the canned response 'No\.'.*score the pool without it"):
            value(text, rewards)
    both = RewardSet({**rewards.rewards, "b": gaussian(1, False)}, references={"a": canned}, canned={"a": "No."})
    with pytest.raises(DataError, match=r"scored against the canned response 'No\.'"):
        value(f"weighted(a, b, weights=[1, 1]) | {step}", both)
    # steps that keep the order may stand before it
    found = value('a | temperature(2) | center(canned="No.")', rewards)
    torch.testing.assert_close(found, draws(100, 12) / 2)
