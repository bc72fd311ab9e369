"""`prudent demo`, made small: the whole path, the summary that others read, and going on where it was."""

import json

from typer.testing import CliRunner

from prudent.cli import app

SMALL = ["--num-prompts", "3", "--num-candidates", "40", "--num-pairs", "40", "--num-base-texts", "200"]


def test_demo_writes_summary_and_report_and_goes_on_where_it_was(tmp_path):
    output = tmp_path / "demo"
    for attempt in range(2):
        result = CliRunner().invoke(app, ["demo", "--output", str(output), *SMALL, "--json", "--quiet"])
        assert result.exit_code == 0, result.stderr
        printed = json.loads(result.stdout)
        summary = json.loads((output / "summary.json").read_text())
        assert set(summary["utilities"]) >= {"mean", "lcb_std(4)", "lcb_var", "entropic"}
        assert set(summary["utilities"]["mean"][0]) == {"n", "kl", "gold", "proxy", "low", "high"}
        assert summary["utilities"]["mean"][-1]["n"] == 40
        assert printed["utilities"] == summary["utilities"]
        assert (output / "report.html").exists()
        if attempt == 0:
            first = summary
    assert summary["utilities"] == first["utilities"]
    assert summary["seeds"][0]["stages"]["train"] < first["seeds"][0]["stages"]["train"]


def test_another_size_in_the_same_folder_is_refused(tmp_path):
    (tmp_path / "base").mkdir()
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path), *SMALL, "--quiet"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
