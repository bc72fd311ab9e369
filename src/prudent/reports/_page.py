"""The page as text: what is known of each study, laid into the templates."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from prudent.evaluation import BenchmarkResult, BestOfNStudy, Source
from prudent.reports._advice import FEW_PROMPTS
from prudent.reports._benchmarks import benchmark_groups, benchmark_sentence
from prudent.reports._extra import need
from prudent.reports._first_screen import FirstScreen, first_screen, several_first
from prudent.reports._held_out import HeldOut
from prudent.reports._interactive import held_out_data, packed, plotly_script, study_data
from prudent.reports._laws import FORMS, LawPicture, law_pictures
from prudent.reports._reproduce import versions
from prudent.reports._sparkline import spark_caption, sparkline
from prudent.reports._strengths import Strengths, strengths
from prudent.reports._style import MOST_BANDS, SCALE_LABELS, Look, axis_label, looks
from prudent.reports._trade_off import LEVELS
from prudent.reports._words import NOTHING, ensemble_sentence, held_out_sentence, interval, number, sentences

__all__ = ["Shown", "page_environment", "render"]

_FOLD = 400
"""Longer texts of examples are folded after so many characters."""
_STILLS = {"gold": "gold", "strengths": "the strengths of rules"}
"""What many studies on one page have still pictures of, and what these are called."""
_KINDS = {"utility": "Utilities", "baseline": "Baselines", "control": "Controls"}


@dataclass(frozen=True)
class Shown:
    """A study to show."""

    name: str
    """What to call it among several; empty for a single one."""
    study: BestOfNStudy
    sources: tuple[Source, ...]
    """The scored files behind it, where they are known."""
    images: Mapping[str, bytes]
    """PNG of each figure, by name; the page shows them in print and until its script has run."""


def render(
    shown: Sequence[Shown],
    title: str,
    scale: str,
    *,
    held_out: Sequence[HeldOut] = (),
    benchmarks: Sequence[BenchmarkResult] = (),
    images: Mapping[str, bytes],
    command: str | None = None,
) -> str:
    """The page as text.

    Args:
        shown: The studies, at least one.
        title: Heading.
        scale: The scale of gold that the words use.
        held_out: Evaluations on held-out pairs.
        benchmarks: Results of public benchmarks.
        images: PNG of the figures of held-out pairs.
        command: What made the page, as one would type it.
    """
    environment = page_environment()
    markup = need("markupsafe").Markup
    several = len(shown) > 1
    stills = _stills(len(shown))
    scopes = {f"s{place}": study_data(one.study, scale) for place, one in enumerate(shown)}
    parts = [
        _Part.of(slug, one, scale, stills, frozenset(scopes[slug]["charts"]))
        for slug, one in zip(scopes, shown, strict=True)
    ]
    if held_out:
        scopes["page"] = held_out_data(held_out)
    first = several_first({one.name: one.study for one in shown}, scale) if several else parts[0].first
    return str(
        environment.get_template("page.html.j2").render(
            title=title,
            parts=parts,
            several=several,
            first=first,
            scale=scale,
            scale_labels=SCALE_LABELS,
            level_words=LEVELS,
            forms=FORMS,
            fold=_FOLD,
            most_bands=MOST_BANDS,
            nothing=NOTHING,
            stills=" and ".join(_STILLS[name] for name in stills.only),
            kinds=_KINDS,
            held_out=held_out,
            held_out_sentences=list(map(held_out_sentence, held_out)),
            page_images={name: _encoded(image, stills) for name, image in images.items()},
            benchmarks=[(one, benchmark_sentence(one), benchmark_groups(one)) for one in benchmarks],
            command=command,
            few=FEW_PROMPTS,
            versions=versions(),
            script=markup(_template("charts.js") + _template("page.js")),
            plotly=plotly_script(),
            charts=packed(json.dumps(scopes, allow_nan=False, separators=(",", ":"))),
        )
    )


def page_environment() -> Any:
    """What reads the templates: they escape, know `number` and `interval`, and have the style in `style`."""
    jinja2 = need("jinja2")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_template),
    )
    environment.filters |= {"number": number, "interval": interval}
    environment.globals["style"] = need("markupsafe").Markup(_template("report.css"))
    return environment


@dataclass(frozen=True)
class _Part:
    """What the template of one study reads."""

    slug: str
    """Starts the ids of its elements."""
    name: str
    study: BestOfNStudy
    sources: tuple[Source, ...]
    scales: list[str]
    """The scales of gold, the one that words use first."""
    first: FirstScreen
    charts: frozenset[str]
    """Those that can be explored."""
    caption: str
    """What the small picture shows."""
    spark: Any
    """The small picture beside the answer, and in a table of studies."""
    small_spark: Any
    sentences: list[str]
    looks: dict[str, Look]
    axis: str
    strengths: list[Strengths]
    laws: list[LawPicture]
    ensembles: dict[str, str]
    images: dict[str, str]
    """Figures in base64."""

    @classmethod
    def of(cls, slug: str, shown: Shown, scale: str, stills: "_Stills", charts: frozenset[str]) -> "_Part":
        study = shown.study
        known = [one.path for one in shown.sources if one.sha256 is not None]
        first = first_screen(study, scale, known[0] if len(known) == len(shown.sources) == 1 else None)
        markup = need("markupsafe").Markup
        drawn = bool(study.gold_scales) and study.n_values[-1] > 1
        sparks = [
            markup(sparkline(study, scale, first.rescue, labels=labels)) if drawn else None for labels in (True, False)
        ]
        styles = looks(study)
        has_gold = bool(study.gold_scales)
        return cls(
            slug=slug,
            name=shown.name,
            study=study,
            sources=shown.sources,
            scales=[scale, *(name for name in study.gold_scales if name != scale)] if has_gold else [],
            first=first,
            charts=charts,
            caption=spark_caption(study, scale, first.rescue) if drawn else "",
            spark=sparks[0],
            small_spark=sparks[1],
            sentences=sentences(study, scale),
            looks=styles,
            axis=axis_label(study),
            strengths=strengths(study, scale, styles) if has_gold else [],
            laws=law_pictures(study, scale, styles) if has_gold else [],
            ensembles={
                name: ensemble_sentence(one.ensemble) for name, one in study.rewards.items() if one.ensemble is not None
            },
            images={
                name: _encoded(image, stills)
                for name, image in shown.images.items()
                if not stills.only or name in stills.only
            },
        )


def _template(name: str) -> str:
    return (resources.files("prudent.reports") / "templates" / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Stills:
    """How much the still pictures may take up, so that a page of many studies stays small enough to send."""

    share: float
    """Of their width and height."""
    colors: int
    only: tuple[str, ...]
    """Those that are kept; empty for all."""


def _stills(num_studies: int) -> _Stills:
    if num_studies <= 2:
        return _Stills(1.0, 128, ())
    return _Stills(0.65, 48, () if num_studies <= 8 else tuple(_STILLS))


def _encoded(image: bytes, stills: _Stills) -> str:
    """A PNG in base64, with so few colors that it takes up a third, and smaller where there are many."""
    pillow, smaller = need("PIL.Image"), io.BytesIO()
    with pillow.open(io.BytesIO(image)) as whole:
        picture = whole.convert("RGB")
        if stills.share < 1:
            size = (round(picture.width * stills.share), round(picture.height * stills.share))
            picture = picture.resize(size, pillow.Resampling.LANCZOS)
        picture.quantize(stills.colors, method=pillow.Quantize.FASTOCTREE, dither=0).save(smaller, "PNG")
    return base64.b64encode(smaller.getvalue()).decode()
