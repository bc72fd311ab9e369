"""`prudent explain` prints what fits a terminal, and all of it as JSON."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prudent.cli import app


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["explain", *map(str, arguments), "--quiet"])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture
def scored(tmp_path):
    """Twelve responses to one prompt, with two rewards; one row is not scored, and one response is far longer."""
    size = 12
    columns = {
        "prompt_id": [5] * size,
        "response_id": list(range(size)),
        "prompt": ["name a fruit\nand say " + "why " * 60] * size,
        "response": [f"response number {n} " + "word " * 50 for n in range(size)],
        "gold": [None, *(n / 3 for n in range(1, size))],
        "length": [265] * size,
    }
    for name, sign in (("helpful", 1), ("harmless", -1)):
        columns[f"{name}_reward_mean"] = [None, *(sign * (n - 6.5) * 12.3456 for n in range(1, size))]
        columns[f"{name}_reward_variance"] = [None, *(n / 7 for n in range(1, size))]
    metadata = {"rewards": {name: {"basis_id": None} for name in ("helpful", "harmless")}}
    table = pa.table(columns).replace_schema_metadata({b"prudent": json.dumps(metadata).encode()})
    pq.write_table(table, tmp_path / "scored.parquet")
    return tmp_path / "scored.parquet"


def test_one_reward_is_one_table(scored):
    lines = run("--data", scored, "--utility", "helpful | lcb_std(1)", "--prompt", 5, "--top", 3).splitlines()
    assert lines[0].startswith("prompt 5: name a fruit and say why why")
    assert lines[2:4] == ["a  helpful", "b  a | lcb_std"]
    assert lines[5].split() == ["rank", "response", "a", "b", "gold", "length", "text"]
    assert lines[6].split()[:7] == ["*", "1", "11", "55.6", "±1.3", "54.30", "3.667"]
    assert lines[8].split()[:2] == ["3", "9"]
    assert lines[9] == "9 more responses (--top); 1 not scored"
    assert " ".join(lines[-2:]).endswith("By the plain mean of the reward it would have won too.")
    assert max(map(len, lines)) == 100


def test_a_table_too_wide_is_cut_into_several(scored):
    parts = [f"{name} | center(at=0) | clip(-3, 3) | log_sigmoid" for name in ("helpful", "harmless")]
    text = run("--data", scored, "--utility", f"all_of({', '.join(parts)}) | lcb_std", "--prompt", 5)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    headers = [line.split() for line in lines if line.split()[:2] == ["rank", "response"]]
    assert len(headers) > 1
    letters = [name for header in headers for name in header[2:]]
    assert letters == [*"abcdefghij", "gold", "length", "text"]
    assert "i  all_of(d, h)" in lines


def test_what_plain_means_would_have_picked_is_shown_too(scored):
    utility = "minimum(helpful | center(at=0) | sigmoid, harmless | center(at=0) | sigmoid)"
    lines = run("--data", scored, "--utility", utility, "--prompt", 5, "--top", 1).splitlines()
    shown = [line.removeprefix("*").split()[1] for line in lines[12:15]]
    assert set(shown) == {"1", "11", shown[0]}
    found = json.loads(run("--data", scored, "--utility", utility, "--prompt", 5, "--top", 1, "--json"))
    assert {entry["response_id"] for entry in found["responses"]} == {found["winners"][0], 1, 11}
    assert found["num_responses"] == 12


def test_json_has_null_for_what_is_not_known(scored):
    found = json.loads(run("--data", scored, "--utility", "harmless | lcb_std", "--prompt", 5, "--top", 12, "--json"))
    assert [step["label"] for step in found["steps"]] == ["a", "b"]
    assert found["winners"] == [1]
    last = found["responses"][-1]
    assert (last["response_id"], last["rank"], last["scored"], last["gold"]) == (0, None, False, None)
    assert last["mean"] == [None, None]
    assert last["std"] == [None, None]


def test_errors(scored, tmp_path):
    assert "no prompt 4; its 1 prompts have numbers from 5 to 5" in run(
        "--data", scored, "--utility", "helpful", "--prompt", 4, code=2
    )
    assert "has no reward 'harmful'" in run("--data", scored, "--utility", "harmful", "--prompt", 5, code=2)
    assert "several rewards" in run("--data", scored, "--utility", "lcb_std", "--prompt", 5, code=2)
    assert "there is no" in run("--data", tmp_path / "none", "--utility", "mean", "--prompt", 5, code=2)
