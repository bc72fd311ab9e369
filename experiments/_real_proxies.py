"""Proxies of real pools: frozen features, heads fitted on preferences, and what they make of every candidate.

A proxy is scored as `prudent score` would score it, from features that are read once and kept. Pools without
preference data of their own are cross-fitted: the pairs are right and wrong answers to other prompts of the pool.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _features import CACHE, frozen_features
from _references import reference_mask
from real_pools import draw_pairs, encoder_folder, flip, labels_of
from torch import Tensor

from prudent.data import load_pools, load_preferences
from prudent.metrics import pair_scores
from prudent.models import RewardModel, atomic_file
from prudent.posteriors import HeadsPosterior, LastLayerPosterior, Prediction, fit_heads
from prudent.scoring import ScoredPool, read_scored, score_columns

FOLDER = CACHE / "real_table"
OF_THE_POOL = "of the pool"
REWARD_MODEL = "reward_model"


class Pairs(NamedTuple):
    """Features of labelled pairs: `[P, H]`, `[P, H]`, probability that chosen is better `[P]`, prompt `[P]`."""

    chosen: Tensor
    rejected: Tensor
    label: Tensor
    prompt: Tensor

    def at(self, places: Tensor) -> "Pairs":
        return Pairs(*(part[places] for part in self))


@dataclass(frozen=True)
class Candidates:
    """The N candidates of a pool, before anything judged them.

    Attributes:
        columns: what a scored file says of the pool itself.
        features: `[N, H]`.
        group: `[N]` prompt of each.
        better: `[P]` place of the better response of each pair within a prompt, by gold.
        worse: `[P]` place of the other.
    """

    columns: dict[str, pa.Array]
    features: Tensor
    group: Tensor
    better: Tensor
    worse: Tensor

    @property
    def is_reference(self) -> Tensor:
        return torch.from_numpy(self.columns["is_reference"].to_numpy(zero_copy_only=False).copy())

    @property
    def pairs(self) -> Pairs:
        ones = torch.ones(len(self.better), dtype=torch.float64)
        return Pairs(self.features[self.better], self.features[self.worse], ones, self.group[self.better])


class Encoder:
    """The frozen encoder and what is read with it."""

    def __init__(self, data: Path, max_length: int) -> None:
        self.data = data
        # what is read is kept, since each look into the files of features takes seconds
        self._pools: dict[str, Candidates] = {}
        self._pairs: dict[tuple[str, int], Pairs] = {}
        self._model = RewardModel.from_pretrained(encoder_folder(), dtype=torch.bfloat16, max_length=max_length)

    def candidates(self, name: str, config: dict[str, Any]) -> Candidates:
        """A pool, its features and its pairs."""
        if name not in self._pools:
            self._pools[name] = self._read_pool(name, config["pools"][name], config["num_references"])
        return self._pools[name]

    def pairs(self, file: str, count: int, seed: int, num_drawn: int) -> Pairs:
        """The first of a draw of pairs of a file, so that features are read once for all counts."""
        if (file, seed) not in self._pairs:
            self._pairs[file, seed] = self._read_pairs(file, seed, num_drawn)
        return self._pairs[file, seed].at(torch.arange(count))

    def _read_pool(self, name: str, pool: dict[str, Any], num_references: int) -> Candidates:
        rows = load_pools(self.data / pool["file"], drop=pool.get("drop")).rows
        prompts = [row["prompt"] for row in rows for _ in row["responses"]]
        responses = [text for row in rows for text in row["responses"]]
        features = frozen_features(self._model, name, prompts, responses)
        counts = torch.tensor([len(row["responses"]) for row in rows])
        group = torch.arange(len(rows)).repeat_interleave(counts)
        gold = torch.tensor([value for row in rows for value in row["gold"]], dtype=torch.float64)
        is_reference = reference_mask([str(row["prompt"]) for row in rows], counts.tolist(), num_references)
        columns = {
            "prompt_id": pa.array(group.numpy(), pa.int32()),
            "response_id": pa.array(torch.cat([torch.arange(count) for count in counts.tolist()]).numpy(), pa.int32()),
            "prompt": pa.array([row["prompt"][-1]["content"] for row in rows]).take(pa.array(group.numpy())),
            "response": pa.array(responses),
            "length": pa.array([len(text) for text in responses], pa.int32()),
            "gold": pa.array(gold.numpy()),
            "is_reference": pa.array(is_reference.numpy()),
            "embedding": _rows(features),
        }
        if "models" in rows.column_names:
            columns["model"] = pa.array([model for row in rows for model in row["models"]])
        return Candidates(columns, features, group, *_pairs_by_gold(gold, group))

    def _read_pairs(self, file: str, seed: int, num_drawn: int) -> Pairs:
        rows = load_preferences(self.data / file).rows
        drawn = rows.select(draw_pairs(num_drawn, len(rows), seed).tolist())
        prompts = list(drawn["prompt"])
        sides = list(drawn["chosen"]) + list(drawn["rejected"])
        features = frozen_features(self._model, f"{Path(file).stem}, seed {seed}", prompts * 2, sides)
        known: dict[str, int] = {}
        prompt = torch.tensor([known.setdefault(str(one), len(known)) for one in prompts])
        return Pairs(features[: len(prompts)], features[len(prompts) :], labels_of(drawn), prompt)


def _pairs_by_gold(gold: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the better and the worse response of every pair within a prompt that differs in gold."""
    better, worse = [], []
    for prompt in group.unique():
        rows = (group == prompt).nonzero().flatten()
        first, second = (gold[rows][:, None] > gold[rows][None, :]).nonzero(as_tuple=True)
        better.append(rows[first])
        worse.append(rows[second])
    return torch.cat(better), torch.cat(worse)


def draw_within(pairs: Pairs, count: int, seed: int) -> Pairs:
    """At most so many pairs, as many of one prompt as of any other, as far as they go."""
    shuffled = torch.randperm(len(pairs.prompt), generator=torch.Generator().manual_seed(seed))
    prompt = pairs.prompt[shuffled]
    # the round in which each pair's prompt has its turn: its place among the pairs of that prompt
    order = prompt.argsort(stable=True)
    starts = torch.searchsorted(prompt[order], prompt[order])
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order)) - starts
    return pairs.at(shuffled[turn.argsort(stable=True)[:count]])


def fit(pairs: Pairs, kind: str, num_members: int, seed: int) -> LastLayerPosterior | HeadsPosterior:
    """A posterior on frozen features; its prior precision is that of highest evidence."""
    if kind == "last_layer":
        return LastLayerPosterior.fit(pairs.chosen, pairs.rejected, label=pairs.label, pooling="mean")
    return fit_heads(
        pairs.chosen,
        pairs.rejected,
        label=pairs.label,
        group=pairs.prompt,
        num_members=num_members,
        architecture="mlp" if kind == "mlp" else "linear",
        pooling="mean",
        seed=seed,
    )


def rewards(prediction: Prediction) -> pa.Table:
    """The columns of rewards that `prudent score` would write."""
    values = {
        "reward_mean": prediction.mean,
        "reward_variance": prediction.variance,
        "reward_reference": prediction.reference_mean,
        "reward_centered_variance": prediction.centered_variance,
    }
    columns: dict[str, pa.Array] = {name: pa.array(value.float().numpy()) for name, value in values.items()}
    stated: dict[str, Any] = {"kind": "gaussian"}
    if prediction.members is not None:
        columns["reward_members"] = _rows(prediction.members.float())
        stated = {"kind": "members", "ddof": 1}
    return pa.table(columns).replace_schema_metadata({b"prudent": json.dumps(stated).encode()})


def _rows(values: Tensor) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().ravel()), values.shape[1])


def scored(pool: Candidates, found: pa.Table) -> ScoredPool:
    """The candidates with the rewards of a proxy."""
    columns = pool.columns | {name: found[name] for name in found.column_names}
    return ScoredPool(pa.table(columns).replace_schema_metadata(found.schema.metadata))


class Figures(NamedTuple):
    """A proxy's accuracy and log loss on pairs within prompts that it has not seen, each prompt counting alike."""

    accuracy: float
    nll: float


def predict(
    pool: Candidates, pairs: Pairs | None, proxy: dict[str, Any], kind: str, seed: int, config: dict[str, Any]
) -> Prediction:
    """Rewards of the candidates by a proxy; without pairs it is cross-fitted on those of the pool's other prompts."""

    def fitted(some: Pairs) -> LastLayerPosterior | HeadsPosterior:
        label = flip(some.label, proxy["flips"], seed)
        return fit(some._replace(label=label), kind, config["num_members"], seed)

    def judged(posterior: LastLayerPosterior | HeadsPosterior, rows: Tensor) -> Prediction:
        reference = pool.is_reference[rows].float()
        return posterior.predict_features(pool.features[rows], group=pool.group[rows], reference_weight=reference)

    if pairs is not None:
        return judged(fitted(pairs), torch.arange(len(pool.group)))
    num_prompts = int(pool.group.max()) + 1
    fold = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(seed)) % config["num_folds"]
    parts, places = [], []
    own = pool.pairs
    for number in range(config["num_folds"]):
        train = own.at((fold[own.prompt] != number).nonzero().flatten())
        rows = (fold[pool.group] == number).nonzero().flatten()
        parts.append(judged(fitted(draw_within(train, proxy["num_pairs"], seed)), rows))
        places.append(rows)
    return _joined(parts, torch.cat(places).argsort())


def _joined(parts: list[Prediction], order: Tensor) -> Prediction:
    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)[order]

    names = ("mean", "variance", "noise", "reference_mean", "centered_variance", "factor", "members")
    return Prediction(**{name: column(name) for name in names})


def figures(pool: Candidates, mean: Tensor) -> Figures:
    """How well the proxy's mean `[N]` tells the better of two responses to a prompt."""
    difference = (mean[pool.better] - mean[pool.worse]).double()
    scores = pair_scores(difference, None, torch.ones(len(difference), dtype=torch.float64))
    prompt = pool.group[pool.better]
    size = torch.bincount(prompt).double()
    weight = 1 / size[prompt] / (size > 0).sum()
    return Figures(float((weight * scores.accuracy).sum()), float((weight * scores.nll).sum()))


def reward_model(pool: Candidates, spec: dict[str, Any], data: Path) -> ScoredPool:
    """The candidates as a reward model scored them elsewhere, by the column that holds its scores."""
    output = FOLDER / f"{Path(spec['file']).stem}-{spec['score']}"
    score_columns(data / spec["file"], output, {"rm": spec["score"]}, overwrite=True)
    only = read_scored(output).reward("rm")
    return ScoredPool(only.table.append_column("embedding", pool.columns["embedding"]))


def consensus(pool: Candidates) -> Tensor:
    """No reward at all: how alike each candidate `[N]` is to all of its prompt, by the average cosine of features."""
    direction = torch.nn.functional.normalize(pool.features, dim=1)
    total = torch.zeros(int(pool.group.max()) + 1, direction.shape[1]).index_add_(0, pool.group, direction)
    return (direction * total[pool.group]).sum(1) / torch.bincount(pool.group)[pool.group]


@dataclass(frozen=True)
class Proxy:
    """A way to get a reward model for a pool: a source of pairs, and what is fitted to them, if anything is."""

    pool: str
    source: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.source}-{self.kind}" if self.kind else self.source

    def scored(self, encoder: Encoder, config: dict[str, Any]) -> list[ScoredPool]:
        """The pool as each seed of the proxy scores it."""
        pool = encoder.candidates(self.pool, config)
        if self.source == REWARD_MODEL:
            return [reward_model(pool, config["pools"][self.pool], encoder.data)]
        return [scored(pool, one) for one in self._seeds(encoder, config)]

    def _seeds(self, encoder: Encoder, config: dict[str, Any]) -> list[pa.Table]:
        """Rewards by each seed, kept once they are made."""
        spec, source = config["pools"][self.pool], config["proxies"][self.source]
        file = spec["pairs"] if source["pairs"] == "own" else config["shift"]
        made_of = [file, spec["file"], spec.get("drop"), source["num_pairs"], source["flips"], config["encoder"]]
        made_of += [config[name] for name in ("num_folds", "num_members", "num_references")]
        if file in config["pools"]:  # the pairs are those of another pool
            made_of.append([config["pools"][file].get(name) for name in ("file", "drop")])
        digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]
        tables = []
        for seed in range(config["num_seeds"]):
            place = FOLDER / f"{self.pool}-{self.source}-{self.kind}-{digest}-{seed}.parquet"
            if not place.exists():
                pool = encoder.candidates(self.pool, config)
                pairs = _pairs(encoder, file, source["num_pairs"], seed, config)
                FOLDER.mkdir(parents=True, exist_ok=True)
                with atomic_file(place) as temporary:
                    pq.write_table(rewards(predict(pool, pairs, source, self.kind, seed, config)), temporary)
            tables.append(pq.read_table(place))
        return tables


def _pairs(encoder: Encoder, file: str, count: int, seed: int, config: dict[str, Any]) -> Pairs | None:
    if file == OF_THE_POOL:
        return None
    if file in config["pools"]:
        return draw_within(encoder.candidates(file, config).pairs, count, seed)
    return encoder.pairs(file, count, seed, config["num_drawn"])


def proxies_of(pool: str, config: dict[str, Any]) -> Iterator[Proxy]:
    """The proxies that are asked for; before them the reward model that scored the pool elsewhere."""
    if "score" in config["pools"][pool]:
        yield Proxy(pool, REWARD_MODEL, "")
    for source, proxy in config["proxies"].items():
        for kind, pools in proxy["kinds"].items():
            if pools == "all" or pool in pools:
                yield Proxy(pool, source, kind)
