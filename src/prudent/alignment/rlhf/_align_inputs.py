"""What a run of `align` is made of, loaded and checked before anything takes long."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prudent.alignment._early_stop import LEAST_PROMPTS
from prudent.alignment.rlhf._align_config import AlignConfig
from prudent.alignment.rlhf._monitor import Gold
from prudent.data import DataSource, OnBad, Prompts, choose_split, load_prompts
from prudent.errors import DataError, ModelError, PrudentError
from prudent.models import render_plain
from prudent.posteriors import load_scorers
from prudent.sampling import Policy, fitting_prompts
from prudent.scoring import UtilityModel, load_utility
from prudent.utility import ONLY, Center, Piped, Utility, parse_utility

__all__ = [
    "AlignPrompts",
    "RewardModels",
    "check_reward",
    "content_digest",
    "is_saved",
    "load_gold",
    "load_policy",
    "monitor_cautions",
    "needs_references",
    "prompts_for",
    "trainer_prompt",
]

RewardModels = str | Path | Mapping[str, str | Path]
"""The model of the only reward, or models by the names in the utility."""


@dataclass(frozen=True)
class AlignPrompts:
    """The prompts of a run.

    Attributes:
        rows: of `load_prompts`, to train on.
        monitor_rows: the held-out ones.
        monitor_ids: token ids of these.
        num_skipped: rows and prompts that were left out as faulty or too long.
    """

    rows: list[dict[str, Any]]
    monitor_rows: list[dict[str, Any]]
    monitor_ids: list[list[int]]
    num_skipped: int

    @property
    def every_row(self) -> list[dict[str, Any]]:
        """Both sets."""
        return [*self.rows, *self.monitor_rows]

    def digest(self) -> str:
        """Names both sets."""
        names = [*(row["digest"] for row in self.rows), "held out", *(row["digest"] for row in self.monitor_rows)]
        return hashlib.sha256("".join(names).encode()).hexdigest()[:16]


def load_policy(policy: str | Path, config: AlignConfig) -> Policy:
    """The policy to train, in the dtype to train it in.

    Raises:
        ModelError: it cannot be loaded, has no token that ends a text, or is an adapter that is to be trained in full.
    """
    # Updates of a small rate would be lost in the rounding of half precision; frozen weights may stay in theirs.
    dtype = None if config.lora else torch.float32
    loaded = Policy.from_pretrained(policy, dtype=dtype, device="cpu" if config.use_cpu else None)
    model: Any = loaded.model
    if not loaded.eos_token_ids or loaded.tokenizer.eos_token_id is None:
        raise ModelError(
            f"{policy} has no token that ends a text (eos_token of its tokenizer), so no response would ever be whole"
        )
    if hasattr(model, "peft_config"):
        if not config.lora:
            raise ModelError(
                f"{policy} is an adapter, and training is in full: merge it into its base first, or train the adapter "
                "(lora, --lora)"
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad = ".default." in name
    return loaded


def prompts_for(
    policy: Policy,
    prompts: DataSource,
    monitor_prompts: DataSource | None,
    config: AlignConfig,
    *,
    split: str | None,
    skip_bad: bool,
) -> AlignPrompts:
    """Prompts to train on and to hold out, that leave the policy room for a completion.

    Without a source of their own, the held-out prompts are drawn from the others by the seed, at most a fifth of them.

    Raises:
        DataError: faulty or over-long prompts, too few, or a prompt that is in both sources.
        ModelError: TRL would read the prompts otherwise.
    """
    on_bad: OnBad = "skip" if skip_bad else "error"

    def read(source: DataSource, name: str | None) -> tuple[list[list[int]], list[dict[str, Any]], int]:
        found: Prompts = load_prompts(source, split=choose_split(source, name) or "train", on_bad=on_bad)
        ids, rows = fitting_prompts(
            policy, found.rows, config.max_completion_length, skip_bad=skip_bad, option="max_completion_length"
        )
        return ids, rows, found.summary.num_skipped + len(found.rows) - len(rows)

    ids, rows, skipped = read(prompts, split)
    if monitor_prompts is not None:
        held_ids, held_rows, more = read(monitor_prompts, None)
        held_ids, held_rows = held_ids[: config.num_monitor_prompts], held_rows[: config.num_monitor_prompts]
        skipped += more
        both = {row["digest"] for row in rows} & {row["digest"] for row in held_rows}
        if both:
            first = next(row for row in held_rows if row["digest"] in both)
            raise DataError(
                f"{len(both)} of the {len(held_rows)} held-out prompts are trained on too (row {first['row']} first); "
                "leave them out of one of the two"
            )
        kept = np.arange(len(rows))
    else:
        if len(rows) < 2:
            raise DataError(f"there is {len(rows)} prompt, and one must be held out; give more, or monitor_prompts")
        count = min(config.num_monitor_prompts, max(1, len(rows) // 5))
        held = np.sort(np.random.default_rng(config.seed).permutation(len(rows))[:count])
        kept = np.setdiff1d(np.arange(len(rows)), held)
        held_ids, held_rows = [ids[place] for place in held], [rows[place] for place in held]
    taken = AlignPrompts([rows[place] for place in kept], held_rows, held_ids, skipped)
    _check_read_alike(policy, taken.rows, [ids[place] for place in kept])
    return taken


def monitor_cautions(taken: AlignPrompts, config: AlignConfig, *, is_drawn: bool, has_gold: bool) -> Iterator[str]:
    """Where fewer prompts are held out than was asked for, or than advice about stopping takes.

    Args:
        taken: the prompts.
        config: the options.
        is_drawn: those that are held out were drawn from the others.
        has_gold: a run could be judged.
    """
    count, remedy = len(taken.monitor_rows), "give more prompts, or some to hold out (monitor_prompts, --monitor-data)"
    if is_drawn and count < config.num_monitor_prompts:
        yield (
            f"{count} of {len(taken.every_row)} prompts are held out, at most a fifth, and not "
            f"{config.num_monitor_prompts} (num_monitor_prompts, --num-monitor-prompts): {remedy}"
        )
    if has_gold and count < LEAST_PROMPTS:
        if config.num_monitor_prompts < LEAST_PROMPTS:
            remedy = "raise num_monitor_prompts (--num-monitor-prompts)"
        yield f"there will be no advice about stopping, which takes {LEAST_PROMPTS} held-out prompts: {remedy}"


def trainer_prompt(policy: Policy, row: Mapping[str, Any]) -> Any:
    """A prompt as TRL takes it: messages for a policy with a chat template, text for another."""
    if policy.chat_template:
        return [dict(message) for message in row["prompt"]]
    return render_plain(row["prompt"], opens_reply=True)


def check_reward(reward_model: RewardModels, config: AlignConfig) -> tuple[Utility, dict[str, Any], bool]:
    """Make sure that the reward models can do what the utility and the arm ask of them.

    Returns:
        The utility, what names the models, and whether all of these know a variance.

    Raises:
        DataError: a reward of the utility has no model, or one without the variance or the members that are needed.
        ModelError: a model cannot be loaded.
        PosteriorError: a posterior does not belong to its model.
        UtilityError: the text is not a utility.
    """
    utility = load_utility(config.worth).utility if is_saved(config) else parse_utility(config.worth)
    models = reward_model if isinstance(reward_model, Mapping) else {ONLY: reward_model}
    scorers = load_scorers(models)
    arm = config.uncertain_arm
    weighs = arm.kl_form != "constant" or arm.advantage_weight != "none"
    for name in utility.reward_names:
        scorer = scorers.get(name) or (next(iter(scorers.values())) if len(scorers) == 1 else None)
        if scorer is None:
            raise DataError(f"there is no model for the reward {name!r}; there is {', '.join(scorers)}")
        if utility.needs_members and scorer.num_members < 2:
            raise DataError(
                f"{utility} needs an ensemble, and the reward model is a single one: train several "
                "(prudent train --num-members) or fit heads"
            )
        if (name in utility.needs_variance_of or weighs) and not scorer.has_variance:
            asks = f"the arm {config.arm}" if weighs else str(utility)
            raise DataError(f"the reward model has no posterior, which {asks} needs: fit one first (prudent fit)")
    identities = {name: scorer.identity() for name, scorer in scorers.items()}
    return utility, identities, all(scorer.has_variance for scorer in scorers.values())


def is_saved(config: AlignConfig) -> bool:
    """The utility is that of a folder, and not a text."""
    return Path(config.worth).exists()


def needs_references(utility: Utility) -> bool:
    """A step compares with responses of the first policy to the same prompt."""
    return any(
        isinstance(node, Piped)
        and getattr(node.step, "needs_references", False)
        and not (isinstance(node.step, Center) and node.step.canned is not None)
        for node in utility.nodes()
    )


def load_gold(gold_model: str | Path | Gold | None, tokens_per_batch: int | None) -> tuple[Gold | None, str | None]:
    """The true reward as a function, and what names it: a digest of a model, the name of a function.

    Raises:
        PrudentError: the model cannot be loaded.
    """
    if gold_model is None:
        return None, None
    if not isinstance(gold_model, str | Path):
        named: Any = gold_model if hasattr(gold_model, "__qualname__") else type(gold_model)
        name = f"{named.__module__}.{named.__qualname__}"
        if "<lambda>" in name:
            warnings.warn(
                f"the gold model {name} has no name of its own: with another such function here, a run would pass for "
                "this one; define it with def",
                stacklevel=3,
            )
        return gold_model, name
    try:
        worth = UtilityModel(gold_model, "mean", tokens_per_batch=tokens_per_batch)
    except PrudentError as error:
        raise type(error)(f"gold model {gold_model}: {error}") from error
    identities = json.dumps([scorer.identity() for scorer in worth.scorers.values()], sort_keys=True)

    def gold(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
        return [float(value) for value in worth(prompts, responses).value]

    return gold, hashlib.sha256(identities.encode()).hexdigest()[:16]


def content_digest(place: str | Path, *patterns: str) -> str:
    """Sixteen hexadecimal digits that name a file by what it holds, or the files of a folder, wherever they lie.

    Args:
        place: file or folder.
        patterns: of the files of a folder that count.

    Raises:
        DataError: there is nothing.
    """
    given = Path(place)
    files = [given] if given.is_file() else sorted(path for pattern in patterns for path in given.rglob(pattern))
    if not files:
        raise DataError(f"there is no {given}, or nothing in it ({', '.join(patterns)})")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _check_read_alike(policy: Policy, rows: Sequence[Mapping[str, Any]], ids: Sequence[Sequence[int]]) -> None:
    """TRL renders and tokenizes by itself; it must read what the policy would be read here."""
    for row, own in list(zip(rows, ids, strict=True))[:16]:
        prompt = trainer_prompt(policy, row)
        if policy.chat_template:
            theirs = policy.tokenizer.apply_chat_template(
                [prompt], add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"][0]
        else:
            theirs = policy.tokenizer(text=[prompt])["input_ids"][0]
        if list(theirs) != list(own):
            raise ModelError(
                f"TRL reads the prompt of row {row['row']} as {len(theirs)} tokens, where {len(own)} are right: the "
                "tokenizer closes every text, or adds tokens that its chat template has too; mend its settings "
                "(add_eos_token, add_bos_token)"
            )
