"""The strength of a rule, chosen on prompts with gold."""

import json

import pyarrow as pa
import pytest
import torch

from prudent.errors import DataError, UtilityError
from prudent.scoring import ScoredPool, fit_utility, tune_utility, utility_for
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
    for strengths in ([], [1.0, 2.0, 1]):
        with pytest.raises(ValueError, match="strengths must be at least one and all different"):
            tune_utility(pool(), "lcb_std(strength)", strengths)
    with pytest.raises(ValueError, match="n must be at least 2"):
        tune_utility(pool(), "lcb_std(strength)", [1.0], n=1)
    with pytest.raises(DataError, match="a single response with gold"):
        tune_utility(pool(size=1), "lcb_std(strength)", [1.0])
    with pytest.raises(UtilityError, match="write the word strength in its place"):
        tune_utility(pool(), 'center(canned="a strength") | lcb_std', [1.0])


def test_gold_that_members_were_calibrated_on_does_not_count():
    seen = [prompt < 30 for prompt in range(40) for _ in range(8)]
    assert tune_utility(pool(is_calibration=seen), "lcb_std(strength)", [0.0, 1.0]).num_prompts == 10


def test_a_small_pool_among_many_large_ones_does_not_make_n_small():
    # one prompt of two, the others of eight
    scored = pool()
    without = ScoredPool(
        scored.table.filter(pa.array([prompt > 0 or row < 2 for prompt in range(40) for row in range(8)]))
    )
    found = tune_utility(without, "lcb_std(strength)", [0.0, 1.0])
    assert (found.n, found.num_prompts) == (8, 39)


def test_the_word_in_a_canned_text_is_no_strength():
    scored = pool()
    level = pa.array([0.25] * 320)
    table = scored.table.append_column("reward_reference", level).append_column("reward_centered_variance", level)
    metadata = {"kind": "gaussian", "basis_id": None, "canned": 'That is my "strength".'}
    against = ScoredPool(table.replace_schema_metadata({b"prudent": json.dumps(metadata).encode()}))
    text = 'center(canned="That is my \\"strength\\".") | lcb_std(strength)'
    found = tune_utility(against, text, [0.5])
    assert found.utility == text.replace("(strength)", "(0.5)")


def test_all_rows_are_references_where_a_saved_utility_takes_all():
    draw = torch.Generator().manual_seed(1)
    scored = pool(
        prompt=[f"prompt {n}" for n in range(40) for _ in range(8)],
        is_reference=(torch.rand(320, generator=draw) < 0.5).numpy(),
    )
    utility, strengths = "standardize(of=all) | sigmoid | lcb_std(strength)", [0.0, 4.0]
    found = tune_utility(scored, utility, strengths, all_rows=True)
    values = [fit_utility(scored, utility.replace("strength", f"{one}"), all_rows=True) for one in strengths]
    gold = [
        best_of_n_curve(utility_for(scored, one)(scored.reward_set()), scored.column("gold"), scored.group, [8])
        .mean()
        .item()
        for one in values
    ]
    assert found.gold == pytest.approx(gold)
    assert found.gold != pytest.approx(tune_utility(scored, utility, strengths).gold)
