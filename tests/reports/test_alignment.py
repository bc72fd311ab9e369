"""The report on aligned policies: its numbers against sums by hand, its page, and what it does with bad folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import t
from typer.testing import CliRunner

from prudent.cli import app
from prudent.errors import DataError, PrudentError
from prudent.reports import alignment_folders, alignment_report
from prudent.reports._alignment_runs import _student, arms_of, matched_distance, read_run

STEPS = [0, 10, 20]


def write_run(
    folder: Path, *, arm: str, seed: int, kl: list[float], gold: list[float | None], advice: str | None = None
) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {
            "step": step,
            "arm": arm,
            "algorithm": "rloo",
            "kl_coef": 0.05,
            "seed": seed,
            "proxy": float(place),
            "gold": gold[place],
            "gold_standard_error": 0.1,
            "kl": kl[place],
            "kl_standard_error": 0.2,
            "proxy_below_reference": 0.5 - 0.1 * place,
            "gold_below_reference": None if gold[place] is None else 0.5,
            "length": 20.0 + place,
            "num_prompts": 9,
            "num_completions": 18,
        }
        for place, step in enumerate(STEPS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "monitor.parquet")
    shared = {"completion_id": 0, "prompt_id": 0, "prompt": "Say <b>it</b>.", "gold": 1.0, "is_cut": False}
    samples = [{"step": step, "response": f"text {step}", "reward_mean": float(step), **shared} for step in STEPS]
    pq.write_table(pa.Table.from_pylist(samples), folder / "samples.parquet")
    if advice is not None:
        result = {"utility": arm, "advice": {"text": advice, "stop": True}}
        (folder / "align_result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two arms of three seeds each; `careful` gains more gold at the same distance."""
    for seed in range(3):
        write_run(
            tmp_path / f"mean-{seed}", arm="mean", seed=seed, kl=[0.0, 4.0, 16.0], gold=[1.0, 1.4, 1.0 + 0.1 * seed]
        )
        write_run(
            tmp_path / f"careful-{seed}",
            arm="careful",
            seed=seed,
            kl=[0.0, 1.0, 4.0 + seed],
            gold=[1.0, 1.5, 2.0 + 0.01 * seed],
        )
    return tmp_path


def test_numbers(runs: Path) -> None:
    arms = {arm.label: arm for arm in arms_of([read_run(folder) for folder in alignment_folders(runs)])}
    assert {label: len(arm.runs) for label, arm in arms.items()} == {"mean": 3, "careful": 3}
    assert matched_distance(list(arms.values())) == 2.0  # the first seed of careful came no further
    mean, careful = arms["mean"], arms["careful"]
    np.testing.assert_allclose(mean.distance, [0, 2, 4])
    last = mean.band("gold")
    values = np.array([1.0, 1.1, 1.2])
    reach = t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert last.mean[-1] == pytest.approx(1.1)
    assert last.low[-1] == pytest.approx(1.1 - reach, rel=1e-3)
    assert float(mean.gain("gold", 2.0).mean) == pytest.approx(0.4)
    # the second seed of careful is at distance 2 between its steps at 1 and at the root of 5
    gains = []
    for seed in range(3):
        share = (2 - 1) / (np.sqrt(4 + seed) - 1)
        gains.append(0.5 + share * (0.5 + 0.01 * seed))
    assert float(careful.gain("gold", 2.0).mean) == pytest.approx(np.mean(gains))
    lead = careful.lead(mean, "gold", 2.0)
    assert lead is not None
    assert float(lead.mean) == pytest.approx(np.mean(gains) - 0.4)
    assert float(mean.band("kl").low.min()) >= 0  # an interval that few seeds give does not leave what can be


@pytest.mark.parametrize("freedom", [1, 2, 7, 30])
def test_students_t(freedom: int) -> None:
    assert _student(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-3)


def test_the_page_says_which_arm_gained_and_opens_offline(runs: Path, tmp_path: Path) -> None:
    written = alignment_report(runs, tmp_path / "page.html", command="prudent report --data runs")
    page = written.html.read_text()
    assert "Moved equally far, careful gains more gold than mean" in page
    assert "Say &lt;b&gt;it&lt;/b&gt;." in page
    assert "text 20" in page
    assert "http" not in page.split("<body>")[1]
    assert sorted(written.figures) == ["beside", "curves"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written.figures.values())
    assert [row["label"] for row in written.rows] == ["careful", "mean"]


def test_one_run_with_advice_and_one_without_gold(tmp_path: Path) -> None:
    one = write_run(
        tmp_path / "one", arm="mean", seed=0, kl=[0, 1, 4], gold=[1.0, 2.0, 0.5], advice="gold falls from step 20 on"
    )
    written = alignment_report(one, tmp_path / "one.html")
    assert "Gold falls from step 20 on." in written.html.read_text()
    assert written.notes == ["one: gold falls from step 20 on"]
    (arm,) = arms_of([read_run(one)])
    band = arm.band("gold")  # of a single run the interval is over its prompts
    np.testing.assert_allclose(band.high - band.mean, 0.1 * t.ppf(0.975, 8), rtol=1e-3)
    blind = write_run(tmp_path / "blind", arm="mean", seed=0, kl=[0, 1, 4], gold=[None, None, None])
    page = alignment_report(blind, tmp_path / "blind.html").html.read_text()
    assert "Without gold nobody can tell" in page
    assert "gain in gold" not in page


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run of `prudent align` there"):
        alignment_report(tmp_path, tmp_path / "page.html")
    with pytest.raises(PrudentError, match=r"end in \.html"):
        alignment_report(tmp_path, tmp_path / "page.pdf")
    (tmp_path / "monitor.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="that can be read"):
        alignment_report(tmp_path, tmp_path / "page.html")


def test_on_the_command_line(runs: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["report", "--data", str(runs), "--output", str(tmp_path / "page.html"), "--json"])
    assert run.exit_code == 0, run.output
    found: dict[str, Any] = json.loads(run.stdout)
    assert [arm["num_seeds"] for arm in found["arms"]] == [3, 3]
    refused = CliRunner().invoke(
        app, ["report", "--data", str(runs), "--output", str(tmp_path / "page.html"), "--utility", "mean"]
    )
    assert refused.exit_code == 2
    assert "is about scored responses" in " ".join(refused.output.split())
