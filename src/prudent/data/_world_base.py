"""A tokenizer and a small language model that know the world's text and nothing about rewards.

The proxy reward model of the demo starts from this model, as reward models start from pretrained ones: it has read what
the policy writes and has never seen a comparison.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prudent.data._world import World

__all__ = ["pretrain_world_base", "train_world_tokenizer"]

_SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>"}
_MARKERS = ("<user>", "<assistant>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
_HIDDEN_SIZE = 64
_NUM_LAYERS = 2
_NUM_HEADS = 4
_VOCABULARY = 1_600
_MAX_TOKENS = 256
_LEARNING_RATE = 3e-3
_WARMUP_STEPS = 50


def train_world_tokenizer(world: World, *, num_texts: int = 4_000) -> Any:
    """A byte-level BPE tokenizer trained on the policy's text: it knows every byte, and decoding gives the text back.

    Args:
        world: whose text.
        num_texts: how many prompts and responses it reads.

    Returns:
        A fast Transformers tokenizer with padding and end-of-text tokens and a chat template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Words keep their full stop or comma, so that texts stay short; within bytes nothing is lost.
    words = pre_tokenizers.Split(Regex(r"\s?\S+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[*_SPECIAL.values(), *_MARKERS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((part for text in _conversations(world, num_texts) for part in text), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=list(_MARKERS),
        chat_template=_CHAT_TEMPLATE,
        model_max_length=_MAX_TOKENS,
        clean_up_tokenization_spaces=False,
        **_SPECIAL,
    )


def pretrain_world_base(
    world: World,
    folder: str | Path,
    *,
    num_texts: int = 16_000,
    num_epochs: int = 2,
    tokens_per_batch: int = 2_048,
    advance: Callable[[int], None] = lambda amount: None,
) -> float:
    """Train a small Llama-type language model on the policy's text and save it with its tokenizer.

    The text is drawn at temperature 1 for the prompts of the split `base`.

    Args:
        world: whose text.
        folder: to save to, as Transformers does.
        num_texts: texts it reads.
        num_epochs: times it reads them.
        tokens_per_batch: padded tokens of an optimizer step.
        advance: called with the number of texts done.

    Returns:
        Mean loss of the last tenth of the steps, in nats a token.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_world_tokenizer(world)
    rows = [
        tokenizer(f"<user>{prompt}<assistant>{response}<eos>")["input_ids"]
        for prompt, response in _conversations(world, num_texts)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=_HIDDEN_SIZE,
                intermediate_size=2 * _HIDDEN_SIZE,
                num_hidden_layers=_NUM_LAYERS,
                num_attention_heads=_NUM_HEADS,
                max_position_embeddings=_MAX_TOKENS,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            )
        )
    losses = _train(model, rows, num_epochs, tokens_per_batch, world.generator("order of the base's text"), advance)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _train(
    model: Any,
    rows: list[list[int]],
    num_epochs: int,
    tokens_per_batch: int,
    generator: torch.Generator,
    advance: Callable[[int], None],
) -> list[float]:
    epochs = [list(_batches(rows, tokens_per_batch, generator)) for _ in range(num_epochs)]
    num_steps = sum(map(len, epochs))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / num_steps)),
    )
    model.train()
    losses = []
    for batch in (batch for epoch in epochs for batch in epoch):
        inputs, targets = _tensors([rows[row] for row in batch])
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        advance(len(batch))
    model.eval()
    return losses


def _batches(rows: list[list[int]], tokens_per_batch: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Rows of like length together, the batches in random order."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    order.sort(key=lambda row: len(rows[row]))
    batches: list[list[int]] = [[]]
    for row in order:
        if batches[-1] and len(rows[row]) * (len(batches[-1]) + 1) > tokens_per_batch:
            batches.append([])
        batches[-1].append(row)
    for position in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[position]


def _tensors(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Inputs and next tokens `[b, T]`. Padding is on the right, so causal attention needs no mask."""
    inputs = torch.zeros(len(rows), max(map(len, rows)) - 1, dtype=torch.int64)
    targets = torch.full_like(inputs, -100)
    for position, row in enumerate(rows):
        inputs[position, : len(row) - 1] = torch.tensor(row[:-1])
        targets[position, : len(row) - 1] = torch.tensor(row[1:])
    return inputs, targets


def _conversations(world: World, num: int) -> Iterator[tuple[str, str]]:
    """Prompts of the split `base`, each with some responses."""
    generator = world.generator("base text")
    prompts = world.prompts(max(1, num // 40), "base")
    for position, prompt in enumerate(prompts):
        share = num // len(prompts) + (position < num % len(prompts))
        for response in world.sample(prompt, share, generator):
            yield prompt.text, response
