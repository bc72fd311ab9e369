"""The benchmark of ensembles runs and checks itself: on a tiny model."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("ensemble")


@pytest.mark.slow
def test_ways_and_agreement(benchmark, tiny_models, monkeypatch, capsys):
    arguments = ["--model", str(tiny_models("bert")), "--texts", "32", "--tokens", "40", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["ensemble.py", *arguments])
    benchmark.main()
    tables = json.loads(capsys.readouterr().out)
    times = {row["way"]: row for row in tables["40 tokens, 32 texts"]}
    assert next(iter(times.values()))["ratio_to_padded"] == 1
    assert {"prudent, 10 linear heads", "prudent, 5 adapters on the upper half of the layers"} <= set(times)
    for row in tables["40 tokens, agreement"]:
        assert row["largest_difference"] < 1e-5 < row["median_std_of_members"]


def test_profile_says_how_many_layers_are_shared(benchmark, tiny_models, tmp_path):
    base = str(tiny_models("llama"))
    adapters = benchmark.write_adapters(base, tmp_path)
    everywhere, upper = benchmark.profile(adapters, benchmark.made_up(2, 4, 40))
    assert (everywhere["shared_layers"], upper["shared_layers"]) == (0, 1)
