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
        ("a|temperature(0.1234567890123)", "a | temperature(0.1234567890123)"),
        ('a | center(canned="say \\"no\\", é 😀")', 'a | center(canned="say \\"no\\", é 😀")'),
    ],
)
def test_one_written_form(text: str, written: str):
    utility = parse_utility(text)
    assert str(utility) == written
    assert parse_utility(written) == utility


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


@given(st.lists(CENTERED, min_size=1, max_size=3), st.floats(0, 5), st.booleans())
def test_what_is_written_is_read_back(parts: list[Utility], num_std: float, both: bool):
    if both:
        utility = combine(AllOf(), *(part | LogSigmoid() for part in parts)) | LcbStd(num_std)
    else:
        utility = combine(Weighted(weights=(0.5,) * len(parts)), *parts) | Entropic(num_std + 0.1)
    assert parse_utility(str(utility)) == utility
