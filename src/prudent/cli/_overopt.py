"""`prudent overopt`."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from prudent.cli._app import Common, verb
from prudent.cli._console import Outcome
from prudent.cli._named import labeled
from prudent.cli._options import (
    FILES,
    UTILITY,
    DtypeOption,
    MaxLengthOption,
    NumBootstrapOption,
    OnePolicyOption,
    SeedOption,
    SkipBadOption,
    TokensPerBatchOption,
    finite,
    refuse,
)
from prudent.cli._overopt_checks import check_before_sampling, check_utilities, numbers, output_folder, several
from prudent.cli._overopt_words import left_out_in_sampling, told
from prudent.cli._report import Scale

SCORING = "Models to score the pools with"
SAMPLING = "A policy to sample the pools from"


@verb(
    panel="Look",
    example="""
    prudent overopt --scored scored.parquet --output lab
    prudent overopt --scored single=a.parquet --scored single=b.parquet --scored ensemble=c.parquet --output lab
    prudent overopt --model lora=rm-0 --model lora=rm-1 --data pool.jsonl --output lab
    prudent overopt --model rm --policy my-policy --gold-model gold-rm --data prompts.jsonl --output lab
    """,
)
def overopt(
    common: Common,
    *,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="FOLDER",
            help="What is written: report.html, tables as Parquet, and the scores of models.",
            rich_help_panel=FILES,
        ),
    ],
    scored: Annotated[
        list[str] | None,
        typer.Option(
            "--scored",
            metavar="[[POOL/]PROXY=]SCORED",
            help="What `prudent score` wrote of a pool with gold, under the name of the proxy. Give it again for"
            " others; under the same name for other seeds of it.",
            rich_help_panel=FILES,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[PROXY=]MODEL",
            help="Instead of --scored: a reward model to score --data with. Give it again for others; under the same"
            " name for other seeds of it.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[POOL=]FILE|NAME",
            help="With --model: a pool with gold, rows of a prompt and its responses; with --policy, prompts. Give it"
            " again for others.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="The split of pools that have several.", rich_help_panel=SCORING),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="NAME|FOLDER",
            help="With --model: the causal language model to sample the responses of the prompts in --data from, as"
            " `prudent sample` does.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    gold_model: Annotated[
        str | None,
        typer.Option(
            "--gold-model",
            metavar="NAME|FOLDER",
            help="With --policy: the reward model whose mean is taken for gold.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    num_candidates: Annotated[
        int | None,
        typer.Option(
            "--num-candidates", min=1, help="Responses to each prompt; by default 16.", rich_help_panel=SAMPLING
        ),
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option("--num-prompts", min=1, help="Only the first so many prompts.", rich_help_panel=SAMPLING),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            min=1e-6,
            callback=finite,
            help="Of sampling; by default 1.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="Longest response; by default as `prudent sample`.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="With --model: sample and score again what is in the output, by other models, data or settings.",
            rich_help_panel=FILES,
        ),
    ] = False,
    skip_bad: SkipBadOption = False,
    max_length: MaxLengthOption = None,
    dtype: DtypeOption = None,
    tokens_per_batch: TokensPerBatchOption = None,
    utility: Annotated[
        list[str] | None,
        typer.Option(
            "--utility",
            metavar="[NAME=]SPEC|FOLDER",
            help="A utility to study, such as 'lcb_std(2)'; give it again for several, which are compared with the"
            " first. By default, the usual ones for these rewards.",
            rich_help_panel=UTILITY,
        ),
    ] = None,
    n: Annotated[
        str | None,
        typer.Option("--n", metavar="N,N,...", help="Numbers of candidates; by default log-spaced up to the pool."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Whether to draw the baselines too.")
    ] = True,
    num_calibration_prompts: Annotated[
        int,
        typer.Option(
            "--num-calibration-prompts", min=2, help="Prompts of each draw that chooses the strength of tuned rules."
        ),
    ] = 50,
    num_resamples: Annotated[
        int,
        typer.Option("--num-resamples", min=2, help="Subsets drawn for rules that look at the other candidates."),
    ] = 16,
    one_policy: OnePolicyOption = None,
    scale: Annotated[
        Scale,
        typer.Option(
            "--scale",
            help="Gold of the page's words: as given, standardized within prompts, or with length partialled out too.",
        ),
    ] = Scale.gold,
    title: Annotated[str | None, typer.Option("--title", help="The heading of the page.")] = None,
    num_bootstrap: NumBootstrapOption = 1000,
    seed: SeedOption = 0,
) -> Outcome:
    """Ask whether reward models are hacked: from which n on gold falls, and which rule would have saved the picks.

    Every proxy is optimized against on every pool, by best-of-n at every n, under utilities that count what it does
    not know and under the baselines that these must beat; gold says what the picks are worth.
    """
    from prudent.evaluation import check_scored
    from prudent.evaluation import overopt as study
    from prudent.reports import report

    n_values = numbers(n)
    utilities = labeled(utility) if utility else []
    of_policy = {
        "--gold-model": gold_model,
        "--num-candidates": num_candidates,
        "--num-prompts": num_prompts,
        "--temperature": temperature,
        "--max-new-tokens": max_new_tokens,
    }
    if policy is None:
        refuse(of_policy, "goes with --policy")
    elif gold_model is None:
        raise typer.BadParameter("--policy needs --gold-model, which says what its responses are worth")
    elif n_values is not None and max(n_values) > (sampled := num_candidates or 16):
        raise typer.BadParameter(f"--n {n}: {sampled} responses are sampled to a prompt (--num-candidates)")
    place = Path(output)
    proxies: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if scored:
        of_models = {
            "--policy": policy,
            "--model": model,
            "--data": data,
            "--split": split,
            "--overwrite": overwrite or None,
            "--skip-bad": skip_bad or None,
            "--max-length": max_length,
            "--dtype": dtype,
            "--tokens-per-batch": tokens_per_batch,
        }
        refuse(of_models, "does not go with --scored, which was scored already")
        files: dict[str, Any] = several("--scored", scored)
        check_utilities(utilities.values() if isinstance(utilities, dict) else utilities)
        check_scored(files, scale=scale.value)
        inputs = list(chain(*files.values()))
    elif model and data:
        from prudent.evaluation import check_proxies, score_proxies

        pools = several("--data", data, otherwise="")
        if repeated := [name for name, found in pools.items() if len(found) > 1]:
            raise typer.BadParameter(f"--data: two pools have the name {repeated[0]!r}; give each a name of its own")
        sources = {name: found[0] for name, found in pools.items()}
        proxies = several("--model", model)
        check_proxies(proxies, sources)
        check_utilities(utilities.values() if isinstance(utilities, dict) else utilities, of_models=True)
        of_pools = [one for one in (policy, gold_model) if one is not None]
        inputs = [*chain(*proxies.values()), *sources.values(), *of_pools]
    else:
        raise typer.BadParameter("give --scored, or --model and --data")
    weights = None if dtype is None else dtype.value
    notes: dict[str, list[str]] = {}
    with output_folder(place, inputs):
        if policy is not None:
            from prudent.sampling import sample_pool

            drawn: dict[str, Any] = {
                name.removeprefix("--").replace("-", "_"): value
                for name, value in of_policy.items()
                if value is not None
            }
            check_before_sampling(proxies, sources.values(), split=split, skip_bad=skip_bad)
            (place / "pools").mkdir(exist_ok=True)
            for name, prompts in sources.items():
                sources[name] = str(place / "pools" / f"{name or 'pool'}.parquet")
                summary = sample_pool(
                    policy,
                    prompts,
                    sources[name],
                    split=split,
                    skip_bad=skip_bad,
                    overwrite=overwrite,
                    dtype=weights,
                    tokens_per_batch=tokens_per_batch,
                    seed=seed,
                    progress=common.progress,
                    **drawn,
                )
                if told_of := left_out_in_sampling(summary):
                    notes |= {f"{name}/{proxy}" if name else proxy: [told_of] for proxy in proxies}
            split = None  # what was sampled has none
        if proxies:
            files = dict(
                score_proxies(
                    proxies,
                    sources,
                    place / "scored",
                    split=split,
                    skip_bad=skip_bad,
                    overwrite=overwrite,
                    max_length=max_length,
                    dtype=weights,
                    tokens_per_batch=tokens_per_batch,
                    seed=seed,
                    progress=common.progress,
                )
            )
        chosen: dict[str, Any] = {"utilities": utilities} if utilities else {}
        found = study(
            files,
            notes=notes,
            n_values=n_values,
            baselines=baselines,
            num_calibration_prompts=num_calibration_prompts,
            num_resamples=num_resamples,
            one_policy=one_policy,
            num_bootstrap=num_bootstrap,
            seed=seed,
            progress=common.progress,
            **chosen,
        )
        earlier = _studied_before(place)
        written = found.write(output)
        page = report(found, place / "report.html", title=title, scale=scale.value, command=common.typed)
    _remove_figures(place, earlier, {*page.figures.values()})
    result = {
        "output": output,
        "report": page.html,
        "tables": written,
        "verdicts": {key: one.to_dict()["verdicts"] for key, one in found.studies.items()},
        "notes": {key: list(one.notes) for key, one in found.studies.items()},
    }
    return Outcome(result, f"{told(found, scale.value)}\nreport in {page.html}")


def _studied_before(folder: Path) -> list[str]:
    """Names of the studies that a folder holds already; none where that cannot be read."""
    try:
        return [str(one) for one in json.loads((folder / "overopt.json").read_text(encoding="utf-8"))["studies"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _remove_figures(folder: Path, earlier: Sequence[str], written: set[Path]) -> None:
    """Figures of an earlier page, of proxies that are not studied now, would pass for this one's; no others go."""
    from prudent.reports import possible_figures

    if earlier:
        for one in possible_figures(folder / "report.html", earlier) - written:
            one.unlink(missing_ok=True)
