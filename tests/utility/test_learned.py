"""A learned reference: ridge regression against its closed form, and an error that says whether features help."""

import pytest
import torch
from torch import Tensor

from prudent.errors import DataError, PosteriorError
from prudent.rewards import GaussianRewards, MemberRewards
from prudent.utility import Center, PromptFeatures, TransformState, learned_error
from prudent.utility._learned import _ridge

B, R = 60, 8
Z = 1.0364333894937896


def world(seed: int, num_features: int, informative: bool = True) -> tuple[GaussianRewards, PromptFeatures, Tensor]:
    """Eight responses to each of 60 prompts, and the true quantiles; level and spread are linear in three causes, which
    the features are mixtures of.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    causes = draw(B, 3)
    level, spread = 3 * causes[:, 0], (1 + 0.2 * causes[:, 1]).clamp(min=0.1)
    rewards = (level[:, None] + spread[:, None] * draw(B, R)).reshape(-1)
    features = causes @ draw(3, num_features) + 0.01 * draw(B, num_features)
    seen = features if informative else draw(B, num_features)
    prompts = 10 + 3 * torch.arange(B)
    references = GaussianRewards(rewards, torch.ones(B * R), prompts.repeat_interleave(R))
    return references, PromptFeatures(prompts, seen), level + Z * spread


@pytest.mark.parametrize("num_features", [4, 200])
def test_it_beats_a_constant_where_features_carry_the_reference(num_features: int) -> None:
    references, features, _ = world(0, num_features)
    error = learned_error(Center(of="learned").init(references, features))
    assert error.num_prompts == B
    assert error.constant_rmse > 2.5
    assert error.rmse < 0.25 * error.constant_rmse


@pytest.mark.parametrize("num_features", [4, 200])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_says_so_where_they_do_not(num_features: int, seed: int) -> None:
    references, features, _ = world(seed, num_features, informative=False)
    error = learned_error(Center(of="learned").init(references, features))
    assert error.rmse < 1.1 * error.constant_rmse
    assert error.rmse > 0.9 * error.constant_rmse


def test_prompts_without_references_are_served() -> None:
    references, features, truth = world(0, 4)
    center = Center(of="learned")
    seen = references[references.group < 130]  # 40 prompts
    state = center.init(seen, features)
    found = center.apply(references, state, features)
    reference = (references.mean - found.mean).reshape(B, R)
    assert float(reference.std(1).max()) < 1e-9
    assert float((reference[40:, 0] - truth[40:]).square().mean().sqrt()) < 0.5
    torch.testing.assert_close(found.variance, references.variance)
    # the error measured by folds is that on prompts never seen, with what their own references are off by
    assert learned_error(state).rmse == pytest.approx(0.55, abs=0.2)


def test_the_mean_alone_needs_one_reference_a_prompt() -> None:
    references, features, _ = world(0, 4)
    first = references[torch.arange(0, B * R, R)]
    error = learned_error(Center("mean", of="learned").init(first, features))
    assert error.rmse < 0.5 * error.constant_rmse
    with pytest.raises(DataError, match="at least 5 prompts with two scored"):
        Center(of="learned").init(first, features)


@pytest.mark.parametrize("shape", [(14, 4), (8, 20)])
def test_ridge_is_that_of_the_strength_that_leaves_least_error(shape: tuple[int, int]) -> None:
    """By brute force: for each strength solve the normal equations without each row in turn."""
    generator = torch.Generator().manual_seed(shape[0])
    inputs = torch.randn(*shape, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 10, shape[1]).double()
    inputs[:, -1] = 7.0  # says nothing
    targets = inputs[:, :2] / inputs[:, :2].std(0) + torch.randn(shape[0], 2, generator=generator, dtype=torch.float64)
    rows = (inputs - inputs.mean(0)) / inputs.std(0, correction=0).where(inputs.std(0) > 1e-9, torch.ones(()).double())
    found, intercept = _ridge(inputs, targets)

    def solve(rows: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        center, average = rows.mean(0), targets.mean(0)
        gram = (rows - center).T @ (rows - center) + strength * torch.eye(shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram, (rows - center).T @ (targets - average))
        return weights, average - center @ weights

    def left_out(targets: Tensor, strength: float) -> float:
        total = 0.0
        for row in range(shape[0]):
            others = torch.arange(shape[0]) != row
            weights, constant = solve(rows[others], targets[others], strength)
            total += float((targets[row] - rows[row] @ weights - constant).square().sum())
        return total

    level = float(rows.square().sum()) / min(shape[0] - 1, shape[1] - 1)
    for column in range(2):
        target = targets[:, column : column + 1]
        # the last is as good as infinite
        best = min(
            (level * 10 ** (power / 2) for power in (*range(-12, 13), 40)), key=lambda each: left_out(target, each)
        )
        weights, constant = solve(rows, target, best)
        predicted = inputs @ found[:, column] + intercept[column]
        torch.testing.assert_close(predicted, (rows @ weights + constant)[:, 0], atol=1e-6, rtol=1e-6)
    assert found[-1].tolist() == [0, 0]


def test_each_member_has_a_reference_of_its_own() -> None:
    references, features, _ = world(0, 4)
    offsets = torch.tensor([0.0, 10.0, -4.0]).double()
    members = MemberRewards(references.mean[:, None] + offsets, references.group, basis_id="ensemble")
    center = Center(of="learned")
    state = center.init(members, features)
    found = center.apply(members, state, features)
    assert isinstance(found, MemberRewards)
    expected = center.apply(references, center.init(references, features), features).mean
    torch.testing.assert_close(found.members, expected[:, None].expand(-1, 3), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(center.apply(references, state, features).mean, expected - offsets.mean())
    with pytest.raises(PosteriorError, match="another ensemble"):
        center.apply(MemberRewards(members.members, members.group, basis_id="other"), state, features)


def test_features_that_all_say_the_same_leave_the_constant() -> None:
    references, features, _ = world(0, 3)
    same = PromptFeatures(features.prompts, torch.full((B, 3), 0.1))
    error = learned_error(Center(of="learned").init(references, same))
    assert error.rmse == pytest.approx(error.constant_rmse)


def test_responses_that_are_not_scored() -> None:
    references, features, _ = world(0, 3)
    mean = references.mean.clone()
    mean[:R] = torch.nan  # all of the first prompt
    partly = GaussianRewards(mean, references.variance, references.group)
    some = PromptFeatures(features.prompts[1:], features.values[1:])
    center = Center(of="learned")
    state = center.init(partly, some)
    assert learned_error(state).num_prompts == B - 1
    assert torch.equal(center.apply(partly, state, some).mean.isnan(), mean.isnan())


def test_prompts_learned_from_need_features_no_more() -> None:
    references, features, _ = world(0, 3)
    center = Center(of="learned")
    state = center.init(references, features)
    assert torch.equal(center.apply(references, state).mean, center.apply(references, state, features).mean)
    renamed = state.taking(features.prompts[:2], torch.tensor([5, 4]))
    few = GaussianRewards(torch.zeros(2), torch.ones(2), torch.tensor([5, 4]))
    expected = GaussianRewards(torch.zeros(2), torch.ones(2), features.prompts[:2])
    assert torch.equal(center.apply(few, renamed).mean, center.apply(expected, state, features).mean)
    few = GaussianRewards(torch.zeros(2), torch.ones(2), torch.tensor([5, 6]))
    with pytest.raises(DataError, match="needs features of the prompts"):
        center.apply(few, renamed)


def test_what_is_missing_is_named() -> None:
    references, features, _ = world(0, 3)
    center = Center(of="learned")
    state = center.init(references, features)
    for features_given, message in (
        (None, "needs features of the prompts"),
        (PromptFeatures(features.prompts[1:], features.values[1:]), "no features for prompt 10"),
        (PromptFeatures(features.prompts[:0], features.values[:0]), "no features for prompt 10"),
        (PromptFeatures(features.prompts, features.values.index_fill(0, torch.tensor(2), torch.inf)), "prompt 16 are"),
    ):
        with pytest.raises(DataError, match=message):
            center.init(references, features_given)
        with pytest.raises(DataError, match=message):
            center.apply(references, TransformState(shared=state.shared), features_given)
    with pytest.raises(DataError, match="from 3 features of a prompt, and is given 2"):
        center.apply(references, state, PromptFeatures(features.prompts, features.values[:, :2]))
    with pytest.raises(DataError, match="at least 5 prompts"):
        center.init(references[: 4 * R], features)
    with pytest.raises(ValueError, match="no learned reference"):
        learned_error(TransformState())
