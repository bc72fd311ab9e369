"""`Policy`: a causal language model and its tokenizer; prompts in, responses out."""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prudent.models import (
    Message,
    TextEncoder,
    choose_device,
    load_causal_model,
    load_tokenizer,
    tokenizer_hash,
    weights_fingerprint,
)
from prudent.sampling._drawing import TokenDraws, warpers

__all__ = ["Completion", "Policy"]


@dataclass(frozen=True)
class Completion:
    """One response of a policy.

    Attributes:
        text: the response, without end-of-text and other special tokens.
        num_tokens: tokens that were drawn, the one that ended it included.
        finished: it ended by itself; False where it was cut at the most tokens that it might have.
        token_ids: the tokens that were drawn, the one that ended it included.
    """

    text: str
    num_tokens: int
    finished: bool
    token_ids: tuple[int, ...]


class Policy:
    """Writes responses to prompts, by any `AutoModelForCausalLM`, with or without a PEFT adapter.

    Prompts are rendered by the tokenizer's chat template where it has one, opened for the assistant's reply. Without
    one they are plain text that the policy goes on from; several turns are written `role: content`, a line each.

    Args:
        model: the language model.
        tokenizer: its fast tokenizer.
        name: what to call it; by default where it was loaded from.
        chat_template: False reads prompts as plain text even where there is a template.

    Attributes:
        model: the language model.
        tokenizer: its tokenizer.
        name: what it is called.
        chat_template: prompts are rendered by the tokenizer's template.
        context_length: tokens that prompt and response together may have.
        eos_token_ids: tokens that end a response; where there are none every response runs to its longest.

    Raises:
        ModelError: the tokenizer is not a fast one.

    Example:
        >>> policy = Policy.from_pretrained("my-policy")  # doctest: +SKIP
        >>> sample_pool(policy, "prompts.jsonl", "pool.parquet", num_candidates=64)  # doctest: +SKIP
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, name: str | None = None, chat_template: bool = True
    ) -> None:
        self.model = model.eval()
        self.name = name or str(self._config.name_or_path) or type(model).__name__
        self.chat_template = chat_template and tokenizer.chat_template is not None
        if not chat_template:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = None
        self.tokenizer = tokenizer
        stated = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        self.context_length: int = stated if stated and stated > 0 else sys.maxsize
        self._encoder = TextEncoder(tokenizer, max(8, self.context_length))
        self.eos_token_ids = self._ends()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        chat_template: bool = True,
    ) -> Self:
        """Load a policy from a hub name or a folder, of a whole model or of a PEFT adapter.

        Args:
            name_or_path: a folder or hub name.
            dtype: of the weights; by default float32 on CPU and what the checkpoint says on an accelerator.
            device: by default an accelerator where there is one.
            revision: of a hub model.
            chat_template: False reads prompts as plain text even where there is a template.

        Raises:
            ModelError: nothing loadable there, no causal language model, or weights missing or not finite.
        """
        name = str(name_or_path)
        model = load_causal_model(name, dtype=dtype, device=choose_device(device), revision=revision)
        tokenizer = load_tokenizer(name, revision=revision)
        return cls(model, tokenizer, name=name, chat_template=chat_template)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def identity(self) -> dict[str, Any]:
        """Names everything about the policy that its responses depend on, for manifests."""
        return {
            "policy_weights": weights_fingerprint(self.model.named_parameters()),
            "tokenizer": tokenizer_hash(self.tokenizer),
            "dtype": str(next(self.model.parameters()).dtype),
        }

    def encode(self, prompts: Sequence[str | Sequence[Message]]) -> list[list[int]]:
        """Token ids of prompts as the policy reads them; see `TextEncoder.encode_prompts`."""
        return self._encoder.encode_prompts(prompts)

    @torch.no_grad()
    def complete(
        self,
        prompts: Sequence[list[int]],
        numbers: NDArray[np.float64],
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> list[Completion]:
        """One response to each prompt of a batch.

        Args:
            prompts: token ids of b prompts, from `encode`; a prompt may stand there several times.
            numbers: `[b, T]` in [0, 1) by which tokens are drawn; T is the most tokens that a response may have.
            temperature: of the distribution of the next token.
            top_p: draw from the likeliest tokens that together have this probability.
            top_k: draw from so many of the likeliest tokens; 0 for all.
            advance: called with the number of responses done, b in all, while their tokens are drawn.

        Returns:
            b responses.

        Raises:
            ModelError: the logits are not finite.
        """
        from transformers import GenerationConfig, LogitsProcessorList

        rows, longest = numbers.shape
        told, step = 0, 0

        def count() -> None:
            nonlocal told, step
            step += 1
            advance(rows * step // longest - told)
            told = rows * step // longest

        pad = next((token for token in (self.tokenizer.pad_token_id, *self.eos_token_ids) if token is not None), 0)
        ids, mask = _left_padded(prompts, pad)
        draws = TokenDraws(torch.from_numpy(numbers), warpers(temperature, top_k, top_p), count)
        # What the checkpoint says of decoding, beside where to stop, is not what was asked for.
        settings = GenerationConfig(
            max_new_tokens=longest,
            do_sample=False,
            eos_token_id=list(self.eos_token_ids) or None,
            pad_token_id=pad,
            use_cache=True,
        )
        wrapped: Any = self.model
        owner = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
        stated, owner.generation_config = owner.generation_config, settings
        try:
            found = wrapped.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                logits_processor=LogitsProcessorList([draws]),
            )
        finally:
            owner.generation_config = stated
        advance(rows - told)
        return self._read(prompts, found[:, ids.shape[1] :].tolist())

    def _read(self, prompts: Sequence[list[int]], drawn: Sequence[list[int]]) -> list[Completion]:
        stops = set(self.eos_token_ids)
        ends = [next((place for place, token in enumerate(row) if token in stops), None) for row in drawn]
        cut = [row[:end] for row, end in zip(drawn, ends, strict=True)]
        texts = self._decode(cut) if self.chat_template else self._continuations(prompts, cut)
        return [
            Completion(text, len(ids), end is not None, ids)
            for text, end, ids in zip(texts, ends, map(tuple, _until(drawn, ends)), strict=True)
        ]

    def _continuations(self, prompts: Sequence[list[int]], drawn: Sequence[list[int]]) -> list[str]:
        """Texts that follow the prompts as they were written: decoders drop the space before a text's first word."""
        before = self._decode(prompts)
        whole = self._decode([[*prompt, *row] for prompt, row in zip(prompts, drawn, strict=True)])
        alone = self._decode(drawn)
        return [
            text.removeprefix(prompt) if text.startswith(prompt) else own
            for text, prompt, own in zip(whole, before, alone, strict=True)
        ]

    def _decode(self, rows: Sequence[list[int]]) -> list[str]:
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return [str(text) for text in self.tokenizer.batch_decode(rows, **options)]

    @property
    def _config(self) -> Any:
        return self.model.config

    def _ends(self) -> tuple[int, ...]:
        """What ends a response, by the checkpoint and by the tokenizer, which may know less or more."""
        model: Any = self.model
        stated = model.generation_config.eos_token_id
        found = [*(stated if isinstance(stated, list) else [stated]), self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(int(token) for token in found if token is not None))


def _until(drawn: Sequence[list[int]], ends: Sequence[int | None]) -> list[list[int]]:
    """What was drawn, up to and with the token that ended it."""
    return [row if end is None else row[: end + 1] for row, end in zip(drawn, ends, strict=True)]


def _left_padded(rows: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask `[b, T]` int64."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
