"""The exact joint posterior of a few candidates to each prompt."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prudent.errors import ModelError, UnsupportedError
from prudent.models import Message, RewardModel, as_messages, as_response
from prudent.posteriors._ensemble import EnsembleScorer
from prudent.posteriors._load import load_scorer
from prudent.posteriors._protocol import Posterior
from prudent.posteriors._scorer import ModelScorer, Scorer, TokenizedTexts
from prudent.rewards import GaussianRewards, MemberRewards

__all__ = ["joint_rewards"]

_MAX_RESPONSES = 64
_MAX_TEXTS = 4096
_COLUMNS_AT_ONCE = 65_536


def joint_rewards(
    model: str | Path | RewardModel | EnsembleScorer,
    prompts: Sequence[str | Sequence[Message]],
    responses: Sequence[str | Sequence[Message]],
    *,
    posterior: Posterior | None = None,
    max_length: int | None = None,
    dtype: torch.dtype | str | None = None,
) -> GaussianRewards | MemberRewards:
    """Rewards of up to 64 responses to each prompt, with all their covariances exact.

    `score` stores factors of 256 columns, which for a posterior over many weights are random projections, right on
    average. Here the exact factor `Z [n, F]` of a prompt's n responses (F may be the number of weights) becomes one of
    n columns with the same `Z Z^T`: the eigenvectors of that matrix, scaled. Contrasts, joint draws and the probability
    of being best are then exact but for rounding, and for the draws.

    Responses to different prompts are taken to be independent: their covariances are not computed. A Bradley-Terry
    reward is known up to a constant per prompt, so nothing is to be compared across prompts.

    Args:
        model: a loaded model or ensemble, a folder, or a hub name.
        prompts: N prompts, texts or messages; equal ones are one prompt.
        responses: N responses; equal ones to a prompt have one reward.
        posterior: instead of the one beside the model; needed for a loaded model. Any kind that knows variances.
        max_length: tokens a text may have, for a model that is loaded here.
        dtype: of the weights while reading, by default float32 on CPU and the checkpoint's own elsewhere; `bfloat16`
            halves the time or more, at about half a percent of a variance.

    Returns:
        N rewards, float64; `group` numbers prompts as they first come, `text_id` equal responses. The factor is
        `[N, K]` with a column for each different text, and its `basis_id` is that of these texts alone. Of an ensemble,
        and of several heads, the rewards by each member, with the factor of the covariance within members where they
        have one. What is left out is noise that a kind ascribes to the labels.

    Raises:
        ValueError: as many prompts as responses are needed; a loaded model without a posterior.
        UnsupportedError: more than 64 responses to a prompt, more than 4,096 texts, or a model without a posterior.
        ModelError: the model cannot be loaded.
        PosteriorError: the posterior does not belong to the model.

    Example:
        >>> from prudent.posteriors import joint_rewards
        >>> rewards = joint_rewards("rm", ["Name a fruit."] * 2, ["A pear.", "A plum."])  # doctest: +SKIP
        >>> rewards.prob_best()  # doctest: +SKIP
        tensor([0.3125, 0.6875], dtype=torch.float64)
    """
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts and {len(responses)} responses; each response needs its prompt")
    keys = [json.dumps(as_messages(prompt)) for prompt in prompts]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    group = torch.tensor([numbers[key] for key in keys], dtype=torch.int64)
    counts = torch.bincount(group, minlength=1)
    if int(counts.max()) > _MAX_RESPONSES:
        row = int((group == counts.argmax()).nonzero()[0])
        raise UnsupportedError(
            f"the prompt of row {row} has {int(counts.max())} responses, and exact joint posteriors are for at most "
            f"{_MAX_RESPONSES} to a prompt; score a larger pool with `prudent score --factor`"
        )
    texts = [(key, json.dumps(as_response(response))) for key, response in zip(keys, responses, strict=True)]
    first: dict[tuple[str, str], int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    places = {text: place for place, text in enumerate(first)}
    if len(places) > _MAX_TEXTS:
        raise UnsupportedError(f"{len(places)} texts at once; at most {_MAX_TEXTS}, so take fewer prompts in a call")
    text_id = torch.tensor([places[text] for text in texts], dtype=torch.int64)
    scorer = load_scorer(model, posterior, max_length=max_length, dtype=dtype)
    if not scorer.has_variance:
        raise UnsupportedError(
            "the model has no posterior, so its rewards have no variance; fit one with `prudent fit`"
        )
    if isinstance(scorer, ModelScorer):
        scorer.check()
    rows_read = list(first.values())
    texts_read: Any = scorer.encode([prompts[row] for row in rows_read], [responses[row] for row in rows_read])
    size = len(places)
    mean, variance = (torch.empty(size, dtype=torch.float64) for _ in range(2))
    members = torch.empty(size, scorer.num_members, dtype=torch.float64)
    factor = torch.zeros(size, size, dtype=torch.float64)
    owner = group[torch.tensor(rows_read, dtype=torch.int64)]
    order = torch.argsort(owner, stable=True)
    for chunk in _chunks_of_prompts(owner[order], _MAX_RESPONSES):
        read = order[chunk]
        found, exact = scorer.exact(texts_read.select(read.numpy()))
        for number in torch.unique(owner[read]).tolist():
            within = (owner[read] == number).nonzero().flatten()
            rows = read[within]
            # Of members the first columns are their deviations; what is left is the covariance within them.
            covariance = _inner_products(exact[within, scorer.num_members :])
            deviations = exact[within, : scorer.num_members].double()
            if not bool(covariance.isfinite().all() and (found[within].sum() + deviations.sum()).isfinite()):
                raise ModelError(
                    f"a reward to the prompt of row {rows_read[int(rows[0])]} or its gradient is not finite; load the "
                    "model in float32"
                )
            mean[rows] = found[within].double()
            members[rows] = mean[rows].unsqueeze(1) + deviations * max(scorer.num_members - 1, 0) ** 0.5
            variance[rows] = covariance.diagonal()
            factor[rows.unsqueeze(1), rows] = _root(covariance)
    common: dict[str, Any] = {"group": group, "text_id": text_id, "basis_id": _name(scorer, texts_read)}
    if not scorer.num_members:
        return GaussianRewards(mean[text_id], variance[text_id], factor=factor[text_id], **common)
    if bool((variance == 0).all()):
        return MemberRewards(members[text_id], **common)
    return MemberRewards(members[text_id], within_variance=variance[text_id], within_factor=factor[text_id], **common)


def _chunks_of_prompts(owner: Tensor, size: int) -> Iterator[slice]:
    """Consecutive rows of whole prompts, together at most `size` where one prompt is not more."""
    start = end = 0
    for count in torch.unique_consecutive(owner, return_counts=True)[1].tolist():
        if end > start and end + count - start > size:
            yield slice(start, end)
            start = end
        end += count
    if end > start:
        yield slice(start, end)


def _inner_products(factor: Tensor) -> Tensor:
    """`Z Z^T` in float64, a part of the columns at a time."""
    total = torch.zeros(len(factor), len(factor), dtype=torch.float64)
    for part in torch.split(factor, _COLUMNS_AT_ONCE, dim=1):
        wide = part.double().cpu()
        total += wide @ wide.T
    return total


def _root(covariance: Tensor) -> Tensor:
    """`[n, n]` with the covariance as the inner products of its rows."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp_min(0).sqrt()
    return root


def _name(scorer: Scorer, texts: TokenizedTexts) -> str:
    """Names the basis: columns mean something for these texts under this posterior alone."""
    return hashlib.sha256(f"{scorer.basis_id} {texts.digest()}".encode()).hexdigest()[:16]
