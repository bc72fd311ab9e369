"""`prudent evaluate`."""

from typing import TYPE_CHECKING, Annotated

import typer

from prudent.cli._app import Common, verb
from prudent.cli._benchmark import describe_benchmark
from prudent.cli._console import Outcome, table
from prudent.cli._named import labeled
from prudent.cli._options import (
    FILES,
    DtypeOption,
    MaxLengthOption,
    NumBootstrapOption,
    SeedOption,
    SkipBadOption,
    StrictOption,
    TokensPerBatchOption,
    refuse,
)

if TYPE_CHECKING:
    from prudent.evaluation import Evaluation, Figure, GoldFigures, ShiftFigures, UtilityComparison

BENCHMARK = "Benchmark"


@verb(
    panel="Look",
    example="""
    prudent evaluate --model rm-posterior --data heldout.jsonl --output evaluation.json
    prudent evaluate --model rm-posterior --data heldout.jsonl --shift-data other.jsonl --scored scored.parquet
    prudent evaluate --scored scored.parquet --utility mean --utility "lcb_std(2)"
    prudent evaluate --benchmark rewardbench2 --model rm-posterior --data allenai/reward-bench-2 --output rb2
    """,
)
def evaluate(
    common: Common,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME|FOLDER",
            help="A model by hub name or folder, with or without an adapter.",
            rich_help_panel=FILES,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE|NAME",
            help="Preferences with chosen, rejected and usually prompt, or the rows of the benchmark: JSONL, JSON, CSV,"
            " Parquet, a folder or a hub name.",
            rich_help_panel=FILES,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE.json|FOLDER",
            help="Where to write the figures; of a benchmark a folder, which gets the scores too, or a file beside"
            " which they are kept.",
            rich_help_panel=FILES,
        ),
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
    utility: Annotated[
        list[str] | None,
        typer.Option(
            "--utility",
            metavar="[LABEL=]UTILITY",
            help="Instead of --model and --data: what this picks from --scored; repeat it to compare several with the"
            " first.",
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="NAME",
            help="Run a benchmark: rewardbench, rewardbench2, rm_bench, reward_math, best_of_n (a pool of gold 0 or 1)"
            " or subsets (preferences with a column subset).",
            rich_help_panel=BENCHMARK,
        ),
    ] = None,
    score_column: Annotated[
        str | None,
        typer.Option(
            "--score-column",
            metavar="NAME",
            help="With --benchmark, instead of --model: a column with a list of scores, one a response.",
            rich_help_panel=BENCHMARK,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="With --benchmark: replace scores in the output that another model or other data gave.",
            rich_help_panel=BENCHMARK,
        ),
    ] = False,
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
    """Measure a reward model on preferences it has not seen: accuracy and calibration, with intervals over prompts.

    With --utility, compare what utilities pick from a scored pool instead: their gold, and their rewards one by one.
    With --benchmark, run a public benchmark, and see what leaving out the least sure decisions makes of its figures.
    """
    if benchmark is not None:
        elsewhere = {
            "--utility": utility or None,
            "--scored": scored,
            "--shift-data": shift_data,
            "--logit-temperature": logit_temperature,
        }
        refuse(elsewhere, "does not go with --benchmark")
        if data is None:
            raise typer.BadParameter("--benchmark needs --data, its rows: a file, a folder or a name on the hub")
        if (model is None) == (score_column is None):
            raise typer.BadParameter("--benchmark needs either --model or --score-column")
        if score_column is not None:
            of_model = {
                "--max-length": max_length,
                "--dtype": dtype,
                "--tokens-per-batch": tokens_per_batch,
                "--strict": strict or None,
                "--overwrite": overwrite or None,
            }
            refuse(of_model, "does not go with --score-column, which was scored already")
        from prudent.evaluation import run_benchmark

        result = run_benchmark(
            model,
            benchmark,
            data,
            output,
            score_column=score_column,
            split=split,
            num_bootstrap=num_bootstrap,
            max_length=max_length,
            dtype=None if dtype is None else dtype.value,
            tokens_per_batch=tokens_per_batch,
            strict=strict,
            skip_bad=skip_bad,
            overwrite=overwrite,
            seed=seed,
            progress=common.progress,
        )
        return Outcome(result.to_dict(), describe_benchmark(result))
    refuse({"--score-column": score_column, "--overwrite": overwrite or None}, "goes with --benchmark alone")
    if utility:
        of_pairs = {
            "--model": model,
            "--data": data,
            "--split": split,
            "--shift-data": shift_data,
            "--logit-temperature": logit_temperature,
            "--max-length": max_length,
            "--dtype": dtype,
            "--tokens-per-batch": tokens_per_batch,
            "--strict": strict or None,
            "--skip-bad": skip_bad or None,
        }
        refuse(of_pairs, "does not go with --utility, which compares what is picked from --scored")
        if scored is None:
            raise typer.BadParameter("--utility needs --scored")
        from prudent.evaluation import compare_utilities

        compared = compare_utilities(scored, labeled(utility), output, num_bootstrap=num_bootstrap, seed=seed)
        return Outcome(compared.to_dict(), _utilities(compared))
    if model is None or data is None:
        raise typer.BadParameter("give --model and --data, or --scored and --utility, or --benchmark")
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
    figures: dict[str, list[Figure | float | None]] = {
        "accuracy": [found.accuracy for _ in kinds],
        "negative log-likelihood, nats": [kind.nll for kind in kinds],
        "Brier score": [kind.brier for kind in kinds],
        "calibration error": [kind.ece for kind in kinds],
        "the same of calibrated ones": [kind.calibrated_ece for kind in kinds],
        "accuracy of the surest 80%": [one.accuracy_at_80 for one in selective],
        "accuracy of the surest 50%": [one.accuracy_at_50 for one in selective],
        "area under risk-coverage": [one.area for one in selective],
        "area above the best order's": [one.excess_area for one in selective],
    }
    text = table(header, [[name, *map(_shown, row)] for name, row in figures.items()])
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


def _utilities(found: "UtilityComparison") -> str:
    """What each utility picks, side by side."""
    first = found.utilities[0]
    header = [f"picks of {found.num_prompts:,} prompts", *(one.label for one in found.utilities)]
    rows: list[list[object]] = []
    for name in first.gold:
        rows.append([name, *(_optional(one.gold[name]) for one in found.utilities)])
        differences = [None, *(_optional(one.gold_difference[name]) for one in found.utilities[1:])]
        rows.append([f"{name}, minus {first.label}'s", *differences])
    if first.good_in_all is not None:
        rows.append(["above the median in every gold", *map(_optional, (one.good_in_all for one in found.utilities))])
    if first.rank_correlation is not None:
        rows.append(["rank correlation with gold", *map(_optional, (one.rank_correlation for one in found.utilities))])
    rows += [
        [f"{name}, above average", *(_optional(one.rewards[name]) for one in found.utilities)] for name in first.rewards
    ]
    rows.append(["every reward above average", *(_optional(one.above_average) for one in found.utilities)])
    rows.append([f"same pick as {first.label}", *(f"{one.same_pick:.3f}" for one in found.utilities)])
    lines = [table(header, rows)]
    lines += [f"{one.label}: {one.utility}" for one in found.utilities if one.label != one.utility]
    lines += [f"{one.label}: {one.num_excluded:,} responses not scored" for one in found.utilities if one.num_excluded]
    if found.num_calibration_prompts:
        lines.append(f"without the {found.num_calibration_prompts:,} prompts that the members were calibrated on")
    return "\n".join(lines)


def _shown(figure: "Figure | float | None") -> str:
    if figure is None or isinstance(figure, float):
        return "unknown" if figure is None else f"{figure:.3f}"
    return _interval(figure)


def _optional(figure: "Figure | None") -> str:
    return "undefined" if figure is None else _interval(figure)


def _interval(figure: "Figure", digits: int = 3) -> str:
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
