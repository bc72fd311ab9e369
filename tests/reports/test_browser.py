"""The pages in headless Chromium: every button does what it says, and the console stays empty."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from prudent.evaluation import Overoptimization, best_of_n_study
from prudent.reports import plot_curves, report
from prudent.reports._page import Shown, render

pytestmark = pytest.mark.xdist_group("browser")  # one Chromium and one page for all of them

# what a chart shows: its traces, and the title and kind of its horizontal axis
STATE = """(() => {{
  const plot = document.querySelector('#chart-{} .plot');
  const {{ title, type }} = plot.layout.xaxis;
  return JSON.stringify([plot.data.map((t) => [t.name, t.x, t.y]), title.text, type]);
}})()"""


def hacked_study(seed=0, num_prompts=30, size=64):
    """A pool whose proxy likes what gold does not, and knows less there."""
    rng = np.random.default_rng(seed)
    total = num_prompts * size
    skill, odd = rng.normal(size=total), rng.exponential(size=total)
    table = pa.table(
        {
            "prompt_id": np.repeat(np.arange(num_prompts), size),
            "gold": skill - 0.5 * odd**2,
            "reward_mean": 0.8 * skill + 0.5 * odd,
            "reward_variance": (0.2 + 0.3 * odd) ** 2,
            "length": rng.integers(10, 90, size=total),
            "prompt": ["What now?"] * total,
            "response": [f"answer {i} " * 60 for i in range(total)],
        }
    )
    return best_of_n_study(table, num_bootstrap=40, num_resamples=4, num_pairs=400)


@pytest.fixture(scope="module")
def study():
    return hacked_study()


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    return report(study, tmp_path_factory.mktemp("page") / "page.html", png=False).html


@pytest.fixture(scope="module")
def opened(browser, page):
    """The browser on the report of one study."""
    browser.size(1200, 900)
    browser.open(page)
    browser.until("document.querySelectorAll('.plot .main-svg').length > 10")
    return browser


def press(browser, label, within=""):
    """Click a button by its label, and say whether it is pressed then."""
    return browser.run(
        f"""(() => {{
          const found = [...document.querySelectorAll({f"{within} button"!r})].find((b) => b.textContent === {label!r});
          found.click();
          return found.getAttribute('aria-pressed');
        }})()"""
    )


def buttons(browser, chart):
    """The labels of the buttons of one chart, which `window.found` holds."""
    card = f"document.querySelector('#chart-{chart}').closest('.card')"
    browser.run(f"window.found = [...{card}.querySelectorAll('.choices button')]")
    return browser.run("window.found.map((b) => b.textContent)")


def test_every_button_changes_its_chart(opened, study):
    charts = opened.run("[...document.querySelectorAll('.chart.live')].map((c) => c.id.replace('chart-', ''))")
    assert {"s0-gold", "s0-proxy", "s0-variance", "s0-strengths", "s0-laws", "s0-reliability"} <= set(charts)
    clicked = 0
    for chart in charts:
        labels = buttons(opened, chart)
        if chart == "s0-gold":
            assert len(labels) == len(study.gold_scales) + 3 + 3 + len(study.curves)
        for place, label in enumerate(labels):
            before = opened.run(STATE.format(chart))
            one = f"window.found[{place}]"
            chosen = opened.run(f"{one}.getAttribute('aria-pressed') === 'true' && !{one}.closest('.legend')")
            if opened.run(f"{one}.offsetParent === null"):  # only the first chart lists the curves that are not shown
                continue
            opened.run(f"{one}.click()")
            assert (before == opened.run(STATE.format(chart))) == chosen, (chart, label)
            clicked += 1
    assert clicked > 40
    assert opened.messages == []


def test_kinds_are_toggled_together_in_all_charts(opened, study):
    def names(chart):
        shown = opened.run(f"document.querySelector('#chart-s0-{chart} .plot').data.map((t) => t.name)")
        return {name.replace("<br>", " ") for name in shown if name}

    controls = {curve.label for curve in study.curves if curve.kind == "control"}
    if press(opened, "all controls", ".card:has(#chart-s0-gold)") == "false":
        press(opened, "all controls", ".card:has(#chart-s0-gold)")
    assert controls <= names("gold")
    assert "longest response" in names("variance")
    press(opened, "all controls", ".card:has(#chart-s0-gold)")
    assert not controls & (names("gold") | names("variance"))
    assert opened.messages == []


def test_nothing_is_asked_of_a_network(opened):
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests), opened.requests


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_sticks_out_of_the_screen(opened, width):
    opened.size(width, 800)
    opened.until(f"document.querySelector('#chart-s0-gold .main-svg').clientWidth < {width}")
    assert opened.run("document.documentElement.scrollWidth") <= width
    wide = opened.run(
        "[...document.querySelectorAll('.plot')].filter((p) => p.getBoundingClientRect().right > innerWidth).length"
    )
    assert wide == 0


def test_print_shows_pictures_and_no_buttons(opened):
    opened.call("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll({!r})].filter((e) => e.offsetParent !== null).length"
    assert opened.run(shown.format(".choices, .plot")) == 0
    assert opened.run(shown.format(".chart img")) == opened.run("document.querySelectorAll('.chart').length")
    every = opened.run("[...document.querySelectorAll('.examples')].map((e) => e.querySelectorAll('.example').length)")
    assert max(every) > 3
    assert opened.run(shown.format(".example")) == sum(min(one, 3) for one in every)
    assert opened.run(shown.format(".print-only")) == sum(one > 3 for one in every)
    opened.call("Emulation.setEmulatedMedia", media="")
    assert opened.run(shown.format(".chart img")) == 0
    assert opened.run(shown.format(".example")) == sum(every)
    assert opened.run(shown.format(".print-only")) == 0


def test_accessible_names(opened):
    assert opened.run("[...document.querySelectorAll('.choices button')].every((b) => b.textContent.trim())")
    assert opened.run("[...document.querySelectorAll('.plot')].every((p) => p.getAttribute('aria-label'))")
    assert opened.run("[...document.querySelectorAll('img')].every((i) => i.alt)")
    assert opened.run("[...document.querySelectorAll('table')].every((t) => t.querySelector('thead th[scope=col]'))")
    assert opened.run("[...document.querySelectorAll('svg.spark')].every((s) => s.getAttribute('aria-label'))")


def test_several_studies_are_shown_one_at_a_time(browser, study, tmp_path):
    other = dataclasses.replace(study, notes=("the second",))
    found = Overoptimization({"pool/one": study, "pool/two": other}, {"pool/one": (), "pool/two": ()})
    browser.size(1200, 900)
    browser.messages.clear()
    browser.open(report(found, tmp_path / "lab.html", png=False).html)
    browser.until("document.querySelectorAll('#s0 .plot .main-svg').length > 10")
    shown = "[...document.querySelectorAll('section.study')].map((s) => s.offsetParent !== null)"
    assert browser.run(shown) == [True, False]
    browser.run("document.querySelector('.overview a[href=\"#s1\"]').click()")
    browser.until("document.querySelectorAll('#s1 .plot .main-svg').length > 10")
    assert browser.run(shown) == [False, True]
    assert browser.run("document.querySelector('#study').value") == "s1"
    browser.run("s = document.querySelector('#study'); s.value = 's0'; s.dispatchEvent(new Event('change'))")
    assert browser.run(shown) == [True, False]
    browser.run("document.querySelector('.overview a[href=\"#s1\"]').click()")  # as the address says already
    assert browser.run(shown) == [False, True]
    browser.run("s.value = 's0'; s.dispatchEvent(new Event('change'))")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run(shown) == [True, True]
    browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.messages == []


def test_many_studies_follow_the_reader_and_the_theme(browser, study, tmp_path):
    image = plot_curves(study, tmp_path / "gold.png", dpi=30).read_bytes()
    shown = [Shown(f"rm-{place}", study, (), {"gold": image, "proxy": image}) for place in range(9)]
    (tmp_path / "lab.html").write_text(render(shown, "nine", "gold", images={}), encoding="utf-8")
    browser.size(1200, 900)
    browser.dark(False)
    browser.messages.clear()
    browser.open(tmp_path / "lab.html", fragment="#s8")
    browser.until("document.querySelectorAll('#s8 .plot .main-svg').length > 10")
    for name in ("proxy", "variance", "reliability"):  # which have no still picture here
        assert browser.run(f"document.querySelector('#chart-s8-{name} .plot').data.length") > 1
    left_out = "[...document.querySelectorAll('#s8 .absent')].filter((e) => e.offsetParent !== null).length"
    assert browser.run(left_out) == 0
    color = "document.querySelector('#chart-s8-proxy .plot').data.find((t) => t.name === 'mean').line.color"
    light = browser.run(color)
    browser.dark()
    browser.until(f"{color} !== {light!r}")
    browser.dark(False)
    browser.call("Emulation.setEmulatedMedia", media="print")
    charts = browser.run("document.querySelectorAll('#s8 .chart').length")
    assert browser.run(left_out) == charts - 1 > 3
    browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.messages == []


def test_where_scripts_fail_the_pictures_stay(browser, page):
    broken = "Object.defineProperty(window, 'Plotly', { set() { throw new Error('broken'); } })"
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=broken)["identifier"]
    browser.messages.clear()
    browser.open(page)
    pictures = "[...document.querySelectorAll('.chart img')].filter((e) => e.offsetParent === null).length"
    for _ in range(1000):  # messages arrive with answers
        if browser.messages:
            break
        browser.run("new Promise((done) => setTimeout(done, 20))")
    assert any("the charts stay still pictures" in message for message in browser.messages)
    assert browser.run(pictures) == 0
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    browser.messages.clear()
