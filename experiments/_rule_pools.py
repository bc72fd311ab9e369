"""Pools for the comparison of risk rules: posteriors over the candidates of many prompts, with gold known.

Two sources, one form: the embedded world, where a small proxy learned from a few noisy comparisons, and AlpacaEval
answers on frozen features. On the same features each draw has a Gaussian posterior (last layer, highest evidence) and
ten bootstrapped linear heads, whose members are no Gaussian.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _features import CACHE, frozen_features
from _references import reference_mask
from real_pools import Pool, draw_pairs, encoder_folder, flip, labels_of
from torch import Tensor

from prudent.data import World, load_preferences, pretrain_world_base
from prudent.metrics import partial_out
from prudent.models import Pooling, RewardModel, atomic_file, atomic_folder
from prudent.posteriors import LastLayerPosterior, fit_heads
from prudent.rewards import GaussianRewards, MemberRewards
from prudent.training import TrainingConfig, train
from prudent.utility import RewardSet

FOLDER = CACHE / "rules"
NUM_MEMBERS = 10
MORE_MEMBERS = (30, 100)
NUM_REFERENCES = 16
PROXY = TrainingConfig(lora=False, learning_rate=3e-4, num_train_epochs=1, per_device_train_batch_size=16)
"""As in the demo."""
POSTERIORS = ("gaussian", "members")


@dataclass(frozen=True)
class WorldSizes:
    """How much of a world is made."""

    num_prompts: int = 32
    num_candidates: int = 4096
    num_pairs: int = 300
    num_base_texts: int = 16_000


@dataclass(frozen=True)
class ScoredPools:
    """The candidates of B prompts under both posteriors of one draw.

    Attributes:
        rewards: by name of the posterior, each with the same reference responses.
        more_members: by number of heads, what fits that many instead of ten.
        gold: `[N]` by name of the scale; never read by a rule.
        length: `[N]` characters.
        group: `[N]` number of the prompt.
    """

    rewards: dict[str, RewardSet]
    more_members: dict[int, Callable[[], RewardSet]]
    gold: dict[str, Tensor]
    length: Tensor
    group: Tensor


@dataclass(frozen=True)
class Features:
    """What posteriors are fitted on and read: labelled pairs, and N candidates with their reference responses."""

    chosen: Tensor
    rejected: Tensor
    label: Tensor
    prompt: Tensor
    pool: Tensor
    group: Tensor
    is_reference: Tensor

    def gaussian(self, pooling: Pooling) -> RewardSet:
        """The candidates under a last-layer posterior."""
        last = LastLayerPosterior.fit(self.chosen, self.rejected, label=self.label, pooling=pooling)
        found = last.predict_features(
            self.pool, group=self.group, reference_weight=self.is_reference.float(), with_factor=True
        )
        # against_references: the exact contrast variance, also where the stored factor is a projection
        return RewardSet(
            {"reward": GaussianRewards(found.mean, found.variance, self.group, found.factor, basis_id=last.basis_id)},
            against_references={"reward": GaussianRewards(found.mean, found.centered_variance, self.group)},
            is_reference=self.is_reference,
        )

    def members(self, pooling: Pooling, seed: int, num_members: int = NUM_MEMBERS) -> RewardSet:
        """The candidates under bootstrapped linear heads."""
        heads = fit_heads(
            self.chosen,
            self.rejected,
            label=self.label,
            group=self.prompt,
            num_members=num_members,
            pooling=pooling,
            seed=seed,
        )
        members = MemberRewards(heads.members_of(self.pool).double(), self.group, basis_id=heads.basis_id)
        return RewardSet({"reward": members}, is_reference=self.is_reference)

    def scored(self, pooling: Pooling, seed: int, gold: dict[str, Tensor], length: Tensor) -> ScoredPools:
        """Both posteriors over the candidates."""
        rewards = {"gaussian": self.gaussian(pooling), "members": self.members(pooling, seed)}
        more = {num: partial(self.members, pooling, seed, num) for num in MORE_MEMBERS}
        return ScoredPools(rewards, more, gold, length, self.group)


def _numbered(names: list[str]) -> Tensor:
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names])


def world_base(world: World, num_texts: int, folder: Path) -> Path:
    place = folder / f"base-{world.seed}-{num_texts}"
    if not place.exists():
        with atomic_folder(place) as temporary:
            assert temporary is not None
            pretrain_world_base(world, temporary, num_texts=num_texts, num_epochs=2)
    return place


def world_pools(seed: int, sizes: WorldSizes, folder: Path = FOLDER) -> ScoredPools:
    """A world's pools by its own proxy; base model, proxy and features are kept in `folder`."""
    name = f"world-{seed}-{sizes.num_prompts}x{sizes.num_candidates}-{sizes.num_pairs}-{sizes.num_base_texts}"
    place = folder / f"{name}.pt"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = _read_world(World(seed), sizes, folder)
        with atomic_file(place) as temporary:
            torch.save(made, temporary)
    kept = torch.load(place, weights_only=True)
    gold, length = kept.pop("gold"), kept.pop("length")
    features = Features(**kept)
    scales = {"gold": gold, "gold_length_out": partial_out(gold, length, features.group)}
    return features.scored("head", seed, scales, length)


def _read_world(world: World, sizes: WorldSizes, folder: Path) -> dict[str, Tensor]:
    proxy = folder / f"proxy-{world.seed}-{sizes.num_pairs}-{sizes.num_base_texts}"
    rows = world.preferences(sizes.num_pairs)
    if not (proxy / "training_result.json").exists():
        train(world_base(world, sizes.num_base_texts, folder), rows, proxy, config=PROXY, progress=False)
    model = RewardModel.from_pretrained(proxy)

    def read(prompts: list[Any], responses: list[Any]) -> Tensor:
        return model.features(model.encode(prompts, responses), pooling="head", tokens_per_batch=16_384)[0]

    pools = world.pools(sizes.num_prompts, sizes.num_candidates)
    prompts = [str(prompt) for prompt in pools["prompt"]]
    responses = [list(own) for own in pools["responses"]]
    pairs = list(rows["prompt"])
    return {
        "chosen": read(pairs, list(rows["chosen"])),
        "rejected": read(pairs, list(rows["rejected"])),
        "label": torch.ones(len(pairs), dtype=torch.float64),
        "prompt": _numbered([str(prompt) for prompt in pairs]),
        "pool": torch.cat(
            [read([prompt] * len(own), own) for prompt, own in zip(pools["prompt"], responses, strict=True)]
        ),
        "group": torch.arange(len(responses)).repeat_interleave(sizes.num_candidates),
        "is_reference": reference_mask(prompts, [len(own) for own in responses], NUM_REFERENCES),
        "gold": torch.tensor([gold for own in pools["gold"] for gold in own], dtype=torch.float64),
        "length": torch.tensor([float(len(text)) for own in responses for text in own], dtype=torch.float64),
    }


AE_SETTINGS = {"alpacaeval, 1,000 pairs": (1000, 0.0), "alpacaeval, 300 pairs, 25% flips": (300, 0.25)}


def alpacaeval_pools(data: Path, num_seeds: int, *, fast: bool) -> Iterator[tuple[str, int, ScoredPools]]:
    """Setting, seed and pools of each draw of training pairs, as in `real_pools.py`."""
    model = RewardModel.from_pretrained(encoder_folder(), dtype=torch.bfloat16, max_length=64 if fast else None)
    pool = Pool(data / ("ci/ae_bon_12x16.jsonl" if fast else "ae_bon_test.parquet"))
    features = frozen_features(model, "pools", pool.prompts, pool.responses)
    rows = load_preferences(data / ("ci/ae_pairs_128.jsonl" if fast else "ae_pairs_train.parquet")).rows
    for setting, (count, flips) in AE_SETTINGS.items():
        for seed in range(num_seeds):
            # the smaller setting is the beginning of the larger one, so that features are read once
            drawn = rows.select(draw_pairs(1000, len(rows), seed)[:count].tolist())
            prompts = list(drawn["prompt"])
            sides = [
                frozen_features(model, f"{setting}, seed {seed}", prompts, list(drawn[side]))
                for side in ("chosen", "rejected")
            ]
            label = flip(labels_of(drawn), flips, seed)
            own = Features(
                *sides, label, _numbered(list(map(str, prompts))), features, pool.group, pool.reference.bool()
            )
            yield setting, seed, own.scored("mean", seed, pool.gold, pool.length.double())
