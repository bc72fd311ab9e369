"""Fixtures that more than one folder of tests needs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# how long an example takes says more about the machine's load than about the code
settings.register_profile("prudent", deadline=None)
settings.load_profile("prudent")

WORDS = [
    "the",
    "a",
    "an",
    "apple",
    "pear",
    "plum",
    "river",
    "stone",
    "bird",
    "sings",
    "flies",
    "slowly",
    "quickly",
    "over",
    "under",
    "green",
    "red",
    "small",
    "large",
    "and",
    "or",
    "but",
    "because",
    "name",
    "fruit",
    "please",
    "tell",
    "me",
    "about",
    "weather",
    "today",
    "it",
    "is",
    "sunny",
    "rainy",
    "cold",
    "warm",
    "I",
    "think",
    "maybe",
    "perhaps",
    "yes",
    "no",
    "user",
    "assistant",
    "system",
    ":",
    ".",
    ",",
    "?",
    "!",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "house",
    "door",
    "window",
    "opens",
    "closes",
]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: PRUDENT_SHARED_DATA, or `shared/data` beside the repository."""
    given = os.environ.get("PRUDENT_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set PRUDENT_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make (once) the folder of a tiny untrained model: `tiny_models("llama")`, also bert, qwen2, gpt2, roberta.

    By default a reward model with a head drawn by seed 0; `head=False` is its base model alone.
    """
    made: dict[tuple[str, bool], Path] = {}

    def make(kind: str, *, head: bool = True) -> Path:
        if (kind, head) not in made:
            folder = tmp_path_factory.mktemp(f"{kind}-{'rm' if head else 'base'}")
            _write_tiny_model(kind, folder, head)
            made[kind, head] = folder
        return made[kind, head]

    return make


def _write_tiny_model(kind: str, folder: Path, head: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    encoder = kind in ("bert", "roberta")
    tokenizer = _tiny_byte_tokenizer() if kind == "qwen2" else _tiny_tokenizer(encoder)
    size: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if kind == "gpt2":
        size |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    else:
        size |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        size |= {"max_position_embeddings": 130 if kind == "roberta" else 128}
    if kind in ("llama", "qwen2"):
        size["num_key_value_heads"] = 2
    if not encoder:
        size |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(kind, num_labels=1, **size)
    torch.manual_seed(0)
    if head:
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = (AutoModel if encoder else AutoModelForCausalLM).from_config(config)
    # Freshly drawn weights make every text look alike; larger ones tell texts apart.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tiny_byte_tokenizer() -> Any:
    """Byte-level BPE: Transformers reads whatever stands beside a Qwen model by the rules of Qwen's own tokenizer."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [" ".join(WORDS)] * 2, vocab_size=512, special_tokens=["<pad>", "<eos>"], show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token="<pad>", eos_token="<eos>", model_max_length=128
    )


def _tiny_tokenizer(encoder: bool) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<cls>", "<sep>"] if encoder else ["<pad>", "<unk>", "<eos>"]
    vocabulary = {token: index for index, token in enumerate([*special, *WORDS, "\n"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Punctuation()]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 128}
    if not encoder:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", **names)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>",
        pair="<cls> $A <sep> $B:1 <sep>:1",
        special_tokens=[("<cls>", vocabulary["<cls>"]), ("<sep>", vocabulary["<sep>"])],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<cls>", sep_token="<sep>", **names)
