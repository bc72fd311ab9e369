"""`evaluate` against formulas written out, with and without a posterior."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

from prudent.errors import DataError, ModelError, PosteriorError
from prudent.evaluation import Evaluation, evaluate, read_evaluation
from prudent.evaluation._pair_figures import pair_figures
from prudent.metrics import fit_gold_calibration
from prudent.models import RewardModel
from prudent.posteriors import PlainRewards, fit, load_posterior
from prudent.scoring import ScoredPool

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
    assert result.nll_difference.value == pytest.approx(result.moderated.nll.value - result.map.nll.value)
    assert (result.num_pairs, result.num_prompts) == (40, 5)
    for figure in (result.accuracy, result.map.nll, result.moderated.brier):
        assert figure.low <= figure.value <= figure.high or math.isclose(figure.low, figure.high)
    assert json.loads((tmp_path / "e.json").read_text()) == json.loads(json.dumps(result.to_dict()))


def test_soft_labels_count_as_shares(folder):
    hard, soft = (evaluate(folder, pairs(30, soft=soft), num_bootstrap=10, progress=False) for soft in (False, True))
    expected = 0.8 * hard.accuracy.value + 0.2 * (1 - hard.accuracy.value)
    assert soft.accuracy.value == pytest.approx(expected)
    assert soft.map.brier.value < 1
    assert 0 < hard.map.calibrated_ece < 1
    assert soft.map.calibrated_ece is None


def test_chance_alone_makes_a_calibration_error():
    """It says what calibrated probabilities of as many pairs show, which those that are too sure exceed."""
    found = []
    for run in range(20):
        generator = torch.Generator().manual_seed(run)
        mean = torch.randn(500, generator=generator).double()
        label = torch.bernoulli(torch.sigmoid(mean), generator=generator)
        figures = pair_figures(mean, None, label, torch.arange(500), 5, run)
        found.append((figures.ece, figures.calibrated_ece))
    shown, expected = np.mean(found, axis=0)
    assert shown == pytest.approx(expected, rel=0.1)
    assert shown > 0.03
    too_sure = pair_figures(2 * mean, None, label, torch.arange(500), 5, 0)
    assert too_sure.ece > 2 * too_sure.calibrated_ece


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
    with pytest.raises(PosteriorError, match=r"the reward of \d+ pairs is not finite \(row 0 first\)"):
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
    with pytest.raises(DataError, match=r"the list of rows: .* exceed 128 tokens: row 5, rejected \(\d+ tokens\);"):
        evaluate(folder, rows, strict=True, skip_bad=True, num_bootstrap=2, progress=False)


def contrasts(folder, rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and variances of the differences of some pairs, in float64 from the features."""
    model = RewardModel.from_pretrained(folder)
    posterior = load_posterior(folder, model)
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (
        model.features(model.encode(prompts, [row[side] for row in rows]))[0].double()
        for side in ("chosen", "rejected")
    )
    difference = chosen - rejected
    return difference @ posterior.weight.double(), (difference @ posterior.covariance_factor.double()).square().sum(1)


def test_risk_and_coverage_are_their_definitions(folder):
    rows = pairs(60)
    found = evaluate(folder, rows, num_bootstrap=50, progress=False)
    mean, variance = contrasts(folder, rows)
    wrong = (mean < 0).double().numpy()
    # E sigma(m + s z) orders like m / sqrt(1 + pi s^2 / 8) but for the error of that approximation
    orders = {"selective_map": mean.abs(), "selective_moderated": mean.abs() / (1 + math.pi * variance / 8).sqrt()}
    for name, confidence in orders.items():
        kept = wrong[np.argsort(-confidence.numpy())]
        risk = kept.cumsum() / np.arange(1, 61)
        figures = getattr(found, name)
        assert figures.area.value == pytest.approx(risk.mean(), abs=2e-3)
        assert figures.accuracy_at_50.value == pytest.approx(1 - risk[29], abs=1e-9)
        assert figures.accuracy_at_80.value == pytest.approx(1 - risk[47], abs=1e-9)
        assert figures.risk[-1].value == pytest.approx(wrong.mean())
        assert [one.value for one in figures.risk] == pytest.approx(risk[2::3], abs=1e-9)
        best = np.sort(wrong).cumsum() / np.arange(1, 61)
        assert figures.excess_area.value == pytest.approx(figures.area.value - best.mean())
        assert figures.area.low <= figures.area.value <= figures.area.high
    difference = found.selective_moderated.area.value - found.selective_map.area.value
    assert found.area_difference.value == pytest.approx(difference)
    assert found.accuracy.value == pytest.approx(1 - found.selective_map.risk[-1].value)


def test_the_scaled_mean(folder):
    rows = pairs(60, soft=True)
    first = evaluate(folder, rows, num_bootstrap=10, progress=False)
    assert (first.scaled, first.logit_temperature) == (None, None)
    best = first.optimal_logit_temperature
    found = evaluate(folder, rows, logit_temperature=best, num_bootstrap=10, progress=False)
    mean, _ = contrasts(folder, rows)

    def loss(temperature: float) -> float:
        return (
            -(0.8 * torch.sigmoid(mean / temperature).log() + 0.2 * torch.sigmoid(-mean / temperature).log())
            .mean()
            .item()
        )

    assert found.scaled.nll.value == pytest.approx(loss(best), rel=1e-4)
    assert loss(best) <= min(loss(1.05 * best), loss(best / 1.05), first.map.nll.value)
    for wrong in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="logit_temperature must be a positive number"):
            evaluate(folder, rows, logit_temperature=wrong, progress=False)


def test_the_temperature_that_fit_found_is_used(tiny_models, tmp_path):
    held_out = [{**row, "prompt": f"please {row['prompt']}"} for row in pairs(31)]  # other prompts, as fit demands
    fit(tiny_models("llama"), pairs(60), tmp_path / "rm", eval_data=held_out, progress=False)
    saved = json.loads((tmp_path / "rm" / "posterior_config.json").read_text())["calibration"]["logit_temperature"]
    found = evaluate(tmp_path / "rm", pairs(20), num_bootstrap=5, progress=False)
    assert found.logit_temperature == saved
    assert found.scaled is not None
    assert evaluate(
        tmp_path / "rm", held_out, num_bootstrap=5, progress=False
    ).optimal_logit_temperature == pytest.approx(saved, rel=5e-3)
    given = evaluate(tmp_path / "rm", pairs(20), logit_temperature=3.0, num_bootstrap=5, progress=False)
    assert given.logit_temperature == 3.0


def test_shift_is_the_share_of_pairs_of_pairs(folder, tmp_path):
    rows, other = pairs(30), pairs(25)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, part in (("train", rows), ("test", other)):
        (elsewhere / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    found = evaluate(folder, rows, shift_data=elsewhere, num_bootstrap=100, progress=False)
    (_, usual), (mean, there) = (contrasts(folder, part) for part in (rows, other))
    expected = (there[:, None] > usual).double().mean().item()
    assert found.shift.auroc.value == pytest.approx(expected, abs=2 / 750)
    assert found.shift.auroc.low < found.shift.auroc.value < found.shift.auroc.high
    assert found.shift.mean_contrast_std == pytest.approx(there.sqrt().mean().item(), rel=1e-4)
    assert found.shift.accuracy.value == pytest.approx((mean > 0).double().mean().item())
    assert (found.shift.split, found.shift.num_pairs, found.shift.num_prompts) == ("test", 25, 5)
    same = evaluate(folder, rows, shift_data=rows, num_bootstrap=100, progress=False).shift.auroc
    assert same.value == pytest.approx(0.5)
    assert same.low < 0.5 < same.high


def scored_pool(num_prompts: int = 60, size: int = 12, *, centered: bool = False, **columns) -> ScoredPool:
    """Gold = prompt level + 2 mean + noise whose variance is 0.2 + 3 times that of the reward."""
    rng = np.random.default_rng(0)
    total = num_prompts * size
    group = np.repeat(np.arange(num_prompts), size)
    mean, variance = rng.normal(size=total), rng.exponential(size=total)
    gold = rng.normal(size=num_prompts)[group] + 2 * mean + np.sqrt(0.2 + 3 * variance) * rng.normal(size=total)
    known = {"prompt_id": group, "reward_mean": mean, "reward_variance": variance, "gold": gold}
    if centered:  # the marginal variance is noise, the centered one is right
        known |= {"reward_reference": np.zeros(total), "reward_centered_variance": variance}
        known["reward_variance"] = rng.exponential(size=total)
    return ScoredPool(pa.table(known | columns), "pool.parquet")


@pytest.mark.parametrize("centered", [False, True])
def test_gold_of_a_scored_pool(folder, centered):
    pool = scored_pool(centered=centered)
    found = evaluate(folder, pairs(6), scored=pool, num_bootstrap=100, progress=False).gold
    assert (found.data, found.num_responses, found.num_prompts, found.num_left_out) == ("pool.parquet", 720, 60, 0)
    within, absolute = found.within, found.absolute
    for one in (absolute.posterior, absolute.constant, within.posterior, within.constant):
        assert one.coverage.value == pytest.approx(0.9, abs=0.03)
        assert one.coverage.low <= one.coverage.value <= one.coverage.high
        assert all(calibration.slope == pytest.approx(2, abs=0.3) for calibration in one.calibrations)
    assert within.nll_difference.high < 0
    assert within.nll_difference.value == pytest.approx(within.posterior.nll.value - within.constant.nll.value)
    assert (absolute.nll_difference.high < 0) is not centered
    assert found.error_correlation.low > 0.2
    mean, variance, gold = (pool.column(f"{name}") for name in ("reward_mean", "reward_variance", "gold"))
    whole = fit_gold_calibration(mean, variance, gold)
    halves = absolute.posterior.calibrations
    assert whole.slope == pytest.approx(sum(half.slope for half in halves) / 2, abs=0.05)


def test_rank_correlation_of_std_and_error(folder):
    pool = scored_pool(num_prompts=4, size=200)
    found = evaluate(folder, pairs(6), scored=pool, num_bootstrap=20, progress=False).gold
    table = pool.table.to_pandas()
    values = []
    for _, rows in table.groupby("prompt_id"):
        error = np.abs(rows.gold - rows.gold.mean() - 2 * (rows.reward_mean - rows.reward_mean.mean()))
        values.append(stats.spearmanr(np.sqrt(rows.reward_variance), error).statistic)
    assert found.error_correlation.value == pytest.approx(np.mean(values), abs=0.02)
    same = scored_pool(reward_variance=np.ones(720))
    assert evaluate(folder, pairs(6), scored=same, num_bootstrap=5, progress=False).gold.error_correlation is None


def test_rows_of_a_pool_that_do_not_count(folder):
    gold = scored_pool().column("gold").numpy().copy()
    gold[:12] = np.nan  # a prompt without gold
    gold[12:23] = np.nan  # one with a single response that has gold
    gold[30] = np.nan
    found = evaluate(folder, pairs(6), scored=scored_pool(gold=gold), num_bootstrap=5, progress=False).gold
    assert (found.num_prompts, found.num_responses, found.num_left_out) == (58, 720 - 25, 25)


def test_pools_that_cannot_be_used_are_refused(folder, tmp_path):
    for pool, message in (
        (ScoredPool(scored_pool().table.drop_columns("gold"), "p"), "p has no gold .* score a pool whose rows carry"),
        (scored_pool(gold=pa.nulls(720)), "no gold"),
        (scored_pool(reward_variance=pa.nulls(720, pa.float64())), "no variances .* fit a posterior"),
        (scored_pool(num_prompts=3), "3 prompts have two responses .* 4 are needed"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(folder, pairs(4), scored=pool, num_bootstrap=5, progress=False)
    with pytest.raises(DataError, match="there is no"):
        evaluate(folder, pairs(4), scored=tmp_path / "none.parquet", progress=False)
    table = scored_pool().table
    named = {"reward_mean": "a_reward_mean", "reward_variance": "a_reward_variance"}
    table = table.rename_columns([named.get(name, name) for name in table.column_names])
    for column in named.values():
        table = table.append_column(column.replace("a_", "b_", 1), table[column])
    with pytest.raises(DataError, match=r"has the rewards a, b, and one is needed here.* one model scored"):
        evaluate(tmp_path / "no model", pairs(4), scored=ScoredPool(table, "p"), progress=False)


def test_shift_needs_a_posterior(tiny_models):
    with pytest.raises(PosteriorError, match=r"no posterior; fit one \(prudent fit\)"):
        evaluate(tiny_models("llama"), pairs(4), shift_data=pairs(5), progress=False)


def test_written_figures_are_read_back(folder, tiny_models, tmp_path):
    pq.write_table(scored_pool().table, tmp_path / "scored.parquet")
    options = {"shift_data": pairs(9), "scored": tmp_path / "scored.parquet", "logit_temperature": 2.0}
    whole = evaluate(folder, pairs(8), tmp_path / "e.json", num_bootstrap=5, progress=False, **options)
    assert read_evaluation(tmp_path / "e.json") == whole
    assert Evaluation.from_dict(whole.to_dict()) == whole
    plain = evaluate(tiny_models("llama"), pairs(8), tmp_path / "p.json", num_bootstrap=5, progress=False)
    assert read_evaluation(tmp_path / "p.json") == plain
    for content, message in (
        ("{", "not what this version's"),
        ("[]", "format None"),
        (json.dumps(plain.to_dict() | {"accuracy": 3}), "in accuracy: int missing or unknown"),
        (json.dumps(plain.to_dict() | {"num_pairs": "x"}), "num_pairs is 'x', where a int belongs"),
        (json.dumps(plain.to_dict() | {"more": 1}), "more missing or unknown"),
        (json.dumps(plain.to_dict() | {"format_version": 99}), "format 99"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(DataError, match=message):
            read_evaluation(tmp_path / "bad.json")
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        read_evaluation(tmp_path / "none.json")
