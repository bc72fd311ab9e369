"""The plane of two rewards: level lines against their formulas, and the picture in the page."""

import json
import re

import pyarrow as pa
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

from prudent.evaluation import BestOfNStudy, best_of_n_study
from prudent.reports import report
from prudent.reports._trade_off import average_pick, level_lines

PARTS = "a | center(mean), b | center(mean)"


@pytest.fixture(scope="module")
def study() -> BestOfNStudy:
    a = [0.0, 3.0, 1.0, -2.0, 2.0, 1.5] * 4
    b = [0.0, -3.0, 1.0, -2.0, -1.0, 1.5] * 4
    table = pa.table(
        {
            "prompt_id": [prompt for prompt in range(4) for _ in range(6)],
            "a_reward_mean": a,
            "a_reward_variance": [1e-4] * 24,
            "b_reward_mean": b,
            "b_reward_variance": [1e-4] * 24,
            "is_reference": [True, False, False, False, False, False] * 4,
            "gold": [x + y for x, y in zip(a, b, strict=True)],
        }
    )
    utilities = {"sum": "weighted(a, b, weights=[1, 2])", "least": f"minimum({PARTS})"}
    return best_of_n_study(table, utilities=utilities, num_bootstrap=20)


def test_along_a_level_line_the_utility_is_what_it_is_at_the_average_pick(study):
    plane = study.trade_off
    assert plane is not None
    values = {"sum": lambda x, y: x + 2 * y, "least": min}
    for line in plane.lines:
        level = values[line.label](*average_pick(line))
        drawn = level_lines(plane, line)
        assert drawn
        for part in drawn:
            for x, y in part:
                assert values[line.label](x, y) == pytest.approx(level, abs=0.06)  # half a step of the grid


def test_a_study_of_two_rewards_survives_json(study):
    assert BestOfNStudy.from_dict(json.loads(json.dumps(study.to_dict()))) == study


def test_the_page_shows_the_plane(study, tmp_path):
    written = report(study, tmp_path / "page.html")
    assert written.figures["trade_off"].read_bytes().startswith(b"\x89PNG")
    page = written.html.read_text()
    assert 'id="chart-trade_off"' in page
    charts = json.loads(re.search(r'<script[^>]*id="charts"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    plane = charts["charts"]["trade_off"]
    assert [one["name"] for one in plane["series"]] == ["sum", "least"]
    assert len(plane["points"][0]) == 24


def test_one_reward_has_no_plane(tmp_path):
    table = pa.table({"prompt_id": [0, 0], "reward_mean": [0.0, 1.0], "reward_variance": [1.0, 1.0]})
    study = best_of_n_study(table, num_bootstrap=20)
    assert study.trade_off is None
    assert "trade_off" not in report(study, tmp_path / "page.html").figures
