"""The whole path on the embedded world: preferences, a proxy with a posterior, best-of-n, and what it is worth."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from prudent.data import ResponseFacts, World, pretrain_world_base
from prudent.errors import DataError
from prudent.evaluation._best_of_n import best_of_n_study
from prudent.evaluation._evaluate import evaluate
from prudent.evaluation._records import plain
from prudent.evaluation._study_types import BestOfNStudy
from prudent.models import atomic_file, atomic_folder, progress_bar
from prudent.posteriors import fit
from prudent.scoring import ScoredPool, read_scored, score, utility_for
from prudent.selection import best_of_n
from prudent.training import TrainingConfig, train

__all__ = ["DemoResult", "run_demo"]

_CONFIG = TrainingConfig(
    lora=False,
    learning_rate=3e-4,
    num_train_epochs=1,
    per_device_train_batch_size=16,
)
_NUM_HELD_OUT = 1_000
_TOKENS_PER_BATCH = 16_384


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        output: the folder written.
        seconds: wall time of this call; little where most was there from an earlier one.
        study: best-of-n over the prompts of all seeds together.
        summary: what stands in `summary.json`: `seconds`; `utilities`, `baselines` and `controls`, each with one record
            for each n (`n`, `kl`, `gold`, `low`, `high`, `proxy`); `outcomes` of each (peak, share of the gain kept,
            lead over `mean`); `seeds`, the same for each seed with its stages' seconds, the proxy's held-out figures,
            and what the picks of each utility say (`picks`, means over prompts); `settings`.
    """

    output: Path
    seconds: float
    study: BestOfNStudy
    summary: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The summary, as plain JSON values."""
        return self.summary


def run_demo(
    output: str | Path = "runs/demo",
    *,
    seed: int = 0,
    num_seeds: int = 1,
    num_prompts: int = 16,
    num_candidates: int = 12_500,
    num_pairs: int = 300,
    num_base_texts: int = 16_000,
    num_std: float = 4.0,
    progress: bool = True,
) -> DemoResult:
    """Train a proxy on noisy comparisons, optimise against it by best-of-n, and look at the true reward.

    In the embedded `World` people compare pairs of responses, a quarter of their labels flipped. A small language model
    that has read the policy's text is trained on them (`prudent.training.train`), gets a last-layer posterior
    (`prudent.posteriors.fit`), scores every candidate of new prompts (`prudent.scoring.score`), and each utility
    picks (`best_of_n_study`). Called again on the same folder it goes on where it was.

    Args:
        output: folder to write: `preferences.jsonl`, `base`, `model`, `scored.parquet` and `summary.json`; with several
            seeds all but the summary in a folder `seed-S` each.
        seed: of the world and all draws; the first of several.
        num_seeds: how many worlds, at seeds `seed`, `seed + 1`, ...; curves are over the prompts of all.
        num_prompts: prompts of each world's pools.
        num_candidates: responses for each prompt, and the largest n.
        num_pairs: comparisons that the proxy learns from.
        num_base_texts: texts that the proxy's base model reads.
        num_std: of `lcb_std`, in standard deviations. The default was chosen on other worlds than those of
            small seeds: rewards of a proxy that learned from few noisy comparisons spread as little as their std.
        progress: show progress on standard error.

    Raises:
        DataError: the folder holds a base model made with other settings.
        PrudentError: the folder holds other stages of a demo with other settings.

    Example:
        >>> run_demo("runs/demo", num_seeds=5).study.curve("lcb_std(4)").outcomes["gold"].peak_n  # doctest: +SKIP
        12500
    """
    if num_seeds < 1:
        raise ValueError(f"num_seeds is {num_seeds}; at least one is needed")
    started = time.perf_counter()
    folder = Path(output)
    tables: list[pa.Table] = []
    per_seed: list[dict[str, Any]] = []
    for one in range(seed, seed + num_seeds):
        place = folder if num_seeds == 1 else folder / f"seed-{one}"
        with _one_thread():
            table, found = _run_seed(
                place, one, num_prompts, num_candidates, num_pairs, num_base_texts, num_std, progress=progress
            )
        tables.append(table)
        per_seed.append(found)
    study = best_of_n_study(_stacked(tables), utilities=_utilities(num_std), seed=seed)
    seconds = time.perf_counter() - started
    curves = {
        kind: {curve.key: curve.rows(study.n_values) for curve in study.curves if curve.kind == kind}
        for kind in ("utility", "baseline", "control")
    }
    summary = {
        "seconds": round(seconds, 1),
        "utilities": curves["utility"],
        "baselines": curves["baseline"],
        "controls": curves["control"],
        "outcomes": _outcomes(study),
        "seeds": per_seed,
        "settings": {
            "num_prompts": num_prompts,
            "num_candidates": num_candidates,
            "num_pairs": num_pairs,
            "num_base_texts": num_base_texts,
            "num_std": num_std,
            "learning_rate": _CONFIG.learning_rate,
            "num_train_epochs": _CONFIG.num_train_epochs,
        },
    }
    with atomic_file(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return DemoResult(folder, seconds, study, summary)


def _run_seed(
    folder: Path,
    seed: int,
    num_prompts: int,
    num_candidates: int,
    num_pairs: int,
    num_base_texts: int,
    num_std: float,
    *,
    progress: bool,
) -> tuple[pa.Table, dict[str, Any]]:
    """One world from preferences to scores: its scored table, and what stands in the summary about it."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(seed)
    seconds: dict[str, float] = {}
    with _timed(seconds, "base"):
        _make_base(world, folder / "base", num_base_texts, progress=progress)
    preferences = folder / "preferences.jsonl"
    with _timed(seconds, "train"):
        with atomic_file(preferences) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in world.preferences(num_pairs)))
        train(folder / "base", str(preferences), folder / "model", config=_CONFIG, progress=progress)
    with _timed(seconds, "fit"):
        fitted = fit(folder / "model", str(preferences), folder / "model", overwrite=True, progress=progress)
        held_out = world.preferences(_NUM_HELD_OUT, split="test")
        figures = evaluate(folder / "model", held_out, progress=progress).to_dict()
    with _timed(seconds, "score"):
        scored = folder / "scored.parquet"
        score(
            folder / "model",
            world.pools(num_prompts, num_candidates),
            scored,
            factor=True,
            tokens_per_batch=_TOKENS_PER_BATCH,
            progress=progress,
        )
    pool = read_scored(scored)
    with _timed(seconds, "study"):
        study = best_of_n_study(pool, utilities=_utilities(num_std), seed=seed)
    return pool.table, {
        "seed": seed,
        "stages": {name: round(value, 1) for name, value in seconds.items()},
        "prior_precision": fitted.to_dict()["prior_precision"],
        "held_out": {name: figures[name] for name in ("num_pairs", "accuracy", "map", "moderated")},
        "outcomes": _outcomes(study),
        "picks": _picks(world, num_prompts, pool, num_std),
    }


def _make_base(world: World, folder: Path, num_texts: int, *, progress: bool) -> None:
    made_from = {"seed": world.seed, "num_texts": num_texts}
    record = folder / "made_from.json"
    if folder.exists():
        if not record.exists() or json.loads(record.read_text()) != made_from:
            raise DataError(f"{folder} holds another model than this demo's; give another output folder")
        return
    with (
        atomic_folder(folder) as temporary,
        progress_bar("Reading the policy's text", 2 * num_texts, unit="texts", enabled=progress) as advance,
    ):
        assert temporary is not None  # a folder was named
        pretrain_world_base(world, temporary, num_texts=num_texts, num_epochs=2, advance=advance)
        (temporary / record.name).write_text(json.dumps(made_from) + "\n")


def _stacked(tables: list[pa.Table]) -> pa.Table:
    """The scored rows of all worlds, prompts numbered on."""
    rows, start = [], 0
    for table in tables:
        prompt = table["prompt_id"].to_numpy() + start
        rows.append(table.set_column(table.column_names.index("prompt_id"), "prompt_id", pa.array(prompt)))
        start = int(prompt.max()) + 1
    return pa.concat_tables(row.replace_schema_metadata(tables[0].schema.metadata) for row in rows)


def _outcomes(study: BestOfNStudy) -> dict[str, dict[str, Any]]:
    """What the gold curve of each utility and control does, on gold as it is."""
    return {curve.key: plain(curve.outcomes["gold"]) for curve in study.curves}


def _utilities(num_std: float) -> tuple[str, ...]:
    """What picks: the mean, and each rule on the variance of the reward and on that against reference responses."""
    rules = (f"lcb_std({num_std})", "lcb_var", "entropic")
    return ("mean", *rules, *(f"center(mean) | {rule}" for rule in rules))


def _picks(world: World, num_prompts: int, pool: ScoredPool, num_std: float) -> dict[str, dict[str, float]]:
    """What the response that each utility picks from a whole pool says: means over prompts."""
    prompts = world.prompts(num_prompts)
    responses = pool.table["response"]
    rewards = pool.reward_set()
    found: dict[str, dict[str, float]] = {}
    for text in _utilities(num_std):
        utility = utility_for(pool, text)
        generator = torch.Generator().manual_seed(world.seed)
        chosen = best_of_n(utility(rewards), pool.group, generator=generator)
        facts = [world.facts(prompts[int(pool.group[row])], responses[row].as_py()) for row in chosen.index.tolist()]
        found[utility.name] = {
            field.name: sum(getattr(fact, field.name) for fact in facts) / len(facts) for field in fields(ResponseFacts)
        }
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices of 64 columns gain nothing from a second thread, and lose much where another process wants the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
