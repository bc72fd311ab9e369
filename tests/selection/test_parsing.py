import math

import pytest

from prudent.errors import UtilityError
from prudent.selection import MinimumBayesRisk, Pessimism, SoftBestOfN, Strategy, TopK, parse_strategy


@pytest.mark.parametrize(
    "strategy",
    [
        TopK(64),
        SoftBestOfN(0.5),
        Pessimism(3),
        SoftBestOfN(1 / 3),
        MinimumBayesRisk(0),
        MinimumBayesRisk(math.inf),
        Pessimism(1e-9),
    ],
)
def test_what_is_written_reads_back(strategy: Strategy) -> None:
    assert parse_strategy(strategy.text) == strategy
    assert parse_strategy(strategy) is strategy


def test_spaces_do_not_matter() -> None:
    assert parse_strategy(" soft ( 1e-2 ) ") == SoftBestOfN(0.01)


def test_consensus_is_a_name_for_an_infinite_weight() -> None:
    assert parse_strategy(" consensus() ") == parse_strategy("mbr(inf)") == MinimumBayesRisk(math.inf)
    assert MinimumBayesRisk(math.inf).text == "consensus"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("softer(1)", "no strategy is called 'softer': write top_k"),
        ("best", "no strategy is called 'best': write top_k"),
        ("soft", "soft takes one number, as in soft(2), and is given none"),
        ("soft()", "is given none"),
        ("soft(a)", "is given a"),
        ("soft(1, 2)", "is given 1, 2"),
        ("top_k(2.5)", "top_k takes one whole number of at least 1, as in top_k(2), and is given 2.5"),
        ("top_k(0)", "is given 0"),
        ("soft(0)", "soft takes a finite temperature above 0, got 0.0"),
        ("pessimism(inf)", "pessimism takes a finite penalty above 0, got inf"),
        ("mbr(-1)", "mbr takes a weight of at least 0, got -1.0"),
        ("mbr(nan)", "mbr takes a weight of at least 0, got nan"),
        ("consensus(2)", "consensus takes no number"),
        ("soft(1", "'soft(1' is not a strategy"),
        ("", "'' is not a strategy"),
        ("soft(1) | top_k(2)", "is not a strategy"),
    ],
)
def test_what_is_no_strategy_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UtilityError) as caught:
        parse_strategy(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
