"""Pools for the overoptimization experiments: candidates of the embedded world as its proxies read them.

Reading texts is nearly all of the cost, so a world's texts are tokenized once for all of its proxies, and what is kept
of a proxy are its features of the candidates and of its training pairs: every last-layer posterior is then a matter of
linear algebra. Laplace posteriors over LoRA weights keep their predictions instead. All of it is kept under
`.cache/experiments/overoptimization/`, a file a proxy and block of prompts, so that an interrupted run goes on. Beside
a proxy's model stands what it was made with; another training, or another base, is refused before anything is read.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _features import CACHE
from _references import reference_mask
from _rule_pools import world_base
from torch import Tensor

from prudent.data import World
from prudent.models import (
    EncodedTexts,
    Pooling,
    RewardModel,
    as_messages,
    atomic_file,
    render_plain,
)
from prudent.posteriors import fit, load_scorer
from prudent.training import TrainingConfig, train

FOLDER = CACHE / "overoptimization"
BASES = CACHE / "rules"
TOKENS_PER_BATCH = 4_096
NUM_REFERENCES = 16


@dataclass(frozen=True)
class Proxy:
    """One reward model of a world.

    Attributes:
        world: seed of the world.
        num_pairs: comparisons that it learned from.
        flip: probability that a label was turned round.
        seed: of its head, adapters and the order of its pairs.
        kind: `full` trains every weight, `lora` adapters and head.
    """

    world: int
    num_pairs: int
    flip: float
    seed: int = 0
    kind: str = "full"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.world}-{self.kind}-{self.num_pairs}-{self.flip}-{self.seed}"


@dataclass(frozen=True)
class Sizes:
    """How much of a world is read.

    Attributes:
        num_prompts: of a world.
        block: prompts that are read at once.
        num_candidates: of a prompt.
        num_base_texts: texts that the base model reads.
    """

    num_prompts: int = 16
    block: int = 4
    num_candidates: int = 12_500
    num_base_texts: int = 16_000

    @property
    def label(self) -> str:
        """Of files that depend on these."""
        return f"{self.block}x{self.num_candidates}-{self.num_base_texts}"


class WorldTexts:
    """The candidates of a world, a block of prompts at a time.

    Args:
        world: seed.
        sizes: how much of it.
        folder: where things are kept.
        bases: where base models are kept.
    """

    def __init__(self, world: int, sizes: Sizes, folder: Path = FOLDER, bases: Path = BASES) -> None:
        self.world = World(world)
        self.sizes = sizes
        self.folder = folder
        self.bases = bases
        self._encoded: tuple[int, EncodedTexts] | None = None

    @cached_property
    def base(self) -> Path:
        """The base model that all proxies of the world start from."""
        self.bases.mkdir(parents=True, exist_ok=True)
        return world_base(self.world, self.sizes.num_base_texts, self.bases)

    @property
    def blocks(self) -> range:
        """Numbers of the blocks."""
        return range(-(-self.sizes.num_prompts // self.sizes.block))

    def pool(self, block: int) -> pa.Table:
        """`prompt`, `response`, `gold` of each candidate, and `prompt_id` within the world."""
        place = self.folder / "pools" / f"{self.world.seed}-{self.sizes.label}-{block}.parquet"
        if not place.exists():
            # prompts and samples of a world are drawn in order, so a block does not depend on how many follow
            stop = (block + 1) * self.sizes.block
            rows = self.world.pools(stop, self.sizes.num_candidates).select(range(block * self.sizes.block, stop))
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(place) as temporary:
                pq.write_table(_flat(rows, block * self.sizes.block), temporary)
        return pq.read_table(place)

    def encoded(self, block: int, model: RewardModel) -> EncodedTexts:
        """The candidates' tokens, the same for all proxies of the world."""
        if self._encoded is None or self._encoded[0] != block:
            table = self.pool(block)
            prompts = {
                number: prompt.messages for number, prompt in enumerate(self.world.prompts(self.sizes.num_prompts))
            }
            asked: list[Any] = [prompts[number] for number in table["prompt_id"].to_pylist()]
            self._encoded = (block, model.encode(asked, table["response"].to_pylist()))
        return self._encoded[1]


def world_texts(config: Mapping[str, Any], num_prompts: int, folder: Path, bases: Path) -> Iterator[WorldTexts]:
    """The worlds of an experiment, with so many prompts of each."""
    sizes = Sizes(num_prompts, config["block"], config["num_candidates"], config["num_base_texts"])
    for world in config["worlds"]:
        for kind in {"full", "lora"} & set(config):
            # what is kept of curves is read without a look at the proxies that they are of
            for note in (folder / "models").glob(f"{world}-{kind}-*.json"):
                _compare(note, kind, made_with(TrainingConfig(**config[kind]), sizes))
        yield WorldTexts(world, sizes, folder, bases)


def joined(blocks: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """Curves `[W, S, B, L]` by name, from those of each world's blocks `[S, b, L]`."""
    return {key: torch.stack([torch.cat([one[key] for one in of], 1) for of in blocks]) for key in blocks[0][0]}


def _flat(rows: Any, first: int) -> pa.Table:
    counts = [len(row["responses"]) for row in rows]
    keys = [render_plain(as_messages(row["prompt"])) for row in rows]
    responses = [text for row in rows for text in row["responses"]]
    return pa.table(
        {
            "prompt_id": pa.array(
                torch.arange(first, first + len(counts)).repeat_interleave(torch.tensor(counts)).numpy()
            ),
            "response": responses,
            "length": pa.array([len(text) for text in responses], pa.int32()),
            "gold": [gold for row in rows for gold in row["gold"]],
            "is_reference": pa.array(reference_mask(keys, counts, NUM_REFERENCES).numpy()),
        }
    )


def made_with(config: TrainingConfig, sizes: Sizes) -> dict[str, Any]:
    """What makes a proxy besides its name: options of training other than the defaults, and the base it starts from."""
    plain = asdict(TrainingConfig())
    options = {name: value for name, value in asdict(config).items() if name != "seed" and value != plain[name]}
    found: dict[str, Any] = json.loads(json.dumps({"num_base_texts": sizes.num_base_texts, "training": options}))
    return found


def _compare(note: Path, kind: str, asked: dict[str, Any]) -> None:
    found = json.loads(note.read_text(encoding="utf-8")) if note.exists() else "settings that were not noted"
    if found != asked:
        raise ValueError(
            f"{note.with_suffix('')} was made with {found}, and asked for is {asked}; to make the proxies anew delete "
            f"{{models,features,laplace}}/*-{kind}-* and curves/* in {note.parents[1]}"
        )


def checked(proxy: Proxy, texts: WorldTexts, config: TrainingConfig) -> Path:
    """The folder of a proxy, whose settings are noted beside it if it is new, and compared if it is not."""
    place = texts.folder / "models" / proxy.name
    note, asked = place.with_name(f"{proxy.name}.json"), made_with(config, texts.sizes)
    if not (note.exists() or place.exists()):
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(note) as temporary:
            temporary.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
    _compare(note, proxy.kind, asked)
    return place


def trained(proxy: Proxy, texts: WorldTexts, config: TrainingConfig) -> Path:
    """The folder of a proxy, trained unless it is there."""
    place = checked(proxy, texts, config)
    if not (place / "training_result.json").exists():
        rows = texts.world.preferences(proxy.num_pairs, flip=proxy.flip)
        train(texts.base, rows, place, config=config, progress=False)
    return place


def features(proxy: Proxy, block: int, texts: WorldTexts, config: TrainingConfig) -> dict[str, Tensor]:
    """`pool` `[N, H]` features of a block; of the training pairs `chosen` and `rejected` `[M, H]`; `head` `[H]`."""

    def read() -> dict[str, Tensor]:
        model = RewardModel.from_pretrained(trained(proxy, texts, config), dtype=torch.bfloat16)
        rows = texts.world.preferences(proxy.num_pairs, flip=proxy.flip)
        found = {side: read_texts(model, rows["prompt"], rows[side]) for side in ("chosen", "rejected")}
        found["head"] = model.head_values()[0]
        found["pool"] = _pool_features(model, texts.encoded(block, model), "head")
        return found

    checked(proxy, texts, config)
    return kept(texts.folder / "features" / f"{proxy.name}-{texts.sizes.label}-{block}.pt", read)


def frozen_pool(block: int, texts: WorldTexts) -> Tensor:
    """`[N, H]` features of a block that nothing was trained for: averages of the base's last hidden states."""

    def read() -> dict[str, Tensor]:
        model = RewardModel.from_pretrained(texts.base, dtype=torch.bfloat16)
        return {"pool": _pool_features(model, texts.encoded(block, model), "mean")}

    place = texts.folder / "features" / f"{texts.world.seed}-frozen-{texts.sizes.label}-{block}.pt"
    return kept(place, read)["pool"]


def frozen_pairs(num_pairs: int, flip: float, texts: WorldTexts) -> dict[str, Tensor]:
    """`chosen` and `rejected` `[M, H]` of the world's first pairs, on the frozen base."""

    def read() -> dict[str, Tensor]:
        model = RewardModel.from_pretrained(texts.base, dtype=torch.bfloat16)
        rows = texts.world.preferences(num_pairs, flip=flip)
        return {side: read_texts(model, rows["prompt"], rows[side], "mean") for side in ("chosen", "rejected")}

    name = f"{texts.world.seed}-frozen-pairs-{num_pairs}-{flip}-{texts.sizes.num_base_texts}"
    place = texts.folder / "features" / f"{name}.pt"
    return kept(place, read)


def drawn_pairs(
    draw: int, num_pairs: int, flip: float, texts: WorldTexts, draws: Mapping[str, int]
) -> tuple[Tensor, Tensor]:
    """The first pairs `[M, H]`, chosen and rejected, of one draw of pairs on the frozen base.

    Args:
        draw: which one; no pair is in two.
        num_pairs: M.
        flip: probability that a label was turned round.
        texts: of the world.
        draws: how many there are, `num`, of `num_pairs` each.
    """
    sides = frozen_pairs(draws["num"] * draws["num_pairs"], flip, texts)
    start = draw * draws["num_pairs"]
    return sides["chosen"][start : start + num_pairs], sides["rejected"][start : start + num_pairs]


def laplace(proxy: Proxy, structure: Any, block: int, texts: WorldTexts, config: TrainingConfig) -> dict[str, Tensor]:
    """`mean`, `variance`, `reference_mean`, `centered_variance` `[N]` by a Laplace posterior over LoRA weights."""

    def read() -> dict[str, Tensor]:
        model = trained(proxy, texts, config)
        place = model.with_name(f"{model.name}-{structure}")
        if not place.exists():
            rows = texts.world.preferences(proxy.num_pairs, flip=proxy.flip)
            fit(model, rows, place, posterior=structure, progress=False)
        scorer: Any = load_scorer(place)
        table = texts.pool(block)
        found = scorer.predict(
            texts.encoded(block, scorer.model),
            group=torch.from_numpy(table["prompt_id"].to_numpy().copy()),
            reference_weight=torch.from_numpy(table["is_reference"].to_numpy(zero_copy_only=False).copy()).float(),
            tokens_per_batch=TOKENS_PER_BATCH,
        )
        names = ("mean", "variance", "reference_mean", "centered_variance")
        return {name: getattr(found, name) for name in names}

    checked(proxy, texts, config)
    return kept(texts.folder / "laplace" / f"{proxy.name}-{structure}-{texts.sizes.label}-{block}.pt", read)


def read_texts(
    model: RewardModel, prompts: Sequence[Any], responses: Sequence[Any], pooling: Pooling = "head"
) -> Tensor:
    """`[N, H]` features of texts."""
    encoded = model.encode(list(prompts), list(responses))
    return _pool_features(model, encoded, pooling)


def _pool_features(model: RewardModel, encoded: EncodedTexts, pooling: Pooling) -> Tensor:
    return model.features(encoded, pooling=pooling, tokens_per_batch=TOKENS_PER_BATCH)[0]


def kept_curves(name: str, block: int, texts: WorldTexts, made_with: Sequence[Any], read: Callable[[], Any]) -> Any:
    """What `read` gives of a world and block of prompts, read once.

    Args:
        name: of the proxies.
        block: number.
        texts: of the world.
        made_with: settings that decide about the curves.
        read: makes them.
    """
    digest = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:8]
    name = f"{texts.world.seed}-{name}-{texts.sizes.label}-{block}-{digest}"
    return kept(texts.folder / "curves" / f"{name}.pt", read)


def kept(place: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives, read once."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        found = read()
        with atomic_file(place) as temporary:
            torch.save(found, temporary)
    return torch.load(place, weights_only=True)
