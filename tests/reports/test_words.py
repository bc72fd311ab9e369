from types import SimpleNamespace

import pytest

from prudent.evaluation import (
    Band,
    BestOfNStudy,
    Counts,
    Curve,
    EnsembleFacts,
    Estimate,
    Figure,
    Outcome,
    Reliability,
    RewardScale,
    StudySettings,
)
from prudent.reports._held_out import HeldOut
from prudent.reports._style import tick_values
from prudent.reports._words import ensemble_sentence, headline, held_out_sentence, interval, number, sentences

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


def curve(key, found, variance=(1.0, 1.0, 2.0)):
    bands = {"gold": Band((0.0, 1.0, 1.0), (0.0, 0.9, 0.9), (0.0, 1.1, 1.1)), "proxy": Band(*[(0.0, 1.0, 2.0)] * 3)}
    bands["variance"] = Band(variance, variance, variance)
    variance = None if key in ("mean", "other") else "marginal"
    return Curve(key, key, "utility", key, variance, None, (0.0, 1.4, 3.6), bands, {"gold": found})


def study(*curves, reliability=()):
    return BestOfNStudy(
        n_values=N,
        one_policy=True,
        gold_scales=("gold",),
        curves=curves,
        reliability=reliability,
        disagreements=(),
        trade_off=None,
        counts=Counts(4, 400, 400, 100, 100, 0, 0, 0, 0, None, 0),
        rewards={"reward": RewardScale(1.0, 1.0, None, None)},
        settings=StudySettings(0.95, 100, 10, 0),
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


def test_a_significant_fall_is_called_turning_over():
    found = study(
        curve("mean", outcome(10, 0.31, 0.001)), curve("lcb_var", outcome(100, 0.0, 1.0, (0.4, 0.2, 0.6), 0.99))
    )
    text = headline(found, "gold")
    assert text.startswith("Gold under mean turns over at n = 10 and ends 0.310 below its peak")
    assert "lcb_var ends 0.400 [0.200, 0.600] above it and keeps 0.990 of its best gain" in text


def test_a_fall_within_noise_is_not():
    found = study(curve("mean", outcome(10, 0.05, 0.4)), curve("lcb_var", outcome(100, 0.0, 1.0, (0.1, -0.1, 0.3))))
    text = headline(found, "gold")
    assert "not a significant fall" in text
    assert "turns over" not in text
    assert "no utility that reads the variance ends measurably above it" in text
    assert any("not told apart: lcb_var +0.100" in line for line in sentences(found, "gold"))


def test_losing_utilities_are_said_to_lose():
    found = study(curve("mean", outcome(100, 0.0, 1.0)), curve("lcb_std", outcome(100, 0.0, 1.0, (-0.4, -0.6, -0.2))))
    assert headline(found, "gold").endswith("every utility that reads the variance ends below it.")
    assert "rises to the end" in headline(found, "gold")
    assert any("below: lcb_std" in line for line in sentences(found, "gold"))


def test_every_utility_loses_only_if_every_interval_says_so():
    mean, losing = curve("mean", outcome(100, 0.0, 1.0)), outcome(100, 0.0, 1.0, (-0.4, -0.6, -0.2))
    # the best by value is below for sure, the worst one is too uncertain to say
    wide = curve("lcb_var", outcome(100, 0.0, 1.0, (-0.5, -1.5, 0.5)))
    text = headline(study(mean, curve("lcb_std", losing), wide), "gold")
    assert text.endswith("no utility that reads the variance ends measurably above it.")
    text = headline(study(mean, curve("lcb_std", losing), curve("entropic", losing)), "gold")
    assert text.endswith("every utility that reads the variance ends below it.")


def test_a_sure_lead_is_not_hidden_by_a_larger_unsure_one():
    unsure = curve("lcb_var", outcome(100, 0.0, 1.0, (0.5, -0.5, 1.5)))
    sure = curve("lcb_std", outcome(100, 0.0, 1.0, (0.2, 0.1, 0.3)))
    text = headline(study(curve("mean", outcome(100, 0.0, 1.0)), unsure, sure), "gold")
    assert "lcb_std, one of 2 utilities that read the variance, ends 0.200" in text


def test_utilities_that_do_not_differ_by_the_variance_are_others():
    found = study(curve("mean", outcome(100, 0.0, 1.0)), curve("other", outcome(100, 0.0, 1.0, (0.1, -0.1, 0.3))))
    assert headline(found, "gold").endswith("; no other utility ends measurably above it.")


def test_the_best_of_several_utilities_is_said_to_be_that():
    found = study(
        curve("mean", outcome(100, 0.0, 1.0)),
        curve("lcb_std", outcome(100, 0.0, 1.0, (0.2, 0.1, 0.3))),
        curve("lcb_var", outcome(10, 0.2, 0.001, (0.4, 0.2, 0.6))),
    )
    assert "lcb_var, the best of 2 utilities that read the variance, ends 0.400" in headline(found, "gold")
    lines = sentences(found, "gold")
    assert any(line.startswith("Also turning over: lcb_var (at n = 10") for line in lines)
    assert any("2.00 under mean" in line for line in lines)


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
