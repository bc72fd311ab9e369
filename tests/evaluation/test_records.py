"""Records of files: what goes through JSON comes back the same, and what is no such record is named."""

import json
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from prudent.evaluation._records import Record


@dataclass(frozen=True)
class Part:
    """Something inside."""

    values: tuple[float, ...]
    grid: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class Whole(Record):
    """Every kind of field."""

    called = "a whole"
    format_version = 3

    name: str
    count: int
    share: float
    is_done: bool
    pair: tuple[Literal["left", "right"], int]
    parts: tuple[Part, ...]
    by_name: dict[str, tuple[Part, ...]]
    one: Part | None


PART = Part((1.0, 0.5), ((0.0,), (2.0, 3.0)))
WHOLE = Whole("x", 2, 1.0, False, ("left", 1), (PART, Part((), None)), {"a": (PART,)}, PART)


def test_a_trip_through_json_changes_nothing():
    assert Whole.from_dict(json.loads(json.dumps(WHOLE.to_dict()))) == WHOLE
    assert Whole.from_dict(WHOLE.to_dict()) == WHOLE
    whole = replace(WHOLE, one=None, by_name={})
    assert Whole.from_dict(whole.to_dict()) == whole
    # other programs write a whole number without its point
    found = Whole.from_dict(WHOLE.to_dict() | {"share": 1, "parts": [{"values": [1, 0.5], "grid": None}]})
    assert found.parts[0].values == (1.0, 0.5)
    assert {type(one) for one in (found.share, *found.parts[0].values)} == {float}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "a whole of format 2: this version reads 3"),
        ({"more": 1}, "in a whole: more missing or unknown"),
        ({"count": 2.5}, "count is 2.5, where a int belongs"),
        ({"is_done": 1}, "is_done is 1, where a bool belongs"),
        ({"pair": ["up", 1]}, "pair is 'up', where a .*Literal"),
        ({"pair": ["left"]}, "pair has 1 entries, where 2 belong"),
        ({"parts": {"values": []}}, "parts is {'values': .*, where a tuple"),
        ({"parts": [{"values": ["a"], "grid": None}]}, "values is 'a', where a float belongs"),
        ({"by_name": {"a": [{"values": []}]}}, "in by_name: grid missing or unknown"),
        ({"one": 3}, "in one: int missing or unknown"),
    ],
)
def test_what_is_something_else_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Whole.from_dict(WHOLE.to_dict() | change)
