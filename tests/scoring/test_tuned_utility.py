"""The strength of a rule, chosen on prompts with gold."""

import pyarrow as pa
import pytest
import torch

from prudent.errors import DataError, UtilityError
from prudent.scoring import ScoredPool, tune_utility
from prudent.selection import best_of_n_curve


def pool(num_prompts: int = 40, size: int = 8, **columns: object) -> ScoredPool:
    """Means that are off by noise of the stated variance, so that a good strength is neither 0 nor large."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_prompts * size,)
    gold = torch.randn(shape, generator=generator, dtype=torch.float64)
    std = 0.2 + 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    mean = gold + std * torch.randn(shape, generator=generator, dtype=torch.float64)
    table = {
        "prompt_id": torch.arange(num_prompts).repeat_interleave(size).numpy(),
        "reward_mean": mean.numpy(),
        "reward_variance": std.square().numpy(),
        "gold": gold.numpy(),
        **columns,
    }
    return ScoredPool(pa.table(table))


def test_the_strength_of_highest_gold_is_chosen():
    scored = pool()
    strengths = [0.0, 0.5, 1.0, 2.0, 50.0]
    found = tune_utility(scored, "lcb_std(strength)", strengths)
    mean, std = scored.column("reward_mean"), scored.column("reward_variance").sqrt()
    by_hand = [
        best_of_n_curve(mean - one * std, scored.column("gold"), scored.group, [8]).mean().item() for one in strengths
    ]
    assert found.gold == pytest.approx(by_hand)
    assert found.n == 8
    assert found.num_prompts == 40
    best = strengths[max(range(5), key=by_hand.__getitem__)]
    assert 0 < best < 50
    assert found.utility == ("lcb_std" if best == 1 else f"lcb_std({best:g})")
    assert found.to_dict()["strengths"] == strengths


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(UtilityError, match="write the word strength in its place"):
        tune_utility(pool(), "lcb_std(1)", [1.0])
    with pytest.raises(UtilityError, match="num_std must be finite and not negative"):
        tune_utility(pool(), "lcb_std(strength)", [-1.0])
    with pytest.raises(DataError, match="has no gold"):
        tune_utility(ScoredPool(pool().table.drop_columns(["gold"])), "lcb_std(strength)", [1.0])
    with pytest.raises(DataError, match="9"):
        tune_utility(pool(), "lcb_std(strength)", [1.0], n=9)
    with pytest.raises(ValueError, match="strengths"):
        tune_utility(pool(), "lcb_std(strength)", [])


def test_gold_that_members_were_calibrated_on_does_not_count():
    seen = [prompt < 30 for prompt in range(40) for _ in range(8)]
    assert tune_utility(pool(is_calibration=seen), "lcb_std(strength)", [0.0, 1.0]).num_prompts == 10
