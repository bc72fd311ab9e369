"""Outputs that would spoil what is read are refused before any work, by every function that writes figures."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prudent.alignment import reweight_pool
from prudent.errors import PrudentError
from prudent.evaluation import compare_utilities, evaluate, overopt, run_benchmark, score_proxies
from prudent.posteriors import fit
from prudent.reports import report
from prudent.scoring import PartedOutput, check_place, read_scored, require_apart, select

TABLE = {
    "prompt_id": [0, 0, 1, 1],
    "reward_mean": [0.0, 1.0, 2.0, 1.0],
    "reward_variance": [1.0] * 4,
    "gold": [1.0, 0.0, 1.0, 0.0],
}


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    place = tmp_path / "scored.parquet"
    with PartedOutput(place, {}) as parts:
        parts.write(pa.table(TABLE))
        parts.finish({})
    return place


def refused(tmp_path: Path, message: str, *call: Any, **options: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(PrudentError, match=message):
        call[0](*call[1:], **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_where_an_output_may_be(tmp_path: Path, scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(scored)
    (tmp_path / "folder").mkdir()
    require_apart("lab", [scored, "someone/pool", None, pa.table(TABLE)])
    require_apart(tmp_path, [scored])  # around what is read
    require_apart("folder", [])
    for output in ("link", "./scored.parquet/../scored.parquet"):
        refused(tmp_path, "is read here", require_apart, output, ["scored.parquet"])
        refused(tmp_path, "a dataset that scoring or sampling wrote", require_apart, output, [])
    refused(tmp_path, "lies in", require_apart, "link/deep/lab", [])
    refused(tmp_path, r"lies in folder, which is read here", require_apart, "folder/lab", [Path("folder")])


def test_figures_are_not_written_over_what_they_are_of(tmp_path: Path, scored: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", "subset": "s", "score": [1.0, 0.0]}] * 2
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    refused(tmp_path, "is read here", evaluate, "no-model-is-loaded", data, data)
    refused(tmp_path, "lies in", evaluate, "rm", rows, scored / "a.json", scored=scored)
    refused(tmp_path, "is read here", compare_utilities, scored, ["mean"], scored)
    refused(tmp_path, "is read here", run_benchmark, None, "subsets", data, data, score_column="score")
    refused(tmp_path, "lies in", run_benchmark, None, "subsets", rows, scored / "b", score_column="score")
    refused(tmp_path, "is read here", select, scored, scored)
    refused(tmp_path, "lies in", select, scored, scored / "picks.parquet")
    single = tmp_path / "single.parquet"
    pq.write_table(pa.table(TABLE), single)
    refused(tmp_path, "is read here", select, single, single)
    refused(tmp_path, "is read here", select, read_scored(single), single)
    refused(tmp_path, "lies in", reweight_pool, scored, scored / "w.parquet", utility="mean", kl_coef=1.0)
    refused(tmp_path, "is a dataset", reweight_pool, scored, scored, utility="mean", kl_coef=1.0, overwrite=True)
    refused(tmp_path, "lies in", check_place, scored / "careful", overwrite=True)
    refused(tmp_path, "lies in", report, scored, scored / "page.html")
    refused(tmp_path, "lies in", score_proxies, {"a": ["someone/rm"]}, {"": scored}, scored / "lab")
    found = overopt({"a": scored}, num_bootstrap=10)
    refused(tmp_path, "is read here", found.write, scored)
    refused(tmp_path, "is a file; give a folder", found.write, data)
    found.write(tmp_path / "lab")
    assert pq.read_table(scored).num_rows == 4


def test_folders_made_for_nothing_go_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), PartedOutput(tmp_path / "deep" / "er" / "scored.parquet", {}):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with PartedOutput(tmp_path / "deep" / "scored.parquet", {}):
        (tmp_path / "deep" / "mine").touch()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mine"]


@pytest.mark.parametrize(("most", "stored"), [(100, True), (3, False)])
def test_small_pools_are_scored_for_exact_contrasts(
    tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, stored: bool
) -> None:
    monkeypatch.setattr("prudent.evaluation._proxies._MOST_COMPARED", most)
    pairs = [{"prompt": "name a fruit", "chosen": f"a {word}", "rejected": "stone"} for word in ("pear", "plum")] * 10
    fit(tiny_models("llama"), pairs, tmp_path / "rm", progress=False)
    pool = [{"prompt": "name a bird", "responses": ["one", "two", "three", "four"], "gold": [0.0, 1.0, 2.0, 3.0]}]
    models = {"sure": [tiny_models("llama")], "unsure": [tmp_path / "rm"]}
    found = score_proxies(models, {"": pool}, tmp_path / "scored", dtype="float32", progress=False)
    columns = {key: set(pq.read_schema(places[0] / "part-00000.parquet").names) for key, places in found.items()}
    assert "embedding" in columns["unsure"]
    assert ("reward_factor" in columns["unsure"]) == stored
    assert "reward_factor" not in columns["sure"]
    # what is there stays as it is, whatever would be stored today
    monkeypatch.setattr("prudent.evaluation._proxies._MOST_COMPARED", 0 if stored else 1_000)
    kept = places_changed(found)
    options: dict[str, Any] = {"dtype": "float32", "progress": False}
    assert score_proxies(models, {"": pool}, tmp_path / "scored", **options) == found
    assert places_changed(found) == kept
    score_proxies(models, {"": pool}, tmp_path / "scored", overwrite=True, **options)
    names = set(pq.read_schema(found["unsure"][0] / "part-00000.parquet").names)
    assert ("reward_factor" in names) != stored


def places_changed(found: dict[str, list[Path]]) -> list[int]:
    return [(place / "_manifest.json").stat().st_mtime_ns for places in found.values() for place in places]
