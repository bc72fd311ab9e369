"""Features of prompts by themselves, from which references of prompts without responses are learned."""

from collections.abc import Callable, Sequence

from torch import Tensor

from prudent.posteriors import EnsembleScorer, ModelScorer

__all__ = ["prompt_features"]


def prompt_features(
    scorer: ModelScorer | EnsembleScorer,
    texts: Sequence[str],
    *,
    tokens_per_batch: int | None = None,
    advance: Callable[[int], None] = lambda amount: None,
) -> Tensor:
    """What the head of a model reads where the response is empty.

    Args:
        scorer: the model; of an ensemble of models the first member stands for all.
        texts: of P prompts as a scored file has them. Prompts of several messages are read as one text too, so that
            features are the same whether the messages are still known or not.
        tokens_per_batch: padded tokens of a batch.
        advance: called with the number of prompts done.

    Returns:
        [P, H] float32.
    """
    first = scorer.members[0].scorer if isinstance(scorer, EnsembleScorer) else scorer
    encoded = first.encode(texts, [""] * len(texts))
    return first.model.features(encoded, tokens_per_batch=tokens_per_batch, advance=advance)[0]
