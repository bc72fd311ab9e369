"""Cost of posteriors over LoRA weights, to fit and to predict, beside laplace-torch and a head as in RewardUQ.

The model is all-MiniLM-L6-v2 in float32 with LoRA of rank 8 on query and value. All costs are ratios to a forward of
plain Transformers over the same texts, 32 at a time in file order and padded, and to prudent's own batches by tokens.
They are taken in one run, warm, as medians over rounds in which the ways alternate, of processor time, so that other
work on the machine counts little. Two kinds of texts: made up, all of one length, and with `--data` real ones of mixed
length. Variances of the ways are compared in the same run.

    python benchmarks/posterior.py                                      # small: a few minutes
    python benchmarks/posterior.py --pairs 1000 --texts 2000 --rounds 1 # the whole workload
    python benchmarks/posterior.py --data pairs.parquet                 # and real texts
    python benchmarks/posterior.py --memory                              # peak memory instead, a process for each way

laplace-torch is run where it is installed. With glibc's defaults its allocations cost page faults; this steadies times
(but not memory): GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592
"""

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
from _posterior_rivals import (
    HOW_TO_INSTALL,
    UnweightedHead,
    fit_laplace_torch,
    laplace_torch_is_there,
    predict_laplace_torch,
)
from _posterior_workload import Workload, in_bf16, lora_model, made_up, padded_rewards, real
from torch import Tensor

from prudent.models import RewardModel
from prudent.posteriors import _lora_fit, fit

PRIOR_PRECISION = 1.0
CANDIDATES = 16
REFERENCES = 4
PADDED = "Transformers forward, 32 texts a batch, padded"
BY_TOKENS = "prudent forward, batches by tokens"

Stage = Literal["fit", "predict"]


@dataclass(frozen=True)
class Way:
    """One way to fit or to predict.

    Attributes:
        name: of its row.
        stage: what it does.
        run: takes the workload and, to predict, what was fitted; gives a posterior, or means and variances.
        needs: the way that fitted it.
        share: part of the workload that it is timed on, for slow ones; the forward is then timed on that part too.
    """

    name: str
    stage: Stage
    run: Callable[[Workload, Any], Any]
    needs: str | None = None
    share: float = 1.0


def prudent_fit(model: RewardModel, posterior: str, **options: Any) -> Callable[[Workload, Any], Any]:
    """`prudent.posteriors.fit` with a prior precision that all ways share."""

    def run(workload: Workload, _: Any) -> Any:
        rows = [dataclasses.asdict(pair) for pair in workload.pairs]
        settings = {"head": "kept", "prior_precision": PRIOR_PRECISION, "progress": False, **options}
        return fit(model, rows, posterior=posterior, **settings).posterior

    return run


def fit_with_fewer_basis_pairs(model: RewardModel) -> Callable[[Workload, Any], Any]:
    """`ekfac` finds its bases from at most 256 pairs: a small workload is given the proportion of a larger one."""

    def run(workload: Workload, _: Any) -> Any:
        with patch.object(_lora_fit, "_BASIS_PAIRS", max(2, len(workload.pairs) // 4)):
            return prudent_fit(model, "ekfac")(workload, None)

    return run


def prudent_predict(model: RewardModel, *, everything: bool = False) -> Callable[[Workload, Any], Any]:
    """Mean and variance; with everything, variances centred on 4 of 16 candidates and the stored factor as well."""

    def run(workload: Workload, posterior: Any) -> tuple[Tensor, Tensor]:
        prompts, responses = zip(*workload.texts, strict=True)
        place = torch.arange(len(workload.texts))
        predicted = posterior.predict(
            model,
            model.encode(prompts, responses),
            group=place // CANDIDATES if everything else place,
            reference_weight=(place % CANDIDATES < REFERENCES).float() if everything else torch.zeros(len(place)),
            with_factor=everything,
        )
        if everything and not bool(predicted.centered_variance.isfinite().all()):
            raise SystemExit("a centred variance is missing")
        return predicted.mean, predicted.variance

    return run


def prudent_forward(model: RewardModel, texts: list[tuple[str, str]]) -> Tensor:
    """Rewards alone, in batches by tokens."""
    prompts, responses = zip(*texts, strict=True)
    return model.rewards(prompts, responses)


def all_ways(model: RewardModel) -> list[Way]:
    """The ways, those that are fitted before those that predict with them."""
    half = in_bf16(model)
    ways = [
        Way("prudent last_layer", "fit", prudent_fit(model, "last_layer", standardize=False)),
        Way("prudent kron", "fit", prudent_fit(model, "kron")),
        Way("prudent ekfac", "fit", prudent_fit(model, "ekfac")),
        Way("prudent ekfac, bases from a quarter of the pairs", "fit", fit_with_fewer_basis_pairs(model)),
        Way("prudent diag", "fit", prudent_fit(model, "diag")),
        Way(
            "RewardUQ-style head",
            "fit",
            lambda work, _: UnweightedHead.fit(model, work, prior_precision=PRIOR_PRECISION),
        ),
        Way("prudent last_layer, float32", "predict", prudent_predict(model), "prudent last_layer"),
        Way("prudent kron, float32", "predict", prudent_predict(model), "prudent kron"),
        Way("prudent ekfac, float32", "predict", prudent_predict(model), "prudent ekfac"),
        Way("prudent kron, bf16", "predict", prudent_predict(half), "prudent kron"),
        Way("prudent kron, float32, everything", "predict", prudent_predict(model, everything=True), "prudent kron"),
        Way("prudent kron, bf16, everything", "predict", prudent_predict(half, everything=True), "prudent kron"),
        Way("RewardUQ-style head", "predict", lambda work, head: head.predict(model, work), "RewardUQ-style head"),
    ]
    return ways + (laplace_torch_ways(model) if laplace_torch_is_there() else [])


def laplace_torch_ways(model: RewardModel) -> list[Way]:
    """laplace-torch at the batch size that suits it best, one, and at eight."""

    def fitting(weights: str, structure: str, rows: int, share: float = 1.0) -> Way:
        name = f"laplace-torch {structure}{' last layer' if weights == 'last_layer' else ''}, batch {rows}"
        options: dict[str, Any] = {"weights": weights, "structure": structure, "rows": rows}
        return Way(
            name,
            "fit",
            lambda work, _: fit_laplace_torch(model, work, prior_precision=PRIOR_PRECISION, **options),
            share=share,
        )

    def predicting(name: str, needs: str, rows: int, share: float = 1.0) -> Way:
        run = lambda work, fitted: predict_laplace_torch(fitted, model, work, rows=rows)  # noqa: E731
        return Way(f"laplace-torch {name}, batch {rows}", "predict", run, f"laplace-torch {needs}", share)

    return [
        fitting("all", "kron", 1),
        fitting("all", "kron", 8, 0.25),
        fitting("all", "diag", 1, 0.25),
        fitting("last_layer", "full", 8, 0.25),
        predicting("kron", "kron, batch 1", 1),
        predicting("kron", "kron, batch 1", 8, 0.125),
        predicting("full last layer", "full last layer, batch 8", 32),
    ]


def part_of(workload: Workload, share: float) -> Workload:
    return workload.part(*(max(8, round(share * size)) for size in (len(workload.pairs), len(workload.texts))))


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def measure(
    model: RewardModel, ways: list[Way], workload: Workload, rounds: int
) -> tuple[dict[str, Any], dict[tuple[Stage, str], Any]]:
    """Rows of the tables, and what each way gave."""
    fitted: dict[str, Any] = {}
    for way in ways:  # warm
        result = way.run(workload.part(4, 4), fitted.get(way.needs or ""))
        if way.stage == "fit":
            fitted[way.name] = result
    results: dict[tuple[Stage, str], Any] = {}
    seconds: dict[tuple[Stage, str, float], list[float]] = {}
    for _ in range(rounds):
        for stage in ("fit", "predict"):
            own = [way for way in ways if way.stage == stage]
            for share in sorted({way.share for way in own}):
                part = part_of(workload, share)
                texts = part.pair_texts() if stage == "fit" else part.texts
                for name, forward in ((PADDED, padded_rewards), (BY_TOKENS, prudent_forward)):
                    taken, rewards = seconds_of(lambda forward=forward, texts=texts: forward(model, texts))
                    seconds.setdefault((stage, name, share), []).append(taken)
                    if share == 1:
                        results[stage, name] = rewards
            for way in own:
                needed = results["fit", way.needs] if way.needs else None
                part = part_of(workload, way.share)
                taken, results[stage, way.name] = seconds_of(lambda way=way, part=part, x=needed: way.run(part, x))
                seconds.setdefault((stage, way.name, way.share), []).append(taken)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    tables: dict[str, Any] = {"fit": [], "predict": []}
    for (stage, name, share), taken in median.items():
        if name in (PADDED, BY_TOKENS) and share < 1:
            continue
        part = part_of(workload, share)
        tables[stage].append(
            {
                "way": name,
                "rows": len(part.pairs) if stage == "fit" else len(part.texts),
                "seconds": round(taken, 3),
                "ratio_to_padded": round(taken / median[stage, PADDED, share], 3),
                "ratio_to_by_tokens": round(taken / median[stage, BY_TOKENS, share], 3),
            }
        )
    return tables, results


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def compare(name: str, of: str, one: Tensor, other: Tensor) -> dict[str, Any]:
    """How far two ways' variances (or rewards) of the same texts agree."""
    one, other = one[: len(other)].double(), other[: len(one)].double()
    relative = ((one - other) / other).abs()
    return {
        "compared": name,
        "with": of,
        "texts": len(one),
        "median_ratio": float((one / other).median()),
        "median_relative_difference": float(relative.median()),
        "largest_relative_difference": float(relative.max()),
        "correlation": float(torch.corrcoef(torch.stack([one, other]))[0, 1]),
        "rank_correlation": float(torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1]),
    }


def uncentred(posterior: Any, curvature: float = 1.0) -> Any:
    """The posterior with variances of the rewards as they are, and with its curvature times a number."""
    blocks = tuple(
        dataclasses.replace(
            block,
            eigenvalues=curvature * block.eigenvalues,
            remainder=None if block.remainder is None else curvature * block.remainder,
        )
        for block in posterior.blocks
    )
    return dataclasses.replace(posterior, blocks=blocks, gradient_mean=torch.zeros_like(posterior.gradient_mean))


def agreement(
    model: RewardModel, ways: list[Way], workload: Workload, results: dict[tuple[Stage, str], Any]
) -> list[dict[str, Any]]:
    """Rewards and variances of the ways against each other."""
    variance = {name: found[1] for (stage, name), found in results.items() if stage == "predict" and len(found) == 2}
    rewards = results["predict", PADDED]
    rows = [
        compare("rewards, prudent by tokens", PADDED, results["predict", BY_TOKENS], rewards),
        compare("variance, kron, bf16", "float32", variance["prudent kron, bf16"], variance["prudent kron, float32"]),
    ]
    if not laplace_torch_is_there():
        return rows
    theirs = variance["laplace-torch kron, batch 1"]
    rows.append(compare("variance, prudent kron", "laplace-torch kron", variance["prudent kron, float32"], theirs))
    # The same posteriors, on a few pairs: not centred; laplace-torch counts the tokens of a pair's two texts once.
    few = workload.part(8, 8)
    by_name = {(way.stage, way.name): way for way in ways}
    predict = prudent_predict(model)
    for kind, rival, rows_at_once, curvature in (
        ("kron", "laplace-torch kron, batch 1", 1, 2.0),
        ("diag", "laplace-torch diag, batch 1", 1, 1.0),
        ("last_layer", "laplace-torch full last layer, batch 8", 8, 1.0),
    ):
        posterior = by_name["fit", f"prudent {kind}"].run(few, None)
        if kind == "last_layer":
            same = dataclasses.replace(posterior, feature_mean=torch.zeros_like(posterior.feature_mean))
        else:
            same = uncentred(posterior, curvature)
        theirs = predict_laplace_torch(by_name["fit", rival].run(few, None), model, few, rows=rows_at_once)[1]
        rows.append(compare(f"variance, {kind}, same posterior", rival, predict(few, same)[1], theirs))
    return rows


def peak(options: argparse.Namespace, stage: Stage, name: str) -> int:
    """Peak resident memory in MiB of one way in this process; what it needs is fitted on four pairs."""
    model = lora_model(options.model)
    workload = made_up(options.pairs, options.texts, options.tokens)
    if name == PADDED:
        padded_rewards(model, workload.pair_texts() if stage == "fit" else workload.texts)
    else:
        ways = {(way.stage, way.name): way for way in all_ways(model)}
        way = ways[stage, name]
        way.run(workload, ways["fit", way.needs].run(workload.part(4, 0), None) if way.needs else None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def memory_tables(options: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Peak memory of the ways with Kronecker factors, at a quarter of the workload and at all of it."""
    chosen = [way for way in all_ways(lora_model(options.model)) if "kron" in way.name or "ekfac" in way.name]
    ways: list[tuple[str, str]] = [("predict", PADDED), *((way.stage, way.name) for way in chosen)]
    rows = []
    for stage, name in ways:
        row: dict[str, Any] = {"stage": stage, "way": name, "rows": options.pairs if stage == "fit" else options.texts}
        for share, title in ((0.25, "mib_at_a_quarter"), (1.0, "mib_at_all")):
            part = {key: max(8, round(share * getattr(options, key))) for key in ("pairs", "texts")}
            settings = [f"--{key}={value}" for key, value in {**part, "tokens": options.tokens}.items()]
            settings += [f"--model={options.model}"] if options.model else []
            command = [sys.executable, __file__, *settings, f"--peak={stage}:{name}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row[title] = int(done.stdout.split()[-1])
        rows.append(row)
    yield f"peak resident memory, {options.tokens} tokens", rows


def time_tables(options: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The tables of each workload, as they come."""
    model = lora_model(options.model)
    ways = all_ways(model)
    workloads = [made_up(options.pairs, options.texts, options.tokens)]
    if options.data:
        workloads.append(real(options.data, options.pairs, options.texts, model))
    for workload in workloads:
        tables, results = measure(model, ways, workload, options.rounds)
        for stage, rows in tables.items():
            yield f"{workload.name}, {stage}", rows
        yield f"{workload.name}, agreement", agreement(model, ways, workload, results)


def show(rows: list[dict[str, Any]]) -> None:
    """A Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        cells = [row.get(name, "") for name in names]
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of another encoder; by default the packaged MiniLM")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128, help="of the texts that are made up")
    parser.add_argument("--data", help="preferences of mixed length, in any form that prudent loads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="peak memory instead of times")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        stage, _, name = options.peak.partition(":")
        print(peak(options, stage, name))
        return
    if not laplace_torch_is_there():
        print(HOW_TO_INSTALL, file=sys.stderr)
    found: dict[str, Any] = {"threads": options.threads}
    for title, rows in memory_tables(options) if options.memory else time_tables(options):
        found[title] = rows
        if not options.json:
            print(f"{title}\n")
            show(rows)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
