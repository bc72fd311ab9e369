"""The benchmark of posteriors runs and compares like with like: on a tiny model, without rivals to install."""

import importlib
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("posterior")
    monkeypatch.setattr(module, "laplace_torch_is_there", lambda: False)
    return module


@pytest.mark.slow
def test_tables_and_agreement_without_laplace_torch(benchmark, tiny_models):
    model = benchmark.lora_model(str(tiny_models("bert")))
    workload = benchmark.made_up(10, 24, tokens=40)
    assert set(model.encode(*zip(*workload.texts, strict=True)).lengths) == {40}
    ways = benchmark.all_ways(model)
    tables, results = benchmark.measure(model, ways, workload, rounds=1)
    for stage in ("fit", "predict"):
        names = [row["way"] for row in tables[stage]]
        assert names[:2] == [benchmark.PADDED, benchmark.BY_TOKENS]
        assert set(names[2:]) == {way.name for way in ways if way.stage == stage}
        assert tables[stage][0]["ratio_to_padded"] == 1
        assert all(row["seconds"] >= 0 for row in tables[stage])
    rows = {row["compared"]: row for row in benchmark.agreement(model, ways, workload, results)}
    assert rows["rewards, prudent by tokens"]["largest_relative_difference"] < 1e-4
    assert rows["variance, kron, bf16"]["texts"] == 24
    for (stage, _), found in results.items():
        if stage == "predict" and len(found) == 2:
            assert bool((found[1] > 0).all())


def test_head_as_in_rewarduq_is_its_formula(benchmark, tiny_models):
    model = benchmark.lora_model(str(tiny_models("bert")))
    workload = benchmark.made_up(6, 3, tokens=40)
    rivals = importlib.import_module("_posterior_rivals")
    _, variance = rivals.UnweightedHead.fit(model, workload, 0.5).predict(model, workload)
    prompts, responses = zip(*workload.pair_texts(), strict=True)
    features = model.features(model.encode(prompts, responses))[0].double()
    precision = 0.5 * torch.eye(features.shape[1], dtype=torch.float64)
    for chosen, rejected in zip(features[::2], features[1::2], strict=True):
        precision += torch.outer(chosen - rejected, chosen - rejected)
    read = model.features(model.encode(*zip(*workload.texts, strict=True)))[0].double()
    expected = torch.stack([row @ torch.linalg.solve(precision, row) for row in read])
    torch.testing.assert_close(variance.double(), expected, rtol=1e-4, atol=0)


def test_real_pairs_are_split_into_fit_and_predict(benchmark, tiny_models, tmp_path):
    model = benchmark.lora_model(str(tiny_models("bert")))
    rows = [
        {"prompt": f"tea {row}", "chosen": "a walk", "rejected": "rain " * (200 if row == 1 else 1)} for row in range(6)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    workload = benchmark.real(str(data), 2, 5, model)
    assert workload.name == "pairs"
    assert [pair.prompt for pair in workload.pairs] == ["tea 0", "tea 2"]  # row 1 is too long
    assert [prompt for prompt, _ in workload.texts] == ["tea 3", "tea 3", "tea 4", "tea 4", "tea 5"]
    with pytest.raises(SystemExit, match="5 pairs"):
        benchmark.real(str(data), 4, 5, model)
