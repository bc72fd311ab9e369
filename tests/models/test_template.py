from typing import Any

from prudent.models import as_messages, as_response, render_plain, template_hash

USER = {"role": "user", "content": "Hello"}
ASSISTANT = {"role": "assistant", "content": "Hi"}


def test_strings_become_one_message() -> None:
    assert as_messages("Hello") == [USER]
    assert as_response("Hi") == [ASSISTANT]
    assert as_messages([USER, ASSISTANT]) == [USER, ASSISTANT]


def test_plain_rendering() -> None:
    assert render_plain([USER]) == "Hello"
    assert render_plain([USER, ASSISTANT]) == "user: Hello\nassistant: Hi"
    assert render_plain([USER, ASSISTANT, USER], opens_reply=True).endswith("user: Hello\nassistant: ")
    # A system message is no mere content: it is said whose it is.
    assert render_plain([{"role": "system", "content": "Be brief."}]) == "system: Be brief."


def test_template_hash_names_the_template(tokenizers: dict[str, Any]) -> None:
    assert template_hash(tokenizers["bpe"]) == "none"
    hashes = {template_hash(tokenizers[kind]) for kind in ("chatml", "thinking", "llama2")}
    assert len(hashes) == 3
    assert all(len(value) == 16 for value in hashes)
