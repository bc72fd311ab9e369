import dataclasses
import gzip
import hashlib
import html.parser
import importlib
import importlib.metadata
import json
import re
import struct
import subprocess
import sys
from base64 import b64decode

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prudent.errors import DataError, PrudentError
from prudent.evaluation import (
    BenchmarkFigure,
    BenchmarkResult,
    Evaluation,
    Figure,
    Overoptimization,
    Source,
    best_of_n_study,
)
from prudent.evaluation._pair_figures import (
    accuracy_figure,
    bound_figures,
    nll_difference,
    pair_figures,
    selective_figures,
)
from prudent.metrics import GoldCalibration, pair_scores, reliability
from prudent.reports import alignment_report, plot_curves, possible_figures, report
from prudent.reports._laws import draw_laws, law_pictures
from prudent.reports._page import Shown, render
from prudent.reports._sparkline import spark_caption
from prudent.reports._style import looks
from prudent.reports._words import interval

NASTY = "</script><script>alert('x')</script> <img src=x onerror=alert(1)> & \"quotes\" {{ 7 * 7 }}"


def scored_table(gold=True, factor=False, num_prompts=6, size=12, **extra):
    rng = np.random.default_rng(0)
    total = num_prompts * size
    columns = {
        "prompt_id": np.repeat(np.arange(num_prompts), size),
        "response_id": np.tile(np.arange(size), num_prompts),
        "prompt": [f"prompt {b} {NASTY}" for b in range(num_prompts) for _ in range(size)],
        "response": [f"response {i} {NASTY} " + "long " * (i % 2) * 300 for i in range(total)],
        "reward_mean": rng.normal(size=total),
        "reward_variance": rng.uniform(0.1, 3, size=total),
        "length": rng.integers(1, 90, size=total),
        "truncated": rng.random(total) < 0.2,
    }
    if gold:
        columns["gold"] = rng.normal(size=total)
    if factor:
        columns["reward_factor"] = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=total * 2)), 2)
    return pa.table(columns | extra)


@pytest.fixture(scope="module")
def study():
    return best_of_n_study(scored_table(factor=True), num_bootstrap=50)


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    """A report on it, for the tests that read it in different ways."""
    return report(study, tmp_path_factory.mktemp("report") / "deep" / "page.html", title="A title & more")


@pytest.fixture(scope="module")
def raw(written):
    return written.html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(raw):
    return Page(raw)


def evaluation(kind="kron", seed=0, size=400, **more) -> Evaluation:
    """Figures of pairs whose posterior is right: labels drawn from it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(size, generator=generator, dtype=torch.float64)
    variance = 4 * torch.rand(size, generator=generator, dtype=torch.float64)
    truth = mean + variance.sqrt() * torch.randn(size, generator=generator, dtype=torch.float64)
    mean = torch.where(torch.rand(size, generator=generator) < torch.sigmoid(truth), mean, -mean)
    common = (torch.ones(size, dtype=torch.float64), torch.arange(size) // 2, 50, 0)
    by_mean, moderated, area_difference = selective_figures(mean, variance, *common)
    known = kind != "none"
    return Evaluation(
        **{
            "data": f"held <b>out</b> {seed}.jsonl",
            "split": "test",
            "posterior": kind,
            "num_pairs": size,
            "num_prompts": size // 2,
            "num_skipped": 0,
            "num_truncated": 0,
            "accuracy": accuracy_figure(mean, *common),
            "map": pair_figures(mean, None, *common),
            "scaled": pair_figures(mean / 1.5, None, *common),
            "moderated": pair_figures(mean, variance, *common) if known else None,
            "logit_temperature": 1.5,
            "optimal_logit_temperature": 1.4,
            "reliability": tuple(reliability(pair_scores(mean, variance).probability)),
            "mean_contrast_std": 1.0 if known else None,
            "selective_map": by_mean,
            "selective_moderated": moderated if known else None,
            "nll_difference": nll_difference(mean, variance, *common) if known else None,
            "area_difference": area_difference if known else None,
            "bounds": bound_figures(mean, variance, *common) if known else None,
            "shift": None,
            "gold": None,
        }
        | more
    )


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with attributes, and text outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.scripts, self._open = [], [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open is None:
            self.texts.append(data)
        elif self._open[0] == "script":
            self.scripts[self._open[1].get("id", "code")] = data

    @property
    def charts(self):
        """The data of the charts, by scope."""
        return json.loads(gzip.decompress(b64decode(self.scripts["charts"])))

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_page_is_self_contained_and_whole(study, written, raw, page):
    assert written.studies == {"": study}
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert "link" not in {tag for tag, _ in page.elements}
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "url(" not in raw.split("</style>")[0]
    assert "A title & more" in page.text
    assert {a.get("id") for t, a in page.elements} >= {
        "chart-s0-gold",
        "chart-s0-proxy",
        "chart-s0-variance",
        "chart-s0-reliability",
        "chart-s0-risk_coverage",
    }
    assert "Plotly" in gzip.decompress(b64decode(page.scripts["plotly"])).decode()


def test_texts_are_escaped(study, raw, page):
    assert sum(tag == "script" for tag, _ in page.elements) == 3
    assert "alert('x')" not in raw.replace("alert(&#39;x&#39;)", "")
    assert all(a["src"].startswith("data:image/png") for t, a in page.elements if t == "img")
    assert NASTY in page.text  # shown as it is, and the template does not run it
    first = study.disagreements[0]
    assert " ".join(first.picks[0].text.split()) in page.text


def test_title_is_escaped(study, tmp_path):
    raw = report(study, tmp_path / "page.html", title="<b>&</b>", png=False).html.read_text(encoding="utf-8")
    assert "<title>&lt;b&gt;&amp;&lt;/b&gt;</title>" in raw


def test_long_texts_are_folded(study, page):
    examples = [*study.disagreements, *study.hacked]
    folded = [pick for one in examples for pick in one.picks if len(pick.text) > 400]
    heads = sum(a.get("class") == "head" for t, a in page.elements if t == "span")
    assert heads == len(folded) > 0


def test_tables_hold_the_numbers_without_scripts(study, page):
    for curve in study.curves:
        assert curve.label in page.text
    counts = study.counts
    assert f"{counts.num_candidates} candidates" in page.text
    assert f"{counts.num_truncated} candidates were cut" in page.text
    assert "not recorded" not in page.text


def test_chart_data_are_valid_figures(study, page):
    data = page.charts["s0"]
    assert data["n"] == list(study.n_values)
    assert set(data["charts"]) == {"gold", "proxy", "variance", "laws", "reliability", "risk_coverage"}
    gold = data["charts"]["gold"]["views"]
    assert next(view["label"] for view in gold) == "gold"
    assert len(gold) == len(study.gold_scales)
    for view in gold:
        assert [series["label"] for series in view["series"]] == [curve.label for curve in study.curves]
    mean = gold[0]["series"][0]
    assert mean["y"] == pytest.approx(study.curve("mean").bands["gold"].value, rel=1e-4)
    assert mean["low"] == pytest.approx(study.curve("mean").bands["gold"].low, rel=1e-4)
    assert mean["size"] == pytest.approx(study.curve("mean").effective_size, rel=1e-2)


def test_diagrams_show_what_the_study_measured(study, page):
    charts = page.charts["s0"]["charts"]
    for place, one in enumerate(study.reliability):
        reliability, risk = (charts[name]["series"][place] for name in ("reliability", "risk_coverage"))
        assert reliability["x"] == pytest.approx(one.confidence, rel=1e-4)
        assert reliability["y"] == pytest.approx(one.share_right.value, rel=1e-4)
        assert risk["x"] == pytest.approx(one.coverage)
        assert risk["y"] == pytest.approx(one.risk.value, rel=1e-4)
        assert (risk["low"], risk["high"]) == tuple(
            pytest.approx(bounds, rel=1e-4) for bounds in (one.risk.low, one.risk.high)
        )
        assert interval(one.area) in page.text


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_figures_beside_the_page(study, tmp_path):
    figures = report(study, tmp_path / "page.html").figures
    assert {name: path.name for name, path in figures.items()} == {
        name: f"page_{name}.png" for name in ("gold", "proxy", "variance", "laws", "reliability", "risk_coverage")
    }
    for path in figures.values():
        width, height = png_size(path)
        assert width > 800
        assert height > 600
        assert path.stat().st_size > 15_000
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", *(p.name for p in figures.values())}
    only_page = report(study, tmp_path / "alone" / "page.html", png=False)
    assert only_page.figures == {}
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["page.html"]
    assert "data:image/png;base64,iVBOR" in only_page.html.read_text(encoding="utf-8")


def test_evaluations_are_shown_side_by_side(study, tmp_path):
    kinds = [evaluation("kron", 0), evaluation("diag", 1), evaluation("none", 2)]
    (tmp_path / "two.json").write_text(json.dumps(kinds[1].to_dict()))
    written = report(study, tmp_path / "page.html", evaluations=[kinds[0], tmp_path / "two.json", kinds[2]])
    assert {"heldout_reliability", "heldout_risk_coverage"} <= set(written.figures)
    assert all(png_size(path)[0] > 800 for path in written.figures.values())
    raw = written.html.read_text(encoding="utf-8")
    page = Page(raw)
    assert "held <b>out</b> 0.jsonl" in page.text  # escaped
    charts = page.charts["page"]["charts"]
    for name in ("heldout_reliability", "heldout_risk_coverage"):
        assert [series["name"] for series in charts[name]["series"]] == ["kron", "diag", "no posterior"]
        assert len({series["colors"][0] for series in charts[name]["series"]}) == 3
    risk = charts["heldout_risk_coverage"]["series"]
    assert risk[1]["y"] == pytest.approx([one.value for one in kinds[1].selective_moderated.risk], rel=1e-4)
    assert risk[2]["y"] == pytest.approx([one.value for one in kinds[2].selective_map.risk], rel=1e-4)
    for one in kinds:
        assert interval(one.accuracy) in page.text
    assert page.text.count("whole posterior") >= 2
    assert page.text.count("mean over 1.5") == 3


def test_one_evaluation_is_shown_beside_its_mean(study, tmp_path):
    page = Page(report(study, tmp_path / "page.html", evaluations=[evaluation()]).html.read_text(encoding="utf-8"))
    series = page.charts["page"]["charts"]["heldout_risk_coverage"]["series"]
    assert [(one["name"], one["dashed"], one["band"]) for one in series] == [
        ("kron", False, True),
        ("by the mean alone", True, False),
    ]


def test_evaluations_of_one_kind_are_told_apart_by_their_file(study, tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.json").write_text(json.dumps(evaluation().to_dict()))
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    page = Page(report(study, tmp_path / "page.html", evaluations=files).html.read_text(encoding="utf-8"))
    assert "kron (first)" in page.text
    assert "kron (second)" in page.text


def test_shift_and_gold_are_told(study, tmp_path):
    figure = {"value": 0.875, "low": 0.75, "high": 0.9375}
    intervals = {
        "coverage": figure,
        "width": figure,
        "nll": figure,
        "calibrations": [vars(GoldCalibration(0, 1, 1, 0))],
    }
    comparison = {"posterior": intervals, "constant": intervals, "nll_difference": figure}
    shift = {"data": "far.jsonl", "split": None, "num_pairs": 12, "num_prompts": 3, "num_skipped": 0}
    shift |= {"num_truncated": 0, "accuracy": figure, "mean_contrast_std": 1.0, "auroc": figure}
    gold = {"data": "pool", "num_responses": 70, "num_prompts": 7, "num_left_out": 0, "level": 0.9}
    gold |= {"absolute": comparison, "within": comparison, "error_correlation": None}
    whole = Evaluation.from_dict(evaluation().to_dict() | {"shift": shift, "gold": gold})
    page = Page(report(study, tmp_path / "page.html", evaluations=[whole]).html.read_text(encoding="utf-8"))
    assert "from far.jsonl (12 pairs) exceeds that of one from here with probability 0.875 [0.750, 0.938]" in page.text
    assert "Gold of 70 responses of pool, relative to its prompt: 90% intervals cover 0.875" in page.text


def test_evaluations_that_are_none_are_refused(study, tmp_path):
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(DataError, match=r"e\.json is not what"):
        report(study, tmp_path / "page.html", evaluations=[tmp_path / "e.json"])
    with pytest.raises(DataError, match="at most 6"):
        report(study, tmp_path / "page.html", evaluations=[evaluation(size=40)] * 7)
    assert not (tmp_path / "page.html").exists()


def test_a_name_with_dots_keeps_them(study, tmp_path):
    figures = report(study, tmp_path / "run.v1.html").figures
    assert figures["gold"].name == "run.v1_gold.png"
    with pytest.raises(PrudentError, match=r"run\.v2: a report is one HTML page"):
        report(study, tmp_path / "run.v2")


def test_curves_in_one_picture(study, tmp_path):
    path = plot_curves(study, tmp_path / "curves.png", title="Gold and proxy")
    assert png_size(path)[0] > 1500
    plain = best_of_n_study(scored_table(gold=False), num_bootstrap=20)
    assert png_size(plot_curves(plain, tmp_path / "proxy.png"))[0] < 1200  # one panel
    with pytest.raises(ValueError, match="scale must be one of gold"):
        plot_curves(study, tmp_path / "curves.png", scale="silver")


def test_report_of_a_scored_file(tmp_path):
    pq.write_table(scored_table(), tmp_path / "pool.parquet")
    paths = report(tmp_path / "pool.parquet", tmp_path / "page.html", num_bootstrap=30, n_values=[2, 8], seed=3)
    assert paths.studies[""].n_values == (1, 2, 8)
    page = Page(paths.html.read_text(encoding="utf-8"))
    assert "Best-of-n on pool" in page.text
    assert "Approximation:" in page.text  # no factor in this file
    with pytest.raises(DataError):
        report(tmp_path / "nothing.parquet", tmp_path / "page.html")


def test_without_gold(tmp_path):
    study = best_of_n_study(scored_table(gold=False), num_bootstrap=20)
    paths = report(study, tmp_path / "page.html")
    assert set(paths.figures) == {"proxy", "variance"}
    page = Page(paths.html.read_text(encoding="utf-8"))
    assert "The file has no gold" in page.text
    assert "Gold of the pick" not in page.text
    assert set(page.charts["s0"]["charts"]) == {"proxy", "variance"}


def test_without_variance(tmp_path):
    table = scored_table(reward_variance=pa.nulls(72, pa.float32()))
    paths = report(best_of_n_study(table, num_bootstrap=20), tmp_path / "page.html")
    assert set(paths.figures) == {"gold", "proxy", "laws"}
    assert "nothing here reads any" in Page(paths.html.read_text(encoding="utf-8")).text


def test_pools_of_several_policies_are_drawn_against_n(tmp_path):
    study = best_of_n_study(scored_table(model=["a", "b", "c"] * 24), num_bootstrap=20)
    page = Page(report(study, tmp_path / "page.html").html.read_text(encoding="utf-8"))
    assert "the axis is n and no KL is given" in page.text
    data = page.charts["s0"]
    assert data["kl"] is None
    assert all(series["kl"] is None for series in data["charts"]["gold"]["views"][0]["series"])


def test_one_prompt_with_one_candidate(tmp_path):
    table = pa.table({"prompt_id": [0], "reward_mean": [0.5], "reward_variance": [0.1], "gold": [1.0]})
    page = Page(report(best_of_n_study(table, num_bootstrap=20), tmp_path / "p.html").html.read_text(encoding="utf-8"))
    assert "nothing to pick" in page.text


def test_wrong_use(study, tmp_path):
    with pytest.raises(TypeError, match="takes no study options, got seed"):
        report(study, tmp_path / "page.html", seed=1)
    with pytest.raises(DataError, match="'silver'"):
        report(study, tmp_path / "page.html", scale="silver")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["plotly", "jinja2", "matplotlib"])
def test_missing_extra_is_named(study, tmp_path, monkeypatch, package):
    real = importlib.import_module

    def block(name):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name)

    monkeypatch.setattr("prudent.reports._extra.importlib.import_module", block)
    with pytest.raises(PrudentError, match=rf'{package}.*pip install "prudent\[report\]"'):
        report(study, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_page_and_no_half_one(study, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    page.write_text("old")

    def full(handle, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prudent.models._saving.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        report(study, page, png=False)
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_pages_are_the_same_bytes_every_time(study, tmp_path):
    first = report(study, tmp_path / "a.html", png=False).html.read_bytes()
    assert report(study, tmp_path / "b.html", png=False).html.read_bytes() == first
    assert not re.search(rb"\d{4}-\d{2}-\d{2}T", first.split(b"<script")[0])


def test_importing_reports_needs_none_of_the_extra():
    code = (
        "import sys\n"
        "for name in ('plotly', 'jinja2', 'matplotlib'): sys.modules[name] = None\n"
        "import prudent.reports._words, prudent.reports._png, prudent.reports._interactive\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_page_is_not_written_under_the_name_of_something_else(study, tmp_path):
    with pytest.raises(PrudentError, match=r"page\.pdf: a report is one HTML page"):
        report(study, tmp_path / "page.pdf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("within", [False, True])
def test_a_pool_scored_by_an_ensemble_is_told_as_one(tmp_path, within):
    import torch

    from prudent.rewards import MemberRewards

    rng = np.random.default_rng(3)
    members = MemberRewards(
        torch.from_numpy(rng.normal(size=(40, 5))),
        torch.arange(40) // 8,
        within_variance=torch.ones(40) if within else None,
    )
    table = members.to_arrow().append_column("gold", pa.array(rng.normal(size=40)))
    pq.write_table(table, tmp_path / "scored.parquet")
    written = report(tmp_path / "scored.parquet", tmp_path / "a.html", num_bootstrap=20)
    page = written.html.read_text()
    assert "the average of 5 members" in page
    assert ("own variance" in page) == within
    assert "minus longest" not in page  # no lengths here
    # without the factor of what is within members, pairs are taken as independent; bare members need none
    assert written.studies[""].reliability[0].exact_contrast == (not within)
    assert ">worst<" in page.replace("</span>worst", ">worst")
    # a study tells it as well as the file that it was made from
    assert "the average of 5 members" in report(written.studies[""], tmp_path / "b.html", png=False).html.read_text()


def benchmark(model="runs/rm", posterior="kron"):
    score = Figure(0.71, 0.69, 0.73)
    sure = Figure(0.8, 0.78, 0.82) if posterior != "none" else None
    overall = BenchmarkFigure("overall", "score", 2900, 0.5, score, sure, sure, score, score)
    chat = BenchmarkFigure("section", "Chat <b>Hard</b>", 358, None, score, None, None, None, None)
    return BenchmarkResult(
        name="rewardbench",
        model=model,
        data="bench.jsonl",
        split=None,
        posterior=posterior,
        num_rows=2985,
        num_prompts=2900,
        num_responses=5970,
        num_skipped=2,
        num_truncated=0,
        num_not_scored=0,
        overall=overall,
        figures=(chat,),
        notes=("The subset hep-go is missing.",),
    )


def test_benchmarks_are_told(study, tmp_path):
    (tmp_path / "benchmark.json").write_text(json.dumps(benchmark("other", "none").to_dict()))
    results = [benchmark(), tmp_path / "benchmark.json"]
    page = Page(report(study, tmp_path / "page.html", benchmarks=results, png=False).html.read_text(encoding="utf-8"))
    assert "runs/rm on rewardbench: 0.710 [0.690, 0.730] score, where chance gives 0.5; of the half" in page.text
    assert "other on rewardbench: 0.710 [0.690, 0.730] score, where chance gives 0.5." in page.text
    assert "Chat <b>Hard</b>" in page.text
    assert "The subset hep-go is missing." in page.text
    assert "of 7 only" not in page.text
    few = benchmark()
    few = dataclasses.replace(few, overall=dataclasses.replace(few.overall, num=7))
    page = Page(report(study, tmp_path / "few.html", benchmarks=[few], png=False).html.read_text(encoding="utf-8"))
    assert "score, of 7 only" in page.text
    with pytest.raises(DataError, match="at most 12"):
        report(study, tmp_path / "page.html", benchmarks=[benchmark()] * 13)


def test_what_it_takes_to_make_the_page_again(tmp_path):
    pq.write_table(scored_table(num_prompts=3), tmp_path / "pool.parquet")
    written = report(tmp_path / "pool.parquet", tmp_path / "page.html", num_bootstrap=20, png=False, command="do <it>")
    page = Page(written.html.read_text(encoding="utf-8"))
    assert hashlib.sha256((tmp_path / "pool.parquet").read_bytes()).hexdigest() in page.text
    assert "do <it>" in page.text
    assert f"prudent {importlib.metadata.version('prudent')}" in page.text


def test_several_studies_on_one_page(study, tmp_path):
    other = dataclasses.replace(study, notes=("of the second",))
    source = Source("scored.parquet", "ab" * 32)
    found = Overoptimization({"pool/a": study, "pool/b": other}, {"pool/a": (source,), "pool/b": (source, source)})
    written = report(found, tmp_path / "lab.html")
    assert written.studies == found.studies
    assert written.figures["pool/b/gold"].name == "lab_pool_b_gold.png"
    assert all(path.is_file() for path in written.figures.values())
    page = Page(written.html.read_text(encoding="utf-8"))
    assert "Best-of-n against 2 reward models" in page.text
    assert set(page.charts) == {"s0", "s1"}
    assert {a.get("id") for t, a in page.elements if t == "section"} >= {"s0", "s1"}
    assert [a["href"] for t, a in page.elements if t == "a"] == ["#s0", "#s1"]
    assert "of the second" in page.text
    assert "Few prompts, so that a fall may go unseen: pool/a (6), pool/b (6)." in page.text
    assert page.text.count("ab" * 32) == 3
    assert sum(a.get("id") == "plotly" for _, a in page.elements) == 1


def test_many_studies_stay_small_enough_to_send(study, written):
    images = {name: path.read_bytes() for name, path in written.figures.items()}
    shown = [Shown(f"proxy {place}", study, (), images) for place in range(20)]
    assert len(render(shown, "many", "gold", images={}).encode()) < 6e6


def test_studies_of_like_names_have_figures_of_their_own(study, tmp_path):
    other = best_of_n_study(scored_table(num_prompts=5, size=9), num_bootstrap=20)
    names = ["\u6a21\u578b\u7532", "\u6a21\u578b\u4e59", "a/b", "a_b", "A_B", "heldout"]
    found = Overoptimization(
        {name: other if place % 2 else study for place, name in enumerate(names)}, dict.fromkeys(names, ())
    )
    written = report(found, tmp_path / "lab.html", evaluations=[evaluation()])
    assert len(set(written.figures.values())) == len(written.figures) == len(list(tmp_path.glob("*.png")))
    assert written.figures["a_b/gold"].name == "lab_a_b_gold.png"  # what needs no change has none
    assert written.figures["a/b/gold"].name == "lab_a_b-3_gold.png"
    page = Page(written.html.read_text(encoding="utf-8"))
    stills = [a["src"] for t, a in page.elements if t == "img" and a["alt"].startswith("Gold of the pick")]
    assert len(stills) == 6
    assert len(set(stills)) == 2  # each shows its own study
    of_studies = {path for name, path in written.figures.items() if not name.startswith("heldout_")}
    assert of_studies <= possible_figures(tmp_path / "lab.html", names)
    assert not possible_figures(tmp_path / "lab.html", names) & (set(written.figures.values()) - of_studies)
    long = possible_figures("lab.html", ["x" * 300, "x" * 299])
    assert len(long) == 16
    assert max(len(path.name) for path in long) < 150


def test_laws_have_one_frame_that_holds_all_their_points(study):
    from matplotlib.figure import Figure as Canvas

    pictures = law_pictures(study, "gold", looks(study))[:2]
    wide, narrow = (
        dataclasses.replace(
            one, gold=(0.0, size, -5 * size), distance=(0, 1, 2), fits=(), low=(-90.0,) * 3, high=(90.0,) * 3
        )
        for one, size in zip(pictures, (1.0, 0.01), strict=True)
    )
    axes = Canvas().subplots(1, 2, sharey=True)
    draw_laws(axes, [wide, narrow])
    for one in axes:
        low, high = one.get_ylim()
        assert low <= -5
        assert 1 <= high < 20


def test_a_folder_of_the_pages_name_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(PrudentError, match=r"page\.html is a folder"):
        report("absent.parquet", tmp_path / "page.html")
    with pytest.raises(PrudentError, match=r"page\.html is a folder"):
        alignment_report("absent", tmp_path / "page.html")


def test_a_page_of_many_studies_has_every_chart_and_says_which_pictures_are_left_out(study, written):
    images = {name: path.read_bytes() for name, path in written.figures.items()}
    several = {}
    for count in (8, 9):
        shown = [Shown(f"proxy {place}", study, (), images) for place in range(count)]
        several[count] = Page(render(shown, "many", "gold", images={}))
        ids = {a.get("id") for _, a in several[count].elements}
        charts = several[count].charts["s8" if count == 9 else "s0"]["charts"]
        assert {f"chart-s{count - 1}-{name}" for name in charts} <= ids
        assert {"proxy", "variance"} <= charts.keys()
    words = "in print and where scripts do not run it has pictures of gold and the strengths of rules alone"
    assert words not in several[8].text
    assert several[9].text.count(words) == 9 * 5
    assert several[9].text.count("The numbers at n = 12") == 9 * 2


def test_intervals_of_many_utilities_are_left_out(tmp_path):
    rules = ["mean", *(f"lcb_std({place / 4})" for place in range(1, 7))]
    many = best_of_n_study(scored_table(), utilities=rules, num_bootstrap=20, n_values=[2, 8])
    raw = report(many, tmp_path / "many.html").html.read_text(encoding="utf-8")
    assert "drawn where at most 6 curves have one" in Page(raw).text


def test_the_small_picture_tells_what_it_shows(study):
    assert "upright" not in spark_caption(study, "gold", None)
    assert "dashed" not in spark_caption(study, "gold", None)
    assert "with its interval; dashed: the best other rule; " in spark_caption(study, "gold", "mean")
    fallen = dataclasses.replace(study.verdicts["gold"], hacked=True, from_n=8)
    fallen = dataclasses.replace(study, verdicts={"gold": fallen})
    assert "upright line: the n from which on it lies below its peak" in spark_caption(fallen, "gold", None)
    one = best_of_n_study(scored_table(num_prompts=1), num_bootstrap=20)
    assert "interval" not in spark_caption(one, "gold", None)
