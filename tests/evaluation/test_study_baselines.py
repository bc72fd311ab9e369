"""Baselines, tuned strengths and controls of a study."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from prudent.errors import DataError, UtilityError
from prudent.evaluation import BestOfNStudy, best_of_n_study
from prudent.evaluation._study_controls import length_as_variance, length_out_of_variance, without_length
from prudent.evaluation._study_families import Family
from prudent.evaluation._study_statistics import Resamples
from prudent.evaluation._study_tuning import Tuning
from prudent.metrics import spearman_within
from prudent.rewards import GaussianRewards, MemberRewards
from prudent.selection import best_of_n_curve, parse_strategy, pick_probabilities, strategy_curve, top_k_curve
from prudent.utility import RewardSet


def table(rng, num_prompts=24, size=10, members=0, **extra):
    rows = num_prompts * size
    columns = {
        "prompt_id": np.repeat(np.arange(num_prompts), size),
        "reward_mean": rng.normal(size=rows),
        "reward_variance": rng.uniform(0.1, 2, size=rows),
        "gold": rng.normal(size=rows),
        "length": rng.integers(5, 500, size=rows),
    }
    if members:
        scores = rng.normal(size=(rows, members))
        columns |= {"reward_mean": scores.mean(1), "reward_variance": scores.var(1, ddof=1)}
        columns["reward_members"] = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), members)
    return pa.table({**columns, **extra})


EMPTY = Family("rule", "strength", (1.0,), None, ("a",), 0, {})


def test_a_study_holds_what_every_picture_must_show():
    study = best_of_n_study(table(np.random.default_rng(0)), num_bootstrap=20)
    kinds = {kind: [one.key for one in study.curves if one.kind == kind] for kind in ("baseline", "control")}
    assert kinds["baseline"] == [
        "random", "hedged n", "top_k, tuned", "soft, tuned", "pessimism, tuned", "lcb_std, tuned", "lcb_var, tuned",
    ]  # fmt: skip
    changed = ["lcb_std", "lcb_var", "entropic"]
    tuned = ["lcb_std, tuned", "lcb_var, tuned"]
    for start in ("shuffled: ", "length as variance: ", "length out of variance: "):
        assert {start + key for key in (*changed, *tuned)} <= set(kinds["control"])
    assert kinds["control"][-3:] == ["longest", "oracle n", "oracle"]
    assert study.settings.num_calibration_prompts == 12
    assert {family.key for family in study.families} == {
        "hedged n", "top_k", "soft", "pessimism", "lcb_std", "lcb_var",
    }  # fmt: skip
    for family in study.families:
        assert sum(family.chosen) == pytest.approx(1)
        assert len(family.strengths) == len(family.texts) == len(family.gold["gold"])
        assert list(family.strengths) == sorted(family.strengths)
    assert BestOfNStudy.from_dict(json.loads(json.dumps(study.to_dict(), allow_nan=False))) == study
    without = best_of_n_study(table(np.random.default_rng(0)), baselines=False, num_bootstrap=20)
    assert {one.kind for one in without.curves} == {"utility", "control"}
    assert without.families == ()
    assert without.curve("lcb_std").bands == study.curve("lcb_std").bands


def test_strengths_are_worth_what_their_texts_say():
    data = table(np.random.default_rng(1))
    study = best_of_n_study(data, num_bootstrap=20)
    mean, variance, gold = (torch.tensor(data[name].to_numpy()) for name in ("reward_mean", "reward_variance", "gold"))
    group = torch.tensor(data["prompt_id"].to_numpy())
    for family in study.families:
        for text, strength, band in zip(family.texts, family.strengths, family.gold["gold"], strict=True):
            if family.key.startswith("lcb"):
                assert text == f"{family.key}({strength:g})"
                doubt = variance.sqrt() if family.key == "lcb_std" else variance
                expected = best_of_n_curve(mean - strength * doubt, gold, group, study.n_values)
            elif family.key == "hedged n":
                expected = best_of_n_curve(mean, gold, group, [min(n, int(strength)) for n in study.n_values])
            elif family.key == "top_k":
                expected = top_k_curve(mean, gold, group, study.n_values, [int(strength)])[0]
            else:
                # subsets are drawn: the end, where all candidates are present, is exact
                exact = strategy_curve([parse_strategy(text)], mean, gold, group, [study.n_values[-1]]).mean[0]
                assert band.value[-1] == pytest.approx(exact.mean().item(), abs=1e-6), text
                continue
            assert band.value == pytest.approx(expected.mean(0).tolist(), abs=1e-6), text
    # penalties span decades around the spread of the mean
    relative = next(family.relative for family in study.families if family.key == "lcb_std")
    assert relative == pytest.approx(0.1 * 10 ** (0.5 * np.arange(6)))
    typical = float(variance.sqrt().median())
    spread = study.rewards["reward"].spread_of_means
    std = next(family for family in study.families if family.key == "lcb_std")
    assert std.strengths == pytest.approx(np.array(relative) * spread / typical, rel=0.01)


def tuning_of(num_prompts, seed, num_bootstrap=10):
    return Tuning(Resamples(num_prompts, num_bootstrap, 0.95, seed=0), 50, seed)


def test_tuned_curves_against_a_loop():
    """Chosen on some prompts, judged on the others, for each n and each scale."""
    rng = np.random.default_rng(2)
    lines = {"gold": rng.normal(size=(4, 21, 3)), "gold_standardized": rng.normal(size=(4, 21, 3))}
    lines["length"] = rng.normal(size=(4, 21, 3))
    family = Family("rule", "strength", (1.0, 2.0, 3.0, 4.0), None, ("a", "b", "c", "d"), 1, lines)
    tuning = tuning_of(21, seed=3)
    assert tuning.num_calibration == 10
    found, chosen = tuning.tuned(family, ["gold", "gold_standardized"])
    splits = tuning._chooses.astype(bool)
    assert len(splits) >= 20
    assert (splits.sum(1) == 10).all()
    assert (~splits).any(0).all()
    times = np.zeros(4)
    for name, by in (("gold", "gold"), ("gold_standardized", "gold_standardized"), ("length", "gold")):
        for prompt in range(21):
            for n in range(3):
                values = []
                for chooses in splits:
                    if not chooses[prompt]:
                        best = max(range(4), key=lambda k: lines[by][k, chooses, n].mean())
                        values.append(lines[name][best, prompt, n])
                assert found.expected[name][prompt, n] == pytest.approx(np.mean(values))
    for chooses in splits:
        times[lines["gold"][:, chooses, 2].mean(1).argmax()] += 1 / len(splits)
    assert chosen == pytest.approx(times)
    assert tuning_of(1000, seed=0).num_calibration == 50
    assert tuning_of(19, seed=0).num_calibration == 0


@pytest.mark.parametrize("num_prompts", [21, 70])
def test_strengths_are_chosen_again_in_every_resample(num_prompts):
    """Against a loop that repeats prompts as they were drawn, and tunes on these by hand."""
    rng = np.random.default_rng(3)
    lines = {name: rng.normal(size=(4, num_prompts, 3)) for name in ("gold", "gold_standardized", "length")}
    family = Family("rule", "strength", (1.0, 2.0, 3.0, 4.0), None, ("a", "b", "c", "d"), 1, lines)
    resamples = Resamples(num_prompts, 12, 0.95, seed=1)
    tuning = Tuning(resamples, 50, seed=3)
    found, _ = tuning.tuned(family, ["gold", "gold_standardized"])
    splits = tuning._chooses.astype(bool)
    for row, counts in enumerate(resamples.counts()):
        rows = np.repeat(np.arange(num_prompts), counts)
        for name, by in (("gold", "gold"), ("gold_standardized", "gold_standardized"), ("length", "gold")):
            for n in range(3):
                best = [lines[by][:, rows[chooses[rows]], n].sum(1).argmax() for chooses in splits]
                values = [
                    np.mean([lines[name][k, prompt, n] for k, one in zip(best, splits, strict=True) if not one[prompt]])
                    for prompt in rows
                ]
                assert found.draws[name][row, n] == pytest.approx(np.mean(values))
    # what all strengths agree on is a mean of fixed numbers
    alike = replace(family, lines={"gold": np.repeat(lines["gold"][:1], 4, axis=0)})
    same, _ = tuning.tuned(alike, ["gold"])
    assert same.draws["gold"] == pytest.approx(resamples.means(lines["gold"][0]))


def test_a_choice_is_not_praised_by_the_prompts_that_made_it():
    """Strengths that differ by noise alone are worth nothing: neither is the tuned curve."""
    rng = np.random.default_rng(4)
    lines = {"gold": rng.normal(size=(30, 200, 40))}
    family = Family("rule", "strength", tuple(map(float, range(30))), None, ("",) * 30, 1, lines)
    found, _ = tuning_of(200, seed=0).tuned(family, ["gold"])
    in_hindsight = lines["gold"].mean(1).max(0)
    assert in_hindsight.mean() > 0.1
    assert abs(found.expected["gold"].mean()) < 0.02


def test_few_prompts_tune_nothing():
    study = best_of_n_study(table(np.random.default_rng(5), num_prompts=8), num_bootstrap=20)
    assert study.settings.num_calibration_prompts == 0
    assert study.families == ()
    assert not any("tuned" in one.key for one in study.curves)
    written = [one for one in study.curves if one.strategy is not None]
    assert [one.strategy.partition("(")[0] for one in written] == ["top_k", "soft", "pessimism"]
    assert [one.key for one in written] == ["top_k", "soft", "pessimism"]
    assert [one.label for one in written] == [one.strategy for one in written]
    assert written[0].standard_error is None
    assert max(written[1].standard_error["gold"]) > 0
    assert any("too few prompts (8) to choose" in note for note in study.notes)


def test_nothing_is_tuned_without_gold_or_by_request():
    data = table(np.random.default_rng(15))
    blind = best_of_n_study(data.drop_columns(["gold"]), num_bootstrap=20)
    assert (blind.families, blind.verdicts, blind.laws, blind.hacked) == ((), {}, {}, ())
    assert blind.settings.num_calibration_prompts == 0
    assert {"random", "top_k", "soft", "pessimism"} <= {one.key for one in blind.curves}
    assert not any("tuned" in one.key for one in blind.curves)
    untuned = best_of_n_study(data, num_calibration_prompts=0, num_bootstrap=20)
    assert untuned.families == ()


@pytest.mark.parametrize(
    "bad",
    [
        {"num_resamples": 1}, {"num_calibration_prompts": -1}, {"num_shuffles": -1}, {"num_bootstrap": 0},
        {"num_pairs": 0}, {"num_examples": -1}, {"max_characters": -1}, {"confidence_level": 2.0},
    ],
)  # fmt: skip
def test_bad_numbers_are_named_before_anything_is_read(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} must"):
        best_of_n_study(pa.table({"no": [1]}), **bad)


def test_penalties_are_tuned_where_most_variances_are_zero():
    rng = np.random.default_rng(18)
    data = table(rng, reward_variance=np.where(rng.random(240) < 0.7, 0.0, rng.uniform(0.1, 2, size=240)))
    study = best_of_n_study(data, num_bootstrap=20)
    (family,) = (family for family in study.families if family.key == "lcb_std")
    variance = data["reward_variance"].to_numpy()
    typical = float(torch.tensor(np.sqrt(variance[variance > 0])).median())
    expected = np.array(family.relative) * study.rewards["reward"].spread_of_means / typical
    assert family.strengths == pytest.approx(expected, rel=0.01)
    flat = best_of_n_study(table(rng, reward_mean=np.ones(240)), num_bootstrap=20)
    assert any("the same for all candidates" in note for note in flat.notes)


def test_a_label_is_not_that_of_a_baseline():
    for label in ("soft", "top_k", "pessimism", "mbr", "consensus", "hedged n", "uwo", "soft, tuned"):
        with pytest.raises(UtilityError, match="is what a control or a baseline is called"):
            best_of_n_study(table(np.random.default_rng(19), 4), utilities={"mean": "mean", label: "lcb_std"})


def test_oracle_n_is_the_best_so_far():
    study = best_of_n_study(table(np.random.default_rng(6)), num_bootstrap=20)
    for scale in study.gold_scales:
        first = np.array(study.curve("mean").bands[scale].value)
        assert study.curve("oracle n").bands[scale].value == pytest.approx(np.maximum.accumulate(first))


def test_members_bring_the_rules_of_coste_et_al():
    data = table(np.random.default_rng(7), members=4)
    study = best_of_n_study(data, utilities=["mean"], num_bootstrap=20)
    scores = np.array(data["reward_members"].to_pylist())
    gold, group = (torch.tensor(data[name].to_numpy()) for name in ("gold", "prompt_id"))
    wanted = {"worst": scores.min(1), "uwo": scores.mean(1) - 0.5 * scores.var(1)}
    for key, value in wanted.items():
        expected = best_of_n_curve(torch.tensor(value), gold, group, study.n_values).mean(0)
        assert study.curve(key).bands["gold"].value == pytest.approx(expected.tolist(), abs=1e-6)
        assert study.curve(key).kind == "baseline"
    assert study.curve("uwo").utility == "lcb_var(0.375)"  # the stored variance is divided by 3
    again = best_of_n_study(data, utilities=["mean", "worst", study.curve("uwo").utility], num_bootstrap=20)
    assert [one.key for one in again.curves if one.kind == "baseline"][:2] == ["random", "hedged n"]


def test_embeddings_bring_minimum_bayes_risk():
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(240, 3)).astype(np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3)
    data = table(rng).append_column("embedding", embedding)
    study = best_of_n_study(data, num_bootstrap=20)
    assert "mbr, tuned" in [one.key for one in study.curves]
    family = next(family for family in study.families if family.key == "mbr")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pools = unit.reshape(24, 10, 3)
    similarity = np.einsum("bnd,bd->bn", pools, pools.mean(1))
    mean, gold = (data[name].to_numpy().reshape(24, 10) for name in ("reward_mean", "gold"))
    picks = (mean + family.strengths[2] * similarity).argmax(1)
    assert family.gold["gold"][2].value[-1] == pytest.approx(gold[np.arange(24), picks].mean(), abs=1e-6)
    expected = np.array(family.relative) * study.rewards["reward"].spread_of_means / similarity.std(1).mean()
    assert family.strengths == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("first", ["mean", "flat", "prob_best"])
def test_consensus_picks_what_is_most_like_the_candidates_present(first):
    """Against all subsets of a pool of six, whatever the first utility is worth."""
    rng = np.random.default_rng(20)
    vectors = rng.normal(size=(22 * 6, 3)).astype(np.float32)
    extra = {"reward_mean": np.ones(132)} if first == "flat" else {}
    data = table(rng, 22, 6, members=0 if extra else 3, **extra)
    data = data.append_column("embedding", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3))
    study = best_of_n_study(
        data, utilities=["mean" if extra else first, "lcb_var"], n_values=[1, 3, 6], num_bootstrap=20
    )
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).reshape(22, 6, 3)
    gold = data["gold"].to_numpy().reshape(22, 6)
    curve = study.curve("consensus")
    assert (curve.kind, curve.variance) == ("baseline", None)
    for place, n in enumerate(study.n_values):
        subsets = [list(one) for one in itertools.combinations(range(6), n)]
        picks = [[one[(pool[one] @ pool[one].T).mean(1).argmax()] for one in subsets] for pool in unit]
        expected = np.take_along_axis(gold, np.array(picks), 1).mean()
        margin = 4 * curve.standard_error["gold"][place]
        assert curve.bands["gold"].value[place] == pytest.approx(expected, abs=margin + 1e-6)
    if first == "mean":
        # as a strategy that a user may write
        mean, group = (torch.tensor(data[name].to_numpy()) for name in ("reward_mean", "prompt_id"))
        weights = pick_probabilities(parse_strategy(curve.strategy), mean, group, embedding=torch.tensor(vectors))
        assert float(weights @ torch.tensor(gold).flatten() / 22) == pytest.approx(curve.bands["gold"].value[-1])
        for key in ("mean", "lcb_var", "mbr, tuned"):
            lead = study.curve(key).outcomes["gold"].versus["consensus"]
            at_last = study.curve(key).bands["gold"].value[-1] - curve.bands["gold"].value[-1]
            assert lead.value == pytest.approx(at_last)
        assert "consensus" not in study.curve("longest").outcomes["gold"].versus
    else:
        assert (curve.utility, curve.strategy) == (None, None)
        assert "mbr" not in [one.key for one in study.families]


@pytest.mark.parametrize(
    ("kind", "missing"), [("list", [5, 17, 18]), ("fixed", [*range(10)]), ("nan", [5]), ("inf", [5])]
)
def test_responses_without_an_embedding_resemble_nothing(kind, missing):
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(240, 3)).astype(np.float32)
    vectors[missing] = 0
    data = table(rng)
    expected = best_of_n_study(
        data.append_column("embedding", pa.array(vectors.tolist(), pa.list_(pa.float32(), 3))), num_bootstrap=20
    )
    given = vectors.tolist()
    for row in missing:
        given[row] = {"nan": [np.nan, 1.0, 2.0], "inf": [1.0, np.inf, 0.0]}.get(kind)
    written = pa.array(given, pa.list_(pa.float32()) if kind == "list" else pa.list_(pa.float32(), 3))
    study = best_of_n_study(data.append_column("embedding", written), num_bootstrap=20)
    assert study.curve("mbr, tuned").bands == expected.curve("mbr, tuned").bands
    assert any(note.startswith(f"{len(missing)} of 240 responses have no finite embedding") for note in study.notes)
    assert not any("embedding" in note for note in expected.notes)


def test_embeddings_that_are_none_are_told():
    rng = np.random.default_rng(8)
    data = table(rng)
    for blank in ([None] * 240, [[np.nan, 1.0]] * 240):
        study = best_of_n_study(
            data.append_column("embedding", pa.array(blank, pa.list_(pa.float32(), 2))), num_bootstrap=20
        )
        assert not any(one.key.startswith("mbr") for one in study.curves)
        assert any("240 of 240 responses have no finite embedding" in note for note in study.notes)
    ragged = pa.array([[1.0], *[[1.0, 2.0]] * 239])
    with pytest.raises(DataError, match="'embedding' must be lists of numbers of one length"):
        best_of_n_study(data.append_column("embedding", ragged), num_bootstrap=20)


def test_a_utility_that_looks_at_the_others_is_drawn_with_its_error():
    study = best_of_n_study(
        table(np.random.default_rng(9), members=3), utilities=["prob_best", "mean"], num_bootstrap=20
    )
    drawn, exact = study.curve("prob_best"), study.curve("mean")
    assert exact.standard_error is None
    assert drawn.kl is None
    assert set(drawn.standard_error) == set(drawn.bands)
    assert max(drawn.standard_error["gold"]) > 0
    assert any("put another utility first" in note for note in study.notes)
    assert not any(
        one.key.startswith(("soft", "shuffled: prob_best", "length as variance: prob")) for one in study.curves
    )
    assert any(note.startswith("prob_best: no controls of the variance") for note in study.notes)
    # what is built from drawn curves is as uncertain as these
    for key in ("hedged n", "oracle n"):
        assert max(study.curve(key).standard_error["gold"]) > 0


def test_drawn_picks_against_all_subsets():
    data = table(np.random.default_rng(17), num_prompts=8, size=6, members=3)
    study = best_of_n_study(data, utilities=["prob_best"], n_values=[1, 2, 4, 6], num_resamples=64, num_bootstrap=20)
    members = np.array(data["reward_members"].to_pylist()).reshape(8, 6, 3)
    gold, drawn = data["gold"].to_numpy().reshape(8, 6), study.curve("prob_best")
    for place, n in enumerate(study.n_values):
        picks = []
        for prompt, subset in itertools.product(range(8), itertools.combinations(range(6), n)):
            own = members[prompt, list(subset)]
            times_best = np.bincount(own.argmax(0), minlength=n)
            picks.append(gold[prompt, list(subset)][times_best == times_best.max()].mean())
        off = abs(drawn.bands["gold"].value[place] - np.mean(picks))
        assert off <= 4 * drawn.standard_error["gold"][place] + 1e-6, n


def test_length_takes_the_place_of_variance():
    group = torch.tensor([0] * 5 + [1] * 4)
    variance = torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0, 0.4, 0.1, 0.2, 0.3])
    length = torch.tensor([10.0, 50, 20, 40, 30, 7, 5, 6, 8])
    rewards = RewardSet.of(GaussianRewards(torch.arange(9.0), variance, group))
    found = length_as_variance(rewards, length, group, torch.Generator().manual_seed(0)).rewards["reward"]
    assert found.variance.tolist() == pytest.approx([1, 5, 2, 4, 3, 0.3, 0.1, 0.2, 0.4])
    assert found.mean.tolist() == list(range(9))


def test_length_is_taken_out_of_variance():
    rng = np.random.default_rng(10)
    group = torch.arange(3).repeat_interleave(40)
    length = torch.tensor(rng.uniform(10, 500, size=120))
    variance = torch.tensor(0.01 * length.numpy() + rng.exponential(size=120))
    variance[80:] = 0.02 * length[80:]  # all length
    left = without_length(variance, length, group, torch.Generator())
    assert bool((left > 0).all())
    for prompt in range(3):
        rows = group == prompt
        assert left[rows].mean().item() == pytest.approx(variance[rows].mean().item())
    assert spearman_within(variance, length, group)[:2].min() > 0.6
    assert spearman_within(left, length, group)[:2].abs().max() < 0.35
    assert left[80:].std().item() == pytest.approx(0, abs=1e-9)
    # where no residual had to be raised, it is the line's residual plus the mean
    rows = slice(0, 40)
    slope, intercept = np.polyfit(length[rows].numpy(), variance[rows].numpy(), 1)
    plain = variance[rows].numpy() - slope * (length[rows].numpy() - length[rows].numpy().mean())
    raised = np.maximum(plain, variance[rows].min().item())
    assert left[rows].numpy() == pytest.approx(raised * variance[rows].mean().item() / raised.mean())
    assert np.isfinite(intercept)


def test_members_are_scaled_to_the_variance_that_is_left():
    rng = np.random.default_rng(11)
    group = torch.arange(2).repeat_interleave(20)
    members = torch.tensor(rng.normal(size=(40, 3)))
    rewards = MemberRewards(members, group, within_variance=torch.tensor(rng.uniform(0.1, 1, size=40)))
    length = torch.tensor(rng.uniform(1, 9, size=40))
    changed = length_out_of_variance(RewardSet.of(rewards), length, group, torch.Generator()).rewards["reward"]
    wanted = without_length(rewards.variance, length, group, torch.Generator())
    torch.testing.assert_close(changed.variance, wanted)
    torch.testing.assert_close(changed.mean, rewards.mean)
    ratio = (changed.members - changed.mean[:, None]) / (members - rewards.mean[:, None])
    torch.testing.assert_close(ratio, ratio[:, :1].expand(-1, 3))


def test_controls_of_length_are_drawn_from_changed_variances():
    rng = np.random.default_rng(12)
    data = table(rng, length=rng.permutation(240))  # no two are equal
    study = best_of_n_study(data, utilities=["mean", "lcb_var(2)"], num_bootstrap=20)
    mean, variance, gold, length = (
        torch.tensor(data[name].to_numpy()).double() for name in ("reward_mean", "reward_variance", "gold", "length")
    )
    group = torch.tensor(data["prompt_id"].to_numpy())
    for start, changed in (
        (
            "length as variance",
            variance.reshape(24, 10).sort(1).values.gather(1, length.reshape(24, 10).argsort(1).argsort(1)).reshape(-1),
        ),
        ("length out of variance", without_length(variance, length, group, torch.Generator())),
    ):
        expected = best_of_n_curve(mean - 2 * changed, gold, group, study.n_values).mean(0)
        assert study.curve(f"{start}: lcb_var(2)").bands["gold"].value == pytest.approx(expected.tolist())
        # tuned ones are tuned anew on the changed variances
        for family in study.families:
            if family.parameter in ("num_std", "variance_weight"):
                doubt = changed.sqrt() if family.parameter == "num_std" else changed
                curves = [
                    best_of_n_curve(mean - strength * doubt, gold, group, study.n_values)
                    for strength in family.strengths
                ]
                again = replace(EMPTY, key=family.key, strengths=family.strengths)
                again = replace(again, lines={"gold": torch.stack(curves).numpy()})
                found = tuning_of(24, seed=0).tuned(again, ["gold"])[0].expected["gold"].mean(0)
                assert study.curve(f"{start}: {family.key}, tuned").bands["gold"].value == pytest.approx(found.tolist())
    nothing = best_of_n_study(data.drop_columns(["length"]), num_bootstrap=20)
    assert not any(one.key.startswith("length") for one in nothing.curves)


def test_single_precision_of_large_pools_says_the_same(monkeypatch):
    data = table(np.random.default_rng(13), gold=1000 + np.random.default_rng(14).normal(size=240))
    exact = best_of_n_study(data, num_bootstrap=20)
    monkeypatch.setattr("prudent.evaluation._study_pool._DOUBLE_ROWS", 0)
    rounded = best_of_n_study(data, num_bootstrap=20)
    assert [one.key for one in rounded.curves] == [one.key for one in exact.curves]
    for one in exact.curves:
        if one.kind == "utility" or one.key in ("longest", "oracle", "random"):  # no choice that rounding may turn
            for name, band in one.bands.items():
                found = rounded.curve(one.key).bands[name]
                assert found.value == pytest.approx(band.value, abs=2e-5, rel=1e-7), one.key


def test_shuffling_a_constant_variance_changes_no_tuned_penalty():
    rng = np.random.default_rng(20)
    study = best_of_n_study(table(rng, reward_variance=np.repeat(rng.uniform(0.1, 2, size=24), 10)), num_bootstrap=20)
    for key in ("lcb_std, tuned", "lcb_var, tuned"):
        for name, band in study.curve(f"shuffled: {key}").bands.items():
            assert band.value == pytest.approx(study.curve(key).bands[name].value), (key, name)


def test_controls_that_are_one_ranking_have_its_kl():
    """Equal values share the pick, so they move less far than the formula for values without ties."""
    rng = np.random.default_rng(21)
    ties = {"reward_mean": rng.integers(0, 2, size=240).astype(float), "reward_variance": np.full(240, 0.5)}
    once = best_of_n_study(table(rng, **ties), utilities=["mean", "lcb_std"], num_shuffles=1, num_bootstrap=20)
    for start in ("shuffled", "length as variance", "length out of variance"):
        control = once.curve(f"{start}: lcb_std")
        assert control.kl == pytest.approx(once.curve("lcb_std").kl)
        assert control.effective_size == pytest.approx(once.curve("lcb_std").effective_size)
