"""`evaluate` against formulas written out, with and without a posterior."""

import json
import math

import pytest
import torch

from prudent.errors import DataError, ModelError
from prudent.evaluation import evaluate
from prudent.models import RewardModel
from prudent.posteriors import PlainRewards, fit, load_posterior

NOUNS = ["apple", "pear", "plum", "bird", "stone", "river"]


def pairs(count: int, *, soft: bool = False) -> list[dict]:
    generator = torch.Generator().manual_seed(count)
    rows = []
    for index in range(count):
        first, second = torch.randint(6, (2, 4), generator=generator).tolist()
        better, worse = sorted([first, second], key=lambda words: (-words.count(0), words[0]))
        if better == worse:
            worse = [*worse, 5]
        row = {
            "prompt": f"name a fruit {NOUNS[index % 5]}",
            "chosen": " ".join(NOUNS[word] for word in better),
            "rejected": " ".join(NOUNS[word] for word in worse),
        }
        rows.append({**row, "p_chosen": 0.8} if soft else row)
    return rows


@pytest.fixture(scope="module")
def folder(tiny_models, tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluated") / "rm"
    fit(tiny_models("llama"), pairs(60), place, progress=False)
    return place


def test_figures_are_their_definitions(folder, tmp_path):
    rows = pairs(40)
    result = evaluate(folder, rows, tmp_path / "e.json", num_bootstrap=50, progress=False)
    model = RewardModel.from_pretrained(folder)
    posterior = load_posterior(folder, model)
    prompts = [row["prompt"] for row in rows]
    features = [
        model.features(model.encode(prompts, [row[side] for row in rows]))[0] for side in ("chosen", "rejected")
    ]
    mean = (features[0] - features[1]) @ posterior.weight
    variance = ((features[0] - features[1]) @ posterior.covariance_factor).square().sum(1)
    assert result.accuracy.value == pytest.approx((mean > 0).double().mean().item())
    assert result.map.nll.value == pytest.approx(torch.log1p(torch.exp(-mean)).mean().item(), rel=1e-4)
    draws = mean + variance.sqrt() * torch.randn(200_000, 40, generator=torch.Generator().manual_seed(0))
    probability = torch.sigmoid(draws).mean(0)
    assert result.moderated.nll.value == pytest.approx(-probability.log().mean().item(), rel=0.01)
    assert result.moderated.brier.value == pytest.approx((1 - probability).square().mean().item(), rel=0.02)
    assert result.mean_contrast_std == pytest.approx(variance.sqrt().mean().item(), rel=1e-4)
    assert (result.num_pairs, result.num_prompts) == (40, 5)
    for figure in (result.accuracy, result.map.nll, result.moderated.ece):
        assert figure.low <= figure.value <= figure.high or math.isclose(figure.low, figure.high)
    assert json.loads((tmp_path / "e.json").read_text()) == json.loads(json.dumps(result.to_dict()))


def test_soft_labels_count_as_shares(folder):
    hard, soft = (evaluate(folder, pairs(30, soft=soft), num_bootstrap=10, progress=False) for soft in (False, True))
    expected = 0.8 * hard.accuracy.value + 0.2 * (1 - hard.accuracy.value)
    assert soft.accuracy.value == pytest.approx(expected)
    assert soft.map.brier.value < 1


def test_without_a_posterior(tiny_models):
    result = evaluate(tiny_models("llama"), pairs(20), num_bootstrap=10, progress=False)
    assert result.posterior == "none"
    assert result.moderated is None
    assert result.mean_contrast_std is None
    assert sum(row.count for row in result.reliability) == 20


def test_refusals(tiny_models, folder, tmp_path):
    with pytest.raises(ModelError, match="never trained"):
        evaluate(tiny_models("llama", head=False), pairs(4), progress=False)
    with pytest.raises(DataError):
        evaluate(folder, [{"prompt": "name", "responses": ["a", "b"]}], progress=False)
    model = RewardModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="posterior"):
        evaluate(model, pairs(4), progress=False)
    model.set_head(torch.full((32,), torch.inf), 0.0)
    with pytest.raises(ModelError, match="pair 0 is not finite"):
        evaluate(model, pairs(4), posterior=PlainRewards(), progress=False)


def test_held_out_pairs_are_read_where_there_are_any(folder, tmp_path):
    sets = tmp_path / "sets"
    sets.mkdir()
    for name, count in (("train", 12), ("test", 7), ("dev", 5)):
        (sets / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(count)))
    found = evaluate(folder, sets, num_bootstrap=2, progress=False)
    assert (found.split, found.num_pairs) == ("test", 7)
    assert evaluate(folder, sets, split="dev", num_bootstrap=2, progress=False).num_pairs == 5
    assert evaluate(folder, sets / "train.jsonl", num_bootstrap=2, progress=False).split is None


def test_strict_names_the_row_of_the_source(folder, monkeypatch):
    monkeypatch.setattr("prudent.evaluation._evaluate._PAIRS_PER_CHUNK", 2)
    rows = pairs(8)
    rows[2] = {**rows[2], "chosen": ""}
    rows[5] = {**rows[5], "rejected": "apple " * 200}
    with pytest.raises(DataError, match=r"exceed 128 tokens: row 5, rejected \(\d+ tokens\);"):
        evaluate(folder, rows, strict=True, skip_bad=True, num_bootstrap=2, progress=False)
