"""The overoptimization lab: its tables say what its studies say, it comes back from disk, and bad input is named."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prudent.errors import DataError, UnsupportedError
from prudent.evaluation import Overoptimization, best_of_n_study, overopt, read_overopt


def scored(seed: int, num_prompts: int = 20, num_candidates: int = 12) -> pa.Table:
    """A proxy that errs where it is unsure; gold is the same for every seed of it."""
    truth = torch.Generator().manual_seed(99)
    size = num_prompts * num_candidates
    gold = torch.randn(size, generator=truth)
    std = torch.rand(size, generator=truth) * 2
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return pa.table(
        {
            "prompt_id": torch.arange(num_prompts).repeat_interleave(num_candidates).numpy(),
            "reward_mean": (gold + std * noise).numpy(),
            "reward_variance": std.square().numpy(),
            "gold": gold.numpy(),
        }
    )


@pytest.fixture(scope="module")
def lab() -> Overoptimization:
    given = {"world/one": scored(0), "world/other": [scored(1), scored(2)]}
    return overopt(given, utilities=["mean", "lcb_std(2)"], n_values=[1, 4, 12], num_bootstrap=100)


def test_a_row_a_point_says_what_the_study_says(lab: Overoptimization) -> None:
    rows = lab.to_table().to_pylist()
    study = lab.studies["world/other"]
    curve = study.curve("lcb_std(2)")
    every = [row for row in rows if row["proxy"] == "other" and row["curve"] == curve.key and row["scale"] == "gold"]
    found = [row for row in every if row["seed"] is None]
    assert [row["n"] for row in found] == [1, 4, 12]
    assert {(row["pool"], row["num_seeds"], row["kind"], row["utility"]) for row in found} == {
        ("world", 2, "utility", "lcb_std(2)")
    }
    band = curve.bands["gold"]
    assert [(row["gold"], row["gold_low"], row["gold_high"]) for row in found] == list(
        zip(band.value, band.low, band.high, strict=True)
    )
    assert [row["proxy_mean"] for row in found] == list(curve.bands["proxy"].value)
    of_studies = [len(one.curves) * len(one.gold_scales) * 3 for one in lab.studies.values()]
    # one seed; and two of them after their average
    assert len(rows) == of_studies[0] + 3 * of_studies[1]
    for seed, alone in enumerate((scored(1), scored(2))):
        own = [row for row in every if row["seed"] == seed]
        assert [row["n"] for row in own] == [1, 4, 12]
        expected = best_of_n_study(alone, utilities=["lcb_std(2)"], n_values=[1, 4, 12], num_bootstrap=10)
        assert [row["gold"] for row in own] == pytest.approx(expected.curve("lcb_std(2)").bands["gold"].value)
        assert {row[name] for row in own for name in ("gold_low", "gold_high", "proxy_mean", "kl")} == {None}


def test_outcomes_hold_the_peak_and_the_lead(lab: Overoptimization) -> None:
    rows = lab.tables()["outcomes"].to_pylist()
    (row,) = (r for r in rows if (r["proxy"], r["curve"], r["scale"]) == ("one", "lcb_std(2)", "gold"))
    outcome = lab.studies["world/one"].curve("lcb_std(2)").outcomes["gold"]
    assert row["peak_n"] == outcome.peak_n
    assert (row["minus_first"], row["minus_first_low"]) == (
        outcome.versus["first"].value,
        outcome.versus["first"].low,
    )
    assert row["minus_longest"] is None  # the table has no lengths


def test_strengths_and_laws_are_those_of_the_studies(lab: Overoptimization) -> None:
    tables = {name: table.to_pylist() for name, table in lab.tables().items()}
    study = lab.studies["world/other"]
    (family,) = (one for one in study.families if one.key == "lcb_std")
    rows = [
        row
        for row in tables["strengths"]
        if (row["proxy"], row["family"], row["scale"]) == ("other", "lcb_std", "gold_standardized")
    ]
    assert [(row["strength"], row["relative"], row["text"], row["chosen"], row["n"]) for row in rows] == [
        (strength, relative, text, chosen, n)
        for strength, relative, text, chosen in zip(
            family.strengths, family.relative, family.texts, family.chosen, strict=True
        )
        for n in study.n_values
    ]
    bands = family.gold["gold_standardized"]
    assert [row["gold_low"] for row in rows] == [low for band in bands for low in band.low]
    (row,) = (
        row
        for row in tables["laws"]
        if (row["proxy"], row["curve"], row["scale"], row["form"]) == ("other", "mean", "gold", "rl")
    )
    law = study.laws["mean"]["gold"][1]
    assert (row["alpha"], row["alpha_low"], row["beta_high"]) == (law.alpha.value, law.alpha.low, law.beta.high)
    assert (row["r_squared"], row["within"], row["peak_n"]) == (law.r_squared, law.within, law.peak_n)


def test_comes_back_from_disk(lab: Overoptimization, tmp_path: Path) -> None:
    written = lab.write(tmp_path / "lab")
    assert read_overopt(tmp_path / "lab") == lab
    assert pq.read_table(written["curves"]).equals(lab.to_table())


def test_tables_of_an_earlier_run_do_not_stay(lab: Overoptimization, tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"")
    for name in ("strengths", "laws"):
        (tmp_path / f"{name}.parquet").write_bytes(b"")
    plain = overopt({"one": scored(0)}, utilities=["mean"], n_values=[1], num_bootstrap=4, baselines=False)
    written = plain.write(tmp_path)
    there = {place.stem for place in tmp_path.iterdir()}
    assert there == {*written, "mine"}
    assert "strengths" not in there


def test_files_are_named_with_their_digest(tmp_path: Path) -> None:
    pq.write_table(scored(0), tmp_path / "scored.parquet")
    found = overopt({"one": tmp_path / "scored.parquet"}, utilities=["mean"], num_bootstrap=10, baselines=False)
    (source,) = found.sources["one"]
    import hashlib

    assert source.path == str(tmp_path / "scored.parquet")
    assert source.sha256 == hashlib.sha256((tmp_path / "scored.parquet").read_bytes()).hexdigest()


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to study"):
        overopt({})
    with pytest.raises(DataError, match="'a b' names no proxy"):
        overopt({"a b": scored(0)})
    with pytest.raises(DataError, match="some names have a pool and some have none"):
        overopt({"pool/a": scored(0), "b": scored(0)})
    with pytest.raises(DataError, match="a: there is no scored file"):
        overopt({"a": []})
    with pytest.raises(DataError, match="a: the table has no column gold"):
        overopt({"a": scored(0).drop_columns(["gold"])})
    with pytest.raises(DataError, match=r"a: there is no .*nowhere"):
        overopt({"a": tmp_path / "nowhere.parquet"})
    blank = scored(0).set_column(3, "gold", pa.nulls(240, pa.float64()))
    with pytest.raises(DataError, match="b: the table is without a number in column gold"):
        overopt({"a": scored(0), "b": blank})
    with pytest.raises(UnsupportedError, match=r"^a: "):
        overopt({"a": scored(0)}, utilities=["worst"])
    elsewhere = scored(0).to_pydict()
    elsewhere["gold"] = [gold if place < 12 else None for place, gold in enumerate(elsewhere["gold"])]
    elsewhere["reward_mean"] = [None if place < 12 else mean for place, mean in enumerate(elsewhere["reward_mean"])]
    with pytest.raises(DataError, match="a: no response has both gold and a reward"):
        overopt({"a": pa.table(elsewhere)}, utilities=["mean"], num_bootstrap=4, baselines=False)
    for name in ("one", "copy"):
        pq.write_table(scored(0), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="are the same, not two seeds"):
        overopt({"a": [tmp_path / "one.parquet", tmp_path / "copy.parquet"]})
    with pytest.raises(DataError, match=r"holds no overopt\.json"):
        read_overopt(tmp_path)
    for text in ('{"format_version": 0}', "[]", '{"format_version": 1, "studies": [], "sources": {}}', "{"):
        (tmp_path / "overopt.json").write_text(text)
        with pytest.raises(DataError, match="run `prudent overopt` again"):
            read_overopt(tmp_path)


def test_verdicts_answer_the_question(lab: Overoptimization) -> None:
    rows = {(row["proxy"], row["scale"]): row for row in lab.tables()["verdicts"].to_pylist()}
    assert set(rows) == {(proxy, scale) for proxy in ("one", "other") for scale in ("gold", "gold_standardized")}
    verdict = lab.studies["world/one"].verdicts["gold"]
    row = rows["one", "gold"]
    assert (row["optimized"], row["hacked"], row["peak_n"]) == ("mean", verdict.hacked, verdict.peak_n)
    assert (row["drop"], row["p_value"]) == (verdict.drop.value, verdict.p_value)
    assert (verdict.rescue, row["rescue"], row["held_out_low"]) == (None, None, None)
    rescue = lab.studies["world/other"].verdicts["gold"].rescue
    assert rescue is not None
    row = rows["other", "gold"]
    assert (row["rescue"], row["held_out_low"]) == (rescue.key, rescue.held_out.low)
