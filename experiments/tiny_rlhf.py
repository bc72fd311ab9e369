"""Does care with an uncertain reward help in a real loop: a language model through TRL, on a proxy of few noisy labels?

    python experiments/tiny_rlhf.py --data DATA          # makes what is missing, writes results.parquet and curves.png
    python experiments/tiny_rlhf.py --data DATA --fast   # one seed, a few steps, in a temporary folder, writes nothing

A real pretrained language model of 260K parameters (`DATA/tiny_lm_stories260K`) goes on with beginnings of sentences.
What a sentence is worth is known (`_tiny_gold.py`). A proxy learns it from few comparisons of the model's own
sentences, a quarter of them turned round: a Bayesian head on the same model's states. `prudent.alignment.rlhf.align`
then moves the model by the proxy, an arm at a time, with the same proxy and the same random numbers, and looks at
held-out beginnings. A seed has comparisons, a proxy and random numbers of its own. Arms are compared at equal measured
KL. Settings: `tiny_rlhf/config.yaml`.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from _tiny_curves import MEASURES, at_root_kl, at_the_end, compared_rows, look_measures
from _tiny_figure import draw
from _tiny_gold import gold_reward
from numpy.typing import NDArray

from prudent.alignment import ARMS
from prudent.alignment.rlhf import AlignConfig, align
from prudent.metrics import spearman_within
from prudent.models import atomic_file, atomic_folder, load_causal_model, load_tokenizer
from prudent.posteriors import fit
from prudent.sampling import Policy
from prudent.scoring import UtilityModel

RESULTS = Path(__file__).with_suffix("")
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "experiments" / "tiny_rlhf"
SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int32()),
        ("step", pa.int32()),
        ("root_kl", pa.float64()),
        ("measure", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("num_seeds", pa.int32()),
    ]
)
Config = dict[str, Any]


@dataclass(frozen=True)
class Sentences:
    """Sentences of the first policy: `prompts`, `responses` and `gold`, one of each."""

    prompts: list[str]
    responses: list[str]
    gold: NDArray[np.float64]

    @property
    def group(self) -> torch.Tensor:
        """`[N]` number of the prompt."""
        number = {prompt: place for place, prompt in enumerate(dict.fromkeys(self.prompts))}
        return torch.tensor([number[prompt] for prompt in self.prompts])


def language_model(source: Path, folder: Path) -> Path:
    """The language model with a full stop for the end of a text, and without a chat template, which it never saw."""
    place = folder / "policy"
    if not place.exists():
        model: Any = load_causal_model(str(source), dtype=None, device=torch.device("cpu"))
        tokenizer = load_tokenizer(str(source), revision=None)
        stops = [tokenizer.convert_tokens_to_ids("."), tokenizer.bos_token_id]
        tokenizer.eos_token, tokenizer.chat_template = ".", None
        model.config.eos_token_id = model.generation_config.eos_token_id = stops
        with atomic_folder(place) as staged:
            model.save_pretrained(staged)
            tokenizer.save_pretrained(staged)
    return place


def beginnings(openings: Sequence[str], config: Config) -> list[str]:
    """Every opening with every name."""
    return [opening.format(name) for opening in openings for name in config["names"]]


def written(policy: Policy, prompts: Sequence[str], config: Config, seed: int) -> Sentences:
    """A sentence of the policy to each prompt."""
    numbers = np.random.default_rng(seed).random((len(prompts), config["align"]["max_completion_length"]))
    ids = policy.encode(list(prompts))
    texts: list[str] = []
    for start in range(0, len(ids), 256):
        part = slice(start, start + 256)
        texts += [one.text for one in policy.complete(ids[part], numbers[part])]
    return Sentences(list(prompts), texts, np.array(gold_reward(prompts, texts)))


def comparisons(policy: Policy, seed: int, config: Config) -> list[dict[str, str]]:
    """Pairs of the policy's sentences, the better one chosen, but for the share that is turned round."""
    generator = np.random.default_rng([seed, 1])
    prompts, options = beginnings(config["openings"], config), config["proxy"]
    rows: list[dict[str, str]] = []
    while len(rows) < options["num_pairs"]:
        drawn = [prompts[place] for place in generator.integers(len(prompts), size=options["num_pairs"])]
        pair = written(policy, drawn * 2, config, int(generator.integers(2**31)))
        gold, num = pair.gold, len(drawn)
        for first, second in zip(range(num), range(num, 2 * num), strict=True):
            # an empty sentence, or one of equal worth, says nothing
            told = pair.responses[first].strip() and pair.responses[second].strip() and gold[first] != gold[second]
            if told and len(rows) < options["num_pairs"]:
                wins = (gold[first] > gold[second]) != (generator.random() < options["flip"])
                best, other = (first, second) if wins else (second, first)
                rows.append(
                    {
                        "prompt": drawn[first],
                        "chosen": pair.responses[best],
                        "rejected": pair.responses[other],
                    }
                )
    return rows


def proxy(policy_folder: Path, seed: int, folder: Path, config: Config) -> Path:
    """A reward model of a seed's comparisons: the language model's last state and a Bayesian head."""
    place = folder / f"proxy-{seed}"
    if not place.exists():
        rows = comparisons(Policy.from_pretrained(policy_folder), seed, config)
        pairs = folder / f"pairs-{seed}.jsonl"
        with atomic_file(pairs) as temporary:
            Path(temporary).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        fit(
            str(policy_folder),
            str(pairs),
            place,
            posterior="last_layer",
            prior_precision=float(config["proxy"]["prior_precision"]),
            seed=seed,
            progress=False,
        )
    return place


def run(name: str, seed: int, policy_folder: Path, folder: Path, config: Config) -> pa.Table:
    """Samples of the held-out prompts along the training of an arm, by its name in the configuration, from a seed."""
    reward = proxy(policy_folder, seed, folder, config)
    place = folder / f"{name}-{seed}"
    options = AlignConfig(
        **config["align"], **{"arm": name, **config["arms"][name]}, seed=seed, use_cpu=True, report_to=()
    )
    prompts, held_out = (folder / f"{name}.jsonl" for name in ("prompts", "held_out"))
    align(
        policy_folder,
        str(prompts),
        place,
        reward_model=reward,
        gold_model=gold_reward,
        monitor_prompts=str(held_out),
        config=options,
        progress=False,
    )
    return pq.read_table(place / "samples.parquet")


def experiment(config: Config, data: Path, folder: Path) -> pa.Table:
    """All rows: curves of every run, and arms at equal KL."""
    folder.mkdir(parents=True, exist_ok=True)
    policy_folder = language_model(data / "tiny_lm_stories260K", folder)
    for name, openings in (("prompts", config["openings"]), ("held_out", config["held_out_openings"])):
        with atomic_file(folder / f"{name}.jsonl") as temporary:
            lines = [json.dumps({"prompt": prompt}) + "\n" for prompt in beginnings(openings, config)]
            Path(temporary).write_text("".join(lines), encoding="utf-8")
    held_out = beginnings(config["held_out_openings"], config) * config["num_base"]
    base = written(Policy.from_pretrained(policy_folder), held_out, config, seed=0)
    rows: list[dict[str, Any]] = []
    matched: dict[str, list[dict[str, NDArray[np.float64]]]] = {arm: [] for arm in config["arms"]}
    ends: dict[str, list[dict[str, NDArray[np.float64]]]] = {arm: [] for arm in config["arms"]}
    for seed in range(config["num_seeds"]):
        worth = UtilityModel(proxy(policy_folder, seed, folder, config), "mean")
        rewards = worth(base.prompts, base.responses).value.double()
        within = spearman_within(rewards, torch.from_numpy(base.gold), base.group).mean()
        rows.append({"table": "proxies", "seed": seed, "measure": "rank correlation with gold", "value": float(within)})
        for arm in config["arms"]:
            samples = run(arm, seed, policy_folder, folder, config)
            looks = look_measures(samples, base.prompts, base.gold, rewards.numpy())
            if arm in ARMS and "log_sigmoid" in ARMS[arm].utility:  # its samples tell the std of the log-sigmoid
                looks = [{**look, "proxy_std": float("nan")} for look in looks]
            run_of = {"table": "curves", "arm": arm, "seed": seed}
            rows += [
                {
                    **run_of,
                    **{name: look[name] for name in ("step", "root_kl")},
                    "measure": measure,
                    "value": look[measure],
                }
                for look in looks
                for measure in MEASURES
            ]
            matched[arm].append(at_root_kl(looks, config["root_kl"]))
            ends[arm].append(at_the_end(looks))
            print(f"done: {arm}, seed {seed}", flush=True)
    rows += compared_rows(matched, config["root_kl"], num_resamples=config["num_resamples"])
    rows += compared_rows(ends, [float("nan")], num_resamples=config["num_resamples"], table="end")
    return pa.Table.from_pylist(rows, SCHEMA)


def show(table: pa.Table) -> None:
    """Arms at equal KL."""
    for row in table.to_pylist():
        if row["table"] == "proxies":
            print(f"seed {row['seed']}: {row['measure']} {row['value']:.2f}")
        elif row["table"] != "curves":
            point = "" if row["root_kl"] != row["root_kl"] else f"{row['root_kl']:.1f}"
            print(
                f"{row['table']:19} {row['arm']:12} {row['measure']:30} {point:8} {row['value']:+.3f} "
                f"[{row['low']:+.3f}, {row['high']:+.3f}] of {row['num_seeds']}"
            )


def fast(config: Config) -> Config:
    """The same with two seeds and two arms, in seconds."""
    return {
        **config,
        "openings": config["openings"][:2],
        "held_out_openings": config["held_out_openings"][:2],
        "num_seeds": 2,
        "num_base": 8,
        "proxy": {**config["proxy"], "num_pairs": 20},
        "arms": {arm: config["arms"][arm] for arm in ("mean", "lsc")},
        "align": {
            **config["align"],
            "max_steps": 2,
            "prompts_per_step": 2,
            "max_completion_length": 12,
            "num_references": 3,
            "num_monitor_completions": 2,
            "monitor_every": 1,
        },
        "root_kl": [0.05, 0.1],
        "num_resamples": 50,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the language model's")
    parser.add_argument("--fast", action="store_true", help="a few steps, nothing written")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    config = yaml.safe_load((RESULTS / "config.yaml").read_text())
    if options.fast:
        with tempfile.TemporaryDirectory() as folder:
            table = experiment(fast(config), options.data, Path(folder))
    else:
        table = experiment(config, options.data, CACHE)
        pq.write_table(table, RESULTS / "results.parquet", compression="zstd")
        draw(table, list(config["arms"]), config["root_kl"], RESULTS / "curves.png")
    show(table)


if __name__ == "__main__":
    main()
