import math
from itertools import combinations

import numpy as np
import pytest
import torch

from prudent.errors import DataError
from prudent.rewards import GaussianRewards
from prudent.selection import calibrated_strength
from prudent.utility import LcbStd


def make(prompts: int = 50, size: int = 12, seed: int = 0) -> tuple[GaussianRewards, torch.Tensor]:
    """A proxy that overrates what it is uncertain of: the best num_std is about 1."""
    generator = torch.Generator().manual_seed(seed)
    gold = torch.randn(prompts * size, generator=generator, dtype=torch.float64)
    std = 0.1 + 2 * torch.rand(prompts * size, generator=generator, dtype=torch.float64)
    group = torch.arange(prompts).repeat_interleave(size)
    return GaussianRewards(gold + std, std.square(), group), gold


def test_the_curve_is_the_mean_over_all_subsets() -> None:
    rewards, gold = make(prompts=3, size=5)
    found = calibrated_strength(lambda s: LcbStd(s)(rewards), gold, rewards.group, 3, [2.0, 0.0, 1.0])
    assert found.strengths.tolist() == [0.0, 1.0, 2.0]
    assert found.num_prompts == 3
    for column, strength in enumerate(found.strengths.tolist()):
        utility = LcbStd(strength)(rewards)
        by_prompt = [
            np.mean([gold[max(rows, key=lambda row: utility[row].item())].item() for rows in combinations(pool, 3)])
            for pool in (range(0, 5), range(5, 10), range(10, 15))
        ]
        assert found.gold[column].item() == pytest.approx(np.mean(by_prompt))
        assert found.standard_error[column].item() == pytest.approx(np.std(by_prompt, ddof=1) / math.sqrt(3))


def test_finds_the_strength_that_undoes_the_bias() -> None:
    rewards, gold = make()
    strengths = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0]
    found = calibrated_strength(lambda s: LcbStd(s)(rewards), gold, rewards.group, 8, strengths)
    assert found.chosen == 1.0
    assert found.one_standard_error == 1.0  # the others are clearly worse
    assert (found.gold[3] - found.gold).min() == 0


def test_what_makes_no_difference_is_left_out_and_ties_go_to_the_smallest() -> None:
    rewards, gold = make()
    certain = GaussianRewards(gold, torch.zeros_like(gold), rewards.group)
    found = calibrated_strength(lambda s: LcbStd(s)(certain), gold, rewards.group, 4, [0.5, 0.0, 1.0])
    assert found.chosen == found.one_standard_error == 0.0


@pytest.mark.parametrize(("gains", "expected"), [([1.0, -0.5, *[0.0] * 8], 0.0), ([1.0] * 9 + [0.0], 1.0)])
def test_the_alternative_is_within_the_error_of_the_difference(gains: list[float], expected: float) -> None:
    # two candidates a prompt, the first picked at strength 0 and the second at 1; prompts themselves differ a lot
    level = torch.arange(10.0).double() * 100
    gold = torch.stack([level, level + torch.tensor(gains).double()], 1).reshape(-1)
    group, second = torch.arange(10).repeat_interleave(2), torch.tensor([-0.5, 0.5]).double().repeat(10)
    found = calibrated_strength(lambda s: (s - 0.5) * second, gold, group, 2, [0.0, 1.0])
    assert found.chosen == 1.0
    assert found.one_standard_error == expected
    torch.testing.assert_close(found.gold[1] - found.gold[0], torch.tensor(gains).double().mean())


def test_unscored_responses_and_small_prompts() -> None:
    rewards, gold = make(prompts=4, size=4)
    missing = gold.clone()
    missing[0] = math.nan

    def utility_at(strength: float) -> torch.Tensor:
        return LcbStd(strength)(rewards)

    with pytest.raises(DataError, match="not scored"):
        calibrated_strength(utility_at, missing, rewards.group, 4, [0.0, 1.0])
    found = calibrated_strength(utility_at, missing, rewards.group, 4, [0.0, 1.0], nan="exclude")
    assert found.num_prompts == 3
    with pytest.raises(DataError, match="0 prompts have n = 5 scored candidates"):
        calibrated_strength(utility_at, gold, rewards.group, 5, [0.0, 1.0])
    for strengths in ([], [1.0, 1.0]):
        with pytest.raises(ValueError, match="at least one and all different"):
            calibrated_strength(utility_at, gold, rewards.group, 2, strengths)
