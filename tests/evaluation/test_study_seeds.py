"""Several seeds of a proxy in one study."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from prudent.errors import DataError
from prudent.evaluation import BestOfNStudy, best_of_n_study
from prudent.evaluation._study_curves import Drawn, joined
from prudent.evaluation._study_statistics import Resamples
from prudent.scoring import ScoredPool


def files(rng, num_seeds=3, num_prompts=6, size=8, **changes):
    """Scores of one pool by several seeds, rows of each file in an order of its own."""
    rows = num_prompts * size
    shared = {
        "prompt_id": np.repeat(np.arange(num_prompts) * 2, size),
        "response_id": np.tile(np.arange(size), num_prompts),
        "prompt": np.repeat([*"abcdefghijklmnopqrstuvwxyz"[:num_prompts]], size),
        "gold": rng.normal(size=rows),
        "length": rng.integers(5, 90, size=rows),
    }
    found = []
    for place in range(num_seeds):
        columns = shared | {"reward_mean": rng.normal(size=rows), "reward_variance": rng.uniform(0.1, 2, size=rows)}
        columns |= changes.get(f"seed{place}", {})
        order = rng.permutation(rows)
        found.append(pa.table({name: np.asarray(values)[order] for name, values in columns.items()}))
    return found


def test_curves_are_averages_over_seeds():
    tables = files(np.random.default_rng(0), num_prompts=20)
    together = best_of_n_study(tables, num_bootstrap=30)
    # each draws from numbers of its own
    alone = [best_of_n_study(one, num_bootstrap=30, seed=1000 * place) for place, one in enumerate(tables)]
    assert together.settings.num_seeds == 3
    assert any("3 seeds" in note for note in together.notes)
    assert [one.key for one in together.curves] == [one.key for one in alone[0].curves]
    keys = {one.key for one in together.curves}
    assert {"hedged n", "soft, tuned", "lcb_std, tuned", "shuffled: lcb_std", "shuffled: lcb_var, tuned"} <= keys
    for key in keys:
        for name, band in together.curve(key).bands.items():
            expected = np.mean([one.curve(key).bands[name].value for one in alone], axis=0)
            assert band.value == pytest.approx(expected), (key, name)
    for place, family in enumerate(together.families):
        chosen = np.mean([one.families[place].chosen for one in alone], axis=0)
        assert family.chosen == pytest.approx(chosen), family.key
    assert together.curve("mean").kl == pytest.approx(np.mean([one.curve("mean").kl for one in alone], axis=0))
    assert together.reliability[0].accuracy.value == alone[0].reliability[0].accuracy.value
    assert BestOfNStudy.from_dict(json.loads(json.dumps(together.to_dict(), allow_nan=False))) == together
    # one file in a list is one file
    assert best_of_n_study(tables[:1], num_bootstrap=30) == alone[0]


def test_intervals_over_seeds_are_those_of_the_t_test():
    """Where prompts agree; where seeds agree they are those of the prompts alone."""
    rng = np.random.default_rng(1)
    for num_seeds in (2, 3, 6):
        of_seeds = rng.normal(3.0, 2.0, size=num_seeds)
        resamples = Resamples(30, 40_000, 0.95, seed=2, num_seeds=num_seeds)
        found = resamples.band(resamples.resampled(np.repeat(of_seeds, 30)[:, None])).at(0)
        low, high = stats.t.interval(0.95, num_seeds - 1, of_seeds.mean(), stats.sem(of_seeds))
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.04 * (high - low))
    of_prompts = rng.normal(size=30)
    assert resamples.means(np.tile(of_prompts, 6)) == pytest.approx(resamples.of_one_seed().means(of_prompts))
    assert resamples.of_one_seed().means(of_prompts) == pytest.approx(Resamples(30, 40_000, 0.95, 2).means(of_prompts))


def test_seeds_that_tune_bring_their_own_draws():
    """Averaged over seeds, as the resampled means of fixed numbers are."""
    rng = np.random.default_rng(9)
    resamples = Resamples(25, 60, 0.95, seed=0, num_seeds=3)
    of_seeds = rng.normal(size=(3, 25, 4))
    fixed = [Drawn("rule", "rule", "baseline", {"gold": one}) for one in of_seeds]
    tuned = [replace(one, draws={"gold": resamples.of_one_seed().means(one.expected["gold"])}) for one in fixed]
    of_fixed, of_tuned = (joined([[one] for one in ones])[0].resampled("gold", resamples) for ones in (fixed, tuned))
    assert of_tuned.cells == pytest.approx(of_seeds.reshape(75, 4))
    assert of_tuned.draws == pytest.approx(of_fixed.draws)
    assert of_tuned.draws == pytest.approx(resamples.means(of_seeds.reshape(75, 4)))


def outcome_of(resamples, gold, grid):
    return resamples.outcome(resamples.resampled(gold.reshape(-1, len(grid))), grid, {})


def test_one_seed_is_a_bootstrap_of_prompts():
    values, rng = np.random.default_rng(2).normal(size=30), np.random.default_rng(7)
    shares = rng.multinomial(30, np.full(30, 1 / 30), size=50) / 30
    assert Resamples(30, 50, 0.9, seed=7).means(values) == pytest.approx(shares @ values)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_few_seeds_are_not_believed_too_much(num_seeds):
    """Level of the p-value and coverage of a difference, where a flat curve moves by seed, prompt and cell."""
    rng = np.random.default_rng(3)
    grid, num_runs = (1, 2, 4, 8, 16, 32), 200
    hacked = covered = 0
    for run in range(num_runs):
        shapes = ((num_seeds, 1), (1, 40), (num_seeds, 40))
        seeds, prompts, cells = (rng.normal(size=(*shape, 6)) for shape in shapes)
        resamples = Resamples(40, 200, 0.95, seed=run, num_seeds=num_seeds)
        outcome = outcome_of(resamples, seeds + prompts + 0.5 * cells, grid)
        hacked += outcome.drop_p_value < 0.05
        covered += outcome.gain.low <= 0 <= outcome.gain.high
    assert hacked / num_runs < 0.1
    assert 0.9 < covered / num_runs < 0.995


def test_a_fall_of_one_seed_alone_is_no_fall_of_the_proxy():
    """All prompts agree that one seed of four falls by much; seeds are what the doubt is about."""
    gold = np.zeros((4, 40, 3))
    gold[:, :, 1] = 0.1
    gold[3, :, 2] = -1.0
    gold += 0.01 * np.random.default_rng(3).normal(size=gold.shape)
    for seed in range(5):
        outcome = outcome_of(Resamples(40, 400, 0.95, seed, num_seeds=4), gold, (1, 2, 4))
        assert outcome.drop.value == pytest.approx(0.35, abs=0.01)
        assert outcome.drop.low < 0
        assert outcome.drop_p_value > 0.05
    surely = outcome_of(Resamples(40, 400, 0.95, seed=0), gold[3], (1, 2, 4))
    assert surely.drop_p_value < 0.01
    # where all seeds fall, four are enough
    gold[:, :, 2] -= 1.0
    gold[3, :, 2] += 1.0
    together = outcome_of(Resamples(40, 400, 0.95, seed=0, num_seeds=4), gold, (1, 2, 4))
    assert together.drop_p_value < 0.01


def test_what_one_seed_lacks_is_left_out_of_all():
    rng = np.random.default_rng(4)
    tables = files(rng)
    mean = tables[1]["reward_mean"].to_numpy().copy()
    prompt, response = (tables[1][name].to_numpy() for name in ("prompt_id", "response_id"))
    mean[(prompt == 4) & (response == 3)] = np.nan
    tables[1] = tables[1].set_column(tables[1].column_names.index("reward_mean"), "reward_mean", pa.array(mean))
    study = best_of_n_study(tables, num_bootstrap=20)
    assert (study.counts.num_candidates, study.counts.num_unscored) == (47, 1)
    without = [
        one.filter(pa.array((one["prompt_id"].to_numpy() != 4) | (one["response_id"].to_numpy() != 3)))
        for one in tables
    ]
    expected = best_of_n_study(without, num_bootstrap=20)
    assert study.curve("mean").bands == expected.curve("mean").bands
    unnamed = [one.drop_columns(["response_id"]) for one in tables]
    with pytest.raises(DataError, match="give both a column response_id"):
        best_of_n_study(unnamed, num_bootstrap=20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_id": np.repeat([0, 2, 4, 6, 8, 11], 8)}, r"b\.parquet has no prompt 10, which a\.parquet has"),
        ({"prompt_id": np.repeat([0, 2, 4, 6, 8, 10], [8, 8, 9, 7, 8, 8])}, r"b\.parquet has 9 candidates of prompt 4"),
        ({"gold": np.zeros(48)}, r"b\.parquet has other values of gold for prompt 0 than a\.parquet"),
        ({"response_id": np.tile(np.arange(8) + 100, 6)}, r"b\.parquet has other values of response_id for prompt 0"),
        ({"length": np.arange(48)}, r"b\.parquet has other values of length for prompt 0"),
        ({"prompt": np.repeat([*"abcdeg"], 8)}, r"b\.parquet has other values of prompt for prompt 10"),
    ],
)
def test_files_of_other_pools_are_refused(change, message):
    a, b = files(np.random.default_rng(5), 2, seed1=change)
    with pytest.raises(DataError, match=message):
        best_of_n_study([ScoredPool(a, "a.parquet"), ScoredPool(b, "b.parquet")], num_bootstrap=20)


def test_gold_goes_with_the_response():
    """The same gold of a prompt in another order is that of other responses, where these have names."""
    a, b = files(np.random.default_rng(7), 2)
    turned = b.sort_by([("prompt_id", "ascending"), ("response_id", "ascending")])
    gold = turned["gold"].to_numpy().reshape(6, 8)[:, ::-1].ravel()
    turned = turned.set_column(turned.column_names.index("gold"), "gold", pa.array(gold))
    with pytest.raises(DataError, match="other values of gold for prompt 0"):
        best_of_n_study([a, turned], num_bootstrap=20)
    unnamed = [one.drop_columns(["response_id"]) for one in (a, turned)]
    assert best_of_n_study(unnamed, utilities=["mean"], num_bootstrap=20).settings.num_seeds == 2


def test_candidates_without_a_value_must_be_known_to_be_the_same():
    """Without gold nothing tells which candidate of the other file is the one that has no reward."""
    a, b = (one.drop_columns(["response_id", "gold"]) for one in files(np.random.default_rng(8), 2))
    assert best_of_n_study([a, b], utilities=["mean"], num_bootstrap=20).settings.num_seeds == 2
    mean = b["reward_mean"].to_numpy().copy()
    mean[3] = np.nan
    b = b.set_column(b.column_names.index("reward_mean"), "reward_mean", pa.array(mean))
    with pytest.raises(DataError, match="give both a column response_id"):
        best_of_n_study([a, b], utilities=["mean"], num_bootstrap=20)


def test_what_a_seed_cannot_show_is_told():
    rng = np.random.default_rng(9)
    a, b = files(rng, 2, num_prompts=24, seed1={"reward_variance": np.zeros(192)})
    study = best_of_n_study([ScoredPool(a, "a.parquet"), ScoredPool(b, "b.parquet")], num_bootstrap=20)
    assert not any(one.key.startswith("lcb_std, ") for one in study.curves)
    (note,) = (note for note in study.notes if "left out, since" in note)
    assert note.startswith("lcb_std, tuned, lcb_var, tuned: left out, since b.parquet gives none")
    # strategies of few prompts are at one strength in the units of each seed, and are called by their family
    few = best_of_n_study(files(rng, 2), num_bootstrap=20)
    assert few.curve("soft").label == "soft"
    assert few.curve("soft").strategy.startswith("soft(")


def test_seeds_that_allow_other_utilities_are_compared_by_those_in_common():
    a, b = files(np.random.default_rng(6), 2)
    b = b.set_column(b.column_names.index("reward_variance"), "reward_variance", pa.nulls(48, pa.float32()))
    for some in ([a, b], [b, a]):
        study = best_of_n_study(some, num_bootstrap=20)
        assert [one.key for one in study.utilities] == ["mean"]
        assert any(note.startswith("lcb_std, lcb_var, entropic: left out, since the files") for note in study.notes)
    assert best_of_n_study([a, b], utilities=["mean"], num_bootstrap=20).settings.num_seeds == 2
    with pytest.raises(ValueError, match="nothing to study"):
        best_of_n_study([])
