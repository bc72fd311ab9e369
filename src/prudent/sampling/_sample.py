"""`sample_pool`: prompts in, a pool of candidates out, resumable."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from prudent.data import MESSAGES, DataSource, OnBad, choose_split, load_prompts
from prudent.errors import DataError, PrudentError
from prudent.models import progress_bar, token_budget_batches
from prudent.posteriors import load_scorer
from prudent.sampling._drawing import uniforms
from prudent.sampling._policy import Completion, Policy
from prudent.sampling._pool_file import SUFFIXES, read_pool, require_pool, write_pool
from prudent.sampling._summary import SampleSummary, summarize
from prudent.scoring import PartedOutput, score

__all__ = ["fitting_prompts", "sample_pool"]

# Batches between two saves: what a kill costs, and from among how many responses those of like length are put together.
_BATCHES_PER_PART = 2
_LABELS = ("id", "source", "subset")
_PART = pa.schema(
    [
        ("prompt_id", pa.int32()),
        ("prompt", MESSAGES),
        ("response", pa.string()),
        ("finish_reason", pa.string()),
        ("completion_tokens", pa.int32()),
    ]
)


def sample_pool(
    policy: str | Path | Policy,
    data: DataSource,
    output: str | Path,
    *,
    num_candidates: int = 16,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int = 256,
    chat_template: bool = True,
    gold_model: str | Path | None = None,
    split: str | None = None,
    num_prompts: int | None = None,
    dtype: torch.dtype | str | None = None,
    tokens_per_batch: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> SampleSummary:
    """Sample candidates for every prompt from a policy, and write them as a pool that `score` and `load_pools` read.

    One row a prompt: `prompt` (list of {role, content}), `responses` (texts), and a value a response of
    `finish_reason` (`stop`, or `length` where it was cut at `max_new_tokens`), `completion_tokens` and, with a gold
    model, `gold`; `id`, `source` and `subset` where the data have them; and `sampling`, the policy and settings.

    A run that was cut off goes on where it was when it is started again with the same settings; when finished it only
    reports. Every response is drawn by random numbers of its own, which depend on `seed`, prompt and number of the
    response alone: neither batches, nor the other prompts, nor an interruption change it, but for what rounding in
    other batches does to the policy's probabilities. A longer `max_new_tokens` or more candidates go on from what
    fewer give.

    Args:
        policy: a folder or hub name of a causal language model or of a PEFT adapter on one; or a loaded `Policy`, which
            stays in its dtype and with its template.
        data: prompts, preferences or pools: anything that `prudent.data.load_prompts` takes; equal prompts count once.
        output: a file that ends with .parquet or .jsonl. What is not finished yet is in a folder beside it,
            `<output>.partial`.
        num_candidates: n, responses to each prompt.
        temperature: of the distribution of the next token; positive. The KL of best-of-n to the policy
            (`best_of_n_kl`) is that to this distribution.
        top_p: draw from the likeliest tokens that together have this probability, in (0, 1].
        top_k: draw from so many of the likeliest tokens; 0 for all.
        max_new_tokens: tokens that a response may have.
        chat_template: False reads prompts as plain text even where the tokenizer has a chat template.
        gold_model: a reward model or ensemble by folder or hub name, whose mean becomes `gold`; higher is truer.
        split: the split of data that have several; by default the only one.
        num_prompts: take the first so many prompts only.
        dtype: of the policy's weights, by default float32 on CPU and the checkpoint's own elsewhere.
        tokens_per_batch: tokens of prompts and responses, at their longest, in a batch; by default 16,384 on CPU and
            65,536 elsewhere.
        skip_bad: leave faulty rows and prompts that are too long out instead of stopping.
        overwrite: replace a pool that is there, once the new one is whole; an unfinished run with the same settings
            is continued all the same, one with others is discarded.
        seed: of everything drawn.
        progress: show a bar.

    Returns:
        Counts.

    Raises:
        ValueError: a number is out of its range.
        DataError: there are no prompts, or faulty ones, or prompts that with `max_new_tokens` are longer than what the
            policy reads (the message names the first ones).
        ModelError: the policy or the gold model cannot be loaded, or is of another kind.
        PrudentError: the output exists and was made otherwise, or cannot be written.

    Example:
        >>> summary = sample_pool("my-policy", "prompts.jsonl", "pool.parquet", num_candidates=64)  # doctest: +SKIP
        >>> prudent.score("my-reward-model", "pool.parquet", "scored.parquet")  # doctest: +SKIP
    """
    _check_numbers(num_candidates, temperature, top_p, top_k, max_new_tokens, num_prompts, tokens_per_batch)
    path = Path(output)
    if path.suffix not in SUFFIXES:
        raise PrudentError(
            f"{path}: a pool is written as {' or '.join(SUFFIXES)}; give the output one of these endings"
        )
    if path.is_dir():
        raise PrudentError(f"{path} is a folder; give another output")
    on_bad: OnBad = "skip" if skip_bad else "error"
    loaded = load_prompts(data, split=choose_split(data, split) or "train", on_bad=on_bad)
    gold = _gold_settings(gold_model)
    if not isinstance(policy, Policy):
        policy = Policy.from_pretrained(policy, dtype=dtype, chat_template=chat_template)
    taken = loaded.rows[:num_prompts]
    encoded, rows = fitting_prompts(policy, taken, max_new_tokens, skip_bad=skip_bad)
    settings = {
        **policy.identity(),
        "chat_template": policy.chat_template,
        "prompts": hashlib.sha256("".join(row["digest"] for row in rows).encode()).hexdigest()[:16],
        "num_candidates": num_candidates,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    facts = {
        "output": str(output),
        "policy": policy.name,
        "num_skipped": loaded.summary.num_skipped + len(taken) - len(rows),
        "chat_template": policy.chat_template,
        "can_stop": bool(policy.eos_token_ids),
    }
    sampling = {"policy": policy.name, **settings, **gold}
    work = path.with_name(f"{path.name}.partial")
    if path.exists():
        if not overwrite:
            found = summarize(read_pool(path, sampling), facts)
            _remove_leftover(work, settings)
            return found
        require_pool(path)
    with _unfinished(work, settings, overwrite) as parts:
        if not parts.finished:
            draw = partial(policy.complete, temperature=temperature, top_p=top_p, top_k=top_k)
            budget = tokens_per_batch or (16_384 if policy.device.type == "cpu" else 65_536)
            for table in _drawn(draw, rows, encoded, parts, settings, budget, progress):
                parts.write(table)
            parts.finish({})
    if gold_model is not None:
        score(gold_model, work / "responses", work / "gold", overwrite=overwrite, progress=progress)
    write_pool(path, _pool_rows(rows, num_candidates, work), sampling)
    shutil.rmtree(work)
    return summarize(read_pool(path, sampling), facts)


def _check_numbers(
    num_candidates: int,
    temperature: float,
    top_p: float,
    top_k: int,
    max_new_tokens: int,
    num_prompts: int | None,
    tokens_per_batch: int | None,
) -> None:
    counts = {"num_candidates": num_candidates, "max_new_tokens": max_new_tokens}
    optional = {"num_prompts": num_prompts, "tokens_per_batch": tokens_per_batch}
    for name, value in {**counts, **{name: value for name, value in optional.items() if value is not None}}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be positive (a small one is nearly greedy)")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}; it must be 0 (for all tokens) or more")


def _gold_settings(gold_model: str | Path | None) -> dict[str, str]:
    """Names the gold model; loading it now shows what is wrong with it before hours of sampling."""
    if gold_model is None:
        return {}
    try:
        identity = json.dumps(load_scorer(gold_model).identity(), sort_keys=True)
    except PrudentError as error:
        raise type(error)(f"gold model {gold_model}: {error}") from error
    return {"gold_model": str(gold_model), "gold_weights": hashlib.sha256(identity.encode()).hexdigest()[:16]}


def fitting_prompts(
    policy: Policy,
    rows: Sequence[dict[str, Any]],
    max_new_tokens: int,
    *,
    skip_bad: bool = False,
    option: str = "max_new_tokens",
) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Prompts that leave a policy room for a response.

    Args:
        policy: what reads them.
        rows: of `load_prompts`.
        max_new_tokens: tokens that a response may have.
        skip_bad: leave prompts out that are too long, or no token at all, instead of raising.
        option: what the number of tokens is called where it is to be lowered.

    Returns:
        Token ids of each prompt, and its row.

    Raises:
        DataError: prompts are too long, or no token; or none is left. The message names the first ones.

    Example:
        >>> encoded, rows = fitting_prompts(policy, load_prompts("prompts.jsonl").rows, 256)  # doctest: +SKIP
    """
    encoded = _encoded(policy, rows)
    room = policy.context_length - max_new_tokens
    if empty := [rows[place]["row"] for place, ids in enumerate(encoded) if not ids and not skip_bad]:
        raise DataError(
            f"the prompt of row {empty[0]} is no token to the policy's tokenizer ({len(empty)} such prompts); mend "
            "them, or leave them out with skip_bad (--skip-bad)"
        )
    over = [place for place, ids in enumerate(encoded) if not 0 < len(ids) <= room]
    if over and (not skip_bad or len(over) == len(rows)):
        if len(over) == len(rows):
            shortest = min(over, key=lambda place: len(encoded[place]))
            shown, advice = f"the shortest, row {rows[shortest]['row']}, has {len(encoded[shortest])} tokens", ""
        else:
            shown = ", ".join(f"row {rows[place]['row']} ({len(encoded[place])} tokens)" for place in over[:5])
            shown += ", ..." if len(over) > 5 else ""
            advice = ", or leave those prompts out with skip_bad (--skip-bad)"
        raise DataError(
            f"{len(over)} of {len(rows)} prompts and {max_new_tokens} new tokens do not fit into the "
            f"{policy.context_length} tokens that the policy reads: {shown}; lower "
            f"{option} (--{option.replace('_', '-')}){advice}"
        )
    kept = sorted(set(range(len(rows))) - set(over))
    return [encoded[place] for place in kept], [rows[place] for place in kept]


def _encoded(policy: Policy, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    try:
        return policy.encode([row["prompt"] for row in rows])
    except DataError:
        for row in rows:
            try:
                policy.encode([row["prompt"]])
            except DataError as error:
                raise DataError(f"row {row['row']}: {error}") from error
        raise


def _unfinished(work: Path, settings: dict[str, Any], overwrite: bool) -> PartedOutput:
    """The responses drawn so far; `overwrite` discards those drawn otherwise."""
    try:
        return PartedOutput(work / "responses", settings)
    except PrudentError:
        if not overwrite:
            raise
    shutil.rmtree(work)
    return PartedOutput(work / "responses", settings)


def _remove_leftover(work: Path, settings: dict[str, Any]) -> None:
    """What a run left that was killed after its pool was whole; one that overwrites the pool otherwise is kept."""
    if (work / "responses").is_dir():
        with suppress(PrudentError):
            PartedOutput(work / "responses", settings)
            shutil.rmtree(work)


def _drawn(
    draw: Callable[..., list[Completion]],
    rows: Sequence[dict[str, Any]],
    encoded: Sequence[list[int]],
    parts: PartedOutput,
    settings: dict[str, Any],
    budget: int,
    progress: bool,
) -> Iterator[pa.Table]:
    """The parts still to be written: all responses of the first prompt, then those of the next."""
    each, longest, seed = settings["num_candidates"], settings["max_new_tokens"], settings["seed"]
    lengths = np.array([len(ids) + longest for ids in encoded])
    total = len(rows) * each
    done = sum(parts.read(number).num_rows for number in range(parts.num_parts))
    step = _BATCHES_PER_PART * max(1, budget // int(lengths.max()))
    with progress_bar("Sampling", total, unit="responses", enabled=progress) as advance:
        advance(done)
        for start in range(done, total, step):
            prompt, candidate = np.divmod(np.arange(start, min(start + step, total)), each)
            found: dict[int, Completion] = {}
            for batch in token_budget_batches(lengths[prompt], budget):
                numbers = [
                    uniforms(seed, rows[prompt[place]]["digest"], int(candidate[place]), longest) for place in batch
                ]
                texts = draw([encoded[prompt[place]] for place in batch], np.stack(numbers), advance=advance)
                found.update(zip(batch.tolist(), texts, strict=True))
            drawn = [found[place] for place in range(len(prompt))]
            yield pa.table(
                {
                    "prompt_id": prompt,
                    "prompt": [rows[place]["prompt"] for place in prompt],
                    "response": [one.text for one in drawn],
                    "finish_reason": ["stop" if one.finished else "length" for one in drawn],
                    "completion_tokens": [one.num_tokens for one in drawn],
                },
                schema=_PART,
            )


def _pool_rows(rows: Sequence[dict[str, Any]], each: int, work: Path) -> Iterator[dict[str, Any]]:
    """One row a prompt, of what was drawn and scored."""
    labels = [label for label in _LABELS if any(row[label] is not None for row in rows)]
    drawn = _stored(work / "responses", ["response", "finish_reason", "completion_tokens"])
    gold = _stored(work / "gold", ["reward_mean"]) if (work / "gold").exists() else None
    for row in rows:
        own = list(islice(drawn, each))
        yield {
            "prompt": row["prompt"],
            "responses": [one["response"] for one in own],
            "finish_reason": [one["finish_reason"] for one in own],
            "completion_tokens": [one["completion_tokens"] for one in own],
            **({} if gold is None else {"gold": [one["reward_mean"] for one in islice(gold, each)]}),
            **{label: row[label] for label in labels},
        }


def _stored(folder: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for part in sorted(folder.glob("part-*.parquet")):
        yield from pq.read_table(part, columns=columns).to_pylist()
