"""Scores made elsewhere as rewards of their own: as they are or in logits, with gaps where a model does not apply."""

import numpy as np
import pytest
import torch

from prudent.errors import DataError, PosteriorError, PrudentError
from prudent.scoring import _member_files, read_scored, score_columns, score_members
from prudent.utility import parse_utility

NAMES = {"helpful": "points", "harmless": "logits"}


def pools(num_prompts: int = 30) -> list[dict]:
    generator = np.random.default_rng(0)
    rows = []
    for number in range(num_prompts):
        true = generator.normal(size=4)
        points = (400 + 25 * (2 * true + generator.normal(size=4))).tolist()
        logits = (2 * true + generator.normal(size=4)).tolist()
        if number % 3 == 0:
            logits[1] = None
        rows.append(
            {
                "prompt": f"question {number}",
                "responses": [f"answer {place}" for place in range(4)],
                "gold": true.tolist(),
                "points": points,
                "logits": None if number == 7 else logits,
            }
        )
    return rows


def flat(rows: list[dict]) -> list[dict]:
    return [
        {
            "prompt": row["prompt"],
            "response": row["responses"][place],
            "gold": row["gold"][place],
            **{name: None if row[name] is None else row[name][place] for name in NAMES.values()},
        }
        for row in rows
        for place in range(4)
    ]


def test_scores_are_rewards_as_they_are_and_null_where_there_is_none(tmp_path):
    summary = score_columns(pools(), tmp_path / "out", NAMES, num_references=2)
    pool = read_scored(tmp_path / "out")
    assert pool.reward_names == ("helpful", "harmless")
    assert {name: one.num_not_scored for name, one in summary.rewards.items()} == {"helpful": 0, "harmless": 14}
    assert [one.calibration for one in summary.rewards.values()] == [None, None]
    assert "is_calibration" not in pool.table.column_names
    reference = torch.tensor(pool.table["is_reference"].to_pylist()).reshape(30, 4)
    for name, column in NAMES.items():
        one = pool.reward(name)
        raw = torch.tensor(
            [value if value is not None else np.nan for row in pools() for value in row[column] or [None] * 4]
        )
        torch.testing.assert_close(one.column("reward_mean").float(), raw, equal_nan=True)
        assert one.table["reward_variance"].null_count == 120
        assert not one.has_variance
        expected = torch.where(reference, raw.reshape(30, 4), torch.nan).nanmean(1)
        found = one.column("reward_reference").float().reshape(30, 4)
        torch.testing.assert_close(found, expected[:, None].expand(-1, 4), equal_nan=True)
    rewards = pool.reward_set()
    assert torch.equal(rewards.is_reference.reshape(30, 4), reference)
    assert int(rewards.rewards["harmless"].mean.isnan().sum()) == 14
    assert rewards.is_scored.all()
    # a score without a variance counts as certain
    both = parse_utility(
        "all_of(helpful | center(at=400) | temperature(25) | log_sigmoid, harmless | center(at=0) | log_sigmoid)"
    )
    first, second = (pool.reward(name).column("reward_mean") for name in NAMES)
    expected = torch.nn.functional.logsigmoid((first - 400) / 25) + torch.nn.functional.logsigmoid(second)
    torch.testing.assert_close(both(rewards).double(), expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    rows = score_columns(flat(pools()), tmp_path / "flat", NAMES, num_references=2)
    assert rows.rewards == summary.rewards
    assert read_scored(tmp_path / "flat").table["helpful_reward_mean"] == pool.table["helpful_reward_mean"]
    assert score_columns(pools(), tmp_path / "out", NAMES, num_references=2) == summary
    with pytest.raises(PrudentError, match="another names"):
        score_columns(pools(), tmp_path / "out", {"other": "points", "harmless": "logits"}, num_references=2)


def test_columns_of_the_pool_are_not_taken_for_what_is_said_of_a_reward(tmp_path):
    rows = [{**row, "helpful_truncated": [True] * 4, "helpful_note": [1.0] * 4} for row in pools()]
    score_columns(rows, tmp_path / "out", NAMES)
    pool = read_scored(tmp_path / "out")
    assert "helpful_truncated" not in pool.table.column_names
    assert "truncated" not in pool.reward("helpful").table.column_names
    assert pool.table["helpful_note"].to_pylist() == [1.0] * 120


def test_each_column_is_brought_to_logits_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(_member_files, "_RESPONSES_PER_SHARD", 3)
    summary = score_columns(pools(), tmp_path / "out", NAMES, calibration_share=0.5)
    pool = read_scored(tmp_path / "out")
    assert summary.num_calibration_prompts == 15
    assert pool.is_calibration.reshape(30, 4).all(1).sum() == 15
    for name, column in NAMES.items():
        one = summary.rewards[name].calibration
        raw = torch.tensor(
            [np.nan if value is None else value for row in pools() for value in row[column] or [None] * 4]
        )
        torch.testing.assert_close(
            pool.reward(name).column("reward_mean").float(), one.scale * raw + one.offset, equal_nan=True
        )
    assert summary.rewards["harmless"].calibration.scale > 10 * summary.rewards["helpful"].calibration.scale
    # where nothing is missing the scale is the one that members of an ensemble get
    full = [{**row, "logits": row["points"]} for row in pools()]
    members = score_members(full, tmp_path / "members", list(NAMES.values()), calibration_share=0.5).members
    assert members[0].scale == pytest.approx(summary.rewards["helpful"].calibration.scale)
    pairs = [
        {
            **{
                f"{side}_{name}": row[name] and row[name][place]
                for name in NAMES.values()
                for side, place in (("chosen", 0), ("rejected", 2))
            },
            "p_chosen": float(row["gold"][0] > row["gold"][2]),
        }
        for row in pools()
    ]
    told = score_columns(pools(), tmp_path / "pairs", NAMES, calibration_data=pairs)
    assert (told.num_calibration_prompts, told.num_calibration_pairs) == (0, 30)
    assert told.rewards["harmless"].calibration.accuracy > 0.7


def test_bad_input(tmp_path):
    rows = pools()
    for columns, error, message in (
        ({"good": "nowhere"}, DataError, "no column 'nowhere'"),
        ({"Good": "points"}, DataError, "'Good' cannot name a reward"),
        ({}, DataError, "name at least one"),
        ({"a": "points", "b": "points"}, DataError, "column points is named twice"),
    ):
        with pytest.raises(error, match=message):
            score_columns(rows, tmp_path / "out", columns)
    with pytest.raises(ValueError, match=r"calibration_share must lie in \(0, 1\]"):
        score_columns(rows, tmp_path / "out", NAMES, calibration_share=0)
    with pytest.raises(ValueError, match="not on both"):
        score_columns(rows, tmp_path / "out", NAMES, calibration_share=0.5, calibration_data=[])
    rows[3]["points"] = [1.0, float("inf"), 2.0, "x"]
    with pytest.raises(DataError, match=r"`points\[1\]` is infinite"):
        score_columns(rows, tmp_path / "out", NAMES)
    rows = [{**row, "logits": [None] * 4} for row in pools()]
    with pytest.raises(PosteriorError, match="member logits: there are no pairs"):
        score_columns(rows, tmp_path / "out", NAMES, calibration_share=0.5)
    assert not list(tmp_path.iterdir())
