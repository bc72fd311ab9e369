"""Tokenizers of the usual makes, trained here: byte-level BPE of decoders, WordPiece of encoders, chat templates."""

from typing import Any

import pytest

TEXT = [
    "The quick brown fox jumps over the lazy dog. Tell me about the weather today, please!",
    "Apples and pears grow slowly; rivers run quickly -- or do they? I think so: yes, maybe, no.",
    "Ein Fluß, naïve café, 東京, emoji \N{GRINNING FACE} and\nnew lines\n\nor\ttabs.",
]

# ChatML with text after the reply, and one whose generation prompt is not how a finished reply begins.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif")
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    """By name: `bpe` (no template), `bos` (adds one), `chatml`, `thinking`, `llama2`, and `wordpiece` (cls and sep)."""
    return {
        "bpe": byte_level(),
        "bos": byte_level(bos=True),
        "chatml": byte_level(template=CHATML),
        "thinking": byte_level(template=THINKING),
        "llama2": byte_level(template=LLAMA2),
        "wordpiece": word_piece(),
    }


def byte_level(*, bos: bool = False, template: str | None = None) -> Any:
    from tokenizers import ByteLevelBPETokenizer, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXT, vocab_size=320, special_tokens=special, show_progress=False)
    if bos:
        trained.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", trained.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def word_piece() -> Any:
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(TEXT, vocab_size=200, show_progress=False)
    return BertTokenizerFast(tokenizer_object=trained._tokenizer)
