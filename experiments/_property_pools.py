"""Pools of the embedded world with two properties, read by its frozen base model; proxies are heads on that.

One pass over the texts serves every proxy: what differs between settings is who labelled how many pairs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _references import reference_mask
from _rule_pools import world_base
from torch import Tensor

from prudent.data import World
from prudent.models import RewardModel, atomic_file
from prudent.posteriors import LastLayerPosterior
from prudent.rewards import GaussianRewards
from prudent.utility import RewardSet

PROPERTIES = ("helpful", "tidy")


@dataclass(frozen=True)
class Pairs:
    """P pairs of responses: features `[P, H]` of each side, and by how much the first is better, `[P]` a property."""

    first: Tensor
    second: Tensor
    better: dict[str, Tensor]


@dataclass(frozen=True)
class PropertyWorld:
    """What is read of a world once.

    Attributes:
        seed: of the world.
        train: pairs to label.
        held_out: pairs of other prompts.
        features: `[N, H]` of the candidates.
        group: `[N]` number of the prompt.
        is_reference: `[N]` booleans.
        gold: `[N]` of each property.
        length: `[N]` characters.
    """

    seed: int
    train: Pairs
    held_out: Pairs
    features: Tensor
    group: Tensor
    is_reference: Tensor
    gold: dict[str, Tensor]
    length: Tensor


def read_world(seed: int, config: dict[str, Any], folder: Path, bases: Path) -> PropertyWorld:
    """A world's pairs and pools; they are kept in `folder`, its base model in `bases`."""
    names = ("num_prompts", "num_candidates", "num_references", "num_base_texts", "num_pairs", "num_held_out")
    place = folder / f"world-{seed}-{'-'.join(str(config[name]) for name in names)}.pt"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = _read(World(seed), config, bases)
        with atomic_file(place) as temporary:
            torch.save(made, temporary)
    kept = torch.load(place, weights_only=True)
    return PropertyWorld(seed, Pairs(**kept.pop("train")), Pairs(**kept.pop("held_out")), **kept)


def _read(world: World, config: dict[str, Any], bases: Path) -> dict[str, Any]:
    model = RewardModel.from_pretrained(world_base(world, config["num_base_texts"], bases))

    def read(prompts: list[Any], responses: list[Any]) -> Tensor:
        return model.features(model.encode(prompts, responses), pooling="mean", tokens_per_batch=16_384)[0]

    def pairs(count: int, split: Any) -> dict[str, Any]:
        tables = {name: world.preferences(count, flip=0, split=split, of=name) for name in PROPERTIES}
        rows = tables[PROPERTIES[0]]
        first = list(rows["chosen"])
        better = {}
        for name, table in tables.items():
            # the same two responses to the same prompts, the other way round where the label is
            signs = [1 if own == other else -1 for own, other in zip(table["chosen"], first, strict=True)]
            gaps = torch.tensor([table["gold_chosen"], table["gold_rejected"]], dtype=torch.float64)
            better[name] = (gaps[0] - gaps[1]) * torch.tensor(signs)
        prompts = list(rows["prompt"])
        return {"first": read(prompts, first), "second": read(prompts, list(rows["rejected"])), "better": better}

    pools = world.pools(config["num_prompts"], config["num_candidates"], properties=True)
    count = config["num_candidates"]
    responses = [list(own) for own in pools["responses"]]
    keys = [str(prompt) for prompt in pools["prompt"]]
    return {
        "train": pairs(config["num_pairs"], "train"),
        "held_out": pairs(config["num_held_out"], "test"),
        "features": torch.cat(
            [read([prompt] * count, own) for prompt, own in zip(pools["prompt"], responses, strict=True)]
        ),
        "group": torch.arange(len(responses)).repeat_interleave(count),
        "is_reference": reference_mask(keys, [count] * len(keys), config["num_references"]),
        "gold": {name: torch.tensor(pools[f"gold_{name}"], dtype=torch.float64).flatten() for name in PROPERTIES},
        "length": torch.tensor([float(len(text)) for own in responses for text in own]),
    }


def labels(better: Tensor, sure: float, flips: float, generator: torch.Generator) -> Tensor:
    """`[P]` whether people prefer the first: Bradley-Terry on `sure` times the gap, some labels turned round."""
    draws = torch.rand(2, len(better), generator=generator, dtype=torch.float64)
    prefers = draws[0] < torch.sigmoid(sure * better)
    return torch.where(draws[1] < flips, ~prefers, prefers).double()


def fit_proxy(world: PropertyWorld, setting: dict[str, Any], name: str, draw: int) -> LastLayerPosterior:
    """A proxy of one property, from one draw of pairs and labels."""
    generator = World(world.seed).generator(f"labels {name} {setting} {draw}")
    rows = torch.randperm(len(world.train.first), generator=generator)[: setting["pairs"]]
    label = labels(world.train.better[name][rows], setting["sure"], setting["flips"], generator)
    return LastLayerPosterior.fit(world.train.first[rows], world.train.second[rows], label=label, pooling="mean")


def score(world: PropertyWorld, proxies: dict[str, LastLayerPosterior]) -> RewardSet:
    """The candidates' rewards, with the exact variance of their contrast with the references."""
    rewards, against = {}, {}
    for name, proxy in proxies.items():
        found = proxy.predict_features(world.features, group=world.group, reference_weight=world.is_reference.float())
        rewards[name] = GaussianRewards(found.mean.double(), found.variance.double(), world.group)
        against[name] = GaussianRewards(found.mean.double(), found.centered_variance.double(), world.group)
    return RewardSet(rewards, against, world.is_reference)
