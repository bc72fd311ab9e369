import dataclasses
import re
from types import SimpleNamespace

import pytest

from prudent.evaluation import (
    Band,
    BestOfNStudy,
    Counts,
    Curve,
    EnsembleFacts,
    Estimate,
    Evaluation,
    Figure,
    LawFit,
    Outcome,
    Reliability,
    Rescue,
    RewardScale,
    StrengthFamily,
    StudySettings,
    Verdict,
)
from prudent.reports._advice import cautions, meanings, several_cautions, shipped
from prudent.reports._first_screen import first_screen, several_first
from prudent.reports._held_out import HeldOut, held_out_pairs
from prudent.reports._laws import law_pictures
from prudent.reports._sparkline import sparkline
from prudent.reports._style import looks, tick_values
from prudent.reports._words import ensemble_sentence, flat_scales, held_out_sentence, interval, number, sentences

N = (1, 10, 100)


def outcome(peak, drop, p_value, lead=None, kept=None):
    return Outcome(
        peak_n=peak,
        peak_n_low=peak,
        peak_n_high=peak,
        gain=Estimate(1.0, 0.5, 1.5),
        drop=Estimate(drop, drop - 0.1, drop + 0.1),
        drop_p_value=p_value,
        kept=None if kept is None else Estimate(kept, kept - 0.1, kept),
        versus={} if lead is None else {"first": Estimate(*lead)},
        share_above_first=None,
    )


def curve(key, found, variance=(1.0, 1.0, 2.0), kind="utility"):
    bands = {"gold": Band((0.0, 1.0, 1.0), (0.0, 0.9, 0.9), (0.0, 1.1, 1.1)), "proxy": Band(*[(0.0, 1.0, 2.0)] * 3)}
    bands["variance"] = Band(variance, variance, variance)
    return Curve(
        key=key,
        label=key,
        kind=kind,
        utility=key if kind == "utility" else None,
        strategy=None,
        variance=None if key == "mean" else "marginal",
        beside=None,
        kl=(0.0, 1.4, 3.6),
        standard_error=None,
        effective_size=None,
        bands=bands,
        outcomes={"gold": found},
        by_seed={},
    )


def study(*curves, reliability=(), verdict=None, scales=("gold",)):
    return BestOfNStudy(
        n_values=N,
        one_policy=True,
        gold_scales=scales,
        curves=curves,
        reliability=reliability,
        disagreements=(),
        hacked=(),
        families=(),
        laws={},
        verdicts={} if verdict is None else {"gold": verdict},
        trade_off=None,
        counts=Counts(4, 400, 400, 100, 100, 0, 0, 0, 0, None, 0),
        rewards={"reward": RewardScale(1.0, 1.0, None, None)},
        settings=StudySettings(0.95, 100, 10, 0, 16, 1, 0),
        notes=(),
    )


def test_numbers():
    assert [number(x) for x in (12500, 123.45, 1.234, 0.1234, 0, -0.5)] == [
        "12,500",
        "123.5",
        "1.23",
        "0.123",
        "0.000",
        "\u22120.500",
    ]
    assert number(0.00012) == "1.2e-04"
    assert interval(Estimate(0.31, 0.1, 0.5), signed=True) == "+0.310 [0.100, 0.500]"


def test_falls_are_told_apart_from_chance():
    turning, unsure = curve("mean", outcome(10, 0.31, 0.001)), curve("mean", outcome(10, 0.05, 0.4))
    assert "turns over at n = 10 and ends 0.310 [0.210, 0.410] below its peak" in sentences(study(turning), "gold")[0]
    assert "not a significant fall (p = 0.400)" in sentences(study(unsure), "gold")[0]
    rising = sentences(study(curve("mean", outcome(100, 0.0, 1.0))), "gold")[0]
    assert rising.startswith("Gold under mean rises to the end, n = 100; it ends 1.00 [0.500, 1.50] above a random")


def test_curves_are_compared_by_their_intervals():
    found = study(
        curve("mean", outcome(100, 0.0, 1.0)),
        curve("lcb_std", outcome(100, 0.0, 1.0, (0.2, 0.1, 0.3))),
        curve("lcb_var", outcome(10, 0.2, 0.001, (-0.4, -0.6, -0.2))),
        curve("entropic", outcome(100, 0.0, 1.0, (0.1, -0.1, 0.3))),
        curve("soft, tuned", outcome(100, 0.0, 1.0, (0.5, 0.1, 0.9)), kind="baseline"),
        curve("oracle n", outcome(100, 0.0, 1.0, (2.0, 1.0, 3.0)), kind="control"),
    )
    lines = sentences(found, "gold")
    compared = next(line for line in lines if line.startswith("Against mean at n = 100"))
    assert "above: lcb_std +0.200 [0.100, 0.300]; no sure difference: entropic" in compared
    assert compared.endswith("below: lcb_var \u22120.400 [\u22120.600, \u22120.200].")
    assert any(line.startswith("Also turning over: lcb_var (at n = 10") for line in lines)
    assert any("2.00 under mean" in line for line in lines)
    others = next(line for line in lines if line.startswith("Other ways to pick, against mean"))
    assert "soft, tuned +0.500" in others
    assert "oracle" not in others


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        ((0.1, 0.05, 0.15), "surer than it is right"),
        ((-0.1, -0.15, -0.05), "less sure than it is right"),
        ((0.0, -0.05, 0.05), "within the interval"),
    ],
)
def test_reliability_in_words(gap, words):
    one = Reliability(
        pairs="top",
        num_pairs=10,
        num_gold_ties=0,
        exact_contrast=False,
        confidence=(0.7,),
        share_right=Band((0.6,), (0.5,), (0.7,)),
        count=(10,),
        accuracy=Estimate(0.6, 0.5, 0.7),
        overconfidence=Estimate(*gap),
        brier=Estimate(0.2, 0.1, 0.3),
        coverage=(0.5, 1.0),
        risk=Band((0.3, 0.4), (0.2, 0.3), (0.4, 0.5)),
        area=Estimate(0.35, 0.3, 0.4),
        calibration_error=0.1,
    )
    line = sentences(study(curve("mean", outcome(100, 0.0, 1.0)), reliability=(one,)), "gold")[-1]
    assert words in line
    assert "independent approximation" in line
    assert "in 0.600 [0.500, 0.700], in the surer half of them in 0.700 [0.600, 0.800]" in line


@pytest.mark.parametrize(
    ("likelihood", "area", "words"),
    [
        ((-0.2, -0.3, -0.1), (-0.1, -0.2, 0.1), "probabilities better (negative log-likelihood \u22120.200"),
        ((0.2, 0.1, 0.3), (-0.1, -0.2, -0.05), "order by confidence better (AURC \u22120.100"),
        ((0.2, 0.1, 0.3), (0.1, 0.05, 0.2), "order by confidence worse (AURC +0.100"),
        ((0.0, -0.1, 0.1), None, "ranks 0.700 [0.600, 0.800] as labeled."),
        ((0.01, -0.1, 0.1), (-0.1, -0.2, 0.1), "probabilities neither better nor worse for sure (negative"),
    ],
)
def test_held_out_pairs_in_words(likelihood, area, words):
    found = SimpleNamespace(
        num_pairs=1200,
        accuracy=Figure(0.7, 0.6, 0.8),
        nll_difference=Figure(*likelihood),
        area_difference=None if area is None else Figure(*area),
        bounds=None,
    )
    line = held_out_sentence(HeldOut("kron", found))
    assert line.startswith("On 1,200 held-out pairs, kron ranks 0.700 [0.600, 0.800] as labeled")
    assert words in line


@pytest.mark.parametrize("n_max", [1, 2, 3, 54, 100, 12_500, 1_000_000])
def test_ticks(n_max):
    ticks = tick_values(n_max)
    assert ticks[-1] == n_max
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 8


def test_an_ensemble_is_told_with_its_size_and_what_its_variance_is():
    sentence = ensemble_sentence(EnsembleFacts(9, 1, has_within_variance=False))
    assert "the average of 9 members, the variance that between them (divided by 8)" in sentence
    assert sentence.endswith("relative standard error of about 50%.")
    sentence = ensemble_sentence(EnsembleFacts(2, 0, has_within_variance=True))
    assert "(divided by 2)" in sentence
    assert sentence.endswith("added is the members' own variance, averaged.")


LCB = curve("lcb_std, tuned", outcome(100, 0.0, 1.0, (0.5, 0.3, 0.7)), kind="baseline")


def verdict(*, hacked=True, peak=10, from_n=32, p_value=0.004, held_out=(0.4, 0.2, 0.6), ahead=(0.5, 0.3, 0.7)):
    rescue = None if held_out is None else Rescue(LCB.key, Estimate(*ahead), Estimate(*held_out))
    return Verdict(hacked, peak, from_n, Estimate(0.31, 0.1, 0.5), p_value, rescue)


def answered(peak=10, gain=None, **more):
    found = outcome(peak, 0.31, 0.004)
    if gain is not None:
        object.__setattr__(found, "gain", Estimate(*gain))
    return first_screen(study(curve("mean", found), LCB, verdict=verdict(peak=peak, **more)), "gold")


def test_hacked_says_from_when_how_much_and_what_would_have_helped():
    found = answered()
    assert (found.tone, found.rescue) == ("hacked", LCB.key)
    assert found.answer == "Yes, from n = 32 on; tuned lcb_std would have helped."
    assert "peaks at n = 10 and by n = 100 has lost 0.310 [0.100, 0.500] (p = 0.004);" in found.sentence
    # the rescue by the half of the prompts that did not choose it, not by its flattered lead
    assert "ends 0.400 [0.200, 0.600] above mean on the other half." in found.sentence
    assert [one.value for one in found.figures] == ["n = 10", "0.310", "+0.400"]


@pytest.mark.parametrize(
    ("more", "answer", "said"),
    [
        ({"held_out": (0.1, -0.1, 0.3)}, "no rule here surely would have helped", "not measurably better on the other"),
        ({"held_out": (-0.4, -0.6, -0.2)}, "no rule here surely", "ends 0.400 [0.200, 0.600] below mean on the other"),
        ({"ahead": (0.1, -0.1, 0.3)}, "no rule here surely", "above mean on the other half"),
        (
            {"held_out": None},
            "Yes, from n = 32 on; no rule here would have helped.",
            "no other rule here ends above it",
        ),
        ({"from_n": None}, "Yes, but one cannot say from which n on;", "has lost"),
        ({"hacked": False, "from_n": None, "p_value": 0.2}, "No sure fall up to n = 100.", "may be chance (p = 0.200"),
        ({"hacked": False, "from_n": None, "p_value": None}, "One prompt is too few to say.", "for this prompt;"),
        (
            {"hacked": False, "from_n": None, "peak": 100},
            "No fall seen up to n = 100.",
            "1.00 [0.500, 1.50] above a random",
        ),
    ],
)
def test_no_more_is_claimed_than_is_known(more, answer, said):
    found = answered(**more)
    assert answer in found.answer
    assert said in found.sentence
    assert ("Yes" in found.answer) == more.get("hacked", True)


def test_a_curve_that_never_rises_is_not_praised():
    found = answered(hacked=False, from_n=None, peak=100, gain=(0.1, -0.2, 0.4))
    assert "not measurably different from a random response (+0.100" in found.sentence
    assert "below a random response" in answered(hacked=False, peak=100, gain=(-0.5, -0.8, -0.2)).sentence


def test_without_gold_nothing_is_judged():
    found = first_screen(study(curve("mean", outcome(100, 0.0, 1.0)), scales=()), "gold")
    assert found.answer == "Without gold nobody can say."
    assert "By the proxy's own account" in found.sentence
    assert found.figures == ()


def test_several_studies_are_counted():
    mean = curve("mean", outcome(10, 0.31, 0.004))
    late, early = (study(mean, LCB, verdict=verdict(from_n=n)) for n in (64, 32))
    fine = study(mean, LCB, verdict=verdict(hacked=False, from_n=None))
    found = several_first({"a": late, "b": early, "c": fine}, "gold")
    assert found.answer == "2 of 3 are hacked."
    assert "The first to fall is b, from n = 32 on; it ends 0.310 [0.100, 0.500] below its peak" in found.sentence
    assert "measurably better in 2 of 2. Chance alone calls up to one harmless reward model in 20" in found.sentence
    assert "Chance" not in several_first({"a": late}, "gold").sentence
    unclear = several_first({"c": fine, "d": study(mean, LCB, verdict=verdict(hacked=False, p_value=0.2))}, "gold")
    assert unclear.answer == "No sure fall in any of 2."
    assert "which does not show that none would; nearest comes c, which by n = 100 has lost 0.310" in unclear.sentence


def test_baselines_look_alike_however_their_strength_was_set():
    found = outcome(100, 0.0, 1.0, (0.1, -0.1, 0.3))
    keys = ("soft, tuned", "soft(0.138)", "hedged n", "lcb_std, tuned", "shuffled: lcb_std, tuned")
    curves = [curve(key, found, kind="control" if ":" in key else "baseline") for key in keys]
    seen = looks(study(curve("mean", found), curve("lcb_std", found), *curves))
    assert seen["soft, tuned"] == seen["soft(0.138)"] != seen["hedged n"]
    assert all(seen[key].shown for key in keys[:-1])
    assert seen["lcb_std, tuned"].color == seen["lcb_std"].color == seen["shuffled: lcb_std, tuned"].color
    assert seen["lcb_std, tuned"].dash != seen["lcb_std"].dash
    assert not seen["shuffled: lcb_std, tuned"].shown


FOUND = outcome(100, 0.0, 1.0)
MEAN = curve("mean", FOUND)


def family(key, texts, chosen, parameter):
    gold = {"gold": tuple(Band((0.0,), (0.0,), (0.0,)) for _ in texts)}
    strengths = tuple(float(place + 1) for place in range(len(texts)))
    return StrengthFamily(key, parameter, strengths, None, texts, gold, chosen)


def with_families(*families, curves=(LCB,), **changes):
    return dataclasses.replace(study(MEAN, *curves, verdict=verdict()), families=families, **changes)


def prompts(found, count, seeds=1):
    counts = dataclasses.replace(found.counts, num_prompts=count)
    return dataclasses.replace(found, counts=counts, settings=dataclasses.replace(found.settings, num_seeds=seeds))


def test_a_tuned_rule_is_told_with_its_strength_and_the_line_to_type():
    texts = ("lcb_std(1)", "lcb_std(2)", "lcb_std(4)")
    found = first_screen(with_families(family("lcb_std", texts, (0.2, 0.7, 0.1), "num_std")), "gold", "my file.parquet")
    assert found.shipped.sentence.startswith("Calibration prompts choose lcb_std(2) most often, in 70% of the draws.")
    assert found.shipped.command == (
        "prudent select --data 'my file.parquet' --utility \"lcb_std(2)\" --output picks.jsonl"
    )


@pytest.mark.parametrize(
    ("parameter", "chosen", "said"),
    [
        ("num_std", (0.0, 1.0), "strongest tried: a stronger one may be better"),
        ("num_std", (1.0, 0.0), "weakest tried: a weaker one may be better"),
        ("share_of", (1.0, 0.0), "strongest tried"),  # a larger M holds back less
        ("share_of", (0.0, 1.0), "weakest tried"),
    ],
)
def test_a_choice_at_the_end_of_what_was_tried_is_told(parameter, chosen, said):
    one = with_families(family("lcb_std", ("a", "b"), chosen, parameter))
    assert said in shipped(one, LCB, None).sentence


def test_a_strategy_is_typed_with_the_utility_that_it_picks_by():
    top = dataclasses.replace(curve("top_k, tuned", FOUND, kind="baseline"), utility="mean")
    one = with_families(family("top_k", ("top_k(4)", "top_k(16)"), (0.0, 1.0), "share_of"), curves=(top,))
    assert shipped(one, top, None).command == (
        'prudent select --data SCORED --utility "mean" --strategy "top_k(16)" --output picks.jsonl'
    )
    hedged = curve("hedged n", FOUND, kind="baseline")
    one = with_families(family("hedged n", ("n = 1", "n = 2"), (0.0, 1.0), "n"), curves=(hedged,))
    found = shipped(one, hedged, None)
    assert found.command is None
    assert found.sentence.endswith("draw no more than 2 candidates a prompt.")


def test_what_was_not_sure_to_help_is_not_told_to_be_typed():
    found = with_families(family("lcb_std", ("lcb_std(1)",), (1.0,), "num_std"))
    found = dataclasses.replace(found, verdicts={"gold": verdict(held_out=(0.1, -0.1, 0.3))})
    assert first_screen(found, "gold").shipped is None


@pytest.mark.parametrize(
    ("count", "seeds", "said"),
    [(1, 1, "One prompt only"), (8, 1, "Only 8 prompts"), (100, 2, "Only 2 seeds"), (100, 5, None), (20, 1, None)],
)
def test_few_prompts_and_few_seeds_are_told(count, seeds, said):
    found = cautions(prompts(study(MEAN), count, seeds), "gold")
    assert [one[: len(said or "")] for one in found] == ([said] if said else [])


@pytest.mark.parametrize(("ends", "is_told"), [((-0.5, -0.8, -0.2), True), ((-0.5, -1.2, 0.2), False)])
def test_a_rule_that_length_alone_beats_is_not_praised_without_saying_so(ends, is_told):
    versus = {**LCB.outcomes["gold"].versus, "longest": Estimate(*ends)}
    rescue = dataclasses.replace(LCB, outcomes={"gold": dataclasses.replace(LCB.outcomes["gold"], versus=versus)})
    found = cautions(prompts(study(MEAN, rescue, verdict=verdict()), 80), "gold")
    told = [
        "The longest response of all is better still: tuned lcb_std minus that is "
        "\u22120.500 [\u22120.800, \u22120.200]."
    ]
    assert [one.partition(" What gold")[0] for one in found] == (told if is_told else [])


def test_a_reward_without_spread_is_told():
    flat = dataclasses.replace(prompts(study(MEAN), 50), rewards={"reward": RewardScale(0.0, None, None, None)})
    assert "the same for all candidates" in cautions(flat, "gold")[0]


def test_studies_of_different_prompts_are_not_compared():
    one, two = (prompts(study(MEAN, LCB, verdict=verdict()), count) for count in (80, 64))
    assert several_cautions({"a": one, "b": one}) == ()
    assert "different numbers of prompts" in several_first({"a": one, "b": two}, "gold").cautions[0]
    both = several_first({"a": one, "b": two}, "gold")
    assert "The first to fall are a and b, from n = 32 on" in both.sentence
    assert "Few prompts, so that a fall may go unseen: c (6)." in several_cautions({"a": one, "c": prompts(one, 6)})


def test_names_of_rules_are_explained():
    centered = curve("center(mean) | lcb_std", FOUND)
    own = dataclasses.replace(curve("careful", FOUND), utility="all_of(a, b) | lcb_std")
    found = dict(meanings([MEAN, LCB, centered, own]))
    assert list(found) == ["mean", "tuned lcb_std", "center(mean) | lcb_std"]
    assert "relative to reference responses" in found["center(mean) | lcb_std"]
    assert "strength that other prompts chose" in found["tuned lcb_std"]


def law(peak_kl, r_squared=0.99):
    one = Estimate(1.0, 0.5, 1.5)
    peak = None if peak_kl is None else Estimate(*peak_kl)
    return LawFit("best_of_n", one, one, r_squared, peak, 4.0, one, peak is not None or None)


@pytest.mark.parametrize(
    ("found", "fit", "said"),
    [
        (outcome(10, 0.31, 0.001), law((1.4, 1.2, 1.6)), ""),
        (outcome(10, 0.31, 0.001), law((0.7, 0.6, 0.8)), "peak elsewhere than the points, which are highest at n = 10"),
        (outcome(10, 0.31, 0.4), law((1.4, 1.2, 1.6)), "has a peak, where the points show no sure fall"),
        (outcome(10, 0.31, 0.001), law((1.4, 1.2, 1.6), 0.85), "explains 85% of the points' variation"),
        (outcome(100, 0.0, 1.0), law(None), ""),
    ],
)
def test_a_law_that_the_points_speak_against_is_told(found, fit, said):
    one = dataclasses.replace(study(curve("mean", found)), laws={"mean": {"gold": (fit,)}})
    (picture,) = law_pictures(one, "gold", looks(one))
    assert said in picture.misfit(fit)
    assert bool(picture.misfit(fit)) == bool(said)


def test_the_band_of_a_laws_peak_ends_where_the_points_do():
    one = dataclasses.replace(study(MEAN), laws={"mean": {"gold": (law((1.4, 1.2, 36.0)),)}})
    (picture,) = law_pictures(one, "gold", looks(one))
    assert picture.peak(picture.fits[0])[2] == max(picture.distance)


def test_an_exploding_interval_does_not_flatten_the_curve():
    wide = curve("mean", FOUND)
    wide.bands["gold"] = Band((0.0, 1.0, 1.0), (0.0, -500.0, -500.0), (0.0, 500.0, 500.0))
    drawn = sparkline(dataclasses.replace(study(wide, verdict=verdict())), "gold", None, labels=False)
    line = drawn.split('class="line"')[1].split('points="')[1].split('"')[0]
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert max(heights) - min(heights) > 30
    area = drawn.split('class="area"')[1].split('points="')[1].split('"')[0]
    assert all(0 <= float(point.split(",")[1]) <= 170 for point in area.split())


def test_of_one_prompt_nothing_is_said_to_be_chance():
    one = prompts(study(MEAN, LCB, verdict=verdict(hacked=False, from_n=None, p_value=None, held_out=None)), 1)
    assert not [line for line in sentences(one, "gold") if "chance" in line or "significant" in line]
    found = first_screen(one, "gold")
    assert "chance" not in found.sentence
    assert found.figures[1].range == ""


def flat_study(noise=0.0, oracle=0.0):
    """Gold that is the same for every candidate, but for rounding errors."""
    found = [
        (key, kind, tuple(0.5 + noise * place for place in range(3)))
        for key, kind in (("mean", "utility"), ("lcb_std", "utility"), ("random", "baseline"))
    ]
    found.append(("oracle", "control", (0.5, 0.5, 0.5 + oracle)))
    curves = []
    for key, kind, gold in found:
        one = curve(key, outcome(1, noise, 1.0, (noise, -noise, noise)), kind=kind)
        curves.append(dataclasses.replace(one, bands=one.bands | {"gold": Band(gold, gold, gold)}))
    return study(*curves, verdict=verdict(hacked=False, peak=1, from_n=None, p_value=1.0, held_out=None))


def test_gold_that_is_always_the_same_answers_nothing():
    flat, told = flat_study(noise=1e-16), flat_study(noise=1e-16, oracle=1.0)
    assert flat_scales(flat) == ["gold"]
    assert flat_scales(told) == flat_scales(dataclasses.replace(flat, n_values=(1,))) == []
    assert flat_scales(study(*flat.curves[:2])) == []  # nobody says what was to be had
    first = first_screen(flat, "gold")
    assert (first.tone, first.figures, first.shipped) == ("none", (), None)
    assert first.answer == "With gold that is always the same nobody can say."
    assert any("Gold is the same for all candidates" in one for one in first.cautions)
    assert sentences(flat, "gold")[0] == "Gold is the same for all candidates of a prompt: it tells nothing of rules."
    assert not any("No significant fall" in line for line in sentences(flat, "gold"))
    assert first_screen(told, "gold").tone == "unclear"
    assert (
        several_first({"a": flat, "b": flat}, "gold").sentence
        == "None of these studies has gold that tells picks apart."
    )
    assert any("says nothing of picks: a." in one for one in several_first({"a": flat, "b": told}, "gold").cautions)
    picture = sparkline(flat, "gold", None, labels=False)
    heights = {point.split(",")[1] for point in re.search(r'class="area"[^>]*points="([^"]*)"', picture)[1].split()}
    assert len(heights) == 1  # no filled block of rounding errors


def test_rounding_errors_are_no_numbers():
    assert [number(x) for x in (8.6e-18, -3.6e-17, 1e-7)] == ["0.000", "0.000", "1.0e-07"]
    assert interval(Estimate(8.6e-18, -3.6e-17, 2.6e-17), signed=True) == "0.000 [0.000, 0.000]"


def test_of_one_prompt_nothing_is_said_of_its_posterior():
    one = Reliability(
        "random", 10, 0, True, (0.7,), Band((0.6,), (0.6,), (0.6,)), (10,), Estimate(0.6, 0.6, 0.6),
        Estimate(0.1, 0.1, 0.1), Estimate(0.2, 0.2, 0.2), (0.5, 1.0), Band(*[(0.3, 0.4)] * 3),
        Estimate(0.3, 0.3, 0.3), 0.1,
    )  # fmt: skip
    several = study(curve("mean", outcome(100, 0.0, 1.0)), reliability=(one,))
    assert any("On random pairs" in line for line in sentences(several, "gold"))
    single = dataclasses.replace(several, counts=dataclasses.replace(several.counts, num_prompts=1))
    assert not any("On random pairs" in line for line in sentences(single, "gold"))


def test_evaluations_of_one_file_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    found = object.__new__(Evaluation)
    object.__setattr__(found, "posterior", "kron")
    monkeypatch.setattr("prudent.reports._held_out.read_evaluation", lambda path: found)

    def labels(*given):
        return [one.label for one in held_out_pairs(given)]

    assert labels("e1/evaluation.json") == ["kron"]
    assert labels("e1/first.json", "e2/second.json") == ["kron (first)", "kron (second)"]
    assert labels("e1/evaluation.json", "e2/evaluation.json") == ["kron (e1/evaluation)", "kron (e2/evaluation)"]
    assert labels("a/x/e.json", "b/x/e.json", found) == ["kron (a/x/e)", "kron (b/x/e)", "kron (3)"]
    assert labels("e.json", "e.json") == ["kron (1)", "kron (2)"]
    assert labels("2.json", found, "other.json") == ["kron (2), 1", "kron (2), 2", "kron (other), 3"]
