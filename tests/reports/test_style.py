"""Curves are told apart by everybody, in light and dark."""

import dataclasses
import itertools
import re
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pytest

from prudent.reports._diagrams import SERIES_COLORS, SERIES_MARKERS
from prudent.reports._png import MOST_BANDS
from prudent.reports._style import MARKERS, PALETTE, frame, looks, mark_of

SIGHTS = {
    "all cones": np.eye(3),
    "no long ones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no medium ones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no short ones": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""Machado, Oliveira and Fernandes (2009) at full severity, on linear RGB."""
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
CARDS = ("#ffffff", "#1d2125")
APART = 10.0


def linear(color):
    values = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(color, sight):
    xyz = TO_XYZ @ np.clip(SIGHTS[sight] @ linear(color), 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(first, second):
    """CIE 1976, as whoever tells the colors apart least sees it."""
    return min(float(np.linalg.norm(lab(first, sight) - lab(second, sight))) for sight in SIGHTS)


def contrast(first, second):
    low, high = sorted(float(TO_XYZ[1] @ linear(color)) for color in (first, second))
    return (high + 0.05) / (low + 0.05)


def drawn(keys, kind, beside=None, utility=True):
    return [
        SimpleNamespace(key=key, kind=kind, beside=beside and beside(key), utility=key if utility else None)
        for key in keys
    ]


def usual_study(members=False, tuned=True, centered=True):
    """The curves of a study that nobody chose anything of."""
    rules = ["lcb_std", "lcb_var", "entropic", *(["worst"] if members else [])]
    utilities = drawn(["mean", *rules], "utility")
    of_rules = dict.fromkeys(rules)
    if centered:
        utilities += drawn([f"center(mean) | {rule}" for rule in rules], "utility", lambda key: key.split(" | ")[1])
        of_rules |= {f"center(mean) | {rule}": rule for rule in rules}
    penalties = [*(["lcb_std", "lcb_var"] if tuned else [])]
    tail = ", tuned" if tuned else ""
    others = ["top_k", "soft", "pessimism", "mbr", *penalties]
    baselines = ["random", "hedged n", "consensus", "uwo" if members else "worst"]
    baselines = drawn([*baselines, *(f"{one}{tail}" for one in others)], "baseline")
    of_rules |= {f"{one}, tuned": None for one in penalties}
    if centered and tuned:
        keys = [f"center(mean) | {one}, tuned" for one in penalties]
        baselines += drawn(keys, "baseline", lambda key: key.split(" | ")[1])
        of_rules |= {key: key.split(" | ")[1] for key in keys}
    controls = [
        SimpleNamespace(key=f"{what}: {of}", kind="control", beside=beside, utility=of)
        for what in ("shuffled", "length as variance", "length out of variance")
        for of, beside in of_rules.items()
    ]
    controls += drawn(["longest", "oracle n", "oracle"], "control", utility=False)
    return SimpleNamespace(curves=[*utilities, *baselines, *controls], utilities=utilities)


def alike(styles):
    """Pairs that somebody could take for one another."""
    found = []
    for (one, first), (other, second) in itertools.combinations(styles.items(), 2):
        if (first.dash, first.marker) == (second.dash, second.marker):
            for theme in ("color", "dark_color"):
                apart = difference(getattr(first, theme), getattr(second, theme))
                if apart < APART:
                    found.append((one, other, theme, round(apart, 1)))
    return found


@pytest.mark.parametrize("members", [False, True])
@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("centered", [False, True])
def test_curves_of_a_usual_study_are_told_apart_by_everybody(members, tuned, centered):
    found = usual_study(members, tuned, centered)
    styles = looks(found)
    assert len(styles) == len(found.curves)
    assert alike(styles) == []


def test_two_colors_that_are_alike_would_be_found():
    styles = looks(usual_study())
    assert difference("#d55e00", "#3a7d1e") < 3  # an orange and a green, without long cones
    green = dataclasses.replace(styles["mean"], color="#3a7d1e")
    assert ("mean", "soft", "color", pytest.approx(2.3, abs=0.2)) in alike(styles | {"soft": green})


def test_series_and_arms_are_told_apart_by_everybody():
    for theme in (0, 1):
        for first, second in itertools.combinations(SERIES_COLORS, 2):
            assert difference(first[theme], second[theme]) >= APART
    arms = [(PALETTE[place % len(PALETTE)][0], SERIES_MARKERS[place % len(SERIES_MARKERS)]) for place in range(63)]
    assert len(set(arms)) == len(arms)
    for (color, marker), (other_color, other) in itertools.combinations(arms[:14], 2):
        assert marker != other or difference(color, other_color) >= APART


def test_colors_stand_out_from_the_page():
    styles = [*looks(usual_study(members=True)).values()]
    for theme, card in enumerate(CARDS):
        shown = [(one.color, one.dark_color)[theme] for one in styles] + [
            one[theme] for one in (*SERIES_COLORS, *PALETTE)
        ]
        assert min(contrast(color, card) for color in shown) >= 3


def test_many_utilities_look_different():
    rules = [f"lcb_std({place})" for place in range(70)]
    utilities = drawn(rules, "utility")
    styles = looks(SimpleNamespace(curves=utilities, utilities=utilities))
    assert len({(one.color, one.dash, one.marker) for one in styles.values()}) == 70
    assert alike({key: styles[key] for key in rules[:9]}) == []


def test_markers_have_swatches_and_the_script_knows_how_many_bands():
    assert all(mark_of(name) for name in MARKERS)
    assert mark_of("") == ""
    script = (resources.files("prudent.reports") / "templates" / "charts.js").read_text(encoding="utf-8")
    assert int(re.search(r"MOST_BANDS = (\d+);", script)[1]) == MOST_BANDS
    assert frame([0.0, 1.0], []) is None  # no intervals are drawn
