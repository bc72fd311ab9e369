"""Scores that other programs wrote: calibrated to logits, written as a posterior, and refused where they are none."""

import json
import math

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from prudent.errors import DataError, PosteriorError, PrudentError
from prudent.metrics import fit_logit_temperature
from prudent.rewards import MemberRewards
from prudent.scoring import ScoredPool, read_scored, score_members, select
from prudent.utility import Entropic, LcbVar

UNITS = {"points": 25.0, "logits": 1.0, "tiny": 1e-3}
LEVELS = {"points": 400.0, "logits": 0.0, "tiny": -5.0}
COLUMNS = list(UNITS)


def pools(num_prompts: int = 40, num_responses: int = 5, seed: int = 0) -> list[dict]:
    """Three models see a true reward, each with its own error, in its own unit and from its own level."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(num_prompts):
        true = generator.normal(size=num_responses)
        rows.append(
            {
                "prompt": f"question {number}",
                "responses": [f"answer {number} {place}" for place in range(num_responses)],
                "gold": np.round(true, 3).tolist(),
                "source_model": [f"m{place}" for place in range(num_responses)],
                **{
                    name: (LEVELS[name] + unit * (2 * true + generator.normal(size=num_responses))).tolist()
                    for name, unit in UNITS.items()
                },
            }
        )
    return rows


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    output = tmp_path_factory.mktemp("members") / "scored"
    summary = score_members(pools(), output, COLUMNS, num_references=2)
    return summary, read_scored(output)


def test_members_are_the_scores_on_the_scale_that_the_pairs_prefer(scored):
    summary, pool = scored
    posterior = pool.posterior()
    assert isinstance(posterior, MemberRewards)
    assert (posterior.basis_id, posterior.ddof) == (summary.basis_id, 1)
    raw = np.stack([np.concatenate([row[name] for row in pools()]) for name in COLUMNS], 1)
    scale, offset = (np.array([getattr(one, name) for one in summary.members]) for name in ("scale", "offset"))
    np.testing.assert_allclose(posterior.members, scale * raw + offset, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pool.column("reward_mean"), posterior.mean, rtol=1e-6)
    np.testing.assert_allclose(pool.column("reward_variance"), posterior.variance, rtol=1e-6)
    assert not pool.column("reward_noise").any()
    # the calibration by hand, from the flag and the gold in the file
    flags = np.array(pool.table["is_calibration"].to_pylist()).reshape(40, 5)
    assert (flags.all(1) == flags.any(1)).all()
    assert flags.all(1).sum() == summary.num_calibration_prompts == 8
    gold = np.array(pool.table["gold"].to_pylist()).reshape(40, 5)[flags[:, 0]]
    for place, name in enumerate(COLUMNS):
        scores = raw[:, place].reshape(40, 5)[flags[:, 0]]
        prompt, better, worse = np.nonzero(gold[:, :, None] > gold[:, None, :])
        difference = torch.from_numpy(scores[prompt, better] - scores[prompt, worse])
        assert summary.num_calibration_pairs == len(difference)
        expected = 1 / (fit_logit_temperature(difference / UNITS[name]) * UNITS[name])
        assert summary.members[place].scale == pytest.approx(expected, rel=2e-3)
        assert summary.members[place].accuracy == pytest.approx((difference > 0).double().mean().item())
        assert summary.members[place].nll_after < math.log(2)
        sides = np.concatenate([scores[prompt, better], scores[prompt, worse]])
        assert scale[place] * sides.mean() + offset[place] == pytest.approx(0, abs=1e-6)


def test_the_file_is_as_score_writes_it(scored, tmp_path):
    summary, pool = scored
    table = pool.table
    assert (summary.num_prompts, summary.num_responses) == (40, 200)
    assert table["prompt_id"].to_pylist() == [number for number in range(40) for _ in range(5)]
    assert table["response"][7].as_py() == "answer 1 2"
    assert table["length"][7].as_py() == len("answer 1 2")
    assert table["source_model"].to_pylist()[:2] == ["m0", "m1"]
    assert table["points"][0].as_py() == pools()[0]["points"][0]  # the scores as they were go along
    assert not [name for name in table.column_names if name.startswith("member ")]
    # centred on two references a prompt, member by member
    members = pool.posterior().members.reshape(40, 5, 3)
    reference = torch.tensor(table["is_reference"].to_pylist()).reshape(40, 5)
    assert (reference.sum(1) == 2).all()
    center = torch.stack([one[chosen].mean(0) for one, chosen in zip(members, reference, strict=True)])
    torch.testing.assert_close(
        pool.column("reward_centered_variance").float(),
        (members - center[:, None]).var(2).reshape(-1),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        pool.column("reward_reference").float(), center.mean(1).repeat_interleave(5), rtol=1e-4, atol=1e-5
    )
    for utility in ("mean", "lcb_std", "entropic", "prob_best"):
        picks = select(pool, tmp_path / f"{utility}.jsonl", utility=utility)
        assert picks.num_prompts == 40
        assert picks.mean_gold > 0.8
    assert select(pool, utility="center(mean) | lcb_std").mean_gold > 0.8
    test = ScoredPool(table.filter(pc.invert(table["is_calibration"])))
    assert select(test).num_prompts == 32


def test_centered_members_stay_members(scored, centered_rewards):
    _, pool = scored
    marginal, centered = pool.posterior(), centered_rewards(pool)
    assert isinstance(centered, MemberRewards)
    assert centered.is_discrete
    members = marginal.members.double().reshape(40, 5, 3)
    reference = torch.tensor(pool.table["is_reference"].to_pylist()).reshape(40, 5)
    center = torch.stack([one[chosen].mean(0) for one, chosen in zip(members, reference, strict=True)])
    torch.testing.assert_close(centered.members.reshape(40, 5, 3), members - center[:, None])
    torch.testing.assert_close(centered.variance, pool.column("reward_centered_variance"), rtol=1e-4, atol=1e-6)
    mean = pool.column("reward_mean") - pool.column("reward_reference")
    torch.testing.assert_close(centered.mean, mean, rtol=1e-4, atol=1e-5)
    # on members entropic is not lcb_var, centred or not, and the worst member has a name
    entropic = Entropic(2.0)(centered)
    expected = -torch.logsumexp(-2.0 * centered.members, 1).sub(math.log(3)) / 2.0
    torch.testing.assert_close(entropic, expected)
    assert (entropic - LcbVar(1.0)(centered)).abs().max() > 0.1
    assert select(pool, utility="center(mean) | worst").num_prompts == 40


def test_members_whose_reference_rows_are_gone_are_not_centered(scored):
    _, pool = scored
    others = ScoredPool(pool.table.filter(~pc.field("is_reference") | (pc.field("prompt_id") != 3)))
    with pytest.raises(DataError, match="prompt 3 lacks rows of its reference set"):
        others.posterior(contrast_variance=True)
    untold = ScoredPool(pool.table.drop_columns(["is_reference"]))
    with pytest.raises(DataError, match="which responses are the references"):
        select(untold, utility="center(mean) | worst")


def flat(rows: list[dict]) -> list[dict]:
    listed = ["responses", "gold", "source_model", *COLUMNS]
    return [
        {"prompt": row["prompt"], "prompt_id": number}
        | {("response" if name == "responses" else name): row[name][place] for name in listed}
        for number, row in enumerate(rows)
        for place in range(len(row["responses"]))
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_one_row_a_response_in_any_format_is_the_same(scored, tmp_path, suffix):
    import pandas as pd

    frame = pd.DataFrame(flat(pools()))
    place = tmp_path / f"scores.{suffix}"
    if suffix == "jsonl":
        frame.to_json(place, orient="records", lines=True, double_precision=15)
    elif suffix == "csv":
        frame.to_csv(place, index=False)
    else:
        frame.to_parquet(place)
    summary = score_members(place, tmp_path / "scored", COLUMNS, num_references=2)
    assert [one.scale for one in summary.members] == pytest.approx([one.scale for one in scored[0].members])
    again = read_scored(tmp_path / "scored").posterior()
    torch.testing.assert_close(again.members, scored[1].posterior().members)


def test_texts_may_be_absent_and_columns_called_otherwise(scored, tmp_path):
    rows = [
        {
            "problem": row["prompt"],
            "is_right": row["gold"],
            "why": row["responses"],
            **{name: row[name] for name in COLUMNS},
        }
        for row in pools()
    ]
    options = {"prompt": "problem", "gold": "is_right", "num_references": 2}
    score_members(rows, tmp_path / "named", COLUMNS, response="why", **options)
    named = read_scored(tmp_path / "named")
    assert named.table["response"].to_pylist() == scored[1].table["response"].to_pylist()
    score_members([{**row, "why": "one for all"} for row in rows], tmp_path / "bare", COLUMNS, **options)
    bare = read_scored(tmp_path / "bare")
    assert not {"response", "text_id", "length"} & set(bare.table.column_names)
    torch.testing.assert_close(bare.posterior().members, scored[1].posterior().members)
    assert select(bare).num_prompts == 40


def preferences(seed: int = 1, num_pairs: int = 400) -> list[dict]:
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(num_pairs):
        true = generator.normal(size=2)
        row = {"p_chosen": 1 / (1 + math.exp(true[1] - true[0]))}
        for name, unit in UNITS.items():
            seen = LEVELS[name] + unit * (2 * true + generator.normal(size=2))
            row[f"chosen_{name}"], row[f"rejected_{name}"] = seen.tolist()
        rows.append(row)
    return rows


def test_preferences_with_scores_calibrate_too(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "gold"} for row in pools()]
    pairs = preferences()
    summary = score_members(rows, tmp_path / "a", COLUMNS, calibration_data=pairs)
    table = read_scored(tmp_path / "a").table
    assert "gold" not in table.column_names
    assert not any(table["is_calibration"].to_pylist())
    assert (summary.num_calibration_prompts, summary.num_calibration_pairs) == (0, 400)
    label = torch.tensor([row["p_chosen"] for row in pairs], dtype=torch.float64)
    for one in summary.members:
        sides = torch.tensor([[row[f"chosen_{one.name}"], row[f"rejected_{one.name}"]] for row in pairs]).double()
        unit = UNITS[one.name]
        temperature = fit_logit_temperature((sides[:, 0] - sides[:, 1]) / unit, label)
        assert one.scale == pytest.approx(1 / (temperature * unit), rel=2e-3)
        assert one.scale * sides.mean().item() + one.offset == pytest.approx(0, abs=1e-4)


def test_without_labels_the_chosen_one_was_preferred_and_prompts_are_kept_together(tmp_path):
    sides = ("chosen", "rejected")
    pairs = []
    for place, row in enumerate(preferences(num_pairs=60)):
        first, second = sides if row["p_chosen"] > 0.5 else sides[::-1]
        scores = {
            f"{new}_{name}": row[f"{old}_{name}"]
            for name in UNITS
            for new, old in ((sides[0], first), (sides[1], second))
        }
        pairs.append({"prompt": f"p{place // 20}", **scores})
    summary = score_members(pools(), tmp_path / "a", COLUMNS, calibration_data=pairs)
    assert all(one.accuracy > 0.7 for one in summary.members)
    # three prompts are three witnesses, whatever the number of their pairs: too few to speak of a direction
    turned = [
        {
            name.replace("chosen", "x").replace("rejected", "chosen").replace("x", "rejected"): v
            for name, v in row.items()
        }
        for row in pairs
    ]
    with pytest.raises(PosteriorError, match="better than a coin") as caught:
        score_members(pools(), tmp_path / "b", COLUMNS, calibration_data=turned)
    assert "reversed" not in str(caught.value)


def broken(**changes) -> list[dict]:
    rows = pools()
    for column, value in changes.items():
        rows[3][column] = value
    return rows


LIST = [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (pools(), ["points", "absent"], "the rows: no column 'absent'; there are prompt, responses, gold"),
        (pools(), ["points"], "only points is named"),
        (pools(), ["points", "points"], "points is named twice"),
        (pools(), ["points", "source_model"], r"row 0: `source_model\[0\]` is 'm0', a number is needed"),
        (broken(tiny=[*LIST, None]), COLUMNS, r"1 of 40 rows .* row 3: `tiny\[4\]` is missing \(null or NaN\)"),
        (broken(tiny=[*LIST, math.nan]), COLUMNS, r"row 3: `tiny\[4\]` is missing"),
        (broken(points=[*LIST, -math.inf]), COLUMNS, r"row 3: `points\[4\]` is infinite"),
        (broken(points=[*LIST, True]), COLUMNS, r"row 3: `points\[4\]` is True, a number is needed"),
        (broken(points=LIST), COLUMNS, "row 3: `points` has 4 values for 5 responses"),
        (broken(tiny=1.0), COLUMNS, "row 3: `tiny` is 1.0, a list of 5 numbers is needed"),
        (broken(prompt=""), COLUMNS, "row 3: .*prompt"),
        ([{k: v for k, v in row.items() if k != "gold"} for row in pools()], COLUMNS, "no column 'gold' of gold"),
        ([{**row, "gold": [1.0] * 5} for row in pools()], COLUMNS, "gold differs within no prompt"),
    ],
)
def test_scores_that_are_none_are_named(rows, columns, message, tmp_path):
    with pytest.raises(DataError, match=message):
        score_members(rows, tmp_path / "scored", columns)
    assert not list(tmp_path.iterdir())


def test_members_that_cannot_be_calibrated_are_all_named(tmp_path):
    rows = [
        {
            **row,
            "backwards": [-value for value in row["points"]],
            "same": [4.0] * 5,
            "perfect": row["gold"],
        }
        for row in pools()
    ]
    with pytest.raises(PosteriorError) as caught:
        score_members(rows, tmp_path / "scored", [*COLUMNS, "backwards", "same", "perfect"])
    message = str(caught.value)
    assert "member backwards ranks" in message
    assert "its direction is reversed; negate its scores" in message
    assert "member same gives both responses of every pair the same score" in message
    assert "member perfect ranks 100.0%" in message
    assert "member points" not in message
    with pytest.raises(ValueError, match="calibration_share"):
        score_members(rows, tmp_path / "scored", COLUMNS, calibration_share=0.0)


def test_faulty_preferences_are_named(tmp_path):
    pairs = preferences(num_pairs=20)
    for change, message in (
        ({"chosen_tiny": None}, "row 4: `chosen_tiny` is missing"),
        ({"p_chosen": 1.5}, "row 4: `p_chosen` is 1.5"),
    ):
        faulty = [dict(row) for row in pairs]
        faulty[4].update(change)
        with pytest.raises(DataError, match=message):
            score_members(pools(), tmp_path / "scored", COLUMNS, calibration_data=faulty)
    kept = score_members(pools(), tmp_path / "scored", COLUMNS, calibration_data=faulty, skip_bad=True)
    assert kept.num_calibration_pairs == 19
    del pairs[0]["rejected_tiny"]
    with pytest.raises(DataError, match="the rows: no column 'rejected_tiny'"):
        score_members(pools(), tmp_path / "other", COLUMNS, calibration_data=pairs)


def test_bad_rows_can_be_left_out_and_a_prompt_that_is_long_is_cut(tmp_path, monkeypatch):
    from prudent.scoring import _member_files

    monkeypatch.setattr(_member_files, "_RESPONSES_PER_SHARD", 3)
    summary = score_members(broken(tiny=[*LIST, None]), tmp_path / "cut", COLUMNS, skip_bad=True, num_references=2)
    assert (summary.num_prompts, summary.num_skipped) == (39, 1)
    monkeypatch.undo()
    score_members(broken(tiny=[*LIST, None]), tmp_path / "whole", COLUMNS, skip_bad=True, num_references=2)
    cut, whole = (read_scored(tmp_path / name).table for name in ("cut", "whole"))
    assert len(list((tmp_path / "cut").glob("part-*"))) > 10
    assert cut.equals(whole)


def test_a_finished_run_is_not_repeated_nor_replaced(tmp_path):
    data = tmp_path / "pools.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pools()))
    summary = score_members(data, tmp_path / "scored", COLUMNS)
    assert score_members(data, tmp_path / "scored", COLUMNS) == summary
    with pytest.raises(PrudentError, match="another calibration_share"):
        score_members(data, tmp_path / "scored", COLUMNS, calibration_share=0.5)
    other = score_members(data, tmp_path / "scored", COLUMNS[:2], overwrite=True)
    assert read_scored(tmp_path / "scored").posterior().members.shape[1] == 2
    assert other.basis_id != summary.basis_id


def test_real_scores_of_public_reward_models(shared_data, tmp_path):
    data = shared_data / "rewardmath_scores_dev.parquet"
    options = {"prompt": "problem", "gold": "is_correct", "calibration_share": 0.5}
    with pytest.raises(PosteriorError, match="rm_grm_gemma ranks"):
        score_members(data, tmp_path / "scored", ["rm_internlm2", "rm_grm_gemma"], **options)
    columns = ["rm_ArmoRM", "rm_Eurus_RM", "rm_grm_llama3", "rm_internlm2_20b", "rm_internlm2", "rm_skywork_llama3"]
    summary = score_members(data, tmp_path / "scored", columns, **options)
    assert all(0.6 < member.accuracy < 0.85 and member.nll_after < 0.65 for member in summary.members)
    table = read_scored(tmp_path / "scored").table
    test = ScoredPool(table.filter(pc.invert(table["is_calibration"])))
    # the negative case: the models agree where they are wrong, and pessimism loses
    assert 0.3 < select(test, utility="mean").mean_gold < 0.4
    assert select(test, utility="lcb_std").mean_gold < select(test, utility="mean").mean_gold
