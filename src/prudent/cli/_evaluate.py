"""`prudent evaluate`."""

from typing import TYPE_CHECKING, Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome, table
from prudent.cli._options import (
    FILES,
    DtypeOption,
    MaxLengthOption,
    ModelOption,
    NumBootstrapOption,
    PreferencesOption,
    SeedOption,
    SkipBadOption,
    StrictOption,
    TokensPerBatchOption,
)

if TYPE_CHECKING:
    from prudent.evaluation import Evaluation, Figure, GoldFigures, ShiftFigures


@verb(
    panel="Look",
    example="""
    prudent evaluate --model rm-posterior --data heldout.jsonl --output evaluation.json
    prudent evaluate --model rm-posterior --data heldout.jsonl --shift-data other.jsonl --scored scored.parquet
    """,
)
def evaluate(
    common: Common,
    *,
    model: ModelOption,
    data: PreferencesOption,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE.json", help="Where to write the figures.", rich_help_panel=FILES),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="The split of data that have several; by default test, else validation, else the only one.",
            rich_help_panel=FILES,
        ),
    ] = None,
    shift_data: Annotated[
        str | None,
        typer.Option(
            "--shift-data",
            metavar="FILE|NAME",
            help="Preferences from elsewhere: does the posterior know less of them?",
            rich_help_panel=FILES,
        ),
    ] = None,
    scored: Annotated[
        str | None,
        typer.Option(
            "--scored",
            metavar="SCORED",
            help="What `prudent score` made of a pool with gold: does gold lie where the posterior says?",
            rich_help_panel=FILES,
        ),
    ] = None,
    skip_bad: SkipBadOption = False,
    logit_temperature: Annotated[
        float | None,
        typer.Option(
            "--logit-temperature",
            min=1e-12,
            help="Also show the mean over this temperature, found on other pairs; by default that of fit --eval-data.",
        ),
    ] = None,
    max_length: MaxLengthOption = None,
    dtype: DtypeOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    strict: StrictOption = False,
    num_bootstrap: NumBootstrapOption = 1000,
    seed: SeedOption = 0,
) -> Outcome:
    """Measure a reward model on preferences it has not seen: accuracy and calibration, with intervals over prompts."""
    from prudent.evaluation import evaluate as evaluate_model

    found = evaluate_model(
        model,
        data,
        output,
        split=split,
        shift_data=shift_data,
        scored=scored,
        logit_temperature=logit_temperature,
        num_bootstrap=num_bootstrap,
        max_length=max_length,
        dtype=None if dtype is None else dtype.value,
        tokens_per_batch=tokens_per_batch,
        strict=strict,
        skip_bad=skip_bad,
        seed=seed,
        progress=common.progress,
    )
    parts = [_pairs(found)]
    if found.shift is not None:
        parts.append(_shift(found, found.shift))
    if found.gold is not None:
        parts.append(_gold(found.gold))
    return Outcome(found.to_dict(), "\n\n".join(parts))


def _pairs(found: "Evaluation") -> str:
    """The figures by the mean alone, by the scaled mean and by the whole posterior, with their intervals."""
    from prudent.metrics import MAX_LOGIT_TEMPERATURE, MIN_LOGIT_TEMPERATURE

    of_split = f" of {found.split}" if found.split else ""
    header = [f"{found.num_pairs:,} pairs{of_split}, {found.num_prompts:,} prompts", "mean alone"]
    kinds, selective = [found.map], [found.selective_map]
    if found.scaled is not None:  # a temperature leaves the order of the pairs as it is
        header.append(f"mean over {found.logit_temperature:.4g}")
        kinds.append(found.scaled)
        selective.append(found.selective_map)
    if found.moderated is not None and found.selective_moderated is not None:
        header.append("whole posterior")
        kinds.append(found.moderated)
        selective.append(found.selective_moderated)
    figures = {
        "accuracy": [found.accuracy for _ in kinds],
        "negative log-likelihood, nats": [kind.nll for kind in kinds],
        "Brier score": [kind.brier for kind in kinds],
        "calibration error": [kind.ece for kind in kinds],
        "accuracy of the surest 80%": [one.accuracy_at_80 for one in selective],
        "accuracy of the surest 50%": [one.accuracy_at_50 for one in selective],
        "area under risk-coverage": [one.area for one in selective],
        "area above the best order's": [one.excess_area for one in selective],
    }
    text = table(header, [[name, *map(_interval, row)] for name, row in figures.items()])
    if found.nll_difference is not None and found.area_difference is not None:
        text += "\nwhole posterior minus mean alone, paired: "
        differences = {"negative log-likelihood": found.nll_difference, "area": found.area_difference}
        text += ", ".join(f"{name} {_interval(one, digits=4)}" for name, one in differences.items())
    if found.bounds is not None:
        text += (
            f"\nintervals of {found.bounds.num_std:g} std of the difference: {_interval(found.bounds.confident)} leave "
            f"out zero, ranking score {_interval(found.bounds.ranking_score)}, bound calibration error "
            f"{_interval(found.bounds.bound_calibration_error)}"
        )
    temperature = found.optimal_logit_temperature
    known = 1.01 * MIN_LOGIT_TEMPERATURE < temperature < 0.99 * MAX_LOGIT_TEMPERATURE
    shown = f"{temperature:.4g}" if known else "these pairs do not determine one"
    return f"{text}\nlogit temperature that suits these pairs: {shown}"


def _shift(found: "Evaluation", shift: "ShiftFigures") -> str:
    """Pairs from elsewhere beside those evaluated."""
    of_split = f" of {shift.split}" if shift.split else ""
    header = ["", "pairs", "accuracy", "mean contrast std"]
    rows: list[list[object]] = [
        ["evaluated", f"{found.num_pairs:,}", _interval(found.accuracy), found.mean_contrast_std],
        [f"elsewhere{of_split}", f"{shift.num_pairs:,}", _interval(shift.accuracy), shift.mean_contrast_std],
    ]
    return f"{table(header, rows)}\nAUROC of the contrast std, elsewhere above evaluated: {_interval(shift.auroc)}"


def _gold(gold: "GoldFigures") -> str:
    """Intervals for gold, with the posterior's variance and with a constant one."""
    header = [f"gold of {gold.num_responses:,} responses, {gold.num_prompts:,} prompts", "variance", "constant"]
    rows: list[list[object]] = []
    for name, one in (("", gold.absolute), (", within prompts", gold.within)):
        kinds = (one.posterior, one.constant)
        rows += [
            [f"coverage of {gold.level:.0%} intervals{name}", *(_interval(kind.coverage) for kind in kinds)],
            [f"width{name}", *(_interval(kind.width) for kind in kinds)],
            [f"negative log density, nats{name}", *(_interval(kind.nll) for kind in kinds)],
            [f"variance minus constant, paired{name}", _interval(one.nll_difference), None],
        ]
    error = "undefined" if gold.error_correlation is None else _interval(gold.error_correlation)
    return f"{table(header, rows)}\nrank correlation of std and size of the error, within prompts: {error}"


def _interval(figure: "Figure", digits: int = 3) -> str:
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
