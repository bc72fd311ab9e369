"""Real pools: is each reward model hacked, from which n on, and what would have saved the picks?

AlpacaEval answers of 55 models (gold: a judge), 100 samples of one code model (unit tests), GSM8K and QA-feedback
answers, four each (right answers, human comparisons), and eight answers to MATH problems that a real reward model
scored. Proxies are heads on a frozen sentence encoder, trained on matching preferences, on few and noisy ones, and on
HH for shift; what is run stands in `real_table/config.yaml`.

    python experiments/real_table.py --data DATA            # makes what is missing, writes tables and figures
    python experiments/real_table.py --data DATA --fast     # seconds: small slices, nothing written
    python experiments/real_table.py --figures              # the figures again from the tables

Features and rewards are kept under `.cache/experiments/`, so that an interrupted run goes on.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from _real_figures import draw_curves, draw_differences
from _real_proxies import FOLDER, Candidates, Encoder, Proxy, consensus, figures, proxies_of

from prudent.evaluation import Overoptimization, Verdict, overopt, read_overopt
from prudent.metrics import spearman_within
from prudent.scoring import ScoredPool

RESULTS = Path(__file__).with_suffix("")
SCALES = ("gold", "gold_length_adjusted")
LEFT_OUT = ("utility", "strategy", "variance", "proxy_mean")
"""Columns that the committed tables do without."""
STUDY_OPTIONS = ("utilities", "num_calibration_prompts", "num_bootstrap", "num_resamples")


def load_config(*, fast: bool) -> dict[str, Any]:
    """What to run."""
    config: dict[str, Any] = yaml.safe_load((RESULTS / "config.yaml").read_text(encoding="utf-8"))
    small = config.pop("fast")
    return config | small if fast else config


def study(proxy: Proxy, sources: list[ScoredPool], config: dict[str, Any], keep: Path | None) -> Overoptimization:
    """The lab on a proxy, from the folder that keeps it where there is one."""
    options = {name: config[name] for name in STUDY_OPTIONS} | {"n_values": config["pools"][proxy.pool]["n_values"]}
    if not sources[0].has_variance:
        options["utilities"] = ["mean"]
    place = None if keep is None else keep / f"{proxy.pool}-{proxy.name}-{digest(options, sources)}"
    if place is not None and place.exists():
        return read_overopt(place)
    found = overopt({f"{proxy.pool}/{proxy.name}": sources}, **options)
    if place is not None:
        found.write(place)
    return found


def digest(options: dict[str, Any], sources: list[ScoredPool]) -> str:
    """Names a study by its options and everything that it reads."""
    read = hashlib.sha256(json.dumps(options).encode())
    for source in sources:
        written = pa.BufferOutputStream()
        with pa.ipc.new_stream(written, source.table.schema) as stream:
            stream.write_table(source.table.combine_chunks())
        read.update(written.getvalue())
    return read.hexdigest()[:8]


def experiment(data: Path, config: dict[str, Any], *, keep: Path | None) -> dict[str, pa.Table]:
    """All tables by name."""
    encoder = Encoder(data, config["encoder"]["max_length"])
    parts: dict[str, list[pa.Table]] = {}
    for pool in config["pools"]:
        candidates = encoder.candidates(pool, config)
        alike = {"pool": pool, "proxy": "consensus", "seed": 0, **figures(candidates, consensus(candidates))._asdict()}
        parts.setdefault("pairs", []).append(pa.Table.from_pylist([alike]))
        for proxy in proxies_of(pool, config):
            sources = proxy.scored(encoder, config)
            found = study(proxy, sources, config, keep)
            own = {
                "verdicts": [
                    answer(proxy, scale, one) for scale, one in next(iter(found.studies.values())).verdicts.items()
                ],
                "pairs": [told(proxy, seed, candidates, one) for seed, one in enumerate(sources)],
            }
            tables = found.tables()
            averages = pc.is_null(tables["curves"]["seed"])
            tables["curves"] = tables["curves"].filter(averages).drop_columns(["seed"])
            tables |= {name: pa.Table.from_pylist(rows) for name, rows in own.items()}
            for name, table in tables.items():
                parts.setdefault(name, []).append(table)
            print(f"studied {pool}, {proxy.name}", flush=True)
    return {name: pa.concat_tables(several, promote_options="permissive") for name, several in parts.items()}


def answer(proxy: Proxy, scale: str, verdict: Verdict) -> dict[str, Any]:
    """Whether best-of-n by the mean is hacked, from which n on, and what would have saved it."""
    rescue = verdict.rescue
    numbers = {"drop": verdict.drop, "rescue_held_out": None if rescue is None else rescue.held_out}
    return {
        "pool": proxy.pool,
        "proxy": proxy.name,
        "scale": scale,
        "hacked": verdict.hacked,
        "peak_n": verdict.peak_n,
        "from_n": verdict.from_n,
        "p_value": verdict.p_value,
        "rescue": None if rescue is None else rescue.key,
        **{
            f"{name}{end}": None if one is None else getattr(one, end.removeprefix("_") or "value")
            for name, one in numbers.items()
            for end in ("", "_low", "_high")
        },
    }


def told(proxy: Proxy, seed: int, candidates: Candidates, source: ScoredPool) -> dict[str, Any]:
    """How good a proxy is on the pairs within prompts, and how its columns go with length there."""
    pairs = figures(candidates, source.column("reward_mean"))
    length = source.column("length")
    with_length = {
        f"{name}_with_length": float(spearman_within(source.column(f"reward_{name}"), length, source.group).nanmean())
        for name in ("mean", "variance", "centered_variance")
        if f"reward_{name}" in source.table.column_names and (name == "mean" or source.has_variance)
    }
    return {"pool": proxy.pool, "proxy": proxy.name, "seed": seed, **pairs._asdict(), **with_length}


def committed(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """What of the tables is kept: gold as given and without length, single precision; strengths at the largest n."""
    kept = {}
    for name, table in tables.items():
        if name == "strengths":
            ends = table.group_by("pool").aggregate([("n", "max")]).rename_columns(["pool", "n"])
            ends = ends.set_column(1, "n", ends["n"].cast(table.schema.field("n").type))
            table = table.filter(pc.equal(table["scale"], "gold")).join(ends, ["pool", "n"], join_type="inner")
        if "scale" in table.column_names:
            table = table.filter(pc.is_in(table["scale"], pa.array(SCALES)))
        table = table.drop_columns([one for one in LEFT_OUT if one in table.column_names])
        fields = [pa.field(one.name, pa.float32()) if pa.types.is_float64(one.type) else one for one in table.schema]
        kept["results" if name == "curves" else name] = table.cast(pa.schema(fields))
    return kept


def write(tables: dict[str, pa.Table]) -> None:
    for name, table in committed(tables).items():
        pq.write_table(table, RESULTS / f"{name}.parquet", compression="zstd")


def draw() -> None:
    """The figures, from the tables."""
    draw_curves(pq.read_table(RESULTS / "results.parquet"), RESULTS / "curves.png")
    draw_differences(pq.read_table(RESULTS / "outcomes.parquet"), RESULTS / "differences.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the real data")
    parser.add_argument("--fast", action="store_true", help="small slices, nothing written")
    parser.add_argument("--figures", action="store_true", help="only draw the figures again")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.figures:
        draw()
        return
    if options.data is None:
        parser.error("give --data")
    keep = None if options.fast else FOLDER / "studies"
    tables = experiment(options.data, load_config(fast=options.fast), keep=keep)
    if not options.fast:
        write(tables)
        draw()
    for row in tables["outcomes"].to_pylist():
        if row["scale"] == "gold":
            against = "" if row["minus_first"] is None else f"minus mean {row['minus_first']:+.3f}"
            against += f" [{row['minus_first_low']:+.3f}, {row['minus_first_high']:+.3f}]" if against else ""
            print(f"{row['pool']:12} {row['proxy']:20} {row['curve']:42} peak n {row['peak_n']:3} {against}")


if __name__ == "__main__":
    main()
