"""Several utilities on one pool: figures by hand, and the plane of two rewards."""

import json
from dataclasses import asdict

import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from prudent.errors import DataError, UtilityError
from prudent.evaluation import compare_utilities, trade_off
from prudent.evaluation._records import rebuilt
from prudent.scoring import ScoredPool

SUM = "weighted(a, b, weights=[1, 1])"
BOTH = "all_of(a | center(mean) | log_sigmoid, b | center(mean) | log_sigmoid)"


def pool(num_prompts: int = 6, **columns: list[float]) -> ScoredPool:
    """Each prompt has a reference at (0, 0), one lopsided and one balanced response, and a poor one."""
    level = [float(10 * prompt) for prompt in range(num_prompts) for _ in range(4)]  # means nothing
    size = len(level)
    table = {
        "prompt_id": [prompt for prompt in range(num_prompts) for _ in range(4)],
        "a_reward_mean": [
            value + shift for value, shift in zip([0.0, 10.0, 1.0, -2.0] * num_prompts, level, strict=True)
        ],
        "a_reward_variance": [0.01] * size,
        "b_reward_mean": [0.0, -5.0, 1.0, -2.0] * num_prompts,
        "b_reward_variance": [0.01] * size,
        "is_reference": [True, False, False, False] * num_prompts,
        "gold_a": [0.0, 2.0, 1.0, -1.0] * num_prompts,
        "gold_b": [0.0, -2.0, 1.0, -1.0] * num_prompts,
        "gold": [0.0, 0.0, 2.0, -2.0] * num_prompts,
        **columns,
    }
    return ScoredPool(pa.table(table))


def test_figures_by_hand(tmp_path):
    found = compare_utilities(pool(), {"sum": SUM, "both": BOTH}, tmp_path / "out.json", num_bootstrap=50)
    raw, both = found.utilities
    assert found.num_prompts == 6
    assert (raw.gold["gold"].value, both.gold["gold"].value) == (0.0, 2.0)
    assert (raw.gold["gold_a"].value, both.gold["gold_a"].value) == (2.0, 1.0)
    assert both.gold_difference["gold"].value == 2.0
    assert raw.gold_difference["gold"].value == 0.0
    assert both.gold_difference["gold"].low == 2.0
    assert raw.good_in_all is not None
    assert both.good_in_all is not None
    assert (raw.good_in_all.value, both.good_in_all.value) == (0.0, 1.0)
    assert (raw.above_average.value, both.above_average.value) == (0.0, 0.0)  # a: 1 is below the average of 2.25
    assert both.rewards["b"].value == pytest.approx(1 - (0 - 5 + 1 - 2) / 4)
    assert both.same_pick == 0.0
    # ranks by utility: sum 5 > 2 > 0 > -4, gold ties the first with the third
    assert raw.rank_correlation is not None
    assert raw.rank_correlation.value == pytest.approx(0.6324555, abs=1e-6)
    assert json.loads((tmp_path / "out.json").read_text()) == found.to_dict()


def test_prompts_without_a_value_are_left_out():
    a = pool().table["a_reward_mean"].to_pylist()
    some = compare_utilities(pool(a_reward_mean=[None] * 4 + a[4:]), ["b | mean", "a | mean"], num_bootstrap=50)
    assert some.num_prompts == 5
    with pytest.raises(DataError, match="no prompt has a response with a value under every utility"):
        compare_utilities(pool(a_reward_mean=[None] * 23 + [float("nan")]), ["a | mean"])
    with pytest.raises(UtilityError):
        compare_utilities(pool(), ["a | men"])
    with pytest.raises(ValueError, match="at least one"):
        compare_utilities(pool(), [])
    with pytest.raises(TypeError, match="in a list or by name"):
        compare_utilities(pool(), "a | mean")


def test_what_is_missing_for_a_pick_counts_neither_way(tmp_path):
    b, gold_b = (pool().table[name].to_pylist() for name in ("b_reward_mean", "gold_b"))
    # two prompts without b, whose picks have no gold of it either
    scored = pool(b_reward_mean=[None] * 8 + b[8:], gold_b=[None] * 8 + gold_b[8:])
    neutral = "all_of(a | center(at=0) | log_sigmoid, b | center(at=0) | log_sigmoid, missing=neutral)"
    found = compare_utilities(scored, [neutral], num_bootstrap=50)
    (one,) = found.utilities
    assert found.num_prompts == 6
    # of the others each pick is the balanced response: above average in b, in a (1 against 2.25) not
    assert one.rewards["b"] is not None
    assert one.rewards["b"].value == pytest.approx(2.5)
    assert one.above_average is not None
    assert one.above_average.value == 0.0
    assert one.good_in_all is not None
    assert one.good_in_all.value == 1.0

    lacking = pool(b_reward_mean=[float("nan")] * 24, gold_b=[None] * 24, gold=[float("nan")] * 24)
    (one,) = compare_utilities(lacking, ["a | mean"], tmp_path / "out.json", num_bootstrap=50).utilities
    assert set(one.gold) == {"gold_a"}
    assert (one.rewards["b"], one.above_average, one.rank_correlation) == (None, None, None)
    assert json.loads((tmp_path / "out.json").read_text())["utilities"][0]["rewards"]["b"] is None


def test_the_plane_of_two_rewards():
    found = trade_off(pool(), {"sum": SUM, "both": BOTH})
    assert found.names == ("a", "b")
    assert len(found.x) == 24
    assert sorted(set(zip(found.x, found.y, strict=True))) == [(-2.0, -2.0), (0.0, 0.0), (1.0, 1.0), (10.0, -5.0)]
    raw, both = found.lines
    assert set(zip(raw.x, raw.y, strict=True)) == {(10.0, -5.0)}
    assert set(zip(both.x, both.y, strict=True)) == {(1.0, 1.0)}
    x, y = torch.tensor(found.grid_x), torch.tensor(found.grid_y)
    assert raw.grid is not None
    assert both.grid is not None
    level = torch.tensor(raw.grid) - (x[None, :] + y[:, None])
    torch.testing.assert_close(level, level[0, 0].expand_as(level), atol=1e-4, rtol=0)
    expected = F.logsigmoid(x)[None, :] + F.logsigmoid(y)[:, None]
    assert (torch.tensor(both.grid) - expected).abs().max() < 0.01  # a variance of 0.01 takes off 0.005 at most
    assert rebuilt(type(found), json.loads(json.dumps(asdict(found))), "the plane") == found


def test_the_plane_where_rewards_are_missing():
    a, b = (pool().table[name].to_pylist() for name in ("a_reward_mean", "b_reward_mean"))
    some = {"b_reward_mean": [None] * 8 + b[8:], "b_reward_variance": [None] * 8 + [0.01] * 16}
    found = trade_off(pool(**some), {"sum": SUM, "a": "a | mean"})
    assert found.prompt_id >= 2
    assert len(found.x) == 16
    assert [len(line.x) for line in found.lines] == [4, 4]  # of b nothing is known in two of six prompts

    # the best in b lacks a, so that what `b | mean` picks has no place in the plane
    lopsided = pool(b_reward_mean=[0.0, 9.0, 1.0, -2.0] * 6, a_reward_mean=[0.0, None, 1.0, -2.0] * 6)
    found = trade_off(lopsided, {"b": "b | mean", "a": "a | mean"})
    assert [line.label for line in found.lines] == ["a"]

    apart = pool(a_reward_mean=a[:12] + [None] * 12, b_reward_mean=[None] * 12 + b[12:])
    with pytest.raises(DataError, match="no response has both a and b"):
        trade_off(apart, {"a": "a | mean"})


def test_a_third_reward_that_the_typical_response_lacks():
    third = {f"c_reward_{name}": [1.0] * 2 + [None] * 22 for name in ("mean", "variance")}
    found = trade_off(pool(**third), {"a": "a | mean", "c": "c | mean"})
    assert found.prompt_id == 0
    assert all(line.grid is not None for line in found.lines)
    # no response has all three: what reads the third has no value on the grid
    apart = pool(**third, b_reward_mean=[None] * 4 + pool().table["b_reward_mean"].to_pylist()[4:])
    assert [line.grid is None for line in trade_off(apart, {"a": "a | mean", "c": "c | mean"}).lines] == [False]
    neutral = "all_of(a | center | log_sigmoid, c | center(at=0) | log_sigmoid, missing=neutral)"
    lines = trade_off(apart, {"both": neutral, "x": "weighted(b, c, weights=[1, 1])"}).lines
    assert [line.label for line in lines] == ["both"]


def test_what_the_axes_are_relative_to():
    assert trade_off(pool(), {"sum": SUM}).relative_to == ("references", "references")
    unmarked = ScoredPool(pool().table.drop_columns(["is_reference"]))
    found = trade_off(unmarked, {"sum": SUM})
    assert found.relative_to == ("responses", "responses")
    assert min(found.x) == pytest.approx(-2 - 2.25)
    table = pool(b_reward_reference=[-1.0] * 24).table
    stated = {"rewards": {"a": {}, "b": {"canned": "no"}}}
    canned = ScoredPool(table.replace_schema_metadata({b"prudent": json.dumps(stated).encode()}))
    found = trade_off(canned, {"sum": SUM})
    assert found.relative_to == ("references", "canned")
    assert min(found.y) == -5 + 1


def test_what_looks_at_the_other_responses_has_no_value_on_the_grid():
    members = pa.FixedSizeListArray.from_arrays(pa.array([0.0, 1.0] * 24), 2)
    found = trade_off(pool(a_reward_members=members), {"best": "a | prob_best", "drawn": "a | thompson"})
    assert [line.grid for line in found.lines] == [None, None]
    assert len(found.lines[0].x) == 6


def test_the_plane_needs_two_rewards():
    one = ScoredPool(pa.table({"prompt_id": [0, 0], "reward_mean": [0.0, 1.0], "reward_variance": [1.0, 1.0]}))
    with pytest.raises(DataError, match="needs two"):
        trade_off(one, {"mean": "mean"})
    with pytest.raises(DataError, match="no reward 'c'"):
        trade_off(pool(), {"sum": SUM}, ("a", "c"))
