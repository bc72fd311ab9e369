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
from prudent.reports._alignment_arms import ArmCurves, arms_of, least_far
from prudent.reports._alignment_figures import draw_curves, gold_law
from prudent.reports._alignment_runs import read_run
from prudent.reports._alignment_words import answer, cautions, leads, seed_sentence, stops_surely

EVERY = 10
BY_CHANCE = ", no more than chance alone would give."
STEPS = [0, 10, 20]
PROMPT_OFFSETS = np.array([-1.0, 0.0, 1.0])
"""How much further than the average each of three prompts moves by a step, in gold and proxy alike."""


def write_run(
    folder: Path,
    *,
    arm: str,
    seed: int,
    kl: list[float],
    gold: list[float | None],
    advice: str | None = None,
    stop: bool = True,
    fall: tuple[float, float] = (-0.5, -0.1),
    finished: bool = True,
    settings: dict[str, Any] | None = None,
    proxy: str | None = None,
    utility: str | None = None,
) -> Path:
    """A run of three looks; the proxy rises by 1 a look, and prompts start far apart."""
    folder.mkdir(parents=True)
    recorded = {"arm": arm, "algorithm": "rloo", "kl_coef": 0.05, "learning_rate": 1e-3, "seed": seed}
    recorded |= {
        "policy": "p0",
        "prompts": f"held-out-{seed}",
        "reward_model": {"reward": proxy or seed},
        **(settings or {}),
    }
    rows = [
        {
            "step": EVERY * place,
            **{name: recorded[name] for name in ("arm", "algorithm", "kl_coef", "seed")},
            **({} if utility is None else {"utility": utility}),
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
        for place in range(len(kl))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "monitor.parquet")
    samples = []
    for place, row in enumerate(rows):
        for prompt, offset in enumerate(PROMPT_OFFSETS):
            change = 10 * prompt - 10 + 0.1 * place * offset
            for completion, aside in enumerate((-0.5, 0.5)):
                shared = {"prompt_id": prompt, "completion_id": completion, "prompt": "Say <b>it</b>.", "is_cut": False}
                value = None if row["gold"] is None else row["gold"] + change + aside
                reward = row["proxy"] + change + aside
                text = f"text {row['step']}"
                samples.append({"step": row["step"], "response": text, "reward_mean": reward, "gold": value, **shared})
    pq.write_table(pa.Table.from_pylist(samples), folder / "samples.parquet")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "run.json").write_text(json.dumps(recorded))
    if finished:
        told = (
            None
            if advice is None
            else {"text": advice, "stop": stop, "gold_change": fall[0], "gold_change_high": fall[1], "num_prompts": 30}
        )
        result = {
            "advice": told,
            "settings": recorded,
            "reward_model": f"models/{proxy or seed}",
            "policy": "models/tiny",
        }
        (folder / "align_result.json").write_text(json.dumps(result))
    return folder


def arms_in(place: Path) -> dict[str, ArmCurves]:
    return {arm.label: arm for arm in arms_of([read_run(folder) for folder in alignment_folders(place)])}


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
    arms = arms_in(runs)
    assert {label: len(arm.runs) for label, arm in arms.items()} == {"mean": 3, "careful": 3}
    found = least_far(list(arms.values()))
    assert found is not None
    assert (found[0], found[1].folder.name) == (2.0, "careful-0")
    mean, careful = arms["mean"], arms["careful"]
    np.testing.assert_allclose(mean.distance, [0, 2, 4])
    gold = mean.gains("gold")
    values = np.array([0.0, 0.1, 0.2])
    reach = t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(gold.mean, [0, 0.4, 0.1], atol=1e-12)
    np.testing.assert_allclose(gold.high - gold.mean, [0, 0, reach], rtol=1e-3, atol=1e-9)
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


def test_the_page_says_which_arm_gained_and_opens_offline(runs: Path, tmp_path: Path) -> None:
    written = alignment_report(runs, tmp_path / "page.html", command="prudent report --data runs")
    page = written.html.read_text()
    assert "Moved equally far, careful gains more gold than mean" in page
    assert "Say &lt;b&gt;it&lt;/b&gt;." in page
    assert "text 20" in page
    assert "http" not in page.split("<body>")[1]
    assert sorted(written.figures) == ["beside", "curves"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written.figures.values())
    assert [row["label"] for row in written.rows] == ["mean", "careful"]


def test_one_run_with_advice_and_one_without_gold(tmp_path: Path) -> None:
    one = write_run(
        tmp_path / "one", arm="mean", seed=0, kl=[0, 1, 4], gold=[1.0, 2.0, 0.5], advice="gold falls from step 20 on"
    )
    written = alignment_report(one, tmp_path / "one.html")
    assert "Gold falls from step 20 on." in written.html.read_text()
    assert 'class="answer hacked"' in written.html.read_text()
    assert written.notes == ["one: gold falls from step 20 on"]
    (arm,) = arms_of([read_run(one)])
    band = arm.gains("gold")  # of a single run the interval is over its prompts, in pairs: their levels do not matter
    np.testing.assert_allclose(band.mean, [0, 1, -0.5], atol=1e-12)
    reach = t.ppf(0.975, 2) * np.array([0, 0.1, 0.2]) / np.sqrt(3)
    np.testing.assert_allclose(band.high - band.mean, reach, rtol=1e-3, atol=1e-9)
    halfway = arm.gain("gold", 1.5)
    assert float(halfway.mean) == pytest.approx(0.25)
    assert float(halfway.high - halfway.mean) == pytest.approx(t.ppf(0.975, 2) * 0.15 / np.sqrt(3), rel=1e-3)
    assert "over the prompts of a single run" in written.html.read_text()
    assert written.rows[0]["intervals_over"] == "prompts"
    blind = write_run(tmp_path / "blind", arm="mean", seed=0, kl=[0, 1, 4], gold=[None, None, None])
    page = alignment_report(blind, tmp_path / "blind.html").html.read_text()
    assert "Without gold nobody can tell" in page
    assert "gain in gold" not in page


def test_only_the_seed_makes_runs_of_one_arm(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"kl": [0, 1, 4], "gold": [1.0, 1.5, 2.0]}
    write_run(tmp_path / "a0", arm="mean", seed=0, **shared)
    write_run(
        tmp_path / "a1", arm="mean", seed=1, settings={"logging_steps": 7, "num_monitor_completions": 2}, **shared
    )
    write_run(tmp_path / "b0", arm="mean", seed=0, settings={"learning_rate": 5e-3}, **shared)
    write_run(tmp_path / "c0", arm="mean", seed=0, settings={"utility": "lcb_std(2)"}, **shared)
    write_run(tmp_path / "d0", arm="lcb", seed=0, settings={"utility": "lcb_std(1)"}, **shared)  # what the arm is
    write_run(tmp_path / "e0", arm="lsc", seed=0, proxy="other", **shared)
    arms = arms_in(tmp_path)
    assert {label: [run.folder.name for run in arm.runs] for label, arm in arms.items()} == {
        "mean": ["a0", "a1"],
        "mean, learning_rate 0.005": ["b0"],
        "mean, utility lcb_std(2)": ["c0"],
        "lcb": ["d0"],
        "lsc, reward_model other": ["e0"],
    }
    assert next(iter(arms)) == "mean"
    assert arms["mean"].silent == ("learning_rate 0.001",)
    (told,) = cautions(list(arms.values()), has_gold=True)
    assert told.startswith("Arms differ in their reward model:")


def test_reward_models_of_seeds_and_of_arms(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"arm": "mean", "kl": [0, 1, 4], "gold": [1.0, 1.5, 2.0]}
    for seed in range(2):
        write_run(tmp_path / "own" / f"{seed}", seed=seed, **shared)
        fitted = {"utility": f"saved {seed}"}
        write_run(tmp_path / "fitted" / f"{seed}", seed=seed, settings=fitted, **shared)
        for proxy in ("small", "large"):
            write_run(tmp_path / "crossed" / f"{proxy}-{seed}", seed=seed, proxy=proxy, **shared)
    write_run(tmp_path / "own" / "other", seed=0, proxy="other", **shared)
    arms = arms_in(tmp_path / "own")
    assert {label: arm.seeds for label, arm in arms.items()} == {"mean": [0, 1], "mean, reward_model other": [0]}
    assert seed_sentence([arms["mean"]]) == "Each seed has its own held-out prompts and reward model."
    assert seed_sentence(list(arms.values())) == "Each seed has its own held-out prompts, in all arms alike."
    strangers = [arms_in(tmp_path / "own" / name)["mean"] for name in ("0", "1")]  # no seed in common
    assert cautions(strangers, has_gold=True) == [
        "Arms differ in their held-out prompts and reward model: what they gained there is not to be compared as it "
        "stands."
    ]
    assert {label: arm.seeds for label, arm in arms_in(tmp_path / "fitted").items()} == {"mean, utility saved": [0, 1]}
    crossed = arms_in(tmp_path / "crossed")
    assert {label: arm.seeds for label, arm in crossed.items()} == {"mean": [0, 1], "mean, reward_model small": [0, 1]}


def test_a_seed_twice_is_two_runs_and_one_seed(runs: Path) -> None:
    write_run(runs / "mean-again", arm="mean", seed=0, kl=[0.0, 4.0, 16.0], gold=[1.0, 1.4, 2.0])
    arm = arms_in(runs)["mean"]
    assert (len(arm.runs), arm.seeds) == (4, [0, 1, 2])
    ends = np.array([0.5, 0.1, 0.2])  # the two runs of seed 0 gain 0 and 1
    gain = arm.gain("gold")
    assert float(gain.mean) == pytest.approx(ends.mean())
    assert float(gain.high - gain.mean) == pytest.approx(t.ppf(0.975, 2) * ends.std(ddof=1) / np.sqrt(3), rel=1e-3)
    assert "2 runs of seed 0" in alignment_report(runs, runs / "page.html").html.read_text()
    assert '<span class="range">4 runs</span>' in (runs / "page.html").read_text()
    (told,) = cautions([arm], has_gold=True)
    assert told == "mean has 2 runs of seed 0 (mean-0, mean-again): they count as one, their average."


def test_an_unfinished_run_belongs_to_its_arm_and_is_marked(runs: Path, tmp_path: Path) -> None:
    write_run(runs / "mean-3", arm="mean", seed=3, kl=[0.0, 4.0], gold=[1.0, 9.0], finished=False)
    arms = arms_in(runs)
    assert arms.keys() == {"mean", "careful"}
    assert (len(arms["mean"].runs), arms["mean"].steps) == (3, STEPS)
    written = alignment_report(runs, tmp_path / "page.html")
    assert [row["num_unfinished"] for row in written.rows] == [1, 0]
    assert "Not finished, of mean: mean-3 at step 10" in written.html.read_text()
    (alone,) = arms_of([read_run(runs / "mean-3")])
    assert alone.steps == [0, 10]
    (runs / "mean-3" / "checkpoints" / "run.json").unlink()
    assert "mean, settings not recorded" in arms_in(runs)


def test_an_arm_that_has_just_started_leaves_the_others_compared(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"mean-{seed}", arm="mean", seed=seed, kl=[0, 1, 4], gold=[1.0, 1.5, 1.6 + 0.01 * seed])
        write_run(tmp_path / f"lsc-{seed}", arm="lsc", seed=seed, kl=[0, 1, 4], gold=[1.0, 1.5, 2.0 + 0.02 * seed])
    without = answer(list(arms_in(tmp_path).values()), 2.0, has_gold=True)
    assert without.startswith("Moved equally far, lsc gains more gold than mean:")
    write_run(tmp_path / "sign-0", arm="sign", seed=0, kl=[0.0], gold=[1.0], finished=False)
    written = alignment_report(tmp_path, tmp_path / "page.html")
    page = written.html.read_text()
    assert without in page
    assert "sign has not moved, so this arm is not compared at equal distance." in page
    assert {row["label"]: row["gold_gain_matched"] is None for row in written.rows} == {
        "mean": False,
        "lsc": False,
        "sign": True,
    }
    # one seed of an arm that is where it started leaves the arm out too, whatever its rounding at the first look
    write_run(tmp_path / "sign-1", arm="sign", seed=1, kl=[1e-9], gold=[1.0], finished=False)
    write_run(tmp_path / "sign-2", arm="sign", seed=2, kl=[0.0, 1.0], gold=[1.0, 2.0], finished=False)
    arms = list(arms_in(tmp_path).values())
    assert least_far(arms) == least_far(arms[:2])
    assert answer(arms, 2.0, has_gold=True) == without
    assert len(leads(arms, 2.0)) == 1
    assert "sign-0, sign-1 of sign have not moved, so this arm is not compared at equal distance." in cautions(
        arms, has_gold=True
    )


@pytest.mark.parametrize("started", ["mean", "sign"])
def test_where_only_one_arm_has_moved_nothing_is_compared(started: str, tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"lsc-{seed}", arm="lsc", seed=seed, kl=[0, 1, 4], gold=[1.0, 1.5, 2.0 + 0.01 * seed])
    write_run(tmp_path / "started", arm=started, seed=0, kl=[0.0], gold=[1.0], finished=False)
    page = alignment_report(tmp_path, tmp_path / "page.html").html.read_text()
    assert f"{started} has not moved, so nothing is compared at equal distance." in page
    assert "Of lsc, gold has risen until the last step: 1.00" in page
    assert "gain in gold at equal distance" not in page


def test_a_loss_without_an_interval_is_no_gain_below_zero(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", arm="mean", seed=0, kl=[0, 1, 4], gold=[1.0, 1.5, 0.8])
    (run / "samples.parquet").unlink()
    assert answer(arms_of([read_run(run)]), None, has_gold=True) == (
        "The gain in gold at the last step is \u22120.200; what chance would give is not known."
    )


def test_arms_of_one_label_keep_their_own_leads(tmp_path: Path) -> None:
    for seed in range(3):
        for name, gain in (("a", 0.0), ("b", 1.0), ("c", 0.5)):
            last = 1.0 + gain + 0.01 * seed * (1 + gain)
            shared: dict[str, Any] = {"kl": [0, 1, 4], "gold": [1.0, 1.0, last]}
            write_run(tmp_path / name / str(seed), arm="mean", seed=seed, **shared)
    first, most, some = (arms_of([read_run(one) for one in alignment_folders(tmp_path / name)])[0] for name in "abc")
    assert {first.label, most.label, some.label} == {"mean"}
    assert ": 1.01 [" in answer([first, most, some], 2.0, has_gold=True)


def test_a_utility_that_only_the_rows_tell_is_named(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"kl": [0, 1], "gold": [1.0, 1.5], "finished": False}
    write_run(tmp_path / "own", arm="mean", seed=0, utility="mean", **shared)
    write_run(tmp_path / "other", arm="mean", seed=1, utility="lcb_std(2)", **shared)
    write_run(tmp_path / "lcb", arm="lcb", seed=0, utility="lcb_std", **shared)  # lcb_std(1), as rows write it
    for name in ("own", "other", "lcb"):
        (tmp_path / name / "checkpoints" / "run.json").unlink()
    assert {label: [run.folder.name for run in arm.runs] for label, arm in arms_in(tmp_path).items()} == {
        "mean": ["own"],
        "mean, utility lcb_std(2)": ["other"],
        "lcb": ["lcb"],
    }


def test_a_run_that_goes_on_has_advice(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", arm="mean", seed=0, kl=[0, 1, 4], gold=[1.0, 5.0, 0.0], finished=False)
    assert read_run(run).advice is None  # of three prompts
    rows = pq.read_table(run / "samples.parquet").to_pylist()
    more = [{**row, "prompt_id": row["prompt_id"] + 3 * times} for row in rows for times in range(4)]
    pq.write_table(pa.Table.from_pylist(more), run / "samples.parquet")
    found = read_run(run)
    assert found.stop
    assert "take the policy of step 10" in str(found.advice)
    assert "Not finished, of mean: run at step 20." in alignment_report(run, tmp_path / "page.html").html.read_text()


def test_labels_are_unique(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"arm": "mean", "seed": 0, "kl": [0, 1, 4], "gold": [1.0, 1.5, 2.0]}
    for name in ("a", "b"):  # two policies in folders of one name
        write_run(tmp_path / name, settings={"policy": f"digest of {name}"}, **shared)
    assert list(arms_in(tmp_path)) == ["mean (a)", "mean (b)"]


def test_legend_and_heading_hold_long_labels(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"arm": "mean", "seed": 0, "kl": [0, 1, 4], "gold": [1.0, 1.5, 2.0]}
    for place in range(8):
        more = {"learning_rate": 0.001 * (place + 1), "num_references": place, "max_completion_length": 10 + place}
        write_run(tmp_path / f"run-{place}", settings={**more, "lora": True}, **shared)
    arms = list(arms_in(tmp_path).values())
    figure = draw_curves(arms, gold=True)
    (found,) = figure.legends
    figure.draw_without_rendering()
    box, whole = found.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    assert box.height < 0.5 * whole.height
    lines = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines if line.get_label()[0] != "_"}) == 8
    page = alignment_report(tmp_path, tmp_path / "page.html").html.read_text(encoding="utf-8")
    assert "<h1>Aligned policies: 8 arms</h1>" in page


@pytest.mark.parametrize(("num_stop", "num_runs", "sure"), [(1, 1, True), (1, 4, False), (2, 2, True), (3, 10, True)])
def test_runs_that_advise_stopping_are_counted(num_stop: int, num_runs: int, sure: bool, tmp_path: Path) -> None:
    for seed in range(num_runs):
        shared: dict[str, Any] = {"kl": [0, 1, 4], "gold": [1.0, 1.5, 1.0 + 0.1 * seed]}
        stop = seed < num_stop
        weak = {"advice": "gold did this", "stop": stop, "fall": (-0.5, -0.01)}
        write_run(tmp_path / str(seed), arm="mean", seed=seed, **weak, **shared)
    arms = list(arms_in(tmp_path).values())
    assert stops_surely(arms) is sure
    if num_runs > 1:
        words = f"{num_stop} of {num_runs} runs advise{'s' if num_stop == 1 else ''} stopping"
        first, told = answer(arms, None, has_gold=True), cautions(arms, has_gold=True)
        assert (first.startswith(f"{words}: gold falls"), told) == (sure, [] if sure else [words + BY_CHANCE])


@pytest.mark.parametrize(("high", "sure"), [(-0.1, False), (-0.2, True)])
def test_a_fall_that_is_sure_among_all_runs_is_no_chance(high: float, sure: bool, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"arm": "mean", "kl": [0, 1, 4], "gold": [1.0, 1.5, 1.0], "advice": "gold did this"}
    for seed in range(4):
        write_run(tmp_path / str(seed), seed=seed, stop=seed == 0, fall=(-0.5, high), **shared)
    error = (high + 0.5) / t.ppf(0.975, 14)
    assert bool(-0.5 + t.ppf(1 - 0.025 / 4, 14) * error < 0) is sure  # one-sided 2.5 % over four runs
    assert stops_surely(list(arms_in(tmp_path).values())) is sure


def test_the_law_is_found_again(tmp_path: Path) -> None:
    kl = [float(step**2) / 4 for step in range(9)]
    gain = [0.0, *(d * (2.0 - 1.0 * np.log(d)) for d in np.sqrt(kl[1:]))]
    run = write_run(tmp_path / "run", arm="mean", seed=0, kl=kl, gold=gain)
    (arm,) = arms_of([read_run(run)])
    law = gold_law(arm)
    assert law is not None
    assert (float(law.alpha), float(law.beta)) == (pytest.approx(2.0), pytest.approx(1.0))
    page = alignment_report(run, tmp_path / "page.html").html.read_text()
    assert "highest at d = 2.72" in page


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
    for option in (
        ["--utility", "mean"],
        ["--scale", "gold_standardized"],
        ["--one-policy"],
        ["--num-bootstrap", "50"],
        ["--seed", "1"],
    ):
        refused = CliRunner().invoke(
            app, ["report", "--data", str(runs), "--output", str(tmp_path / "page.html"), *option]
        )
        assert refused.exit_code == 2
        assert f"{option[0]} is about scored responses" in " ".join(refused.output.replace("\u2502", " ").split())
