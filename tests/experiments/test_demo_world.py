"""The tables of the demo's experiment: one value a cell."""

import csv
import importlib
import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from prudent.evaluation import Estimate, Outcome

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def test_outcomes_hold_one_value_a_cell(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    experiment = importlib.import_module("demo_world")
    lead = Estimate(0.5, 0.25, 0.75)
    gain, fall = Estimate(1.0, 0.5, 1.5), Estimate(0.25, 0.125, 0.375)
    careful = Outcome(8, 4, 16, gain, fall, 0.01, None, {"first": lead}, 0.75)
    outcomes = {"lcb_std": asdict(careful)}
    result = SimpleNamespace(summary={"outcomes": outcomes, "seeds": [{"seed": 3, "outcomes": outcomes}]})
    rows = experiment.outcome_rows(result)
    assert [row["seed"] for row in rows] == ["all", "3"]
    place = tmp_path / "tables" / "outcomes.csv"
    experiment.write(rows, place)
    with place.open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert (first["fall"], first["fall_low"], first["fall_high"]) == ("0.25", "0.125", "0.375")
    assert (first["minus_mean"], first["minus_mean_low"], first["minus_mean_high"]) == ("0.5", "0.25", "0.75")
    assert first["kept"] == first["minus_shuffled_high"] == ""


def test_committed_tables_are_numbers():
    for place in (EXPERIMENTS / "demo_world").glob("outcomes*.csv"):
        with place.open(newline="") as stream:
            for row in csv.DictReader(stream):
                cells = [value for name, value in row.items() if name not in ("seed", "utility")]
                assert all(value == "" or math.isfinite(float(value)) for value in cells)
                assert float(row["fall_low"]) <= float(row["fall"]) <= float(row["fall_high"])
