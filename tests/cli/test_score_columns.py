"""`prudent score --columns`: scores made elsewhere, from the command line to a pick and a page."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from prudent.cli import app


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Thirty questions, six answers each, two models that see the truth with errors of their own."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(30):
        true = generator.normal(size=6)
        seen = {
            name: (unit * (2 * true + generator.normal(size=6))).tolist() for name, unit in (("a", 9.0), ("b", 0.1))
        }
        rows.append({"question": f"q {number}", "truth": true.tolist(), **seen})
    place = tmp_path_factory.mktemp("scores") / "pool.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def test_scores_become_picks_and_a_page(scores, tmp_path):
    named = ("--prompt-column", "question", "--gold-column", "truth")
    made = invoke("score", "--columns", "a, b", "--data", scores, "--output", tmp_path / "scored", *named, "--json")
    assert made.exit_code == 0, made.stderr
    found = json.loads(made.stdout)
    assert [one["name"] for one in found["members"]] == ["a", "b"]
    assert found["members"][1]["scale"] > 10 * found["members"][0]["scale"]
    assert found["num_calibration_prompts"] == 6
    again = invoke("score", "--columns", "a,b", "--data", scores, "--output", tmp_path / "scored", *named)
    lines = again.stdout.splitlines()
    assert lines[0].split() == ["member", "accuracy", "scale", "nll", "before", "nll", "after"]
    assert lines[-2:] == [
        f"180 responses of 30 prompts with 2 members in {tmp_path / 'scored'}",
        "calibrated on 90 pairs of 6 prompts, which is_calibration marks",
    ]
    picked = invoke(
        "select", "--data", tmp_path / "scored", "--utility", "lcb_std", "--output", tmp_path / "picks.jsonl"
    )
    assert picked.exit_code == 0, picked.stderr
    assert len((tmp_path / "picks.jsonl").read_text().splitlines()) == 30
    page = invoke("report", "--data", tmp_path / "scored", "--output", tmp_path / "page.html", "--num-bootstrap", 20)
    assert page.exit_code == 0, page.stderr
    assert "entropic" in page.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --model, or --columns"),
        (("--columns", "a,b", "--model", "rm"), "--model does not go with --columns"),
        (("--columns", "a,b", "--factor"), "--factor does not go with --columns"),
        (("--model", "rm", "--gold-column", "truth"), "--gold-column goes with --columns"),
        (("--columns", "a"), "only a is named"),
        (("--columns", "a,c", "--prompt-column", "question"), "no column 'c'; there are question, truth, a, b"),
        (("--columns", "a,b", "--prompt-column", "question"), "no column 'gold' of gold"),
        (("--columns", "good=a,b"), "some have a name and some have none"),
        (("--columns", "good=a,good=b"), "two have the name good"),
        (("--columns", "good=a,brief="), "there is nothing after the name"),
        (("--columns", "Good=a"), "'Good' cannot name a reward"),
        (("--columns", "good=a", "--canned", "no"), "--canned does not go with --columns"),
        (("--columns", "good=a,brief=a", "--prompt-column", "question"), "column a is named twice"),
        (("--columns", "good=a", "--calibration-share", "1", "--calibration-data", "x"), "not both"),
    ],
)
def test_what_does_not_go_together_is_said(scores, tmp_path, arguments, message):
    result = invoke("score", "--data", scores, "--output", tmp_path / "scored", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "scored").exists()


def test_columns_with_names_are_rewards_of_their_own(scores, tmp_path):
    named = ("--prompt-column", "question", "--gold-column", "truth")
    arguments = ("score", "--columns", "good = a, brief=b", "--data", scores, *named)
    made = invoke(*arguments, "--output", tmp_path / "scored")
    assert made.exit_code == 0, made.stderr
    lines = made.stdout.splitlines()
    assert lines[0].split() == ["reward", "column", "not", "scored", "accuracy", "scale"]
    assert [line.split() for line in lines[1:3]] == [["good", "a", "0", "-", "-"], ["brief", "b", "0", "-", "-"]]
    assert lines[3] == f"180 responses of 30 prompts in {tmp_path / 'scored'}"
    # in logits where that is asked for
    made = invoke(*arguments, "--calibration-share", "0.5", "--output", tmp_path / "logits", "--json")
    found = json.loads(made.stdout)
    assert found["num_calibration_prompts"] == 15
    assert found["rewards"]["brief"]["calibration"]["scale"] > 10 * found["rewards"]["good"]["calibration"]["scale"]
