"""Text in, reward out: models, heads, templates, tokenisation and batches by tokens."""

from prudent.models._batching import Batch, iterate_batches, pad_batch, token_budget_batches
from prudent.models._causal import load_causal_model
from prudent.models._encoding import EncodedTexts, TextEncoder
from prudent.models._fingerprint import weights_fingerprint
from prudent.models._head import Pooling, find_head
from prudent.models._hub import find_model_file
from prudent.models._loading import add_lora, choose_device, load_tokenizer, require_there
from prudent.models._manifest import manifest_changes, read_manifest, write_manifest
from prudent.models._progress import progress_bar, progress_within
from prudent.models._quiet import quiet_transformers
from prudent.models._reward_model import RewardModel
from prudent.models._saving import MODEL_FILES, atomic_file, atomic_folder
from prudent.models._shared import SharedLayers, load_reward_models, rewards_of_each
from prudent.models._template import (
    Message,
    as_messages,
    as_response,
    render_plain,
    template_hash,
    tokenizer_hash,
)

__all__ = [
    "MODEL_FILES",
    "Batch",
    "EncodedTexts",
    "Message",
    "Pooling",
    "RewardModel",
    "SharedLayers",
    "TextEncoder",
    "add_lora",
    "as_messages",
    "as_response",
    "atomic_file",
    "atomic_folder",
    "choose_device",
    "find_head",
    "find_model_file",
    "iterate_batches",
    "load_causal_model",
    "load_reward_models",
    "load_tokenizer",
    "manifest_changes",
    "pad_batch",
    "progress_bar",
    "progress_within",
    "quiet_transformers",
    "read_manifest",
    "render_plain",
    "require_there",
    "rewards_of_each",
    "template_hash",
    "token_budget_batches",
    "tokenizer_hash",
    "weights_fingerprint",
    "write_manifest",
]
