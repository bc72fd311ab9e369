"""The text of utilities: what it means, its one written form, and errors that point at the place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prudent.errors import UtilityError
from prudent.utility import (
    AllOf,
    Center,
    Entropic,
    LcbStd,
    LogSigmoid,
    Mean,
    Temperature,
    Utility,
    Weighted,
    chain,
    combine,
    parse_utility,
    reward,
)


def test_text_and_python_say_the_same():
    parts = 'helpful | center(q=0.7) | log_sigmoid, harmless | center(canned="Sorry, no.") | log_sigmoid'
    text = f"all_of({parts}) | lcb_std(2)"
    helpful = reward("helpful") | Center(q=0.7) | LogSigmoid()
    harmless = reward("harmless") | Center(canned="Sorry, no.") | LogSigmoid()
    built = combine(AllOf(), helpful, harmless) | LcbStd(2.0)
    assert parse_utility(text) == built
    assert str(built) == text
    assert built.reward_names == ("helpful", "harmless")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("lcb_std(1.0)", "lcb_std"),
        ("reward | lcb_std(1.0)", "lcb_std"),
        ("lcb_std(num_std = 4)", "lcb_std(4)"),
        ("centre|mean", "center | mean"),
        ("center(mean)", "center(mean)"),
        ('center("mean")', "center(mean)"),
        ("a | center(statistic=quantile, q=0.5)", "a | center(q=0.5)"),
        ("a | center(at=-0.25)", "a | center(at=-0.25)"),
        ("weighted(a, b, weights=(1, 2.5))", "weighted(a, b, weights=[1, 2.5])"),
        ("minimum(\n  a | center,\n  b | center\n)", "minimum(a | center, b | center)"),
        ("lcb_std(1, true)", "lcb_std(include_noise=true)"),
        ("(a | center) | log_sigmoid", "a | center | log_sigmoid"),
        ("ensemble(a, b, ddof=0) | lcb_var(0.5)", "ensemble(a, b, ddof=0) | lcb_var(0.5)"),
        ('a | center(canned="true")', 'a | center(canned="true")'),
        ('a | center(canned="if")', 'a | center(canned="if")'),
        ("a | center(canned=none)", "a | center"),
        ("a|entropic(1e-3)", "a | entropic(0.001)"),
        ("a | clip(0, inf)", "a | clip(0)"),
        ("a | clip(-inf, 0)", "a | clip(high=0)"),
        ("ensemble(a, ddof=0) | lcb_var", "ensemble(a, ddof=0) | lcb_var"),
        ("a\r|\r\nmean", "a | mean"),
        ('a | center(canned="inf")', 'a | center(canned="inf")'),
        ('a | center(canned="\ufb01ne")', 'a | center(canned="\ufb01ne")'),
        ('a | center(canned="über")', 'a | center(canned="über")'),
        ('a | center(canned="(# no")', 'a | center(canned="(# no")'),
        ("weighted(a | mean, a | lcb_std, weights=[1, 2])", "weighted(a | mean, a | lcb_std, weights=[1, 2])"),
        (
            "weighted(a | center, a, correlation=0.5, weights=[1, 2])".replace("a,", "a | center(mean),"),
            "weighted(a | center, a | center(mean), weights=[1, 2], correlation=0.5)",
        ),
        ("a|temperature(0.1234567890123)", "a | temperature(0.1234567890123)"),
        ('a | center(canned="say \\"no\\", é 😀")', 'a | center(canned="say \\"no\\", é 😀")'),
    ],
)
def test_one_written_form(text: str, written: str):
    utility = parse_utility(text)
    assert str(utility) == written
    assert parse_utility(written) == utility


@pytest.mark.parametrize(
    "text", ["half \ud800 of a pair", "\udfff", "\x7f\x00\u2028 \r\n", "\ufb01ne", "ﬁ", "\\ud800", "😀"]
)
def test_any_canned_text_is_read_back(text: str):
    utility = reward("a") | Center(canned=text)
    str(utility).encode()
    assert parse_utility(str(utility)) == utility


@pytest.mark.parametrize(
    "name", ["mean", "my reward", "center", "all_of", "", "if", "\ufb01ne", "1st", "true", "inf", "centre"]
)
def test_names_that_cannot_be_written(name: str):
    with pytest.raises(ValueError, match="a reward cannot be called"):
        reward(name)


def test_chains_are_steps_one_after_the_other():
    assert reward() | chain(Center(), LogSigmoid()) | Mean() == parse_utility("center | log_sigmoid | mean")
    for other in (3, AllOf(), Center):
        with pytest.raises(TypeError):
            reward() | other  # type: ignore[operator]


def test_a_utility_is_returned_as_it_is():
    utility = reward("a") | Mean()
    assert parse_utility(utility) is utility


ERRORS = [
    ("", "the utility is empty", None),
    ("  \n", "the utility is empty", None),
    ("a | lcb_sdt(1)", "no step or combination 'lcb_sdt'; did you mean lcb_std?", "lcb_sdt"),
    ("allof(a, b)", "no step or combination 'allof'; did you mean all_of?", "allof"),
    ("a | log_sigmoid", "log_sigmoid takes a centered reward, and is given a reward; center it first", "log_sigmoid"),
    ("a | lcb_std(much)", "num_std of lcb_std must be a number", "much"),
    ("a | lcb_std(-1)", "num_std must be finite and not negative", "-1"),
    ("a | lcb_std(1, 2)", "include_noise of lcb_std must be true or false", "2"),
    ("a | lcb_std(1, true, 3)", "lcb_std takes at most 2 arguments", "3"),
    ("a | lcb_std(std=1)", "lcb_std has no argument 'std'; it takes num_std, include_noise", "std=1"),
    ("a | lcb_std(1, num_std=2)", "lcb_std is given num_std twice", "2)"),
    ("a | mean(1)", "mean takes no arguments", "1"),
    ("a | mean | center", "center comes after a risk rule", "center"),
    ("a + b", "not by arithmetic", "a + b"),
    ("a, b", "several utilities where one is meant", "a, b"),
    ("a | all_of(b)", "all_of is a combination", "all_of"),
    ("all_of", "all_of combines several utilities", "all_of"),
    ("a) | (mean", "this was never opened", ") | (mean"),
    ("a # | lcb_std(1)", "a utility has no comments", "# | lcb"),
    ("a\r|\rbogus", "no step or combination 'bogus'", "bogus"),
    (f"lcb_std(1{'0' * 400})", "num_std of lcb_std is too large", "1000"),
    (f"lcb_std(1{'0' * 5000})", "the utility cannot be read", None),
    ("center(0.85)", "statistic of center must be quantile or mean; did you mean q=0.85?", "0.85"),
    ("center(q=0.5, at=3)", "at=3.0 is a constant, which q=0.5 contradicts", "0.5"),
    ("center(fit=normal, q=2)", "center: q must lie between 0 and 1", "2)"),
    ("cvar(level=2, include_noise=true)", "level must be above 0 and below 1", "2,"),
    ("lcb_std(include_noise=true, num_std=-1)", "num_std must be finite", "-1"),
    ("entropic(1, kl_coef=0.5)", "entropic takes risk_aversion or kl_coef", "1,"),
    ("lcb_std(inf)", "num_std must be finite", "inf"),
    ("clip(3, -inf)", "low must be below high", "3"),
    ("lcb_std(-true)", "must be a number, a word", "-true"),
    ("ensemble(a) | worst", "ensemble needs several parts", "ensemble"),
    ("minimum(a, b)", "part 1 of minimum is a reward, not a centered reward: center it first", "a, b"),
    ("minimum(a | mean, b | mean)", "center it first before the risk rule", "a | mean"),
    ("a | probability_above(1)", "takes a centered reward, and is given a reward; center it first", "probability"),
    ("weighted(a, b | center(at=0), weights=[1, 2])", "part 2 of weighted", "b |"),
    ("weighted(b, a, b, weights=[1, 2, 3])", "part 3 of weighted reads 'b', as a part before it does", "b, weights"),
    ("product(a | center, a | center(mean))", "part 2 of product reads 'a'", "a | center(mean)"),
    ("all_of()", "all_of needs the utilities that it combines", "all_of"),
    ("all_of(a | center, b | center | log_sigmoid)", "part 1 of all_of", "a | center"),
    ("all_of(a | center | log_sigmoid, b | center | log_sigmoid, weight=[1])", "did you mean weights?", "weight="),
    ("weighted(a, b)", "weighted needs weights", "weighted"),
    ("weighted(a, b, weights=[1, x])", "a list holds numbers", "x]"),
    ("minimum(a | center, b | center | mean)", "part 2 of minimum ends in a risk rule", "b | center"),
    ("a | (b | center)", "what follows | must be a step", "b | center"),
    ("a | 3", "what follows | must be a step", "3"),
    ("a.b | mean", "neither a reward, a step nor a combination", "a.b"),
    ("a | lcb_std(*x)", "must be a number, a word or a list of numbers", "*x"),
    ("a | lcb_std(**x)", "** is not understood", "lcb_std"),
    ("true | mean", "true is not the name of a reward", "true"),
    ("a | center(q=0.5, canned=hello", "the utility is not complete: '(' was never closed", None),
    ("a || mean", "the utility cannot be read", "| mean"),
    ("é | lcb_sdt", "did you mean lcb_std?", "lcb_sdt"),
]


@pytest.mark.parametrize(("text", "message", "at"), ERRORS, ids=[text or "empty" for text, _, _ in ERRORS])
def test_errors_point_at_the_place(text: str, message: str, at: str | None):
    with pytest.raises(UtilityError) as error:
        parse_utility(text)
    lines = str(error.value).split("\n")
    assert message in lines[0]
    if at is not None:
        assert lines[1][lines[2].index("^") :].startswith(at)


def test_errors_show_the_line_of_a_broken_text():
    with pytest.raises(UtilityError) as error:
        parse_utility("all_of(\n    a | center | log_sigmoid,\n    b | centr | log_sigmoid,\n)")
    assert str(error.value).split("\n") == [
        "there is no step or combination 'centr'; did you mean center?",
        "  b | centr | log_sigmoid,",
        "      ^",
    ]


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str):
    try:
        utility = parse_utility(text)
    except UtilityError:
        return
    assert isinstance(utility, Utility)
    assert parse_utility(str(utility)) == utility


NAMES = st.sampled_from(["helpful", "harmless", "x1"])
CENTERED = st.builds(
    lambda name, q, temperature: reward(name) | Temperature(temperature) | Center(q=q),
    NAMES,
    st.floats(0.01, 0.99),
    st.floats(0.1, 10),
)


@given(
    st.lists(CENTERED, min_size=1, max_size=3, unique_by=lambda one: one.reward_names), st.floats(0, 5), st.booleans()
)
def test_what_is_written_is_read_back(parts: list[Utility], num_std: float, both: bool):
    if both:
        utility = combine(AllOf(), *(part | LogSigmoid() for part in parts)) | LcbStd(num_std)
    else:
        utility = combine(Weighted(weights=(0.5,) * len(parts)), *parts) | Entropic(num_std + 0.1)
    assert parse_utility(str(utility)) == utility
