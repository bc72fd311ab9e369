"""Pools for offline alignment: candidates with gold, and hundreds of reward models fitted to frozen features of pairs.

A reward model is a draw of pairs and of their labels: a last-layer posterior, and an ensemble of linear heads about
the same mode. The prior precision of all of a pool's models is the median of highest evidence over the first few.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from _features import CACHE, frozen_features
from _real_proxies import Encoder, Pairs, draw_within
from _rule_pools import world_base
from real_pools import flip
from torch import Tensor

from prudent.data import World, load_preferences
from prudent.models import RewardModel
from prudent.posteriors import LastLayerPosterior, fit_heads

BASES = CACHE / "rules"
NUM_FITS_FOR_PRIOR = 5


@dataclass(frozen=True)
class Pool:
    """Candidates of B prompts.

    Attributes:
        features: `[N, H]`.
        group: `[N]` prompt of each, ascending from 0.
        gold: `[N]` float64.
        length: `[N]` characters.
    """

    features: Tensor
    group: Tensor
    gold: Tensor
    length: Tensor

    @cached_property
    def places(self) -> Tensor:
        """`[N]` place of each candidate in the flattened `[B, n]` table."""
        counts = torch.bincount(self.group)
        starts = counts.cumsum(0) - counts
        return self.group * int(counts.max()) + torch.arange(len(self.group)) - starts[self.group]

    @property
    def shape(self) -> tuple[int, int]:
        """B and n, the most candidates that a prompt has."""
        counts = torch.bincount(self.group)
        return len(counts), int(counts.max())

    def table(self, values: Tensor) -> Tensor:
        """`[..., N]` as `[..., B, n]` float32, zeros where a prompt has fewer candidates."""
        wide = torch.zeros(*values.shape[:-1], self.shape[0] * self.shape[1])
        wide[..., self.places] = values.float()
        return wide.unflatten(-1, self.shape)

    @cached_property
    def log_reference(self) -> Tensor:
        """`[B, n]` log of the policy that wrote the candidates: each alike."""
        return self.table(torch.ones(len(self.group))).log().log_softmax(-1)

    def gram(self, rows: Tensor) -> Tensor:
        """`[B, n, n]` inner products within prompts of what each candidate has `[N, K]`, over the prompt's average."""
        wide = self.table(rows.T).permute(1, 2, 0)
        mask = self.log_reference.isfinite().unsqueeze(-1)
        centered = torch.where(mask, wide - wide.sum(1, keepdim=True) / mask.sum(1, keepdim=True), 0.0)
        return centered @ centered.mT

    def white_features(self, size: int) -> Tensor:
        """`[B, n, K]` the largest K principal components within prompts, with unit covariance under the reference."""
        mean = torch.zeros(self.shape[0], self.features.shape[1]).index_add_(0, self.group, self.features)
        centered = (self.features - (mean / torch.bincount(self.group)[:, None])[self.group]).double()
        weight = 1 / torch.bincount(self.group)[self.group].double() / self.shape[0]
        values, vectors = torch.linalg.eigh(centered.T @ (centered * weight[:, None]))
        kept = values[-size:] > 1e-9 * values[-1]
        white = centered @ (vectors[:, -size:][:, kept] / values[-size:][kept].sqrt())
        return self.table(white.T).permute(1, 2, 0).contiguous()


class Judged(NamedTuple):
    """One reward model on a pool, all float32: `[N]` mean, variance, variance of the contrast with the average of the
    prompt's candidates; `[N, H]` factor of the covariance; `[N, M]` members."""

    mean: Tensor
    variance: Tensor
    contrast_variance: Tensor
    factor: Tensor
    members: Tensor


@dataclass(frozen=True)
class Stratum:
    """A pool with the reward models of its own.

    Attributes:
        pool: candidates.
        draw: the pairs of a seed that the models of a fold learn from; folds are those of `fold`.
        fold: `[N]` which model judges a candidate.
        num_members: of the ensemble.
    """

    pool: Pool
    draw: Callable[[int, int], Pairs]
    fold: Tensor
    num_members: int

    @cached_property
    def prior_precision(self) -> float:
        """Of all models."""
        fits = [LastLayerPosterior.fit(one.chosen, one.rejected, label=one.label, pooling="mean") for one in self._some]
        return median(fitted.prior_precision for fitted in fits)

    @property
    def _some(self) -> Iterator[Pairs]:
        return (self.draw(seed, 0) for seed in range(NUM_FITS_FOR_PRIOR))

    def judged(self, seed: int) -> Judged:
        """The reward model of a seed."""
        parts, places = [], []
        for fold in self.fold.unique().tolist():
            rows = (self.fold == fold).nonzero().flatten()
            parts.append(self._judged(self.draw(seed, fold), rows, seed))
            places.append(rows)
        order = torch.cat(places).argsort()
        return Judged(*(torch.cat(columns)[order] for columns in zip(*parts, strict=True)))

    def _judged(self, pairs: Pairs, rows: Tensor, seed: int) -> Judged:
        given: dict[str, Any] = {
            "label": pairs.label,
            "pooling": "mean",
            "prior_precision": self.prior_precision,
        }
        last = LastLayerPosterior.fit(pairs.chosen, pairs.rejected, **given)
        heads = fit_heads(pairs.chosen, pairs.rejected, num_members=self.num_members, seed=seed, **given)
        features, group = self.pool.features[rows], self.pool.group[rows]
        found = last.predict_features(features, group=group, reference_weight=torch.ones(len(rows)))
        members = heads.members_of(features).float()
        return Judged(found.mean, found.variance, found.centered_variance, last.exact_factor(features), members)


def strata(setting: Mapping[str, Any], config: Mapping[str, Any], data: Path | None) -> Iterator[Stratum]:
    """The pools of a setting: one a world, or the one real pool."""
    if setting["pool"] == "world":
        for world in config["world"]["seeds"]:
            yield world_stratum(world, setting, config)
    elif data is not None:
        yield real_stratum(data, setting, config)


def world_stratum(seed: int, setting: Mapping[str, Any], config: Mapping[str, Any]) -> Stratum:
    """A world on the averaged states of its untrained base; labels of pairs are drawn anew for every seed."""
    own = config["world"]
    BASES.mkdir(parents=True, exist_ok=True)
    world = World(seed)
    model = RewardModel.from_pretrained(world_base(world, own["num_base_texts"], BASES), dtype=torch.bfloat16)
    pools = world.pools(own["num_prompts"], own["num_candidates"])
    texts = [text for row in pools for text in row["responses"]]
    prompts = [row["prompt"] for row in pools for _ in row["responses"]]
    pool = Pool(
        features=frozen_features(model, f"world {seed}", prompts, texts),
        group=torch.arange(len(pools)).repeat_interleave(own["num_candidates"]),
        gold=torch.tensor([value for row in pools for value in row["gold"]], dtype=torch.float64),
        length=torch.tensor([float(len(text)) for text in texts]),
    )
    rows = world.preferences(own["num_pairs"], flip=0.0)
    sides = [
        frozen_features(model, f"pairs of world {seed}", list(rows["prompt"]), list(rows[side]))
        for side in ("chosen", "rejected")
    ]
    chance = torch.sigmoid(torch.tensor(rows["gold_chosen"]) - torch.tensor(rows["gold_rejected"])).double()

    def draw(number: int, fold: int) -> Pairs:
        generator = torch.Generator().manual_seed(number)
        some = torch.randperm(len(chance), generator=generator)[: setting["num_pairs"]]
        label = (torch.rand(len(some), generator=generator) < chance[some]).double()
        return Pairs(sides[0][some], sides[1][some], flip(label, setting["flips"], number), some)

    return Stratum(pool, draw, torch.zeros_like(pool.group), config["num_members"])


def real_stratum(data: Path, setting: Mapping[str, Any], config: Mapping[str, Any]) -> Stratum:
    """Real answers on a sentence encoder; pairs of a file, or right and wrong answers to the pool's other prompts."""
    encoder = Encoder(data, config["encoder"]["max_length"])
    found = encoder.candidates(setting["pool"], dict(config))
    pool = Pool(
        features=found.features,
        group=found.group,
        gold=torch.from_numpy(found.columns["gold"].to_numpy().copy()),
        length=torch.from_numpy(found.columns["length"].to_numpy().copy()).float(),
    )
    count, flips = setting["num_pairs"], setting["flips"]
    if setting["pairs"] == "of the pool":
        order = torch.randperm(pool.shape[0], generator=torch.Generator().manual_seed(0))
        fold = (order % config["num_folds"])[pool.group]
        own = found.pairs
        others = [own.at((fold[found.better] != one).nonzero().flatten()) for one in range(config["num_folds"])]

        def draw(number: int, fold: int) -> Pairs:
            some = draw_within(others[fold], count, number)
            return some._replace(label=flip(some.label, flips, number))

        return Stratum(pool, draw, fold, config["num_members"])
    total = len(load_preferences(data / setting["pairs"]).rows)
    everything = encoder.pairs(setting["pairs"], total, 0, total)

    def draw_any(number: int, fold: int) -> Pairs:
        generator = torch.Generator().manual_seed(number)
        some = everything.at(torch.randperm(total, generator=generator)[:count])
        return some._replace(label=flip(some.label, flips, number))

    return Stratum(pool, draw_any, torch.zeros_like(pool.group), config["num_members"])
