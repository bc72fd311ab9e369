"""`explain`: the numbers behind a choice, and the reason in words."""

import json
import math

import pyarrow as pa
import pytest

from prudent.errors import DataError
from prudent.scoring import ScoredPool, explain, select

TWO = "all_of(helpful | center(at=0) | log_sigmoid, harmless | center(at=0) | log_sigmoid)"


def pool_of(means: dict[str, list[float | None]], variances: dict[str, list[float]] | None = None, **columns):
    """Two prompts: number 3 with the rewards given, number 7 with the same in reverse."""
    size = len(next(iter(means.values())))
    table = {"prompt_id": [3] * size + [7] * size, "response_id": [*range(size), *range(size)]}
    for name, values in means.items():
        before = "" if name == "reward" else f"{name}_"
        spread = (variances or {}).get(name, [0.0] * size)
        table[f"{before}reward_mean"] = pa.array(values + values[::-1], pa.float32())
        table[f"{before}reward_variance"] = spread + spread[::-1]
    found = pa.table({**table, **{name: values + values[::-1] for name, values in columns.items()}})
    stated = {} if "reward" in means else {"rewards": {name: {"basis_id": None} for name in means}}
    return ScoredPool(found.replace_schema_metadata({b"prudent": json.dumps(stated).encode()}), "some.parquet")


def test_a_rule_that_turned_the_order_around_is_named():
    pool = pool_of(
        {"reward": [1.0, 2.0, 0.0]},
        {"reward": [0.25, 9.0, 0.0]},
        response=["short", "long and risky", "none"],
        gold=[0.5, -1.0, 0.0],
        length=[5, 14, 4],
        prompt=["a question"] * 3,
    )
    found = explain(pool, "lcb_std(1)", 3)
    assert [(step.label, step.step, step.source) for step in found.steps] == [
        ("a", "reward", "reward"),
        ("b", "a | lcb_std", "lcb_std"),
    ]
    assert [response.response_id for response in found.responses] == [0, 2, 1]
    assert [response.rank for response in found.responses] == [1, 2, 3]
    best = found.responses[0]
    assert (best.mean, best.std) == ((1.0, 0.5), (0.5, None))
    assert (best.gold, best.length, best.text) == (0.5, 5, "short")
    assert (found.winners, found.runner_up, found.by_mean, found.prompt) == ((0,), 2, {"reward": 1}, "a question")
    assert found.why == (
        "Response 0 wins with 0.5, before response 2 with 0. It is ahead in the reward itself (1 ± 0.5 against 0 ± 0) "
        "and no step after it changed that. By the plain mean of the reward response 1 would have won (2 against 1)."
    )
    # without the third response, the rule decides between the first two
    without = ScoredPool(pool.table.filter(pa.array([True, True, False] * 2)), "two")
    assert (
        "`lcb_std` decided: before it response 1 was ahead (2 ± 3 against 1 ± 0.5)."
        in explain(without, "lcb_std(1)", 3).why
    )
    assert "it would have won too" in explain(pool, "mean", 3).why


def test_properties_that_must_all_hold():
    pool = pool_of({"helpful": [10.0, 1.0], "harmless": [-5.0, 1.0]})
    found = explain(pool, TWO, 3)
    assert [(step.label, step.step) for step in found.steps] == [
        ("a", "helpful"),
        ("b", "a | center(at=0)"),
        ("c", "b | log_sigmoid"),
        ("d", "harmless"),
        ("e", "d | center(at=0)"),
        ("f", "e | log_sigmoid"),
        ("g", "all_of(c, f)"),
        ("h", "g | mean"),
    ]
    assert found.winners == (1,)
    assert found.by_mean == {"helpful": 0, "harmless": 1}
    value = 2 * -math.log1p(math.exp(-1))
    assert found.responses[0].mean[-1] == pytest.approx(value, rel=1e-5)
    assert "`harmless | center(at=0) | log_sigmoid` decided" in found.why
    assert "though `helpful | center(at=0) | log_sigmoid` speaks for the other" in found.why
    assert found.why.endswith(
        "By the mean of helpful alone and by the sum of the means response 0 would have won; by the mean of harmless "
        "alone it would have won too."
    )
    reasons = explain(pool_of({"helpful": [2.0, 1.0], "harmless": [1.5, 1.0]}), TWO, 3).why
    assert "No part speaks against it, and `helpful | center(at=0) | log_sigmoid` speaks most for it" in reasons


def test_arguments_of_a_combination_stay():
    pool = pool_of({"helpful": [10.0, 1.0], "harmless": [-5.0, 1.0]})
    found = explain(pool, "weighted(helpful, harmless, weights=[1, 3])", 3)
    assert [step.step for step in found.steps] == ["helpful", "harmless", "weighted(a, b, weights=[1, 3])", "c | mean"]
    assert found.winners == (1,)
    smallest = explain(pool, "minimum(helpful | center(at=0), harmless | center(at=0))", 3)
    parts = [f"`{name} | center(at=0)`" for name in ("harmless", "helpful")]
    assert f"{parts[0]} decided (1 ± 0 against -5 ± 0), though {parts[1]} speaks for the other." in smallest.why


def test_parts_that_are_missing_are_named_and_decide_nothing():
    neutral = TWO.removesuffix(")") + ", missing=neutral)"
    parts = [f"`{name} | center(at=0) | log_sigmoid`" for name in ("helpful", "harmless")]
    why = explain(pool_of({"helpful": [5.0, 0.0], "harmless": [None, 1.0]}), neutral, 3).why
    assert f"No part speaks against it, and {parts[0]} speaks most for it (-0.006715 ± 0 against -0.6931 ± 0). " in why
    assert f"{parts[1]} is not known of response 0." in why
    why = explain(pool_of({"helpful": [2.0, 1.5], "harmless": [None, 1.0]}), neutral, 3).why
    assert f"Of the parts known of both none speaks for it, nearest comes {parts[0]}" in why
    why = explain(pool_of({"helpful": [2.0, None], "harmless": [None, -1.0]}), neutral, 3).why
    assert (
        f"No part is known of both. {parts[0]} is not known of response 1; {parts[1]} is not known of response 0."
        in why
    )
    both = explain(pool_of({"helpful": [2.0, 1.0, None], "harmless": [0.0, 0.0, None]}), neutral, 3)
    assert "not known" not in both.why


def test_one_property_is_enough_by_what_any_of_adds_up():
    # by their logarithms the small probabilities, 0.01 and 0.001, would differ more than 0.999 and 0.98
    pool = pool_of({"helpful": [-4.595, -6.907], "harmless": [6.907, 3.892]})
    assert (
        "`harmless | center(at=0) | log_sigmoid` speaks most for it"
        in explain(pool, TWO.replace("all_", "any_"), 3).why
    )


def test_ties_and_rows_that_are_not_scored():
    pool = pool_of({"reward": [1.0, None, 1.0, 0.0]})
    found = explain(pool, "mean", 3)
    assert [(response.response_id, response.rank) for response in found.responses] == [
        (0, 1),
        (2, 1),
        (3, 3),
        (1, None),
    ]
    assert found.winners == (0, 2)
    assert found.why.startswith("Responses 0 and 2 tie with 1, and one of them is drawn at random; the next is ")
    entries = found.to_dict()["responses"]
    assert [entry["scored"] for entry in entries] == [True, True, True, False]
    assert entries[-1]["mean"] == [None, None]


def test_nothing_to_choose_from():
    assert explain(pool_of({"reward": [None, None]}), "mean", 3).why == "No response of this prompt is scored."
    alone = explain(pool_of({"reward": [None, 2.0]}), "mean", 3)
    assert (alone.winners, alone.runner_up, alone.why) == ((1,), None, "Response 1 is the only one that is scored.")
    level = explain(pool_of({"reward": [2.0, 2.0]}), "mean", 3)
    assert level.runner_up is None
    assert level.why.startswith("Responses 0 and 1 tie with 2, and one of them is drawn at random.")


def test_a_prompt_that_is_not_there():
    with pytest.raises(DataError, match=r"no prompt 4; its 2 prompts have numbers from 3 to 7"):
        explain(pool_of({"reward": [1.0]}), "mean", 4)


@pytest.mark.parametrize("utility", ["lcb_std(2)", "center(at=1) | log_sigmoid | entropic", "quantile(0.1)"])
def test_the_winner_is_what_select_picks(utility, tmp_path):
    pool = pool_of({"reward": [1.0, 3.0, 2.0]}, {"reward": [0.5, 6.0, 0.1]})
    select(pool, tmp_path / "picks.jsonl", utility=utility)
    picks = [json.loads(line) for line in (tmp_path / "picks.jsonl").read_text().splitlines()]
    for pick in picks:
        found = explain(pool, utility, pick["prompt_id"])
        assert found.winners == (pick["response_id"],)
        assert found.responses[0].mean[-1] == pytest.approx(pick["utility"])
