"""How a prompt and a response become one text, the same way everywhere.

A tokenizer with a chat template renders the conversation by it, as TRL does. Without one, an encoder (a tokenizer with
`cls` and `sep`) reads the pair of texts, as cross-encoders are trained; a decoder reads prompt and response one after
the other and an end-of-text token. Several turns without a template are written `role: content`, a line each.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

__all__ = ["Message", "as_messages", "as_response", "render_plain", "template_hash", "tokenizer_hash"]

Message = dict[str, str]


def as_messages(prompt: str | Sequence[Message]) -> list[Message]:
    """A prompt as messages: a string is one user message.

    Example:
        >>> as_messages("Hello")
        [{'role': 'user', 'content': 'Hello'}]
    """
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def as_response(response: str | Sequence[Message]) -> list[Message]:
    """A response as messages: a string is one assistant message.

    Example:
        >>> as_response("Hi")
        [{'role': 'assistant', 'content': 'Hi'}]
    """
    return [{"role": "assistant", "content": response}] if isinstance(response, str) else list(response)


def render_plain(messages: Sequence[Message], *, opens_reply: bool = False) -> str:
    """Messages as plain text: one message is its content; several are `role: content`, a line each.

    Args:
        messages: the conversation.
        opens_reply: end with `assistant: ` where there are several messages, so that the reply may follow.

    Example:
        >>> render_plain([{"role": "user", "content": "Hello"}])
        'Hello'
    """
    if len(messages) == 1 and messages[0]["role"] in ("user", "assistant"):
        return messages[0]["content"]
    lines = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n".join([*lines, "assistant: "] if opens_reply else lines)


def tokenizer_hash(tokenizer: Any) -> str:
    """Sixteen hexadecimal digits that name how a fast tokenizer turns text into tokens, its chat template included."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    # Whoever called the tokenizer last left these there.
    for passing in ("truncation", "padding"):
        described.pop(passing, None)
    roles = {name: tokenizer.convert_tokens_to_ids(str(token)) for name, token in _special_tokens(tokenizer)}
    # Which inputs a model takes, segment ids above all, is part of how it is to be read.
    parts = [json.dumps(part, sort_keys=True) for part in (described, roles, list(tokenizer.model_input_names))]
    parts.append(template_hash(tokenizer))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _special_tokens(tokenizer: Any) -> list[tuple[str, Any]]:
    return [(name, token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)]


def template_hash(tokenizer: Any) -> str:
    """Sixteen hexadecimal digits that name the tokenizer's chat template, or `"none"` where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return "none" if template is None else hashlib.sha256(str(template).encode()).hexdigest()[:16]
