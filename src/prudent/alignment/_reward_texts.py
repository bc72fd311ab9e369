"""Prompts and completions as trainers hand them over, and signs that they are not what the reward model reads."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from prudent.errors import DataError
from prudent.models import Message, as_messages, render_plain
from prudent.posteriors import EnsembleScorer, ModelScorer
from prudent.scoring import UtilityModel

__all__ = ["SPECIAL_TOKENS", "check_texts", "one_sided_templates", "plain_text", "stray_tokens"]

SPECIAL_TOKENS = re.compile(r"<\|[a-z_]+\|>|<\uff5c[^>]+\uff5c>|<(?:start|end)_of_turn>|\[/?INST\]|</s>|<eos>|<pad>")
"""Tokens that chat templates and tokenizers of common models put around texts, and no response says by itself."""


def plain_text(messages: str | Sequence[Message]) -> str:
    """A text or messages as plain text."""
    return render_plain(as_messages(messages))


def check_texts(prompts: Sequence[Any], completions: Sequence[Any]) -> None:
    """Refuse what is no text, such as a message of an image.

    Raises:
        DataError: an entry is neither a text nor messages of texts.
    """
    for what, entries in (("prompt", prompts), ("completion", completions)):
        for place, entry in enumerate(entries):
            is_text = isinstance(entry, str)
            if is_text or (isinstance(entry, Sequence) and entry and all(_is_message(one) for one in entry)):
                continue
            raise DataError(
                f"{what} {place} is neither a text nor messages with a role and a text: {str(entry)[:60]!r}; a reward "
                "model reads texts alone (no images, no tool calls without text)"
            )


def stray_tokens(worth: UtilityModel, prompts: Sequence[Any], said: Sequence[str]) -> Iterator[tuple[str, str]]:
    """A kind and a warning for each sort of text that holds special tokens of a template or of the policy."""
    found = next((mark for text in said if (mark := SPECIAL_TOKENS.search(text))), None)
    if found is not None:
        yield (
            "completion",
            f"completions hold special tokens such as {found[0]!r}, which the reward model reads as text: decode them "
            "with skip_special_tokens=True",
        )
    found = next((mark for one in prompts if isinstance(one, str) and (mark := SPECIAL_TOKENS.search(one))), None)
    if found is not None and _has_template(worth):
        yield (
            "prompt",
            f"prompts hold special tokens such as {found[0]!r}: they are rendered by a chat template already, and the "
            "reward model's own comes around it; give prompts as messages",
        )


def one_sided_templates(worth: UtilityModel, prompts: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """A kind and a warning where policy and reward model read the prompts in different forms."""
    is_chat = any(not isinstance(prompt, str) for prompt in prompts)
    if is_chat and not _has_template(worth):
        yield (
            "template",
            "prompts are conversations, and the reward model's tokenizer has no chat template: it reads them as plain "
            "text, which is right if it was trained so",
        )
    if not is_chat and _has_template(worth):
        yield (
            "template",
            "prompts are plain texts, which the policy goes on from, and the reward model's tokenizer has a chat "
            "template: it reads each as a user's message, which is right if it was trained so; a chat policy needs "
            "prompts as messages",
        )


def _is_message(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("role"), str) and isinstance(entry.get("content"), str)


def _has_template(worth: UtilityModel) -> bool:
    """Whether any of the reward models reads messages by a chat template."""
    return any(_model_has_template(scorer) for scorer in worth.scorers.values())


def _model_has_template(scorer: ModelScorer | EnsembleScorer) -> bool:
    if isinstance(scorer, EnsembleScorer):
        return any(_model_has_template(member.scorer) for member in scorer.members)
    return getattr(scorer.model.tokenizer, "chat_template", None) is not None
