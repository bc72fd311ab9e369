"""How far a policy has moved: the KL divergence to the policy that training started from, over whole completions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prudent.models import token_budget_batches

__all__ = ["Reference", "plain_forward", "reference_of", "sequence_kl", "text_log_probs", "token_kl"]

Reference = Callable[[], AbstractContextManager[nn.Module]]
"""Gives, for the length of a block, the model that training started from."""

# Logits in float32 that are held at once, of each of two models where two are compared.
_ELEMENTS = 2**26


def token_kl(logits: Tensor, reference_logits: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """KL divergence of the next token's distribution, exactly and as the drawn token has it.

    Summed over the tokens of a completion, both are unbiased for the KL of whole completions when these are drawn from
    the policy; the first has each token's expectation taken exactly (Rao-Blackwell), so its variance is lower.

    Args:
        logits: [T, V] of the policy.
        reference_logits: [T, V] of the reference.
        token_ids: [T] tokens that were drawn from the policy.

    Returns:
        [T] sum over v of p(v) (log p(v) - log q(v)), in nats, and [T] log p - log q of the drawn tokens; float32.

    Example:
        >>> even, skewed = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> exact, ratio = token_kl(even, skewed, torch.tensor([0]))
        >>> round(exact.item(), 3), round(ratio.item(), 3)
        (0.12, 0.62)
    """
    ours = torch.log_softmax(logits.float(), -1)
    theirs = torch.log_softmax(reference_logits.float(), -1)
    # A token that the policy never draws adds nothing, whatever the reference gives it.
    exact = torch.where(ours > -torch.inf, ours.exp() * (ours - theirs), 0.0).sum(-1)
    chosen = token_ids[:, None]
    return exact, (ours.gather(1, chosen) - theirs.gather(1, chosen))[:, 0]


@torch.no_grad()
def sequence_kl(
    policy: nn.Module,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    tokens_per_batch: int = 16_384,
) -> tuple[Tensor, Tensor]:
    """KL divergence over N completions that were drawn from a policy.

    Args:
        policy: the causal language model they were drawn from, in evaluation mode.
        reference: what it is compared with.
        prompts: token ids of the prompt of each completion.
        completions: token ids of each, the end of text included; at least one.
        temperature: at which they were drawn; both distributions are taken at it.
        tokens_per_batch: padded tokens of a batch.

    Returns:
        [N] sums over tokens of the exact KL of each token, and [N] log-ratios of the completions, in nats, float64.

    Example:
        >>> exact, log_ratio = sequence_kl(model, nullcontext, prompts, completions)  # doctest: +SKIP
    """
    exact, ratio = torch.zeros(len(prompts), dtype=torch.float64), torch.zeros(len(prompts), dtype=torch.float64)
    lengths = np.array([len(prompt) + len(drawn) for prompt, drawn in zip(prompts, completions, strict=True)])
    for batch in token_budget_batches(lengths, _budget(policy, tokens_per_batch)):
        rows = [[*prompts[place], *completions[place]] for place in batch]
        ours = _logits(policy, rows)
        with reference() as other:
            theirs = _logits(other, rows)
        for row, place in enumerate(batch):
            start, end = len(prompts[place]), len(rows[row])
            # The logits at a token are those of the token after it.
            drawn = torch.tensor(rows[row][start:], device=ours.device)
            kl = token_kl(
                ours[row, start - 1 : end - 1] / temperature, theirs[row, start - 1 : end - 1] / temperature, drawn
            )
            exact[place], ratio[place] = (part.double().sum().cpu() for part in kl)
    return exact, ratio


@torch.no_grad()
def text_log_probs(model: nn.Module, texts: Sequence[Sequence[int]], *, tokens_per_batch: int = 16_384) -> Tensor:
    """Log-probability of each of N texts under a causal language model, but for its first token: [N] float64.

    Args:
        model: the model, in evaluation mode.
        texts: token ids.
        tokens_per_batch: padded tokens of a batch.

    Example:
        >>> text_log_probs(model, [[5, 9, 2]])  # doctest: +SKIP
        tensor([-7.2], dtype=torch.float64)
    """
    found = torch.zeros(len(texts), dtype=torch.float64)
    lengths = np.array([len(text) for text in texts])
    for batch in token_budget_batches(lengths, _budget(model, tokens_per_batch)):
        logits = _logits(model, [list(texts[place]) for place in batch])
        for row, place in enumerate(batch):
            ids = torch.tensor(texts[place], device=logits.device)
            chosen = torch.log_softmax(logits[row, : len(ids) - 1].float(), -1).gather(1, ids[1:, None])
            found[place] = chosen.double().sum().cpu()
    return found


def reference_of(model: nn.Module, kept: nn.Module | None) -> Reference:
    """The policy that training started from, wherever TRL keeps it.

    Args:
        model: the policy in training.
        kept: a model of its own that is the reference; None where it is the policy without its adapter, or with the
            copy of its adapter that TRL made.
    """
    if kept is not None:
        reference = kept.eval()
        return lambda: nullcontext(reference)

    @contextmanager
    def without_adapter() -> Iterator[nn.Module]:
        from trl.trainer.utils import use_adapter

        adapted: Any = model
        with use_adapter(adapted, adapter_name="ref" if "ref" in adapted.peft_config else None):
            yield model

    return without_adapter


@contextmanager
def plain_forward(model: nn.Module) -> Iterator[None]:
    """For a block, compute as the weights are stored: without the autocast that training wraps a model's forward in.

    Args:
        model: before or after Accelerate has prepared it.

    Example:
        >>> with plain_forward(nn.Linear(2, 2)):
        ...     torch.is_autocast_enabled("cpu")
        False
    """
    held: dict[str, Any] = model.__dict__
    wrapped = held.get("forward")
    unwrapped = held.get("_original_forward")  # where Accelerate keeps it
    if unwrapped is not None:
        held["forward"] = unwrapped
    try:
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        if unwrapped is not None:
            held["forward"] = wrapped


def _budget(model: nn.Module, tokens_per_batch: int) -> int:
    """Padded tokens of a batch whose logits can be held."""
    vocabulary = int(_config(model).get_text_config().vocab_size)
    return max(1, min(tokens_per_batch, _ELEMENTS // vocabulary))


def _logits(model: nn.Module, rows: Sequence[list[int]]) -> Tensor:
    """Logits [b, T, V] of rows padded on the right, which a causal model does not look at."""
    width = max(len(row) for row in rows)
    device = next(model.parameters()).device
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits


def _config(model: nn.Module) -> Any:
    return model.config
