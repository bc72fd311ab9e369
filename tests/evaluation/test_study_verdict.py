"""What a study concludes: verdicts, laws and the prompts that fooled the first utility."""

import json
from dataclasses import astuple, replace

import numpy as np
import pyarrow as pa
import pytest

from prudent.evaluation import BestOfNStudy, best_of_n_study
from prudent.evaluation._study_curves import Drawn
from prudent.evaluation._study_families import Family
from prudent.evaluation._study_laws import laws
from prudent.evaluation._study_statistics import Resamples
from prudent.evaluation._study_tuning import Tuning
from prudent.evaluation._study_verdict import _held_out, verdict
from prudent.selection import best_of_n_kl

GRID = (1, 2, 4, 8, 16, 32, 64)


def drawn(key, gold, kind="utility", kl=None):
    return Drawn(key, key, kind, {"gold": gold}, kl=kl)


def around(curve, rng, num_prompts=60, noise=0.2):
    """Curves of prompts around a mean curve, each with a level of its own."""
    return np.array(curve) + rng.normal(size=(num_prompts, 1)) + noise * rng.normal(size=(num_prompts, len(curve)))


def judged(curves, resamples=None):
    resamples = resamples or Resamples(60, 500, 0.95, seed=0)
    outcome = resamples.outcome(curves[0].resampled("gold", resamples), GRID, {})
    return verdict(curves, outcome, "gold", GRID, resamples, seed=0)


def test_a_proxy_that_is_hacked_from_eight_on():
    rng = np.random.default_rng(0)
    first = drawn("mean", around([0, 0.8, 1.5, 1.0, 0.6, 0.2, -0.5], rng))
    found = judged([first])
    assert found.hacked
    assert (found.peak_n, found.from_n) == (4, 8)
    assert found.drop.value == pytest.approx(2.0, abs=0.15)
    assert found.p_value < 0.01
    assert found.rescue is None


def test_a_dip_that_is_made_up_for_is_not_where_it_is_hacked():
    rng = np.random.default_rng(1)
    dips = judged([drawn("mean", around([0, 2, 0.5, 2, 1.0, 0.5, 0.0], rng))])
    assert dips.hacked
    assert dips.from_n == 16
    rises = judged([drawn("mean", around([0, 0.5, 1, 1.5, 2, 2.2, 2.4], rng))])
    assert not rises.hacked
    assert (rises.peak_n, rises.from_n, rises.drop.value) == (64, None, 0.0)
    flat = judged([drawn("mean", around([0, 1, 1, 1, 1, 1, 1], rng))])
    assert not flat.hacked
    assert flat.p_value > 0.05


def test_what_would_have_saved_it():
    rng = np.random.default_rng(2)
    falls, rises = [0, 1, 1, 1, 0, 0, 0], [0, 0.5, 1, 1.0, 1.0, 1.0, 1.0]
    level = rng.normal(size=(60, 1))

    def near(curve):
        return np.array(curve) + level + 0.1 * rng.normal(size=(60, 7))

    first = drawn("mean", near(falls))
    others = [drawn("careful", near(rises)), drawn("hedged n", near([0, 1, 1, 1, 0.5, 0.5, 0.5]), "baseline")]
    unfair = drawn("oracle", near([0, 1, 2, 3, 4, 5, 6]), "control")
    rescue = judged([first, *others, unfair]).rescue
    assert rescue.key == "careful"
    assert rescue.ahead.value == pytest.approx(1.0, abs=0.1)
    assert rescue.held_out.value == pytest.approx(rescue.ahead.value)  # chosen on every half
    assert rescue.held_out.low > 0.9


def test_the_best_of_many_is_flattered_and_held_out_is_not():
    """Among curves that differ by noise alone."""
    rng = np.random.default_rng(11)
    resamples = Resamples(60, 100, 0.95, seed=0)
    rescues = []
    for _ in range(40):
        first = drawn("mean", around([0, 1, 1, 1, 1, 1, 1], rng))
        noise = [drawn(f"noise {i}", first.expected["gold"] + rng.normal(size=(60, 7))) for i in range(20)]
        rescues.append(judged([first, *noise], resamples).rescue)
    ahead, held_out = (np.array([getattr(one, name).value for one in rescues]) for name in ("ahead", "held_out"))
    assert ahead.mean() > 0.2
    assert abs(held_out.mean()) < 4 * held_out.std() / 40**0.5
    assert held_out.std() / 40**0.5 < 0.02
    # what was chosen on other prompts is chosen again in every resample, so that intervals are not too narrow
    assert np.mean([one.held_out.low <= 0 <= one.held_out.high for one in rescues]) > 0.95


def test_held_out_leads_are_chosen_again_in_every_resample():
    """Against a loop over resamples that halves the prompts and chooses by hand; a tuned curve brings its own draws."""
    rng = np.random.default_rng(13)
    resamples = Resamples(21, 30, 0.95, seed=0)
    gold = rng.normal(size=(4, 21, 1))
    extra = rng.normal(size=(30, 1))
    curves = [drawn(f"{place}", one) for place, one in enumerate(gold)]
    draws = resamples.means(gold[3]) + extra
    leads = [one.resampled("gold", resamples) for one in curves[:3]]
    leads.append(replace(curves[3], draws={"gold": draws}).resampled("gold", resamples))
    found = _held_out(leads, resamples, seed=5)
    for row, counts in enumerate(resamples.counts()):
        rows = np.repeat(np.arange(21), counts)
        moved = gold[:, rows, 0] + np.array([0, 0, 0, extra[row, 0]])[:, None]
        splits, total = np.random.default_rng([5, 1]), 0.0
        for _ in range(20):
            halves = np.array_split(splits.permutation(21), 2)
            for chooses, judges in (halves, halves[::-1]):
                best = moved[:, np.isin(rows, chooses)].sum(1).argmax()
                total += moved[best, np.isin(rows, judges)].sum() / 21 / 20
        assert found.draws[row, 0] == pytest.approx(total)


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_intervals_of_what_was_chosen_cover_what_choosing_is_worth(shared):
    """Ten curves, or strengths, of equal truth that prompts move together or each by itself."""
    rng = np.random.default_rng(14)
    covered = {"held out": 0, "tuned": 0}
    for run in range(150):
        own = rng.normal(size=(10, 60, 1))
        values = np.sqrt(shared) * rng.normal(size=(60, 1)) + np.sqrt(1 - shared) * own
        resamples = Resamples(60, 200, 0.95, seed=run)
        family = Family("rule", "strength", (1.0,) * 10, None, ("",) * 10, 0, {"gold": values})
        tuned, _ = Tuning(resamples, 50, seed=run).tuned(family, ["gold"])
        found = {
            "held out": _held_out([resamples.resampled(one) for one in values], resamples, run),
            "tuned": tuned.resampled("gold", resamples),
        }
        for name, one in found.items():
            low, high = resamples.bounds(one.draws[:, 0])
            covered[name] += low <= 0 <= high
    assert all(count / 150 > 0.94 for count in covered.values()), covered


def test_nothing_ahead_is_no_rescue():
    rng = np.random.default_rng(5)
    first = drawn("mean", around([0.0] * 7, rng))
    below = drawn("below", first.expected["gold"] - 0.1)
    assert judged([first, drawn("same", first.expected["gold"]), below]).rescue is None
    assert judged([first, below, drawn("above", first.expected["gold"] + 0.1)]).rescue.key == "above"


def test_seeds_and_prompts_are_halved_together():
    """Two seeds of the same curves say what one says."""
    rng = np.random.default_rng(3)
    ones = [drawn("mean", around([0.0] * 7, rng)), drawn("a", around([0.1] * 7, rng)), drawn("b", around([0] * 7, rng))]
    twice = [drawn(one.key, np.tile(one.expected["gold"], (2, 1))) for one in ones]
    single, double = judged(ones).rescue, judged(twice, Resamples(60, 500, 0.95, 0, num_seeds=2)).rescue
    assert double.key == single.key
    assert double.held_out.value == pytest.approx(single.held_out.value)


def test_laws_are_found_again():
    kl = best_of_n_kl(list(GRID)).numpy()
    rng = np.random.default_rng(4)
    d = np.sqrt(kl)
    noise = rng.normal(size=(60, 1)) + 0.02 * rng.normal(size=(60, len(GRID)))
    resamples = Resamples(60, 400, 0.95, seed=0)
    curves = [drawn("mean", d * (2.0 - 0.8 * d) + noise, kl=kl), drawn("rises", d * (2.0 + 0.1 * d) + noise, kl=kl)]
    curves += [drawn("still", np.zeros((60, 7)), kl=np.zeros(7)), drawn("unknown", d + noise)]
    found = laws(curves, {"gold": 1e-9}, GRID, resamples)
    assert set(found) == {"mean", "rises"}
    best_of_n, rl = found["mean"]["gold"]
    assert (best_of_n.form, rl.form) == ("best_of_n", "rl")
    assert best_of_n.alpha.low < 2.0 < best_of_n.alpha.high
    assert best_of_n.beta.low < 0.8 < best_of_n.beta.high
    assert best_of_n.r_squared > 0.98
    assert best_of_n.peak_kl.value == pytest.approx((2.0 / 1.6) ** 2, rel=0.05)
    assert best_of_n.peak_gain.value == pytest.approx(4.0 / 3.2, rel=0.05)
    assert best_of_n.within
    assert best_of_n_kl([round(best_of_n.peak_n)]).item() == pytest.approx(best_of_n.peak_kl.value, rel=0.1)
    none = found["rises"]["gold"][0]
    assert (none.peak_kl, none.peak_n, none.peak_gain, none.within) == (None, None, None, None)


def test_the_peak_of_a_law_is_at_an_n_that_has_its_kl():
    """Ties keep the KL of large n below the formula; beyond what was measured no n is known to have it."""
    kl = np.minimum(0.8 * best_of_n_kl(list(GRID)).numpy(), 1.6)  # the last three are equal
    rng, d = np.random.default_rng(15), np.sqrt(kl)
    resamples = Resamples(60, 100, 0.95, seed=0)
    noise = rng.normal(size=(60, 1)) + 0.001 * rng.normal(size=(60, len(GRID)))
    curves = [drawn("inside", d * (2.0 - d) + noise, kl=kl), drawn("beyond", d * (2.8 - d) + noise, kl=kl)]
    found = laws(curves, {"gold": 1e-9}, GRID, resamples)
    inside, beyond = (found[key]["gold"][0] for key in ("inside", "beyond"))
    assert inside.peak_kl.value == pytest.approx(1.0, rel=0.01)
    place = np.interp(inside.peak_kl.value, kl[:5], np.log(GRID[:5]))
    assert inside.peak_n == pytest.approx(np.exp(place))
    assert 8 < inside.peak_n < 16
    assert beyond.peak_kl.value == pytest.approx(1.96, rel=0.01)
    assert (beyond.peak_n, beyond.within) == (None, False)


def fooled(rng, num_prompts=30, size=24):
    """Some candidates look good and are bad, and the variance knows which."""
    wild = rng.random((num_prompts, size)) < 0.2
    gold = rng.normal(size=(num_prompts, size)) - 3.0 * wild
    mean = gold + 6.0 * wild + 0.3 * rng.normal(size=gold.shape)
    rows = num_prompts * size
    return pa.table(
        {
            "prompt_id": np.repeat(np.arange(num_prompts), size),
            "prompt": [f"prompt {i // size}" for i in range(rows)],
            "response": [f"response {i}" for i in range(rows)],
            "reward_mean": mean.ravel(),
            "reward_variance": np.where(wild, 9.0, 0.2).ravel(),
            "gold": gold.ravel(),
        }
    )


def test_a_study_says_what_happened_and_shows_it():
    data = fooled(np.random.default_rng(5))
    study = best_of_n_study(data, num_bootstrap=200, num_examples=5)
    assert set(study.verdicts) == set(study.gold_scales) == {"gold", "gold_standardized"}
    found = study.verdicts["gold"]
    assert found.hacked
    assert found.drop == study.curve("mean").outcomes["gold"].drop
    assert found.p_value == study.curve("mean").outcomes["gold"].drop_p_value
    best = max(study.curves, key=lambda one: (one.kind != "control", one.bands["gold"].value[-1]))
    assert found.rescue.key == best.key
    assert astuple(found.rescue.ahead) == pytest.approx(astuple(best.outcomes["gold"].versus["first"]))
    assert 0 < found.rescue.held_out.low <= found.rescue.held_out.value <= found.rescue.ahead.value + 1e-9
    assert set(study.laws["mean"]) == set(study.gold_scales)
    assert not any(key.startswith("shuffled") for key in study.laws)
    assert BestOfNStudy.from_dict(json.loads(json.dumps(study.to_dict(), allow_nan=False))) == study

    mean, gold = (data[name].to_numpy().reshape(30, 24) for name in ("reward_mean", "gold"))
    loss = gold.mean(1) - gold[np.arange(30), mean.argmax(1)]
    assert [one.prompt_id for one in study.hacked] == np.argsort(-loss)[:5].tolist()
    for one in study.hacked:
        rows = slice(24 * one.prompt_id, 24 * one.prompt_id + 24)
        assert one.mean_gold == pytest.approx(gold.ravel()[rows].mean())
        assert one.picks[0].utilities == ("mean",)
        assert one.picks[0].gold == pytest.approx(gold[one.prompt_id, mean[one.prompt_id].argmax()])
        assert one.picks[0].gold_rank > 1
        last = one.picks[-1]
        assert last.utilities[-1] == "oracle"
        assert last.gold_rank == 1
        assert {key for pick in one.picks for key in pick.utilities} == {
            "mean",
            "oracle",
            study.hacked[0].picks[1].utilities[0],
        }


def test_points_of_the_last_n_are_called_what_they_are():
    study = best_of_n_study(fooled(np.random.default_rng(6)), num_bootstrap=20)
    sizes = study.curve("mean").effective_size
    assert sizes[0] == pytest.approx(24)
    assert sizes[-1] == pytest.approx(1)
    assert any("rest on 1.0 of a prompt's candidates" in note for note in study.notes)
    early = best_of_n_study(fooled(np.random.default_rng(6)), n_values=[1, 2, 4], num_bootstrap=20)
    assert not any("rest on" in note for note in early.notes)


def test_a_constant_proxy_is_not_hacked():
    """All candidates tie, so every n picks by chance; gold far from 0 leaves rounding that differs from n to n."""
    rng = np.random.default_rng(7)
    for _ in range(8):
        data = pa.table(
            {
                "prompt_id": np.repeat(np.arange(60), 32),
                "reward_mean": np.ones(1920),
                "reward_variance": np.ones(1920),
                "gold": 50 + rng.normal(size=1920),
            }
        )
        study = best_of_n_study(data, utilities=["mean"], baselines=False, controls=False, num_bootstrap=50)
        for found in study.verdicts.values():
            assert (found.hacked, found.p_value, found.drop.value, found.from_n) == (False, 1.0, 0.0, None)


def test_strategies_read_what_the_first_utility_reads():
    data = fooled(np.random.default_rng(8))
    careful = best_of_n_study(data, utilities=["lcb_std", "mean"], num_bootstrap=20)
    rivals = ["oracle n", "hedged n", "top_k, tuned", "soft, tuned", "pessimism, tuned"]
    for key in rivals:
        assert (careful.curve(key).utility, careful.curve(key).variance) == ("lcb_std", "marginal")
    # what reads the variance itself does not show whether the variance is decoration
    assert careful.curve("lcb_var, tuned").outcomes["gold"].versus.keys() == {"first", "shuffled"}
    plain = best_of_n_study(data, utilities=["mean", "lcb_std"], num_bootstrap=20)
    for key in rivals:
        assert (plain.curve(key).utility, plain.curve(key).variance) == ("mean", None)
    assert plain.curve("lcb_var, tuned").outcomes["gold"].versus.keys() == {
        "first", "shuffled", "oracle_n", "hedged_n", "top_k", "soft", "pessimism",
    }  # fmt: skip
