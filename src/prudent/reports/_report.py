"""One self-contained HTML page and PNG figures from a scored file or a study."""

import base64
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from prudent.errors import DataError, PrudentError
from prudent.evaluation import BestOfNStudy, Evaluation, best_of_n_study
from prudent.models import atomic_file
from prudent.reports._extra import need, need_report_packages
from prudent.reports._held_out import HeldOut, held_out_pairs
from prudent.reports._interactive import chart_data, plotly_script
from prudent.reports._png import draw_figures
from prudent.reports._style import SCALE_LABELS, axis_label, looks
from prudent.reports._trade_off import LEVELS
from prudent.reports._words import ensemble_sentence, headline, held_out_sentence, interval, number, sentences
from prudent.scoring import read_scored

__all__ = ["ReportPaths", "report"]

_FOLD = 400
"""Longer texts of examples are folded after so many characters."""


@dataclass(frozen=True)
class ReportPaths:
    """What a report wrote."""

    html: Path
    figures: dict[str, Path]
    """`gold`, `proxy`, `variance`, `reliability`, `risk_coverage`, and of evaluations `heldout_reliability` and
    `heldout_risk_coverage`: the PNG of each figure that the data could fill."""
    study: BestOfNStudy


def report(
    data: str | Path | BestOfNStudy,
    output: str | Path,
    *,
    title: str | None = None,
    scale: str = "gold",
    evaluations: Sequence[str | Path | Evaluation] = (),
    png: bool = True,
    **study_options: Any,
) -> ReportPaths:
    """Write a report on best-of-n: one HTML file that opens offline, and PNG figures beside it.

    The page says in words what happened, with intervals; shows gold and proxy of the pick against KL (against n for
    pools of several policies), its variance, and on pairs of candidates the reliability of the posterior and its risk
    and coverage; and lists prompts on which the utilities disagree. Without gold it shows proxy and variance only, and
    says so. Evaluations add how well the model predicts held-out pairs. Figures can be explored where scripts run and
    are still pictures where they do not.

    Args:
        data: A scored dataset (folder or Parquet file), or a study made by `prudent.evaluation.best_of_n_study`.
        output: The HTML file, `NAME.html`; figures become `NAME_gold.png` and so on. Existing files are replaced.
        title: Heading of the page. None: made from the name of the data.
        scale: The scale of gold that words and figures use: `gold`, `gold_standardized`, or `gold_length_adjusted`.
        evaluations: What `prudent.evaluation.evaluate` returned or wrote on held-out pairs, at most six: several
            posteriors of one model are shown side by side.
        png: Whether to write the figures as files too; the page holds them in any case.
        study_options: Further arguments of `best_of_n_study`, where `data` is a scored dataset.

    Returns:
        The paths written and the study shown.

    Raises:
        prudent.errors.PrudentError: If a package of the extra `report` is not installed, or the name of the output does
            not end in .html.
        prudent.errors.DataError: If the data is no scored dataset, or has no gold on this scale, or an evaluation is
            none, or there are more than six.
        TypeError: If study options come with a study.

    Example:
        >>> import tempfile
        >>> import pyarrow as pa
        >>> from prudent.evaluation import best_of_n_study
        >>> table = pa.table({"prompt_id": [0, 0, 0], "reward_mean": [0.0, 1, 2], "reward_variance": [1.0, 1, 2]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report(best_of_n_study(table, num_bootstrap=50), f"{folder}/small.html").html.name
        'small.html'
    """
    need_report_packages()  # before any work
    held_out = held_out_pairs(evaluations)
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise PrudentError(f"{output}: a report is one HTML page; let its name end in .html")
    if isinstance(data, BestOfNStudy):
        if study_options:
            raise TypeError(f"a finished study takes no study options, got {', '.join(study_options)}")
        study, source = data, None
    else:
        study, source = best_of_n_study(read_scored(data), **study_options), str(data)
    if study.gold_scales and scale not in study.gold_scales:
        raise DataError(f"no gold on the scale {scale!r} here; there is {', '.join(study.gold_scales)}")
    heading = title or (f"Best-of-n on {Path(source).stem}" if source else "Best-of-n")
    if png:
        stem = output.with_suffix("")
        figures = draw_figures(study, stem, scale=scale, held_out=held_out)
        images = {name: path.read_bytes() for name, path in figures.items()}
    else:
        figures, images = {}, _draw_in_memory(study, scale, held_out)
    html = render(study, heading, source, scale, images, held_out)
    with atomic_file(output) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return ReportPaths(output, figures, study)


def _draw_in_memory(study: BestOfNStudy, scale: str, held_out: Sequence[HeldOut]) -> dict[str, bytes]:
    """The figures for the page alone."""
    with tempfile.TemporaryDirectory() as folder:
        figures = draw_figures(study, Path(folder) / "figure", scale=scale, held_out=held_out)
        return {name: path.read_bytes() for name, path in figures.items()}


def render(
    study: BestOfNStudy,
    title: str,
    source: str | None,
    scale: str,
    images: dict[str, bytes],
    held_out: Sequence[HeldOut] = (),
) -> str:
    """The page as text.

    Args:
        study: What to show.
        title: Heading.
        source: Where the data came from, if known.
        scale: The scale of gold that the words use.
        images: PNG of each figure, by name; the page shows them until its script has run.
        held_out: Evaluations on held-out pairs.
    """
    jinja2 = need("jinja2")
    folder = resources.files("prudent.reports") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "interval": interval}
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    scales = [scale, *(name for name in study.gold_scales if name != scale)] if study.gold_scales else []
    markup = need("markupsafe").Markup
    return str(
        template.render(
            title=title,
            source=source,
            ensembles={
                name: ensemble_sentence(one.ensemble) for name, one in study.rewards.items() if one.ensemble is not None
            },
            study=study,
            scales=scales,
            scale_labels=SCALE_LABELS,
            headline=headline(study, scale),
            sentences=[*sentences(study, scale), *map(held_out_sentence, held_out)],
            held_out=held_out,
            looks=looks(study),
            level_words=LEVELS,
            axis=axis_label(study),
            fold=_FOLD,
            images={name: base64.b64encode(image).decode() for name, image in images.items()},
            style=markup((folder / "report.css").read_text(encoding="utf-8")),
            script=markup((folder / "report.js").read_text(encoding="utf-8")),
            plotly=plotly_script(),
            # "<" as an escape, so that no text of the data can end the script element
            charts=markup(json.dumps(chart_data(study, scale, held_out), allow_nan=False).replace("<", "\\u003c")),
        )
    )
